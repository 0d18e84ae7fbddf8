"""What the project promises of its packaged model, its README and its worst inputs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from damaged import make_damaged, make_good

from enhance_ray import EnhanceOptions, Enhancer, cli, metrics
from enhance_ray.records import read_records

RATE = 44_100


@pytest.fixture(scope="module")
def enhancer():
    return Enhancer.load(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def speech(pytestconfig):
    """47 s of the sample recordings."""
    folder = pytestconfig.rootpath / "samples" / "clean"
    parts = [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.iterdir())]
    rng = np.random.default_rng(0)
    waveform = np.resize(np.concatenate(parts), 47 * RATE)
    return (waveform + 0.02 * rng.standard_normal(waveform.size)).astype(np.float32)


def test_a_recording_sounds_the_same_alone_in_company_in_any_batch_and_with_any_threads(
    enhancer, speech, tmp_path
):
    options = EnhanceOptions(segment_seconds=8)
    recording = speech[: 20 * RATE]
    alone, _ = enhancer.denoise(recording, RATE, options)
    source = tmp_path / "in"
    source.mkdir()
    soundfile.write(source / "recording.wav", recording, RATE, subtype="FLOAT")
    for i in range(2):
        soundfile.write(source / f"other{i}.wav", speech[i * RATE :][: 9 * RATE], RATE, subtype="FLOAT")
    threads = torch.get_num_threads()
    try:
        for batch_size, threads_now in ((1, 1), (8, 1), (3, 2)):
            out = tmp_path / f"{batch_size}-{threads_now}"
            command = ["denoise", str(source), str(out), "--precision", "fp32", "-q"]
            settings = ["--batch-size", str(batch_size), "--threads", str(threads_now)]
            assert cli.main([*command, *settings, "--segment-seconds", "8"]) == 0
            among, _ = soundfile.read(out / "recording.wav", dtype="float32")
            np.testing.assert_allclose(among, alone, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_bf16_stays_close_to_fp32(enhancer, speech):
    """Where `--precision auto` takes bf16, the difference is at least 25 dB below the speech."""
    short = speech[: 8 * RATE]
    exact, _ = enhancer.denoise(short, RATE)
    rounded, _ = Enhancer.load(device="cpu", precision="bf16").denoise(short, RATE)
    noise_to_signal = np.sum((rounded - exact) ** 2) / np.sum(exact**2)
    assert 10 * np.log10(noise_to_signal) < -25


def test_the_packaged_model_removes_noise_and_leaves_speech(pytestconfig, enhancer):
    """Of the samples: at least 4 dB of SI-SDR, which no gate or filter on them reaches."""
    samples = pytestconfig.rootpath / "samples"
    clean, _ = soundfile.read(samples / "clean" / "kathleen_helicopter.flac", dtype="float32")
    noisy, _ = soundfile.read(samples / "noisy" / "kathleen_helicopter.flac", dtype="float32")
    denoised, _ = enhancer.denoise(noisy, RATE)
    assert metrics.si_sdr(denoised, clean) > metrics.si_sdr(noisy, clean) + 4


@pytest.mark.slow
def test_three_hundred_damaged_files_cost_five_good_ones_nothing(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    make_damaged(source, 300)
    rng = np.random.default_rng(0)
    for i in range(5):
        soundfile.write(source / f"good{i}.wav", 0.1 * rng.standard_normal(RATE), RATE)
    assert cli.main(["denoise", str(source), str(out), "-q"]) == 1
    records = read_records(out / cli.REPORT_NAME)
    # A wav whose size says nothing has all of its samples, and a word about it.
    odd = {record.input: record for record in records if record.warning}
    assert all("samples_4g" in name for name in odd)
    done = [record for record in records if record.status == "done" and record.input not in odd]
    assert len(done) == 5
    assert all(soundfile.info(record.output).frames == RATE for record in done)
    failed = [record for record in records if record.status == "failed"]
    assert all(record.reason and record.code for record in failed)
    # A mutated name may not look like audio at all; then it is no input.
    assert len(failed) >= 290
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        cli.REPORT_NAME,
        *(f"good{i}.wav" for i in range(5)),
        *(Path(record.output).name for record in odd.values()),
    }


@pytest.mark.slow
def test_every_format_that_is_read_comes_out_playable(tmp_path):
    make_good(tmp_path / "in")
    assert cli.main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "-q"]) == 0
    records = read_records(tmp_path / "out" / cli.REPORT_NAME)
    assert len(records) >= 15
    assert {record.status for record in records} == {"done"}


def test_the_readme_s_python_runs_as_written(pytestconfig, tmp_path):
    text = (pytestconfig.rootpath / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "samples").symlink_to(pytestconfig.rootpath / "samples")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert soundfile.info(tmp_path / "clean.wav").samplerate == RATE


def pages(root):
    """The README and the guides, by their names."""
    return {path: path.read_text() for path in (root / "README.md", *sorted((root / "docs").glob("*.md")))}


def test_every_link_of_readme_and_guides_leads_somewhere(pytestconfig):
    broken = []
    for path, text in pages(pytestconfig.rootpath).items():
        here = re.sub(
            r"<!--.*?-->", "", text, flags=re.DOTALL
        )  # what the site alone shows, `make docs` checks
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", here):
            file, _, part = link.partition("#")
            target = (path.parent / file) if file else path
            if not target.exists():
                broken.append(f"{path.name}: {link}")
            elif part:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                if part not in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}:
                    broken.append(f"{path.name}: {link}")
    assert not broken


def test_the_readme_s_first_command_does_what_it_says(pytestconfig, tmp_path, monkeypatch, capsys):
    text = (pytestconfig.rootpath / "README.md").read_text()
    [command] = re.findall(r"^enhance-ray (denoise samples/.*)$", text, re.MULTILINE)
    (tmp_path / "samples").symlink_to(pytestconfig.rootpath / "samples")
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 0
    [printed] = re.findall(r"^(1 done.*) at RTF", text, re.MULTILINE)
    assert capsys.readouterr().out.startswith(printed)


def test_the_readme_can_be_read_at_once(pytestconfig):
    assert len((pytestconfig.rootpath / "README.md").read_text().splitlines()) <= 150


def test_every_command_of_the_readme_and_the_guides_exists(pytestconfig, capsys):
    text = "\n".join(pages(pytestconfig.rootpath).values())
    commands = set(re.findall(r"^enhance-ray ((?:corpus )?[\w-]+)", text, re.MULTILINE))
    assert {"enhance", "denoise", "train", "export", "corpus check", "import-resemble"} <= commands
    for command in commands:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command.split(), "--help"])
        assert stopped.value.code == 0
