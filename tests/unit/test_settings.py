"""Strict settings, from YAML and from calls."""

import copy
import dataclasses
import inspect
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Interval

from enhance_ray import EnhanceOptions
from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees
from enhance_ray.settings.ranges import Count, CountOrRange, Name, NotEmpty, Percent, Positive, Range, Within
from enhance_ray.settings.schema import readable, settings


@settings
class Inner:
    rate: float = 0.5
    bounds: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ConfigError("rate", f"must be at most 1, got {self.rate}")


@settings
class Outer:
    name: str
    mode: Literal["fast", "slow", 3] = "fast"
    steps: int = 10
    loud: bool = False
    limit: float | None = None
    level: float | Literal["keep"] = "keep"
    folder: Path = Path("data")
    tags: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)
    by_name: dict[str, Inner] = field(default_factory=dict)
    maybe: Inner | None = None
    listed: tuple[Inner, ...] = ()


@settings
class Ranges:
    count: Count | None = None
    positive: Positive = 1.0
    share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    below: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    pair: Annotated[Range, Within(-5, 5)] = (0.0, 1.0)
    some: NotEmpty[Count] = (1,)
    actors: CountOrRange = 1
    limit: Count | Percent | None = None
    name: Name = "a"


@readable
@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """No settings, but read as strictly."""

    input: str
    seconds: float = 0.0


def read(text: str, tmp_path: Path, *overrides: str) -> Outer:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return trees.load(Outer, path, overrides)


def test_what_is_written_survives_reading_again(tmp_path):
    settings = read(
        "name: a\nlimit: 3\ntags: [x, y]\ninner: {rate: 1}\nby_name: {b: {bounds: [3, 4]}}", tmp_path
    )
    trees.save(settings, tmp_path / "again.yaml")
    assert trees.load(Outer, tmp_path / "again.yaml") == settings
    assert settings.inner.rate == 1.0
    assert settings.by_name["b"].bounds == (3, 4)


def test_overrides_reach_every_depth(tmp_path):
    settings = read("name: a", tmp_path, "inner.rate=0.25", "level=-16", "tags=[z]", "loud=true")
    assert (settings.inner.rate, settings.level, settings.tags, settings.loud) == (0.25, -16.0, ("z",), True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ninner: {rat: 1}", "inner: unknown key 'rat'; did you mean 'rate'?"),
        ("name: a\nxyz: 1", "unknown key 'xyz'; known keys: name, mode"),
        ("steps: 3", "missing key 'name'"),
        ("name: a\nsteps: 1.5", "steps: expected a whole number, got 1.5"),
        ("name: a\nsteps: true", "steps: expected a whole number, got True"),
        ("name: a\nlimit: 1e-4", "got '1e-4' (YAML takes that for text; write 1.0e-4)"),
        (
            "name: a\nsteps: '7'",
            "steps: expected a whole number, got '7' (YAML takes that for text; write 7)",
        ),
        ("name: a\nmode: medium", "mode: expected one of fast, slow, 3, got 'medium'"),
        ("name: a\ninner: {rate: 2}", "inner: rate: must be at most 1, got 2.0"),
        ("name: a\ninner: 3", "inner: expected a group of settings (Inner), got 3"),
        ("name: a\ninner: {bounds: [1]}", "bounds: expected a list of 2 values, got [1]"),
        ("name: a\nby_name: {b: {rate: x}}", "by_name: b: rate: expected a number, got 'x'"),
        ("name: a\nloud: 1", "loud: expected true or false, got 1"),
        ("name: a\nmaybe: {rate: x}", "maybe: rate: expected a number, got 'x'"),
        ("name: a\nmaybe: {rat: 1}", "maybe: unknown key 'rat'; did you mean 'rate'?"),
        ("name: a\nlisted: [{}, {rate: 2}]", "listed[1]: rate: must be at most 1, got 2.0"),
        ("name: a\nlisted: {rate: 1}", "listed: expected a list, each a group of settings (Inner), got {"),
        ("name: a\ntags: [b, 3]", "tags[1]: expected text, got 3"),
        ("name: a\nfolder: 3", "folder: expected a path, got 3"),
        ("name: a\nlevel: true", "level: expected a number, or keep, got True"),
        ("name: a\ntags: !!set {b, c}", "tags: expected a list, each text, got {"),
        ("name: a\nby_name: {3: {}}", "by_name: expected keys (text) and values, got {3: {}}"),
        ("name: a\n3: b", "unknown key '3'; known keys: name, mode"),
        ("name: 2026-01-01", "name: expected text, got datetime.date(2026, 1, 1)"),
        ("nam: a", "unknown key 'nam'; did you mean 'name'?"),
        ("- a", "expected keys and values at the top"),
        ("name: [", "is not YAML"),
    ],
)
def test_a_wrong_setting_is_refused_with_file_key_and_remedy(text, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    assert message in str(caught.value)
    assert "settings.yaml" in str(caught.value)


@pytest.mark.parametrize("override", ["steps", "=3", "name.x=3", "steps=["])
def test_a_malformed_override_is_named(override, tmp_path):
    with pytest.raises(ConfigError, match="--set"):
        read("name: a", tmp_path, override)


def test_an_absent_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        trees.load(Outer, "nowhere.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count: expected a whole number from 1 on, or nothing, got 0"),
        ({"positive": 0}, "positive: expected a number above 0, got 0"),
        ({"positive": float("nan")}, "positive: expected a number above 0, got nan"),
        ({"share": 0}, "share: expected a number above 0 to 1, got 0"),
        ({"below": 1}, "below: expected a number from 0 to below 1, got 1"),
        ({"pair": (0, 6)}, "pair: expected [low, high] with -5 <= low <= high <= 5, got [0, 6]"),
        ({"pair": (1, 0)}, "pair: expected [low, high] with -5 <= low <= high <= 5, got [1, 0]"),
        ({"pair": (0, float("nan"))}, "pair: expected [low, high] with"),
        ({"pair": 3}, "pair: expected [low, high] with -5 <= low <= high <= 5, got 3"),
        ({"some": ()}, "some: expected a list of at least one, each a whole number from 1 on, got ()"),
        ({"some": (1, 0)}, "some[1]: expected a whole number from 1 on, got 0"),
        ({"actors": (2, 1)}, "a whole number from 1 on, or [low, high] with 1 <= low <= high, got (2, 1)"),
        ({"limit": "101%"}, "a whole number from 1 on, or a share such as 1%, or nothing, got '101%'"),
        ({"name": ""}, "name: expected text that is not empty, got ''"),
        ({"nam": "b"}, "unknown key 'nam'; did you mean 'name'?"),
    ],
)
def test_a_call_with_a_wrong_value_is_refused_by_its_range(values, message):
    with pytest.raises(ConfigError) as caught:
        Ranges(**values)
    assert message in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_values_within_their_ranges_are_taken():
    ends = Ranges(count=1, share=1, below=0, pair=(-5, 5), actors=[1, 1], limit="0.5 %", some=[1, 2])
    assert (ends.pair, ends.actors, ends.some, ends.share) == ((-5.0, 5.0), (1, 1), (1, 2), 1.0)


