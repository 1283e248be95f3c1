"""What a comparison is made of: its sections together, read from YAML and checked against each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from blair_rec.config.names import LOSSES, OUR_LOSSES, UNISREC_TEMPERATURE, TieOrder
from blair_rec.config.passed_to_recbole import RecBoleSettings
from blair_rec.config.paths import with_paths
from blair_rec.config.section import (
    FieldProblem,
    FromList,
    RunSeed,
    Section,
    default_of,
    read_section,
    said,
    values_of,
)
from blair_rec.config.sections import (
    MAKES_VECTORS,
    OF_ONE_ENCODER,
    READ_BY,
    DeviceName,
    EvaluateConfig,
    TextConfig,
    TrainConfig,
    TuneConfig,
    VariantConfig,
)
from blair_rec.config.split import SplitConfig
from blair_rec.config.yaml_files import load_yaml, one_of, refuse
from blair_rec.errors import ConfigError


def _folder(dataset: str) -> str:
    if Path(dataset).name in ("", ".."):
        raise FieldProblem([f" is {dataset!r}; the files carry the folder's name, so give a path with it"])
    return dataset


def _is_list(seeds: Any) -> Any:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        raise FieldProblem(
            [f" is {seeds}; give a list: [{seeds}] for this one seed, [1, 2, 3] for three of them"]
        )  # how many, or which one?
    if not isinstance(seeds, (list, tuple)):
        raise FieldProblem([f" is {seeds!r}; expected a list of whole numbers, such as [1, 2]"])
    return seeds


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) != len(seeds):
        raise FieldProblem([f" are {list(seeds)}; give at least one, each once"])
    return seeds


def _names_as_text(variants: Any) -> Any:
    """YAML reads a name such as 1 as a number."""
    return {str(name): variant for name, variant in variants.items()} if isinstance(variants, Mapping) else variants


def _well_named(variants: Mapping[str, VariantConfig]) -> Mapping[str, VariantConfig]:
    if not variants:
        raise FieldProblem([": none; name at least the baseline, such as id: {items: id}"])
    wrong = [name for name in variants if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*", name)]
    if wrong:
        raise FieldProblem([f".{name}: a name is made of letters, digits, '_' and '.'" for name in wrong])
    return variants


class CompareConfig(Section):
    """One comparison: a data set, a RecBole model, and the variants to set side by side."""

    dataset: Annotated[str, AfterValidator(_folder)]
    """A RecBole data set, by name or by folder of atomic files."""
    variants: Annotated[Mapping[str, VariantConfig], BeforeValidator(_names_as_text), AfterValidator(_well_named)]
    """By name; the name stands on the leaderboard and in the folder of each run."""
    baseline: str = "id"
    """The variant that the others are compared with."""
    model: str = "SASRec"
    """A RecBole sequential model with an item embedding."""
    seeds: Annotated[tuple[RunSeed, ...], FromList, BeforeValidator(_is_list), AfterValidator(_each_once)] = (
        1,
        2,
        3,
    )
    """Every variant is trained once with each."""
    ties: TieOrder = "stored"
    """Events of one user at one time: stored (as the file has them) or shuffled (by lot, alike for all runs)."""
    split: SplitConfig | None = None
    """Cut-off times for training, validation and test; RecBole's eval_args, by default leave-one-out, if not given."""
    text: TextConfig = TextConfig()
    """How item text becomes vectors; a variant may have some of it otherwise."""
    train: TrainConfig = TrainConfig()
    """The budget and the loss, the same for every variant."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured, and what validation selects on."""
    recbole: RecBoleSettings = Field(default_factory=dict)
    """Handed to RecBole as it is."""
    device: DeviceName = "auto"
    """Where texts are encoded and models trained and ranked: cpu, cuda, cuda:1, or auto (a GPU if there is one). A run
    that was made on another device counts as the same; its result names the device."""
    tune: TuneConfig | None = None
    """What `blair-rec tune` tries; a comparison doesn't read it."""

    @model_validator(mode="after")
    def _sections_fit(self) -> CompareConfig:
        problems = _loss_problems(self.train, self.recbole)
        if self.baseline not in self.variants:
            problems.append(f"baseline is {self.baseline!r}; variants: {', '.join(self.variants)}")
        if self.recbole.get("use_gpu") is False and self.device.startswith("cuda"):
            problems.append(f"recbole.use_gpu is false, but device is {self.device!r}; leave use_gpu out")
        if self.split is not None and "split" in (self.recbole.get("eval_args") or {}):
            problems.append("recbole.eval_args has a split of its own next to `split`; leave one of them out")
        for name, variant in self.variants.items():
            problems += [f"variants.{name}{line}" for line in self._variant_problems(variant)]
        refuse(problems)
        return self

    def _variant_problems(self, variant: VariantConfig) -> list[str]:
        """What is wrong with the sections as this variant has them, and with what it names."""
        problems = []
        for section, of in (("text", self.text_of), ("train", self.train_of)):
            try:
                of(variant)
            except ConfigError as error:
                problems += [f".{section}.{line}" for line in str(error).splitlines()]
        if not problems:
            if variant.uses_text and not self.text_of(variant).says_what:
                problems.append(" uses text, but text.fields names no metadata field")
            if variant.train or variant.recbole:
                problems += [f".{line}" for line in _loss_problems(self.train_of(variant), self.recbole_of(variant))]
        for member in variant.average:
            if member not in self.variants:
                problems.append(f".average names {member!r}, which is no variant here")
            elif self.variants[member].average:
                problems.append(f".average names {member!r}, which is an average itself")
        return problems

    def only(self, names: Sequence[str]) -> CompareConfig:
        """The same comparison with these variants alone.

        Raises:
            ConfigError: a name that is no variant.
        """
        refuse([line for name in names for line in one_of(name, tuple(self.variants), "--variants")])
        kept = {name: variant for name, variant in self.variants.items() if name in names}
        baseline = self.baseline if self.baseline in kept else next(iter(kept))
        return self.changed(variants=kept, baseline=baseline)

    def text_of(self, variant: VariantConfig) -> TextConfig:
        """The text section with what the variant has otherwise."""
        shared = values_of(self.text)
        if "encoder" in variant.text:  # another encoder pools and prompts in its own way, and has its own revisions
            for key in OF_ONE_ENCODER:
                del shared[key]
        if "template" in variant.text or "fields" in variant.text:  # the one decides on the other
            del shared["template"], shared["fields"]
        if variant.text.keys() & set(MAKES_VECTORS):  # it is to have others than those that are made already
            del shared["store"]
        return TextConfig(**{**shared, **variant.text})

    def train_of(self, variant: VariantConfig) -> TrainConfig:
        """The train section with what the variant has otherwise, without shared keys that its own loss doesn't read."""
        shared = {
            name: value
            for name, value in said(self.train).items()
            if value != default_of(TrainConfig, name) or name in TrainConfig.written_if_said
        }
        if "loss" in variant.train:
            shared = {name: one for name, one in shared.items() if variant.train["loss"] in READ_BY.get(name, LOSSES)}
        return TrainConfig(**with_temperature({**shared, **variant.train}, variant.items))

    @property
    def computed_on(self) -> str:
        """The device, where RecBole's own key can leave out GPUs, too."""
        return "cpu" if self.device == "auto" and self.recbole.get("use_gpu") is False else self.device

    def recbole_of(self, variant: VariantConfig) -> dict[str, Any]:
        """RecBole's settings with what the variant has otherwise."""
        return {**self.recbole, **variant.recbole}


def read_config(raw: Mapping[str, Any], where: str = "config") -> CompareConfig:
    """A whole comparison from a mapping, as YAML gives it.

    Raises:
        ConfigError: with every unknown key at once, and the near one.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {type(raw).__name__}")
    return read_section(CompareConfig, raw, where)


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
        f"recbole.loss_type is {loss_type!r}, but train.loss is {train.loss!r}, which is not RecBole's; "
        "leave loss_type out, or set train.loss to recbole"
    ]
