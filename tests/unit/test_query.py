"""Questions in SQL about what became of recordings."""

import csv
import io
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enhance_ray import cli
from enhance_ray.cluster.bulk.state import MANIFEST, RECORDS, JobState
from enhance_ray.errors import ConfigError
from enhance_ray.query import query
from enhance_ray.records import JOB_FOLDER, Record, append_record


def record(uri, status="done", **others):
    return {"uri": uri, "status": status, "seconds": 1800.0 if status == "done" else None, **others}


def a_job(output):
    """Two finished parts, one that is being worked on, and one that is not begun."""
    state = JobState(output, "job-1")
    fsspec.open(f"{output}/{JOB_FOLDER}/job.json", "wb", auto_mkdir=True).open().close()
    filesystem, root = fsspec.url_to_fs(output)
    filesystem.pipe_file(f"{root}/{JOB_FOLDER}/job.json", json.dumps({"job": "job-1"}).encode())
    uris = ["s3://b/a.mp3", "s3://b/b.mp3", "s3://b/c'd.mp3", "s3://b/e.mp3"]
    for number, uri in enumerate(uris):
        manifest = pa.Table.from_pylist([{"uri": uri, "extra": json.dumps({"show": "news"})}], MANIFEST)
        state.add_part(number, manifest)
    made = [
        record(uris[0], extra='{"show": "news"}'),
        record(
            uris[1], "failed", code="audio_unreadable", reason="it has no samples", extra='{"show": "talk"}'
        ),
        record(uris[2]),
    ]
    tables = [pa.Table.from_pylist([row], RECORDS) for row in made]
    state.folder.write_table("records/part-00000.parquet", tables[0])
    state.folder.write_table("records/part-00001.parquet", tables[1])
    state.add_progress("part-00001", tables[1])  # a kill came before it was dropped
    state.add_progress("part-00002", tables[2])
    return output


@pytest.mark.parametrize("protocol", ["", "memory:/"])
def test_a_job_is_asked_while_it_runs(tmp_path, protocol):
    place = a_job(f"{protocol}{tmp_path}/it's out")
    overview = query(place)
    assert overview.columns == ["status", "code", "files", "hours"]
    assert list(overview.rows) == [("done", None, 2, 1.0), ("failed", "audio_unreadable", 1, None)]
    why = "SELECT uri, reason FROM records WHERE status = 'failed' AND extra->>'show' = 'talk'"
    assert list(query(place, why).rows) == [("s3://b/b.mp3", "it has no samples")]
    left = "SELECT uri FROM manifest ANTI JOIN records USING (uri)"
    assert list(query(place, left).rows) == [("s3://b/e.mp3",)]


def test_records_that_were_merged_come_once_and_new_ones_beside_them(tmp_path):
    place = a_job(str(tmp_path))
    state = JobState(place, "job-1")
    assert (state.merge(), state.merge()) == (1, 0)
    assert state.folder.names("merged") == ["part-00000..part-00001.parquet"]
    state.folder.remove("records/part-00000.parquet")  # which nobody reads by now
    uris = "SELECT uri FROM records ORDER BY uri"
    everything = [("s3://b/a.mp3",), ("s3://b/b.mp3",), ("s3://b/c'd.mp3",)]
    assert list(query(place, uris).rows) == everything


def test_what_is_done_again_is_in_no_merged_table(tmp_path):
    place = a_job(str(tmp_path))
    state = JobState(place, "job-1")
    state.folder.write_table("failed/part-00001.parquet", RECORDS.empty_table())
    state.merge()
    assert state.reopen_failed() == 1
    assert state.folder.names("merged") == []
    assert list(query(place, "SELECT count(*) FROM records WHERE status = 'failed'").rows) == [(0,)]


def test_merged_tables_have_the_size_that_is_asked_for(tmp_path):
    state = JobState(str(tmp_path), "job-1")
    for number in range(7):
        name = f"part-{number:05d}"
        state.add_part(number, MANIFEST.empty_table())
        rows = [record(f"{name}-{n}") for n in range(100)]
        if number != 4:
            state.folder.write_table(f"records/{name}.parquet", pa.Table.from_pylist(rows, RECORDS))
    assert state.merge(size=10**6, whole=True) == 0  # there will be more beside them
    assert state.merge(size=1, stopped=lambda: True) == 0
    assert state.merge(size=1) == 3
    assert state.folder.names("merged") == [
        "part-00000..part-00001.parquet",
        "part-00002..part-00003.parquet",
        "part-00005..part-00006.parquet",
    ]


def test_a_report_of_a_folder_and_any_parquet_are_asked_in_the_same_way(tmp_path):
    for name in ("a.wav", "b.wav"):
        append_record(tmp_path / "report.jsonl", Record(input=name, status="done", scores={"estoi_in": 0.5}))
    answer = query(f"{tmp_path}/report.jsonl", "SELECT input, scores.estoi_in FROM records ORDER BY input")
    assert list(answer.rows) == [("a.wav", 0.5), ("b.wav", 0.5)]
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "x.parquet")
    assert list(query(f"{tmp_path}/x.parquet", "SELECT sum(x) AS s FROM records").rows) == [(3,)]


def test_the_command_writes_what_others_read(tmp_path, capsys):
    place = a_job(str(tmp_path))
    sql = "SELECT uri, seconds FROM records ORDER BY uri"
    assert cli.main(["records", place, sql, "--csv"]) == 0
    table = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert table == [
        ["uri", "seconds"],
        ["s3://b/a.mp3", "1800.0"],
        ["s3://b/b.mp3", ""],
        ["s3://b/c'd.mp3", "1800.0"],
    ]
    assert cli.main(["records", place, sql, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == {"uri": "s3://b/b.mp3", "seconds": None}
    assert cli.main(["records", place]) == 0
    assert "audio_unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(("sql", "said"), [("SELECT nothing FROM records", "nothing"), ("SELEC", "SELEC")])
def test_a_wrong_question_is_one_line(tmp_path, sql, said, capsys):
    assert cli.main(["records", a_job(str(tmp_path)), sql]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_place_without_records_is_named(tmp_path):
    for place in (tmp_path, tmp_path / "none.jsonl", tmp_path / "none.parquet"):
        with pytest.raises(ConfigError, match=str(place)):
            query(str(place))
