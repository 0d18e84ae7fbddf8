"""The page of an evaluation: every number that it shows, from rows made by hand."""

import math
from html.parser import HTMLParser

import numpy as np
import pytest

from enhance_ray.evaluation import EvaluateConfig, Item, Scored, SystemConfig, charts, examples, page
from enhance_ray.settings.options import MODEL_RATE

SYSTEMS = ("input", "denoise", "<b>other</b>")
SETTINGS = EvaluateConfig(
    clean="test/clean & co",
    noisy="test/noisy",
    systems=(
        SystemConfig(name="denoise", model="default"),
        SystemConfig(name="<b>other</b>", folder="test/other"),
    ),
)


def outcome(condition, index, pesq, **known):
    """A pair on which the systems have the PESQ ``pesq``; their LSD is a tenth of it."""
    item = Item(index=index, name=f"{condition}/{index}<i>", condition=condition, clean="c", noisy="n")
    rows = [
        {
            "condition": condition,
            "index": index,
            "name": item.name,
            "system": system,
            "seconds": 6.0,
            "pesq_wb": score,
            "lsd": score / 10,
            "rtf": 0.25 if system == "denoise" else math.nan,
            **known,
        }
        for system, score in zip(SYSTEMS, pesq, strict=True)
    ]
    return Scored(item, rows)


OUTCOMES = [
    outcome("rain", 0, (1.0, 2.0, 2.5), snr_db=0.0, t60=0.3, voice="ann"),
    outcome("rain", 1, (1.5, 2.0, 2.7), snr_db=5.0, t60=0.3, voice="ben & co"),
    outcome("fan", 2, (2.0, 3.0, 2.9), snr_db=5.0, t60=0.3, voice="ann"),
    Scored(Item(index=3, name="gone<i>", condition="fan"), [], "cannot read gone<i>.wav: it has no samples"),
]
ROWS = [row for outcome in OUTCOMES for row in outcome.rows]


