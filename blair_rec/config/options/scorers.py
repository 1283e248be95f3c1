"""Options of our training-free scorers: their names, types and limits, without importing a scorer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from blair_rec.config.section import AS_GIVEN, FieldProblem, FromOneOn, Section, SectionProblem

SMALLEST_SHARE = 1e-6


def _zero_or_seen(share: float) -> float:
    if 0 < share < SMALLEST_SHARE:
        raise FieldProblem([f" is {share!r}, too small to change a score; set 0, or at least {SMALLEST_SHARE:g}"])
    return share


# Larger or smaller values make rules that float32 can't hold, or that popularity outweighs.
Power = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), AS_GIVEN]
Share = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False), AfterValidator(_zero_or_seen), AS_GIVEN]


class SequentialRulesOptions(Section):
    """Options of `sequential_rules`."""

    source_power: Power = 0
    """The rules of a source are divided by (their sum) ^ source_power; 0: not at all, 1: they become shares."""
    target_power: Power = 0
    """The rules to a target are divided by (their sum) ^ target_power; above 0, rare targets rank higher."""


class TextRulesOptions(Section):
    """Options of `text_rules`."""

    source_power: Power = 0.5
    """See `sequential_rules`."""
    target_power: Power = 0
    """See `sequential_rules`."""
    source_text: Share = 0.3
    """How much an item uses the rules from its text neighbours, compared with its own."""
    target_text: Share = 0.3
    """How much a rule to an item also leads to its text neighbours, compared with the item itself."""
    neighbours: FromOneOn = 5
    """The number of text neighbours of an item."""


OPTIONS: Mapping[str, type[Section]] = {
    "sequential_rules": SequentialRulesOptions,
    "text_rules": TextRulesOptions,
}
"""The options of each of our scorers that has some, by the name of the scorer."""


def option_problems(scorer: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each option that one of our scorers doesn't have, or whose value is wrong."""
    section = OPTIONS.get(scorer)
    if section is None:
        yield f"options is {dict(options)}, but scorer: {scorer} has no options; leave them out"
        return
    try:
        section(**{str(name): value for name, value in options.items()})
    except SectionProblem as error:
        known = ", ".join(section.model_fields)
        yield from (f"options.{line} (options of {scorer}: {known})" for line in str(error).splitlines())


def options_of(scorer: str) -> tuple[str, ...]:
    """Return the names of the options of a scorer; empty for a scorer of another package."""
    return tuple(OPTIONS[scorer].model_fields) if scorer in OPTIONS else ()
