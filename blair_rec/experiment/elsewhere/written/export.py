"""The top lists of finished runs as files that other tools, and `from`, read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blair_rec import __version__
from blair_rec.config.comparison import CompareConfig, load_config
from blair_rec.config.names import ProtocolName
from blair_rec.errors import ChangedRuns, ConfigError, OutputError, counted
from blair_rec.evaluate.runs.results import RunResult
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, PROTOCOLS
from blair_rec.experiment.elsewhere.cases import Cases, PartName, cases_of, split_hash
from blair_rec.experiment.elsewhere.files import FORMAT, MANIFEST
from blair_rec.experiment.elsewhere.lists import ITEM, RANK, SCORE
from blair_rec.experiment.elsewhere.written.tables import write_csv, write_parquet
from blair_rec.experiment.planning.data_files import data_folder, data_hash
from blair_rec.experiment.planning.still_valid import finished_runs
from blair_rec.experiment.splits.reading import read_splits
from blair_rec.extras import need
from blair_rec.files.locks import alone_in
from blair_rec.files.places import refuse_taken
from blair_rec.files.writing import partial_of, replace_file, tidy, write_text

if TYPE_CHECKING:
    from blair_rec.data.dataset import TextSequentialDataset
    from blair_rec.experiment.splits.reading import TrainingData

LISTS = "lists"
"""The folder of the files, in that of the comparison."""
EXPORTS = ("trec", "parquet", "csv")
WRITABLE = "make the folder writable, or copy the comparison to one that is"
"""The cure if the lists can't be written: they have no other place."""


class _Top(NamedTuple):
    """The top lists of a run, and the ranks of the targets. Shapes: B cases, k places."""

    items: np.ndarray
    """[B, k] item ids, 0 where a list is shorter."""
    higher: np.ndarray
    """[B] candidates above the target."""
    equal: np.ndarray
    """[B] candidates tied with the target."""
    miss: np.ndarray
    """[B] bool: whether the target is no candidate."""


def export_lists(out: Path, kind: str, part: PartName = "test") -> dict[Path, int]:
    """Write the top lists of all finished runs of a comparison to OUT/lists/VARIANT-SEED.PROTOCOL.KIND.

    Those of validation cases go to VARIANT-SEED.valid.PROTOCOL.KIND. A run keeps none, so its model ranks these cases
    again. Second stages have none, because their trees were fitted on these cases; nor have runs of other systems, or
    runs with one as a member.

    Parquet and CSV have user_id (or case_id), item_id, score and rank. A run keeps no scores, so a score counts down
    with the rank; items tied with the target have the same one. So metrics up to the length of the lists stay the same,
    unless the target is tied with items beyond the end.

    Args:
        kind: one of EXPORTS.
        part: the cases that the lists are for.

    Returns the number of such cases by file.

    Raises:
        NoRuns, BadRun, UnpairedRuns, ChangedRuns, ConfigError: the folder is not a comparison, is damaged, or its data
            set has changed. DatasetError: the data set is gone. OutputError: the files can't be written.
        MissingExtra: Parquet without pyarrow.
        CheckpointError: a model can't be loaded for the validation cases.
    """
    if kind not in EXPORTS:
        raise ConfigError(f"--export is {kind!r}; known: {', '.join(EXPORTS)}")
    if kind == "parquet":
        need("pyarrow", "prepare", "writing Parquet")
    config = load_config(out / CONFIG_FILE)
    runs = list({run.folder: run for run in finished_runs(config, out)}.values())
    if part == "valid":
        runs = [run for run in runs if not run.elsewhere and run.items != "rerank"]
        if not runs:
            raise ConfigError(f"{out} has no run of a model, a scorer or an average, so there are no validation lists")
    data, test = _splits(config, out, runs)
    identity = split_hash(data.train, data.valid, test)
    cases = cases_of(test, "test") if part == "test" else cases_of(data.valid, "valid")
    if kind == "trec":
        _refuse_spaces(cases)
    folder = out / LISTS
    write: Callable[[Path, dict[str, Any]], None] = {"csv": write_csv, "parquet": write_parquet, "trec": _write_trec}[
        kind
    ]
    of_part = "" if part == "test" else f".{part}"
    names = {
        (run.folder.name, protocol): f"{run.folder.name}{of_part}.{protocol}.{kind}"
        for run in runs
        for protocol in PROTOCOLS
    }
    refuse_taken(folder, [*names.values(), MANIFEST], (MANIFEST,), "move these files away")
    found = {}
    try:
        with alone_in(folder, f"another process writes {folder}; wait until it has finished", cure=WRITABLE):
            for name in names.values():
                tidy(folder, name)
            for run in runs:
                tops = _tops(run) if part == "test" else _tops_on_validation(config, run, data)
                for protocol in PROTOCOLS:
                    path = folder / names[run.folder.name, protocol]
                    table, across = _table(tops[protocol], cases)
                    partial = partial_of(path)
                    runs_name = {"run": [run.folder.name] * len(table[ITEM])} if kind == "trec" else {}
                    try:
                        write(partial, {**table, **runs_name})
                        replace_file(partial, path)
                    finally:
                        partial.unlink(missing_ok=True)
                    found[path] = across
            manifest = {
                "format": FORMAT,
                "made_by": f"blair_rec {__version__}",
                "dataset": data_folder(config.dataset).name,
            }
            write_text(folder / MANIFEST, json.dumps({**manifest, "split_sha256": identity}, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror or error}); {WRITABLE}") from None
    return found


