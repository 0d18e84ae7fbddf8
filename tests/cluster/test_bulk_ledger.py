"""A file that kills processes is found by the deaths around it, and nothing else is blamed."""

import queue
import threading

import pytest

from enhance_ray.cluster.bulk.feed import FileTask, Part, TaskFeed
from enhance_ray.cluster.bulk.ledger import Closed, Ledger, Opened
from enhance_ray.files import Job
from enhance_ray.records import Record


def ledger(dead_nodes=(), **options):
    return Ledger(
        lambda node: node not in dead_nodes, lambda part, attempt: True, lease_seconds=60.0, **options
    )


def begin(of, part, actor, node="n"):
    return of.begin(part, f"attempt of {actor}", actor, node, 1)


def open_files(of, actor, *names, part="p", alone=False, node="n", closed=()):
    of.note(
        actor,
        node,
        1,
        [Opened(part, name, alone) for name in names],
        [Closed(part, name, failed=False, bytes=1) for name in closed],
    )


def take(of, ticket, actor, kind=0):
    taken = of.take(ticket, actor, "n", 1, kind)
    return taken and taken.part


def test_tickets_become_parts_in_order_and_who_comes_after_a_death_gets_the_same(tmp_path):
    kept = ledger(file=tmp_path / "ledger")
    kept.offer(["p", "q"])
    assert take(kept, "ticket 1", "first") == "p"
    assert take(kept, "ticket 2", "second") == "q"
    assert take(kept, "ticket 3", "second") is None
    assert kept.snapshot().parts_waiting == 0
    kept = ledger(file=tmp_path / "ledger")  # it is started again
    assert take(kept, "ticket 1", "third") == "p"
    begin(kept, "p", "third")
    kept.end("p", "attempt of third")
    kept.offer(["r"])
    assert take(kept, "ticket 1", "third") == "r"  # its answer was lost with a machine


def test_who_was_given_up_is_not_told_that_nothing_is_left():
    kept = ledger()
    kept.offer(["p", "q"])
    begin(kept, "p", "first")
    begin(kept, "p", "second")
    assert kept.take("ticket", "first", "n", 1, 0) is None


def test_a_slow_kind_of_actors_takes_no_part_for_which_the_fast_one_would_wait():
    """Five times slower: at the end, five parts of the others are as long as one of its own."""
    now = [0.0]
    kept = ledger(clock=lambda: now[0])
    kept.offer([f"p{number}" for number in range(9)])
    assert take(kept, "fast 1", "fast", kind=0) == "p0"
    assert take(kept, "slow 1", "slow", kind=1) == "p1"  # nobody knows yet
    now[0] = 10.0
    kept.note("fast", "n", 1, seconds_done=500.0)
    kept.note("slow", "n", 1, seconds_done=100.0)
    assert take(kept, "slow 2", "slow", kind=1) == "p2"
    for number in range(3, 6):
        assert take(kept, f"fast {number}", "fast") == f"p{number}"
    assert take(kept, "slow 3", "slow", kind=1) is None
    assert [take(kept, f"last {number}", "fast") for number in range(4)] == ["p6", "p7", "p8", None]


def test_what_was_open_when_an_actor_died_is_tried_alone_and_condemned_if_that_kills_three_times():
    kept = ledger()
    begin(kept, "p", "first")
    open_files(kept, "first", "good", "bad", "done")
    open_files(kept, "first", "good", "bad", closed=["done"])

    attempt = begin(kept, "p", "second")
    assert attempt.suspects == {"good", "bad"}
    assert not attempt.condemned
    open_files(kept, "second", "good", alone=True)
    open_files(kept, "second", "bad", alone=True, closed=["good"])

    for actor in ("third", "fourth"):
        attempt = begin(kept, "p", actor)
        assert attempt.suspects == {"bad"}
        assert not attempt.condemned
        open_files(kept, actor, "bad", alone=True)

    attempt = begin(kept, "p", "fifth")
    assert attempt.condemned == {"bad"}
    assert not attempt.suspects
    assert kept.snapshot().deaths == 4


