"""eSASRec: SASRec with LiGR layers, which normalise before each part and gate what each part adds.

Source: Tikhonovich et al., eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion, RecSys 2025. The
layers are those of Borisyuk et al., From Features to Transformers: Redefining Ranking for Scalable Impact, 2025.

Shapes: B cases, L items of a history, H hidden_size. `...` is B, L in a padded batch, and tokens in a packed one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.errors import ConfigError

from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.loss import BPRLoss
from recbole.model.sequential_recommender import SASRec

SWIGLU = "swiglu"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    SWIGLU: F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "swish": F.silu,
    "tanh": torch.tanh,
}
"""Values of `hidden_act`. With swiglu, a second projection multiplies the activation, and nothing has a bias."""


class LiGRLayer(nn.Module):
    """Causal attention, then a feed-forward part. Each part reads normalised inputs, and a gate scales what it adds.

    x + sigmoid(gate(x)) * part(norm(x)), where the gate reads x as it is.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["inner_size"], config["layer_norm_eps"]
        self.num_attention_heads = config["n_heads"]
        self.attention_head_size = width // config["n_heads"]
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense = nn.Linear(width, width)
        self.attn_dropout = nn.Dropout(config["attn_dropout_prob"])
        self.hidden_dropout = config["hidden_dropout_prob"]
        self.activation = config["hidden_act"]
        swiglu = self.activation == SWIGLU
        self.inner = nn.Linear(width, 2 * inner if swiglu else inner, bias=not swiglu)
        self.outer = nn.Linear(inner, width, bias=not swiglu)
        self.attention_norm, self.inner_norm = (nn.LayerNorm(width, eps=eps) for _ in range(2))
        self.attention_gate, self.inner_gate = (nn.Linear(width, width) for _ in range(2))

    def forward(
        self,
        x: Tensor,
        attend: Callable[[LiGRLayer, Tensor], Tensor],
        drop: Callable[[Tensor, float], Tensor],
        select: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """Return the layer's output [..., H] for x [..., H].

        Args:
            attend: (this layer, normalised x [..., H]) -> the heads' outputs, [..., H].
            drop: (tensor, probability) -> the tensor after dropout.
            select: chooses the rows of x whose output is needed; `attend` then returns only these.
        """
        attended = attend(self, self.attention_norm(x))
        x = select(x)
        x = x + torch.sigmoid(self.attention_gate(x)) * drop(self.dense(attended), self.hidden_dropout)
        added = self._feed_forward(self.inner_norm(x), drop)
        return x + torch.sigmoid(self.inner_gate(x)) * drop(added, self.hidden_dropout)

    def _feed_forward(self, x: Tensor, drop: Callable[[Tensor, float], Tensor]) -> Tensor:
        activation = ACTIVATIONS[self.activation]
        x = self.inner(x)
        if self.activation == SWIGLU:
            gated, factor = x.chunk(2, dim=-1)
            x = activation(gated) * factor
        else:
            x = activation(x)
        return self.outer(drop(x, self.hidden_dropout))


class eSASRec(SASRec):  # spelt as in the paper, since RecBole finds a model by the name of its class
    """SASRec's items, positions and losses with LiGR layers; it has SASRec's settings, and hidden_act may be swiglu.

    The paper trains it with a sampled softmax: `train.loss: sampled_softmax` in a comparison. As in the authors'
    code, nothing is normalised before the first layer or after the last one. Positions are SASRec's: they count from
    the oldest item of the window.

    Raises:
        ConfigError: an unknown hidden_act or loss_type, or hidden_size is not a multiple of n_heads.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        SequentialRecommender.__init__(self, config, dataset)  # SASRec's own would build SASRec's layers
        _check(config)
        self.hidden_size, self.loss_type = config["hidden_size"], config["loss_type"]
        self.initializer_range = config["initializer_range"]
        self.item_embedding = nn.Embedding(self.n_items, self.hidden_size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, self.hidden_size)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.layers = nn.ModuleList(LiGRLayer(config) for _ in range(config["n_layers"]))
        self.loss_fct = BPRLoss() if self.loss_type == "BPR" else nn.CrossEntropyLoss()
        self.apply(self._init_weights)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Return the state after each history, [B, H], for item ids [B, L] int64, padded on the right, and lengths."""

        def drop(x: Tensor, probability: float) -> Tensor:
            return F.dropout(x, probability, self.training)

        x = self.item_embedding(item_seq) + self.position_embedding.weight[: item_seq.shape[1]]
        x = drop(x, self.dropout.p)
        for layer in self.layers:
            x = layer(x, _attend_padded, drop)
        return self.gather_indexes(x, item_seq_len - 1)


def _attend_padded(layer: LiGRLayer, x: Tensor) -> Tensor:
    """Return the heads' outputs, [B, L, H]. Padding is on the right, so the causal mask hides it from all items."""
    query, key, value = (
        projection(x).unflatten(-1, (layer.num_attention_heads, -1)).transpose(1, 2)
        for projection in (layer.query, layer.key, layer.value)
    )
    probability = layer.attn_dropout.p if layer.training else 0.0
    heads = F.scaled_dot_product_attention(query, key, value, dropout_p=probability, is_causal=True)
    return heads.transpose(1, 2).flatten(-2)


def _check(config: Any) -> None:
    """Raise ConfigError for settings with which no model can be built."""
    if config["hidden_act"] not in ACTIVATIONS:
        raise ConfigError(f"hidden_act is {config['hidden_act']!r}; eSASRec has {', '.join(ACTIVATIONS)}")
    if config["loss_type"] not in ("CE", "BPR"):
        raise ConfigError(f"loss_type is {config['loss_type']!r}; eSASRec has CE and BPR")
    if config["hidden_size"] % config["n_heads"]:
        raise ConfigError(
            f"hidden_size is {config['hidden_size']}, which {config['n_heads']} heads can't share equally; "
            "make hidden_size a multiple of n_heads"
        )
