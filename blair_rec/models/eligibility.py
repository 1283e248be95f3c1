"""Find out which RecBole sequential models can take item text: build each one on small made-up data and try it.

A model is eligible when three things hold. Its items are one embedding table. No other parameter is indexed by item
(one number per item is allowed; it only rules out items that come after training). A changed item vector changes the
item's own score, and the scores of cases whose history contains the item.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from blair_rec.border.settings import recbole_config
from blair_rec.config.variant import VariantConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import ConfigError
from blair_rec.models.items import ItemSide, build_items
from blair_rec.models.ligr import eSASRec
from blair_rec.models.packed import can_pack

import recbole.data.dataset
import recbole.trainer
from recbole.model import (
    context_aware_recommender,
    general_recommender,
    knowledge_aware_recommender,
    sequential_recommender,
)
from recbole.model.abstract_recommender import AbstractRecommender, SequentialRecommender

FAMILIES = (sequential_recommender, general_recommender, context_aware_recommender, knowledge_aware_recommender)
OTHER_LIBRARIES = ("xgboost", "lightgbm")
"""RecBole's names, in small letters, of models that these libraries make."""
ITEMS, USERS, EVENTS = 210, 61, 8
"""Size of the made-up data. With the padding it has 211 items: no model uses this number for anything else, and it is
more than the 100 candidates that SASRecCPR ranks a second time."""


@dataclass(frozen=True)
class Eligible:
    """Properties of a model that can take item text."""

    packed: bool
    """True: training uses every position of packed sequences. False: it uses RecBole's own batches and loss."""
    cold_items: bool
    """Whether items that came after training can be in histories and can be scored."""
    more: tuple[str, ...] = ()
    """The fields of a case that its scores read in addition to the history, such as user_id."""


def recbole_models() -> dict[str, Any]:
    """Return RecBole's own sequential models and our eSASRec, by name."""
    found = {name: value for name, value in vars(sequential_recommender).items() if inspect.isclass(value)}
    found[eSASRec.__name__] = eSASRec
    return {name: found[name] for name in sorted(found) if not hasattr(found[name], "recbole_base")}


def recbole_model(name: str) -> Any:
    """Return the model of this name out of `recbole_models`.

    Raises:
        ConfigError: there is no such model.
    """
    known = recbole_models()
    if name not in known:
        raise ConfigError(f"model is {name!r}, which is not a sequential model of RecBole; {_hint(name, known)}")
    return known[name]


def named_model(name: str) -> Any:
    """Return the model of this name out of RecBole's models of all families and ours.

    Raises:
        ConfigError: there is no such model.
    """
    known = {name: cls for family in FAMILIES for name, cls in vars(family).items() if inspect.isclass(cls)}
    if name not in known:
        is_ours = name.lower().startswith("blair")
        names = {*known, *(f"BLaIR{one}" for one in recbole_models())}
        names = {one for one in names if one.startswith("BLaIR") == is_ours}
        raise ConfigError(f"model is {name!r}, which RecBole doesn't have; {_hint(name, names)}")
    return known[name]


def check_name(name: str) -> None:
    """Check the name of a model for which RecBole would search, also among modules that other packages added.

    Raises:
        ConfigError: there is no such model.
    """
    path, known = name.lower(), {one.lower() for family in FAMILIES for one in vars(family)}
    is_added = any(find_spec(f"{family.__name__}.{path}") for family in FAMILIES) and path not in known
    if path not in OTHER_LIBRARIES and not is_added:
        named_model(name)


def _hint(name: str, known: Iterable[str]) -> str:
    """Name the closest known name, whatever its capital letters, or all known names if none is close."""
    as_written = {one.removeprefix("BLaIR").lower(): one for one in known}
    near = get_close_matches(name.lower().removeprefix("blair"), as_written, n=1)
    return f"did you mean {as_written[near[0]]!r}?" if near else f"known: {', '.join(sorted(known))}"


def eligibility(model: str | type[SequentialRecommender], settings: Mapping[str, Any] | None = None) -> Eligible | str:
    """Return how a sequential model can take item text, or in words why it can't.

    Args:
        model: the name of a RecBole model, or a class.
        settings: keys of your own class for which RecBole has no default.

    Raises:
        ConfigError: RecBole has no model of this name.
    """
    base = recbole_model(model) if isinstance(model, str) else model
    base = getattr(base, "recbole_base", base)
    if hasattr(recbole.data.dataset, f"{base.__name__}Dataset"):
        return f"needs more than events and item features: RecBole reads its data with {base.__name__}Dataset"
    if hasattr(recbole.trainer, f"{base.__name__}Trainer"):
        return f"is trained in several stages, by RecBole's {base.__name__}Trainer"
    if base.full_sort_predict is AbstractRecommender.full_sort_predict:
        return "scores one item at a time (it has no full_sort_predict), so it can't rank a catalogue"
    return _tried(base, {} if settings is None else settings)


@cache
def why_not(base: type[SequentialRecommender]) -> str | None:
    """Return why one of RecBole's own models can't take item text; None if it can, or if it isn't one of RecBole's."""
    if not base.__module__.startswith("recbole."):
        return None
    found = eligibility(base)
    return found if isinstance(found, str) else None


