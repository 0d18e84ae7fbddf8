"""The report of a run survives what happens to runs: kills, silence, other people's editors."""

import json
import math
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import image

from enhance_ray import report
from enhance_ray.errors import ConfigError
from enhance_ray.records import Record, append_record, from_json, read_records, to_json, totals

DONE = Record(
    input="talks/Gespräch 1.mp3",
    output="out/Gespräch 1.mp3",
    status="done",
    seconds=12.5,
    seconds_spent=2.5,
    sample_rate=48_000,
    channels=2,
    peak_in=-3.2,
    peak_out=-4.1,
    loudness_in=-23.4,
    loudness_out=-24.0,
    model="0123abcd",
    options={"strength": 1.0, "channels": "keep"},
    scores={"si_sdr": 12.25},
)
FAILED = Record(input="talks/2.wav", status="failed", code="audio_unreadable", reason="it has no samples")


def test_a_record_comes_back_from_json_as_it_was():
    for record in (DONE, FAILED):
        assert from_json(to_json(record)) == record


def test_rtf_is_work_per_audio_and_unknown_without_audio():
    assert DONE.rtf == pytest.approx(0.2)
    assert FAILED.rtf is None


def test_levels_of_silence_are_null_in_json():
    silent = Record(
        input="a.wav", status="done", peak_in=-math.inf, scores={"si_sdr": math.inf, "estoi": 1.0}
    )
    tree = json.loads(to_json(silent), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert tree["peak_in"] is None
    assert tree["scores"] == {"estoi": 1.0}


def test_appended_records_are_read_in_order(tmp_path):
    path = tmp_path / "report.jsonl"
    for record in (DONE, FAILED, DONE):
        append_record(path, record)
    assert read_records(path) == [DONE, FAILED, DONE]


def test_any_torn_last_line_is_ignored_and_replaced_by_the_next_append(tmp_path):
    path = tmp_path / "report.jsonl"
    whole = f"{to_json(FAILED)}\n".encode()
    line = f"{to_json(DONE)}\n".encode()
    for length in range(len(line)):  # also within the two bytes of an umlaut
        path.write_bytes(whole + line[:length])
        assert read_records(path) == [FAILED]
        append_record(path, DONE)
        assert read_records(path) == [FAILED, DONE]


def test_garbage_before_the_end_is_refused_with_its_line(tmp_path):
    path = tmp_path / "report.jsonl"
    path.write_text(f"{to_json(DONE)}\nnot json\n{to_json(DONE)}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 2: is not JSON"):
        read_records(path)


def test_a_line_that_is_no_record_is_refused_with_its_key(tmp_path):
    path = tmp_path / "report.jsonl"
    path.write_text('{"input": "a.wav", "status": "fine"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 1: status: expected one of done, failed, skipped"):
        read_records(path)


def test_an_absent_report_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.jsonl: cannot be read"):
        read_records(tmp_path / "nothing.jsonl")


class Page(HTMLParser):
    """What a browser would make of a page: sources of what it loads, and rows of text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.sources, self.rows, self.text, self.in_cell = [], [], [], [], False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data


@pytest.fixture
def restored(tmp_path):
    """A record whose two files exist: a noisy tone and the tone."""
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 16_000)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    soundfile.write(tmp_path / "in/a b.wav", tone + 0.1 * rng.standard_normal(8000), 16_000)
    soundfile.write(tmp_path / "out/a b.wav", np.repeat(tone, 2), 32_000)
    return Record(
        input=str(tmp_path / "in/a b.wav"), output=str(tmp_path / "out/a b.wav"), status="done", seconds=0.5
    )


def test_totals_add_up_what_was_done():
    total = totals([DONE, DONE, FAILED, Record(input="b.wav", status="skipped", seconds=100)])
    assert (total.done, total.failed, total.skipped) == (2, 1, 1)
    assert (total.seconds, total.rtf) == (25, pytest.approx(0.2))


def test_a_page_loads_nothing_from_outside_itself(tmp_path, restored):
    report.html(tmp_path / "page.html", [restored, DONE, FAILED])
    page = Page(tmp_path / "page.html")
    assert [source.partition("/")[0] for source in page.sources] == ["data:image", "data:audio", "data:audio"]
    assert "link" not in page.tags


def test_a_long_sound_is_a_link_that_works_from_where_the_page_is(tmp_path, restored, monkeypatch):
    monkeypatch.setattr(report.recordings, "EMBED_BYTES", 1000)
    report.html(tmp_path / "reports/page.html", [restored])
    links = [
        source for source in Page(tmp_path / "reports/page.html").sources if not source.startswith("data:")
    ]
    assert links == ["../in/a%20b.wav", "../out/a%20b.wav"]


def test_what_stands_in_names_and_reasons_is_text_and_not_markup(tmp_path):
    name = "<script>alert(1)</script>&.wav"
    report.html(
        tmp_path / "page.html", [Record(input=name, status="failed", reason=name, code="c")], title=name
    )
    page = Page(tmp_path / "page.html")
    assert page.tags.count("script") == 1  # ours
    assert page.rows[-1][0] == page.rows[-1][-1] == name


def test_failures_that_differ_in_numbers_only_are_counted_together(tmp_path):
    reasons = ["it breaks off after 12.3 s", "it breaks off after 4 s", "it has no samples"]
    records = [Record(input=f"{i}.wav", status="failed", code="c", reason=r) for i, r in enumerate(reasons)]
    report.html(tmp_path / "page.html", records)
    assert Page(tmp_path / "page.html").rows[1:3] == [
        ["2", "c", "it breaks off after 12.3 s", "0.wav"],
        ["1", "c", "it has no samples", "2.wav"],
    ]


def test_the_table_puts_failures_first_and_says_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(report.pages, "TABLE_ROWS", 2)
    report.html(tmp_path / "page.html", [DONE, DONE, FAILED])
    page = Page(tmp_path / "page.html")
    assert [row[:2] for row in page.rows[-2:]] == [[FAILED.input, "failed"], [DONE.input, "done"]]
    assert "The first 2 of 3." in page.text


def test_scores_are_averaged_before_and_after(tmp_path):
    scored = [
        Record(input="a.wav", status="done", scores={"estoi_in": before, "estoi_out": before + 0.25})
        for before in (0.25, 0.5)
    ]
    report.html(tmp_path / "page.html", [*scored, FAILED])
    rows = Page(tmp_path / "page.html").rows
    assert ["ESTOI", "0.375 (0.250 to 0.500)", "0.625 (0.500 to 0.750)", "", "higher"] in rows
    assert next(row for row in rows if row[0] == "Input")[-3:] == ["ESTOI in", "ESTOI out", "Remark"]


def test_a_recording_that_broke_since_is_named_in_its_place(tmp_path, restored):
    Path(restored.output).write_bytes(b"")
    report.html(tmp_path / "page.html", [restored, DONE])
    assert any("it is empty (0 bytes)" in text for text in Page(tmp_path / "page.html").text)


def test_one_colour_is_one_level_in_both_spectrograms(tmp_path):
    noise = np.random.default_rng(0).standard_normal(44_100).astype(np.float32)
    brightness = []
    for gain in (1.0, 0.01):
        report.spectrogram_pair(noise, gain * noise, 44_100, tmp_path / "pair.png")
        picture = image.imread(tmp_path / "pair.png")[100:-100, :, :3].sum(axis=2)
        width = picture.shape[1]
        brightness.append(
            (picture[:, width // 8 : width // 3].mean(), picture[:, width // 2 : 3 * width // 4].mean())
        )
    (before, after), (before_again, quieter) = brightness
    assert after == pytest.approx(before, rel=0.05)
    assert before_again == pytest.approx(before, rel=0.05)
    assert quieter < 0.7 * before


def test_silence_can_be_drawn(tmp_path):
    silence = np.zeros(100, dtype=np.float32)
    report.spectrogram_pair(silence, silence, 8000, tmp_path / "pair.png")
    assert (tmp_path / "pair.png").stat().st_size > 0


@pytest.mark.parametrize(("package", "absent"), [("matplotlib", "matplotlib.figure"), ("librosa", "librosa")])
def test_without_what_draws_the_remedy_is_named_before_the_work(monkeypatch, package, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ConfigError, match=rf"{package}: pip install 'enhance-ray\[eval\]'"):
        report.require_pictures()
