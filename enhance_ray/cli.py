"""`enhance-ray`: recordings, models, corpora and training on this machine, without Ray.

Standard output is for results, standard error for progress and problems. Exit status: 0 all went
well, 1 some inputs could not be used (they are listed), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from enhance_ray import __version__, config
from enhance_ray.errors import CheckpointError, ConfigError, EnhanceRayError
from enhance_ray.options import add_arguments, from_arguments

if TYPE_CHECKING:
    from enhance_ray.files import Progress
    from enhance_ray.report import Record

# torch and the audio libraries are imported by the commands that need them: `--help` answers at once.

EXIT_STATUS = "exit status: 0 all done, 1 some inputs could not be used (listed), 2 wrong usage"
REPORT_NAME = "enhance-ray-report.jsonl"
"""Where records go in an output folder, unless `--report` says another place; `--resume` reads them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if parsed.verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        return command(parsed)
    except (ConfigError, CheckpointError) as error:
        _say(f"enhance-ray: {error}")
        return 2
    except EnhanceRayError as error:
        _say(f"enhance-ray: {error}")
        return 1
    except KeyboardInterrupt:
        _say("enhance-ray: interrupted; what is written is complete, --resume does the rest")
        return 130
    except BrokenPipeError:  # `enhance-ray ... | head`
        return 0


# --------------------------------------------------------------------------- recordings


def _restore(parsed: argparse.Namespace) -> int:
    _import_torch()
    from enhance_ray import audio, report
    from enhance_ray.files import done_before, enhance_files, plan_jobs

    options = from_arguments(parsed)
    jobs = plan_jobs(parsed.input, parsed.output, options)
    is_folder = any(job.output != parsed.output for job in jobs)
    records_path, page = _report_paths(parsed, is_folder and not audio.is_remote(parsed.output))
    if page is not None:
        report.require_pictures()
    if parsed.resume and records_path is None:
        raise ConfigError("--resume", "needs --report FILE.jsonl where the output is no local folder")
    enhancer = _load_enhancer(parsed)
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
    _print(_summary(records))
    return 1 if any(record.status == "failed" for record in records) else 0


