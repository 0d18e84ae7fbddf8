"""The site: the sounds of its page to listen, and how links of the repository become links of the site."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import av
import listening
import numpy as np
import pytest
import site_pages
import yaml
from packaging.specifiers import SpecifierSet

import enhance_ray

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", listening.KINDS)
def test_every_kind_of_damage_is_five_seconds_that_differ_from_the_speech_and_do_not_clip(name):
    damaged, clean = listening.KINDS[name].make()
    assert damaged.shape == clean.shape == (round(listening.SECONDS * listening.MODEL_RATE),)
    assert np.abs(damaged).max() <= 1
    difference = damaged.astype(np.float64) - clean
    # The mildest damage, a missing band, is 20 dB below the speech.
    assert 10 * np.log10(np.sum(difference**2) / np.sum(clean.astype(np.float64) ** 2)) > -30


def test_a_sound_is_small_and_as_long_as_it_was(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * listening.MODEL_RATE).astype(np.float32)
    listening.write_opus(tmp_path / "noise.webm", noise)
    assert (tmp_path / "noise.webm").stat().st_size < 60_000
    with av.open(str(tmp_path / "noise.webm")) as container:
        # Opus counts in packets of 20 ms.
        assert container.duration / 1e6 == pytest.approx(5, abs=0.03)


def test_every_sample_on_the_page_has_its_licence_in_the_list_of_samples():
    source = Path(listening.__file__).read_text()
    credits = (ROOT / "samples" / "README.md").read_text()
    used = re.findall(r'"(?:noisy|clean|corpus/noise)/(\w[\w-]*?)(?:_00)?\.\w+"', source)
    assert len(used) >= 5
    assert {name for name in used if name not in credits} == set()


@pytest.mark.parametrize(
    ("page", "link", "on_site"),
    [
        ("archive.md", "../cluster.yaml", "repository/cluster.yaml"),
        ("archive.md", "operations.md#costs", "operations.md#costs"),
        ("laptop.md", "../README.md#install", "index.md#install"),
        ("index.md", "docs/laptop.md", "laptop.md"),
        ("index.md", "CHANGELOG.md", "changelog.md"),
        ("repository/samples/README.md", "clean/a.flac", "clean/a.flac"),
        ("laptop.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_links_of_the_repository_lead_to_the_same_place_on_the_site(page, link, on_site):
    asked = SimpleNamespace(file=SimpleNamespace(src_uri=page), meta={})
    assert site_pages.on_page_markdown(f"[text]({link})", asked, None, None) == f"[text]({on_site})"


def test_the_citation_and_the_changelog_are_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == enhance_ray.__version__
    [newest, *_] = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == enhance_ray.__version__


def test_the_workflow_runs_the_checks_on_every_python_that_the_package_supports():
    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())["jobs"].values()
    supported = SpecifierSet(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    versions = [f"3.{minor}" for minor in range(30)]
    assert job["strategy"]["matrix"]["python"] == [each for each in versions if each in supported]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
