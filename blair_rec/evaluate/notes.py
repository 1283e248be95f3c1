"""Notes that a reader needs before believing a table, the most important first, and how its runs were made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blair_rec.config.names import ProtocolName
from blair_rec.errors import first_of, out_of
from blair_rec.evaluate.runs.results import RunResult

if TYPE_CHECKING:
    from blair_rec.evaluate.leaderboard import Row

Scalar = str | int | None
TEXT_CODE = "code_of_text"
SHOWN_NOTES = 5
"""Number of notes that are shown; the terminal and the page show the rest on demand."""
# Runs keep their notes as sentences, those of earlier versions too, so a note is recognised by its words.
_CHANGES_THE_CONCLUSION = (
    r"^the baseline .* has no finished run",
    r"planned runs? (is|are) not done",
    r"not beat training-free",
    r"^the trees of .* found nothing to learn",
    r"events later than some test|training knows what was to come",  # leak
    r"shares? (a|its|their) timestamp|have the time of the event before",  # ties
    r"so it is no model without text",  # a student of a teacher with text
    r"missing_text|ha(s|ve) no text",
    r"identical text|differ only in case|have the very text",
    r"has seeds .* of ",
    r"was evaluated on the test split",
    r"used different settings|has settings of its own",
    r"never occurs? in training",
    r"ha(s|ve) no test case",
    r"rejected\.jsonl",
    r"repeats? another",
    r"tokens that .* reads",  # cut texts
    r"no list has its target|have the same content",  # lists of other systems, perhaps for other cases
    r"lists no item of any history|has no list for|shorter than \d+ items",
)
# Not the digits of names, dates, versions and exponents: valid-1.csv, 1.csv, 2024-07-01, 2.13.0, NDCG@5, 1e-05.
_NUMBER = r"(?<![\w.,@/-])-?\d+(?:,\d{3})*(?:\.\d+)?%?(?![\w%]|[.,/-]\w)"
_FOR_THE_RECORD = (
    r"^weights of ",
    r"--accept-code",
    r"nothing reads|nothing .* uses",
    r"^runs differ in ",
)


def by_importance(notes: Iterable[str]) -> tuple[str, ...]:
    """Return the notes without repeats: first those that change a conclusion, last those that are only for the record.

    Unknown notes come between the two. Notes of one kind keep their order.
    """
    return tuple(sorted(dict.fromkeys(notes), key=_place))


def _place(note: str) -> int:
    """0 is the most important."""
    for place, pattern in enumerate((*_CHANGES_THE_CONCLUSION, None, *_FOR_THE_RECORD)):
        if pattern is not None and re.search(pattern, note):
            return place
    return len(_CHANGES_THE_CONCLUSION)


def run_notes(runs: Sequence[RunResult]) -> list[str]:
    """The notes of runs. Notes of one variant that differ only in numbers give one note for all seeds, with the ranges.

    A note on a variant names the seeds if not all of its seeds have it.
    """
    found = []
    for variant in dict.fromkeys(run.variant for run in runs):
        mine = sorted((run for run in runs if run.variant == variant), key=lambda run: run.seed)
        by_words: dict[tuple[str, int], list[tuple[int, str]]] = {}
        for run in mine:
            before: Counter[str] = Counter()
            for note in dict.fromkeys(run.notes):
                # Numbers after "first:" may be names of users or items, which have no range.
                words = note if "first: " in note else re.sub(_NUMBER, "#", note)
                by_words.setdefault((words, before[words]), []).append((run.seed, note))
                before[words] += 1
        for of_seeds in by_words.values():
            note = _with_ranges([note for _, note in of_seeds])
            seeds = [*dict.fromkeys(seed for seed, _ in of_seeds)]
            named = f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)}"
            if note != of_seeds[0][1]:
                note = f"{note} (lowest to highest of {named})"
            elif len(seeds) < len(mine) and re.search(rf"(?<![\w.]){re.escape(variant)}(?![\w.])", note):
                note = f"{note} ({named})"
            found.append(note)
    return found


def _with_ranges(notes: Sequence[str]) -> str:
    """One note from several that differ only in numbers: each number that differs becomes 'lowest to highest'."""
    columns = iter(zip(*(re.findall(_NUMBER, note) for note in notes), strict=True))

    def as_range(found: re.Match[str]) -> str:
        numbers = sorted(set(next(columns)), key=lambda number: float(number.replace(",", "").rstrip("%")))
        return found[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"

    return notes[0] if len(set(notes)) == 1 else re.sub(_NUMBER, as_range, notes[0])


def seed_notes(variants: Mapping[str, Sequence[RunResult]]) -> list[str]:
    """A note for every variant that lacks seeds which others have."""
    seeds = {variant: [run.seed for run in runs] for variant, runs in variants.items()}
    every = sorted({seed for of_variant in seeds.values() for seed in of_variant})
    return [
        f"{variant} has seeds {listed(of_variant)} of {listed(every)}"
        for variant, of_variant in sorted(seeds.items())
        if of_variant != every
    ]


def pending_notes(pending: Sequence[str], runs: Sequence[RunResult]) -> list[str]:
    """A note on the runs that are planned but not finished; `pending` are their names."""
    if not pending:
        return []
    total = len(pending) + len({run.folder for run in runs})
    return [f"{out_of(len(pending), total, 'planned run', 'are')} not done yet (first: {first_of(pending)})"]


def accepted_notes(runs: Sequence[RunResult]) -> list[str]:
    """A note for each change of the code after which finished runs were kept."""
    kept: dict[str, list[str]] = {}
    for run in {run.folder: run for run in runs}.values():
        for changed in dict.fromkeys(run.accepted_code.values()):
            kept.setdefault(changed, []).append(run.folder.name)
    return [
        f"{len(names)} {'run was' if len(names) == 1 else 'runs were'} made before a change of {changed} and kept "
        f"with --accept-code ({first_of(names)})"
        for changed, names in kept.items()
    ]


def training_free_notes(rows: Sequence[Row], protocol: ProtocolName, metric: str) -> list[str]:
    """A note on the trained variants that do not beat the best training-free scorer."""

    def mean(row: Row) -> float:
        return row.metrics[protocol][metric].mean

    rows = [row for row in rows if row.control is None]
    best = max((row for row in rows if row.training_free), key=mean, default=None)
    if best is None:
        return []
    beaten = [row for row in rows if not row.training_free and mean(row) <= mean(best)]
    if not beaten:
        return []
    values = ", ".join(f"{row.variant} ({mean(row):.4f})" for row in beaten)
    verb = "does" if len(beaten) == 1 else "do"
    return [f"{values} {verb} not beat training-free {best.variant} ({mean(best):.4f}) on {metric} ({protocol})"]


def merged_provenance(runs: Sequence[RunResult]) -> tuple[dict[str, Scalar | list[Scalar]], list[str]]:
    """The provenance of all runs, a list where they differ, and a note for each difference."""
    merged: dict[str, Scalar | list[Scalar]] = {}
    notes = []
    records = [{**run.provenance, "data_sha256": run.hashes.get("data"), **_code(run)} for run in runs]
    for key in sorted({key for record in records for key in record}):
        # Runs without text have no hash of the code that makes vectors, which is no difference.
        values = list(dict.fromkeys(record.get(key) for record in records if key in record or key != TEXT_CODE))
        merged[key] = values[0] if len(values) == 1 else values
        if len(values) > 1:
            notes.append(f"runs differ in {key}: {listed(values)}")
    return merged, notes


def _code(run: RunResult) -> dict[str, str | None]:
    """The hash of the code of all runs, and of the code that makes vectors, which provenance.code_hash appends."""
    code, slash, of_text = (run.hashes.get("code") or "").partition("/")
    return {"code": code or None, **({TEXT_CODE: of_text} if slash else {})}


def listed(values: Sequence[Any]) -> str:
    """'1, 2, unknown'."""
    return ", ".join("unknown" if value is None else str(value) for value in values)
