"""Write the training, validation and test cases of a data set as plain files, for other systems."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec import __version__
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.section import to_dict
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import OutputError, counted, first_of
from blair_rec.evaluate.runs.recorded import hash_of
from blair_rec.experiment.elsewhere.cases import CASE, USER, Cases, cases_of, split_hash, tokens_of
from blair_rec.experiment.elsewhere.files import FORMAT, MANIFEST, changed_files, read_manifest
from blair_rec.experiment.elsewhere.lists import ITEM
from blair_rec.experiment.elsewhere.written.catalogue import items_table
from blair_rec.experiment.elsewhere.written.recbole_files import RECBOLE, write_recbole_files
from blair_rec.experiment.elsewhere.written.tables import (
    Table,
    has_parquet,
    whole_if_possible,
    write_csv,
    write_parquet,
)
from blair_rec.experiment.planning.data_files import data_folder, data_hash
from blair_rec.experiment.splits.reading import TrainingData, read_splits
from blair_rec.files.contents import files_in, sha256_of
from blair_rec.files.locks import whole_folder
from blair_rec.files.places import real_place, refuse_file, refuse_foreign
from blair_rec.files.writing import write_text

TIME, HISTORY = "timestamp", "history"
TABLES = ("train", "valid", "test", "items", "users")
HISTORIES = ("histories_valid", "histories_test")
OURS = (*(f"{name}.*" for name in (*TABLES, *HISTORIES)), RECBOLE)


def write_split(config: CompareConfig, out: Path, fresh: bool = False) -> Mapping[str, Any]:
    """Write the split of a comparison into a folder; return its manifest.

    train, valid and test hold user_id, item_id and timestamp (none for benchmark files), in the order of our training;
    valid and test also case_id where users have several cases. histories_valid and histories_test hold the items before
    each target, items the catalogue with its texts, users all users; recbole/ has the same as RecBole's benchmark
    files. Everything is CSV or JSON lines, and Parquet too where pyarrow is installed.

    Args:
        fresh: replace another split that this command wrote there.

    Raises:
        OutputError: the folder holds something else, or can't be written.
        DatasetError, ConfigError, RecBoleError: see read_splits. CatalogueError: see items_table.
    """
    folder = data_folder(config.dataset)
    data, test = read_splits(config, folder)
    items = items_table(config, folder, data.item_tokens[1:])
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "made_by": f"blair_rec {__version__}",
        "dataset": folder.name,
        "split": _split_in_words(config),
        "ties": config.ties,
        "protocol": config.evaluate.protocol,
        "split_sha256": split_hash(data.train, data.valid, test),
        "data_sha256": data_hash(config),
        "catalogue_sha256": hash_of(items),
    }
    with _new_folder(out, manifest, fresh) as partial:
        if partial is None:
            return _manifest_of(out)
        valid_cases, test_cases = cases_of(data.valid, "valid"), cases_of(test, "test")
        train = _training_events(data)
        _write(partial / "train", train)
        for split, cases in ((data.valid, valid_cases), (test, test_cases)):
            _write(partial / cases.part, _case_table(split, cases))
            _write_histories(partial / f"histories_{cases.part}", split, cases)
        _write(partial / "items", items)
        _write(partial / "users", {USER: sorted(test_cases.users)})
        left_out = write_recbole_files(
            partial, folder.name, items, {"train": data.train, "valid": data.valid, "test": test}
        )
        manifest["keys"] = {cases.part: cases.key for cases in (valid_cases, test_cases)}
        manifest["counts"] = _counts(data, train, valid_cases, test_cases)
        if left_out:
            manifest["recbole"] = left_out
        manifest["files"] = {name: sha256_of(partial / name) for name in files_in(partial)}
        write_text(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


@contextmanager
def _new_folder(out: Path, manifest: Mapping[str, Any], fresh: bool) -> Iterator[Path | None]:
    """A temporary folder that becomes `out` at the end; None if `out` holds this very split already."""
    target = real_place(out)
    refuse_file(target)
    before = read_manifest(target / MANIFEST)
    if before is not None and not fresh:
        if all(before.get(key) == value for key, value in manifest.items()) and not changed_files(target, before):
            yield None
            return
        raise OutputError(
            f"{out} holds another split, or its files were changed; choose another folder with -o, or replace it with "
            "--fresh"
        )
    refuse_foreign(target, {MANIFEST}, OURS)
    if before is not None:
        _refuse_own_work(target, before)
    with whole_folder(out, "split", f"the folder {out}") as partial:
        yield partial


def _refuse_own_work(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise OutputError if a folder to replace has files of others, or files that were changed: they would be lost."""
    files = manifest.get("files")
    known = files if isinstance(files, Mapping) else {}
    changed = set(changed_files(folder, manifest))
    lost = [name for name in files_in(folder) if name != MANIFEST and (name not in known or name in changed)]
    if lost:
        raise OutputError(
            f"{folder} holds {counted(len(lost), 'file')} that this command did not write, or that changed since "
            f"(first: {first_of(lost)}); move them away, or choose another folder with -o"
        )


