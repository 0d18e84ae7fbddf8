"""Write docs/options.md, the options of a recording as the code defines them.

python tools/options_page.py        after a change of settings/options.py; a test compares the two
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from enhance_ray.settings import messages
from enhance_ray.settings.options import EnhanceOptions

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
HEAD = """\
# Options of a recording

The same options, with the same names, ranges and defaults, are flags of the command line (`--peak-limit`),
keys of `options` in YAML files, fields of `EnhanceOptions` in Python, and parameters of requests to the
endpoint.
`tools/options_page.py` writes this page.

| option | value | default | what it does |
|---|---|---|---|
"""


def page() -> str:
    """The page as it is to be."""
    rows = []
    for field in dataclasses.fields(EnhanceOptions):
        original, text = field.metadata["original"], field.metadata["description"]
        names = f"`{field.name}`" + (f" (`{original}`)" if original else "")
        default = "" if field.default is None else str(field.default).lower()
        only = " Of the enhancer alone." if field.metadata["enhances"] else ""
        value = messages.wanted(messages.hints(EnhanceOptions)[field.name])
        rows.append(f"| {names} | {value} | {default} | {text[0].upper()}{text[1:]}.{only} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
