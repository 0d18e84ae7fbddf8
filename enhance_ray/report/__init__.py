"""Pages for people: what became of every input, and what others build theirs of.

    recordings   the page of a run, from its records
    pages        pages, tables and cards, from templates/
    pictures     histograms and spectrograms

A page is one file that needs no network: pictures, styles, a few lines of script and short sounds are inside.
"""

from enhance_ray.report.pages import (
    NUMBER,
    TABLE_ROWS,
    Card,
    Cell,
    Column,
    duration,
    kind_of,
    macros,
    number,
    page,
    table,
)
from enhance_ray.report.pictures import (
    BEFORE,
    INK,
    bars,
    draw_spectrogram,
    embed,
    mel_level,
    new_figure,
    paint,
    require_pictures,
    spectrogram_pair,
)
from enhance_ray.report.recordings import GuardTally, html

__all__ = [
    "BEFORE",
    "INK",
    "NUMBER",
    "TABLE_ROWS",
    "Card",
    "Cell",
    "Column",
    "GuardTally",
    "bars",
    "draw_spectrogram",
    "duration",
    "embed",
    "html",
    "kind_of",
    "macros",
    "mel_level",
    "new_figure",
    "number",
    "page",
    "paint",
    "require_pictures",
    "spectrogram_pair",
    "table",
]
