"""Lists as spreadsheets, editors and scripts write them name what is meant."""

import json
import os

import pytest

from enhance_ray.audio import lists
from enhance_ray.errors import ConfigError
from enhance_ray.files import plan_jobs

NAME = "show;1/\u00fcber \u201dtalk\u201d, part\u20282.wav"


def rows(path, known=("uri", "output")):
    return list(lists.read_rows(str(path), known))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_in_any_encoding_of_unicode(tmp_path, encoding, end):
    path = tmp_path / "list.txt"
    path.write_bytes(end.join([NAME, "", " b.wav\t", ""]).encode(encoding))

    assert list(lists.read_lines(str(path))) == [NAME, "b.wav"]


def test_names_that_are_no_utf_8_lead_to_their_files(tmp_path):
    name = b"\xfcber.wav"
    (tmp_path / "list.txt").write_bytes(name + b"\n")

    assert [os.fsencode(line) for line in lists.read_lines(str(tmp_path / "list.txt"))] == [name]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_spreadsheets(tmp_path, encoding, delimiter):
    cells = [["URI", " Output ", "Show"], [NAME, "x.wav", "A"], ["a.wav", "", ""], ["", "", ""], ["b.wav"]]
    quoted = [[f'"{cell}"' if set(cell) & set(",;") else cell for cell in row] for row in cells]
    text = "\r\n".join(delimiter.join(row) for row in quoted)
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))

    assert rows(path) == [
        {"uri": NAME, "output": "x.wav", "Show": "A"},
        {"uri": "a.wav", "output": "", "Show": ""},
        {"uri": "b.wav", "output": "", "Show": ""},
    ]


def test_a_table_of_one_column_has_no_delimiter(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('uri\r\nshow;1,2.wav\r\n"b, c.wav"\r\n')

    assert rows(path) == [{"uri": "show;1,2.wav"}, {"uri": "b, c.wav"}]


@pytest.mark.parametrize("name", ["list.txt", "LIST.JSONL", "list.csv"])
def test_names_are_looked_for_beside_the_list_where_the_working_folder_has_none(tmp_path, monkeypatch, name):
    texts = {
        ".txt": "a.wav\nb.wav\n",
        ".csv": "uri\na.wav\nb.wav\n",
        ".jsonl": '{"uri": "a.wav"}\n{"uri": "b.wav"}\n',
    }
    folder, elsewhere = tmp_path / "shows", tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        each.mkdir()
        (each / "b.wav").touch()
    (folder / "a.wav").touch()
    (folder / name).write_text(texts[(folder / name).suffix.lower()], "utf-8-sig")
    monkeypatch.chdir(elsewhere)

    source = str(folder / name)
    jobs = plan_jobs(source if name.endswith("JSONL") else f"@{source}", "out")

    assert [job.input for job in jobs] == [str(folder / "a.wav"), "b.wav"]


def test_json_lines_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "list.jsonl"
    lines = [json.dumps({"Uri": NAME, "show": "A"}, ensure_ascii=False), "", json.dumps({"uri": "b"})]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))

    assert rows(path) == [{"uri": NAME, "show": "A"}, {"uri": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b'{"uri": "a"}\n[1]\n', "line 2: expected a JSON object"),
        ("a.jsonl", b'{"uri": "a"}\n{\n', "line 2: is not JSON"),
        ("a.csv", "uri\na".encode("utf-16")[:-1], "the list is damaged"),
        ("a.csv", None, "the list cannot be read: No such file"),
    ],
)
def test_a_list_that_is_none_is_named_with_its_line(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError, match=reason) as error:
        rows(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_table_names_inputs_and_outputs_of_a_command(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes("File;Output\r\na.wav;there/x.wav\r\nb.wav;\r\n".encode("utf-8-sig"))

    jobs = {job.input: job.output for job in plan_jobs(f"@{path}", str(tmp_path / "out"))}

    assert list(jobs) == ["a.wav", "b.wav"]
    assert jobs["b.wav"] == str(tmp_path / "out" / "b.wav")
    assert jobs["a.wav"].endswith("there/x.wav")
