"""The comparison file: all its sections, read from YAML and checked against each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from blair_rec import __version__, registry
from blair_rec.config.names import AFTER_CUTOFF, ELSEWHERE, UNISREC_TEMPERATURE, TieOrder, is_read_by
from blair_rec.config.options.teachers import teacher_problems
from blair_rec.config.passed_to_recbole import RecBoleSettings
from blair_rec.config.section import (
    DeviceName,
    FieldProblem,
    FromList,
    ModelName,
    NotEmpty,
    Problem,
    RunSeed,
    Section,
    default_of,
    read_section,
    said,
    write_yaml,
)
from blair_rec.config.sections import MAKES_VECTORS, OF_ONE_ENCODER, EvaluateConfig, TextConfig, TrainConfig
from blair_rec.config.split import SplitConfig
from blair_rec.config.steps import read_step
from blair_rec.config.tuning import TuneConfig
from blair_rec.config.variant import VariantConfig
from blair_rec.config.yaml.files import Option, Where, load_given, one_of, refuse, shown
from blair_rec.config.yaml.paths import with_paths
from blair_rec.errors import ConfigError


def _folder(dataset: str) -> str:
    if Path(dataset).name in ("", ".."):
        raise FieldProblem([f" is {dataset!r}; the files are named after the folder, so give a path with its name"])
    return dataset


def _is_list(seeds: Any) -> Any:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        raise FieldProblem(
            [f" is {seeds}; give a list: [{seeds}] for this one seed, [1, 2, 3] for three of them"]
        )  # how many, or which one?
    if not isinstance(seeds, (list, tuple)):
        raise FieldProblem([f" is {shown(seeds)}; expected a list of whole numbers, such as [1, 2]"])
    return seeds


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) != len(seeds):
        raise FieldProblem([f" are {list(seeds)}; give at least one, each once"])
    return seeds


def _names_as_text(variants: Any) -> Any:
    """Turn names into text, because YAML reads a name such as 1 as a number."""
    return {str(name): variant for name, variant in variants.items()} if isinstance(variants, Mapping) else variants


def _is_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise FieldProblem([": a name is made of letters, digits, '_' and '.'"])
    return name


def _not_none(variants: Mapping[str, VariantConfig]) -> Mapping[str, VariantConfig]:
    if not variants:
        raise FieldProblem([": none; name at least the baseline, such as id: {items: id}"])
    return variants


NAME = "[A-Za-z0-9][A-Za-z0-9_.]*"
Variants = Annotated[
    Mapping[Annotated[str, AfterValidator(_is_name)], VariantConfig],
    BeforeValidator(_names_as_text),
    AfterValidator(_not_none),
    Field(json_schema_extra={"propertyNames": {"pattern": f"^{NAME}$"}, "minProperties": 1}),
]
Seeds = Annotated[
    tuple[RunSeed, ...],
    FromList,
    NotEmpty,
    BeforeValidator(_is_list),
    AfterValidator(_each_once),
    Field(json_schema_extra={"minItems": 1, "uniqueItems": True}),
]


class CompareConfig(Section):
    """One comparison: a data set, a RecBole model, and the variants to compare."""

    dataset: Annotated[str, AfterValidator(_folder)]
    """A RecBole data set: its name, or a folder of atomic files."""
    variants: Variants
    """The variants by name. The leaderboard and the folders of runs use these names."""
    baseline: str = "id"
    """The variant that all others are compared with."""
    model: ModelName = "SASRec"
    """A RecBole sequential model with an item embedding. A variant can override it."""
    seeds: Seeds = (1, 2, 3)
    """Random seeds. Every variant is trained once with each seed."""
    ties: TieOrder = "stored"
    """Order of a user's events with the same timestamp: stored (file order) or shuffled (random, the same for all
    runs)."""
    split: SplitConfig | None = None
    """Cut-off times for validation and test. null: RecBole's eval_args decide, by default leave-one-out."""
    text: TextConfig = Field(default_factory=TextConfig)
    """How item text becomes vectors. A variant can override these keys."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """Training budget, loss and optimiser, shared by all variants. A variant can override these keys."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """Metrics, and the protocol by which validation selects models."""
    recbole: RecBoleSettings = Field(default_factory=dict)
    """Settings passed to RecBole unchanged."""
    device: DeviceName = "auto"
    """Device for encoding, training and ranking: cpu, cuda, cuda:1, or auto (a GPU if there is one). Finished runs from
    another device are kept; each result names its device."""
    tune: TuneConfig | None = None
    """The search of `blair-rec tune`; `blair-rec compare` ignores it."""

    stand_ins: ClassVar[Mapping[str, Any]] = {"dataset": "data"}

    def _problems(self) -> Iterator[Problem]:
        for line in _loss_problems(self.train, self.recbole):
            yield ("train", "recbole"), line
        if self.baseline not in self.variants:
            default = " (the default)" if self.baseline == default_of(CompareConfig, "baseline") else ""
            named = f"baseline is {self.baseline!r}{default}, which is not a variant"
            yield ("baseline", "variants"), f"{named}; set it to one of: {', '.join(self.variants)}"
        if self.recbole.get("use_gpu") is False and self.device.startswith("cuda"):
            yield ("device", "recbole"), f"recbole.use_gpu is false, but device is {self.device!r}; leave use_gpu out"
        if self.split is not None and "split" in (self.recbole.get("eval_args") or {}):
            line = "recbole.eval_args has a split, and so has `split`; leave one of them out"
            yield ("split", "recbole"), line
        if self.evaluate.new_items == AFTER_CUTOFF and self.split is None:
            line = f"evaluate.new_items is {AFTER_CUTOFF}, and there is no `split` with cut-off times; give a share"
            yield ("evaluate", "split"), line
        if self.evaluate.new_items is not None and self.recbole.get("benchmark_filename"):
            line = "evaluate.new_items needs a log of events, and recbole.benchmark_filename names files of a split"
            yield ("evaluate", "recbole"), f"{line}; leave one of them out"
        for name, variant in self.variants.items():
            for keys, line in self._variant_problems(variant):
                yield ("variants", *keys), f"variants.{name}{line}"

    def _variant_problems(self, variant: VariantConfig) -> Iterator[Problem]:
        """The problems of the sections with this variant's overrides, and of the names it uses."""
        try:
            if not self.text_of(variant).says_what and variant.uses_text:
                yield ("text",), " uses text, but text.fields names no metadata field"
        except ConfigError as error:
            yield from ((("text",), f".text.{line}") for line in str(error).splitlines())
        try:
            train = self.train_of(variant)
            if variant.distill is not None and train.loss != "full_softmax":
                yield ("train",), f".distill needs train.loss: full_softmax, but the loss is {train.loss}"
            if variant.train or variant.recbole:
                lines = _loss_problems(train, self.recbole_of(variant))
                yield from ((("train", "recbole"), f".{line}") for line in lines)
        except ConfigError as error:
            yield from ((("train",), f".train.{line}") for line in str(error).splitlines())
        for seed in self.seeds if variant.is_elsewhere else ():
            if "from" not in variant.elsewhere_of(seed):
                yield ("seeds",), f".from has no file for seed {seed}; add one, or leave the seed out of seeds"
        for member in variant.members:
            key = "average" if variant.average else "rerank"
            if member not in self.variants:
                yield (), f".{key} names {member!r}, which is not a variant of this comparison"
            elif self.variants[member].members:
                kind = "an average" if self.variants[member].average else "a second stage"
                yield (), f".{key} names {member!r}, which is {kind}; name models and scorers"
            elif variant.average:
                yield from (((), line) for line in self.variants[member].problems_in_average(member, variant.weights))
            else:
                yield from (((), line) for line in self.variants[member].problems_in_second_stage(member))
        yield from (((), line) for line in teacher_problems(self.variants, variant))
        named = [self.variants[member] for member in variant.rerank if member in self.variants]
        if named and all(one.has_lists for one in named):
            line = ".rerank names top lists alone; name a model or scorer, too: it orders the items that no list has"
            yield (), line

    def only(self, names: Sequence[str]) -> CompareConfig:
        """Return the same comparison with only these variants, and what their teachers are made of.

        Raises:
            ConfigError: a name that is not a variant or is given twice, or one whose members are not named.
        """
        refuse([line for name in names for line in one_of(name, tuple(self.variants), "--variants")])
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ConfigError(f"--variants names {', '.join(twice)} more than once; name each variant once")
        for name in names:
            if absent := [member for member in self.variants[name].members if member not in names]:
                raise ConfigError(
                    f"--variants names {name!r} without all of its members; name {', '.join(absent)}, too"
                )
        taught = {name for name in names if self.variants[name].distill is not None}
        wanted = {*names, *(one for name in taught for one in self.behind(name))}
        kept = {name: variant for name, variant in self.variants.items() if name in wanted}
        first = next(name for name in self.variants if name in names)
        return self.changed(variants=kept, **({} if self.baseline in names else {"baseline": first}))

    def behind(self, name: str) -> tuple[str, ...]:
        """The variants that a variant is made of: its members or its teacher, and what these are made of."""
        direct = self.variants[name].made_of
        return tuple(dict.fromkeys([*direct, *(one for other in direct for one in self.behind(other))]))

    def text_of(self, variant: VariantConfig) -> TextConfig:
        """The text section with the variant's overrides."""
        shared = dict(self.text)
        if "encoder" in variant.text:  # revision, pooling and prompts belong to the shared encoder
            for key in OF_ONE_ENCODER:
                del shared[key]
        if "template" in variant.text or "fields" in variant.text:  # a template may choose the fields
            del shared["template"], shared["fields"]
        if variant.text.keys() & set(MAKES_VECTORS):  # it needs other vectors than the shared store has
            del shared["store"]
        return TextConfig(**{**shared, **variant.text})

    def train_of(self, variant: VariantConfig) -> TrainConfig:
        """The train section with the variant's overrides, without shared keys that its own loss doesn't read."""
        shared = {
            name: value
            for name, value in said(self.train).items()
            if value != default_of(TrainConfig, name) or name == "temperature"  # an explicit null means dot products
        }
        if "loss" in variant.train:
            shared = {name: one for name, one in shared.items() if is_read_by(variant.train["loss"], name)}
        return TrainConfig(**with_temperature({**shared, **variant.train}, variant.items))

    @property
    def computed_on(self) -> str:
        """The device; RecBole's own key `use_gpu` can also exclude GPUs."""
        return "cpu" if self.device == "auto" and self.recbole.get("use_gpu") is False else self.device

    def model_of(self, variant: VariantConfig) -> str:
        """The RecBole model of a variant, or the label of another system.

        For an average or a second stage these are its members' models; without any, the shared model.
        """
        if variant.is_elsewhere:
            return variant.label or ELSEWHERE
        if variant.members:
            members = [self.variants[name] for name in variant.members]
            trained = dict.fromkeys(
                self.model_of(member) for member in members if member.is_trained or member.is_elsewhere
            )
            return " + ".join(trained) or self.model
        return variant.model or self.model

    @property
    def models(self) -> tuple[str, ...]:
        """The RecBole models in use, the shared one first."""
        own = [variant.model for variant in self.variants.values() if variant.model is not None]
        return tuple(dict.fromkeys([self.model, *own]))

    def recbole_of(self, variant: VariantConfig) -> dict[str, Any]:
        """RecBole's settings with the variant's overrides."""
        return {**self.recbole, **variant.recbole}

    def outside(self, name: str) -> list[tuple[str, str]]:
        """Registry group and name of everything that a variant uses from outside this package, each once."""
        variant = self.variants[name]
        if variant.members:
            return []
        named = [("items", variant.items), *(("transforms", read_step(step)[0]) for step in variant.transforms)]
        named += [("scorers", variant.scorer)] if variant.scorer is not None else []
        named += [("losses", self.train_of(variant).loss)] if variant.is_trained else []
        text = self.text_of(variant)
        if variant.uses_text and text.store is None:
            named += [("encoders", text.encoder), *([("encoders", text.fallback.encoder)] if text.fallback else [])]
        return [one for one in dict.fromkeys(named) if registry.is_outside(*one)]

    @property
    def code(self) -> frozenset[str]:
        """Every `module:Class` in the config; it is trusted, because the config's author named it."""
        return frozenset(
            name for variant in self.variants for _, name in self.outside(variant) if registry.is_code(name)
        )


