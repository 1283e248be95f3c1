"""`blair_rec.refit(run, out)`: train the winner of a comparison again, on the whole log, to recommend with it.

DIR/result.json         facts about it (`refit: true`), the runs that it was made from, and their hashes
DIR/model.safetensors   the weights, or those of an average; DIR/members/NAME-SEED/ then holds its members, each as DIR
DIR/items.json          item tokens by item id
DIR/item_counts.npy     [N] int64, events of each item in the whole log, by item id
DIR/history.jsonl       the training loss of each epoch
DIR/config.yaml         the comparison; DIR/item_cards.json the items' titles, where the comparison has them
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blair_rec.config.section import write_yaml
from blair_rec.errors import ChangedRuns, ConfigError, OutputError, first_of
from blair_rec.evaluate.page.cards import CARDS_FILE, read_cards
from blair_rec.evaluate.runs.recorded import SCHEMA, hash_of, read_recorded
from blair_rec.evaluate.runs.run_files import (
    CONFIG_FILE,
    CURVE_FILE,
    ITEMS_FILE,
    RESULT_FILE,
    RUNS_FOLDER,
    WEIGHTS_FILE,
    read_json,
)
from blair_rec.experiment.planning.data_files import data_folder, data_hash
from blair_rec.experiment.planning.plan import MEMBERS_FOLDER, members_hash
from blair_rec.experiment.provenance import code_hash, peak_memory_mb, provenance
from blair_rec.experiment.splits.reading import TrainingData, read_splits, with_all_items
from blair_rec.files.contents import sha256_of
from blair_rec.files.locks import work_beside
from blair_rec.files.places import real_place, refuse_foreign
from blair_rec.files.writing import partial_of, put_in_place, tidy, write_text
from blair_rec.models.scorer import transform_report
from blair_rec.models.text_models import count_parameters
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.serve.recommender import COUNTS_FILE
from blair_rec.serve.retraining import fit_again, whole_data
from blair_rec.serve.winner import Chosen, choose
from blair_rec.training.checkpoint import save_tensors, save_weights, weights_metadata

logger = logging.getLogger("blair_rec")

WRITTEN = (WEIGHTS_FILE, ITEMS_FILE, COUNTS_FILE, CURVE_FILE, CONFIG_FILE, CARDS_FILE, MEMBERS_FOLDER)
"""The files of a refit, next to its result.json."""
KEPT = ("variant", "seed", "model", "items", "control", "transforms", "dataset", "encoder", "store_sha256", "selection")
"""The keys of result.json that a refit copies from its run."""

OnTrained = Callable[[str, int, int], None]
"""Called with (the name of the run, training steps done, steps in all)."""


def refit(
    run: str | Path,
    out: str | Path,
    *,
    variant: str | None = None,
    seeds: Sequence[int] | None = None,
    store: str | Path | None = None,
    progress: OnTrained = lambda name, done, total: None,
) -> Path:
    """Train the winner again, on training, validation and test events, for the epochs that validation chose.

        blair_rec.refit("runs/mine", "models/mine")                  # the best on validation, all seeds averaged
        blair_rec.refit("runs/mine/runs/text-1", "models/text-1")    # this run
        blair_rec.load("models/mine").recommend([["item-1", "item-7"]], k=10)

    An average keeps its weights, and its members are trained again. With several seeds, an item's score is the mean of
    the seeds' z-scores. `load` opens the folder like a finished run, but no leaderboard ranks it. An interrupted refit
    resumes in the same epoch. An earlier refit in `out` is kept until the new one is complete.

    Args:
        run: the folder of a comparison, for its best variant on validation; or the folder of one of its runs.
        variant: another variant of the comparison.
        seeds: the seeds to use; all if not given.
        store: the store of the items' text vectors, if it was moved after the run.
        progress: called with (the name of the run, training steps done, steps in all).

    Returns:
        The path of `out`.

    Raises:
        ConfigError, NoRuns, BadRun, ChangedRuns, RefitRun: there is nothing to refit, or the data has changed.
        BadItemCards: the comparison's file of titles is damaged.
        CheckpointError, StoreError: the text vectors are missing or damaged.
        OutputError: `out` can't be written, or holds something else; FolderBusy: another process is using it.
        DatasetError, TrainingError: as in training.
    """
    out = Path(out)
    target = real_place(out)
    _check_place(target)
    chosen = choose(Path(run), variant, seeds)
    parts = chosen.parts()
    results = {folder: read_recorded(folder) for folder in parts}
    if store is not None and all(result["store_sha256"] is None for result in results.values()):
        raise ConfigError(f"{chosen.variant} uses no text, so the store {store} has no effect; leave it out")
    _check_unchanged(chosen, results)
    alone = len(parts) == 1
    with work_beside(target, "refit", f"the refit {out}") as work:
        tidy(work)
        data, whole = None, _of_the_config(chosen)
        pieces: dict[Path, Path] = {}
        for folder, result in results.items():
            piece = pieces[folder] = work / f"{folder.name}-{_key(result)}"
            if (piece / RESULT_FILE).is_file():
                continue
            # A refit learns from the events of hidden items, too.
            data = data or whole_data(*read_splits(with_all_items(chosen.config), data_folder(chosen.config.dataset)))
            final = target if alone else target / MEMBERS_FOLDER / folder.name
            _make(chosen, folder, result, data, piece, final, store, progress)
        partial = partial_of(target)
        try:
            if alone:
                shutil.copytree(next(iter(pieces.values())), partial)
            else:
                for folder, piece in pieces.items():
                    shutil.copytree(piece, partial / MEMBERS_FOLDER / folder.name)
                _write_average(chosen, parts, results, partial, target)
            for name, content in whole.items():
                write_text(partial / name, content)
            put_in_place(target)
        except OSError as error:
            raise OutputError(f"{out} can't be written ({error.strerror}); choose another folder") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return out


def is_refit(folder: Path) -> bool:
    """Whether a folder holds a refit.

    Raises:
        BadRun: its result.json is missing or damaged.
    """
    return read_recorded(folder).get("refit") is True


def _check_place(target: Path) -> None:
    """
    Raises:
        OutputError: the folder holds anything but an earlier refit, or is among the runs of a comparison.
    """
    if target.parent.name == RUNS_FOLDER and (target.parent.parent / CONFIG_FILE).is_file():
        raise OutputError(
            f"{target} lies among the runs of a comparison, where a refit would be ranked; choose another folder"
        )
    refuse_foreign(target, {RESULT_FILE}, WRITTEN)
    if target.is_dir() and any(target.iterdir()) and not is_refit(target):
        raise OutputError(f"{target} is a finished run, and it would be lost; choose another folder")


def _check_unchanged(chosen: Chosen, results: dict[Path, Any]) -> None:
    """
    Raises:
        ChangedRuns: the data set's files have changed since the runs were made.
    """
    data = data_hash(chosen.config)
    if changed := [folder.name for folder, result in results.items() if result["hashes"].get("data") != data]:
        raise ChangedRuns(chosen.comparison, changed, ["the data set's files"])
    others = [
        folder.name
        for folder, result in results.items()
        if result["hashes"].get("code") != code_hash(bool(result["setup"].get("text")))
    ]
    if others:
        logger.warning("made by other code of blair_rec than the refit: %s", first_of(others))


def _key(result: Any) -> str:
    """A short hash of all that a refit of one run depends on, so that files of another refit are not resumed."""
    epoch = (result["selection"] or {}).get("epoch", 0)
    return hash_of([result["hashes"], code_hash(bool(result["setup"].get("text"))), epoch])[:16]


def _of_the_config(chosen: Chosen) -> dict[str, str]:
    """The comparison's own files that a refit copies, by name; the path of the data set becomes absolute."""
    dataset = chosen.config.dataset
    path = str(Path(dataset).resolve()) if Path(dataset).is_dir() else dataset
    files = {CONFIG_FILE: write_yaml(with_all_items(chosen.config).changed(dataset=path))}
    cards = chosen.comparison / CARDS_FILE
    if cards.is_file():
        read_cards(chosen.comparison)  # a damaged file is not passed on
        files[CARDS_FILE] = cards.read_text(encoding="utf-8")
    return files


