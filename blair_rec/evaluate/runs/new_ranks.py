"""new_items.npz of a run: the ranks of targets that are new items, or why the run can't score them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.names import ProtocolName
from blair_rec.errors import BadRun, counted
from blair_rec.evaluate.runs.run_files import read_arrays

NEW_ITEMS_FILE = "new_items.npz"
COUNTS = ("higher_unmasked", "equal_unmasked", "higher_masked", "equal_masked", "higher_new", "equal_new")


@dataclass(frozen=True, eq=False)
class NewRanks:
    """new_items.npz, array by array: one row per test case. Checked when made; raises ValueError saying what is wrong.

    Shapes: C test cases, of which a run that can't score new items has counts of length 0.
    """

    user: NDArray[np.int64]
    """[C] RecBole's user id."""
    item: NDArray[np.int64]
    """[C] id of the target: the new item with token tokens[item - known]."""
    history_length: NDArray[np.int64]
    """[C] known items before the target."""
    higher_unmasked: NDArray[np.int64]
    """[C] number of other items, known and new, that score above the target, including items of the history."""
    equal_unmasked: NDArray[np.int64]
    """[C] number of other items tied with the target."""
    higher_masked: NDArray[np.int64]
    """[C] as higher_unmasked, with the items of the history removed from the candidates."""
    equal_masked: NDArray[np.int64]
    """[C] as equal_unmasked, with the items of the history removed from the candidates."""
    higher_new: NDArray[np.int64]
    """[C] number of other new items that score above the target."""
    equal_new: NDArray[np.int64]
    """[C] number of other new items tied with the target."""
    known: NDArray[np.int64]
    """[] known items, the padding included."""
    left_out: NDArray[np.int64]
    """[] test cases without a known item before the target, which are not among the C."""
    tokens: NDArray[np.str_]
    """The new items, as the data set names them."""
    why: NDArray[np.str_]
    """[] why the run can't score new items; empty where it can."""

    def __post_init__(self) -> None:
        for one in fields(self):
            array, kind = getattr(self, one.name), "U" if one.name in ("tokens", "why") else "i"
            if not isinstance(array, np.ndarray) or array.dtype.kind != kind:
                raise ValueError(f"{one.name} is {getattr(array, 'dtype', type(array).__name__)}, expected {kind!r}")
            expected: tuple[int, ...] = (np.size(self.user),)
            if one.name in COUNTS and np.size(self.why) == 1 and self.reason:
                expected = (0,)
            if one.name in ("known", "left_out", "why"):
                expected = ()
            if one.name == "tokens":
                expected = (np.size(self.tokens),)
            if array.shape != expected:
                raise ValueError(f"{one.name} has shape {array.shape}, expected {expected}")
        last = int(self.known) + len(self.tokens) - 1
        if wrong := int(((self.item < self.known) | (self.item > last)).sum()):
            raise ValueError(
                f"item is out of bounds in {wrong} of {counted(len(self.item), 'case')}, expected {self.known} to "
                f"{last}"
            )
        for part, most in (("unmasked", last - 1), ("masked", last - 1), ("new", len(self.tokens) - 1)):
            higher, equal = getattr(self, f"higher_{part}"), getattr(self, f"equal_{part}")
            if wrong := int(((higher < 0) | (equal < 0) | (higher + equal > most)).sum()):
                raise ValueError(f"counts of {part} are out of bounds in {wrong} of {counted(len(higher), 'case')}")

    @property
    def reason(self) -> str:
        """Why the run can't score new items; empty where it can."""
        return str(self.why)

    def among_all(self, protocol: ProtocolName) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return higher and equal of every test case, among known and new items."""
        return getattr(self, f"higher_{protocol}"), getattr(self, f"equal_{protocol}")


def write_new_ranks(folder: Path, ranks: NewRanks) -> None:
    """Write new_items.npz into a folder that the caller renames when it is complete."""
    arrays: dict[str, Any] = {one.name: getattr(ranks, one.name) for one in fields(NewRanks)}
    np.savez_compressed(folder / NEW_ITEMS_FILE, **arrays)


def read_new_ranks(folder: Path) -> NewRanks | None:
    """Read the ranks of new items of a finished run; None if it measured no new items.

    Raises:
        BadRun: the file is damaged.
    """
    if not (folder / NEW_ITEMS_FILE).exists():
        return None
    return new_ranks_of(folder, read_arrays(folder, NEW_ITEMS_FILE))


def new_ranks_of(folder: Path, arrays: Mapping[str, np.ndarray]) -> NewRanks:
    """The arrays of a new_items.npz. Raises BadRun."""
    names = [one.name for one in fields(NewRanks)]
    if missing := [name for name in names if name not in arrays]:
        raise BadRun(
            folder, NEW_ITEMS_FILE, f"lacks {len(missing)} of {counted(len(names), 'array')} ({', '.join(missing)})"
        )
    try:
        return NewRanks(**{name: arrays[name] for name in names})
    except ValueError as error:
        raise BadRun(folder, NEW_ITEMS_FILE, str(error)) from error
