import dataclasses
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from fsspec.implementations.memory import MemoryFileSystem
from music import jingle
from torch import nn

from enhance_ray import audio, cli, metrics, report
from enhance_ray.dsp.segments import Segment
from enhance_ray.engine import scores
from enhance_ray.engine.analysis import Piece
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioWriteError, ConfigError
from enhance_ray.files import Job, done_before, enhance_files, plan_jobs, target_format
from enhance_ray.records import read_records
from enhance_ray.settings.options import EnhanceOptions

RATE = 44_100
SAMPLES = Path(__file__).parents[2] / "samples"
OPTIONS = EnhanceOptions(segment_seconds=1, overlap_seconds=0.1, context_seconds=0.1)


def enhancer(module=None):
    return Enhancer(module or nn.Identity(), device="cpu", precision="fp32", fingerprint="identity")


def write_noise(path, seconds=2.5, *, channels=1, rate=RATE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, noise, rate, subtype="PCM_16")
    return path


def samples(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


@pytest.fixture
def folder(tmp_path):
    """Five good recordings in two folders, and one that is damaged."""
    for number, seconds in enumerate([0.3, 2.5, 5, 0.9, 3.7]):
        write_noise(
            tmp_path / "in" / f"day{number % 2}" / f"{number}.wav",
            seconds,
            channels=1 + number % 2,
            seed=number,
        )
    (tmp_path / "in" / "damaged.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEnothing")
    return tmp_path


def run(folder, module=None, options=OPTIONS, **settings):
    jobs = plan_jobs(str(folder / "in"), str(folder / "out"), options)
    return list(enhance_files(jobs, enhancer(module), options, **settings))


def outputs(folder):
    return sorted(path.relative_to(folder / "out") for path in (folder / "out").rglob("*") if path.is_file())


def file_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("file-")]


