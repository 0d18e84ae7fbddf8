"""Every command of the README and the guides is run as it is written, or listed with what is in its way."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
import soundfile

from enhance_ray import audio, cli
from enhance_ray.cluster.bulk.state import MANIFEST, RECORDS, JobState
from enhance_ray.records import JOB_FOLDER

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
RATE = 44_100

LEFT_OUT = {
    r"pip install ": "installs from the network; tests/e2e/test_wheel.py installs what is built here",
    r"arecord ": "needs a microphone; tests/unit/test_pipes.py reads samples without a header",
    r"enhance-ray import-resemble hf://": "downloads 700 MB; tests/unit/test_resemble.py reads such a folder",
    r".* resemble( |$)": "needs that model; tests/unit/test_resemble.py has one of its layout",
    r"enhance-ray watch ": "runs until it is stopped; tests/unit/test_watch.py stops it",
    r"python jobs/enhance_bulk.py ": "starts a cluster; tests/cluster/test_bulk.py has one",
    r"python jobs/train.py ": "starts a cluster; tests/cluster/test_train.py has one",
    r"ray |export RAY_|sed ": "needs AWS; tests/cluster/test_launch_files.py reads what it is told",
    r"docker |kubectl ": "needs Docker and Kubernetes; tests/cluster/test_launch_files.py checks the files",
    r"serve ": "starts an endpoint and stays; tests/cluster/test_serve.py has one",
    r"curl ": "needs an endpoint; tests/cluster/test_serve.py asks the same of one",
}
"""Beginnings of commands that are not run here, and why."""
if not shutil.which("ffmpeg"):
    LEFT_OUT["ffmpeg "] = "needs ffmpeg; tests/unit/test_pipes.py pipes without it"
ADDED = {
    # Ten steps show that the command is right; sixty take a minute.
    "enhance-ray train configs/smoke": "--set optimizer.max_steps=10 --set checkpoint_every=10"
    " --set validate_every=10 --set autoencoder.gan_start=5 --set workers=0 -q",
    # The other metrics take seconds for each recording.
    "enhance-ray evaluate": "--metrics si_sdr",
}
"""What is added to commands, by their beginnings, to make them quick."""


def commands_of(page):
    """The commands in the shell blocks of a page, with their continuation lines, without comments."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        pending = ""
        for line in block.replace("\\\n", " ").splitlines():
            pending = f"{pending}\n{line}" if pending else line
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # a quotation goes on in the next line
                continue
            if words:
                found.append(re.sub(r"\s+# .*", "", pending).strip())
            pending = ""
    return found


def commands_to_run(page):
    return [command for command in commands_of(page) if not any(re.match(each, command) for each in LEFT_OUT)]


def tone(seconds=1.5, channels=1):
    time = np.arange(round(seconds * RATE)) / RATE
    return np.repeat(0.1 * np.sin(2 * np.pi * 220 * time)[:, None], channels, axis=1).astype(np.float32)


def film(path, languages):
    """A picture of a second, and a sound for each of ``languages``."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25, width=32, height=32)
        video.pix_fmt = "yuv420p"
        sounds = [container.add_stream("aac", rate=RATE, layout="mono") for _ in languages]
        for language, stream in zip(languages, sounds, strict=True):
            stream.metadata["language"] = language
        for number in range(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8))))
        container.mux(video.encode(None))
        for stream in sounds:
            frame = av.AudioFrame.from_ndarray(tone(1.0).T.copy(), format="fltp", layout="mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the files that the guides name, in a clone of the repository as far as they see it."""
    for name in ("samples", "configs", "jobs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("recordings", "shows"):
        (tmp_path / name).mkdir()
        for i in range(2):
            soundfile.write(tmp_path / name / f"{i}.wav", tone(channels=i + 1), RATE)
    soundfile.write(tmp_path / "telephone.wav", tone()[::5], RATE // 5)
    soundfile.write(tmp_path / "interview.mp3", tone(), RATE)
    for name in ("talk.mp4", "show.mkv"):
        film(tmp_path / name, ["eng"])
    film(tmp_path / "film.mkv", ["eng", "deu"])
    whole = (tmp_path / "interview.mp3").read_bytes()
    (tmp_path / "broken.mp3").write_bytes(
        whole[: len(whole) // 2] + b"damage" + whole[len(whole) // 2 + 500 :]
    )
    target = audio.OutputFormat(container="m4a", codec="aac", sample_format="f32", bit_rate=96_000)
    phone = tmp_path / "another_of_that_phone.m4a"
    with audio.encode(str(phone), sample_rate=RATE, channels=1, target=target) as encoder:
        encoder.write(tone().T)
    # Its index, which a recorder writes at the end, is not there.
    (tmp_path / "unfinished.m4a").write_bytes(phone.read_bytes().partition(b"moov")[0][:-4])
    # What a bulk job leaves.
    job = JobState(f"{tmp_path}/runs/restored", "job")
    for name, schema in (("manifest", MANIFEST), ("records", RECORDS)):
        rows = [{"uri": "a.mp3", **({"status": "done"} if name == "records" else {})}]
        job.folder.write_table(f"{name}/part-00000.parquet", pa.Table.from_pylist(rows, schema))
    (tmp_path / "runs" / "restored" / JOB_FOLDER / "job.json").write_text('{"job": "job"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)  # a training on a machine that does other work, too
@pytest.mark.parametrize("page", [page for page in PAGES if commands_to_run(page)])
def test_the_commands_of_a_page_run_as_they_are_written(page, desk):
    for command in commands_to_run(page):
        more = next((words for start, words in ADDED.items() if command.startswith(start)), "")
        if command.startswith("enhance-ray ") and not set(command) & set("|<>"):
            status = cli.main(shlex.split(f"{command} {more}")[1:])
        else:
            status = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False).returncode
        assert status == 0, command


def test_the_guides_have_commands_to_run():
    """The blocks of the pages are found, so that the test above is about something."""
    assert {"README.md", "docs/laptop.md", "docs/training.md"} <= set(filter(commands_to_run, PAGES))
    assert len(commands_to_run("docs/laptop.md")) >= 10


def test_what_is_left_out_is_there_and_each_reason_names_a_test_that_is():
    commands = [command for page in PAGES for command in commands_of(page)]
    for pattern, why in LEFT_OUT.items():
        assert any(re.match(pattern, command) for command in commands), pattern
        for test in re.findall(r"tests/\S+\.py", why):
            assert (ROOT / test).is_file(), test
    for start in ADDED:
        assert any(command.startswith(start) for command in commands), start


def test_the_python_of_the_laptop_guide_runs_as_written(desk, capsys):
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "laptop.md").read_text(), re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.count("done recordings/") == 2
    assert sorted(path.name for path in (desk / "clean").iterdir()) == ["0.flac", "1.flac"]
