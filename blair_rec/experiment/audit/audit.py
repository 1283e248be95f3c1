"""Audit a data set before anything is trained, and write the page and the JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blair_rec import __version__
from blair_rec.config.names import ProtocolName
from blair_rec.errors import OutputError
from blair_rec.evaluate.metrics import per_user
from blair_rec.evaluate.notes import by_importance
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.evaluate.slices import slices
from blair_rec.experiment.audit.checks import Given, check_all
from blair_rec.experiment.audit.facts import data_facts, text_facts
from blair_rec.experiment.audit.findings import all_findings, headline
from blair_rec.experiment.audit.report import AuditReport, Mean, ScorerRow, Shuffled, SliceMean, TextGain
from blair_rec.experiment.audit.scoring import (
    CHECK_CELLS,
    MAIN_CELLS,
    VALID_CELLS,
    average,
    case_values,
    changes,
    drop_slow,
    fit_scorers,
    intervals,
    ranked,
    run_ranks,
    sample,
    sampled,
    transforms_for,
)
from blair_rec.experiment.audit.source import (
    NO_TIMES,
    REPEATS,
    Asked,
    AuditData,
    Texts,
    find_source,
    read_data,
    read_texts,
)
from blair_rec.experiment.audit.text_gain import compare_neighbours, reach
from blair_rec.experiment.audit.words import text_vectors
from blair_rec.experiment.item_vectors import item_vectors
from blair_rec.experiment.splits.leakage import file_notes, text_notes
from blair_rec.files.locks import alone_in
from blair_rec.files.places import refuse_taken, refuse_unwritable
from blair_rec.files.writing import tidy, write_text
from blair_rec.lines.rejected import REJECTED
from blair_rec.models.items import controlled
from blair_rec.ranking.scoring import Ranks
from blair_rec.text.notes import catalogue_notes, store_notes
from blair_rec.text.store.embeddings import EmbeddingStore, open_store

AUDIT_JSON, AUDIT_PAGE = "audit.json", "audit.html"
AVERAGE = "average"
KEYS = {"dataset", "source", "protocol", "findings", "version"}
"""Keys that the JSON of every audit has."""
OnStage = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Audited:
    """A report, and the lines of the data that were rejected."""

    report: AuditReport
    data: AuditData


def audit(source: str | Path, store: str | Path | None = None, on_stage: OnStage = lambda stage: None) -> Audited:
    """Audit a data set. Nothing is trained or written; text becomes vectors by TF-IDF, or comes from a store.

    Args:
        source: a comparison file, a folder of atomic files, or the name of a data set shipped with RecBole.
        store: a folder that `blair-rec encode` wrote; without it the store of the comparison file, if it names one.
        on_stage: called with the name of each stage when it begins.

    Raises:
        ConfigError, DatasetError, AtomicFileError, RejectedLines, CatalogueError, MissingField: the data can't be read.
        StoreError: the store is damaged, or belongs to other items.
    """
    begin = time.perf_counter()
    asked = find_source(source)
    on_stage("reading the data")
    found = read_data(asked)
    texts, no_text = read_texts(asked)
    named = store or (asked.text.store if asked.text is not None else None)
    opened = open_store(named) if named else None
    on_stage("text vectors")
    vectors, transforms = _vectors(found, texts, opened)
    if vectors is None and not no_text:
        words = texts is not None and any(texts.of(found.tokens))
        no_text = f"no item has {'a word in its text' if words else 'text'}, so what text could add was not measured"
    notes = _notes(asked, found, texts, opened)
    notes += [no_text] if vectors is None else []

    on_stage("scorers")
    fitted = fit_scorers(found.data, vectors, transforms)
    n_items, metric = len(found.tokens), found.metrics[0]
    main_rows = sample(found.test, MAIN_CELLS)
    main = sampled(found.test, main_rows)
    drop_slow(fitted, main, len(main))
    ranks = {name: ranked(model, main) for name, model in fitted.models.items()}
    in_history = float(next(iter(ranks.values())).target_in_history.mean())
    protocol: ProtocolName = asked.protocol or ("masked" if in_history < REPEATS else "unmasked")
    on_stage("their average")
    valid = sampled(found.data.valid, sample(found.data.valid, VALID_CELLS))
    mixed = average(fitted, valid, metric, protocol)
    if mixed is not None:
        ranks[AVERAGE] = ranked(mixed.model, main)
    rows = _rows(ranks, fitted.uses_text, found, protocol)

    on_stage("ties, order and cut-off times")
    again = sample(main, CHECK_CELLS)
    before = {name: case_values(ranks[name], metric, protocol)[again] for name in fitted.models}
    given = Given(asked, found, fitted, vectors, transforms, metric, protocol, main_rows[again], before)
    checks = check_all(given)
    on_stage("what text could add")
    gain = None
    if vectors is not None:
        name = "TF-IDF of the texts" if opened is None else str(opened.encoder.get("name", "the store"))
        gain = _gain(given, name, rows, ranks)
    report = AuditReport(
        dataset=asked.folder.name,
        source=_source(asked),
        ties=asked.config.ties,
        protocol=protocol,
        metrics=found.metrics,
        cases=len(main),
        tests=len(found.test),
        data=data_facts(found),
        texts=None if texts is None else text_facts(texts, found.tokens),
        leaks=found.leaks,
        in_history=in_history,
        chance=_chance(metric, n_items),
        rows=rows,
        weights=None if mixed is None else dict(mixed.weights),
        left_out=fitted.left_out,
        checks=checks,
        text=gain,
        findings=(),
        seconds=0,
        version=__version__,
    )
    report = dataclasses.replace(report, findings=all_findings(report, by_importance(notes)))
    return Audited(dataclasses.replace(report, seconds=time.perf_counter() - begin), found)


def write_audit(audited: Audited, out: Path) -> None:
    """Write audit.json and audit.html into a folder, and rejected.jsonl if lines were rejected.

    Raises:
        OutputError: the folder can't be written, or has files with these names that no audit wrote.
    """
    from blair_rec.evaluate.page.audit import audit_html  # imports Matplotlib

    report = audited.report
    values: dict[str, Any] = dataclasses.asdict(report)
    page = audit_html(values, headline(report))
    try:
        out.mkdir(parents=True, exist_ok=True)
        with alone_in(out):
            for name in (AUDIT_JSON, AUDIT_PAGE, REJECTED):
                tidy(out, name)
            write_text(out / AUDIT_JSON, json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
            write_text(out / AUDIT_PAGE, page)
            audited.data.data.rejected.write(out / REJECTED)
    except OSError as error:
        raise OutputError(f"{out} can't be written ({error.strerror}); choose another folder with -o") from None


def check_out(out: Path) -> None:
    """Check before the work that an audit may write into a folder.

    Raises:
        OutputError: it can't be written, or has files with our names that no audit wrote.
    """
    refuse_unwritable(out)
    # Other programs also write an audit.json, so its content decides.
    refuse_taken(out, (AUDIT_JSON, AUDIT_PAGE, REJECTED), (AUDIT_JSON,) if _is_ours(out / AUDIT_JSON) else ())


def _is_ours(path: Path) -> bool:
    """Whether a file is the JSON of an audit."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, Mapping) and found.keys() >= KEYS


