"""What a bulk job's input is found to be, and what of it is new."""

import contextlib
import csv
import dataclasses
import datetime
import gzip
import json
import re
import urllib.parse

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from enhance_ray.cluster.bulk import identity
from enhance_ray.cluster.bulk import plan as planning
from enhance_ray.cluster.bulk.identity import Fingerprint, open_job
from enhance_ray.cluster.bulk.index import Index
from enhance_ray.cluster.bulk.inputs import manifests
from enhance_ray.cluster.bulk.settings import BulkConfig, Pool
from enhance_ray.cluster.bulk.state import MANIFEST, RECORDS, JobState
from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import EnhanceOptions


@pytest.fixture
def folder(tmp_path):
    """Names in a tree; planning does not open them."""
    for name in (
        "b/2.mp3",
        "a/1.wav",
        "a/deep/x.flac",
        "notes.txt",
        "c.wma",
        "d.tar",
        ".hidden.wav",
        "manifest.parquet",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "in"


def settings(source, target, **others):
    return BulkConfig(input=str(source), output=str(target), **others)


def planned(config, state):
    planning.plan(config, state)
    rows = []
    for part in state.parts():
        rows += state.manifest(part).to_pylist()
    return rows


def uris(rows, root):
    return [row["uri"].removeprefix(f"{root}/") for row in rows]


def test_a_run_that_begins_again_reads_each_part_once(folder, tmp_path, monkeypatch):
    config = settings(folder, tmp_path / "out", files_per_part=2)
    planning.plan(config, JobState(config.output, "job"))
    state = JobState(config.output, "job")
    planning.plan(config, state)
    sizes = {part: sum(state.manifest(part)["bytes"].to_pylist()) for part in state.parts()}
    monkeypatch.setattr(state.folder, "read", lambda name: pytest.fail(f"{name} is read again"))

    found = state.sizes(list(sizes))

    assert {part: size for part, (_, size) in found.items()} == sizes
    assert sum(files for files, _ in found.values()) == 5


def test_a_prefix_is_listed_in_order_without_what_is_no_recording(folder, tmp_path):
    rows = planned(settings(folder, tmp_path / "out"), JobState(str(tmp_path / "out"), "job"))

    assert uris(rows, folder) == ["a/1.wav", "a/deep/x.flac", "b/2.mp3", "c.wma", "d.tar"]
    assert rows[0]["bytes"] == len("a/1.wav")
    assert rows[0]["etag"]
    assert rows[0]["last_modified"].tzinfo is not None


def test_outputs_below_the_input_are_no_inputs(folder):
    out = folder / "restored"
    (out / "a").mkdir(parents=True)
    (out / "a" / "1.wav").write_bytes(b"done")

    rows = planned(settings(folder, out), JobState(str(out), "job"))

    assert not [row for row in rows if "restored" in row["uri"]]


def test_several_inputs_are_one_job_whose_outputs_keep_whole_names(folder, tmp_path):
    (tmp_path / "list.csv").write_text("uri\ns3://b/x.wav\n")
    config = BulkConfig(input=(f"{folder}/a", f"{tmp_path}/list.csv"), output=str(tmp_path / "out"))
    found = [row["uri"] for row in planned(config, JobState(str(tmp_path / "out"), "job"))]
    assert found == [f"{folder}/a/1.wav", f"{folder}/a/deep/x.flac", "s3://b/x.wav"]
    outputs = [planning.output_of(config, uri, None, None, ".wav") for uri in found[1:]]
    assert outputs == [f"{tmp_path}/out{folder}/a/deep/x.flac.wav", f"{tmp_path}/out/b/x.wav"]


def test_a_glob_takes_what_it_matches(folder, tmp_path):
    config = settings(f"{folder}/**/*.wav", tmp_path / "out")

    assert uris(planned(config, JobState(str(tmp_path / "out"), "job")), folder) == ["a/1.wav"]


def test_planning_again_adds_what_is_new_and_what_has_changed_and_nothing_else(folder, tmp_path):
    config = settings(folder, tmp_path / "out")
    state = JobState(str(tmp_path / "out"), "job")
    first = planned(config, state)
    assert planning.plan(config, state) == planning.Planned(listed=5, added=0, parts=0)

    (folder / "new.wav").write_bytes(b"new")
    (folder / "b" / "2.mp3").write_bytes(b"longer than before")
    again = planned(config, state)

    assert again[: len(first)] == first
    assert sorted(uris(again[len(first) :], folder)) == ["b/2.mp3", "new.wav"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_manifest_carries_its_columns_through(tmp_path, kind):
    rows = [
        {"uri": "s3://b/x/1.wav", "bytes": 10, "etag": "e1", "output": "first.wav", "show": "news"},
        {"uri": "s3://b/x/2.wav", "bytes": 20, "etag": "e2", "output": None, "show": "talk"},
        {"uri": "s3://b/x/1.wav", "bytes": 10, "etag": "e1", "output": "first.wav", "show": "twice"},
    ]
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    found = planned(settings(path, tmp_path / "out"), JobState(str(tmp_path / "out"), "job"))

    assert [(row["uri"], row["bytes"], row["etag"], row["output"]) for row in found] == [
        ("s3://b/x/1.wav", 10, "e1", "first.wav"),
        ("s3://b/x/2.wav", 20, "e2", None),
    ]
    assert [json.loads(row["extra"]) for row in found] == [{"show": "news"}, {"show": "talk"}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"url": "x"}', 'row 1: expected a column "uri"'), ("{", "line 1: is not JSON"), ("", "no audio")],
)
def test_a_manifest_that_is_none_is_refused_by_name(tmp_path, text, reason):
    path = tmp_path / "list.jsonl"
    path.write_text(text)

    with pytest.raises(ConfigError, match=reason) as caught:
        planning.plan(settings(path, tmp_path / "out"), JobState(str(tmp_path / "out"), "job"))
    assert str(path) in str(caught.value)


def test_an_input_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        planning.plan(
            settings(tmp_path / "nowhere", tmp_path / "out"), JobState(str(tmp_path / "out"), "job")
        )


def test_s3_is_listed_by_pages_with_etags(s3):
    storage = fsspec.filesystem("s3")
    names = [f"shows/{show}/{year}/{n:03d}.mp3" for show in ("a", "b") for year in (1, 2) for n in range(30)]
    for name in [*names, "shows/top.wav", "showsimilar/no.wav"]:
        storage.pipe(f"tests/plan/{name}", name.encode())
    source, out = f"{s3}/plan/shows", f"{s3}/plan-out"
    config = settings(source, out)
    state = JobState(out, "job")

    rows = planned(config, state)

    assert uris(rows, f"{s3}/plan") == [*names, "shows/top.wav"]
    assert all(row["etag"] and '"' not in row["etag"] for row in rows)
    storage.pipe("tests/plan/shows/a/1/000.mp3", b"changed")
    assert planning.plan(config, state).added == 1


@pytest.mark.parametrize("storage", ["folder", "s3", "glob"])
def test_a_listing_that_was_stopped_goes_on_where_it_was(storage, request, tmp_path, monkeypatch):
    """And lists from the start once it has ended; a manifest before it is not read again."""
    monkeypatch.setattr(planning, "_LOOK_AHEAD", 10)
    monkeypatch.setattr(planning, "_BATCH", (10, 20))
    place = f"{request.getfixturevalue('s3')}/stopped-{storage}" if storage != "folder" else str(tmp_path)
    names = [
        f"{show}/{year}/{n:02d}.mp3" for show in ("a", "b", "b-c", "d") for year in (1, 2) for n in range(9)
    ]
    fs = fsspec.filesystem("file" if storage == "folder" else "s3")
    for name in names:
        fs.makedirs(f"{place}/in/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe(f"{place}/in/{name}", name.encode())
    (tmp_path / "first.csv").write_text("uri\ns3://b/x.wav\n")
    source = f"{place}/in/**/*.mp3" if storage == "glob" else f"{place}/in"
    inputs = (str(tmp_path / "first.csv"), source)
    config = BulkConfig(input=inputs, output=f"{place}/out", files_per_part=5)
    state = JobState(f"{place}/out", "job")

    def stop(listed, added):
        if listed > 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        planning.plan(config, state, stop)
    stopped_in, last = state.listing()
    assert stopped_in == source
    known = sum(len(state.manifest(part)) for part in state.parts())
    assert last == state.manifest(state.parts()[-1])["uri"][-1].as_py()
    assert known > 40

    went_on = planning.plan(config, state)
    left = len(names) + 1 - known
    assert went_on.added == left
    if storage == "folder":  # whole folders at the top are left out
        assert left <= went_on.listed <= left + 18
    else:
        assert went_on.listed == left
    found = [row["uri"] for part in state.parts() for row in state.manifest(part).to_pylist()]
    assert sorted(found) == sorted(["s3://b/x.wav", *(f"{place}/in/{name}" for name in names)])
    assert state.listing() is None
    assert planning.plan(config, state) == planning.Planned(listed=len(names) + 1, added=0, parts=0)
    state.note_listing((source, f"{place}/in/{names[-1]}"))  # stopped behind the last
    assert planning.plan(config, state).added == 0


def test_small_jobs_get_parts_for_all_actors_and_large_files_parts_of_their_own():
    def part_sizes(sizes, **others):
        rows = [{"uri": str(n), "bytes": size} for n, size in enumerate(sizes)]
        pages = (pa.Table.from_pylist(rows[n : n + 7], MANIFEST) for n in range(0, len(rows), 7))
        parts = list(planning._parts(pages, settings("in", "out", **others)))
        assert pa.concat_tables(parts).to_pylist() == pa.Table.from_pylist(rows, MANIFEST).to_pylist()
        return [len(part) for part in parts]

    assert part_sizes([1] * 100, actors=4) == [4] * 25
    assert part_sizes([1] * 5000, files_per_part=500) == [500] * 10
    assert part_sizes([8, 8, 1, 1], gigabytes_per_part=8e-9)[0] == 1


def test_parts_of_a_huge_job_grow(monkeypatch):
    monkeypatch.setattr(planning, "_LOOK_AHEAD", 10)
    monkeypatch.setattr(planning, "_USUAL_PARTS", 5)
    page = pa.Table.from_pylist([{"uri": str(n), "bytes": 1} for n in range(1000)], MANIFEST)
    parts = [len(part) for part in planning._parts([page], settings("in", "out", files_per_part=10))]
    assert sum(parts) == 1000 and parts[:6] == [10] * 6
    assert parts[:-1] == sorted(parts[:-1]) and max(parts) > 100


@pytest.mark.parametrize("layout", ["tree", "content"])
def test_no_two_inputs_share_an_output(layout):
    config = settings("s3://in/shows", "s3://out", layout=layout)
    names = ["a.mp3", "a.wav", "a.mp3.wav", "a.mp3.wav.wav", "a.wma", "b/a.mp3", "a.flac"]

    outputs = {
        planning.output_of(config, f"s3://in/shows/{name}", "etag", None, extension)
        for name in names
        for extension in [".wav"]
    }

    assert len(outputs) == len(names)


def test_an_output_keeps_its_inputs_name_where_the_format_stays():
    config = settings("s3://in/shows", "s3://out/")

    assert planning.output_of(config, "s3://in/shows/x/a.mp3", None, None, ".mp3") == "s3://out/x/a.mp3"
    assert planning.output_of(config, "s3://in/shows/x/a.wma", None, None, ".wav") == "s3://out/x/a.wma.wav"
    assert planning.output_of(config, "s3://in/shows/x/a.mp3", None, "y/b.mp3", ".mp3") == "s3://out/y/b.mp3"


def test_a_version_is_new_once(tmp_path):
    def versions(*pairs):
        return pa.Table.from_pylist([{"uri": uri, "etag": etag} for uri, etag in pairs], MANIFEST)

    numbered = versions(*((str(n % 700), None) for n in range(1000)))
    with contextlib.closing(Index(tmp_path)) as index:
        assert index.add(numbered).tolist() == list(range(700))
        assert index.add(versions(("1", None), ("x", None), ("1", "etag"))).tolist() == [1, 2]
        assert index.add(numbered).tolist() == []
        assert index.size == 702


def test_actors_of_all_kinds_compute_in_one_precision(monkeypatch):
    def found(device, precision):
        return device, ("bf16" if device == "cuda" else "fp32") if precision == "auto" else precision

    monkeypatch.setattr(identity, "_what_it_is_here", found)
    config = settings("in", "out", device="cpu", pools=(Pool(device="cuda"), Pool(device="cpu")))
    with pytest.raises(ConfigError, match=r"precision: .* fp32 or bf16"):
        identity.resolved(config)
    config = identity.resolved(dataclasses.replace(config, precision="fp32"))
    assert [kind.precision for kind in config.by_kind] == ["fp32"] * 3
    assert [kind.device for kind in config.by_kind] == ["cpu", "cuda", "cpu"]
    assert identity.Fingerprint.of(config, "model").computing["device"] == "cpu and cuda"


def test_a_job_with_another_fingerprint_is_refused_unless_it_is_new(tmp_path):
    first = settings("in", tmp_path)
    state = open_job(first, Fingerprint.of(first, "model-a"))
    assert open_job(first, Fingerprint.of(first, "model-a")).job == state.job

    louder = settings("in", tmp_path, options=EnhanceOptions(loudness=-16))
    with pytest.raises(ConfigError, match=r"model model-a -> model-b, loudness keep -> -16"):
        open_job(louder, Fingerprint.of(louder, "model-b"))
    with pytest.raises(ConfigError, match="whose input is in"):
        open_job(settings("other", tmp_path), Fingerprint.of(first, "model-a"))
    assert open_job(louder, Fingerprint.of(louder, "model-b"), new=True).job != state.job


def test_a_damaged_job_file_is_said(tmp_path):
    (tmp_path / "_enhance_ray").mkdir()
    (tmp_path / "_enhance_ray" / "job.json").write_text("{}")

    config = settings("in", tmp_path)
    with pytest.raises(ConfigError, match=r"job\.json: is damaged"):
        open_job(config, Fingerprint.of(config, "model"))


@pytest.mark.parametrize(
    ("limit", "failed", "finished", "stops"),
    [
        (None, 9, 9, False),
        (3, 3, 3, False),
        (3, 4, 4, True),
        ("1%", 2, 99, False),
        ("1%", 1, 100, False),
        ("1%", 2, 100, True),
    ],
)
def test_the_error_budget_is_a_number_or_a_share(limit, failed, finished, stops):
    assert settings("in", "out", max_failed=limit).too_many_failed(failed, finished) is stops


@pytest.mark.parametrize("wrong", ["1 percent", "101%", -1])
def test_a_budget_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match="max_failed"):
        settings("in", "out", max_failed=wrong)


def test_times_of_a_manifest_tell_versions(tmp_path):
    row = {"uri": "x.wav", "last_modified": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC).isoformat()}

    assert manifests.row_of(row, "row")["etag"] == "2026-01-02T00:00:00+00:00"


