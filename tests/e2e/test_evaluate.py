"""`enhance-ray evaluate` as a user meets it, on the sample recordings with what costs little."""

import json

import numpy as np
import pytest
import soundfile

from enhance_ray import cli

RATE = 44_100


@pytest.fixture
def folders(pytestconfig, tmp_path):
    """The first 3 s of two samples."""
    samples = pytestconfig.rootpath / "samples"
    for folder in ("clean", "noisy"):
        (tmp_path / folder).mkdir()
    for name, noisy in (("kathleen_helicopter", "flac"), ("kerstin_rain_in_a_room", "mp3")):
        for folder, extension in (("clean", "flac"), ("noisy", noisy)):
            waveform, rate = soundfile.read(samples / folder / f"{name}.{extension}", frames=3 * RATE)
            soundfile.write(tmp_path / folder / f"{name}.wav", waveform, rate)
    return tmp_path


def run(*arguments):
    return cli.main(["evaluate", *map(str, arguments)])


def pairs(folders, metrics="lsd,si_sdr"):
    return ["--clean", folders / "clean", "--noisy", folders / "noisy", "--metrics", metrics]


def test_two_folders_become_a_table_rows_and_a_page(model, folders, capsys):
    rows_path, page = folders / "rows.jsonl", folders / "report.html"
    settings = ["--model", model, "--enhanced", f"ideal={folders / 'clean'}", "--system", "half:strength=0.5"]
    (folders / "about.csv").write_text(
        "file,condition\nkathleen_helicopter,dry\nkerstin_rain_in_a_room,room\n"
    )
    table = ["--table", folders / "about.csv"]
    page_settings = ["--set", "page.examples=1", "--set", "page.charts=[lsd]", "--report", page]
    assert run(*pairs(folders), *table, *settings, *page_settings, "--output", rows_path) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["pair 1/2", "pair 2/2"]
    lines = captured.out.splitlines()
    assert lines[0] == "| condition | system | SI-SDR ↑ | LSD ↓ | RTF ↓ |"
    systems = ["input", "open denoise", "half", "ideal"]
    assert [line.split(" | ")[1] for line in lines[2:]] == 2 * systems
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()]
    assert [row["system"] for row in rows] == 2 * systems
    assert rows[3]["lsd"] == 0 and rows[3]["rtf"] is None and rows[1]["rtf"] > 0
    assert rows[0]["si_sdr"] == pytest.approx(rows[1]["si_sdr"], abs=0.1) == pytest.approx(3, abs=2)
    text = page.read_text()
    assert text.count("<audio") == 5 and len(text) < 8_000_000


@pytest.mark.drill
def test_means_are_a_line_of_json_that_several_processes_give_alike(model, folders, capsys):
    found = []
    for jobs in (1, 2):
        assert run(*pairs(folders, "si_sdr"), "--model", model, "-q", "--json", "--jobs", jobs) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        found.append(json.loads(captured.out)["all"])
    assert set(found[0]) == {"input", "open denoise"}
    for system, scores in found[0].items():
        # The number of threads may change the last bits.
        assert found[1][system]["si_sdr"] == pytest.approx(scores["si_sdr"], abs=1e-3)


def test_a_pair_that_cannot_be_read_is_named_and_the_others_are_scored(model, folders, capsys):
    (folders / "noisy" / "kathleen_helicopter.wav").write_bytes(b"this is no wav")
    assert run(*pairs(folders), "--model", model, "-q", "--json") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("failed: kathleen_helicopter: cannot read ")
    assert captured.err.count("\n") == 1
    assert "open denoise" in json.loads(captured.out)["all"]


def test_a_corpus_is_evaluated_by_its_yaml(model, pytestconfig, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(pytestconfig.rootpath)
    changes = [f"model={model}", "count=1", "conditions=[narrow]", f"corpus.cache={tmp_path}"]
    arguments = [part for change in changes for part in ("--set", change)]
    assert run("configs/smoke/evaluate.yaml", *arguments, "--metrics", "lsd_high", "--json", "-q") == 0
    scores = json.loads(capsys.readouterr().out)["narrow"]
    assert set(scores) == {"input", "denoise"}
    assert scores["input"]["lsd_high"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a CONFIG, or --clean and --noisy"),
        (["--clean", "a"], "clean, noisy: go together"),
        (["PAIRS", "--metrics", "pesk_wb"], "did you mean 'pesq_wb'?"),
        (["PAIRS", "--system", "fast:qualty=fast"], "did you mean 'quality'?"),
        (["PAIRS", "--system", "x:mode=denoise", "--system", "x:mode=denoise"], "two are called 'x'"),
        (["PAIRS", "--enhanced", "EMPTY"], "empty: holds no audio files"),
        (["PAIRS", "--model", "nowhere"], "nowhere"),
        (["PAIRS", "--report", "report.pdf"], "--report: must end in .html"),
        (["PAIRS", "--output", "rows.csv"], "--output: must end in .jsonl"),
        (["PAIRS", "--jobs", "0"], "jobs: must be at least 1"),
        (["PAIRS", "--system", "x:mode=enhance", "--model", "MODEL"], "this model is a denoiser alone"),
    ],
)
def test_wrong_usage_stops_before_work_starts(arguments, message, model, folders, capsys):
    (folders / "empty").mkdir()
    places = {"PAIRS": pairs(folders), "MODEL": [model], "EMPTY": [folders / "empty"]}
    assert run(*(part for argument in arguments for part in places.get(argument, [argument]))) == 2
    assert message in capsys.readouterr().err


def test_silence_has_no_scores_and_costs_nothing_else(model, folders, capsys):
    soundfile.write(folders / "clean" / "kathleen_helicopter.wav", np.zeros(3 * RATE), RATE)
    assert run(*pairs(folders, "si_sdr"), "--model", model, "--json") == 0
    assert "input" in json.loads(capsys.readouterr().out)["all"]
