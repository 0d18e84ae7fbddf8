"""Strict YAML settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    bounds: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ConfigError("rate", f"must be at most 1, got {self.rate}")


@dataclass(frozen=True, kw_only=True)
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
        ("name: a\ninner: {bounds: [1]}", "bounds: expected 2 values, got 1"),
        ("name: a\nby_name: {b: {rate: x}}", "by_name: b: rate: expected a number, got 'x'"),
        ("name: a\nloud: 1", "loud: expected true or false, got 1"),
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