def _manifest_of(out: Path) -> Mapping[str, Any]:
    found = read_manifest(out / MANIFEST)
    assert found is not None  # _new_folder has read it
    return found


def _split_in_words(config: CompareConfig) -> Any:
    """Which split it is, as its config says."""
    if config.recbole.get("benchmark_filename"):
        return {"benchmark_filename": list(config.recbole["benchmark_filename"])}
    if config.split is not None:
        return to_dict(config.split)
    return config.recbole.get("eval_args", {}).get("split") or "leave-one-out"


def _write(path: Path, table: Table) -> None:
    """A table as CSV, and as Parquet where pyarrow is installed."""
    write_csv(path.with_suffix(".csv"), table)
    if has_parquet():
        write_parquet(path.with_suffix(".parquet"), table)


def _training_events(data: TrainingData) -> dict[str, Any]:
    """The events that training uses, user by user, oldest first."""
    train = data.train
    users, items = tokens_of(train, train.uid_field), tokens_of(train, train.iid_field)
    if train.log is not None and train.event_times is not None:
        kept = train.events_up_to_last_row().numpy()
        user, item = train.log.user.numpy()[kept], train.log.item.numpy()[kept]
        times = {TIME: whole_if_possible(train.event_times)[kept]}
    else:
        sequences, times = data.sequences, {}
        # Sequences are sorted by user and end with a target, so an event belongs to the user of the next target.
        of_target = np.sort(train.inter_feat[train.uid_field].numpy())
        user = of_target[np.cumsum(sequences.is_target) - sequences.is_target]
        item = sequences.items
    return {USER: users[user].tolist(), ITEM: items[item].tolist(), **times}


def _case_table(split: TextSequentialDataset, cases: Cases) -> dict[str, Any]:
    users, items = tokens_of(split, split.uid_field), tokens_of(split, split.iid_field)
    user = split.inter_feat[split.uid_field].numpy()
    numbers = {CASE: list(cases.names)} if cases.key == CASE else {}
    times = {}
    if split.log is not None and split.event_times is not None:
        times = {TIME: whole_if_possible(split.event_times)[split.inter_feat.position.numpy()]}
    return {**numbers, USER: users[user].tolist(), ITEM: items[cases.target].tolist(), **times}


def _write_histories(path: Path, split: TextSequentialDataset, cases: Cases) -> None:
    """All items before each target, oldest first: a line of JSON for each case, and a list column in Parquet."""
    users, items = tokens_of(split, split.uid_field), tokens_of(split, split.iid_field)
    user = users[split.inter_feat[split.uid_field].numpy()].tolist()
    ends = np.cumsum(np.bincount(cases.history_case, minlength=len(cases)))
    begins = np.concatenate([[0], ends[:-1]])
    tokens = items[cases.history_item].tolist()
    lists = [tokens[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    with path.with_suffix(".jsonl").open("w", encoding="utf-8") as file:
        for place, (name, history) in enumerate(zip(user, lists, strict=True)):
            case = {CASE: cases.names[place]} if cases.key == CASE else {}
            file.write(json.dumps({**case, USER: name, HISTORY: history}, ensure_ascii=False) + "\n")
    if has_parquet():
        numbers: dict[str, Sequence[Any]] = {CASE: list(cases.names)} if cases.key == CASE else {}
        write_parquet(path.with_suffix(".parquet"), {**numbers, USER: user, HISTORY: lists})


def _counts(data: TrainingData, train: Mapping[str, Any], valid: Cases, test: Cases) -> dict[str, int]:
    return {
        "users": len(test.users),
        "items": test.n_items - 1,
        "training_events": len(train[USER]),
        "training_targets": data.sequences.n_targets,
        "validation_cases": len(valid),
        "test_cases": len(test),
        "test_targets_in_history": int(test.target_in_history.sum()),
        "items_without_training_event": int((data.item_counts[1:] == 0).sum()),
        "successive_events": data.train.neighbours,
        "successive_events_with_tied_times": data.train.tied_neighbours,
        "rejected_lines": data.rejected.count,
    }
