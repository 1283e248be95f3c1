"""The names that a config may choose from, and the defaults that the command line shows."""

from __future__ import annotations

from typing import Literal, get_args

ItemKind = Literal["id", "text", "text_init", "text_delta", "id_text", "unisrec", "sasrec_text"]
Fusion = Literal["sum", "concat", "gate"]
ControlName = Literal["shuffle", "random"]
TextScorerName = Literal["last_item", "mean_history", "recent_history"]
ScorerName = Literal["popularity", "markov", "sequential_rules", TextScorerName]
Weighting = Literal["validation", "masked", "unmasked", "equal"]
SampledLoss = Literal["sampled_softmax", "gbce", "bpr"]
OurLoss = Literal["full_softmax", SampledLoss]
LossName = Literal[OurLoss, "recbole"]
SamplingName = Literal["uniform", "popularity"]
ScheduleName = Literal["constant", "cosine"]
PrecisionName = Literal["float32", "bfloat16"]
TieOrder = Literal["stored", "shuffled"]
ProtocolChoice = Literal["unmasked", "masked"]
MissingText = Literal["error", "mean", "zeros"]
PoolingName = Literal["auto", "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
TemplateName = Literal["fields", "blair", "blair_unicode", "blair_pretrain"]
DtypeName = Literal["float32", "bfloat16", "float16"]

ITEM_KINDS: tuple[ItemKind, ...] = get_args(ItemKind)
TEXT_SCORERS: tuple[TextScorerName, ...] = get_args(TextScorerName)
SAMPLED_LOSSES: tuple[SampledLoss, ...] = get_args(SampledLoss)
OUR_LOSSES: tuple[OurLoss, ...] = get_args(OurLoss)
LOSSES: tuple[LossName, ...] = get_args(LossName)
TEMPLATES: tuple[TemplateName, ...] = get_args(TemplateName)
DTYPES: tuple[DtypeName, ...] = get_args(DtypeName)
POOLINGS: tuple[PoolingName, ...] = get_args(PoolingName)[1:]

ENCODER = "hyp1231/blair-roberta-base"
MAX_LENGTH = 512
UNISREC_TEMPERATURE = 0.07
