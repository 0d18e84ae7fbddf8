"""Where recordings come from: folders, lists and shards give the same ones, and packing loses none."""

import json
import tarfile

import numpy as np
import pytest
import soundfile

from enhance_ray import cli
from enhance_ray.errors import AudioReadError, ConfigError
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training import bank as banks
from enhance_ray.training.bank import StreamedBank, load_bank
from enhance_ray.training.packing import PackConfig, pack
from enhance_ray.training.sources import Source, list_sources


def tone(frequency, seconds, rate=MODEL_RATE):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "speech"
    (root / "deep").mkdir(parents=True)
    for i in range(9):
        soundfile.write(root / "deep" / f"voice{i}.flac", tone(200 + 50 * i, 0.4), MODEL_RATE)
    soundfile.write(root / "voice9.wav", tone(900, 0.4, 16_000), 16_000)
    return root


def sounds(root, split=None):
    """What a corpus holds, as its recordings' lengths and first loud samples, in any order."""
    bank = StreamedBank(list_sources(str(root), ["."], split, 3))
    return sorted((bank.length(i), round(float(np.abs(bank.read(i)).sum()))) for i in range(len(bank)))


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_packing_keeps_every_recording_and_its_split(folder, tmp_path, form):
    report = pack(
        str(folder), str(tmp_path / "out"), PackConfig(format=form, shard_megabytes=0.05, held_out_every=3)
    )
    assert report.shards > 1 and report.clips == 10 and not report.failed
    for split in ("train", "valid"):
        assert sounds(tmp_path / "out", split) == sounds(folder, split)


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_a_second_run_writes_what_is_missing_and_nothing_else(folder, tmp_path, form):
    out, settings = tmp_path / "out", PackConfig(format=form, shard_megabytes=0.05)
    first = pack(str(folder), str(out), settings)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob(f"*.{form}")}
    lost = sorted(out.glob("*.index.jsonl"))[0]
    lost.unlink()
    again = pack(str(folder), str(out), settings)
    assert (first.written, again.written) == (first.shards, 1)
    assert again.clips == first.clips
    after = {path.name: path.stat().st_mtime_ns for path in out.glob(f"*.{form}")}
    name = lost.name.replace("index.jsonl", form)
    assert {n for n in after if after[n] != before.get(n)} <= {name, "manifest.parquet"}


def test_a_long_recording_becomes_pieces_that_make_it_up_again(tmp_path):
    (tmp_path / "in").mkdir()
    whole = tone(300, 5.5, 16_000)
    soundfile.write(tmp_path / "in" / "long.wav", whole, 16_000, subtype="PCM_16")
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"), PackConfig(max_seconds=2))
    assert report.clips == 3 and report.seconds == pytest.approx(5.5)
    (shard,) = (tmp_path / "out").glob("*.tar")
    with tarfile.open(shard) as tar:  # WebDataset's readers see nothing but a tar
        tar.extractall(tmp_path / "pieces", filter="data")
    pieces = [soundfile.read(path)[0] for path in sorted((tmp_path / "pieces").iterdir())]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2 / 32768)


def test_a_damaged_recording_is_named_and_costs_nothing_else(folder, tmp_path, capsys):
    (folder / "broken.wav").write_bytes(b"RIFF")
    assert cli.main(["corpus", "pack", str(folder), str(tmp_path / "out"), "-q"]) == 1
    printed = capsys.readouterr()
    assert "broken.wav" in printed.err and "10 clips" in printed.out
    assert len(list_sources(str(tmp_path / "out"), ["."], None, 8)) == 10


def test_a_packed_corpus_can_be_packed_again(folder, tmp_path):
    pack(str(folder), str(tmp_path / "one"), PackConfig(held_out_every=3))
    pack(str(tmp_path / "one"), str(tmp_path / "two"), PackConfig(format="parquet"))
    assert sounds(tmp_path / "two", "valid") == sounds(folder, "valid")