def _make(
    chosen: Chosen,
    folder: Path,
    result: Any,
    data: TrainingData,
    piece: Path,
    final: Path,
    store: str | Path | None,
    progress: OnTrained,
) -> None:
    """Refit one run. `piece` appears when it is complete; its final place is `final`."""
    begin = time.perf_counter()
    tokens = read_json(folder, ITEMS_FILE)
    if tokens != data.item_tokens and chosen.config.evaluate.new_items is None:
        raise ConfigError(
            f"the items of {folder} are numbered differently from the data set's now; run the comparison again"
        )
    checkpoint = piece.with_suffix(".safetensors")
    again = fit_again(chosen.config, folder, result, data, store, checkpoint, progress)
    partial = partial_of(piece)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_weights(again.model, partial / WEIGHTS_FILE, result["store_sha256"])
    said = {
        **_common(data, result, [folder], final),
        "transform_report": transform_report(again.model),
        "epochs": len(again.history),
        "train_seconds": sum(epoch.train_seconds for epoch in again.history),
        "wall_seconds": time.perf_counter() - begin,
        "parameters": count_parameters(again.model),  # type: ignore[arg-type]
        "store": os.path.relpath(again.store.resolve(), final) if again.store else None,
        "weights": {},
        "hashes": {**result["hashes"], "code": code_hash(bool(result["setup"].get("text")))},
        "setup": {**result["setup"], "refit": True},
    }
    _write(partial, said, data.item_tokens, data.item_counts)
    curve = [json.dumps(dataclasses.asdict(epoch)) + "\n" for epoch in again.history]
    (partial / CURVE_FILE).write_text("".join(curve), encoding="utf-8")
    put_in_place(piece)
    checkpoint.unlink(missing_ok=True)


