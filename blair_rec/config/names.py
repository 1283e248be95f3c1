"""The choices of config keys that other packages can't extend, and the defaults that the command line shows."""

from __future__ import annotations

from typing import Literal, get_args

from blair_rec.registry import BUILT_IN, SAMPLED_LOSSES

Fusion = Literal["sum", "concat", "gate"]
ControlName = Literal["shuffle", "random"]
Weighting = Literal["validation", "masked", "unmasked", "equal"]
SamplingName = Literal["uniform", "popularity"]
ScheduleName = Literal["constant", "cosine"]
PrecisionName = Literal["float32", "bfloat16"]
TieOrder = Literal["stored", "shuffled"]
ProtocolName = Literal["unmasked", "masked"]
MissingText = Literal["error", "mean", "zeros"]
PoolingName = Literal["auto", "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
TemplateName = Literal["fields", "blair", "blair_unicode", "blair_pretrain"]
DtypeName = Literal["float32", "bfloat16", "float16"]

TEMPLATES: tuple[TemplateName, ...] = get_args(TemplateName)
DTYPES: tuple[DtypeName, ...] = get_args(DtypeName)
POOLINGS: tuple[PoolingName, ...] = get_args(PoolingName)[1:]
"""sentence-transformers' names, in the order in which it concatenates several poolings."""

ENCODER = "hyp1231/blair-roberta-base"
MAX_LENGTH = 512
UNISREC_TEMPERATURE = 0.07
AFTER_CUTOFF = "after_cutoff"
"""The value of evaluate.new_items that hides the items without an event before `split.valid_from`."""
CANDIDATES = 50
"""The default of a second stage's `candidates`."""
DISTILL_WEIGHT, DISTILL_TEMPERATURE = 0.5, 1.0
"""The defaults of a student's `distill_weight` and `distill_temperature`."""
TAUGHT_ITEMS = 100
"""Number of items in a teacher's list for a training position, at most."""
NEW_ITEMS_DRAW = 0
"""Seed of the draw of a share of the items: a part of every run's set-up."""
MOST_NEW_ITEMS = 0.5
"""The largest share of items that evaluate.new_items may hide."""

_OUTSIDE = "a loss of another package"
_EVERY_POSITION = ("full_softmax", *SAMPLED_LOSSES, _OUTSIDE)
READ_BY: dict[str, tuple[str, ...]] = {
    "negatives": (*SAMPLED_LOSSES, _OUTSIDE),
    "sampling": ("sampled_softmax", "bpr", _OUTSIDE),
    "log_q": ("sampled_softmax",),
    "gbce_t": ("gbce",),
    "temperature": _EVERY_POSITION,
    "stride": _EVERY_POSITION,
    "precision": ("full_softmax",),
    "loss_options": (_OUTSIDE,),
}
"""Keys of the train section that not every loss reads."""


def is_read_by(loss: str, name: str) -> bool:
    """Whether a loss reads this key of the train section."""
    return name not in READ_BY or (loss if loss in BUILT_IN["losses"] else _OUTSIDE) in READ_BY[name]


ELSEWHERE = "trained elsewhere"
"""The kind of a variant whose recommendations another system made, as the board shows it."""
FROM = ("from", "from_masked", "from_valid", "from_valid_masked")
"""Keys of a variant that name files of another system."""
MATRICES = (".npz", ".npy")
"""Endings of files with full score matrices of another system."""
