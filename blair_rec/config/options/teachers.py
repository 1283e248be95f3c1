"""Which variants can teach a student (`distill`), without importing a scorer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from blair_rec.config.yaml.files import one_of
from blair_rec.registry import TEXT_SCORERS

if TYPE_CHECKING:
    from blair_rec.config.variant import VariantConfig

COUNTED = ("popularity", "markov", "text_rules")
"""Our scorers that count the training split and can't be counted again without one user. `sequential_rules` counts it,
too, but can be counted again."""
CAN_TEACH = (
    "a teacher is a model without distill, a scorer (sequential_rules, "
    f"{', '.join(one for one in TEXT_SCORERS if one not in COUNTED)}), or an average of these"
)
"""The allowed teachers, in the words of a message."""


def teacher_problems(variants: Mapping[str, VariantConfig], student: VariantConfig) -> Iterator[str]:
    """Yield a line for each reason why a student can't learn from its teacher."""
    name = student.distill
    if name is None:
        return
    if name not in variants:
        yield from one_of(name, tuple(variants), ".distill")
        return
    teacher = variants[name]
    if teacher.rerank:
        yield (
            f".distill names {name!r}, a second stage, whose trees are fitted on validation cases and order some items "
            f"alone; {CAN_TEACH}"
        )
        return
    parts = {member: variants[member] for member in teacher.average if member in variants} or {name: teacher}
    for part, variant in parts.items():
        through = f"{name!r}" if part == name else f"{name!r} with its member {part!r}"
        if variant.distill is not None:
            why = f"which learns from a teacher itself; {CAN_TEACH}"
        elif variant.is_elsewhere:
            why = f"trained elsewhere: another system's scores are not for the training positions; {CAN_TEACH}"
        elif variant.scorer in COUNTED:
            why = (
                f"whose scorer {variant.scorer} counts the training split, the position to predict included; "
                f"{CAN_TEACH}"
            )
        elif variant.scorer == "sequential_rules" and variant.options.get("target_power"):
            why = "whose rules have a target_power, so they can't be counted without a user; leave target_power out"
        elif student.control is not None and variant.uses_text and variant.control is None:
            why = f"whose text has a meaning, so control: {student.control} is no control; let it learn from a control"
        else:
            continue
        yield f".distill names {through}, {why}"