def _splits(config: CompareConfig, out: Path, runs: list[RunResult]) -> tuple[TrainingData, TextSequentialDataset]:
    """The splits of the data set, which must not have changed since the runs."""
    digest = data_hash(config)
    if changed := [run.folder.name for run in runs if run.hashes.get("data") != digest]:
        raise ChangedRuns(out, changed, ["the data set's files"])
    return read_splits(config, data_folder(config.dataset))


def _refuse_spaces(cases: Cases) -> None:
    odd = [token for token in (*cases.names, *cases.item_tokens[1:]) if re.search(r"\s", token)]
    if odd:
        raise ConfigError(
            f"{counted(len(odd), 'id')} contain white space (first: {odd[0]!r}), which separates the columns of a TREC "
            "run file; use --export parquet"
        )


def _tops(run: RunResult) -> dict[ProtocolName, _Top]:
    """The top lists of the test cases, which the run keeps."""
    return {protocol: _Top(run.topk(protocol), *run.ranks.counts(protocol)) for protocol in PROTOCOLS}


def _tops_on_validation(config: CompareConfig, run: RunResult, data: TrainingData) -> dict[ProtocolName, _Top]:
    """The top lists of the validation cases, which its model ranks again."""
    from blair_rec.experiment.loading import load_model
    from blair_rec.ranking.scoring import rank

    model = load_model(run.folder, dataset=data.train, device=config.computed_on).model
    found = rank(model, data.valid, config.evaluate.batch_size, k=run.topk("masked").shape[1])
    return {
        "unmasked": _Top(found.topk_unmasked, *found.counts("unmasked")),
        "masked": _Top(found.topk_masked, *found.counts("masked")),
    }


def _table(top: _Top, cases: Cases) -> tuple[dict[str, Any], int]:
    """The columns of a run's top lists, and the number of targets that are tied with items beyond the end."""
    topk, higher, equal, miss = top
    place = np.arange(topk.shape[1])[None, :]
    listed = topk > 0
    length = listed.sum(axis=1)
    tied = (place >= higher[:, None]) & (place <= (higher + equal)[:, None]) & ~miss[:, None]
    score = np.where(tied, topk.shape[1] - higher[:, None], topk.shape[1] - place)
    across = int(((higher < length) & (higher + equal >= length) & ~miss).sum())
    case, column = np.nonzero(listed)
    names, tokens = np.array(cases.names, dtype=object), np.array(cases.item_tokens, dtype=object)
    table = {
        cases.key: names[case].tolist(),
        ITEM: tokens[topk[case, column]].tolist(),
        SCORE: score[case, column].astype(np.int64),
        RANK: (column + 1).astype(np.int64),
    }
    return table, across


def _write_trec(path: Path, table: dict[str, Any]) -> None:
    """The lines of a TREC run file: topic, Q0, document, rank, score, run."""
    (topic, item, score, rank, run) = table.values()
    with path.open("w", encoding="utf-8") as file:
        for row in zip(topic, item, rank.tolist(), score.tolist(), run, strict=True):
            file.write("{} Q0 {} {} {} {}\n".format(*row))
