"""Pages in this package's style: one file each, which needs no network.

What a page looks like is in ``templates/``, and whoever makes one gives data. Text is escaped there; what is
HTML already is `Markup`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

NUMBER = r"[0-9]+([.][0-9]+)?"
"""In a text, as Python's `re` and Arrow's RE2 read it."""
TABLE_ROWS = 2000
"""Rows that a table has at most; a browser is slow with many more."""


class Card(NamedTuple):
    """A number at the head of a page."""

    value: str
    name: str
    """What it is."""
    is_bad: bool = False


class Column(NamedTuple):
    """The heading of a column of numbers."""

    title: str
    unit: str = ""
    hint: str = ""
    """What the numbers mean, in a sentence."""


class Cell(NamedTuple):
    """A number in a table, which stands at the right."""

    text: str
    value: float | str = ""
    """What it is sorted by; empty cells come last."""
    mark: str = ""
    """A word for its style; with one it is bold."""
    below: Sequence[str] = ()
    """Lines in small type."""


def number(value: float | None, digits: int | None = None) -> Cell:
    """``value`` with that many digits behind the point, or three in all; empty where it is None."""
    if value is None:
        return Cell("")
    if digits is None:
        return Cell(f"{value:,}" if isinstance(value, int) else f"{value:.3g}", value)
    return Cell(f"{value:.{digits}f}", value)


def page(
    title: str, cards: Iterable[Card], sections: Mapping[str, str], *, has_contents: bool = False
) -> str:
    """A page, whole in itself.

    Args:
        title: of the page.
        cards: at its head.
        sections: by heading; what is empty is left out.
        has_contents: whether links to the sections follow the cards.
    """
    shown = {heading: body for heading, body in sections.items() if body}
    template = _environment().get_template("page.html")
    return template.render(title=title, cards=cards, sections=shown, has_contents=has_contents)


def macros(template: str) -> Any:
    """The macros of ``templates/TEMPLATE``: functions that give `Markup`."""
    return _environment().get_template(template).module


def table(
    columns: Iterable[str | Column],
    rows: Iterable[Sequence[Any]],
    *,
    name: str = "",
    marks: Sequence[str] = (),
    total: int = 0,
) -> Markup:
    """A table that a click on its headings sorts; empty without rows.

    Args:
        columns: headings, those of columns of text as text.
        rows: of `Cell`, text, and numbers or None, which `number` writes.
        name: what the table is, for those who cannot see it; it then scrolls by itself while its headings and
            first column stay.
        marks: words for the style of the rows.
        total: how many rows there are, where not all are shown.
    """
    cells = [[cell if isinstance(cell, str | Cell) else number(cell) for cell in row] for row in rows]
    if not cells:
        return Markup()
    marked = list(zip(marks or [""] * len(cells), cells, strict=True))
    html: Markup = macros("table.html").table(list(columns), marked, name, total)
    return html


def kind_of(reason: str) -> str:
    """Reasons that differ in numbers only are one kind."""
    return re.sub(NUMBER, "#", reason)


def duration(seconds: float) -> str:
    """In the unit that leaves one to three digits before the point."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("enhance_ray.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
