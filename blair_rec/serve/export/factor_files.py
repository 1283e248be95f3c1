"""The files for rules between items in an export of vectors: the vectors of queries, and the error of the scores.

rules.json says how exact the scores are, which run the vectors are from, and which columns of items.npy belong to each
table of rules. rules_sources.npy is [items, R] float32 for each table, side by side; a query is a sum of these vectors.
They are saved because an SVD may differ between machines, and queries have to fit the items' vectors.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import StoreError
from blair_rec.evaluate.runs.recorded import read_recorded
from blair_rec.evaluate.runs.run_files import WEIGHTS_FILE
from blair_rec.experiment.loading import Loaded
from blair_rec.experiment.planning.plan import member_folders
from blair_rec.files.contents import sha256_of
from blair_rec.serve.export.approximation import Approximation
from blair_rec.serve.export.factored import FactoredRules, scorers_in, tables_in, with_factors

RECORD, SOURCES, ITEMS = "rules.json", "rules_sources.npy", "items.npy"
SCHEMA = 1


def write_factors(folder: Path, run_dir: Path, loaded: Loaded, approximation: Approximation) -> None:
    """Write the two files next to items.npy, for a run with factored rules."""
    columns, sources, begin = [], [], 0
    for scorer in scorers_in(loaded.model):
        width = scorer.item_matrix().shape[1]
        if isinstance(scorer, FactoredRules):
            columns.append([begin, begin + width])
            sources.append(scorer.sources[1:].cpu().numpy())
        begin += width
    np.save(folder / SOURCES, np.column_stack(sources), allow_pickle=False)
    record = {
        "schema": SCHEMA,
        "approximation": {**asdict(approximation), "said": str(approximation)},
        "columns": columns,
        "weights": _weights_of(run_dir),
        "files": {name: sha256_of(folder / name) for name in (ITEMS, SOURCES)},
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_factors(folder: Path, run_dir: Path, loaded: Loaded) -> Loaded:
    """Return a run with the vectors of an export instead of its rules.

    Raises:
        StoreError: the folder is not an export with `rules_rank`, was changed, or is from another run.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        schema, files, columns, weights = (record[key] for key in ("schema", "files", "columns", "weights"))
        pairs = [(int(begin), int(end)) for begin, end in columns]
        changed = [name for name in (ITEMS, SOURCES) if sha256_of(folder / name) != files[name]]
    except FileNotFoundError as error:
        raise StoreError(
            f"{folder} has no {Path(error.filename).name}, so it is no export with rules_rank; load the run without "
            "`vectors`, or export it again with rules_rank"
        ) from None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / RECORD} can't be read ({error}); export the run again") from error
    if schema != SCHEMA:
        raise StoreError(
            f"{folder / RECORD} has schema {schema}, and this version reads {SCHEMA}; export the run again"
        )
    if changed:
        raise StoreError(f"{folder} was changed after the export ({', '.join(changed)}); export the run again")
    tables = tables_in(loaded.model)
    if weights != _weights_of(run_dir) or len(pairs) != len(tables):
        raise StoreError(
            f"{folder} was exported from another run than {run_dir}, or {run_dir} was made again since then; export "
            "it again"
        )
    items, sources = (np.load(folder / name, allow_pickle=False) for name in (ITEMS, SOURCES))
    width = 0 if items.ndim < 2 else items.shape[1]
    within = all(0 <= begin < end - 1 < width for begin, end in pairs)
    if not within or sum(end - begin - 1 for begin, end in pairs) != sources.shape[1]:
        raise StoreError(f"{folder / RECORD} names columns that {ITEMS} and {SOURCES} don't have; export the run again")
    made, place = [], 0
    for rules, (begin, end) in zip(tables, pairs, strict=True):
        rank = end - begin - 1
        made.append(FactoredRules(rules, sources[:, place : place + rank], items[:, begin:end]))
        place += rank
    return with_factors(loaded, iter(made))


def _weights_of(run_dir: Path) -> list[str]:
    """The hashes of the weights of a run, or of an average's members; they identify the run."""
    own = sha256_of(run_dir / WEIGHTS_FILE)
    folders = member_folders(run_dir, read_recorded(run_dir)["setup"])
    return [own, *(one for folder in folders for one in _weights_of(folder))]
