"""What a comparison is made of: its sections together, read from YAML and checked against each other."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blair_rec.config.paths import with_paths
from blair_rec.config.reading import (
    freeze,
    load_yaml,
    one_of,
    read_section,
    refuse,
    shallow,
    to_dict,
    type_problems,
)
from blair_rec.config.sections import (
    MAKES_VECTORS,
    OUR_LOSSES,
    TIES,
    UNISREC_TEMPERATURE,
    EvaluateConfig,
    TextConfig,
    TrainConfig,
    TuneConfig,
    VariantConfig,
)
from blair_rec.config.split import SplitConfig
from blair_rec.errors import ConfigError


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
    split: SplitConfig | None = None
    """Cut-off times for training, validation and test; RecBole's eval_args, by default leave-one-out, if not given."""
    text: TextConfig = field(default_factory=TextConfig)
    """How item text becomes vectors; a variant may have some of it otherwise."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The budget and the loss, the same for every variant."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """What is measured, and what validation selects on."""
    recbole: Mapping[str, Any] = field(default_factory=dict)
    """Handed to RecBole as it is."""
    tune: TuneConfig | None = None
    """What `blair-rec tune` tries; a comparison doesn't read it."""

    def __post_init__(self) -> None:
        freeze(self, "seeds")
        problems = type_problems(self)
        if isinstance(self.seeds, int) and not isinstance(self.seeds, bool):  # how many, or which one?
            problems = [
                f"seeds is {self.seeds}; give a list: [{self.seeds}] for this one seed, [1, 2, 3] for three of them"
            ]
        if isinstance(self.dataset, str) and Path(self.dataset).name in ("", ".."):
            problems.append(f"dataset is {self.dataset!r}; the files carry the folder's name, so give a path with it")
        if isinstance(self.variants, Mapping):
            problems += self._variant_problems()
        if isinstance(self.seeds, tuple) and (not self.seeds or len(set(self.seeds)) != len(self.seeds)):
            problems.append(f"seeds are {list(self.seeds)}; give at least one, each once")
        problems += one_of(self.ties, TIES, "ties")
        if isinstance(self.recbole, Mapping):
            problems += _recbole_problems(self.recbole)
            if isinstance(self.train, TrainConfig):
                problems += _loss_problems(self.train, self.recbole)
            if self.split is not None and "split" in (self.recbole.get("eval_args") or {}):
                problems.append("recbole: eval_args has a split of its own next to `split`; leave one of them out")
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
                continue
            problems += self._override_problems(name, variant)
            for member in variant.average:
                if member not in self.variants:
                    problems.append(f"variants.{name}: average names {member!r}, which is no variant here")
                elif getattr(self.variants[member], "average", ()):
                    problems.append(f"variants.{name}: average names {member!r}, which is an average itself")
        return problems

    def _override_problems(self, name: str, variant: VariantConfig) -> list[str]:
        """What is wrong with the sections as this variant has them."""
        problems = []
        try:
            if variant.uses_text and isinstance(self.text, TextConfig) and not self.text_of(variant).says_what:
                problems.append(f"variant {name!r} uses text, but text.fields names no metadata field")
            whole = isinstance(self.train, TrainConfig) and isinstance(self.recbole, Mapping)
            if whole and (variant.train or variant.recbole):
                problems += _loss_problems(self.train_of(variant), self.recbole_of(variant))
        except ConfigError as error:
            problems += str(error).splitlines()
        problems += _recbole_problems(variant.recbole)
        return [line if line.startswith("variant ") else f"variants.{name}.{line}" for line in problems]

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
        if "template" in variant.text or "fields" in variant.text:  # the one decides on the other
            del shared["template"], shared["fields"]
        if variant.text.keys() & set(MAKES_VECTORS):  # it is to have others than those that are made already
            del shared["store"]
        return read_section(TextConfig, {**shared, **variant.text}, "text")

    def train_of(self, variant: VariantConfig) -> TrainConfig:
        """The train section with what the variant has otherwise."""
        said = {name: value for name, value in shallow(self.train).items() if value != getattr(TrainConfig, name)}
        return read_section(TrainConfig, with_temperature({**said, **variant.train}, variant.items), "train")

    def recbole_of(self, variant: VariantConfig) -> dict[str, Any]:
        """RecBole's settings with what the variant has otherwise."""
        return {**self.recbole, **variant.recbole}


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

    typed = {
        "text": TextConfig,
        "train": TrainConfig,
        "evaluate": EvaluateConfig,
        "split": SplitConfig,
        "tune": TuneConfig,
    }
    for name, cls in typed.items():
        if sections.get(name) is None:
            sections.pop(name, None)
        else:
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

    Relative paths are looked for in the working directory first, then beside the file.

    Raises:
        ConfigError: file missing, not UTF-8, not YAML, or a key or value that can't be meant.
    """
    return read_config(with_paths(load_yaml(path, overrides), Path(path).parent), str(path))


def as_config(config: CompareConfig | str | Path) -> CompareConfig:
    """A comparison that is read already, or one from a YAML file. Raises as load_config does."""
    return config if isinstance(config, CompareConfig) else load_config(config)


def with_temperature(train: Mapping[str, Any], items: str) -> dict[str, Any]:
    """What is said about training; unisrec scores by cosine, as upstream does, where nothing is said about that."""
    if items == "unisrec" and "temperature" not in train and train.get("loss", OUR_LOSSES[0]) in OUR_LOSSES:
        return {**train, "temperature": UNISREC_TEMPERATURE}
    return dict(train)


def _loss_problems(train: TrainConfig, recbole: Mapping[str, Any]) -> list[str]:
    """RecBole's loss_type where it contradicts the loss."""
    loss_type = recbole.get("loss_type", "CE")
    if train.loss == "recbole" or loss_type == "CE":
        return []
    return [
        f"recbole: loss_type is {loss_type!r}, but train.loss is {train.loss!r}, which is not RecBole's; "
        "leave loss_type out, or set train.loss to recbole"
    ]


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
