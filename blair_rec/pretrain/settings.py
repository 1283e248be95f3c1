"""What a pre-training is made of: one section, read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from blair_rec.config.names import DtypeName, PoolingName
from blair_rec.config.section import AS_GIVEN, AboveZero, DeviceName, FromOneOn, NotNegative, Section, read_section

ShareBelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), AS_GIVEN]


class PretrainConfig(Section):
    """BLaIR's own settings where nothing else is said (Hou et al., Bridging Language and Items, arXiv:2403.03952)."""

    pairs: str
    """CSV or TSV with a header, JSON lines or Parquet, by its ending: a language context and its item in each row."""
    encoder: str = "hyp1231/blair-roberta-base"
    """Where training begins: hub name, local folder or offline package."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the newest if not given."""
    pooling: PoolingName = "auto"
    """cls, mean, or auto: what the encoder was made for. With cls an MLP stands behind it that export drops."""
    context: str = "review"
    """Column of the language context."""
    item: str = "meta"
    """Column of the item's text."""
    item_id: str | None = None
    """Column that says which item it is; equal texts are the same item where none is named."""
    hard_negative: str | None = None
    """Column of the text of another item, near but wrong; none by default."""
    held_out: ShareBelowOne = 0.1
    """Share of the items kept out of training, with all contexts that speak of them, to measure retrieval with."""
    max_length: FromOneOn = 64
    """Tokens read of each text."""
    batch_size: Annotated[int, Field(ge=2)] = 384
    """Pairs of a step in each process; all other items of the step are negatives."""
    chunk_size: FromOneOn | None = None
    """Pairs whose activations are held at once; all if not given. Less memory for about a third more time."""
    epochs: AboveZero = 1.0
    """Passes over the pairs."""
    max_steps: FromOneOn | None = None
    """Stop after so many steps, however many epochs that is."""
    learning_rate: AboveZero = 5e-5
    """Of AdamW, falling linearly to zero."""
    warmup: ShareBelowOne = 0.0
    """Share of the steps in which the learning rate rises to its value."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    temperature: AboveZero = 0.05
    """What cosines are divided by."""
    mlm_weight: NotNegative = 0.1
    """Of the masked-language-modelling loss; 0 leaves it out."""
    mlm_probability: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), AS_GIVEN] = 0.15
    """Share of the tokens to be guessed."""
    mask_false_negatives: bool = True
    """Whether the same item, or the same context, met again in a step is no negative. BLaIR's own code keeps it one."""
    accumulation: FromOneOn = 1
    """Steps whose gradients are added up before the optimiser moves; each has negatives of its own."""
    precision: Literal["auto", DtypeName] = "auto"
    """float32, bfloat16 or float16; auto is bfloat16 where a GPU has it, and float32 elsewhere."""
    device: DeviceName = "auto"
    """Where it is trained: cpu, cuda, cuda:1, or auto (a GPU if there is one). Checkpoints of one go on on another."""
    save_steps: FromOneOn = 500
    """Steps between two checkpoints."""
    tensorboard: bool = False
    """Whether the loss is also written for TensorBoard."""
    seed: int = 1
    """Of the split, the order of pairs, the masked words and dropout."""


def read_pretrain_config(raw: Mapping[str, object], where: str) -> PretrainConfig:
    """A pre-training from a mapping, as YAML gives it.

    Raises:
        ConfigError: an unknown key, with the near one, or a value that can't be meant.
    """
    return read_section(PretrainConfig, raw, where)
