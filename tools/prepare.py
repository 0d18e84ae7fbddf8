"""Install this project with some extras, at the versions of constraints.txt, into a virtual environment.

    python3 tools/prepare.py .venv cluster,eval,hub,dev

uv does it where it is on PATH or can be installed (into .uv); otherwise pip does, which takes longer. Both
read pip's configuration: index, further indexes, folders of wheels, certificate, proxy.

On Linux, the torch that indexes offer first brings some 3 GB of CUDA's libraries. On a machine without an
NVIDIA GPU, a build for CPUs is taken instead if pip's configuration offers one, or if uv reaches the index of
such builds that it knows. Standard library alone: this runs before anything is installed.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints.txt"
UV_FOLDER = ROOT / ".uv"
TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
"""Options of pip that say where packages come from, and the variables that tell uv the same."""


def main() -> int:
    """Prepare; the exit status of the last installer."""
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        print("enhance_ray needs Python 3.11 to 3.13: make PYTHON=python3.12", file=sys.stderr)
        return 1
    if len(sys.argv) != 3:
        print("usage: prepare.py ENVIRONMENT EXTRA[,EXTRA]", file=sys.stderr)
        return 2
    return install(Path(sys.argv[1]).absolute(), ["--editable", f"{ROOT}[{sys.argv[2]}]"])


def install(folder: Path, wanted: list[str]) -> int:
    """Install what the arguments ``wanted`` of an installer name into the environment at ``folder``.

    Returns:
        The exit status of the installer that came last.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        say(f"making {folder}")
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError:
            say("this Python comes without ensurepip (Debian's package python3-venv has it), so without pip")
            venv.create(folder, with_pip=False)
    wanted = ["--constraint", str(LOCK), *wanted]

    uv = find_uv(python)
    if uv is None:
        say("uv cannot be had, so pip installs, which takes longer")
    else:
        command, environment = uv_install(uv, python)
        options, torch, why = torch_build(command, environment, has_gpu=has_nvidia_gpu())
        say(f"{torch}: {why}")
        if run([*command, *options, torch, *wanted], environment) == 0:
            return 0
        say("uv has failed (see above), so pip tries it")
    say(f"torch: pip takes the build of {pinned_torch()} that comes first among those it is offered")
    return run([str(python), "-m", "pip", "install", *wanted], os.environ)


def say(text: str) -> None:
    """Tell the user, before what the installers say next."""
    print(f"prepare: {text}", flush=True)


def run(command: list[str], environment: os._Environ[str] | dict[str, str]) -> int:
    """The exit status of ``command``, which speaks for itself."""
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def find_uv(python: Path) -> str | None:
    """uv's program: that on PATH, or one in `.uv`, which the pip beside ``python`` installs if need be."""
    if found := shutil.which("uv"):
        return found
    program = UV_FOLDER / "bin" / "uv"
    if not program.exists():
        say(f"installing uv into {UV_FOLDER}")
        venv.create(UV_FOLDER, with_pip=False)
        target = str(UV_FOLDER / "bin" / "python")
        command = [str(python), "-m", "pip", "--python", target, "install", "--constraint", str(LOCK), "uv"]
        run(command, os.environ)
    return str(program) if program.exists() else None


def uv_install(uv: str, python: Path) -> tuple[list[str], dict[str, str]]:
    """The command by which ``uv`` installs into ``python``'s environment, and the variables that it needs.

    With them, uv sees what pip is configured to see; what is set for uv already stays.
    """
    command = [uv, "pip", "install", "--python", str(python)]
    options = pip_options(python)
    if options.get("no-index", "no").lower() in {"1", "on", "true", "y", "yes"}:
        command.append("--no-index")
    environment = dict(os.environ)
    for option, name in TO_UV.items():
        # pip separates by spaces and lines; uv separates folders by commas, all else by spaces.
        if value := ("," if name == "UV_FIND_LINKS" else " ").join(options.get(option, "").split()):
            environment.setdefault(name, value)
    if further := environment.get("UV_INDEX"):
        # pip takes the best file of all indexes. uv takes the best version of them, and of one version only
        # the files of the index that it asks first: let that be the main one, as others may lack some.
        environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
        main_index = environment.get("UV_DEFAULT_INDEX") or default_index(uv)
        environment["UV_INDEX"] = f"{main_index} {further}".strip()
    return command, environment


def default_index(uv: str) -> str:
    """The index that ``uv`` asks where none is configured."""
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-config", "--emit-index-url", "-"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    printed = subprocess.run(command, input="", env=plain, capture_output=True, text=True, check=False).stdout
    return printed.partition("--index-url")[2].strip()


def pip_options(python: Path) -> dict[str, str]:
    """pip's options for `pip install` by name: of configuration files, then of the environment."""
    command = [str(python), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    options: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # the later wins
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE):
            options[name] = str(ast.literal_eval(value))
    return options


def has_nvidia_gpu() -> bool:
    """Whether a driver of NVIDIA's shows itself."""
    files = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg")  # the last is WSL's
    return any(Path(file).exists() for file in files) or shutil.which("nvidia-smi") is not None


def pinned_torch() -> str:
    """``torch==X`` of the lock."""
    found = re.search(r"^torch==[\w.]+", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{LOCK}: torch is not in it; run `make lock`")
    return found[0]


def torch_build(
    install: list[str], environment: dict[str, str], *, has_gpu: bool
) -> tuple[list[str], str, str]:
    """Which build of torch `uv_install`'s command is to take: options, a requirement, and why, in words."""
    pin = pinned_torch()
    if sys.platform != "linux":
        return [], pin, "the build for this system"

    def offered(requirement: str, *options: str, **variables: str) -> bool:
        command = [*install, "--dry-run", "--no-deps", *options, requirement]
        asked = environment | variables
        return subprocess.run(command, env=asked, cwd=ROOT, capture_output=True, check=False).returncode == 0

    cpu, ordinary = f"{pin}+cpu", f"{pin},!={pin.removeprefix('torch==')}+cpu"
    if has_gpu:
        # A build for CPUs counts as the later version where both are offered.
        return [], ordinary if offered(ordinary) else pin, "there is an NVIDIA GPU, so the ordinary build"
    if offered(cpu):
        return [], cpu, "there is no NVIDIA GPU, and the configured index offers a build for CPUs"
    backend = "--torch-backend=cpu"
    if offered(cpu, backend, UV_HTTP_RETRIES="0", UV_HTTP_TIMEOUT="10"):
        return [backend], cpu, "there is no NVIDIA GPU, so the build for CPUs of the index that uv knows"
    return [], pin, "the ordinary build, with CUDA's libraries; no build for CPUs alone is offered here"


if __name__ == "__main__":
    sys.exit(main())
