"""The original's command line: the same flags and meanings, on the engine of this package. Spec 5.4.

    resemble-enhance in_dir out_dir [--denoise_only] [--lambd 1.0] [--tau 0.5] [--solver midpoint] ...

What it does not inherit: a device that was asked for and is absent is an error, and so is a mistyped
``--run_dir``; one file that fails costs no other; outputs are complete or absent; channels are kept; and
``--parallel_mode`` never takes half an output for a whole one.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from enhance_ray.errors import EnhanceRayError
from enhance_ray.settings.options import EnhanceOptions, Solver


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 if all files were restored, 1 if some were not, 2 for wrong use."""
    parsed = _parser().parse_args(arguments)
    try:
        return _run(parsed)
    except EnhanceRayError as error:
        sys.stderr.write(f"resemble-enhance: {error}\n")
        return 2


def _run(parsed: argparse.Namespace) -> int:
    from enhance_ray import resemble
    from enhance_ray.enhancer import Enhancer
    from enhance_ray.files import Job, enhance_files

    options = EnhanceOptions(
        mode="denoise" if parsed.denoise_only else "enhance",
        nfe=parsed.nfe,
        solver=parsed.solver,
        denoise_strength=parsed.lambd,
        prior_temperature=parsed.tau,
    )
    paths = sorted(parsed.in_dir.rglob(f"*{parsed.suffix}"))
    if not paths:
        sys.stdout.write(f"no {parsed.suffix} files in {parsed.in_dir}\n")
        return 0
    jobs = [Job(str(path), str(parsed.out_dir / path.relative_to(parsed.in_dir))) for path in paths]
    if parsed.parallel_mode:
        # Several processes share the folder: in different orders they meet rarely.
        random.shuffle(jobs)
        jobs = [job for job in jobs if not Path(job.output).exists()]
    enhancer = Enhancer.load(
        parsed.run_dir or resemble.PUBLISHED, device=parsed.device, denoiser_only=parsed.denoise_only
    )
    failed = 0
    for record in enhance_files(jobs, enhancer, options, force=not parsed.parallel_mode):
        if record.status == "failed":
            failed += 1
            sys.stderr.write(f"failed: {record.input}: {record.reason}\n")
        else:
            sys.stdout.write(f"{record.output}\n")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    defaults = EnhanceOptions()
    parser = argparse.ArgumentParser(prog="resemble-enhance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("in_dir", type=Path, help="folder, searched through")
    parser.add_argument("out_dir", type=Path, help="folder for the outputs, of the same tree")
    parser.add_argument(
        "--run_dir", help="run or model folder (default: the published model, downloaded once)"
    )
    parser.add_argument("--suffix", default=".wav", help="which files, and their format (default: .wav)")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:N, mps (default: the best that is there)"
    )
    parser.add_argument("--denoise_only", action="store_true", help="the denoiser alone")
    parser.add_argument(
        "--lambd", type=float, default=defaults.denoise_strength, help="denoise strength, 0 to 1"
    )
    parser.add_argument("--tau", type=float, default=0.5, help="prior temperature, 0 to 1")
    parser.add_argument("--solver", choices=get_args(Solver), default="midpoint", help="of the flow")
    parser.add_argument("--nfe", type=int, default=64, help="evaluations of the velocity field")
    parser.add_argument(
        "--parallel_mode", action="store_true", help="any order, and skip what exists: for several processes"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
