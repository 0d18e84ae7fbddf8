"""Evaluations: which pairs there are, what is compared, and that rows say what was measured."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch import nn

from enhance_ray import evaluation
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import CheckpointError, ConfigError
from enhance_ray.evaluation import EvaluateConfig, SystemConfig, pairs, systems, tables
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions
from enhance_ray.training.examples import CorpusConfig, load_banks

SAMPLES = Path(__file__).parents[2] / "samples" / "corpus"
CHEAP = ("si_sdr", "lsd")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    corpus = CorpusConfig(
        root=str(SAMPLES),
        speech=("speech.csv",),
        noise=("noise.csv",),
        rooms=(),
        cache=tmp_path_factory.mktemp("cache"),
    )
    return EvaluateConfig(corpus=corpus, count=2, seconds=3.0, modes=("denoise",), metrics=CHEAP)


@pytest.fixture(scope="module")
def banks(config):
    return load_banks(config.corpus, "valid")


@pytest.fixture
def identity(monkeypatch):
    """Every model changes nothing: it answers at a peak of 1, and the pipeline puts the level back."""
    monkeypatch.setattr(Enhancer, "load", lambda *_, **__: Enhancer(nn.Identity(), device="cpu"))


@pytest.fixture
def folders(tmp_path):
    """Two recordings in a tree, and the same in another format, at half the level and the rate."""
    rng = np.random.default_rng(0)
    for name in ("a", "day 1/b.c"):
        waveform = 0.1 * rng.standard_normal((2 * MODEL_RATE, 2))
        for folder in ("clean", "noisy"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "clean" / f"{name}.wav", waveform, MODEL_RATE)
        soundfile.write(tmp_path / "noisy" / f"{name}.flac", waveform[::2] / 2, MODEL_RATE // 2)
    return EvaluateConfig(clean=str(tmp_path / "clean"), noisy=str(tmp_path / "noisy"), metrics=CHEAP)


def share_above(waveform, frequency):
    power = np.square(np.abs(np.fft.rfft(waveform)))
    return power[int(frequency * len(waveform) / MODEL_RATE) :].sum() / power.sum()


# ------------------------------------------------------------------------------- pairs of a corpus


def test_narrow_is_the_same_speech_without_what_lies_above_4_khz(config, banks):
    for condition in ("narrow", "narrow_noisy"):
        example = evaluation.make(banks, config, condition, 0)
        assert share_above(example.degraded, 4000) < 1e-6
        assert share_above(example.reference, 4000) > 1e-4
    same = [evaluation.make(banks, config, condition, 0).reference for condition in ("noisy", "narrow")]
    np.testing.assert_array_equal(*same)


def test_an_example_depends_on_seed_and_index_alone(config, banks):
    first = evaluation.make(banks, config, "noisy", 1)
    evaluation.make(banks, config, "noisy", 0)
    np.testing.assert_array_equal(first.degraded, evaluation.make(banks, config, "noisy", 1).degraded)
    other = evaluation.make(banks, dataclasses.replace(config, seed=1), "noisy", 1)
    assert not np.array_equal(first.degraded, other.degraded)


def test_a_model_that_changes_nothing_scores_as_the_input_does(config, identity):
    config = evaluation.resolve(config)
    items = evaluation.plan(config)
    assert [(item.index, item.condition) for item in items] == [
        (index, condition) for index in (0, 1) for condition in config.conditions
    ]
    outcomes = list(evaluation.run(config, items[:3], device="cpu"))
    rows = [row for outcome in outcomes for row in outcome.rows]
    assert [(row["condition"], row["system"]) for row in rows] == [
        (condition, system) for condition in config.conditions for system in ("input", "denoise")
    ]
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        for name in CHEAP:
            assert after[name] == pytest.approx(before[name], rel=0.02, abs=0.02), name
        assert math.isnan(before["rtf"]) and after["rtf"] > 0
        assert 3900 < after["bandwidth_hz"] < 4200 or after["condition"] == "noisy"


# ------------------------------------------------------------------------------- pairs of folders


def test_files_are_matched_by_path_whatever_their_format_rate_and_channels(folders):
    items = evaluation.plan(folders)
    assert [(item.name, item.condition, Path(item.noisy).suffix) for item in items] == [
        ("a", "all", ".flac"),
        ("day 1/b.c", "all", ".flac"),
    ]
    pair = pairs.read(items[1], folders, None)
    degraded, reference = pair.example
    assert degraded.shape == reference.shape == (2 * MODEL_RATE,)
    assert np.abs(reference).max() > np.abs(degraded).max() > 0
    assert set(pair.facts) == {"snr_db", "clarity_db", "bandwidth_hz"}


@pytest.mark.parametrize(("lacking", "holding"), [("noisy", "clean"), ("clean", "noisy")])
def test_a_recording_without_its_counterpart_stops_everything_and_is_named(folders, lacking, holding):
    next(Path(getattr(folders, lacking)).glob("a.*")).unlink()
    with pytest.raises(
        ConfigError, match=rf"{lacking}: lacks the counterparts of .*{holding}/a\.\w+; add them"
    ):
        evaluation.plan(folders)


def test_of_many_lonely_recordings_a_few_are_named(folders):
    for number in range(9):
        Path(folders.clean, f"more{number}.wav").touch()
    with pytest.raises(ConfigError, match=r"more4\.wav and 4 more; add"):
        evaluation.plan(folders)


def test_a_folder_that_holds_a_name_twice_is_refused(folders):
    Path(folders.clean, "a.mp3").touch()
    with pytest.raises(ConfigError, match=r"holds 'a' twice: .*a\.mp3 and .*a\.wav"):
        evaluation.plan(folders)


def test_an_absent_or_empty_folder_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="nowhere: it is not a folder"):
        evaluation.plan(dataclasses.replace(folders, clean=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: holds no audio files"):
        evaluation.plan(dataclasses.replace(folders, noisy=str(tmp_path / "empty")))


def test_a_little_difference_of_length_is_cut_and_a_larger_one_fails_that_pair_alone(folders, identity):
    path = next(Path(folders.noisy).glob("a.*"))
    waveform, rate = soundfile.read(path)
    soundfile.write(path, waveform[: -int(0.09 * rate)], rate)
    config = evaluation.resolve(dataclasses.replace(folders, modes=("denoise",)))
    items = evaluation.plan(config)
    assert pairs.read(items[0], config, None).example.reference.size == pytest.approx(
        1.91 * MODEL_RATE, abs=2
    )
    soundfile.write(path, waveform[: -int(0.11 * rate)], rate)
    first, second = evaluation.run(config, items, device="cpu")
    assert first.rows == []
    assert first.failed == (
        f"{path}: is 1.89 s long, {items[0].clean} 2.00 s: they are not of the same sound"
    )
    assert len(second.rows) == 2 and second.failed is None


def test_a_damaged_file_fails_its_pair_alone(folders, identity):
    next(Path(folders.clean).glob("a.*")).write_bytes(b"nothing")
    config = evaluation.resolve(dataclasses.replace(folders, modes=("denoise",)))
    first, second = evaluation.run(config, evaluation.plan(config), device="cpu")
    assert "cannot read" in first.failed and "a.wav" in first.failed
    assert len(second.rows) == 2


def with_table(config, text, tmp_path):
    path = tmp_path / "about.csv"
    path.write_text(text, encoding="utf-8-sig")  # what Excel writes
    return dataclasses.replace(config, table=str(path))


def test_a_table_gives_conditions_and_facts_which_are_measured_where_it_says_nothing(folders, tmp_path):
    text = "file,condition,snr_db,t60,voice\nday 1/b.c.wav,room,12.5,0.4,<ann>\na,,,0.2,ben\nother,x,1,2,y\n"
    config = with_table(folders, text, tmp_path)
    first, second = evaluation.plan(config)
    assert (first.condition, second.condition) == ("all", "room")
    facts = pairs.read(second, config, None).facts
    assert (facts["snr_db"], facts["t60"], facts["voice"]) == (12.5, 0.4, "<ann>")
    assert list(facts) == ["snr_db", "clarity_db", "bandwidth_hz", "t60", "voice"]
    assert "snr_db" not in first.known and math.isfinite(pairs.read(first, config, None).facts["snr_db"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,snr_db\na,1\n", "needs a column 'file'"),
        ("file,estoi\na,1\nday 1/b.c,1\n", "the column 'estoi' would hide"),
        ("file\na\n", "says nothing about day 1/b.c"),
        ("file\na\na.wav\nday 1/b.c\n", "two rows about 'a'"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(text, message, folders, tmp_path):
    with pytest.raises(ConfigError, match=message):
        evaluation.plan(with_table(folders, text, tmp_path))


# ------------------------------------------------------------------------------- systems


def test_without_systems_the_model_does_what_it_can_and_options_hold():
    config = evaluation.resolve(EvaluateConfig(options=EnhanceOptions(quality="fast")))
    assert [(s.name, s.model, s.resolved.mode) for s in config.systems] == [
        ("denoise", "default", "denoise"),
        ("enhance", "default", "enhance"),
    ]
    assert config.systems[1].resolved == EnhanceOptions(mode="enhance", quality="fast")


def test_systems_without_a_model_take_that_of_all():
    listed = [{"name": "one"}, {"name": "two", "model": "mine"}]
    config = trees.from_tree(EvaluateConfig, {"model": "yours", "systems": listed})
    assert [system.model for system in evaluation.resolve(config).systems] == ["yours", "mine"]


def test_a_system_is_read_from_a_line():
    assert systems.parse("fast:mode=enhance,quality=fast,prior_temperature=0.5") == SystemConfig(
        name="fast", mode="enhance", options=EnhanceOptions(quality="fast", prior_temperature=0.5)
    )
    assert systems.parse("mine:model=runs/a:b") == SystemConfig(name="mine", model="runs/a:b")
    assert systems.parse_folder("out/other/") == SystemConfig(name="other", folder="out/other/")
    assert systems.parse_folder("x=out/a=b") == SystemConfig(name="x", folder="out/a=b")
    assert [system.name for system in systems.of_model("default")] == ["default denoise", "default enhance"]
    with pytest.raises(CheckpointError, match="nowhere"):
        systems.of_model("nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "expected NAME:key=value"),
        ("fast:quality", "expected key=value, got 'quality'"),
        ("fast:qualty=fast", "did you mean 'quality'"),
        ("fast:nfe=many", "nfe: expected a whole number"),
        ("input:mode=denoise", "name: must not be 'input'"),
        ("x:mode=restore", "mode: expected"),
    ],
)
def test_a_line_that_is_no_system_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        systems.parse(text)


def test_a_folder_system_is_scored_as_it_is_and_must_hold_every_recording(folders, tmp_path):
    other = SystemConfig(name="other", folder=folders.clean)
    config = evaluation.resolve(dataclasses.replace(folders, systems=(other,)))
    rows = next(evaluation.run(config, evaluation.plan(config))).rows
    assert [row["system"] for row in rows] == ["input", "other"]
    assert rows[1]["lsd"] == 0 and math.isnan(rows[1]["rtf"])
    (tmp_path / "made").mkdir()
    soundfile.write(tmp_path / "made" / "a.wav", np.zeros(100), MODEL_RATE)
    lacking = dataclasses.replace(config, systems=(SystemConfig(name="made", folder=str(tmp_path / "made")),))
    with pytest.raises(ConfigError, match=r"made: lacks the counterparts of .*b\.c\.wav"):
        evaluation.plan(lacking)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"count": 0}, "count"),
        ({"conditions": []}, "conditions"),
        ({"metrics": ["pesq"]}, "unknown metric 'pesq'; did you mean 'pesq_"),
        ({"page": {"charts": ["x"]}}, r"page: charts\[0\]: unknown metric 'x'; known: si_sdr"),
        ({"clean": "a"}, "clean, noisy: go together"),
        ({"table": "a"}, "table: is about recordings in folders"),
        ({"systems": [{"name": "a"}, {"name": "a"}]}, "two are called 'a'"),
        ({"systems": [{"name": "a", "folder": "b"}]}, "'a' is a folder, which needs clean and noisy"),
        ({"systems": [{"name": "a", "folder": "b", "mode": "enhance"}]}, "folder: is of files"),
        ({"systems": [{"name": "a", "mode": "denoise", "options": {"mode": "enhance"}}]}, "options.mode"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        trees.from_tree(EvaluateConfig, tree)


# ------------------------------------------------------------------------------- tables


def rows_of(scores, name="pesq_wb", condition="noisy"):
    """system -> its scores, pair by pair -> rows."""
    return [
        {"condition": condition, "index": index, "name": str(index), "system": system, name: score}
        for index, pair in enumerate(zip(*scores.values(), strict=True))
        for system, score in zip(scores, pair, strict=True)
    ]


def test_a_table_has_a_line_for_each_condition_and_system():
    rows = rows_of({"input": [1.0] * 3, "denoise": [2.0, 2.0, math.nan]}, "lsd_high")
    lines = evaluation.table(rows).splitlines()
    assert lines[0] == "| condition | system | LSD above 4 kHz ↓ |"
    assert lines[2:] == ["| noisy | input | 1.000 ± 0.000 |", "| noisy | denoise | 2.000 ± 0.000 |"]
    assert evaluation.means(rows) == {"noisy": {"input": {"lsd_high": 1.0}, "denoise": {"lsd_high": 2.0}}}


def test_what_is_infinite_or_undefined_is_left_out_of_means():
    rows = rows_of({"input": [math.inf, 1.0, 3.0], "denoise": [math.nan] * 3}, "si_sdr")
    assert evaluation.means(rows)["noisy"] == {"input": {"si_sdr": 2.0}, "denoise": {}}
    assert evaluation.table([]).startswith("| condition | system |")


@pytest.mark.parametrize(
    ("name", "is_better"), [("pesq_wb", True), ("lsd", False), ("loudness_change", None)]
)
def test_differences_are_of_pairs(name, is_better):
    """The spread of the pairs is large, that of their differences is not."""
    rows = rows_of({"input": [1.0, 2.0, 4.0], "a": [5.0, 1.0, 9.0], "b": [5.5, 1.6, 9.7]}, name)
    assert tables.baseline(rows) == "a"
    found = {difference.system: difference for difference in tables.differences(rows, "a")}
    assert found["b"].interval.mean == pytest.approx(0.6)
    assert found["b"].is_clear and found["b"].is_better is is_better
    assert not found["input"].is_clear


def test_rows_are_saved_as_json_that_any_program_reads(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    row = {"system": "ü", "rtf": math.nan, "si_sdr": math.inf, "lsd": 1.5}
    evaluation.save(path, [row])
    evaluation.save(path, [row], append=True)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == 2 * [
        {"system": "ü", "rtf": None, "si_sdr": None, "lsd": 1.5}
    ]
