"""tools/: what installs the project, and what holds its lock to pyproject.toml."""

import os
import re
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import lock
import prepare
import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "constraints.txt").read_text()


def faults_of(text):
    """What is wrong with ``text`` and not with the lock as it is (packages here may be others than its)."""
    return set(lock.check(PROJECT, text)) - set(lock.check(PROJECT, LOCK))


def without(name):
    return re.sub(rf"^{name}==.*\n", "", LOCK, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["scipy", "noisereduce", "cffi", "starlette"], ids="a {} is missed".format)
def test_a_package_that_the_lock_lacks_is_named_however_far_down_it_is_required(name):
    [fault] = faults_of(without(name))
    assert fault.startswith(f"{name} is in it 0 times")


def test_a_version_that_pyproject_does_not_allow_is_a_fault():
    faults = faults_of(re.sub(r"^av==\S+", "av==9.2.0", LOCK, flags=re.MULTILINE))
    assert "av==9.2.0 does not meet av>=16" in faults


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.13.0+cpu",
        "torch>=2.13",
        "torch @ https://registry.example/torch.whl",
        "--index-url https://x",
    ],
)
def test_builds_ranges_and_addresses_are_no_part_of_the_lock(line):
    assert f"'{line}' is no name==version" in "\n".join(faults_of(without("torch") + line + "\n"))


def test_the_lock_pins_each_package_once_for_every_interpreter_and_system():
    from packaging.requirements import Requirement

    pins = [Requirement(line.partition("#")[0]) for line in LOCK.splitlines() if line[0] != "#"]
    for python in ("3.11", "3.12", "3.13"):
        for system in ("linux", "darwin"):
            here = {"python_version": python, "python_full_version": f"{python}.4", "sys_platform": system}
            names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(here)]
            assert len(names) == len(set(names)) > 200
            assert ("triton" in names) == (system == "linux")


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """Python of an environment with a pip of its own."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """No settings of pip or uv but those of the test."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_uv_is_told_what_pip_is_configured_to_see(clean, interpreter, monkeypatch):
    (clean / "pip.conf").write_text(
        "[global]\nindex-url = https://one.example/simple\nfind-links =\n  /wheels\n  /more\n"
        "[install]\nextra-index-url = https://two.example/simple https://three.example/simple\n"
    )
    monkeypatch.setenv("PIP_CERT", "/etc/certificates.pem")
    _, found = prepare.uv_install(find_uv_bin(), interpreter)
    assert found["UV_DEFAULT_INDEX"] == "https://one.example/simple"
    assert found["UV_FIND_LINKS"] == "/wheels,/more"
    assert found["SSL_CERT_FILE"] == "/etc/certificates.pem"
    # The main index comes first: of one version, uv takes the files of the first that has it.
    assert found["UV_INDEX"].split() == [f"https://{name}.example/simple" for name in ("one", "two", "three")]


def test_what_is_set_for_uv_itself_stays(clean, interpreter, monkeypatch):
    (clean / "pip.conf").write_text("[global]\nindex-url = https://one.example/simple\n")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.example/simple")
    _, found = prepare.uv_install(find_uv_bin(), interpreter)
    assert found["UV_DEFAULT_INDEX"] == "https://mine.example/simple"
    assert "UV_INDEX" not in found


def offer(folder, *versions):
    """Wheels of torch without content."""
    for version in versions:
        with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
            text = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
            wheel.writestr(f"torch-{version}.dist-info/METADATA", text)
            wheel.writestr(f"torch-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"torch-{version}.dist-info/RECORD", "")


PIN = re.search(r"^torch==(\S+)", LOCK, re.MULTILINE)[1]
CPU = f"{PIN}+cpu"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one build of torch each")
@pytest.mark.parametrize(
    ("offered", "has_gpu", "taken"),
    [
        ([PIN, CPU], False, f"torch=={CPU}"),
        ([PIN, CPU], True, f"torch=={PIN},!={CPU}"),
        ([PIN], False, f"torch=={PIN}"),
        ([CPU], True, f"torch=={PIN}"),
    ],
)
def test_the_build_for_cpus_is_taken_where_it_is_offered_and_there_is_no_gpu(
    clean, interpreter, offered, has_gpu, taken
):
    offer(clean, *offered)
    (clean / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {clean}\n")
    command, environment = prepare.uv_install(find_uv_bin(), interpreter)
    options, requirement, why = prepare.torch_build(command, environment, has_gpu=has_gpu)
    assert (options, requirement) == ([], taken)
    assert ("NVIDIA GPU" in why) or ("no build for CPUs" in why)


def test_pip_installs_where_uv_fails_and_where_there_is_none(clean, interpreter, monkeypatch, capsys):
    (clean / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {clean}\n")
    offer(clean, PIN)
    monkeypatch.setenv("PATH", str(clean))
    monkeypatch.setattr(prepare, "UV_FOLDER", clean / "uv")
    folder = interpreter.parents[1]
    assert prepare.install(folder, [f"torch=={PIN}"]) == 0
    assert "uv cannot be had" in capsys.readouterr().out
    assert list(folder.glob(f"lib/python*/site-packages/torch-{PIN}.dist-info"))

    broken = clean / "bin" / "uv"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/bin:/usr/bin")
    assert prepare.install(folder, [f"torch=={PIN}"]) == 0
    assert "uv has failed" in capsys.readouterr().out
