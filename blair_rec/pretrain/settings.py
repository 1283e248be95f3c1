"""What a pre-training is made of: one frozen dataclass, read from YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from blair_rec.config.reading import at_least, is_number, one_of, read_section, refuse, type_problems
from blair_rec.errors import ConfigError


@dataclass(frozen=True)
class PretrainConfig:
    """BLaIR's own settings where nothing else is said (Hou et al., Bridging Language and Items, arXiv:2403.03952)."""

    pairs: str
    """CSV or TSV with a header, JSON lines or Parquet, by its ending: a language context and its item in each row."""
    encoder: str = "hyp1231/blair-roberta-base"
    """Where training begins: hub name, local folder or offline package."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the newest if not given."""
    pooling: str = "auto"
    """cls, mean, or auto: what the encoder was made for. With cls an MLP stands behind it that export drops."""
    context: str = "review"
    """Column of the language context."""
    item: str = "meta"
    """Column of the item's text."""
    item_id: str | None = None
    """Column that says which item it is; equal texts are the same item where none is named."""
    hard_negative: str | None = None
    """Column of the text of another item, near but wrong; none by default."""
    held_out: float = 0.1
    """Share of the items kept out of training, with all contexts that speak of them, to measure retrieval with."""
    max_length: int = 64
    """Tokens read of each text."""
    batch_size: int = 384
    """Pairs of a step in each process; all other items of the step are negatives."""
    chunk_size: int | None = None
    """Pairs whose activations are held at once; all if not given. Less memory for about a third more time."""
    epochs: float = 1.0
    """Passes over the pairs."""
    max_steps: int | None = None
    """Stop after so many steps, however many epochs that is."""
    learning_rate: float = 5e-5
    """Of AdamW, falling linearly to zero."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises to its value."""
    weight_decay: float = 0.0
    """Of AdamW."""
    temperature: float = 0.05
    """What cosines are divided by."""
    mlm_weight: float = 0.1
    """Of the masked-language-modelling loss; 0 leaves it out."""
    mlm_probability: float = 0.15
    """Share of the tokens to be guessed."""
    mask_false_negatives: bool = True
    """Whether the same item, or the same context, met again in a step is no negative. BLaIR's own code keeps it one."""
    accumulation: int = 1
    """Steps whose gradients are added up before the optimiser moves; each has negatives of its own."""
    precision: str = "auto"
    """float32, bfloat16 or float16; auto is bfloat16 where a GPU has it, and float32 elsewhere."""
    save_steps: int = 500
    """Steps between two checkpoints."""
    tensorboard: bool = False
    """Whether the loss is also written for TensorBoard."""
    seed: int = 1
    """Of the split, the order of pairs, the masked words and dropout."""

    def __post_init__(self) -> None:
        problems = type_problems(self)
        problems += one_of(self.pooling, ("auto", "cls", "mean"), "pooling")
        problems += one_of(self.precision, ("auto", "float32", "bfloat16", "float16"), "precision")
        for name in ("max_length", "accumulation", "save_steps"):
            problems += at_least(getattr(self, name), 1, name)
        problems += at_least(self.batch_size, 2, "batch_size")
        for name in ("chunk_size", "max_steps"):
            if getattr(self, name) is not None:
                problems += at_least(getattr(self, name), 1, name)
        for name in ("epochs", "learning_rate", "temperature"):
            if is_number(value := getattr(self, name)) and not 0 < value < math.inf:
                problems.append(f"{name} is {value!r}; it has to be a positive number")
        for name in ("mlm_weight", "weight_decay"):
            problems += at_least(getattr(self, name), 0, name)
        for name in ("held_out", "warmup"):
            if is_number(value := getattr(self, name)) and not 0 <= value < 1:
                problems.append(f"{name} is {value!r}; it is a share, from 0 to below 1")
        if is_number(self.mlm_probability) and not 0 < self.mlm_probability < 1:
            problems.append(f"mlm_probability is {self.mlm_probability!r}; it is a share between 0 and 1")
        refuse(problems)


def read_pretrain_config(raw: Mapping[str, object], where: str) -> PretrainConfig:
    """A pre-training from a mapping, as YAML gives it.

    Raises:
        ConfigError: an unknown key, with the near one, or a value that can't be meant.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {type(raw).__name__}")
    return read_section(PretrainConfig, raw, where)
