"""A folder that is watched: what has stopped growing is restored once, and what failed is put aside."""

import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
from torch import nn

from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import ConfigError
from enhance_ray.files import watch
from enhance_ray.settings.options import EnhanceOptions

RATE = 44_100
OPTIONS = EnhanceOptions(segment_seconds=1, overlap_seconds=0.1, context_seconds=0.1)


def write(path, seconds=0.5, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)), RATE)
    return path


class Watcher:
    """`watch` in a thread."""

    def __init__(self, source, target, **settings):
        self.records, self.stop = [], threading.Event()
        engine = Enhancer(nn.Identity(), device="cpu", precision="fp32")
        running = watch(
            source, target, engine, OPTIONS, every=0.05, stop=self.stop, **{"settle": 0.3, **settings}
        )
        self.thread = threading.Thread(target=lambda: self.records.extend(running))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(20)

    def wait_for(self, path, seconds=20):
        until = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < until and self.thread.is_alive(), f"{path} never came"
            time.sleep(0.02)


def test_what_is_there_and_what_arrives_is_restored_and_a_restart_repeats_nothing(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.wav"), write(source / "sub" / "b.flac")
    with Watcher(source, target) as watcher:
        watcher.wait_for(target / "a.wav")
        watcher.wait_for(target / "sub" / "b.flac")
        write(source / "late.wav")
        watcher.wait_for(target / "late.wav")
    times = {path: path.stat().st_mtime_ns for path in target.rglob("*.*") if path.is_file()}
    with Watcher(source, target) as watcher:
        write(source / "later.wav")
        watcher.wait_for(target / "later.wav")
    assert len(watcher.records) == 1
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_file_that_still_grows_is_left_until_it_rests(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    whole = write(tmp_path / "whole.wav", 3).read_bytes()
    with Watcher(source, target, settle=0.6) as watcher, (source / "a.wav").open("wb") as file:
        for part in range(8):
            file.write(whole[part * len(whole) // 8 : (part + 1) * len(whole) // 8])
            file.flush()
            time.sleep(0.2)
            assert not (target / "a.wav").exists()
        file.close()
        watcher.wait_for(target / "a.wav")
    assert soundfile.info(target / "a.wav").frames == 3 * RATE
    assert [record.status for record in watcher.records] == ["done"]


def test_a_recording_that_is_replaced_is_restored_again(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.wav", 0.5)
    with Watcher(source, target) as watcher:
        watcher.wait_for(target / "a.wav")
        write(source / "a.wav", 1.0)
        until = time.monotonic() + 20
        while soundfile.info(target / "a.wav").frames != RATE:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_what_cannot_be_used_is_put_aside_with_its_reason_and_costs_nothing_else(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.wav")
    (source / "sub").mkdir()
    (source / "sub" / "broken.mp3").write_bytes(b"no mp3" * 100)
    (source / "notes.txt").write_text("no sound")
    with Watcher(source, target) as watcher:
        watcher.wait_for(target / "failed" / "sub" / "broken.mp3.txt")
        watcher.wait_for(target / "a.wav")
    assert not (source / "sub" / "broken.mp3").exists()
    assert (target / "failed" / "sub" / "broken.mp3").exists()
    assert "audio" in (target / "failed" / "sub" / "broken.mp3.txt").read_text()
    assert (source / "notes.txt").exists()


def test_two_inputs_of_one_stem_have_two_outputs(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.wav")
    shutil.copy(write(tmp_path / "x.w64"), source / "a.w64")
    with Watcher(source, target) as watcher:
        watcher.wait_for(target / "a.wav")
        watcher.wait_for(target / "a.w64.wav")


def test_folders_that_would_feed_each_other_are_refused(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    engine = Enhancer(nn.Identity(), device="cpu", precision="fp32")
    for source, target in (("in", "in"), ("in", "in/out"), ("in/sub", "in"), ("none", "out")):
        with pytest.raises(ConfigError):
            next(watch(tmp_path / source, tmp_path / target, engine, OPTIONS))
    with pytest.raises(ConfigError, match="this machine"):
        next(watch("s3://bucket/in", tmp_path / "out", engine, OPTIONS))


def test_the_command_ends_when_it_is_told_to(tmp_path):
    write(tmp_path / "in" / "a.wav")
    command = [sys.executable, "-m", "enhance_ray", "watch", str(tmp_path / "in"), str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--settle", "0"], stderr=subprocess.PIPE, env=os.environ)
    until = time.monotonic() + 60
    while not (tmp_path / "out" / "a.wav").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.terminate()
    _, words = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"done: " in words
