"""The steps of `transforms:` in a config, such as [center, {pca: 128}]: their values, and checks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blair_rec import registry
from blair_rec.config.yaml.files import is_number, one_of, shown

Step = str | Mapping[str, Any]
"""A name, or {name: value}."""

WHITENINGS = ("zca", "pca")
SIZES = (1e-6, 1e6)
"""The smallest and the largest root mean square of {rescale: x}: products of such vectors fit into float32."""

WIDEST = 1 << 16
"""The largest width of {pca: k}."""

ITEMS_PER_DIRECTION = 4
"""Items per direction that whitening should have; with fewer, less of the text's meaning is kept.

On MovieLens's titles and genres (384 directions), the five nearest items share .36 of their genres after whitening with
4 items per direction, .32 with 2, .24 with 1.3 and .16 with 1. For random items it is .18.
"""
FEWEST_PER_DIRECTION = 2
"""With fewer it is an error: near 1, whitening makes all items equally far from each other."""


def read_step(step: Step) -> tuple[str, Any]:
    """Return ('pca', 128) for {pca: 128}; a plain name has its default value, or None if it takes no value."""
    if isinstance(step, str):
        return step, "zca" if step == "whiten" else None
    ((name, value),) = step.items()
    return name, value


def step_name(step: Step) -> str:
    """Return 'pca: 128' for {pca: 128}, and a plain name unchanged."""
    return step if isinstance(step, str) else ": ".join(map(str, read_step(step)))


def step_problems(step: Any) -> list[str]:
    """The problems of one step's name or value; each continues a message after `transforms`."""
    if not isinstance(step, str) and not (isinstance(step, Mapping) and len(step) == 1):
        return [f" holds {shown(step)}; expected a name, or one name with its value, such as {{pca: 64}}"]
    name, value = read_step(step)
    if not isinstance(name, str) or not registry.knows("transforms", name):
        return one_of(str(name), registry.names("transforms"), "")
    if name not in STEPS:  # from outside: its class checks the value
        return []
    fits, expected = STEPS[name]
    return [] if fits(value) else [f": {name} is {shown(value)}; expected {expected}"]


def order_problems(steps: Sequence[Step]) -> list[str]:
    """The problem of `pca` after whitening: all directions have the same variance, so rounding errors would choose."""
    whitened = False
    for step in steps:
        if whitened and read_step(step)[0] == "pca":
            return [": pca comes after whitening, which gives all directions the same variance; put pca before it"]
        whitened = whitened or equalises(step)
    return []


def equalises(step: Step) -> bool:
    """Whether all directions have the same variance after it."""
    name, value = read_step(step)
    return name == "whiten" or (name == "shrink" and value == 1)


def followed_by(steps: Sequence[Step], own: Sequence[Step]) -> list[Step]:
    """The steps of a config, followed by those of an item side; but the item side's `pca` goes before whitening."""
    place = next((place for place, step in enumerate(steps) if equalises(step)), len(steps))
    reducing = [step for step in own if read_step(step)[0] == "pca"]
    return [*steps[:place], *reducing, *steps[place:], *(step for step in own if step not in reducing)]


def whitened_width(steps: Sequence[Step], width: int) -> int | None:
    """The most directions that are whitened in vectors of this width; None without whitening."""
    for step in steps:
        if equalises(step):
            return width
        name, value = read_step(step)
        width = min(width, value) if name == "pca" else width
    return None


def narrowed(steps: Sequence[Step], width: int) -> list[Step]:
    """The steps with `pca` to this width before whitening."""
    place = next(place for place, step in enumerate(steps) if equalises(step))
    before = [step for step in steps[:place] if read_step(step)[0] != "pca"]
    return [*before, {"pca": width}, *steps[place:]]


def in_yaml(steps: Sequence[Step]) -> str:
    """The steps as written in a config: '[center, {pca: 128}]'."""
    return f"[{', '.join(step if isinstance(step, str) else f'{{{step_name(step)}}}' for step in steps)}]"


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= WIDEST


STEPS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "center": (lambda value: value is None, "no value: center"),
    "l2": (lambda value: value is None, "no value: l2"),
    "pca": (_is_width, f"a width from 1 to {WIDEST:,}, such as {{pca: 64}}"),
    "whiten": (lambda value: value in WHITENINGS, "{whiten: zca} or {whiten: pca}"),
    "shrink": (lambda value: is_number(value) and 0 < value <= 1, "a degree above 0, up to 1, such as {shrink: 0.5}"),
    "rescale": (
        lambda value: is_number(value) and SIZES[0] <= value <= SIZES[1],
        f"a size from {SIZES[0]:g} to {SIZES[1]:g}, such as {{rescale: 1.0}}",
    ),
}
"""By name: a check of the value, and what a message says is expected."""

_OF_VALUES: dict[str, dict[str, Any]] = {
    "center": {"type": "null"},
    "l2": {"type": "null"},
    "pca": {"type": "integer", "minimum": 1, "maximum": WIDEST},
    "whiten": {"enum": WHITENINGS},
    "shrink": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "rescale": {"type": "number", "minimum": SIZES[0], "maximum": SIZES[1]},
}


def step_schema() -> dict[str, Any]:
    """The JSON Schema of one step, with the steps of other packages."""
    outside, code = registry.plugins("transforms"), f"^{registry.CODE}$"
    alone = [name for name, (fits, _) in STEPS.items() if fits(read_step(name)[1])]
    return {
        "anyOf": [
            {"enum": [*alone, *sorted(outside)]},
            {"type": "string", "pattern": code},
            {
                "type": "object",
                "properties": {**_OF_VALUES, **{name: {} for name in sorted(outside)}},
                "patternProperties": {code: {}},
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
