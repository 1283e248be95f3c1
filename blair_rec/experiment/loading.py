"""Load the model, scorer or ensemble of a finished run."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blair_rec import registry
from blair_rec.border.settings import ItemsOnly, recbole_config, recbole_errors
from blair_rec.data.dataset import ItemVectors
from blair_rec.device import AUTO
from blair_rec.errors import BadRun, CheckpointError, ConfigError
from blair_rec.evaluate.runs.checks import typed
from blair_rec.evaluate.runs.recorded import read_recorded
from blair_rec.evaluate.runs.run_files import ITEMS_FILE, RESULT_FILE, WEIGHTS_FILE, read_json
from blair_rec.experiment.fit import model_settings
from blair_rec.experiment.item_vectors import item_vectors
from blair_rec.experiment.planning.plan import made_how, member_folders, members_hash
from blair_rec.models.items import controlled
from blair_rec.models.scorer import Scorer
from blair_rec.models.text_models import model_class
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.rerank.features import ItemTable
from blair_rec.ranking.rerank.second_stage import Reranker
from blair_rec.ranking.rerank.trees import TREES_FILE, Trees, need_trees, sha256_of_text
from blair_rec.ranking.scorers import build_baseline
from blair_rec.ranking.scorers.neighbours import unit_length
from blair_rec.text.store.embeddings import EmbeddingStore, open_store
from blair_rec.training.checkpoint import load_weights, saved_transforms


class Loaded(NamedTuple):
    """The loaded scorer of a finished run."""

    model: Scorer
    """A model, a training-free scorer, or an ensemble of them."""
    item_tokens: list[str]
    """By item id; the first one is the padding token."""
    width: int
    """The maximum number of history items that it reads."""
    store: EmbeddingStore | None = None
    """The store of the items' text vectors; None for an ensemble, or without text."""
    members: tuple[Loaded, ...] = ()
    """The members of an ensemble."""


def load_model(run_dir: Path, store: str | Path | None = None, dataset: Any = None, device: str = AUTO) -> Loaded:
    """Load the scorer of a finished run with its weights.

    Args:
        store: see `load`.
        dataset: the training split, for models that need it to be built.
        device: see `load`; it may differ from the device of the run.

    Raises:
        The errors of `load`.
    """
    loaded = _load(run_dir, store, dataset, device)
    if store is not None and not _stores(loaded):
        raise ConfigError(f"{run_dir} uses no text, so the store {store} has no effect; leave it out")
    return loaded


def _stores(loaded: Loaded) -> list[EmbeddingStore]:
    """The stores that a scorer and its members read."""
    own = [] if loaded.store is None else [loaded.store]
    return [*own, *(store for member in loaded.members for store in _stores(member))]


def _load(run_dir: Path, store: str | Path | None, dataset: Any, device: str) -> Loaded:
    """Load a scorer, as `load_model` does, or a member of it, which may use no text."""
    result, item_tokens = _recorded(run_dir), _tokens(run_dir)
    setup = result["setup"]
    if "from" in setup:
        raise CheckpointError(
            f"{run_dir} was trained elsewhere: only its lists or scores for the test cases are known, so nothing here "
            "can recommend with it; use the system that made them"
        )
    if folders := member_folders(run_dir, setup):
        kind, does = "average" if "average" in setup else "second stage", made_how(setup)
        if result["hashes"].get("members") != members_hash(run_dir, setup):
            raise CheckpointError(
                f"{run_dir} {does} {', '.join(setup.get('average') or setup['rerank'])}, but one of these runs is "
                f"missing or was made again; run the same comparison again to renew the {kind}"
            )
        if others := [folder.name for folder in folders if "from" in _recorded(folder)["setup"]]:
            raise CheckpointError(
                f"{run_dir} {does} {', '.join(others)}, trained elsewhere: another system's lists and scores are for "
                f"the validation and test cases alone, so this {kind} can't recommend for any other history; make one "
                "without this member"
            )
        members = tuple(_load(folder, store, dataset, device) for folder in folders)
        ensemble = Ensemble([member.model for member in members])
        if "rerank" in setup:
            return _second_stage(run_dir, result, folders, members, ensemble, item_tokens)
        load_weights(ensemble, run_dir / WEIGHTS_FILE, None)
        return Loaded(ensemble, item_tokens, min(member.width for member in members), members=members)
    registry.check(_named(setup))
    opened, vectors = text_vectors(run_dir, result, item_tokens, store)
    if vectors is not None:
        vectors = dataclasses.replace(vectors, fitted=saved_transforms(run_dir / WEIGHTS_FILE) or None)
    cls = model_class(setup["model"])
    settings = model_settings(setup) if setup["scorer"] is None else setup["recbole"]
    config = recbole_config(cls, str(setup["dataset"]), {**settings, "device": device})
    model: Any  # both are a torch module and a Scorer
    if setup["scorer"] is None:
        items = ItemsOnly(config, len(item_tokens), vectors) if dataset is None else _with_vectors(dataset, vectors)
        cure = "load it with the versions of blair_rec and RecBole that result.json names, or run the comparison again"
        with recbole_errors(f"build the {setup['model']} of {run_dir}", cure):
            model = cls(config, items).to(config["device"])
    else:
        model = build_baseline(setup, config, len(item_tokens), vectors)
    load_weights(model, run_dir / WEIGHTS_FILE, vectors.store_sha256 if vectors else None)
    return Loaded(model, item_tokens, config["MAX_ITEM_LIST_LENGTH"], opened)