@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
def test_a_plain_table_is_taken_as_it_is_and_as_if_row_by_row(tmp_path, text):
    rows = [
        {
            "uri": f"s3://b/{n}.wav",
            "bytes": n,
            "etag": f"e{n}",
            "last_modified": datetime.datetime(2026, 1, 1),
        }
        for n in range(5)
    ]
    schema = pa.schema(
        [("uri", text), ("bytes", pa.int32()), ("etag", text), ("last_modified", pa.timestamp("ms"))]
    )
    table = pa.Table.from_pylist(rows, schema)
    assert manifests._is_plain(table)
    for name, columns in (("plain", table), ("mixed", table.append_column("show", [["news"] * 5]))):
        pq.write_table(columns, tmp_path / f"{name}.parquet")
    plain, mixed = (
        pa.concat_tables(manifests.pages(f"{tmp_path}/{name}.parquet")) for name in ("plain", "mixed")
    )
    assert plain.schema == mixed.schema == MANIFEST
    assert plain.drop_columns("extra") == mixed.drop_columns("extra")
    assert mixed["extra"].to_pylist() == ['{"show": "news"}'] * 5


def test_rows_without_names_are_refused_by_their_number(tmp_path):
    pq.write_table(pa.table({"uri": ["a.wav", None]}), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match='row 2: expected a column "uri"'):
        list(manifests.pages(f"{tmp_path}/list.parquet"))