def item_embedding_name(model: nn.Module, n_items: int) -> str:
    """Return the name of the only item embedding in a built RecBole model.

    Raises:
        ConfigError: there is no item embedding, or there are several, or one has several names. Replacing one would
            leave the others untouched.
    """
    names = [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding) and module.num_embeddings >= n_items and "item" in name.lower()
    ]
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ConfigError(
            f"{type(model).__name__} has {len(names)} item embeddings ({found}); exactly one can be replaced"
        )
    return names[0]


def replace_items(
    model: nn.Module,
    name: str,
    variant: VariantConfig,
    vectors: np.ndarray,
    seed: int,
    fitted: Mapping[str, np.ndarray] | None = None,
) -> ItemSide:
    """Replace the embedding of this name by a variant's item side; vectors: [N, E] by item id."""
    replaced: Any = model.get_submodule(name)
    items = build_items(variant, vectors, replaced, seed=seed, fitted=fitted)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, items)
    return items


def _tried(base: type[SequentialRecommender], settings: Mapping[str, Any]) -> Eligible | str:
    # Some models print while they are built. The made-up data stays on the CPU, whatever torch's default device is.
    with _random_state_kept(), torch.device("cpu"), redirect_stdout(io.StringIO()):
        model, test = _in_the_world(base, settings)
        of_items = (test.item_num, test.item_num + 1)  # BERT4Rec has a row for its mask
        tables = [
            name
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Embedding) and module.num_embeddings in of_items and module.embedding_dim > 1
        ]
        if len(tables) != 1:
            return f"has {len(tables)} item embeddings ({', '.join(tables)}); exactly one can be replaced"
        vectors = np.random.default_rng(0).standard_normal((test.item_num, 16))
        items = replace_items(model, tables[0], VariantConfig(items="text"), vectors, 0)
        indexed = {
            name: parameter.numel()
            for name, parameter in model.named_parameters()
            if not name.startswith(f"{tables[0]}.") and set(of_items) & set(parameter.shape)
        }
        if others := [name for name, numbers in indexed.items() if numbers not in of_items]:
            return f"learns more about each item than its vector ({', '.join(others)}), which text can't replace"
        batch = test[torch.arange(len(test), device="cpu")].to(model.device)
        if wrong := _without_effect(model, items, batch):
            return wrong
        extra, more = items.extra is not None, _read_more(model, batch)
        return Eligible(can_pack(base), not indexed and not extra and _takes_new_items(model, items, batch), more)


class _Case(dict[str, Any]):
    """The fields of a case, which records those that are read."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.read: set[str] = set()

    def __getitem__(self, field: str) -> Any:
        self.read.add(field)
        return super().__getitem__(field)


def _read_more(model: Any, batch: Any) -> tuple[str, ...]:
    """Return the fields that a model's scores read, without those of the history."""
    fields = batch.interaction
    batch.interaction = case = _Case(fields)
    with torch.no_grad():
        model.full_sort_predict(batch)
    batch.interaction = fields
    return tuple(sorted(case.read - {model.ITEM_SEQ, model.ITEM_SEQ_LEN}))


def _without_effect(model: Any, items: ItemSide, batch: Any) -> str | None:
    """Return which scores a changed item vector fails to change; None if it changes all that it should."""
    sequences, length = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    item = int(sequences[0, length[0] - 1])
    without = (sequences != item).all(dim=1)
    with torch.no_grad():
        before = model.full_sort_predict(batch)
        items.table[item - 1] += torch.linspace(-3, 3, items.table.shape[1], device=items.table.device)
        moved = model.full_sort_predict(batch) != before
    if not moved[without, item].all():
        return "scores an item by something other than its vector"
    others = torch.arange(1, moved.shape[1], device=moved.device) != item
    return None if moved[0, 1:][others].any() else "reads a history by something other than its items' vectors"


def _takes_new_items(model: Any, items: ItemSide, batch: Any) -> bool:
    new = items.num_embeddings
    items.append(np.ones((1, 16)))
    sequences, length = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    sequences[0, length[0] - 1] = new
    try:
        with torch.no_grad():
            return bool(model.full_sort_predict(batch).shape == (len(sequences), new + 1))
    except (IndexError, RuntimeError):  # another part has the old number of items, such as a table of features
        return False


def _in_the_world(base: type[SequentialRecommender], settings: Mapping[str, Any]) -> tuple[Any, TextSequentialDataset]:
    """Return the model with RecBole's defaults, built on the made-up data, and the test split."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "world"
        path.mkdir()
        events = [(user, (3 * user + time) % ITEMS, time) for user in range(USERS) for time in range(EVENTS)]
        lines = ["user_id:token\titem_id:token\ttimestamp:float", *(f"u{u}\ti{i}\t{t}" for u, i, t in events)]
        (path / "world.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
        lines = ["item_id:token\tkind:token", *(f"i{item}\tk{item % 4}" for item in range(ITEMS))]
        (path / "world.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
        known = {
            "MAX_ITEM_LIST_LENGTH": EVENTS - 2,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "kind"]},
            "selected_features": ["kind"],
            "train_neg_sample_args": None,
            "use_gpu": False,
        }
        config = recbole_config(base, str(path), {**settings, **known})
        train, _, test = TextSequentialDataset(config).build()
        return base(config, train).eval(), test


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the random states of NumPy and torch after this block."""
    state = np.random.get_state()  # noqa: NPY002  (RecBole's models draw from it)
    with torch.random.fork_rng(devices=[]):
        yield
    np.random.set_state(state)  # noqa: NPY002
