"""Ray Data gives the examples that a loop on one machine would make."""

import torch

from enhance_ray.cluster.feed import DataConfig, RayFeed
from enhance_ray.training.examples import ExampleConfig, Examples, batches, load_banks

EXAMPLES = ExampleConfig(crop_seconds=0.3, crops_per_clip=2)


def feed(corpus, **changes):
    settings = {"batch_size": 2, "rank": 0, "world_size": 1, "data": DataConfig(tasks=2)}
    return RayFeed(corpus=corpus, examples=EXAMPLES, seed=3, **{**settings, **changes})


def test_batches_are_those_of_a_loop_on_one_machine_in_their_order(ray_cluster, corpus):
    parts = ("noisy", "target", "clean")
    got = list(feed(corpus)(parts, first=6, steps=7))
    examples = Examples(load_banks(corpus, "train"), EXAMPLES, 3, parts)
    expected = batches(examples, batch_size=2, first=6, steps=7, rank=0, world_size=1, workers=0)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_workers_share_what_one_of_them_would_have(ray_cluster, corpus, monkeypatch):
    """Over the seam of two datasets, too."""
    monkeypatch.setattr("enhance_ray.cluster.feed.STEPS_PER_DATASET", 3)
    alone = list(feed(corpus, batch_size=4)(("noisy",), first=0, steps=4))
    shares = [list(feed(corpus, rank=rank, world_size=2)(("noisy",), first=0, steps=4)) for rank in range(2)]
    for step in range(4):
        for name in ("index", "noisy"):
            together = torch.cat([share[step][name] for share in shares])
            torch.testing.assert_close(together, alone[step][name], rtol=0, atol=0)


def test_a_worker_that_makes_its_examples_itself_makes_the_same(ray_cluster, corpus):
    by_tasks, alone = (
        list(feed(corpus, data=DataConfig(tasks=tasks))(("clean",), first=0, steps=3)) for tasks in (2, 0)
    )
    for one, other in zip(by_tasks, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_batches_may_be_written_to(ray_cluster, corpus):
    """What lies in the object store may not; a training step that scales in place would stop there."""
    next(feed(corpus)(("clean",), first=0, steps=1))["clean"].mul_(2)