OBJECTS = [
    ("shows/a b.mp3", True, False, 10, "e1"),
    ("shows/a+b.mp3", True, False, 11, "e2"),
    ("shows/ü%.mp3", True, False, 12, "e3"),
    ("shows/old.mp3", False, False, 13, "e4"),
    ("shows/deleted.mp3", True, True, None, None),
    ("shows/notes.txt", True, False, 14, "e5"),
    ("shows/", True, False, 0, "e6"),
    ("restored/a.mp3", True, False, 15, "e7"),
]


@pytest.mark.parametrize("form", ["CSV", "ORC", "Parquet"])
def test_an_inventory_of_s3_gives_what_is_there_now(tmp_path, form):
    modified = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    (tmp_path / "data").mkdir()
    (tmp_path / "2026-01-03T01-00Z").mkdir()
    names = [
        "bucket",
        "key",
        "version_id",
        "is_latest",
        "is_delete_marker",
        "size",
        "last_modified_date",
        "e_tag",
    ]
    file = tmp_path / "data" / f"x.{'csv.gz' if form == 'CSV' else form.lower()}"
    if form == "CSV":
        schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
        with gzip.open(file, "wt", newline="") as text:
            writer = csv.writer(text, quoting=csv.QUOTE_ALL)
            for key, latest, marker, size, etag in OBJECTS:
                flags = (str(flag).lower() for flag in (latest, marker))
                coded = urllib.parse.quote_plus(key, safe="/")
                writer.writerow(["b", coded, "v", *flags, size, "2026-01-02T03:04:05.000Z", etag])
    else:
        schema = "message s3.inventory { ... }"
        rows = [
            ("b", key, "v", latest, marker, size, modified, etag)
            for key, latest, marker, size, etag in OBJECTS
        ]
        kinds = [pa.string()] * 3 + [pa.bool_()] * 2 + [pa.int64(), pa.timestamp("ms", tz="UTC"), pa.string()]
        table = pa.table([pa.array(c, k) for c, k in zip(zip(*rows, strict=True), kinds, strict=True)], names)
        (orc.write_table if form == "ORC" else pq.write_table)(table, file)
    manifest = tmp_path / "2026-01-03T01-00Z" / "manifest.json"
    manifest.write_text(
        json.dumps(
            {
                "sourceBucket": "b",
                "destinationBucket": "arn:aws:s3:::lists",
                "fileFormat": form,
                "fileSchema": schema,
                "files": [{"key": f"inventory/b/all/data/{file.name}", "size": 1, "MD5checksum": "x"}],
            }
        )
    )
    rows = planned(settings(manifest, "s3://b/restored"), JobState(str(tmp_path / "out"), "job"))
    assert [(row["uri"], row["bytes"], row["etag"]) for row in rows] == [
        ("s3://b/shows/a b.mp3", 10, "e1"),
        ("s3://b/shows/a+b.mp3", 11, "e2"),
        ("s3://b/shows/ü%.mp3", 12, "e3"),
    ]
    assert {row["last_modified"] for row in rows} == {modified}