def _source(asked: Asked) -> str:
    if asked.config.recbole.get("benchmark_filename"):
        return "benchmark files"
    if asked.config.split is not None:
        return f"cut-off times {asked.config.split.valid_from} and {asked.config.split.test_from}"
    return "RecBole's eval_args" if "eval_args" in asked.config.recbole else "leave-one-out"


def _vectors(
    found: AuditData, texts: Texts | None, store: EmbeddingStore | None
) -> tuple[NDArray[np.float32] | None, list[str]]:
    """The text vectors by item id, [N, E] with zeros for items without text, and the transforms for them."""
    if store is not None:
        table = item_vectors(store, found.data.item_tokens, "zeros").table
        return table, transforms_for(table)
    if texts is None or not any(lines := texts.of(found.tokens)):
        return None, []
    rows = text_vectors(lines)
    return (np.pad(rows, ((1, 0), (0, 0))), []) if rows.any() else (None, [])


def _notes(asked: Asked, found: AuditData, texts: Texts | None, store: EmbeddingStore | None) -> list[str]:
    """The notes on the data and its texts that a comparison shows, too."""
    notes = found.leaks.notes() + file_notes(found.data)
    if not asked.has_times:
        notes.append(NO_TIMES)
    if texts is not None:
        notes += catalogue_notes(texts.catalogue, texts.by_token, texts.fields, found.tokens)
        notes += text_notes(texts.fields, texts.of(found.tokens))
    if store is not None:
        notes += store_notes(store, found.tokens)
    return notes


