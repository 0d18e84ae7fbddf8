"""Names of files as tables hold them: Parquet takes UTF-8 alone, and a name is any bytes.

Python gives bytes that are no UTF-8 as surrogates, U+DC80 to U+DCFF. Tables have them written out: a file
called caf, the byte E9 and .wav is `caf\\udce9.wav` there, which JSON and Python read as that name. All keys
of a job have this form, and where a file is opened it is turned back.
"""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\udc80-\udcff]")
_WRITTEN_OUT = re.compile(r"\\udc(?:[89a-f][0-9a-f]|5c)")
_BACKSLASH = "\\udc5c"
"""In place of the backslash of a name that looks as if it had been written out. No surrogate is U+DC5C."""


def storable(name: str) -> str:
    """``name`` as UTF-8 can hold it; no two names have the same form."""
    plain = _WRITTEN_OUT.sub(lambda found: _BACKSLASH + found[0][1:], name)
    return _SURROGATE.sub(lambda found: f"\\udc{ord(found[0]) - 0xDC00:02x}", plain)


def path_of(stored: str) -> str:
    """The name that `storable` had; other text stays as it is."""
    return _WRITTEN_OUT.sub(_read, stored)


def _read(found: re.Match[str]) -> str:
    return "\\" if found[0] == _BACKSLASH else chr(0xDC00 + int(found[0][-2:], 16))
