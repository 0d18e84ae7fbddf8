"""The wheel, which is what users get: installed without extras, away from the project, it restores a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
    # uv links packages that are in its cache; else this would copy torch.
    environment = {**os.environ, "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    for arguments in (
        ("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, ROOT),
        ("venv", "--python", sys.executable, folder / "env"),
        (
            *("pip", "install", "--python", folder / "env", "--constraint", ROOT / "constraints.txt"),
            folder / "enhance_ray-0.1.0-py3-none-any.whl",
        ),
    ):
        command = [find_uv_bin(), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "env" / "bin"


def test_it_denoises_a_file_with_the_weights_that_it_brings(programs, tmp_path):
    command = [programs / "enhance-ray", "denoise", SAMPLE, "clean.flac"]
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True, check=False)
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
    done = subprocess.run(
        [programs / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    place, installed = json.loads(done.stdout)
    assert Path(place).is_relative_to(programs.parent)
    assert not OF_EXTRAS & set(installed)
    assert {"torch", "soundfile", "av", "enhance-ray"} <= set(installed)