@pytest.mark.parametrize("files_at_once", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_good_input_becomes_an_output_and_a_record_whatever_the_batches(
    folder, files_at_once, batch_size
):
    records = run(folder, files_at_once=files_at_once, batch_size=batch_size)
    assert sorted(record.status for record in records) == ["done"] * 5 + ["failed"]
    for record in records:
        if record.status == "done":
            np.testing.assert_array_equal(samples(record.output), samples(record.input))
    assert len(outputs(folder)) == 5


def test_a_record_says_what_was_done(tmp_path):
    source = write_noise(tmp_path / "a.wav", 2, channels=2, rate=16_000)
    (record,) = enhance_files([Job(str(source), str(tmp_path / "b.wav"))], enhancer(), OPTIONS)
    assert (record.input, record.output) == (str(source), str(tmp_path / "b.wav"))
    assert (record.seconds, record.sample_rate, record.channels) == (2.0, 16_000, 2)
    assert (record.model, record.options["segment_seconds"]) == ("identity", 1)
    assert 0 < record.seconds_spent < 10
    assert record.peak_in == pytest.approx(20 * np.log10(np.abs(samples(source)).max()), abs=1e-4)
    assert record.loudness_out == pytest.approx(record.loudness_in, abs=0.6)  # the top of the band is gone
    assert soundfile.info(record.output).samplerate == RATE


def test_records_score_input_and_output_where_that_is_asked_for(tmp_path):
    sample = SAMPLES / "noisy/kathleen_helicopter.flac"
    model = Enhancer.load(device="cpu", denoiser_only=True)
    jobs = [Job(str(sample), str(tmp_path / "b.flac"))]
    (record,) = enhance_files(jobs, model, scores=True, report_path=tmp_path / "records.jsonl")
    assert set(record.scores) == {f"{name}_{side}" for name in metrics.OPINIONS for side in ("in", "out")}
    assert all(1 <= score <= 5 for score in record.scores.values())
    assert record.scores["opinion_bak_out"] > record.scores["opinion_bak_in"] + 0.5
    assert read_records(tmp_path / "records.jsonl") == [record]
    (plain,) = enhance_files(jobs, model, force=True)
    assert plain.scores == {}


def test_a_long_recording_is_scored_every_half_minute_and_where_it_is_loud(monkeypatch):
    heard = []

    def listen(waveform):
        heard.append(waveform)
        return torch.full((len(waveform), 3), 3.0)

    monkeypatch.setattr(scores.opinion, "load", lambda: listen)
    keeper = scores.Scores()
    assert keeper.result() == {}
    quiet = torch.full((1, 30 * RATE), 0.001)
    loud = quiet.clone()
    loud[:, 20 * RATE : 25 * RATE] = 0.5
    for second in (0, 10, 20, 28, 56):
        segment = Segment(second * RATE, (second + 30) * RATE, last=False)
        keeper.hear(
            Piece(segment, quiet, torch.ones(1, 1), torch.ones(30 * RATE), torch.full((1,), torch.inf)), loud
        )
    assert len(heard) == 3
    assert {window.shape for window in heard} == {(2, scores.WINDOW)}
    assert all((window[1] == 0.5).sum() == 5 * RATE for window in heard)
    assert keeper.result()["opinion_sig_in"] == 3.0


def test_a_record_tells_what_a_guard_kept(tmp_path):
    sample, rate = soundfile.read(SAMPLES / "clean/kathleen_helicopter.flac", dtype="float32")
    soundfile.write(tmp_path / "a.wav", np.concatenate([sample, jingle(8.0)]), rate)
    model = Enhancer.load(device="cpu", denoiser_only=True)
    jobs = [Job(str(tmp_path / "a.wav"), str(tmp_path / "b.wav"))]
    options = EnhanceOptions(guard=True)
    (record,) = enhance_files(jobs, model, options, report_path=tmp_path / "records.jsonl")
    assert [(span["kept"], span["reason"]) for span in record.guard] == [("original", "music")]
    assert record.guard[0]["start"] == pytest.approx(8, abs=1.5)
    assert read_records(tmp_path / "records.jsonl") == [record]
    page = tmp_path / "report.html"
    report.html(page, [record])
    assert "<h2>Guard</h2>" in page.read_text()


def test_the_record_of_a_failure_says_why_and_leaves_no_output(folder):
    (failed,) = (record for record in run(folder) if record.status == "failed")
    assert failed.input.endswith("damaged.wav")
    assert failed.code == "audio_unreadable"
    assert failed.reason
    assert failed.output is None


def test_an_input_that_breaks_off_in_the_middle_leaves_nothing_or_what_there_was_with_a_warning(tmp_path):
    whole = write_noise(tmp_path / "whole.wav", 6).read_bytes()
    broken = tmp_path / "broken.wav"
    broken.write_bytes(whole[: len(whole) // 2])
    job = Job(str(broken), str(tmp_path / "out" / "broken.wav"))
    (record,) = enhance_files([job], enhancer(), OPTIONS)
    assert (record.status, record.code) == ("failed", "audio_unreadable")
    assert list((tmp_path / "out").iterdir()) == []

    (record,) = enhance_files([job], enhancer(), OPTIONS, partial=True)
    assert record.status == "done"
    assert record.warning
    assert record.seconds == pytest.approx(3, abs=0.01)


def test_any_name_that_a_folder_holds_is_done_and_its_record_leads_back_to_it(tmp_path):
    names = [b"a.wav", b"caf\xe9.wav", b"show :: 1.wav", b"50% #1.wav", "line\u2028end\n.wav".encode()]
    sound = write_noise(tmp_path / "in" / "a.wav")
    for name in names[1:]:
        shutil.copy(sound, tmp_path / "in" / os.fsdecode(name))
    report_path = tmp_path / "report.jsonl"

    jobs = plan_jobs(str(tmp_path / "in"), str(tmp_path / "out"), OPTIONS)
    list(enhance_files(jobs, enhancer(), OPTIONS, report_path=report_path))
    records = read_records(report_path)
    report.html(tmp_path / "report.html", records, examples=5)

    report_path.read_text(encoding="utf-8")
    assert sorted(os.fsencode(Path(record.input).name) for record in records) == sorted(names)
    assert {record.status for record in records} == {"done"}
    assert all(Path(record.output).exists() for record in records)
    assert sorted(os.fsencode(path.name) for path in (tmp_path / "out").iterdir()) == sorted(names)


def test_an_output_that_exists_is_kept_unless_forced(tmp_path):
    source = write_noise(tmp_path / "a.wav")
    existing = tmp_path / "b.wav"
    existing.write_text("precious")
    (record,) = enhance_files([Job(str(source), str(existing))], enhancer(), OPTIONS)
    assert (record.code, existing.read_text()) == ("audio_unwritable", "precious")
    assert record.reason == f"cannot write {existing}: it exists (--force overwrites it)"
    (record,) = enhance_files([Job(str(source), str(existing))], enhancer(), OPTIONS, force=True)
    assert record.status == "done"
    np.testing.assert_array_equal(samples(existing), samples(source))


def test_an_output_that_cannot_be_written_costs_no_computing(tmp_path):
    class Unused(nn.Module):
        def forward(self, rows):
            raise AssertionError("the model ran")

    source = write_noise(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    (record,) = enhance_files([Job(str(source), str(tmp_path / "b.wav"))], enhancer(Unused()), OPTIONS)
    assert record.status == "failed"


def test_segments_of_several_files_share_a_batch(tmp_path):
    batches = []

    class Slow(nn.Module):
        """Gives the file threads time to bring more, as a real model does."""

        def forward(self, rows):
            batches.append(len(rows))
            time.sleep(0.1)
            return rows

    jobs = [
        Job(str(write_noise(tmp_path / f"{i}.wav", 1, seed=i)), str(tmp_path / "out" / f"{i}.wav"))
        for i in range(9)
    ]
    list(enhance_files(jobs, enhancer(Slow()), OPTIONS, batch_size=4, files_at_once=4))
    assert sum(batches) == 9
    assert max(batches) > 1


def test_few_inputs_are_open_at_a_time_and_jobs_are_taken_as_they_are_needed(tmp_path):
    source = write_noise(tmp_path / "a.wav", 0.5)
    taken = 0

    def jobs():
        nonlocal taken
        for number in range(20):
            taken += 1
            yield Job(str(source), str(tmp_path / "out" / f"{number}.wav"))

    records = enhance_files(jobs(), enhancer(), OPTIONS, files_at_once=2)
    next(records)
    records.close()
    assert taken < 20


class BugAfter(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, rows):
        self.calls -= 1
        if self.calls < 0:
            raise ZeroDivisionError("a bug")
        return rows


def test_segments_of_a_long_file_do_not_pile_up(tmp_path):
    """With the garbage collector off, which counts objects and lets large ones wait for very long."""

    class Counting(nn.Module):
        calls, most_pieces = 0, 0

        def forward(self, rows):
            self.calls += 1
            pieces = sum(type(thing) is Piece for thing in gc.get_objects())
            self.most_pieces = max(self.most_pieces, pieces)
            return rows

    write_noise(tmp_path / "in" / "long.wav", 40)
    model = Counting()
    gc.collect()
    gc.disable()
    gc.freeze()  # the objects of all other tests need not be looked through at each call
    try:
        run(tmp_path, model)
    finally:
        gc.unfreeze()
        gc.enable()
    assert model.calls > 40
    assert model.most_pieces <= 4


def test_a_bug_in_the_model_stops_the_run_without_torn_outputs(folder):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(folder, BugAfter(4))
    assert not file_threads()
    for path in outputs(folder):
        np.testing.assert_array_equal(samples(folder / "out" / path), samples(folder / "in" / path))


def test_a_bug_in_a_file_thread_stops_the_run_too(folder, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("enhance_ray.files.work.Restoration", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(folder)
    assert not file_threads()
    assert outputs(folder) == []


def test_a_recording_on_which_the_model_fails_costs_no_other_one(folder):
    class FailsOnLoud(nn.Module):
        def forward(self, rows):
            return rows / (rows.mean(dim=-1, keepdim=True).abs() < 0.5)

    constant = folder / "in" / "constant.wav"
    soundfile.write(constant, np.full(RATE, 0.5, np.float32), RATE)
    records = {Path(record.input).name: record for record in run(folder, FailsOnLoud())}
    failed = records.pop("constant.wav")
    assert (failed.status, failed.code) == ("failed", "model_failed")
    assert failed.reason == "the model gave NaN or infinite samples"
    assert not (folder / "out" / "constant.wav").exists()
    assert any(record.status == "done" for record in records.values())
    assert all(record.code != "model_failed" for record in records.values())


def test_a_broken_source_of_jobs_stops_the_run(tmp_path):
    def jobs():
        yield Job(str(write_noise(tmp_path / "a.wav")), str(tmp_path / "b.wav"))
        raise RuntimeError("the bucket is gone")

    with pytest.raises(RuntimeError, match="the bucket is gone"):
        list(enhance_files(jobs(), enhancer(), OPTIONS))
    assert not file_threads()


def test_closing_the_iterator_leaves_complete_outputs_only(folder):
    records = enhance_files(
        plan_jobs(str(folder / "in"), str(folder / "out"), OPTIONS), enhancer(), OPTIONS, files_at_once=2
    )
    next(records)
    records.close()
    assert not file_threads()
    for path in outputs(folder):
        np.testing.assert_array_equal(samples(folder / "out" / path), samples(folder / "in" / path))


def test_a_run_that_is_told_to_stop_leaves_a_record_of_every_output(tmp_path):
    for number in range(40):
        write_noise(tmp_path / "in" / f"{number}.wav", 0.3, seed=number)
    for files in (3, 9, 17):
        stop = threading.Event()

        def stop_soon(_, files=files, stop=stop):
            if len(list((tmp_path / "out").glob("[!.]*"))) >= files:
                stop.set()

        records = run(tmp_path, files_at_once=8, force=True, stop=stop, progress=stop_soon)

        assert not file_threads()
        assert {record.output for record in records} == {str(tmp_path / "out" / o) for o in outputs(tmp_path)}
        assert files <= len(records) < 40
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("name", ["batch_size", "files_at_once"])
def test_numbers_below_one_are_refused_before_anything_starts(name):
    with pytest.raises(ConfigError, match=f"{name}: must be at least 1, got 0"):
        enhance_files([], enhancer(), **{name: 0})


def test_progress_ends_with_all_files_and_all_seconds(folder):
    seen = []
    run(folder, progress=seen.append)
    fractions = [moment.fraction for moment in seen]
    assert fractions == sorted(fractions)
    last = seen[-1]
    assert (last.files_total, last.files_done, last.files_failed, last.fraction) == (6, 5, 1, 1.0)
    assert last.seconds_done == pytest.approx(0.3 + 2.5 + 5 + 0.9 + 3.7, abs=1e-4)
    assert last.seconds_left == 0
    assert any(0 < moment.fraction < 1 for moment in seen)


def test_a_second_run_skips_what_the_report_shows_as_done(folder):
    path = folder / "report.jsonl"
    first = run(folder, report_path=path)
    assert sorted(r.input for r in read_records(path)) == sorted(r.input for r in first)
    done = done_before(path, "identity", OPTIONS)
    again = run(folder, BugAfter(0), report_path=path, done=done)
    assert sorted(record.status for record in again) == ["failed"] + ["skipped"] * 5


def test_what_is_missing_is_done_again(folder):
    path = folder / "report.jsonl"
    first = run(folder, report_path=path)
    gone = next(record for record in first if record.status == "done")
    Path(gone.output).unlink()
    again = run(folder, done=done_before(path, "identity", OPTIONS))
    assert [record.input for record in again if record.status == "done"] == [gone.input]


def test_only_the_same_model_and_options_count_as_done(folder):
    path = folder / "report.jsonl"
    run(folder, report_path=path)
    assert len(done_before(path, "identity", OPTIONS)) == 5
    assert done_before(path, "another", OPTIONS) == {}
    assert done_before(path, "identity", dataclasses.replace(OPTIONS, strength=0.5)) == {}
    assert done_before(folder / "none.jsonl", "identity", OPTIONS) == {}


KILLED = """
import sys, time
from pathlib import Path
import torch
from enhance_ray.files import enhance_files, plan_jobs
from enhance_ray.settings.options import EnhanceOptions
from enhance_ray.engine.analysis import Piece
from enhance_ray.enhancer import Enhancer
from enhance_ray.records import read_records

class Slow(torch.nn.Module):
    def forward(self, rows):
        time.sleep(0.02)
        return rows

root = sys.argv[1]
options = EnhanceOptions(segment_seconds=1, overlap_seconds=0.1, context_seconds=0.1)
enhancer = Enhancer(Slow(), device="cpu", precision="fp32", fingerprint="identity")
jobs = plan_jobs(root + "/in", root + "/out")
for record in enhance_files(jobs, enhancer, options, report_path=root + "/r.jsonl"):
    print(record.input, flush=True)
"""


def test_a_killed_run_is_finished_by_the_next_without_computing_anything_twice(tmp_path):
    for number in range(12):
        write_noise(tmp_path / "in" / f"{number}.wav", 3, seed=number)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    done = done_before(tmp_path / "r.jsonl", "identity", OPTIONS)
    assert 3 <= len(done) < 12
    jobs = plan_jobs(str(tmp_path / "in"), str(tmp_path / "out"), OPTIONS)
    records = list(
        enhance_files(jobs, enhancer(), OPTIONS, done=done, report_path=tmp_path / "r.jsonl", force=True)
    )
    assert {record.input for record in records if record.status == "skipped"} == set(done)
    for number in range(12):
        np.testing.assert_array_equal(
            samples(tmp_path / "out" / f"{number}.wav"), samples(tmp_path / "in" / f"{number}.wav")
        )
    inputs = [record.input for record in read_records(tmp_path / "r.jsonl")]
    assert sorted(inputs) == sorted(str(tmp_path / "in" / f"{number}.wav") for number in range(12))


# What a source and a target mean.


def planned(source, target, **options):
    return {job.input: job.output for job in plan_jobs(str(source), str(target), EnhanceOptions(**options))}


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_keeps_its_tree_and_names_change_by_their_extension_only(tmp_path):
    touch(tmp_path, "in/a.wav", "in/b/c.d.MP3", "in/b/e.mp4", "in/f.wma", "in/notes.txt")
    plan = planned(tmp_path / "in", tmp_path / "out")
    relative = {
        Path(i).relative_to(tmp_path / "in").as_posix(): Path(o).relative_to(tmp_path / "out").as_posix()
        for i, o in plan.items()
    }
    assert relative == {"a.wav": "a.wav", "b/c.d.MP3": "b/c.d.MP3", "b/e.mp4": "b/e.mp4", "f.wma": "f.wav"}
    flac = planned(tmp_path / "in", tmp_path / "out", format="flac")
    assert flac[str(tmp_path / "in/b/c.d.MP3")] == str(tmp_path / "out/b/c.d.flac")


def test_a_slash_at_the_end_of_a_folder_changes_nothing(tmp_path):
    touch(tmp_path, "in/a.wav")
    assert planned(f"{tmp_path}/in/", f"{tmp_path}/out/") == {f"{tmp_path}/in/a.wav": f"{tmp_path}/out/a.wav"}


def test_inputs_that_would_share_an_output_keep_their_whole_name(tmp_path):
    touch(tmp_path, "in/talk.m4a", "in/talk.aac", "in/talk.3gp", "in/other.3gp")
    assert sorted(Path(output).name for output in planned(tmp_path / "in", tmp_path / "out").values()) == [
        "other.m4a",
        "talk.3gp.m4a",
        "talk.aac.m4a",
        "talk.m4a",
    ]


def test_a_folder_s_other_files_are_passed_over_with_a_word(tmp_path, caplog):
    touch(
        tmp_path,
        "in/a.w64",
        "in/b.WV",
        "in/deep/c.tta",
        "in/notes.txt",
        "in/more.TXT",
        "in/cover.jpg",
        "in/.x",
    )

    assert len(planned(tmp_path / "in", tmp_path / "out")) == 3

    assert "3 files are passed over" in caplog.text
    assert ".txt (2), .jpg (1)" in caplog.text


def test_outputs_of_an_earlier_run_inside_the_input_folder_are_no_inputs(tmp_path):
    touch(tmp_path, "a.wav", "clean/a.wav")
    assert planned(tmp_path, tmp_path / "clean") == {str(tmp_path / "a.wav"): str(tmp_path / "clean/a.wav")}


def test_a_file_goes_to_a_file_or_into_a_folder(tmp_path):
    touch(tmp_path, "a.mp4", "there/x")
    source = str(tmp_path / "a.mp4")
    assert planned(source, tmp_path / "b.flac") == {source: str(tmp_path / "b.flac")}
    assert planned(source, tmp_path / "b.mkv") == {source: str(tmp_path / "b.mkv")}
    assert planned(source, tmp_path / "there") == {source: str(tmp_path / "there" / "a.mp4")}
    assert planned(source, f"{tmp_path}/new/") == {source: str(tmp_path / "new" / "a.mp4")}


def test_a_list_keeps_the_tree_below_the_folder_that_all_share(tmp_path):
    listed = tmp_path / "files.txt"
    listed.write_text("/data/x/a.wav\n\n/data/y/z/b.flac\n/data/x/a.wav\n")
    assert planned(f"@{listed}", tmp_path) == {
        "/data/x/a.wav": f"{tmp_path}/x/a.wav",
        "/data/y/z/b.flac": f"{tmp_path}/y/z/b.flac",
    }


def test_json_lines_may_name_outputs_and_remote_places(tmp_path):
    listed = tmp_path / "files.jsonl"
    rows = [
        {"uri": "s3://bucket/x/a.wav", "bytes": 12},
        {"uri": "s3://bucket/x/b.wav", "output": "s3://other/b.wav"},
        {"uri": "s3://bucket/x/c.wav", "output": "sub/c.wav"},
    ]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert planned(listed, "s3://clean/") == {
        "s3://bucket/x/a.wav": "s3://clean/a.wav",
        "s3://bucket/x/b.wav": "s3://other/b.wav",
        "s3://bucket/x/c.wav": "s3://clean/sub/c.wav",
    }


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.jsonl", '{"uri": "a.wav"}\n{"url": "b.wav"}\n', "row 2: expected"),
        ("a.jsonl", '{"uri": \n', "line 1: is not JSON"),
        ("@a.txt", "\n", "the list is empty"),
        ("@none.txt", None, "cannot be read"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_line(tmp_path, name, text, reason):
    path = tmp_path / name.removeprefix("@")
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        plan_jobs(f"@{path}" if name.startswith("@") else str(path), str(tmp_path / "out"))


def test_a_plan_that_would_lose_something_is_refused(tmp_path):
    touch(tmp_path, "in/a.wav", "in/b.wav", "file")
    with pytest.raises(ConfigError, match="is an input too"):
        planned(tmp_path / "in", tmp_path / "in")
    with pytest.raises(ConfigError, match="is an input too"):
        planned(tmp_path / "in" / "a.wav", tmp_path / "in" / "a.wav")
    with pytest.raises(ConfigError, match="must be a folder"):
        planned(tmp_path / "in", tmp_path / "file")
    listed = tmp_path / "a.jsonl"
    listed.write_text('{"uri": "a.wav", "output": "x.wav"}\n{"uri": "b.wav", "output": "x.wav"}\n')
    with pytest.raises(ConfigError, match=r"would come from both a\.wav and b\.wav"):
        planned(listed, tmp_path / "out")


def test_a_plan_without_inputs_or_with_a_name_that_says_no_format_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "a.wav")
    with pytest.raises(ConfigError, match=r"missing: there is no such file or folder"):
        planned(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(ConfigError, match="no audio was found"):
        planned(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ConfigError, match="must be a folder, or end in one of"):
        planned(tmp_path / "a.wav", tmp_path / "b.doc")
    with pytest.raises(ConfigError, match="does not end in"):
        planned(tmp_path / "a.wav", tmp_path / "b.wav", format="flac")


def test_the_name_of_an_output_decides_its_format_where_the_options_leave_it(tmp_path):
    info = audio.probe(str(write_noise(tmp_path / "a.wav")))
    assert target_format(info, "b.wav", "keep").codec == "pcm"
    assert target_format(info, "b.FLAC", "keep").codec == "flac"
    assert target_format(info, "b.m4a", "keep").codec == "aac"
    assert target_format(info, "b.ogg", "keep").codec == "opus"
    assert target_format(info, "b.mp3", "mp3").codec == "mp3"
    with pytest.raises(AudioWriteError, match="its extension must be one of"):
        target_format(info, "b.aiff", "keep")


def test_what_is_lossless_stays_so_in_a_container_of_many_codecs(tmp_path):
    info = audio.probe(str(write_noise(tmp_path / "a.wav")))
    for codec, kept in (("flac", "flac"), ("wavpack", "flac"), ("aac", "aac"), ("pcm", "pcm")):
        stored = dataclasses.replace(info, codec=codec, sample_format="s24")
        found = target_format(stored, "b.mka", "keep")
        assert (found.container, found.codec) == ("mka", kept)
    assert target_format(dataclasses.replace(info, codec="flac"), "b.mkv", "keep").codec == "flac"
    touch(tmp_path / "in", "show.mka")
    assert [job.output for job in plan_jobs(str(tmp_path / "in"), "out")] == ["out/show.mka"]


def test_an_output_below_a_file_says_which_file(tmp_path):
    source = write_noise(tmp_path / "a.wav", 0.3)
    (record,) = enhance_files([Job(str(source), f"{source}/deep/b.wav")], enhancer(), OPTIONS)
    assert record.reason.endswith(f"its folder cannot be made: {source} is none")


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_what_is_printed_of_a_name_that_is_no_utf_8_is_valid_and_leads_back(tmp_path, capsys):
    name = str(tmp_path / os.fsdecode(b"caf\xe9.wav"))
    write_noise(tmp_path / "a.wav", 0.3).rename(name)
    assert cli.main(["info", name, "--json"]) == 0
    printed = capsys.readouterr().out
    printed.encode()
    assert json.loads(printed)["path"] == name
    assert cli.main(["info", name]) == 0
    capsys.readouterr().out.encode()


def test_what_a_file_is_decides_over_what_it_is_called(tmp_path):
    """A flac that is called .wav becomes a true wav."""
    source = write_noise(tmp_path / "a.flac").rename(tmp_path / "a.wav")
    (record,) = enhance_files([Job(str(source), str(tmp_path / "b.wav"))], enhancer(), OPTIONS)
    assert record.status == "done"
    assert soundfile.info(record.output).format == "WAV"


def test_remote_files_are_read_and_written(tmp_path):
    local = write_noise(tmp_path / "a.wav")
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "/bucket/in/x/a.wav")
    jobs = plan_jobs("memory://bucket/in", "memory://bucket/out", OPTIONS)
    (record,) = enhance_files(jobs, enhancer(), OPTIONS)
    assert (record.status, record.output) == ("done", "memory://bucket/out/x/a.wav")
    memory.get("/bucket/out/x/a.wav", str(tmp_path / "b.wav"))
    np.testing.assert_array_equal(samples(tmp_path / "b.wav"), samples(local))
    (again,) = enhance_files(jobs, enhancer(), OPTIONS, done={record.input: record})
    assert again.status == "skipped"
    memory.rm("/bucket", recursive=True)


class Flaky(MemoryFileSystem):
    """Fails at certain calls, and works at the next."""

    protocol = "flaky"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    failures: ClassVar = Counter()

    @classmethod
    def fail(cls, what):
        if cls.failures[what]:
            cls.failures[what] -= 1
            raise OSError(f"{what}: server closed the connection")

    def _open(self, path, mode="rb", **options):
        if mode != "rb":
            return super()._open(path, mode, **options)
        self.fail("open")
        return FlakyFile(self.store[self._strip_protocol(path)].getvalue())

    def put_file(self, source, target, **options):
        self.fail("put")
        return super().put_file(source, target, **options)


class FlakyFile(io.BytesIO):
    def read(self, *size):
        Flaky.fail("read")
        return super().read(*size)


@pytest.fixture
def flaky(tmp_path):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.failures.clear()
    local = write_noise(tmp_path / "a.wav")
    storage = fsspec.filesystem("flaky")
    storage.pipe("flaky://flaky/a.wav", local.read_bytes())
    yield Job("flaky://flaky/a.wav", "flaky://flaky/b.wav")
    storage.store.clear()


@pytest.mark.parametrize("what", ["open", "read", "put"])
def test_a_storage_that_fails_for_a_moment_is_asked_again_and_nothing_is_computed_twice(flaky, what):
    computed = []
    Flaky.failures[what] = 2

    (record,) = enhance_files([flaky], enhancer(Counting(computed)), OPTIONS, patience=10)

    assert record.status == "done"
    assert Flaky.failures[what] == 0
    assert len(computed) == 4  # its segments, each once
    assert record.output_bytes == len(fsspec.filesystem("flaky").cat_file("flaky://flaky/b.wav"))


@pytest.mark.parametrize(
    ("what", "code"),
    [("open", "storage_unreadable"), ("read", "storage_unreadable"), ("put", "storage_unwritable")],
)
def test_a_storage_that_stays_away_is_a_failure_of_its_own_kind(flaky, what, code):
    Flaky.failures[what] = 10_000

    (record,) = enhance_files([flaky], enhancer(), OPTIONS, patience=0.3)

    assert (record.status, record.code) == ("failed", code)
    assert "server closed the connection" in record.reason


class Counting(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, rows):
        self.calls.append(len(rows))
        return rows


def test_a_record_says_where_the_time_went(tmp_path):
    class Slow(nn.Module):
        def forward(self, rows):
            time.sleep(0.2)
            return rows

    job = Job(str(write_noise(tmp_path / "a.wav")), str(tmp_path / "b.wav"))
    (record,) = enhance_files([job], enhancer(Slow()), OPTIONS)

    assert set(record.stages) == {"decode", "prepare", "wait", "model", "encode"}
    assert record.stages["model"] >= 0.2
    assert record.stages["wait"] > 0
    assert record.output_bytes == (tmp_path / "b.wav").stat().st_size


def test_peaks_above_full_scale_are_lowered_for_a_format_that_clips_and_kept_by_one_that_does_not(tmp_path):
    time = np.arange(2 * RATE) / RATE
    wave = (np.sin(2 * np.pi * 220 * time) * np.where(time > 1, 4.0, 0.5)).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", wave, RATE, subtype="FLOAT")
    jobs = [Job(str(tmp_path / "loud.wav"), str(tmp_path / f"out.{kind}")) for kind in ("flac", "wav")]

    lowered, kept = sorted(enhance_files(jobs, enhancer(), OPTIONS), key=lambda record: record.output)

    assert samples(tmp_path / "out.wav").max() == pytest.approx(4.0, abs=1e-3)
    assert (kept.warning, kept.peak_reduction) == (None, 0)
    out = samples(tmp_path / "out.flac")[0]
    assert out.max() == pytest.approx(1.0, abs=1e-3)
    assert np.mean(np.abs(out) > 0.9999) < 0.01  # 0.84 of the second half, if clipped
    np.testing.assert_allclose(out[: RATE - 1000], wave[: RATE - 1000], atol=1e-3)
    assert lowered.warning == "its peaks were 12.0 dB above full scale and were lowered"
    assert lowered.peak_reduction == pytest.approx(12.04, abs=0.05)
    assert lowered.peak_out == pytest.approx(0, abs=0.01)


class Closed(MemoryFileSystem):
    """Lets nobody in, and says so by a class of its own."""

    protocol = "closed"

    def info(self, path, **_):
        raise RuntimeError("the signature does not match\nand more of it")

    _open = info


@pytest.mark.parametrize(
    "arguments",
    [
        ["closed://bucket/talk.wav", "out.wav"],
        ["closed://bucket/shows/", "out"],
        ["@closed://bucket/list.txt", "out"],
        [str(SAMPLES / "noisy" / "kathleen_helicopter.flac"), "closed://bucket/out.flac"],
    ],
)
def test_a_storage_that_lets_nobody_in_is_one_line(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fsspec.register_implementation("closed", Closed, clobber=True)

    assert cli.main(["denoise", *arguments, "--quiet"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("enhance-ray: closed://bucket/")
    assert line.endswith(": the signature does not match")
