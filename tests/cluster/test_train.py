"""Training on Ray Train: the same numbers on any number of workers, and nothing lost with one of them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

pytest.importorskip("ray")

from enhance_ray.cluster import train
from enhance_ray.cluster.train import ClusterTrainConfig, fit
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions
from enhance_ray.training import loop
from enhance_ray.training.context import METRICS_NAME, LocalContext

REPOSITORY = Path(__file__).parents[2]
STEPS = 20
SLOWLY = {"validate_every": 1, "checkpoint_every": 2}
"""Time to be killed in: steps take milliseconds, validations half a second."""


@pytest.fixture(scope="session")
def settings(corpus, s3):
    """The smallest nets that learn something in twenty steps."""
    tree = {
        "batch_size": 4,
        "model": {"hidden": 4, "blocks": 1, "middle_blocks": 0, "features": "compressed", "bands": 32},
        "enhancer": {
            "mels": 24,
            "autoencoder": {"latent": 8, "extra": 4, "hidden": 32, "blocks": 1, "groups": 8},
            "velocity": {"hidden": 32, "layers": 4, "time_channels": 16},
            "vocoder": {"channels": 4, "noise": 8, "predictor_hidden": 8},
        },
        "autoencoder": {
            "gan_start": 15,
            "discriminator": {"periods": [2], "period_channels": [4, 8], "resolution_channels": 4},
        },
        "examples": {"crop_seconds": 0.5, "silence_probability": 0, "distort_probability": 0},
        "loss": {"spectrum": 5.0, "resolutions": [512], "keep_level": True},
        "optimizer": {"max_lr": 0.003, "warmup_steps": 2, "max_steps": STEPS, "ema_decay": 0.5},
        "log_every": 1,
        "validate_every": STEPS,
        "checkpoint_every": 10,
        "validation_examples": 3,
        "validation_seconds": 1.0,
        "cluster": {"storage": f"{s3}/runs", "workers": 2, "data": {"tasks": 1}, "resize_seconds": 2.0},
    }
    loaded = trees.from_tree(ClusterTrainConfig, tree)
    return dataclasses.replace(loaded, corpus=corpus)


def in_run(settings, run, cluster=None, **changes):
    cluster = dataclasses.replace(settings.cluster, run=run, **(cluster or {}))
    return dataclasses.replace(settings, cluster=cluster, **changes)


def lines(settings):
    """What the run has written; later parts replace earlier ones of the same step."""
    storage = fsspec.filesystem("s3")
    folder = f"{settings.cluster.storage}/{settings.cluster.run}/board".removeprefix("s3://")
    found = {}
    storage.invalidate_cache()
    for name in sorted(storage.glob(f"{folder}/metrics-*.jsonl")):
        for line in storage.cat_file(name).decode().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["step"], {}).update(entry)
    return found


def curve(settings, name="train/loss"):
    return {step: entry[name] for step, entry in sorted(lines(settings).items()) if name in entry}


def falls(values):
    values = list(values.values())
    return np.mean(values[-5:]) < 0.95 * np.mean(values[:5])


def on_this_machine(settings, folder, batch_size):
    """The curve of the same run without Ray, and its checkpoint."""
    run = dataclasses.replace(settings, batch_size=batch_size, workers=0)
    context = LocalContext(folder, device=torch.device("cpu"))
    scores = loop.run(run, context)
    lines = map(json.loads, (folder / METRICS_NAME).read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}, scores


@pytest.fixture(scope="session")
def alone(settings, tmp_path_factory):
    """The run that others are compared with: one process, undisturbed."""
    return on_this_machine(settings, tmp_path_factory.mktemp("alone"), 4)


def test_two_workers_do_to_1e_4_what_one_process_does(ray_cluster, settings, alone):
    run = in_run(settings, "together", batch_size=2)
    result = fit(run)
    got, (expected, scores) = curve(run), alone
    assert sorted(got) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(got.values()), list(expected.values()), atol=1e-4, rtol=0)
    assert falls(got)
    # Validation is shared out, and its sum is that of one.
    assert result.metrics["valid/loss"] == pytest.approx(scores["loss"], abs=1e-4)


@pytest.mark.drill
def test_both_stages_of_the_enhancer_train_on_two_workers_and_restore(ray_cluster, settings, tmp_path):
    stage_1 = in_run(settings, "stage_1", stage="autoencoder")
    first = fit(stage_1)
    assert falls(curve(stage_1))
    assert sorted(curve(stage_1, "train/critics_mpd_fake")) == list(range(16, STEPS + 1))
    # Norms in the losses and statistics are of all workers' batch. Adversarial steps amplify rounding.
    expected, _ = on_this_machine(stage_1, tmp_path, 8)
    before_critics = slice(0, 15)
    np.testing.assert_allclose(
        list(curve(stage_1).values())[before_critics], list(expected.values())[before_critics], rtol=1e-4
    )

    flow = dataclasses.replace(
        settings.flow, autoencoder_from=f"{settings.cluster.storage}/stage_1", validation_nfe=2
    )
    stage_2 = in_run(settings, "stage_2", stage="flow", flow=flow)
    second = fit(stage_2)
    assert falls(curve(stage_2))
    assert first.checkpoint.startswith("s3://")
    enhancer = Enhancer.load(second.checkpoint, device="cpu")
    noise = 0.1 * np.random.default_rng(0).standard_normal(30_000).astype(np.float32)
    restored, _ = enhancer.enhance(noise, MODEL_RATE, EnhanceOptions(mode="enhance", nfe=2))
    assert restored.shape == noise.shape and np.isfinite(restored).all()


def worker_pids():
    """Processes of Ray Train's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::RayTrainWorker"):
            found.append(int(folder.name))
    return found


