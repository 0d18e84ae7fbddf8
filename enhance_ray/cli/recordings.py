"""`enhance-ray denoise`, `enhance`, `watch`: recordings alone, in folders, through pipes, as they arrive."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enhance_ray.cli.common import add_command, import_torch, say, write_line
from enhance_ray.cli.options import add_arguments, from_arguments
from enhance_ray.errors import ConfigError
from enhance_ray.records import totals

if TYPE_CHECKING:
    from enhance_ray.files import Progress
    from enhance_ray.records import Record
    from enhance_ray.settings.options import EnhanceOptions

REPORT_NAME = "enhance-ray-report.jsonl"
"""Where records go in an output folder, unless `--report` says another place; `--resume` reads them."""


def add(commands: Any) -> None:
    """Add the commands."""
    enhance = add_command(
        commands, "enhance", _restore, "restore recordings: noise, distortion, band", _ENHANCE_EXAMPLES
    )
    enhance.set_defaults(mode="enhance")
    _add_recording_arguments(enhance, enhances=True)

    denoise = add_command(commands, "denoise", _restore, "remove noise from recordings", _DENOISE_EXAMPLES)
    denoise.set_defaults(mode="denoise")
    _add_recording_arguments(denoise, enhances=False)

    watch = add_command(
        commands, "watch", _watch, "restore what arrives in a folder, until it is stopped", _WATCH_EXAMPLES
    )
    watch.add_argument("input", metavar="IN", help="folder that is watched, with its subfolders")
    watch.add_argument("output", metavar="OUT", help="folder of the outputs; what failed goes to OUT/failed")
    sound = watch.add_argument_group("sound")
    add_arguments(sound, mode=True)
    _add_model_arguments(watch.add_argument_group("work"))
    outcome = watch.add_argument_group("outcome")
    outcome.add_argument(
        "--settle",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="for which a file must not have grown: it may still be copied (default: 10)",
    )
    outcome.add_argument("--partial", action="store_true", help="keep what can be decoded of damaged inputs")


def _restore(parsed: argparse.Namespace) -> int:
    import_torch()
    from enhance_ray import audio, report
    from enhance_ray.files import done_before, enhance_files, is_pipe, plan_jobs

    options = from_arguments(parsed)
    if parsed.raw is not None or is_pipe(parsed.input) or is_pipe(parsed.output):
        return _restore_pipe(parsed, options)
    jobs = plan_jobs(parsed.input, parsed.output, options)
    is_folder = any(job.output != parsed.output for job in jobs)
    records_path, page = _report_paths(parsed, is_folder and not audio.is_remote(parsed.output))
    if page is not None:
        report.require_pictures()
    if parsed.resume and records_path is None:
        raise ConfigError("--resume", "needs --report FILE.jsonl where the output is no local folder")
    enhancer = _load_enhancer(parsed, options)
    if parsed.resume and not audio.is_remote(parsed.output):
        audio.remove_leftovers(parsed.output)
    done = done_before(records_path, enhancer.fingerprint, options) if records_path and parsed.resume else {}

    records = []
    with _progress_bar(parsed) as progress:
        running = enhance_files(
            jobs,
            enhancer,
            options,
            batch_size=parsed.batch_size,
            files_at_once=parsed.files_at_once,
            # What an interrupted run had written but not recorded is to be written again.
            force=parsed.force or parsed.resume,
            partial=parsed.partial,
            scores=parsed.scores,
            preserve_times=parsed.preserve_times,
            done=done,
            report_path=records_path,
            progress=progress,
        )
        with contextlib.closing(running):
            for record in running:
                records.append(record)
                _say_if_noteworthy(record)
    if page is not None:
        report.html(page, records)
    write_line(_summary(records))
    return 1 if any(record.status == "failed" for record in records) else 0


def _restore_pipe(parsed: argparse.Namespace, options: EnhanceOptions) -> int:
    from enhance_ray.audio.pipes import RawFormat
    from enhance_ray.files import STANDARD, enhance_pipe

    if parsed.report is not None or parsed.resume or parsed.scores or parsed.preserve_times:
        raise ConfigError("--report, --resume, --scores, --preserve-times", "are for files, not for pipes")
    raw = None if parsed.raw is None else RawFormat.parse(parsed.raw)
    if parsed.output == STANDARD and sys.stdout.isatty():
        raise ConfigError("-", "standard output is a terminal: send it on to a file or a program")
    facts = enhance_pipe(
        parsed.input,
        parsed.output,
        _load_enhancer(parsed, options),
        options,
        raw=raw,
        partial=parsed.partial,
        force=parsed.force,
    )
    if facts.warning:
        say(f"warning: {parsed.input}: {facts.warning}")
    if not parsed.quiet:
        say(f"{facts.seconds:.1f} s of audio done")
    return 0


def _watch(parsed: argparse.Namespace) -> int:
    import_torch()
    from enhance_ray.files import watch

    options = from_arguments(parsed)
    stopping = threading.Event()
    # As a service manager ends it; what is under way is left out, and done after the next start.
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    enhancer = _load_enhancer(parsed, options)
    report_path = Path(parsed.output) / REPORT_NAME
    running = watch(
        parsed.input,
        parsed.output,
        enhancer,
        options,
        settle=parsed.settle,
        partial=parsed.partial,
        report_path=report_path,
        stop=stopping,
    )
    for record in running:
        _say_if_noteworthy(record)
        if record.status == "done" and not parsed.quiet:
            say(f"done: {record.output}")
    return 0


def _load_enhancer(parsed: argparse.Namespace, options: EnhanceOptions) -> Any:
    import torch

    from enhance_ray.enhancer import Enhancer

    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    return Enhancer.load(
        parsed.model,
        device=parsed.device,
        precision=parsed.precision,
        compiled=parsed.compile,
        denoiser_only=options.mode == "denoise",
    )


def _report_paths(parsed: argparse.Namespace, is_folder: bool) -> tuple[Path | None, Path | None]:
    """Where records go, and where the page goes; None for neither."""
    wanted = parsed.report
    if wanted is None:
        return (Path(parsed.output) / REPORT_NAME if is_folder else None), None
    path = Path(wanted)
    if path.suffix == ".html":
        return path.with_suffix(".jsonl"), path
    if path.suffix == ".jsonl":
        return path, None
    raise ConfigError("--report", f"must end in .jsonl or .html, got '{wanted}'")


def _say_if_noteworthy(record: Record) -> None:
    if record.status == "failed":
        say(f"failed: {record.input}: {record.reason}")
    elif record.warning:
        say(f"warning: {record.input}: {record.warning}")


def _summary(records: Sequence[Record]) -> str:
    total = totals(records)
    text = f"{total.done} done, {total.failed} failed, {total.skipped} skipped"
    if total.seconds:
        text += f"; {total.seconds / 60:.1f} minutes of audio at RTF {total.rtf:.3f}"
    return text


@contextlib.contextmanager
def _progress_bar(parsed: argparse.Namespace) -> Iterator[Callable[[Progress], None] | None]:
    """A bar on standard error with share, files, RTF and time left, where that is a terminal."""
    if parsed.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.percentage:>3.0f}%"), BarColumn(), TextColumn("{task.fields[news]}")
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0, news="starting")

        def show(progress: Any) -> None:
            bar.update(task, completed=progress.fraction or 0.0, news=_news(progress))

        yield show


def _news(progress: Progress) -> str:
    total = "" if progress.files_total is None else f"/{progress.files_total}"
    parts = [f"{progress.files_done}{total} files"]
    if progress.files_failed:
        parts.append(f"{progress.files_failed} failed")
    if progress.rtf is not None:
        parts.append(f"RTF {progress.rtf:.3f}")
    if progress.seconds_left is not None:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(parts)


def _add_recording_arguments(parser: argparse.ArgumentParser, *, enhances: bool) -> None:
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="audio or video, a folder (searched through), @files.txt, list.jsonl, or - for standard input",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="file for a file, else a folder (created if absent), or - for standard output",
    )

    sound = parser.add_argument_group("sound")
    add_arguments(sound, enhances=enhances)

    work = parser.add_argument_group("work")
    _add_model_arguments(work)
    work.add_argument("--batch-size", type=int, metavar="N", help="segments at once (default: by device)")
    work.add_argument("--files-at-once", type=int, default=4, metavar="N", help="open files (default: 4)")

    outcome = parser.add_argument_group("outcome")
    outcome.add_argument("-f", "--force", action="store_true", help="overwrite existing outputs")
    outcome.add_argument(
        "--resume",
        action="store_true",
        help="skip what an earlier run's report shows as done, redo the rest",
    )
    outcome.add_argument(
        "--raw", metavar="FORMAT:RATE:CHANNELS", help="the input is samples without a header: s16le:48000:2"
    )
    outcome.add_argument("--partial", action="store_true", help="keep what can be decoded of damaged inputs")
    outcome.add_argument(
        "--preserve-times", action="store_true", help="give outputs the time at which inputs were changed"
    )
    outcome.add_argument(
        "--scores", action="store_true", help="have records say how good recordings sound, before and after"
    )
    outcome.add_argument(
        "--report",
        metavar="FILE",
        help="a record for each input as .jsonl, or a page with spectrograms as .html and its records "
        f"beside it (default for folders: OUTPUT/{REPORT_NAME})",
    )


def _add_model_arguments(work: Any) -> None:
    work.add_argument(
        "--model",
        default="default",
        metavar="MODEL",
        help="model folder, or a run folder of Resemble Enhance, local or hf:// (default: the packaged one)",
    )
    work.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    work.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="(default: auto)")
    work.add_argument(
        "--compile",
        action="store_true",
        help="compile parts of the enhancer first: half a minute, which pays from some minutes of audio on",
    )
    work.add_argument("--threads", type=int, metavar="N", help="of the model on a CPU (default: all cores)")


_ENHANCE_EXAMPLES = """\
examples:
  enhance-ray enhance old.mp3 restored.wav --model resemble
  enhance-ray enhance recordings/ restored/ --model resemble --nfe 16 --report restored/report.html

"""
_DENOISE_EXAMPLES = """\
examples:
  enhance-ray denoise noisy.wav clean.wav
  enhance-ray denoise recordings/ clean/ --report clean/report.html
  enhance-ray denoise recordings/ clean/ --format mp3 --loudness -16 --resume
  enhance-ray denoise talk.mp4 clean.mp4
  ffmpeg -i talk.mkv -f wav - | enhance-ray denoise - - --format flac > clean.flac

"""
_WATCH_EXAMPLES = """\
examples:
  enhance-ray watch incoming/ clean/
  enhance-ray watch incoming/ clean/ --mode enhance --format flac --settle 60

"""
