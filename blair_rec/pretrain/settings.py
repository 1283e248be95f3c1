"""The settings of a pre-training: one section, read from YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from blair_rec.config.names import ENCODER, DtypeName, PoolingName
from blair_rec.config.section import (
    AS_GIVEN,
    LARGEST_COUNT,
    AboveZero,
    DeviceName,
    Factor,
    FactorOrZero,
    FromOneOn,
    NotEmpty,
    Problem,
    Rate,
    RunSeed,
    Section,
    read_section,
)
from blair_rec.config.yaml.files import Where

ShareBelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), AS_GIVEN]


class PretrainConfig(Section):
    """Settings of a pre-training; defaults are BLaIR's (Hou et al., Bridging Language and Items, arXiv:2403.03952)."""

    pairs: NotEmpty
    """CSV or TSV with a header, JSON lines or Parquet, by its ending: a language context and its item in each row."""
    encoder: NotEmpty = ENCODER
    """Encoder that training starts from: hub name, local folder or installed package."""
    revision: NotEmpty | None = None
    """Commit, tag or branch on the hub; the newest if not given."""
    pooling: PoolingName = "auto"
    """cls, mean, or auto (what the encoder was made for). With cls, training adds an MLP that is not exported."""
    context: NotEmpty = "review"
    """Column of the language context."""
    item: NotEmpty = "meta"
    """Column of the item's text."""
    item_id: NotEmpty | None = None
    """Column with the item's id; without it, equal item texts count as the same item."""
    hard_negative: NotEmpty | None = None
    """Column with the text of a similar but wrong item; none by default."""
    held_out: ShareBelowOne = 0.1
    """Share of the items that are held out of training, with all their contexts, to measure retrieval."""
    max_length: FromOneOn = 64
    """Most tokens read of each text. If the encoder's own limit is lower, that one applies."""
    batch_size: Annotated[int, Field(ge=2, le=LARGEST_COUNT)] = 384
    """Pairs per step in each process; all other items of the step are negatives."""
    chunk_size: FromOneOn | None = None
    """Pairs whose activations are in memory together; all if not given. Saves memory; takes about a third more time."""
    epochs: AboveZero = 1.0
    """Passes over the pairs."""
    max_steps: FromOneOn | None = None
    """Stop after this many steps, whatever `epochs` says."""
    learning_rate: Rate = 5e-5
    """Learning rate of AdamW; it falls linearly to zero."""
    warmup: ShareBelowOne = 0.0
    """Share of the steps in which the learning rate first rises to its value."""
    weight_decay: FactorOrZero = 0.0
    """Weight decay of AdamW."""
    temperature: Factor = 0.05
    """Temperature: the cosines are divided by it."""
    mlm_weight: FactorOrZero = 0.1
    """Weight of the masked-language-modelling loss; 0 turns it off."""
    mlm_probability: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), AS_GIVEN] = 0.15
    """Share of the tokens that are masked and have to be predicted."""
    mask_false_negatives: bool = True
    """Do not use a pair of the same item or the same context, or a hard negative that is the item, as a negative.
    BLaIR's own code does use them."""
    accumulation: FromOneOn = 1
    """Steps whose gradients are accumulated for one optimiser step; each has its own negatives."""
    precision: Literal["auto", DtypeName] = "auto"
    """float32, bfloat16, or float16 (on a GPU); auto is bfloat16 where a GPU has it, and float32 elsewhere."""
    compile: bool = False
    """Compile the encoder's layers by torch.compile: faster steps on a GPU, after seconds or minutes of compiling."""
    device: DeviceName = "auto"
    """Device to train on: cpu, cuda, cuda:1, or auto (a GPU if there is one). Training can resume on another device."""
    save_steps: FromOneOn = 500
    """Steps between two checkpoints. If steps are slow, a process that trains alone saves one every ten minutes."""
    tensorboard: bool = False
    """Also write the loss for TensorBoard, into the folder `tensorboard` of the encoder."""
    seed: RunSeed = 1
    """Seed of the split, the order of pairs, the masked words and dropout."""

    def _problems(self) -> Iterator[Problem]:
        # AdamW multiplies all weights by 1 - learning_rate * weight_decay in each step.
        if (decay := self.learning_rate * self.weight_decay) >= 1:
            line = f"learning_rate * weight_decay is {decay:g}, so no weight would be kept; lower weight_decay"
            yield ("learning_rate", "weight_decay"), f"{line} below {1 / self.learning_rate:g}"


def read_pretrain_config(raw: Mapping[str, object], where: str | Where) -> PretrainConfig:
    """Read the settings of a pre-training from a mapping, as YAML gives it.

    Raises:
        ConfigError: an unknown key (the message suggests a similar one), or an invalid value.
    """
    return read_section(PretrainConfig, raw, where)