def _rows(
    ranks: Mapping[str, Ranks], uses_text: Mapping[str, bool], found: AuditData, protocol: ProtocolName
) -> tuple[ScorerRow, ...]:
    """The figures of all scorers, the best first."""
    user = next(iter(ranks.values())).user
    keys = [(which, metric) for which in PROTOCOLS for metric in found.metrics]
    columns = {(name, *key): case_values(one, key[1], key[0]) for name, one in ranks.items() for key in keys}
    found_intervals = dict(zip(columns, intervals(list(columns.values()), user), strict=True))
    rows = []
    for name, one in ranks.items():
        metrics: dict[str, dict[str, Mean]] = {
            which: {
                metric: Mean(float(columns[name, which, metric].mean()), found_intervals[name, which, metric])
                for metric in found.metrics
            }
            for which in PROTOCOLS
        }
        values = columns[name, protocol, found.metrics[0]]
        parts = {}
        for part in slices(run_ranks(one, found.data.item_counts)):
            of_part = values[part.cases]
            interval = intervals([of_part], user[part.cases])[0] if len(of_part) else None
            mean = float(of_part.mean()) if len(of_part) else None
            parts[part.name] = SliceMean(part.label, len(of_part), mean, interval)
        rows.append(ScorerRow(name, uses_text.get(name, False), metrics, parts))
    return tuple(sorted(rows, key=lambda row: -row.metrics[protocol][found.metrics[0]].mean))


def _gain(given: Given, vectors_from: str, rows: tuple[ScorerRow, ...], ranks: Mapping[str, Ranks]) -> TextGain:
    """How much text could add, by the best scorer that reads text alone and the best one that reads none."""
    assert given.vectors is not None
    names, fitted = [row.name for row in rows if row.name != AVERAGE], given.fitted
    with_text = next((name for name in names if fitted.reads_text_alone(name)), None)
    without = next((name for name in names if not fitted.uses_text[name]), None)
    both = None
    counts = given.found.data.item_counts
    if with_text is not None and without is not None:
        both = reach((with_text, without), (ranks[with_text], ranks[without]), given.protocol, counts)
    shuffled = None if with_text is None else _shuffled(given, with_text)
    return TextGain(vectors_from, compare_neighbours(given.found.data.sequences, given.vectors), both, shuffled)


def _shuffled(given: Given, name: str) -> Shuffled:
    assert given.vectors is not None
    mixed = np.zeros_like(given.vectors)
    mixed[1:] = controlled(given.vectors[1:], "shuffle", 0)
    model = fit_scorers(given.found.data, mixed, given.transforms, (name,)).models[name]
    own, other = given.before[name], given.value(model, given.part)
    ((_, interval),) = changes([other], [own], given.user)
    return Shuffled(name, float(own.mean()), float(other.mean()), interval)


def _chance(metric: str, n_items: int) -> float:
    """The metric of a random order of all items."""
    return float(per_user(metric, np.zeros(1, np.int64), np.full(1, n_items - 1)).mean())