def read_config(raw: Mapping[str, Any], where: str | Where = "config") -> CompareConfig:
    """Read a whole comparison from a mapping, as YAML gives it.

    Raises:
        ConfigError: with all problems together; for an unknown key it suggests the closest known one.
    """
    return read_section(CompareConfig, raw, where)


def load_config(path: str | Path, overrides: Sequence[str | Option] = ()) -> CompareConfig:
    """Read a comparison from a YAML file and apply `section.key=value` overrides (values read as YAML).

    Relative paths are looked up in the working directory first, then next to the file.

    Raises:
        ConfigError: the file is missing, not UTF-8 or not YAML, or a key or value is invalid.
    """
    raw, where = load_given(path, overrides)
    return read_config(with_paths(raw, Path(path).parent), where)


def written(config: CompareConfig) -> str:
    """A comparison as text that load_config reads, with the explicitly set keys; the others have their defaults.

    The result of each run records all its settings, defaults included. So a version with other defaults can say what
    has changed.
    """
    header = f"# Written by blair_rec {__version__}. Keys that are not here have the defaults of this version.\n"
    return header + write_yaml(config)


def with_temperature(train: Mapping[str, Any], items: str) -> dict[str, Any]:
    """The train keys; for unisrec with its default temperature, which scores by cosine as the original does."""
    if items == "unisrec" and "temperature" not in train and train.get("loss") != "recbole":
        return {**train, "temperature": UNISREC_TEMPERATURE}
    return dict(train)


def _loss_problems(train: TrainConfig, recbole: Mapping[str, Any]) -> list[str]:
    """The problem of a RecBole loss_type that contradicts the loss."""
    loss_type = recbole.get("loss_type", "CE")
    if train.loss == "recbole" or loss_type == "CE":
        return []
    return [
        f"recbole.loss_type is {shown(loss_type)}, but train.loss is {train.loss!r}, which is not RecBole's; "
        "leave loss_type out, or set train.loss to recbole"
    ]
