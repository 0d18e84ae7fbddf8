"""A bucket restored on a cluster: what comes out is what one machine would write, and none is lost."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import bulk_corpus
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from bulk_corpus import actors, contents, job_state, load_slowly, outputs, records
from serving import until

from enhance_ray import EnhanceOptions, Enhancer, audio, cli
from enhance_ray.cluster import scratch
from enhance_ray.cluster.bulk import BulkConfig, command, driver, inputs, run, running
from enhance_ray.cluster.bulk import plan as planning
from enhance_ray.cluster.bulk.settings import Pool
from enhance_ray.errors import ConfigError
from enhance_ray.files import Job, enhance_files


@pytest.fixture(scope="module")
def recordings(s3, tmp_path_factory):
    """24 recordings, 6 of them broken, here and in a bucket."""
    folder = tmp_path_factory.mktemp("recordings")
    whole, broken = bulk_corpus.write(folder, 24, 6)
    bulk_corpus.upload(folder, f"{s3}/bulk/in")
    return folder, whole, broken


@pytest.fixture(scope="module")
def expected(recordings, tmp_path_factory):
    """What the command line makes of them."""
    folder, whole, _ = recordings
    out = tmp_path_factory.mktemp("expected")
    assert cli.main(["denoise", str(folder), str(out), "--quiet"]) == 1
    return {name: (out / name).read_bytes() for name in whole}


def test_a_bucket_is_restored_as_files_are_and_the_next_run_does_what_is_new(
    s3, ray_cluster, recordings, expected
):
    _, whole, broken = recordings
    source, output = f"{s3}/bulk/in", f"{s3}/bulk/out"
    settings = BulkConfig(
        input=source,
        output=output,
        actors=2,
        flush_seconds=0.2,
        max_failed=None,
        price_per_cpu_hour=1,
        scores=True,
    )

    outcome = run(settings)

    assert outcome.status == "complete"
    assert outcome.parts_left == 0
    assert contents(output) == expected
    rows = {row["uri"].removeprefix(f"{source}/"): row for row in records(job_state(output))}
    assert len(records(job_state(output))) == len(rows) == 24
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {*broken}
    assert {name: rows[name]["code"] for name in broken} == dict.fromkeys(broken, "audio_unreadable")
    assert all(rows[name]["output"] == f"{output}/{name}" for name in whole)
    assert outcome.report.cost > 0
    page = fsspec.open(f"{outcome.place}/report.html").open().read().decode()
    assert "not audio" in page
    assert "Where the time went" in page
    assert "OVRL (estimate)" in page
    scores = [json.loads(rows[name]["scores"]) for name in whole]
    assert {*scores[0]} == {
        f"opinion_{scale}_{side}" for scale in ("sig", "bak", "ovrl") for side in ("in", "out")
    }
    mean = sum(score["opinion_bak_out"] for score in scores) / len(scores)
    told = json.loads(fsspec.open(f"{outcome.place}/report.json").open().read())
    assert told["scores"]["opinion_bak_out"] == pytest.approx(mean, abs=1e-9)

    # The same command again has nothing to do.
    assert run(settings).report.done == 18

    # New and changed objects are done, and what failed where that is asked for; what was done stays.
    storage = fsspec.filesystem("s3")
    wave = storage.cat_file("tests/bulk/in/show-0/0000.wav")
    storage.pipe("tests/bulk/in/show-0/new.wav", wave)
    storage.pipe(f"tests/bulk/in/{broken[0]}", wave)
    again = run(settings, retry_failed=True)
    # The object that was mended is done in its old place in the manifest, and as the new version that it is.
    assert (again.added, again.report.done, again.report.failed) == (2, 21, 5)
    assert contents(output)["show-0/new.wav"] == expected["show-0/0000.wav"]


def listed_with_a_pause(pages, until_done):
    """`inputs.pages`, but the second half of each page comes when ``until_done`` returns."""

    def listed(*arguments, **settings):
        for page in pages(*arguments, **settings):
            yield page.slice(0, len(page) // 2)
            until_done()
            yield page.slice(len(page) // 2)

    return listed


@pytest.fixture
def eager(monkeypatch):
    """Work begins with the first part."""
    monkeypatch.setattr(driver, "_LISTING_SECONDS", 0.5)
    monkeypatch.setattr(planning, "_LOOK_AHEAD", 1)
    monkeypatch.setattr(planning, "_BATCH", (1, 1))
    return monkeypatch


def test_the_first_files_are_restored_while_the_input_is_still_listed(
    ray_cluster, recordings, expected, tmp_path, eager
):
    folder, *_ = recordings
    output = str(tmp_path / "out")
    pages = listed_with_a_pause(inputs.pages, lambda: until(lambda: job_state(output).finished(), seconds=90))
    eager.setattr(inputs, "pages", pages)
    outcome = run(BulkConfig(input=str(folder), output=output, files_per_part=2, max_failed=None))
    assert (outcome.status, outcome.listed, outcome.parts_left) == ("complete", 24, 0)
    assert contents(output) == expected


def test_a_job_stops_when_it_has_cost_what_it_may_and_a_higher_limit_goes_on(
    ray_cluster, recordings, expected, tmp_path
):
    folder, *_ = recordings
    settings = BulkConfig(
        input=str(folder),
        output=str(tmp_path / "out"),
        files_per_part=2,
        max_failed=None,
        price_per_cpu_hour=3600.0,  # one for a second
        max_cost=3.0,
    )
    stopped = run(settings, load=load_slowly)
    assert stopped.status == "stopped" and stopped.parts_left
    assert stopped.report.cost > 3
    again = run(settings, load=load_slowly)  # what was spent counts
    assert again.status == "stopped" and again.parts_left
    done = run(dataclasses.replace(settings, max_cost=1e6))
    assert (done.status, done.parts_left) == ("complete", 0)
    assert contents(settings.output).keys() == expected.keys()


def test_a_listing_that_fails_on_the_way_is_told_when_what_was_found_is_done(
    ray_cluster, recordings, tmp_path, eager
):
    def fail():
        until(lambda: job_state(output).finished(), seconds=90)
        raise ConfigError("s3://bucket", "cannot be listed: expired token")

    folder, *_ = recordings
    output = str(tmp_path / "out")
    eager.setattr(inputs, "pages", listed_with_a_pause(inputs.pages, fail))
    with pytest.raises(ConfigError, match="expired token"):
        run(BulkConfig(input=str(folder), output=output, files_per_part=2, max_failed=None))
    state = job_state(output)
    assert state.finished() == set(state.parts()) != set()


def test_a_small_file_costs_few_requests_to_the_storage(s3, recordings, monkeypatch):
    """Each is billed."""
    asked = []
    ask = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *arguments, **values):
        asked.append(method)
        return await ask(self, method, *arguments, **values)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    _, whole, _ = recordings
    jobs = [Job(f"{s3}/bulk/in/{name}", f"{s3}/requests/{name}") for name in whole[:6]]
    options = EnhanceOptions(mode="denoise")
    done = list(enhance_files(jobs, Enhancer.load(denoiser_only=True), options, force=True))
    assert [record.status for record in done] == ["done"] * 6
    assert len(asked) <= 4 * len(jobs), Counter(asked)


def test_shards_come_out_as_shards(s3, ray_cluster, recordings, expected):
    folder, whole, broken = recordings
    names = [name for name in whole if name.endswith((".wav", ".flac"))][:3]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number, name in enumerate([names[0], broken[0], names[1]]):
            tar.add(folder / name, f"{number:03d}{os.path.splitext(name)[1]}")  # noqa: PTH122 - of a member
            label = json.dumps({"number": number}).encode()
            info = tarfile.TarInfo(f"{number:03d}.json")
            info.size = len(label)
            tar.addfile(info, io.BytesIO(label))
    table = pa.table(
        {
            "name": ["x.wav", "y.mp3"],
            "audio": [(folder / names[2]).read_bytes(), b"broken"],
            "speaker": ["ann", "bob"],
        }
    )
    storage = fsspec.filesystem("s3")
    storage.pipe("tests/packed/in/a.tar", packed.getvalue())
    with storage.open("tests/packed/in/b.parquet", "wb") as file:
        pq.write_table(table, file)
    output = f"{s3}/packed/out"

    outcome = run(BulkConfig(input=f"{s3}/packed/in", output=output, max_failed=None))

    assert (outcome.report.done, outcome.report.failed) == (3, 2)
    with tarfile.open(fileobj=io.BytesIO(storage.cat_file("tests/packed/out/a.tar"))) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    suffix = [os.path.splitext(name)[1] for name in names]  # noqa: PTH122
    assert list(members) == [f"000{suffix[0]}", "000.json", "001.json", f"002{suffix[1]}", "002.json"]
    assert members[f"000{suffix[0]}"] == expected[names[0]]
    assert members[f"002{suffix[1]}"] == expected[names[1]]
    assert json.loads(members["001.json"]) == {"number": 1}
    with storage.open("tests/packed/out/b.parquet") as file:
        restored = pq.read_table(file).to_pylist()
    assert [row["speaker"] for row in restored] == ["ann", "bob"]
    assert [row["audio"] for row in restored] == [expected[names[2]], None]
    members = {row["member"]: row["status"] for row in records(job_state(output))}
    assert members == {
        f"000{suffix[0]}": "done",
        "001.mp3": "failed",
        f"002{suffix[1]}": "done",
        "x.wav": "done",
        "y.mp3": "failed",
    }


def test_too_many_failures_stop_the_job_and_it_can_go_on(s3, ray_cluster, recordings, capsys):
    output = f"{s3}/budget/out"
    arguments = ["--input", f"{s3}/bulk/in", "--output", output, "--set", "actors=1", "--max-failed", "2"]

    assert command.main([*arguments, "--set", "files_at_once=1"]) == 3

    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["status"] == "stopped"
    assert said["parts_left"] > 0
    with pytest.raises(ConfigError, match="loudness keep -> -16"):
        driver.planned(command._settings(command._parser(None).parse_args([*arguments, "--loudness", "-16"])))


@pytest.mark.parametrize(
    "is_killed", [True, pytest.param(False, marks=pytest.mark.drill("an actor, which comes back"))]
)
def test_an_actor_that_is_silent_for_longer_than_its_lease_commits_nothing(
    s3, ray_cluster, recordings, expected, monkeypatch, is_killed
):
    """Stopped by a signal it obeys no call: the driver kills it. If it cannot, the ledger tells the actor."""
    folder, _, broken = recordings
    bulk_corpus.upload(folder, f"{s3}/silent/in")
    output = f"{s3}/silent/{is_killed}"
    config = BulkConfig(
        input=f"{s3}/silent/in",
        output=output,
        actors=2,
        files_per_part=6,
        flush_seconds=0.2,
        lease_seconds=10,
        max_failed=None,
    )
    given_up = threading.Event()
    end_process = running.end_process

    def give_up(node, pid):
        given_up.set()
        if is_killed:
            end_process(node, pid)
        else:
            with contextlib.suppress(ProcessLookupError):  # an actor that a smaller pool has no use for
                os.kill(pid, signal.SIGCONT)

    monkeypatch.setattr(running, "end_process", give_up)

    def stop():
        storage = fsspec.filesystem("s3")
        while True:
            storage.invalidate_cache()
            if storage.glob(f"{output.removeprefix('s3://')}/_enhance_ray/*/progress/*/*.parquet"):
                break
            time.sleep(0.05)
        os.kill(min(set(actors()) - others), signal.SIGSTOP)

    others = set(actors())  # of a job that has just ended
    threading.Thread(target=stop, daemon=True).start()
    outcome = run(config)

    assert given_up.is_set()
    assert outcome.status == "complete"
    assert contents(output) == expected
    rows = [row["uri"] for row in records(job_state(output))]
    assert len(rows) == len({*rows}) == 24
    assert outcome.report.failed == len(broken)
    assert not job_state(output).folder.names("staged")


def test_a_job_outlives_its_driver_and_a_storage_that_is_away(
    storage_server, s3, ray_cluster, recordings, expected, monkeypatch
):
    """The first run dies while the storage is away; the second one begins before it is back."""
    folder, _, broken = recordings
    bulk_corpus.upload(folder, f"{s3}/driver/in")
    output = f"{s3}/driver/out"
    code = f"""
