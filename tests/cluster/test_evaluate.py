"""An evaluation on a cluster: the numbers of one machine, from folders on S3, with rows and a page there."""

import dataclasses
import math

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from small_models import small_enhancer_net

from enhance_ray import checkpoint, evaluation
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.cluster import evaluate
from enhance_ray.cluster.evaluate import EvaluateClusterConfig, EvaluateJobConfig
from enhance_ray.errors import ConfigError
from enhance_ray.evaluation import SystemConfig
from enhance_ray.settings.options import MODEL_RATE


@pytest.fixture
def model(tmp_path):
    _, net = small_enhancer_net()
    settings = ModelConfig(kind="enhancer", name="small", denoiser=net.denoiser.config, enhancer=net.config)
    checkpoint.save(tmp_path / "small", settings, net.state_dict())
    return str(tmp_path / "small")


@pytest.fixture
def folders(s3, tmp_path):
    """Three pairs of noise of 1 s on S3, of which the second cannot be read."""
    rng = np.random.default_rng(0)
    for folder in ("clean", "noisy"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            soundfile.write(
                tmp_path / folder / f"{name}.wav", 0.1 * rng.standard_normal(MODEL_RATE), MODEL_RATE
            )
    (tmp_path / "noisy" / "b.wav").write_bytes(b"nothing")
    for folder in ("clean", "noisy"):
        fsspec.filesystem("s3").put(f"{tmp_path / folder}/", f"tests/pairs/{folder}/", recursive=True)
    return f"{s3}/pairs"


@pytest.mark.drill
def test_rows_are_those_of_one_machine(ray_cluster, model, folders, s3):
    config = EvaluateJobConfig(
        clean=f"{folders}/clean",
        noisy=f"{folders}/noisy",
        metrics=("si_sdr", "lsd"),
        systems=(
            SystemConfig(name="small", model=model),
            SystemConfig(name="ideal", folder=f"{folders}/clean"),
        ),
        cluster=EvaluateClusterConfig(
            actors=2, cpus_per_actor=0.5, output=f"{s3}/rows", report=f"{s3}/report.html"
        ),
    )
    there = evaluate.evaluate(config)
    settings = evaluation.resolve(config)
    here = list(evaluation.run(settings, evaluation.plan(settings), device="cpu"))
    assert [outcome.failed is None for outcome in there] == [True, False, True]
    assert there[1].failed == here[1].failed
    for ours, theirs in zip(here, there, strict=True):
        assert ours.item == theirs.item
        for a, b in zip(ours.rows, theirs.rows, strict=True):
            for key in a.keys() - {"rtf"}:
                alike = pytest.approx(a[key], abs=1e-3, nan_ok=True) if isinstance(a[key], float) else a[key]
                assert b[key] == alike, key
    rows = pq.read_table(f"{s3.removeprefix('s3://')}/rows", filesystem=fsspec.filesystem("s3")).to_pylist()
    assert sorted((row["name"], row["system"]) for row in rows) == [
        (name, system) for name in "ac" for system in ("ideal", "input", "small")
    ]
    assert all(math.isnan(row["rtf"]) == (row["system"] != "small") for row in rows)
    text = fsspec.open(f"{s3}/report.html", "rt").open().read()
    assert text.count("<audio") == 2 * 4 and "b.wav" in text


def test_a_page_has_the_name_of_a_page():
    with pytest.raises(ConfigError, match=r"report: expected a path that ends in \.html"):
        dataclasses.replace(EvaluateClusterConfig(), report="rows")
