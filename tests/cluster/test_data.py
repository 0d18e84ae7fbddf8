"""Restoration as a step of a Ray Data pipeline."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from enhance_ray import EnhanceOptions, Enhancer
from enhance_ray.cluster.data import RESTORED, Restore, read_recordings, restore, write_recordings

RATE = 16_000


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def file_of(samples, form="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=form)
    return file.getvalue()


@pytest.fixture(scope="module")
def denoise():
    return Restore(EnhanceOptions(mode="denoise", format="wav"))


def test_a_batch_has_restored_files_and_reasons_in_the_place_of_recordings(denoise):
    batch = pa.table(
        {
            "uri": ["s3://b/a.wav", "s3://b/b.flac", "s3://b/broken.mp3", "s3://b/none.wav"],
            "show": ["news"] * 4,
            "audio": [file_of(noise(1.0)), file_of(noise(0.5, 1), "FLAC"), b"no sound", None],
        }
    )
    answer = denoise(batch)
    assert answer.column_names == ["uri", "show", "audio", *RESTORED.names]
    assert answer["status"].to_pylist() == ["done", "done", "failed", "failed"]
    assert answer["reason"].to_pylist()[3] == "it is null" and answer["reason"].to_pylist()[2]
    assert answer["code"].to_pylist() == [None, None, "audio_unreadable", "audio_unreadable"]
    assert answer["seconds"].to_pylist()[:2] == [1.0, 0.5]
    expected, rate = Enhancer.load(denoiser_only=True).denoise(noise(1.0), RATE)
    samples, found_rate = soundfile.read(io.BytesIO(answer["audio"][0].as_py()), dtype="float32")
    assert found_rate == rate
    np.testing.assert_allclose(samples, expected, atol=2e-3)


def test_what_datasets_of_others_call_audio_is_taken(denoise):
    """A struct of bytes and path, as Hugging Face's datasets have it."""
    recording = {"bytes": file_of(noise(0.5), "FLAC"), "path": "x/a.flac"}
    answer = denoise(pa.table({"audio": pa.array([recording])}))
    assert answer["status"].to_pylist() == ["done"]
    assert answer["seconds"].to_pylist() == [0.5]


def test_a_folder_is_read_restored_and_written(ray_cluster, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.wav", "deep/b.wav"):
        (tmp_path / "in" / name).write_bytes(file_of(noise(0.5)))
    (tmp_path / "in" / "broken.wav").write_bytes(b"")
    restored = restore(read_recordings(str(tmp_path / "in")), EnhanceOptions(mode="denoise", format="flac"))
    rows = write_recordings(restored, str(tmp_path / "out")).take_all()
    assert {Path(row["uri"]).name: row["status"] for row in rows} == {
        "a.wav": "done",
        "b.wav": "done",
        "broken.wav": "failed",
    }
    written = [row["output"] for row in rows if row["output"]]
    assert sorted(written) == [f"{tmp_path}/out{tmp_path}/in/{name}.flac" for name in ("a.wav", "deep/b.wav")]
    assert all(soundfile.info(name).duration == 0.5 for name in written)


def test_the_example_of_the_guide_runs(ray_cluster, tmp_path):
    """As it is written but for its two folders: the cluster was started elsewhere than in their place."""
    guide = Path(__file__).parents[2] / "docs" / "pipelines.md"
    [code] = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    speech = Path(__file__).parents[2] / "samples" / "noisy"
    files = sorted(speech.iterdir())[:2]
    (tmp_path / "recordings").mkdir()
    table = pa.table({"uri": [*(file.name for file in files), "broken.mp3"],
                      "audio": [*(file.read_bytes() for file in files), b"no sound"]})  # fmt: skip
    pq.write_table(table, tmp_path / "recordings" / "0.parquet")
    for name in ("recordings", "texts"):
        assert code.count(f'"{name}"') == 1
        code = code.replace(f'"{name}"', repr(str(tmp_path / name)))
    exec(compile(code, str(guide), "exec"), {"__name__": "__main__"})
    rows = pq.read_table(tmp_path / "texts").to_pylist()
    assert sorted(row["uri"] for row in rows) == sorted(table["uri"].to_pylist())
    for row in rows:
        if row["uri"] == "broken.mp3":
            assert row["status"] == "failed" and row["reason"] and row["text"] == ""
        else:
            assert row["status"] == "done" and row["text"].split() and row["seconds"] > 1
