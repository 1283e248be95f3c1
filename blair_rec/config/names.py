"""The names that a config may choose from, and the defaults that the command line shows."""

from __future__ import annotations

from typing import Literal, get_args

ItemKind = Literal["id", "text", "text_init", "text_delta", "id_text", "unisrec", "sasrec_text"]
Fusion = Literal["sum", "concat", "gate"]
Control = Literal["shuffle", "random"]
TextScorer = Literal["last_item", "mean_history", "recent_history"]
Scorer = Literal["popularity", "markov", "sequential_rules", TextScorer]
Weighting = Literal["validation", "masked", "unmasked", "equal"]
SampledLoss = Literal["sampled_softmax", "gbce", "bpr"]
OurLoss = Literal["full_softmax", SampledLoss]
Loss = Literal[OurLoss, "recbole"]
Sampling = Literal["uniform", "popularity"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16"]
TieOrder = Literal["stored", "shuffled"]
Protocol = Literal["unmasked", "masked"]
MissingText = Literal["error", "mean", "zeros"]
Pooling = Literal["auto", "cls", "mean"]
TemplateName = Literal["fields", "blair", "blair_unicode", "blair_pretrain"]
Dtype = Literal["float32", "bfloat16", "float16"]

ITEM_KINDS: tuple[ItemKind, ...] = get_args(ItemKind)
TEXT_SCORERS: tuple[TextScorer, ...] = get_args(TextScorer)
SAMPLED_LOSSES: tuple[SampledLoss, ...] = get_args(SampledLoss)
OUR_LOSSES: tuple[OurLoss, ...] = get_args(OurLoss)
LOSSES: tuple[Loss, ...] = get_args(Loss)
TEMPLATES: tuple[TemplateName, ...] = get_args(TemplateName)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

ENCODER = "hyp1231/blair-roberta-base"
MAX_LENGTH = 512
UNISREC_TEMPERATURE = 0.07
