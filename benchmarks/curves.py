"""Draw the curves of a training run, for a model's card.

python benchmarks/curves.py runs/compact enhance_ray/weights/denoiser/curves.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from enhance_ray.training.context import METRICS_NAME

PANELS = [
    ("loss", ["train/loss", "valid/loss"]),
    ("gain over the input: SI-SDR (dB)", ["valid/gain_si_sdr"]),
    ("gain over the input: PESQ-WB", ["valid/gain_pesq"]),
    ("gain over the input: ESTOI", ["valid/gain_estoi"]),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in (arguments.run / METRICS_NAME).read_text().splitlines()]
    hours = {line["step"]: line["train/hours"] for line in lines if "train/hours" in line}

    figure, panels = plt.subplots(1, len(PANELS), figsize=(3.2 * len(PANELS), 2.6), layout="constrained")
    for panel, (title, names) in zip(panels, PANELS, strict=True):
        for name in names:
            points = [(hours[line["step"]], line[name]) for line in lines if name in line]
            x, y = np.array(points).T
            panel.plot(x, y, linewidth=1, marker="." if len(x) < 30 else None, label=name.partition("/")[0])
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("hours of audio seen", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(arguments.picture, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