def test_a_tar_without_a_manifest_is_split_by_the_names_inside(folder, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in folder.rglob("*.*"):
            tar.add(path, path.name)
    for split in ("train", "valid"):
        assert sounds(tmp_path / "shard.tar", split) == sounds(folder, split)


def test_lists_of_every_kind_mean_the_same(folder, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"file": f"deep/voice{i}.flac", "speaker": f"s{i % 2}", "split": "train" if i < 5 else "valid"}
        for i in range(8)
    ]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["file,speaker,split", *(",".join(row.values()) for row in rows)]
    (folder / "list.csv").write_text("\n".join(lines))
    parquet.write_table(pa.Table.from_pylist(rows), folder / "list.parquet")
    found = [list_sources(str(folder), [f"list.{kind}"], "train", 8) for kind in ("jsonl", "csv", "parquet")]
    assert found[0] == found[1] == found[2]
    assert [source.group for source in found[0]] == ["s0", "s1", "s0", "s1", "s0"]


def test_streamed_recordings_equal_decoded_ones(folder, tmp_path):
    sources = list_sources(str(folder), ["."], None, 3)
    decoded, streamed = load_bank(sources, tmp_path / "cache"), StreamedBank(sources)
    for index in range(len(sources)):
        assert decoded.length(index) == streamed.length(index)
        np.testing.assert_array_equal(decoded.read(index, 1000, 500), streamed.read(index, 1000, 500))


def test_a_streamed_bank_keeps_no_more_than_it_may(folder):
    bank = StreamedBank(list_sources(str(folder), ["."], None, 3), cache_bytes=100_000)
    for index in range(len(bank)):
        bank.read(index)
        assert sum(samples.nbytes for samples in bank._cache.values()) <= 100_000


def test_an_hour_long_recording_is_read_in_parts(folder, monkeypatch):
    monkeypatch.setattr(banks, "LONG_SECONDS", 0.3)
    sources = list_sources(str(folder), ["."], None, 3)
    long, short = StreamedBank(sources), StreamedBank(sources)
    monkeypatch.setattr(banks, "LONG_SECONDS", 100.0)
    for index in range(len(sources)):
        whole = short.read(index)
        monkeypatch.setattr(banks, "LONG_SECONDS", 0.3)
        assert long.length(index) == whole.size
        np.testing.assert_allclose(long.read(index, 2000, 3000), whole[2000:5000], atol=1 / 32767)
        assert not long._cache
        monkeypatch.setattr(banks, "LONG_SECONDS", 100.0)


def test_a_streamed_recording_that_cannot_be_read_is_named_once_and_empty(tmp_path, caplog):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    bank = StreamedBank([Source(str(tmp_path / "bad.wav"))])
    assert bank.length(0) == 0 and bank.read(0).size == 0
    assert caplog.text.count("bad.wav") == 1


def test_companions_are_of_the_same_speaker():
    bank = StreamedBank([Source("a", "ann"), Source("b", "bob"), Source("c", "ann"), Source("d", "")])
    assert [list(bank.companions(i)) for i in range(4)] == [[0, 2], [1], [0, 2], [3]]


def test_a_shard_that_ends_early_says_so(tmp_path):
    (tmp_path / "shard.tar").write_bytes(b"x" * 100)
    with pytest.raises(AudioReadError, match=r"shard\.tar#50\+100.*after 50 of 100 bytes"):
        Source(str(tmp_path / "shard.tar"), place=(50, 100)).content()


def test_a_folder_with_nothing_to_pack_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty"):
        pack(str(tmp_path / "empty"), str(tmp_path / "out"))


def test_uris_are_listed_packed_and_read(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*.*"):
        memory.pipe(f"/corpus/in/{path.relative_to(folder)}", path.read_bytes())
    assert sounds("memory://corpus/in") == sounds(folder)
    pack("memory://corpus/in", "memory://corpus/out", PackConfig(held_out_every=3))
    assert sounds("memory://corpus/out", "valid") == sounds(folder, "valid")