def test_groups_check_their_keys_against_each_other_wherever_they_are_built():
    with pytest.raises(ConfigError, match=r"^rate: must be at most 1, got 2\.0$"):
        Inner(rate=2)
    with pytest.raises(ConfigError, match=r"^inner: rate: must be at most 1, got 2\.0$"):
        Outer(name="a", inner={"rate": 2})
    with pytest.raises(ConfigError, match=r"^rate: must be at most 1, got 2\.0$"):
        dataclasses.replace(Inner(), rate=2)


@pytest.mark.parametrize("settings", [Ranges(count=3), EnhanceOptions(nfe=8, loudness=-16.0)])
def test_settings_are_values(settings):
    assert pickle.loads(pickle.dumps(settings)) == copy.deepcopy(settings) == dataclasses.replace(settings)
    assert hash(dataclasses.replace(settings)) == hash(settings)
    assert settings != type(settings)()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.count = 4
    with pytest.raises(TypeError):
        type(settings)(3)


def test_options_keep_the_order_that_jobs_and_records_were_written_in():
    assert list(trees.to_tree(EnhanceOptions())) == [
        *("mode", "nfe", "solver", "quality", "denoise_strength", "prior_temperature", "seed"),
        *("conceal", "declip", "strength", "guard"),
        *("channels", "loudness", "peak_limit", "format", "rate"),
        "audio_track",
        *("segment_seconds", "overlap_seconds", "context_seconds"),
    ]


def test_help_of_a_class_shows_all_of_its_fields():
    names = [field.name for field in dataclasses.fields(EnhanceOptions)]
    assert list(inspect.signature(EnhanceOptions).parameters) == names


def test_segments_are_long_enough_for_their_margins():
    with pytest.raises(ConfigError, match=r"segment_seconds: must be .* which is 6, got 5"):
        EnhanceOptions(segment_seconds=5)
    EnhanceOptions(segment_seconds=6)


def test_what_is_read_and_no_setting_is_read_as_strictly():
    name = "caf\udce9.wav"  # of a file whose name is no UTF-8
    assert trees.from_tree(Line, {"input": name, "seconds": 3}) == Line(input=name, seconds=3.0)
    with pytest.raises(ConfigError, match=r"^line 1: seconds: expected a number, got '3'"):
        trees.from_tree(Line, {"input": "a", "seconds": "3"}, where="line 1")
    with pytest.raises(ConfigError, match="unknown key 'second'; did you mean 'seconds'"):
        trees.from_tree(Line, {"input": "a", "second": 3})