def test_an_inventory_is_read_again_when_it_is_another_one(tmp_path):
    def write(*keys):
        table = pa.table({"bucket": ["b"] * len(keys), "key": keys, "size": [1] * len(keys), "e_tag": keys})
        pq.write_table(table, tmp_path / "data" / "1.parquet")
        tree = {
            "destinationBucket": "arn:aws:s3:::b",
            "fileFormat": "Parquet",
            "fileSchema": "",
            "files": [{"key": "data/1.parquet", "size": 1, "MD5checksum": "/".join(keys)}],
        }
        (tmp_path / "today" / "manifest.json").write_text(json.dumps(tree))

    for name in ("data", "today", "empty"):
        (tmp_path / name).mkdir()
    config = settings(tmp_path / "today" / "manifest.json", tmp_path / "out")
    state = JobState(config.output, "job")
    write("1.mp3")
    assert planning.plan(config, state) == planning.Planned(1, 1, 1)

    (tmp_path / "data" / "1.parquet").unlink()
    assert planning.plan(config, state) == planning.Planned(0, 0, 0)
    with_none = dataclasses.replace(config, input=(config.input, str(tmp_path / "empty")))
    assert planning.plan(with_none, state) == planning.Planned(0, 0, 0)

    write("1.mp3", "2.mp3")
    assert planning.plan(config, state) == planning.Planned(2, 1, 1)

    # A listing that goes on behind it does not see it.
    write("1.mp3", "2.mp3", "3.mp3")
    state.note_listing((str(tmp_path / "empty"), "a.wav"))
    assert planning.plan(with_none, state) == planning.Planned(0, 0, 0)
    assert planning.plan(with_none, state) == planning.Planned(3, 1, 1)