import ray, sys
from enhance_ray.cluster.bulk import BulkConfig, driver
ray.init(address={ray_cluster.address!r}, logging_level="error", log_to_driver=False)
driver.run(BulkConfig(input=sys.argv[1], output=sys.argv[2], flush_seconds=0.2, max_failed=None))
"""
    first = subprocess.Popen([sys.executable, "-c", code, f"{s3}/driver/in", output])
    until(lambda: outputs(output), seconds=60)
    storage_server.stop()
    first.kill()
    assert first.wait() == -signal.SIGKILL

    threading.Timer(3, storage_server.start).start()
    outcome = run(BulkConfig(input=f"{s3}/driver/in", output=output, flush_seconds=0.2, max_failed=None))

    assert outcome.status == "complete"
    assert outcome.report.runs == 2
    assert contents(output) == expected
    rows = [row["uri"] for row in records(job_state(output))]
    assert len(rows) == len({*rows}) == 24
    assert outcome.report.failed == len(broken)


@pytest.mark.drill
def test_a_pool_grows_to_its_largest_size(ray_cluster, recordings, tmp_path):
    config = BulkConfig(input=str(recordings[0]), output=str(tmp_path), actors=(1, 3), files_per_part=1)

    outcome = run(config, load=load_slowly, fingerprint="slow")

    usage = json.loads(next(Path(outcome.place).glob("runs/*.json")).read_text())
    assert len(usage["actors"]) == 3


def test_actors_of_several_kinds_share_a_job_and_are_billed_by_kind(ray_cluster, recordings, tmp_path):
    config = BulkConfig(
        input=str(recordings[0]),
        output=str(tmp_path),
        pools=(Pool(actors=1, cpus_per_actor=2.0),),
        files_per_part=2,
        max_failed=None,
        price_per_cpu_hour=3600.0,  # one for a second
    )

    outcome = run(config, load=load_slowly, fingerprint="slow")

    assert (outcome.status, outcome.parts_left) == ("complete", 0)
    done = records(job_state(str(tmp_path)))
    assert len(done) == len({row["uri"] for row in done}) == 24
    usage = json.loads(next(Path(outcome.place).glob("runs/*.json")).read_text())["actors"]
    assert {row["actor"] for row in done} == usage.keys()
    assert sorted(kind for *_, kind in usage.values()) == [0, 1]
    assert outcome.report.cost == pytest.approx(
        sum(seconds * (1 + kind) for seconds, _, kind in usage.values())
    )


def test_what_a_killed_actor_left_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path, monkeypatch):
    code = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from enhance_ray.cluster.scratch import own_scratch
lock = own_scratch()
print(tempfile.mkstemp()[1], flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as actor:
        left = Path(actor.stdout.readline().strip())
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        scratch.own_scratch().release()
        assert left.exists()
        actor.kill()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch.own_scratch().release()
    assert not left.parent.exists()


def test_what_a_killed_driver_planned_with_is_removed_by_the_next_and_a_living_ones_is_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from enhance_ray.cluster.scratch import planning_folder
with planning_folder() as folder:
    print(folder, flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        left = Path(driver.stdout.readline().strip())
        with scratch.planning_folder():
            assert left.exists()
        driver.kill()
    with scratch.planning_folder():
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_plan_says_what_a_job_will_take(s3, recordings, tmp_path, capsys):
    folder, whole, broken = recordings
    arguments = ["--input", str(folder), "--output", str(tmp_path / "out"), "--plan-only", "--speed", "100"]

    assert command.main([*arguments, "--set", "price_per_cpu_hour=2", "--set", "actors=4"]) == 0

    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    seconds = sum(audio.probe(str(folder / name)).seconds for name in whole)
    half = next(name for name in broken if "half" in name)  # its header is fine
    nan = next(name for name in broken if "nan" in name)
    seconds += sum(audio.probe(str(folder / name)).seconds for name in (half, nan))
    assert said["files"] == 24
    assert said["hours"] == pytest.approx(seconds / 3600, rel=0.02)
    assert said["wall_hours"] == pytest.approx(said["actor_hours"] / 4)
    assert said["cost"] == pytest.approx(2 * said["actor_hours"])
    assert not (tmp_path / "out" / "show-0").exists()

    assert command.main([*arguments, "--finish-in", str(said["actor_hours"] / 3.5)]) == 0
    assert ": 4 actors" in capsys.readouterr().out

    dear = "{name: gpu, price_per_hour: 8, speed: 400, actors: 2}"
    cheap = "{name: cpus, price_per_hour: 0.5, speed: 25, actors: 8}"
    table = ["--set", f"machines=[{dear}, {cheap}]", "--finish-in", str(said["actor_hours"] / 4.5)]
    assert command.main([*arguments, *table]) == 0
    text = capsys.readouterr().out
    hours = said["actor_hours"]  # at a speed of 100
    assert json.loads(text.splitlines()[-1])["choices"] == [
        {
            "machine": "cpus",
            "machine_hours": pytest.approx(hours / 2),
            "cost": pytest.approx(hours / 4),
        },
        {"machine": "gpu", "machine_hours": pytest.approx(hours / 8), "cost": pytest.approx(hours)},
    ]
    assert "; 3 of them end in" in text and "; 1 of them end in" in text

    with pytest.raises(SystemExit):
        command.main([*arguments, "--finish-in", "0"])
    assert "expected a number above 0" in capsys.readouterr().err


def test_a_deadline_decides_how_many_actors_there_are(ray_cluster, recordings, tmp_path, monkeypatch, capsys):
    folder, *_ = recordings
    ran = []
    run_job = driver.run
    monkeypatch.setattr(
        driver, "run", lambda settings, **others: ran.append(settings) or run_job(settings, **others)
    )
    monkeypatch.setattr(command.session, "connect", lambda address: None)
    arguments = ["--input", str(folder), "--output", str(tmp_path / "out"), "--speed", "1"]
    assert command.main([*arguments, "--finish-in", "0.006", "--max-failed", "null"]) == 1  # some are broken
    [settings] = ran
    assert settings.actors[0] == 1 < settings.actors[1] < 6
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert outcome["status"] == "complete" and outcome["listed"] == 0  # the plan had listed
