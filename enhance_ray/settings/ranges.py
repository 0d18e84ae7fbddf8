"""What a value may be, as types: a field that has one of them needs no check of its own.

Other bounds are said by `annotated_types`, as in ``Annotated[int, Interval(ge=1, le=1024)]``.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Interval, MinLen, MultipleOf, Predicate

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T = TypeVar("T")


@dataclass(frozen=True)
class Words:
    """What a type is called in messages, where its bounds do not say it."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Within:
    """Of a pair of numbers: least <= low <= high <= most, as far as they are given."""

    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        least = "" if self.least is None else f"{self.least:g} <= "
        most = "" if self.most is None else f" <= {self.most:g}"
        return f"[low, high] with {least}low <= high{most}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, pair: Range) -> Range:
        bounds = [bound for bound in (self.least, *pair, self.most) if bound is not None]
        if not all(low <= high for low, high in itertools.pairwise(bounds)):
            raise ValueError(f"expected {self}, got [{pair[0]:g}, {pair[1]:g}]")
        return pair


def _is_percent(text: str) -> bool:
    return re.fullmatch(r"\s*(100|\d{1,2}(\.\d+)?)\s*%\s*", text) is not None


Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Probability = Annotated[float, Interval(ge=0, le=1)]
Share = Probability
WindowLength = Annotated[int, Ge(16), MultipleOf(2)]
Name = Annotated[str, MinLen(1), Words("text that is not empty")]
Percent = Annotated[str, Predicate(_is_percent), Words("a share such as 1%")]
NotEmpty = Annotated[tuple[T, ...], MinLen(1)]
"""One or more."""
Range = tuple[float, float]
"""[low, high], from which is drawn, or between which something stays."""
WholeRange = tuple[int, int]
"""The same of whole numbers, both ends among them."""
CountOrRange = Count | Annotated[WholeRange, Within(1)]
"""A number, or [least, most], between which something else decides."""


def both(value: int | WholeRange) -> WholeRange:
    """Least and most of a `CountOrRange`, which are one where it is a number."""
    return (value, value) if isinstance(value, int) else value