class Page(HTMLParser):
    """What a reader of a page meets: tables below their headings, terms, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.headings, self.sources, self.terms, self.tags, self.path = [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.sources += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag not in ("img", "meta", "br"):
            self.path.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("h2", "h3"):
            self.headings.append("")
        elif tag == "dt":
            self.terms.append("")

    def handle_endtag(self, tag):
        while tag in self.path and self.path.pop() != tag:
            pass

    def handle_data(self, data):
        if "td" in self.path or "th" in self.path:
            cell = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = f"{cell} {data}".strip()
        elif "h2" in self.path or "h3" in self.path:
            self.headings[-1] += data
        elif "dt" in self.path:
            self.terms[-1] += data


@pytest.fixture(scope="module")
def excerpts():
    rng = np.random.default_rng(0)
    heard = {name: 2 * rng.standard_normal(MODEL_RATE).astype(np.float32) for name in ("clean", *SYSTEMS)}
    return [examples.excerpt(choice, heard, 0.5) for choice in page.select(ROWS, SETTINGS)]


@pytest.fixture(scope="module")
def text(excerpts):
    return page.page(OUTCOMES, SETTINGS, excerpts, work="Models ran on a <machine>.")


@pytest.fixture(scope="module")
def read(text):
    return Page(text)


def test_all_sections_are_there(read):
    assert read.headings == [
        "Failed",
        "Scores",
        "All conditions, 3 pairs",
        "rain, 2 pairs",
        "fan, 1 pairs",
        "Differences",
        "By SNR (dB)",  # all have one t60
        "Examples",
        *(f"{choice.name}, {choice.condition}" for choice in page.select(ROWS, SETTINGS)),
        "Recordings",
        "What is measured",
        "How",
    ]
    assert read.terms == ["PESQ-WB ↑ (MOS-LQO)", "LSD ↓ (log10 power)", "RTF ↓", "SNR (dB)"]


def test_scores_are_means_with_intervals_and_the_best_is_marked(read, text):
    everything, rain, fan = read.tables[:3]
    assert everything[0] == ["System", "PESQ-WB ↑ MOS-LQO", "LSD ↓ log10 power", "RTF ↓"]
    assert [row[0] for row in everything[1:]] == list(SYSTEMS)
    assert everything[1][1].startswith("1.500 1.000 to 2.000")
    assert everything[3][1].startswith("2.700 2.500 to 2.900")
    assert [row[3] for row in everything[1:]] == ["", "0.250 0.250 to 0.250", ""]
    assert rain[1][1].startswith("1.250") and fan[2][1].startswith("3.000")
    for mean, style in ((np.mean([2.5, 2.7, 2.9]), "n best"), (1.5, "n")):
        assert f'<td class="{style}" data-value="{mean}">' in text


def test_differences_are_of_the_first_system_and_a_clear_one_has_a_word(read):
    differences = read.tables[3]
    assert differences[0][:2] == ["System", "Condition"]
    cells = {(row[0], row[1]): row[2:] for row in differences[1:]}
    assert set(cells) == {(s, c) for s in ("input", "<b>other</b>") for c in ("all", "rain", "fan")}
    assert (
        cells["input", "rain"][0].startswith("-0.750 -1.000 to -0.500")
        and "worse" in cells["input", "rain"][0]
    )
    assert "better" in cells["input", "rain"][1], "a lower LSD is better"
    assert "+0.367" in cells["<b>other</b>", "all"][0]
    assert not {"better", "worse"} & set(cells["<b>other</b>", "all"][0].split())
    assert not {"better", "worse"} & set(cells["input", "fan"][0].split()), "one pair says nothing"


def test_every_row_is_listed_with_what_is_known(read):
    recordings = read.tables[4]
    assert recordings[0][-3:] == ["SNR (dB)", "t60", "voice"]
    assert len(recordings) == 1 + 9
    assert recordings[4] == ["rain/1<i>", "rain", "input", "1.500", "0.150", "", "5.0", "0.3", "ben & co"]


def test_a_long_list_ends_where_a_browser_would_become_slow(monkeypatch):
    monkeypatch.setattr(page.report, "TABLE_ROWS", 4)
    text = page.page(OUTCOMES, SETTINGS)
    assert "The first 4 of 9." in text and len(Page(text).tables[4]) == 5


def test_names_and_reasons_are_text_and_nothing_else(read, text):
    assert not {"i", "machine"} & set(read.tags)
    assert "<b>other" not in text
    for shown in ("gone&lt;i&gt;.wav: it has no samples", "test/clean &amp; co", "a &lt;machine&gt;."):
        assert shown in text


def test_the_page_loads_nothing_and_links_within_itself(read, text):
    kinds = {source.partition(";")[0] for source in read.sources if not source.startswith("#")}
    assert kinds == {"data:image/png", "data:image/webp", "data:audio/flac"}
    for source in read.sources:
        if source.startswith("#"):
            assert f'id="{source[1:]}"' in text


def test_examples_are_the_best_the_median_and_the_worst(read):
    choices = page.select(ROWS, SETTINGS)
    assert [(choice.name, choice.label) for choice in choices] == [
        ("rain/0<i>", "Best of 3 by the gain of <b>other</b> in PESQ-WB: 1.000 to 2.500 MOS-LQO"),
        ("rain/1<i>", "Median of 3 by the gain of <b>other</b> in PESQ-WB: 1.500 to 2.700 MOS-LQO"),
        ("fan/2<i>", "Worst of 3 by the gain of <b>other</b> in PESQ-WB: 2.000 to 2.900 MOS-LQO"),
    ]
    by_lsd = examples.choose(ROWS, "lsd", 1)
    assert [choice.name for choice in by_lsd] == ["fan/2<i>"], "the least rise of what should fall"
    assert read.tags.count("audio") == 3 * 4
    assert examples.choose([], None, 3) == []
    assert examples.choose([row for row in ROWS if row["system"] == "input"], None, 3) == []


def test_an_excerpt_is_where_most_is_said_and_the_same_of_all():
    clean = np.zeros(4 * MODEL_RATE, np.float32)
    clean[2 * MODEL_RATE : 3 * MODEL_RATE] = 0.5
    choice = examples.ShownPair("all", 0, "a", "")
    cut = examples.excerpt(choice, {"clean": clean, "input": np.arange(clean.size)}, 1.0).waveforms
    assert cut["clean"].min() == 0.5
    assert cut["input"][0] == 2 * MODEL_RATE and cut["input"].size == MODEL_RATE
    whole = examples.excerpt(choice, {"clean": clean}, 6.0).waveforms
    assert whole["clean"].size == clean.size


def test_sounds_are_cut_to_what_the_page_may_hold(excerpts, monkeypatch):
    monkeypatch.setattr(examples, "AUDIO_BYTES", 200_000)
    assert len(examples.section(excerpts)) < 200_000 * 4 / 3 + 12 * 40_000


def test_a_few_values_are_bins_and_many_are_put_in_ranges():
    assert [bin.label for bin in charts.bins([4000.0, 22_050.0, 4000.0], scale=1000)] == ["4", "22.05"]
    assert [bin.label for bin in charts.bins([4005.176, 20_413.477, 22_050.0], scale=1000)] == [
        "4 to\n8",
        "20 to\n24",
    ], "what was measured is no choice"
    values = np.linspace(0, 40, 33)
    found = charts.bins(values)
    assert 3 <= len(found) <= charts.BINS + 1
    counts = [((values >= bin.low) & (values < bin.high)).sum() for bin in found]
    assert sum(counts) == values.size, "both ends are in"
    assert len(charts.bins([*range(8), 100.0])) == 2, "what is empty is left out"


def test_a_page_without_any_pair_says_so(tmp_path):
    path = tmp_path / "new" / "page.html"
    page.write(str(path), page.page(OUTCOMES[3:], SETTINGS))
    read = Page(path.read_text())
    assert read.headings == ["Failed", "How"]