@pytest.mark.parametrize("text", ["{}", "[]", '{"fileFormat": "XML", "fileSchema": "", "files": []}', "no"])
def test_an_inventory_that_is_none_is_refused_by_name(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match=r"manifest\.json: is no inventory of S3"):
        planned(
            settings(tmp_path / "manifest.json", tmp_path / "out"), JobState(str(tmp_path / "out"), "job")
        )


def delta_table(folder, table):
    """Written in two versions, with a row taken out; how the job is told of it."""
    deltalake = pytest.importorskip("deltalake")
    deltalake.write_deltalake(str(folder), table.slice(0, 2), partition_by=["show"])
    deltalake.write_deltalake(str(folder), table.slice(2), mode="append")
    deltalake.DeltaTable(str(folder)).delete("bytes = 2")
    return f"{folder}/_delta_log"


def iceberg_table(folder, table):
    """The same of an Iceberg table."""
    sql, expressions = (pytest.importorskip(f"pyiceberg.{name}") for name in ("catalog.sql", "expressions"))
    folder.mkdir()
    catalog = sql.SqlCatalog("c", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace("archive")
    written = catalog.create_table("archive.shows", schema=table.schema)
    written.append(table.slice(0, 2))
    written.append(table.slice(2))
    written.delete(expressions.EqualTo("bytes", 2))
    return written.metadata_location.removeprefix("file://")


@pytest.mark.parametrize("make", [delta_table, iceberg_table])
def test_a_table_of_a_lakehouse_is_a_manifest(tmp_path, make):
    names = [f"s3://archive/{n}.wav" for n in range(1, 5)]
    table = pa.table({"uri": names, "bytes": [1, 2, 3, 4], "show": ["x", "y", "x", "y"]})
    source = make(tmp_path / "shows", table)
    rows = planned(settings(source, tmp_path / "out"), JobState(str(tmp_path / "out"), "job"))
    found = sorted((row["uri"], row["bytes"], json.loads(row["extra"])["show"]) for row in rows)
    assert found == [(names[0], 1, "x"), (names[2], 3, "x"), (names[3], 4, "y")]


@pytest.mark.parametrize("name", ["shows/_delta_log", "shows/metadata/7.metadata.json"])
def test_a_table_that_is_none_is_refused_by_name(tmp_path, name):
    pytest.importorskip("deltalake")
    pytest.importorskip("pyiceberg")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=f"{re.escape(name)}: is no readable table"):
        planned(settings(tmp_path / name, tmp_path / "out"), JobState(str(tmp_path / "out"), "job"))


def test_a_part_that_was_begun_and_reopened_on_s3_has_the_records_that_are_left(s3):
    """SeaweedFS keeps the folder of what was deleted, which then lists itself."""
    state = JobState(f"{s3}/reopened", "job")
    rows = [{"uri": uri, "status": status} for uri, status in (("a.wav", "done"), ("b.wav", "failed"))]
    table = pa.Table.from_pylist(rows, RECORDS)
    state.add_progress("part-00000", table)
    state.stage("part-00000", "attempt", table)
    state.publish("part-00000", "attempt")
    state.drop_progress("part-00000")
    assert state.finished() == {"part-00000"}
    assert len(state.progress("part-00000")) == 0

    assert state.reopen_failed() == 1

    assert not state.finished()
    assert state.progress("part-00000")["uri"].to_pylist() == ["a.wav"]