def _import_torch() -> None:
    """Import torch without garbage collection, in a process that has not done so yet.

    Its modules make more than a hundred thousand objects that live as long as the process, and collections
    walk over all of them, time and again: during the import, during the command and when the process ends.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def _load_enhancer(parsed: argparse.Namespace) -> Any:
    import torch

    from enhance_ray.enhancer import Enhancer

    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    return Enhancer.load(
        parsed.model,
        device=parsed.device,
        precision=parsed.precision,
        compiled=parsed.compile,
        denoiser_only=parsed.mode == "denoise",
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
        _say(f"failed: {record.input}: {record.reason}")
    elif record.warning:
        _say(f"warning: {record.input}: {record.warning}")


def _summary(records: Sequence[Record]) -> str:
    from enhance_ray import report

    total = report.totals(records)
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


# --------------------------------------------------------------------------- information


def _info(parsed: argparse.Namespace) -> int:
    from enhance_ray import checkpoint

    if (
        parsed.subject == checkpoint.DEFAULT
        or Path(parsed.subject).is_dir()
        or parsed.subject.startswith("hf://")
    ):
        facts = _model_facts(parsed.subject)
    else:
        from enhance_ray import audio

        facts = {
            name: value
            for name, value in dataclasses.asdict(audio.probe(parsed.subject)).items()
            if value not in (None, {})
        }
    if parsed.json:
        _print(json.dumps(facts, ensure_ascii=False))
    else:
        _print(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).rstrip())
    return 0


def _model_facts(model: str) -> dict[str, Any]:
    from enhance_ray import resemble

    loaded = resemble.load_model(model)
    parameters = sum(parameter.numel() for parameter in (loaded.net or loaded.denoiser).parameters())
    return {
        "path": loaded.path,
        "fingerprint": loaded.fingerprint,
        "parameters": parameters,
        **config.to_tree(loaded.config),
    }


# --------------------------------------------------------------------------- training


def _train(parsed: argparse.Namespace) -> int:
    from enhance_ray.enhancer import resolve_device
    from enhance_ray.training import loop
    from enhance_ray.training.context import LocalContext

    settings = config.load(loop.TrainConfig, parsed.config, parsed.set)
    context = LocalContext(Path(parsed.run), device=resolve_device(parsed.device))

    def show(step: int, steps: int, metrics: dict[str, float]) -> None:
        left = (steps - step) / metrics["steps_per_second"] / 3600
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        _say(f"step {step}/{steps}: {numbers}, {left:.1f} h left")

    scores = loop.run(settings, context, progress=None if parsed.quiet else show)
    _print(json.dumps({"model": str(context.resume_from()), **scores}))
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    from enhance_ray import evaluation, report
    from enhance_ray.evaluation import page

    if parsed.report is not None:
        if not parsed.report.endswith(".html"):
            raise ConfigError("--report", f"must end in .html, got '{parsed.report}'")
        report.require_pictures()
    if parsed.output is not None and not parsed.output.endswith(".jsonl"):
        raise ConfigError("--output", f"must end in .jsonl, got '{parsed.output}'")
    settings = evaluation.resolve(_evaluation_settings(parsed))
    items = evaluation.plan(settings)
    running = evaluation.run(settings, items, device=parsed.device, jobs=parsed.jobs)
    outcomes = []
    with _counter(parsed, "pair", len(items)) as advance, contextlib.closing(running):
        for outcome in running:
            outcomes.append(outcome)
            if parsed.output is not None:
                evaluation.save(parsed.output, outcome.rows, append=len(outcomes) > 1)
            advance()
    rows = [row for outcome in outcomes for row in outcome.rows]
    if parsed.report is not None:
        excerpts = page.listen(evaluation.scorer(settings, parsed.device), items, rows)
        work = f"enhance_ray {__version__}. {evaluation.workplace(parsed.device, parsed.jobs)}"
        page.write(parsed.report, page.page(outcomes, settings, excerpts, work=work))
    _print(json.dumps(evaluation.means(rows)) if parsed.json else evaluation.table(rows))
    failed = [outcome for outcome in outcomes if outcome.failed is not None]
    for outcome in failed:
        _say(f"failed: {outcome.item.name}: {outcome.failed}")
    return 1 if failed else 0


def _evaluation_settings(parsed: argparse.Namespace) -> Any:
    """Those of CONFIG with what the other arguments say; systems are added to its own."""
    from enhance_ray.evaluation import EvaluateConfig, systems

    if parsed.config is not None:
        settings = config.load(EvaluateConfig, parsed.config, parsed.set)
    else:
        settings = config.from_tree(EvaluateConfig, config.with_overrides({}, parsed.set), where="--set")
    given = {name: getattr(parsed, name) for name in ("clean", "noisy", "table", "metrics")}
    changes = {name: value for name, value in given.items() if value is not None}
    if len(parsed.model) == 1:
        changes["model"] = parsed.model[0]
    added = [
        *(system for model in parsed.model for system in systems.of_model(model)),
        *map(systems.parse, parsed.system),
        *map(systems.parse_folder, parsed.enhanced),
    ]
    settings = dataclasses.replace(settings, **changes, systems=(*settings.systems, *added))
    if parsed.config is None and settings.clean is None:
        raise ConfigError("evaluate", "needs a CONFIG, or --clean and --noisy")
    return settings


@contextlib.contextmanager
def _counter(parsed: argparse.Namespace, what: str, total: int) -> Iterator[Callable[[], None]]:
    """To be called for each of ``total``: a bar on standard error where that is a terminal, else lines."""
    if parsed.quiet:
        yield lambda: None
    elif not sys.stderr.isatty():
        done = itertools.count(1)
        yield lambda: _say(f"{what} {next(done)}/{total}")
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn(f"{what}s"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)


def _export(parsed: argparse.Namespace) -> int:
    from enhance_ray import checkpoint

    model = checkpoint.load(checkpoint.newest(parsed.checkpoint))
    weights = (model.net or model.denoiser).state_dict()
    card = Path(parsed.card).read_text(encoding="utf-8") if parsed.card else None
    target = _model_dir(parsed)
    advice = {"nfe": parsed.nfe, "prior_temperature": parsed.prior_temperature}
    given = {name: value for name, value in advice.items() if value is not None}
    settings = model.config
    if given:
        if settings.enhancer is None:
            raise ConfigError("--nfe, --prior-temperature", f"{model.path} is a denoiser alone")
        settings = dataclasses.replace(settings, enhancer=dataclasses.replace(settings.enhancer, **given))
    checkpoint.save(target, settings, weights, half=not parsed.full, card=card)
    _print(str(target))
    return 0


def _model_dir(parsed: argparse.Namespace) -> Path:
    """The folder that a model is to be written to."""
    target = Path(parsed.model_dir)
    if target.exists() and not parsed.force:
        raise ConfigError(str(target), "exists (--force replaces it)")
    return target


def _import_resemble(parsed: argparse.Namespace) -> int:
    from enhance_ray import checkpoint, resemble

    target = _model_dir(parsed)
    model = resemble.load(parsed.source)
    assert model.net is not None
    card = (
        f"# {model.config.name}\n\nImported from {parsed.source}, whose fingerprint is {model.fingerprint}.\n"
    )
    checkpoint.save(target, model.config, model.net.state_dict(), half=not parsed.full, card=card)
    _print(str(target))
    return 0


def _export_resemble(parsed: argparse.Namespace) -> int:
    from enhance_ray import checkpoint, resemble

    resemble.save(checkpoint.load(parsed.model), Path(parsed.run_dir), half=not parsed.full)
    _print(parsed.run_dir)
    return 0


def _corpus_check(parsed: argparse.Namespace) -> int:
    from enhance_ray.training import corpus

    found = corpus.check(parsed.folder, role=parsed.role, workers=parsed.workers)
    if parsed.json:
        for file in found.files:
            _print(json.dumps(dataclasses.asdict(file), ensure_ascii=False))
    else:
        _print(found.summary())
    return 1 if found.unusable else 0


def _corpus_rirs(parsed: argparse.Namespace) -> int:
    from enhance_ray.training import corpus

    rooms = corpus.rirs(parsed.folder, parsed.count, parsed.seed, workers=parsed.workers)
    _print(f"{len(rooms)} rooms in {parsed.folder}")
    return 0


def _corpus_pack(parsed: argparse.Namespace) -> int:
    from enhance_ray.training import packing

    settings = packing.PackConfig(
        format=parsed.format, shard_megabytes=parsed.shard_megabytes, max_seconds=parsed.max_seconds
    )

    def show(done: int, shards: int) -> None:
        _say(f"shard {done}/{shards}")

    report = packing.pack(
        parsed.input,
        parsed.output,
        settings,
        workers=parsed.workers,
        progress=None if parsed.quiet else show,
    )
    for name, reason in report.failed:
        _say(f"failed: {name}: {reason}")
    _print(
        f"{report.clips} clips, {report.seconds / 3600:.2f} h in {report.shards} shards "
        f"({report.written} written now); {len(report.failed)} recordings unusable"
    )
    return 1 if report.failed else 0


# --------------------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="enhance-ray", description="Restore speech recordings.")
    parser.add_argument("--version", action="version", version=f"enhance-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    enhance = _command(
        commands, "enhance", _restore, "restore recordings: noise, distortion, band", _ENHANCE_EXAMPLES
    )
    enhance.set_defaults(mode="enhance")
    _add_recording_arguments(enhance, enhances=True)

    denoise = _command(commands, "denoise", _restore, "remove noise from recordings", _DENOISE_EXAMPLES)
    denoise.set_defaults(mode="denoise")
    _add_recording_arguments(denoise, enhances=False)

    info = _command(commands, "info", _info, "say what a recording or a model is")
    info.add_argument("subject", metavar="FILE|MODEL", help="audio file, model folder, or 'default'")
    info.add_argument("--json", action="store_true", help="one line of JSON")

    train = _command(commands, "train", _train, "train a model on this machine", _TRAIN_EXAMPLES)
    train.add_argument("config", metavar="CONFIG", help="YAML file, see configs/")
    train.add_argument("--run", required=True, help="folder of the run; an existing run is continued")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting: optimizer.max_lr=1.0e-3",
    )
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")

    take = _command(
        commands,
        "import-resemble",
        _import_resemble,
        "turn a run folder of Resemble Enhance into a model folder",
        _IMPORT_EXAMPLES,
    )
    take.add_argument(
        "source", metavar="SOURCE", help="run folder, fsspec URI, or hf://owner/repository[@revision]"
    )
    take.add_argument("model_dir", metavar="MODEL_DIR", help="model folder to write")
    take.add_argument("--full", action="store_true", help="keep float32 instead of float16")
    take.add_argument("-f", "--force", action="store_true", help="replace MODEL_DIR")

    give = _command(
        commands,
        "export-resemble",
        _export_resemble,
        "turn a model folder into a run folder of Resemble Enhance",
    )
    give.add_argument("model", metavar="MODEL", help="model folder of a whole enhancer")
    give.add_argument("run_dir", metavar="RUN_DIR", help="run folder to write; must not exist")
    give.add_argument("--full", action="store_true", help="write float32 instead of float16")

    evaluate = _command(
        commands, "evaluate", _evaluate, "score systems on degraded speech, side by side", _EVALUATE_EXAMPLES
    )
    _add_evaluation_arguments(evaluate)

    export = _command(commands, "export", _export, "turn a checkpoint into a model folder to pass on")
    export.add_argument("checkpoint", metavar="CHECKPOINT", help="model folder of a run")
    export.add_argument("model_dir", metavar="MODEL_DIR", help="model folder to write")
    export.add_argument("--card", metavar="FILE", help="card.md that says what the model is")
    export.add_argument("--nfe", type=int, metavar="N", help="evaluations that the model is to recommend")
    export.add_argument(
        "--prior-temperature", type=float, metavar="X", help="share of noise that it is to recommend"
    )
    export.add_argument("--full", action="store_true", help="keep float32 instead of halving the file")
    export.add_argument("-f", "--force", action="store_true", help="replace MODEL_DIR")

    _add_corpus_tools(commands)
    return parser


def _add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="YAML file, see configs/evaluate.yaml; folders need none"
    )

    sounds = parser.add_argument_group("pairs")
    sounds.add_argument("--clean", metavar="DIR", help="clean recordings, in place of CONFIG's corpus")
    sounds.add_argument(
        "--noisy", metavar="DIR", help="the same, degraded; matched by path without extension"
    )
    sounds.add_argument(
        "--table", metavar="FILE", help="CSV about them: file, condition, and numbers to draw scores over"
    )

    compared = parser.add_argument_group(
        "systems (may be repeated, and are added to those that CONFIG lists)"
    )
    compared.add_argument(
        "--model", action="append", default=[], metavar="MODEL", help="model, in each mode that it can do"
    )
    compared.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="model with a setting: mode, options of `enhance`, model (by default --model if there is one)",
    )
    compared.add_argument(
        "--enhanced", action="append", default=[], metavar="[NAME=]DIR", help="what another system made"
    )

    work = parser.add_argument_group("work")
    work.add_argument(
        "--metrics",
        type=_names,
        metavar="A,B,...",
        help="metrics to compute (default: all, some of them slow)",
    )
    work.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    work.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    work.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes of one thread each (default: 1, of all)"
    )

    outcome = parser.add_argument_group("outcome")
    outcome.add_argument("--report", metavar="FILE", help="page with tables, charts, sounds, as .html")
    outcome.add_argument("--output", metavar="FILE", help="a row for each pair and system, as .jsonl")
    outcome.add_argument("--json", action="store_true", help="means as one line of JSON")


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _add_corpus_tools(commands: Any) -> None:
    corpus_parser = commands.add_parser("corpus", help="prepare recordings for training")
    tools = corpus_parser.add_subparsers(required=True, metavar="TOOL")
    check = _command(tools, "check", _corpus_check, "measure every file and say what is unusable")
    check.add_argument("folder", metavar="DIR")
    check.add_argument("--role", choices=["speech", "noise"], default="speech", help="what they are to be")
    check.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    check.add_argument("--json", action="store_true", help="one line of JSON a file")
    rirs = _command(tools, "rirs", _corpus_rirs, "simulate room responses")
    rirs.add_argument("folder", metavar="DIR", help="folder to write")
    rirs.add_argument("--count", type=int, default=200, metavar="N", help="rooms (default: 200)")
    rirs.add_argument("--seed", type=int, default=0, metavar="N", help="decides all of them (default: 0)")
    rirs.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    pack = _command(tools, "pack", _corpus_pack, "write recordings as shards, for training from storage")
    pack.add_argument(
        "input", metavar="IN", help="folder, .csv/.jsonl/.parquet list or shard; local or a URI"
    )
    pack.add_argument("output", metavar="OUT", help="folder of shards; a second run writes what is missing")
    pack.add_argument("--format", choices=["tar", "parquet"], default="tar", help="(default: tar)")
    pack.add_argument(
        "--shard-megabytes", type=float, default=256.0, metavar="X", help="size of a shard (default: 256)"
    )
    pack.add_argument(
        "--max-seconds",
        type=float,
        default=30.0,
        metavar="X",
        help="cut longer recordings into pieces (default: 30)",
    )
    pack.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, examples: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"{examples}{EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    parser.set_defaults(command=run)
    return parser


def _add_recording_arguments(parser: argparse.ArgumentParser, *, enhances: bool) -> None:
    parser.add_argument(
        "input", metavar="INPUT", help="audio file, folder (searched through), @files.txt or list.jsonl"
    )
    parser.add_argument("output", metavar="OUTPUT", help="file for a file, else a folder (created if absent)")

    sound = parser.add_argument_group("sound")
    add_arguments(sound, enhances=enhances)

    work = parser.add_argument_group("work")
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
    work.add_argument("--batch-size", type=int, metavar="N", help="segments at once (default: by device)")
    work.add_argument("--files-at-once", type=int, default=4, metavar="N", help="open files (default: 4)")

    outcome = parser.add_argument_group("outcome")
    outcome.add_argument("-f", "--force", action="store_true", help="overwrite existing outputs")
    outcome.add_argument(
        "--resume",
        action="store_true",
        help="skip what an earlier run's report shows as done, redo the rest",
    )
    outcome.add_argument("--partial", action="store_true", help="keep what can be decoded of damaged inputs")
    outcome.add_argument(
        "--scores", action="store_true", help="have records say how good recordings sound, before and after"
    )
    outcome.add_argument(
        "--report",
        metavar="FILE",
        help="a record for each input as .jsonl, or a page with spectrograms as .html and its records "
        f"beside it (default for folders: OUTPUT/{REPORT_NAME})",
    )


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


_ENHANCE_EXAMPLES = """\
examples:
  enhance-ray enhance old.mp3 restored.wav --model resemble
  enhance-ray enhance recordings/ restored/ --model resemble --nfe 16 --report restored/report.html

"""
_IMPORT_EXAMPLES = """\
examples:
  enhance-ray import-resemble hf://ResembleAI/resemble-enhance resemble
  enhance-ray import-resemble runs/enhancer_stage2 resemble

"""
_DENOISE_EXAMPLES = """\
examples:
  enhance-ray denoise noisy.wav clean.wav
  enhance-ray denoise recordings/ clean/ --report clean/report.html
  enhance-ray denoise recordings/ clean/ --format mp3 --loudness -16 --resume

"""
_EVALUATE_EXAMPLES = """\
examples:
  enhance-ray evaluate configs/evaluate.yaml --set model=runs/mine --set corpus.root=data
  enhance-ray evaluate --clean test/clean --noisy test/noisy --report report.html
  enhance-ray evaluate --clean test/clean --noisy test/noisy --model default --enhanced other=test/other
  enhance-ray evaluate --clean test/clean --noisy test/noisy --metrics pesq_wb,estoi,lsd \\
      --system fast:mode=enhance,quality=fast --system best:mode=enhance,quality=best

"""
_TRAIN_EXAMPLES = """\
examples:
  enhance-ray train configs/compact/train_denoiser.yaml --run runs/compact --set corpus.root=data

"""

if __name__ == "__main__":
    sys.exit(main())
