"""What an hour on a GPU is for, in parts that resume: train denoiser and enhancer, then measure their speed.

    python benchmarks/gpu_hour.py runs/gpu --data corpus             # again and again, until all is done
    python benchmarks/gpu_hour.py /tmp/rehearsal --toy --device cpu  # all of it at toy size, in some minutes

A call works for at most --minutes and ends with status 0 when everything is done, 3 when there is more to do,
and 1 when a part failed, whose log it names. A part that was stopped goes on from its newest checkpoint; one
that is done leaves NAME.done in the folder and is not run again. The parts, in order:

    denoiser   configs/compact/train_denoiser.yaml, from the packaged weights
    enhancer   configs/compact/train_flow.yaml, from the packaged weights with that denoiser
    distil     configs/compact/train_distil.yaml, from that enhancer
    speed      benchmarks/speed.py at the original's sizes
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MORE = 3
"""Status of a call after which there is more to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One command that may be stopped and run again."""

    name: str
    command: tuple[str, ...]


def plan(work: Path, data: str, device: str, *, toy: bool) -> list[Part]:
    """The parts, in order; ``toy`` makes each as small as it gets, on the corpus in samples/."""
    denoiser, enhancer = work / "denoiser", work / "enhancer"

    def train(name: str, config: str, steps: int, *settings: str) -> Part:
        size = (
            ("batch_size=32", "workers=14", "log_every=50", "checkpoint_every=200", "validate_every=1000")
            if not toy
            else (
                *("batch_size=2", "workers=0", "log_every=1", "checkpoint_every=1", "validate_every=2"),
                *("validation_examples=1", "validation_seconds=1.0", "examples.crop_seconds=1.0"),
                *("corpus.speech=[speech.csv]", "corpus.noise=[noise.csv]", "corpus.rooms=[rooms]"),
                *("corpus.bursts=[]", "examples.bursts={}", f"corpus.cache={work / 'cache'}"),
                "corpus.held_out_every=3",
            )
        )
        steps = 2 if toy else steps
        schedule = (f"optimizer.max_steps={steps}", f"optimizer.warmup_steps={1 if toy else 100}")
        everything = (*size, *schedule, f"corpus.root={data}", "optimizer.min_lr=1.0e-5", *settings)
        return Part(
            name=name,
            command=(
                *(sys.executable, "-m", "enhance_ray", "train", str(ROOT / "configs/compact" / config)),
                *("--run", str(work / name), "--device", device, "--quiet"),
                *(word for setting in everything for word in ("--set", setting)),
            ),
        )

    speed = (
        ("--seconds", "1", "--variants", "fp32") if toy else ("--variants", "fp32", "bf16", "bf16-compiled")
    )
    return [
        train("denoiser", "train_denoiser.yaml", 12_000, "init_from=default"),
        train("enhancer", "train_flow.yaml", 3000, "init_from=default", f"denoiser_from={denoiser}"),
        train("distil", "train_distil.yaml", 1500, f"init_from={enhancer}"),
        Part(
            name="speed",
            command=(sys.executable, str(ROOT / "benchmarks/speed.py"), "--device", device, *speed),
        ),
    ]


def work_on(parts: Sequence[Part], work: Path, seconds: float) -> int:
    """Run what is not done for at most ``seconds``; the status to end with. Output goes to NAME.log."""
    work.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + seconds
    for part in parts:
        done, log = work / f"{part.name}.done", work / f"{part.name}.log"
        if done.exists():
            continue
        print(f"{part.name}: begun or taken up again", flush=True)
        with log.open("ab") as output:
            process = subprocess.Popen(part.command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
            try:
                status = process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # a checkpoint is complete or is not there
                process.wait()
                print(f"{part.name}: stopped, there is more to do", flush=True)
                return MORE
        if status:
            print(f"{part.name}: failed with status {status}, see {log}", flush=True)
            return 1
        done.touch()
        print(f"{part.name}: done", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for runs, logs and results")
    parser.add_argument("--data", default="data", metavar="DIR", help="corpus (default: data)")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call (default: 9)")
    parser.add_argument("--toy", action="store_true", help="a rehearsal on samples/corpus")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    data = str(ROOT / "samples/corpus") if arguments.toy else str(Path(arguments.data).resolve())
    return work_on(plan(work, data, arguments.device, toy=arguments.toy), work, 60 * arguments.minutes)


if __name__ == "__main__":
    sys.exit(main())
