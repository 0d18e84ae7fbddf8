"""The command line as a user meets it: exit status, messages, files."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from small_models import SMALL_ENHANCER, small_enhancer_net

from enhance_ray import checkpoint, cli, compat
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.models.denoiser import DenoiserConfig
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.records import read_records
from enhance_ray.settings.options import EnhanceOptions

RATE = 44_100
SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture
def recordings(tmp_path):
    """Three recordings in a tree, one of them in stereo, and a broken one."""
    folder = tmp_path / "in"
    (folder / "day 1").mkdir(parents=True)
    rng = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", 0.1 * rng.standard_normal(RATE), RATE)
    soundfile.write(folder / "day 1" / "b.flac", 0.1 * rng.standard_normal((RATE, 2)), RATE)
    soundfile.write(folder / "day 1" / "ü.wav", 0.1 * rng.standard_normal(2 * RATE), 16_000)
    (folder / "broken.mp3").write_bytes(b"this is no mp3")
    return folder


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_a_file_becomes_a_file(model, recordings, tmp_path, capsys):
    assert run("denoise", recordings / "a.wav", tmp_path / "out.wav", "--model", model) == 0
    waveform, rate = soundfile.read(tmp_path / "out.wav")
    original, _ = soundfile.read(recordings / "a.wav")
    assert (rate, waveform.shape) == (RATE, original.shape)
    np.testing.assert_allclose(waveform[:-2000], original[:-2000], atol=2e-3)
    assert capsys.readouterr().out.startswith("1 done, 0 failed, 0 skipped")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.wav"]


def test_a_folder_keeps_its_tree_and_one_bad_file_costs_nothing_else(model, recordings, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("denoise", recordings, out, "--model", model) == 1
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        "a.wav",
        "day 1/b.flac",
        "day 1/ü.wav",
        cli.REPORT_NAME,
    ]
    assert soundfile.info(out / "day 1" / "b.flac").channels == 2
    captured = capsys.readouterr()
    assert "broken.mp3" in captured.err
    assert captured.out.startswith("3 done, 1 failed")
    records = read_records(out / cli.REPORT_NAME)
    assert sorted(record.status for record in records) == ["done", "done", "done", "failed"]


def test_a_folder_s_name_may_have_a_dot_and_a_single_file_may_go_into_it(model, recordings, tmp_path):
    out = tmp_path / "season.2"
    assert run("denoise", recordings / "day 1", out, "--model", model, "-q") == 0
    assert (out / cli.REPORT_NAME).is_file()
    assert run("denoise", recordings / "a.wav", out, "--model", model, "-q") == 0
    assert len(read_records(out / cli.REPORT_NAME)) == 3, "what earlier runs recorded stays"


def test_an_existing_output_is_kept_unless_forced(model, recordings, tmp_path, capsys):
    target = tmp_path / "out.wav"
    target.write_text("precious")
    assert run("denoise", recordings / "a.wav", target, "--model", model) == 1
    assert "--force" in capsys.readouterr().err
    assert target.read_text() == "precious"
    assert run("denoise", recordings / "a.wav", target, "--model", model, "--force") == 0
    assert soundfile.info(target).frames == RATE


def test_options_reach_the_sound(model, recordings, tmp_path):
    target = tmp_path / "out.mp3"
    settings = ["--channels", "mono", "--loudness", "-20", "--format", "mp3", "--strength", "0.5"]
    assert run("denoise", recordings / "day 1" / "b.flac", target, "--model", model, *settings) == 0
    info = soundfile.info(target)
    assert (info.channels, info.format) == (1, "MP3")


def test_resuming_does_what_is_left_and_nothing_twice(model, recordings, tmp_path, capsys):
    out = tmp_path / "out"
    run("denoise", recordings, out, "--model", model)
    (out / "a.wav").unlink()
    (recordings / "broken.mp3").unlink()
    before = (out / "day 1" / "b.flac").stat().st_mtime_ns
    capsys.readouterr()
    assert run("denoise", recordings, out, "--model", model, "--resume") == 0
    assert capsys.readouterr().out.startswith("1 done, 0 failed, 2 skipped")
    assert (out / "day 1" / "b.flac").stat().st_mtime_ns == before
    assert run("denoise", recordings, out, "--model", model, "--resume", "--strength", "0.3") == 0
    assert capsys.readouterr().out.startswith("3 done"), "other options are another job"


@pytest.mark.slow
def test_a_killed_run_resumes_with_every_output_complete_and_computed_once(model, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    rng = np.random.default_rng(1)
    for i in range(16):
        soundfile.write(source / f"{i:02}.wav", 0.1 * rng.standard_normal(6 * RATE), RATE)
    command = [sys.executable, "-m", "enhance_ray.cli", "denoise", str(source), str(out), "--model", model]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("[0-9]*.wav"))) < 4:  # those without a dot are complete
        assert first.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done_first = {r.input for r in read_records(out / cli.REPORT_NAME) if r.status == "done"}
    assert 0 < len(done_first) < 16

    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL)
    records = [r for r in read_records(out / cli.REPORT_NAME) if r.status == "done"]
    assert len(records) == 16
    assert len({record.input for record in records}) == 16
    assert {soundfile.info(path).frames for path in out.glob("*.wav")} == {6 * RATE}
    assert not [path for path in out.iterdir() if path.name.startswith(".")], "no torn output is left"


def test_a_page_shows_what_was_done(model, recordings, tmp_path):
    page = tmp_path / "report.html"
    run("denoise", recordings, tmp_path / "out", "--model", model, "--report", page)
    text = page.read_text()
    assert "broken.mp3" in text
    assert text.count("<audio") >= 2
    assert len(read_records(tmp_path / "report.jsonl")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strength", "2"], "strength: expected a number from 0 to 1, got 2"),
        (["--loudness", "loud"], "loudness: expected"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--model", "nowhere"], "nowhere: there is no such folder"),
        (["--report", "report.pdf"], "must end in .jsonl or .html"),
        (["--batch-size", "0"], "batch_size: must be at least 1"),
    ],
)
def test_wrong_usage_stops_before_work_starts(arguments, message, model, recordings, tmp_path, capsys):
    arguments = [*arguments, *([] if "--model" in arguments else ["--model", model])]
    assert run("denoise", recordings, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "a.wav").exists()


def test_an_absent_input_is_named(model, tmp_path, capsys):
    assert run("denoise", tmp_path / "nowhere.wav", tmp_path / "out.wav", "--model", model) in (1, 2)
    assert "nowhere.wav" in capsys.readouterr().err


def test_info_says_what_a_recording_and_a_model_are(model, recordings, capsys):
    assert run("info", recordings / "day 1" / "b.flac", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["codec"], facts["channels"], facts["sample_rate"]) == ("flac", 2, RATE)
    assert run("info", model) == 0
    assert "name: open" in capsys.readouterr().out
    assert run("info", recordings / "broken.mp3") == 1


@pytest.mark.parametrize("command", ["denoise", "enhance"])
def test_every_option_has_a_flag_with_its_own_words(command, capsys):
    with pytest.raises(SystemExit):
        run(command, "--help")
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(EnhanceOptions):
        if field.name != "mode":
            # What concerns the enhancer alone is no option of the denoiser.
            expected = command == "enhance" or not field.metadata["enhances"]
            assert (f"--{field.name.replace('_', '-')} " in text) == expected
    assert "exit status: 0 all done, 1 some inputs could not be used" in text


def test_help_does_not_wait_for_torch():
    code = "import sys, enhance_ray.cli as c; c._parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_checkpoint_is_exported_small_and_with_its_card(model, tmp_path, capsys):
    card = tmp_path / "card.txt"
    card.write_text("what it is")
    target = tmp_path / "small"
    assert run("export", model, target, "--card", card) == 0
    assert (target / checkpoint.CARD_NAME).read_text() == "what it is"
    assert checkpoint.load(target).config == checkpoint.load(model).config
    assert run("export", model, target) == 2
    assert "--force" in capsys.readouterr().err


def test_a_corpus_is_checked_and_rooms_are_simulated(recordings, tmp_path, capsys):
    assert run("corpus", "check", recordings) == 1
    assert "unusable: broken.mp3" in capsys.readouterr().out
    assert run("corpus", "rirs", tmp_path / "rooms", "--count", "2") == 0
    assert len(list((tmp_path / "rooms").glob("*.npy"))) == 2
    assert Path(tmp_path / "rooms" / "rirs.json").is_file()


@pytest.fixture(scope="module")
def enhancer_model(tmp_path_factory):
    """A small enhancer with random weights, as a model folder."""
    _, net = small_enhancer_net()
    folder = tmp_path_factory.mktemp("enhancer") / "small"
    settings = ModelConfig(kind="enhancer", name="small", denoiser=net.denoiser.config, enhancer=net.config)
    checkpoint.save(folder, settings, net.state_dict())
    return str(folder)


def test_enhance_restores_a_tree_with_the_options_that_were_given(enhancer_model, recordings, tmp_path):
    out = tmp_path / "out"
    options = ["--nfe", "2", "--solver", "euler", "--lambd", "0.5", "--tau", "0.25", "--seed", "7"]
    assert run("enhance", recordings, out, "--model", enhancer_model, *options) == 1
    assert soundfile.info(out / "day 1" / "b.flac").frames == RATE
    records = read_records(out / cli.REPORT_NAME)
    done = [record for record in records if record.status == "done"]
    assert len(done) == 3
    for record in done:
        settings = record.options
        assert (settings["mode"], settings["nfe"], settings["solver"]) == ("enhance", 2, "euler")
        assert (settings["denoise_strength"], settings["prior_temperature"]) == (0.5, 0.25)
        assert settings["seed"] == 7


def test_of_an_enhancer_denoise_runs_the_denoiser(enhancer_model, recordings, tmp_path):
    assert run("denoise", recordings / "a.wav", tmp_path / "a.wav", "--model", enhancer_model) == 0
    assert soundfile.info(tmp_path / "a.wav").frames == RATE


def test_a_denoiser_is_refused_where_an_enhancer_is_needed(model, recordings, tmp_path, capsys):
    assert run("enhance", recordings / "a.wav", tmp_path / "a.wav", "--model", model) == 2
    assert "this model is a denoiser alone" in capsys.readouterr().err
    assert not (tmp_path / "a.wav").exists()


def test_settings_that_would_do_nothing_stop_before_work_starts(enhancer_model, recordings, tmp_path, capsys):
    command = ["enhance", recordings / "a.wav", tmp_path / "a.wav", "--model", enhancer_model]
    assert run(*command, "--solver", "rk4", "--nfe", "3") == 2
    assert "rk4 needs at least 4 evaluations" in capsys.readouterr().err


def test_a_model_goes_to_the_originals_layout_and_back(tmp_path, capsys):
    torch.manual_seed(0)
    plain = DenoiserConfig(hidden=16, blocks=1, middle_blocks=1)
    net = EnhancerNet(SMALL_ENHANCER, plain)
    net.normalizer.update(torch.rand(100))
    settings = ModelConfig(kind="enhancer", denoiser=plain, enhancer=SMALL_ENHANCER)
    checkpoint.save(tmp_path / "model", settings, net.state_dict())
    assert run("export-resemble", tmp_path / "model", tmp_path / "run") == 0
    assert run("import-resemble", tmp_path / "run", tmp_path / "again") == 0
    assert run("import-resemble", tmp_path / "run", tmp_path / "again") == 2
    assert "exists (--force replaces it)" in capsys.readouterr().err
    assert run("info", tmp_path / "again") == 0
    assert "kind: enhancer" in capsys.readouterr().out
    assert run("info", tmp_path / "run") == 0


def test_the_originals_command_line_does_what_it_did(enhancer_model, recordings, tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(recordings), str(out), "--run_dir", enhancer_model, "--nfe", "2", "--device", "cpu"]
    assert compat.main([*command, "--solver", "euler", "--lambd", "0.9", "--tau", "0.1"]) == 0
    wavs = ["a.wav", "day 1/ü.wav"]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.wav")) == wavs
    enhanced = (out / "a.wav").read_bytes()
    assert compat.main([*command, "--parallel_mode"]) == 0
    assert (out / "a.wav").read_bytes() == enhanced
    assert compat.main([*command, "--denoise_only"]) == 0
    assert (out / "a.wav").read_bytes() != enhanced
    assert compat.main([*command, "--suffix", ".flac"]) == 0
    assert (out / "day 1" / "b.flac").exists()
    assert compat.main([str(recordings), str(out), "--run_dir", "nowhere"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert compat.main([*command[:-1], "cuda:9"]) == 2


def test_the_packaged_enhancer_fills_the_band_of_a_narrow_recording(tmp_path):
    """Out of the box, at the level that came in."""
    voice, _ = soundfile.read(SAMPLES / "clean" / "kathleen_helicopter.flac", frames=2 * 44_100)
    narrow = librosa.resample(voice, orig_sr=44_100, target_sr=8000)
    soundfile.write(tmp_path / "narrow.wav", narrow, 8000)
    assert run("enhance", tmp_path / "narrow.wav", tmp_path / "wide.wav") == 0
    wide, rate = soundfile.read(tmp_path / "wide.wav")
    assert rate == 44_100 and len(wide) == 2 * 44_100
    power = np.square(np.abs(np.fft.rfft(wide)))
    above = int(4500 * len(wide) / rate)
    assert power[above:].sum() > 1e-6 * power.sum()
    assert 0.3 < np.sqrt(np.mean(wide**2)) / np.sqrt(np.mean(narrow**2)) < 3
