"""Write constraints.txt, the versions that are installed, or check it.

    make lock                    keeps what constraints.txt says where pyproject.toml still allows it
    make lock UPGRADE=--upgrade  takes the newest versions
    python tools/lock.py check   needs no network; `make lint` runs it

The lock holds names, versions and markers for all extras, Python 3.11 to 3.13, Linux and macOS. No address
of an index and no build of a version (`+cpu`) is in it: where packages come from is up to who installs. pip
and uv both take `2.13.0+cpu` for `torch==2.13.0` where it is offered.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "constraints.txt"
PACKAGE = "enhance-ray"
HEADER = """\
# All versions that the tests passed with; `make lock` writes this file. Use it with
#     pip install -c constraints.txt '.[cluster,eval]'
"""


def main() -> int:
    """Write or check; 1 if the lock is no lock of pyproject.toml."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["write", "check"])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    parsed = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if parsed.command == "write":
        write(project, upgrade=parsed.upgrade)
    faults = check(project, LOCK.read_text())
    for fault in faults:
        print(f"constraints.txt: {fault}", file=sys.stderr)
    if faults:
        print("constraints.txt: run `make lock`, then `make`", file=sys.stderr)
    return 1 if faults else 0


def write(project: dict[str, Any], *, upgrade: bool) -> None:
    """Resolve for all extras, interpreters and systems at once, by uv."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--all-extras"]
    command += ["--python-version", "3.11", "--no-header", "--annotation-style", "line"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--output-file", str(LOCK)]
    command += ["--upgrade"] * upgrade
    subprocess.run([*command, "pyproject.toml"], cwd=ROOT, check=True)
    lines = LOCK.read_text().splitlines()
    LOCK.write_text(HEADER + "".join(_shortened(line) + "\n" for line in lines if not line.startswith("#")))


def _shortened(line: str) -> str:
    """``line`` of uv's without the part of its marker that holds for all that the project supports."""
    python, system = r"python_full_version < '3\.14'", r"\(sys_platform == '\w+' or sys_platform == '\w+'\)"
    line = re.sub(rf" ; {python} and {system}(?= |$)", "", line)
    line = re.sub(rf"{python} and (?=.)", "", line)
    return re.sub(rf" and {system}(?= |$)", "", line)


def check(project: dict[str, Any], lock: str) -> list[str]:
    """What is wrong with the text of a ``lock``, one sentence each.

    The requirements of pyproject.toml are compared with it, and from there on, what they require in turn, as
    far as it is installed here; `make` installs all extras but `peers`.
    """
    faults = []
    pins: dict[str, list[Requirement]] = {}
    for line in lock.splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            pin = Requirement(text)
        except InvalidRequirement:
            faults.append(f"'{text}' is no name==version")
            continue
        pinned = re.fullmatch(r"==([^,*+]+)", str(pin.specifier))
        if pin.url or pinned is None:
            faults.append(f"'{text}' is no name==version without a build")
            continue
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)

    tables = project["project"]
    extras = tables["optional-dependencies"]
    wanted = [
        Requirement(text)
        for text in (*tables["dependencies"], *(each for extra in extras.values() for each in extra))
    ]
    overrides = {
        canonicalize_name(Requirement(text).name) for text in project["tool"]["uv"]["override-dependencies"]
    }
    seen = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        key = (name, str(requirement.specifier), frozenset(requirement.extras))
        if (
            key in seen
            or name in overrides
            or name == PACKAGE
            or not _applies(requirement.marker, [{"extra": ""}])
        ):
            continue
        seen.add(key)
        here = [_version(pin) for pin in pins.get(name, ()) if pin.marker is None or pin.marker.evaluate()]
        if len(here) != 1:
            faults.append(
                f"{requirement.name} is in it {len(here)} times, expected once for this interpreter"
            )
            continue
        [version] = here
        if not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name}=={version} does not meet {requirement}")
        wanted += _requirements(requirement, version, faults)
    return faults


def _version(pin: Requirement) -> Version:
    return Version(str(pin.specifier).removeprefix("=="))


def _requirements(requirement: Requirement, version: Version, faults: list[str]) -> list[Requirement]:
    """What the distribution that is installed for ``requirement`` requires on this machine."""
    try:
        distribution = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return []
    if Version(Version(distribution.version).public) != version:
        faults.append(f"{requirement.name}=={version}, but {distribution.version} is installed")
    found = [Requirement(text) for text in distribution.requires or ()]
    contexts = [{"extra": extra} for extra in ("", *requirement.extras)]
    return [each for each in found if _applies(each.marker, contexts)]


def _applies(marker: Marker | None, contexts: list[dict[str, str]]) -> bool:
    return marker is None or any(marker.evaluate(context) for context in contexts)


if __name__ == "__main__":
    sys.exit(main())