def test_a_file_that_was_not_alone_is_never_condemned():
    kept = ledger()
    for life in range(8):
        attempt = begin(kept, "p", f"actor-{life}")
        open_files(kept, f"actor-{life}", "innocent", "neighbour")

    assert not attempt.condemned


def test_lost_machines_are_not_held_against_a_file_as_killed_processes_are():
    kept = ledger(dead_nodes={"lost"})
    for life in range(6):
        attempt = begin(kept, "p", f"actor-{life}", "lost")
        assert bool(attempt.condemned) == (life >= 5)
        open_files(kept, f"actor-{life}", "file", alone=True, node="lost")


def test_two_parts_of_one_actor_come_back_each_with_its_own_suspects():
    kept = ledger()
    for part in ("p", "q"):
        begin(kept, part, "first")
    kept.note("first", "n", 1, [Opened(part, f"of-{part}", alone=False) for part in ("p", "q")])

    assert begin(kept, "p", "second").suspects == {"of-p"}
    assert begin(kept, "q", "third").suspects == {"of-q"}


def test_an_actor_hears_that_it_is_to_stop():
    kept = ledger()
    assert kept.note("actor", "n", 1) is None
    kept.stop("drain")
    assert kept.note("actor", "n", 1) == "drain"


# --------------------------------------------------------------------------- feed


class Announced:
    def __init__(self):
        self.batches = []

    def __call__(self, tasks):
        self.batches.append([task.name for task in tasks])


def part_of(*names, alone=(), name="p"):
    part = Part(name, iter(()))
    part.tasks = iter([FileTask(Job(n, f"out-{n}"), part, n, alone=n in alone) for n in names])
    return part


def answer(feed, name):
    record = Record(input=name, status="done")
    feed.answer(feed.task_of(record), record)


def test_files_are_announced_before_they_are_opened_and_a_part_hears_of_its_end():
    announced = Announced()
    feed = TaskFeed(announced)
    part = part_of("a", "b")
    feed.add(part)

    assert next(feed).input == "a"
    assert announced.batches == [["a", "b"]]
    assert next(feed).input == "b"
    answer(feed, "b")
    answer(feed, "a")
    feed.add(part_of("c", name="q"))
    next(feed)

    answers = [part.answers.get_nowait() for _ in range(3)]
    assert [a if a is None else a[0].name for a in answers] == [None, "b", "a"]
    assert part.opened == 2


def inputs_of(feed):
    """What comes out of it, as it comes."""
    given = queue.SimpleQueue()

    def take():
        for job in feed:
            given.put(job.input)

    threading.Thread(target=take, daemon=True).start()
    return given


def nothing_comes(given):
    with pytest.raises(queue.Empty):
        given.get(timeout=0.2)
    return True


def test_a_suspect_waits_until_all_before_it_is_written_down_and_nothing_opens_beside_it():
    feed = TaskFeed(Announced())
    part = part_of("a", "suspect", "b", alone={"suspect"})
    feed.add(part)
    given = inputs_of(feed)

    assert given.get(timeout=5) == "a"
    assert nothing_comes(given)
    answer(feed, "a")
    assert nothing_comes(given)
    task, _ = part.answers.get_nowait()
    assert task.name == "a"
    part.answers.get_nowait()()
    assert given.get(timeout=5) == "suspect"
    assert nothing_comes(given)
    answer(feed, "suspect")
    assert given.get(timeout=5) == "b"
    feed.close()


def test_a_suspect_does_not_wait_for_a_part_that_is_gone():
    feed = TaskFeed(Announced())
    gone, part = part_of("a", name="gone"), part_of("suspect", alone={"suspect"})
    feed.add(gone)
    feed.add(part)
    given = inputs_of(feed)

    assert given.get(timeout=5) == "a"
    answer(feed, "a")
    part.answers.get(timeout=5)()
    assert nothing_comes(given)
    feed.remove(gone)
    assert given.get(timeout=5) == "suspect"
    feed.close()


def test_a_closed_feed_ends_even_for_who_waits():
    feed = TaskFeed(Announced())
    ended = threading.Event()

    def take():
        list(feed)
        ended.set()

    threading.Thread(target=take, daemon=True).start()
    feed.close()
    assert ended.wait(5)
