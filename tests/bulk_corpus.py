"""A bucket of recordings as an archive has them: every codec, many lengths, some of them broken."""

import ctypes
import io
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import soundfile
import torch

from enhance_ray import audio
from enhance_ray.cluster.bulk import driver
from enhance_ray.cluster.bulk.state import JobState
from enhance_ray.enhancer import Enhancer

POISON = "poison"

SPEECH = Path(__file__).parents[1] / "samples" / "corpus" / "speech"
_FORMATS = [
    ("wav", "pcm", "s16"),
    ("flac", "flac", "s16"),
    ("mp3", "mp3", "f32"),
    ("ogg", "opus", "f32"),
    ("m4a", "aac", "f32"),
    ("wav", "pcm", "f32"),
]
_RATES = [44_100, 16_000, 22_050, 48_000, 8_000]


def write(folder, count, broken, *, shortest=1.0, longest=8.0, skew=2, seed=0):
    """Put ``count`` recordings into ``folder``, of which ``broken`` cannot be used; their names, in order.

    Lengths are drawn so that most are short; the longest is as long as asked for.
    """
    folder = Path(folder)
    random = np.random.default_rng(seed)
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SPEECH.iterdir())[:4]]
    lengths = shortest * (longest / shortest) ** (random.random(count) ** skew)
    lengths[-1] = longest
    whole = []
    for number in range(count - broken):
        container, codec, stored = _FORMATS[number % len(_FORMATS)]
        target = audio.OutputFormat(
            container=container,
            codec=codec,
            sample_format=stored,
            bit_rate=64_000 if stored == "f32" else None,
        )
        rate = _RATES[number % len(_RATES)]
        clip = clips[number % len(clips)]
        samples = int(lengths[broken + number] * rate)
        # Another rate makes another voice of it, which is as good here.
        signal = np.resize(clip, samples) + 0.01 * random.standard_normal(samples).astype(np.float32)
        rows = np.stack([signal, signal[::-1]]) if number % 7 == 3 else signal[None]
        name = f"show-{number % 5}/{number:04d}{target.extension}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with audio.encode(
            str(folder / name),
            sample_rate=rate,
            channels=len(rows),
            target=target,
            tags={"title": f"Recording {number}"},
        ) as encoder:
            for start in range(0, samples, 30 * rate):
                encoder.write(np.ascontiguousarray(rows[:, start : start + 30 * rate]))
        whole.append(name)
    bad = []
    for number in range(broken):
        name, content = damaged(number, (folder / whole[1]).read_bytes())
        path = folder / f"broken/{number:03d}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        bad.append(f"broken/{path.name}")
    return whole, bad


def damaged(number, flac):
    """A name and what is in it."""
    with_hole = io.BytesIO()
    soundfile.write(with_hole, np.array([0.1] * 5000 + [np.nan] * 10), 16_000, format="WAV", subtype="FLOAT")
    kinds = [
        ("text.mp3", b"<html>Not found</html>" * 50),
        ("empty.wav", b""),
        ("half.flac", flac[: len(flac) // 2]),
        ("nan.wav", with_hole.getvalue()),
        ("zeros.m4a", bytes(4000)),
        ("picture.ogg", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8),
    ]
    return kinds[number % len(kinds)]


def upload(folder, uri):
    """Copy a folder to a storage."""
    filesystem, root = fsspec.url_to_fs(uri)
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda p: filesystem.put_file(str(p), f"{root}/{p.relative_to(folder)}"), files))


def records(state):
    """As they are on the storage: what is there twice comes twice."""
    names = [f"records/{name}" for name in state.folder.names("records")]
    return pa.concat_tables(state.folder.read_tables(names)).to_pylist()


def job_state(output):
    return JobState(output, json.loads(fsspec.open(f"{output}/_enhance_ray/job.json").open().read())["job"])


def outputs(uri):
    """Their names in the storage, as they are now; what is read of a job at work may be gone by then."""
    filesystem, root = fsspec.url_to_fs(uri)
    filesystem.invalidate_cache()
    # Not the root: s3fs gives it as a file where the first object is written while it looks.
    return [
        name for name in filesystem.find(root) if name.startswith(f"{root}/") and "_enhance_ray" not in name
    ]


def contents(uri):
    filesystem, root = fsspec.url_to_fs(uri)
    return {name[len(root) + 1 :]: filesystem.cat_file(name) for name in outputs(uri)}


def actors(name="MapWorker.*Worker"):
    """Processes of the pool, by what Ray calls them."""
    listed = subprocess.run(["pgrep", "-f", f"ray::{name}"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def load_with_poison(settings):
    """The packaged denoiser, in a process that dies when it decodes a certain file."""
    decode = audio.decode

    def deadly(path, **options):
        if POISON in path:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(path, **options)

    audio.decode = deadly
    return driver.load_enhancer(settings)


def write_poison(folder):
    """Ten recordings that cannot be restored, of four kinds; by name the code that their records get."""
    codes = {}
    for number in range(10):
        kind = ("nan", "memory", "segfault", "damaged")[number % 4]
        path = Path(folder) / f"show-{number % 5}" / f"{POISON}-{kind}-{number}.wav"
        square = np.where(np.arange(80_000) // 80 % 2, 0.3, -0.3).astype(np.float32)
        soundfile.write(path, square, 44_100, subtype="PCM_16")
        if kind == "damaged":
            path.write_bytes(path.read_bytes()[:30])
        codes[path.name] = {"nan": "model_failed", "damaged": "audio_unreadable"}.get(kind, "process_killed")
    return codes


def load_with_every_poison(settings, log):
    """The packaged denoiser with NaN for one voice, in a process that some files end; notes in the file
    ``log`` what it is given."""
    decode = audio.decode

    def deadly(path, **options):
        if f"{POISON}-memory" in path:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does, and Ray's monitor before it
        if f"{POISON}-segfault" in path:
            ctypes.string_at(0)
        return decode(path, **options)

    audio.decode = deadly
    loaded = driver.load_enhancer(settings)
    return Enhancer(
        _NanForSquares(loaded.denoiser, log),
        framing=loaded.framing,
        fingerprint=POISON,
        device=settings.device,
        precision=settings.precision,
    )


class _NanForSquares(torch.nn.Module):
    """Weights that overflow for one voice, and do nothing to others. What is given is noted before it is
    done, so that what a process was killed over counts."""

    def __init__(self, denoiser, log):
        super().__init__()
        self.denoiser = denoiser
        self.log = log

    def forward(self, rows):
        spread = rows.abs().std(-1, keepdim=True) / rows.abs().mean(-1, keepdim=True)
        is_square = spread < 0.3
        with Path(self.log).open("a") as log:
            log.write(f"{rows[~is_square[:, 0]].numel()}\n")
        return torch.where(is_square, torch.nan, self.denoiser(rows))


class _Slow(torch.nn.Module):
    def forward(self, rows):
        time.sleep(3.0)
        return rows


def load_slowly(_):
    """A model that takes three seconds for anything, and changes nothing: time for a pool to grow."""
    return Enhancer(_Slow(), device="cpu", precision="fp32")