def text_tables(names: Sequence[str], folders: Sequence[Path], members: Sequence[Loaded]) -> dict[str, Tensor]:
    """Return the item vectors that members read, for a second stage: [N, E] float32 of length 1.

    They are transformed as in the member, whose name is the key. Members with the same vectors share one table.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    for name, folder, member in zip(names, folders, members, strict=True):
        if member.store is None:
            continue
        setup = _recorded(folder)["setup"]
        control = setup["control"] and [setup["control"], setup["seed"]]
        key = json.dumps([member.store.store_sha256, setup["text"]["missing_text"], setup["transforms"], control])
        if key in found:
            continue
        table = item_vectors(member.store, member.item_tokens, setup["text"]["missing_text"]).table[1:]
        transforms = member.model.fitted_transforms
        rows = controlled(table, setup["control"], setup["seed"])
        found[key] = name, F.pad(unit_length(rows if transforms is None else transforms.apply(rows)), (0, 0, 1, 0))
    return dict(found.values())


def _second_stage(
    run_dir: Path,
    result: Mapping[str, Any],
    folders: Sequence[Path],
    members: tuple[Loaded, ...],
    ensemble: Ensemble,
    item_tokens: list[str],
) -> Loaded:
    """
    Raises:
        MissingExtra: LightGBM is not installed; CheckpointError: the trees are missing, damaged or of another run.
    """
    need_trees()
    said, path = result.get("rerank"), run_dir / TREES_FILE
    if said is None:
        raise BadRun(run_dir, RESULT_FILE, "lacks the key rerank, with the facts about its trees")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read ({error}); {_again(run_dir)}") from None
    if sha256_of_text(text) != said["trees_sha256"]:
        raise CheckpointError(f"{path} was changed after the run, so its trees can't be used; {_again(run_dir)}")
    numbers, timed = torch.zeros(len(item_tokens), device="cpu"), ["item", "recency"] in said["features"]
    items = ItemTable(
        numbers, numbers.clone() if timed else None, text_tables(result["setup"]["rerank"], folders, members)
    )
    stage = Reranker(ensemble, items, said["candidates"], Trees(text))
    load_weights(stage, run_dir / WEIGHTS_FILE, None)
    return Loaded(stage, item_tokens, min(member.width for member in members))


def _named(setup: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The registry groups and names that a run's model is built from."""
    steps = [name for step in setup["transforms"] for name in (step if isinstance(step, Mapping) else [step])]
    scorer = [("scorers", setup["scorer"])] if setup["scorer"] is not None else []
    named = [("items", setup["items"]), *scorer, *(("transforms", name) for name in steps)]
    return list(dict.fromkeys((group, str(name)) for group, name in named))


def text_vectors(
    run_dir: Path, result: Mapping[str, Any], item_tokens: Sequence[str], store: str | Path | None = None
) -> tuple[EmbeddingStore | None, ItemVectors | None]:
    """Read the store of a finished run and the vectors of its items; (None, None) for a run without text.

    Args:
        result: the content of its result.json.
        store: the folder of the store, if it was moved since the run.

    Raises:
        BadRun: the result names no store. CheckpointError: there is no store.
        MissingEmbeddings, TextlessItems, StoreError: it doesn't cover the items.
    """
    needed = result["store_sha256"]
    if needed is None:
        return None, None
    if result["store"] is None:
        raise BadRun(run_dir, RESULT_FILE, "has store_sha256, but store is null")
    path = Path(store) if store else run_dir / result["store"]
    if not path.is_dir():
        raise CheckpointError(
            f"{run_dir} was trained with the text vectors of store {needed}, but there is no store at {path}; give its "
            "folder (--store, in Python store=), or make it again with `blair-rec encode`"
        )
    opened = open_store(path)
    return opened, item_vectors(opened, item_tokens, result["setup"]["text"]["missing_text"])


def _with_vectors(dataset: Any, vectors: ItemVectors | None) -> Any:
    dataset = copy.copy(dataset)
    dataset.item_vectors = vectors
    return dataset


def _recorded(run_dir: Path) -> dict[str, Any]:
    """Read the checked result.json of a run. Raises CheckpointError if the folder is none of a run, or BadRun."""
    if not run_dir.exists():
        raise CheckpointError(f"{run_dir} does not exist; give the folder of a finished run")
    if not run_dir.is_dir():
        raise CheckpointError(f"{run_dir} is not a folder; give the folder of a finished run")
    if not (run_dir / RESULT_FILE).exists():
        runs = sorted(path.parent for path in run_dir.glob(f"runs/[!.]*/{RESULT_FILE}"))
        which = "a folder such as runs/mine/runs/text-1"
        if runs:
            which = f"one of its runs, such as {runs[0]}, or a refit of its best variant (`blair-rec refit`)"
        raise CheckpointError(f"{run_dir} is not a finished run: it has no {RESULT_FILE}; give {which}")
    return read_recorded(run_dir)


def _tokens(run_dir: Path) -> list[str]:
    """Read the item tokens of a run, by item id. Raises CheckpointError if there are none, or BadRun."""
    if not (run_dir / ITEMS_FILE).exists():
        raise CheckpointError(f"{run_dir} has no {ITEMS_FILE}; {_again(run_dir)}")
    try:
        tokens: list[str] = typed(list[str], read_json(run_dir, ITEMS_FILE), "items")
    except ValueError as error:
        raise BadRun(run_dir, ITEMS_FILE, str(error)) from error
    return tokens


def _again(run_dir: Path) -> str:
    """Return the advice for a damaged run; the same command keeps a finished run as long as its folder is there."""
    return f"delete the folder {run_dir}, and make it again with the same command"