def wait_until(condition, timeout=90):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def checkpoints(settings):
    storage = fsspec.filesystem("s3")
    storage.invalidate_cache()
    folder = f"{settings.cluster.storage}/{settings.cluster.run}".removeprefix("s3://")
    return sorted(name.rpartition("/")[2] for name in storage.glob(f"{folder}/step_*"))


@pytest.mark.drill("a worker of two")
def test_a_worker_that_is_killed_costs_the_steps_since_the_last_checkpoint(
    ray_cluster, settings, alone, tally
):
    run = in_run(settings, "killed_worker", batch_size=2, **SLOWLY)
    results = []
    training = threading.Thread(target=lambda: results.append(fit(run)))
    training.start()
    # The first of two is complete.
    wait_until(lambda: len(checkpoints(run)) >= 2 and len(worker_pids()) == 2)
    os.kill(worker_pids()[0], signal.SIGKILL)
    training.join(120)
    assert results, "the training did not end"
    compare(run, alone, tally)
    fsspec.filesystem("s3").invalidate_cache()
    parts = fsspec.filesystem("s3").glob("tests/runs/killed_worker/board/metrics-*.jsonl")
    assert len(parts) >= 2, "the group was to start a second time"


def compare(run, alone, tally):
    """Count steps that are missing, and those whose loss is another than in the undisturbed run."""
    got, (expected, _) = curve(run), alone
    tally(
        lost=len(expected.keys() - got.keys()),
        doubled=len(got.keys() - expected.keys()),
        torn=sum(abs(got[step] - expected[step]) > 1e-4 for step in expected.keys() & got.keys()),
    )


def start_driver(run, cluster, tmp_path):
    trees.save(run, tmp_path / "run.yaml")
    job = [sys.executable, "jobs/train.py", str(tmp_path / "run.yaml"), "--address", cluster.address]
    log = (tmp_path / "log").open("a")
    return subprocess.Popen(job, stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPOSITORY)


@pytest.mark.drill("the driver")
def test_the_same_command_goes_on_after_the_driver_was_killed(ray_cluster, settings, alone, tmp_path, tally):
    run = in_run(settings, "killed_driver", batch_size=2, **SLOWLY)
    driver = start_driver(run, ray_cluster, tmp_path)
    wait_until(lambda: len(checkpoints(run)) >= 2 or driver.poll() is not None)
    driver.kill()
    driver.wait()
    again = start_driver(run, ray_cluster, tmp_path)
    answer, _ = again.communicate(timeout=150)
    assert again.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    assert json.loads(answer.splitlines()[-1])["checkpoint"].endswith(f"step_{STEPS:08d}")
    compare(run, alone, tally)


@pytest.mark.drill("the second of two nodes")
def test_a_run_grows_with_the_cluster_and_shrinks_with_it(ray_cluster, settings, tmp_path, tally):
    optimizer = dataclasses.replace(settings.optimizer, max_steps=100_000)
    cluster = {"workers": (1, 2), "worker_resources": {"trainer": 1}}
    run = in_run(settings, "elastic", cluster, batch_size=2, optimizer=optimizer, validate_every=100_000)

    def group_size():
        sizes = curve(run, "train/workers")
        return sizes[max(sizes)] if sizes else 0

    first = ray_cluster.add_node(num_cpus=2, resources={"trainer": 1}, object_store_memory=80 * 2**20)
    driver = start_driver(run, ray_cluster, tmp_path)
    second = None
    try:
        wait_until(lambda: group_size() == 1)
        second = ray_cluster.add_node(num_cpus=2, resources={"trainer": 1}, object_store_memory=80 * 2**20)
        wait_until(lambda: group_size() == 2)
        ray_cluster.remove_node(second, allow_graceful=False)
        second = None
        wait_until(lambda: group_size() == 1)
    finally:
        driver.kill()
        driver.wait()
        for node in filter(None, (first, second)):
            ray_cluster.remove_node(node)
    sizes = curve(run, "train/workers")
    tally(lost=max(sizes) - len(sizes))


def test_a_corpus_that_is_not_there_stops_the_run_with_one_clear_error(ray_cluster, settings):
    nowhere = dataclasses.replace(settings.corpus, speech=("nowhere",))
    with pytest.raises(ConfigError, match="nowhere"):
        fit(in_run(settings, "nowhere", corpus=nowhere))


def test_an_error_that_would_come_again_is_handed_back_by_a_worker_and_not_raised(settings, monkeypatch):
    """Ray Train would start the group again and again for one that is raised."""
    nowhere = dataclasses.replace(settings.corpus, root="/nowhere")
    run = in_run(settings, "handed_back", corpus=nowhere, workers=0)
    monkeypatch.setattr(
        train, "RayContext", lambda storage, folder: LocalContext(folder, device=torch.device("cpu"))
    )
    monkeypatch.setattr(train, "enter_job_folder", lambda: None)
    found = train._train_on_worker({"config": trees.to_tree(run), "storage": "nowhere"})
    assert isinstance(found, ConfigError)
    assert "/nowhere" in str(found)


def test_more_workers_than_the_cluster_holds_are_refused_at_once(ray_cluster, settings):
    with pytest.raises(ConfigError, match="cluster has 6"):
        fit(in_run(settings, "too_many", {"workers": 50}))