def _common(data: TrainingData | None, result: Any, folders: Sequence[Path], final: Path) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "refit": True,
        "trained_on": "training, validation and test events",
        "source": [
            {
                "run": os.path.relpath(folder.resolve(), final),
                "name": folder.name,
                "hashes": read_recorded(folder)["hashes"],
                "weights_sha256": sha256_of(folder / WEIGHTS_FILE),
            }
            for folder in folders
        ],
        **{name: result[name] for name in KEPT},
        "notes": list(result["notes"]),
        "peak_memory_mb": peak_memory_mb(),
        "provenance": provenance(torch.get_num_threads()),
        **({"events": int(data.item_counts.sum())} if data is not None else {}),
    }


def _write_average(
    chosen: Chosen, parts: dict[Path, float], results: dict[Path, Any], partial: Path, final: Path
) -> None:
    """Write the files of an average. The refits of its members are already in `partial`; its final place is `final`."""
    first = chosen.runs[0]
    members = [partial / MEMBERS_FOLDER / folder.name for folder in parts]
    saved = [read_recorded(member) for member in members]
    setup = {
        "dataset": first.dataset,
        "seed": first.seed,
        "average": [result["variant"] for result in results.values()],
        "runs": [folder.name for folder in parts],
        "weights": "kept",
        "refit": True,
    }
    weights = {"weights": torch.tensor(list(parts.values()), dtype=torch.float32, device="cpu")}
    save_tensors(weights, partial / WEIGHTS_FILE, weights_metadata(Ensemble.__name__, None))
    of_source = read_recorded(first.folder)
    said = {
        **_common(None, of_source, [run.folder for run in chosen.runs], final),
        "seeds": [run.seed for run in chosen.runs],
        "items": "average",
        "encoder": None,
        "store_sha256": None,
        "store": None,
        "transform_report": [],
        "events": saved[0]["events"],
        "epochs": 0,
        "train_seconds": sum(one["train_seconds"] for one in saved),
        "wall_seconds": sum(one["wall_seconds"] for one in saved),
        "parameters": {part: sum(one["parameters"][part] for one in saved) for part in ("trained", "frozen")},
        "weights": {folder.name: weight for folder, weight in parts.items()},
        "setup": setup,
        "hashes": {
            "config": hash_of(setup),
            "data": saved[0]["hashes"]["data"],
            "store": None,
            "code": saved[0]["hashes"]["code"],
            "members": members_hash(partial, setup),
        },
    }
    _write(partial, said, read_json(members[0], ITEMS_FILE), np.load(members[0] / COUNTS_FILE, allow_pickle=False))
    (partial / CURVE_FILE).write_text("", encoding="utf-8")


def _write(folder: Path, said: dict[str, Any], tokens: Sequence[str], counts: np.ndarray) -> None:
    text = json.dumps(said, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    (folder / RESULT_FILE).write_text(text, encoding="utf-8")
    (folder / ITEMS_FILE).write_text(json.dumps(list(tokens)), encoding="utf-8")
    np.save(folder / COUNTS_FILE, counts.astype(np.int64), allow_pickle=False)
