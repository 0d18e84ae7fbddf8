"""The command line of a bulk job: what `jobs/enhance_bulk.py` says and returns."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import ray
import yaml

from enhance_ray.cli.common import write_line
from enhance_ray.cli.options import add_arguments, from_arguments
from enhance_ray.cluster import session
from enhance_ray.cluster.bulk import driver, forecast
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.errors import ConfigError, EnhanceRayError
from enhance_ray.settings import trees

EXIT_STATUS = """\
exit status: 0 all done, 1 some files could not be used (listed in failed/), 2 wrong usage,
3 stopped because too many files failed or the job cost too much, 130 interrupted. The same command goes on
where a run ended."""
_EXITS = {"stopped": 3, "interrupted": 130}


def main(arguments: Sequence[str] | None = None, description: str | None = None) -> int:
    """Plan or run one job; the exit status."""
    parsed = _parser(description).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s")
    try:
        settings = _settings(parsed)
        is_planned = parsed.plan_only or parsed.finish_in is not None
        if is_planned:
            state = driver.planned(settings, new_job=parsed.new_job)
            expected = forecast.forecast(settings, state, speed=parsed.speed)
            text = expected.text(parsed.finish_in)
            if parsed.finish_in is not None:
                settings = dataclasses.replace(settings, actors=(1, expected.actors_for(parsed.finish_in)))
            if parsed.plan_only:
                write_line(f"{text}\n{json.dumps(dataclasses.asdict(expected))}")
                return 0
            sys.stderr.write(f"{text}\n")
        session.connect(parsed.address)
        outcome = driver.run(
            settings,
            new_job=parsed.new_job and not is_planned,
            retry_failed=parsed.retry_failed,
            list_input=not (parsed.no_listing or is_planned),
        )
    except EnhanceRayError as error:
        sys.stderr.write(f"enhance_bulk: {error}\n")
        return 2
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if not isinstance(cause, EnhanceRayError | OSError):
            raise  # a bug: its traceback is wanted
        sys.stderr.write(f"enhance_bulk: {cause}\n")
        return 2
    # Written at once: of a job that is stopped, Ray may end the process before Python would.
    write_line(json.dumps(dataclasses.asdict(outcome)))
    return _EXITS.get(outcome.status, 1 if outcome.report and outcome.report.failed else 0)


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, epilog=EXIT_STATUS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file, see configs/bulk.yaml")
    parser.add_argument(
        "--input", metavar="URI", action="append", help="prefix, glob, manifest or recording; may be repeated"
    )
    parser.add_argument("--output", metavar="URI", help="prefix for outputs, records and the report")
    parser.add_argument("--model", metavar="MODEL", help="model folder or URI, as nodes find it")
    parser.add_argument(
        "--max-failed", metavar="N|X%", type=yaml.safe_load, help="failures that stop the job"
    )
    parser.add_argument("--max-cost", metavar="X", type=float, help="what the job may cost, by its prices")
    parser.add_argument(
        "--scores",
        action="store_true",
        default=None,
        help="have records say how good recordings sound, before and after",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--address", help="of the cluster; by default RAY_ADDRESS, or this machine alone")
    parser.add_argument("--plan-only", action="store_true", help="list, and say what the job takes and costs")
    parser.add_argument("--speed", type=float, metavar="X", help="of an actor, times real time, for the plan")
    parser.add_argument(
        "--finish-in",
        type=_positive,
        metavar="HOURS",
        help="take as many actors as that needs, by the plan and --speed, whatever the settings say",
    )
    parser.add_argument(
        "--new-job", action="store_true", help="forget what was done at OUTPUT, and replace it"
    )
    parser.add_argument("--retry-failed", action="store_true", help="do again what failed before")
    parser.add_argument("--no-listing", action="store_true", help="do not look for what is new in INPUT")
    sound = parser.add_argument_group("sound")
    add_arguments(sound, mode=True)
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def _settings(parsed: argparse.Namespace) -> BulkConfig:
    given: dict[str, Any] = {
        name: getattr(parsed, name)
        for name in ("input", "output", "model", "max_failed", "max_cost", "scores")
        if getattr(parsed, name) is not None
    }
    if len(given.get("input", ())) == 1:
        [given["input"]] = given["input"]
    # JSON is YAML: what the options were read as comes back as it was.
    overrides = [*(f"{name}={json.dumps(value)}" for name, value in given.items()), *parsed.set]
    if parsed.config is not None:
        settings = trees.load(BulkConfig, parsed.config, overrides)
    elif "input" in given and "output" in given:
        settings = trees.from_tree(BulkConfig, trees.with_overrides({}, overrides), where="arguments")
    else:
        raise ConfigError("arguments", "expected CONFIG, or --input and --output")
    return dataclasses.replace(settings, options=from_arguments(parsed, settings.options))
