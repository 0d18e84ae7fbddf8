"""`enhance-ray evaluate`: systems side by side."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from typing import Any

from enhance_ray import __version__
from enhance_ray.cli.common import add_command, counter, say, write_line
from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees


def add(commands: Any) -> None:
    """Add the command."""
    evaluate = add_command(
        commands, "evaluate", _evaluate, "score systems on degraded speech, side by side", _EVALUATE_EXAMPLES
    )
    _add_evaluation_arguments(evaluate)


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
    with counter(parsed, "pair", len(items)) as advance, contextlib.closing(running):
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
    write_line(json.dumps(evaluation.means(rows)) if parsed.json else evaluation.table(rows))
    failed = [outcome for outcome in outcomes if outcome.failed is not None]
    for outcome in failed:
        say(f"failed: {outcome.item.name}: {outcome.failed}")
    return 1 if failed else 0


def _evaluation_settings(parsed: argparse.Namespace) -> Any:
    """Those of CONFIG with what the other arguments say; systems are added to its own."""
    from enhance_ray.evaluation import EvaluateConfig, systems

    if parsed.config is not None:
        settings = trees.load(EvaluateConfig, parsed.config, parsed.set)
    else:
        settings = trees.from_tree(EvaluateConfig, trees.with_overrides({}, parsed.set), where="--set")
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


_EVALUATE_EXAMPLES = """\
examples:
  enhance-ray evaluate configs/evaluate.yaml --set model=runs/mine --set corpus.root=data
  enhance-ray evaluate --clean test/clean --noisy test/noisy --report report.html
  enhance-ray evaluate --clean test/clean --noisy test/noisy --model default --enhanced other=test/other
  enhance-ray evaluate --clean test/clean --noisy test/noisy --metrics pesq_wb,estoi,lsd \\
      --system fast:mode=enhance,quality=fast --system best:mode=enhance,quality=best

"""
