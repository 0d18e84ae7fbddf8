"""The wheel, which is what users get: installed without extras, away from the project, it restores a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import prepare
import pytest
import soundfile
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "noisy" / "kathleen_helicopter.flac"
OF_EXTRAS = {"ray", "librosa", "matplotlib", "torchaudio", "pandas", "pyarrow", "numba", "fastapi", "httpx"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Folder of the programs of an environment in which the wheel and what it requires are, and no more."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [find_uv_bin(), "build", "--wheel", "--no-build-isolation", "--python", sys.executable]
    done = subprocess.run([*build, "--out-dir", folder, ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(find_uv_bin()).parent}{os.pathsep}{os.environ['PATH']}")
        # As `make` installs: the same build of torch, which uv then links from its cache and does not copy.
        assert prepare.install(folder / "env", [str(wheel)]) == 0
    return folder / "env" / "bin"


def run(program, *arguments, folder):
    """Run one of ``programs`` in ``folder``, with an environment that leads nowhere else."""
    plain = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = [program, *arguments]
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, check=False)


def test_it_denoises_a_file_with_the_weights_that_it_brings(programs, tmp_path):
    done = run(programs / "enhance-ray", "denoise", SAMPLE, "clean.flac", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = soundfile.info(SAMPLE), soundfile.info(tmp_path / "clean.flac")
    assert after.samplerate == 44_100
    assert after.frames == -(-before.frames * 44_100 // before.samplerate)


def test_it_brings_nothing_that_only_extras_need(programs, tmp_path):
    code = (
        "import importlib.metadata as m, json, pathlib, enhance_ray;"
        "print(json.dumps([str(pathlib.Path(enhance_ray.__file__).parent),"
        "[d.name.lower() for d in m.distributions()]]))"
    )
    done = run(programs / "python", "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    place, installed = json.loads(done.stdout)
    assert Path(place).is_relative_to(programs.parent)
    assert not OF_EXTRAS & set(installed)
    assert {"torch", "soundfile", "av", "enhance-ray"} <= set(installed)


def test_its_weights_are_read_from_where_it_is_installed(programs, tmp_path):
    [weights] = programs.parent.glob(
        "lib/python*/site-packages/enhance_ray/weights/denoiser/model.safetensors"
    )
    aside = weights.rename(weights.with_suffix(".aside"))
    try:
        done = run(programs / "enhance-ray", "denoise", SAMPLE, "clean.flac", folder=tmp_path)
    finally:
        aside.rename(weights)
    assert done.returncode == 2
    assert str(weights.parent) in done.stderr
