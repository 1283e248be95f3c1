"""Token vectors -> one vector per text: the pooling and the modules after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_utils import load_state_dict

from blair_rec.errors import UnknownEncoder
from blair_rec.text.encoding.modules import DENSE, LAYER_NORM, NORMALIZE, STEP_WEIGHTS, PooledStep, read_json
from blair_rec.text.encoding.source import EncoderSource


def pool(hidden: Tensor, real: Tensor, pooling: str, prompt_length: int = 0) -> Tensor:
    """[texts, tokens, width] in any dtype -> [texts, width of all poolings together] float32.

    `real` is [texts, tokens] bool, False at the padding, which follows each text. The first `prompt_length` tokens of
    each text are ignored. A text without tokens gets zeros.
    """
    counted = real
    if prompt_length:
        counted = real.clone()
        counted[:, :prompt_length] = False
    return torch.cat([_pool(hidden, real, counted, mode) for mode in pooling.split("+")], dim=-1)


def _pool(hidden: Tensor, real: Tensor, counted: Tensor, mode: str) -> Tensor:
    weights = counted.unsqueeze(-1).float()
    if mode == "cls":
        return _at(hidden, counted.int().argmax(dim=1))
    if mode == "lasttoken":
        return _at(hidden, (real.sum(dim=1) - 1).clamp(min=0)) * counted.any(dim=1, keepdim=True)
    if mode == "max":
        largest = hidden.float().masked_fill(~counted.unsqueeze(-1), float("-inf")).amax(dim=1)
        return largest.masked_fill(~counted.any(dim=1, keepdim=True), 0.0)
    if mode == "weightedmean":  # later tokens weigh more: 1, 2, 3, ...
        weights = weights * torch.arange(1, hidden.shape[1] + 1, device=hidden.device).view(1, -1, 1)
    total = weights.sum(dim=1).clamp(min=1.0)
    return (hidden.float() * weights).sum(dim=1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


def _at(hidden: Tensor, position: Tensor) -> Tensor:
    """[texts, width] float32: the vector at the given position of each text."""
    return hidden[torch.arange(len(hidden), device=hidden.device), position].float()


class Dense(nn.Module):
    """A linear layer and an activation, with sentence-transformers' optional residual connection around both."""

    def __init__(self, step: PooledStep) -> None:
        super().__init__()
        config = read_json(step.folder / "config.json")
        weights = _weights(step)
        self.weight: Tensor
        self.register_buffer("weight", _taken(weights, "linear.weight", step))
        self.bias: Tensor | None
        self.register_buffer("bias", weights.get("linear.bias"))
        self.activation = _activation(config.get("activation_function", "torch.nn.modules.activation.Tanh"), step)
        self.residual = bool(config.get("use_residual"))
        self.around: Tensor | None
        self.register_buffer("around", weights.get("residual.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y: Tensor = self.activation(nn.functional.linear(x, self.weight, self.bias))
        if not self.residual:
            return y
        return y + (x if self.around is None else nn.functional.linear(x, self.around))


class UnitLength(nn.Module):
    """Every vector divided by its length."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return nn.functional.normalize(x, dim=-1)


def load_steps(steps: Sequence[PooledStep], width: int) -> tuple[nn.Sequential, int]:
    """Load the modules after the pooling, and return them with their output width; `width` is their input width.

    They compute in float32. Raises UnknownEncoder for weights that are missing or don't fit, and for an activation that
    torch doesn't have.
    """
    layers: list[nn.Module] = []
    for step in steps:
        if step.name == NORMALIZE:
            layers.append(UnitLength())
        elif step.name == DENSE:
            dense = Dense(step)
            if dense.weight.shape[1] != width:
                raise UnknownEncoder(f"{step.folder} takes vectors of width {dense.weight.shape[1]}, not {width}")
            width = dense.weight.shape[0]
            layers.append(dense)
        elif step.name == LAYER_NORM:
            weights = _weights(step)
            norm = nn.LayerNorm(width)
            norm.load_state_dict({key: _taken(weights, f"norm.{key}", step) for key in ("weight", "bias")})
            layers.append(norm)
    return nn.Sequential(*layers).eval(), width


def shortened(vectors: Tensor, source: EncoderSource) -> Tensor:
    """[texts, width] -> the first `truncate_dim` dimensions, normalised again if the model normalises its vectors."""
    if source.truncate_dim is None:
        return vectors
    kept = vectors[:, : source.truncate_dim]
    return nn.functional.normalize(kept, dim=-1) if NORMALIZE in source.modules else kept


def _weights(step: PooledStep) -> dict[str, Tensor]:
    for file in STEP_WEIGHTS:
        if (path := step.folder / file).is_file():
            return {key: value.float() for key, value in load_state_dict(path).items()}
    raise UnknownEncoder(
        f"{step.folder} holds no weights (model.safetensors or pytorch_model.bin); get the model again"
    )


def _taken(weights: dict[str, Tensor], key: str, step: PooledStep) -> Tensor:
    if key not in weights:
        raise UnknownEncoder(f"the weights in {step.folder} lack {key}; get the model again")
    return weights[key]


def _activation(name: str, step: PooledStep) -> nn.Module:
    """One of torch's activations, by its full name; no other code is ever imported."""
    kind = getattr(nn, name.rpartition(".")[2], None)
    if not name.startswith("torch.nn.") or not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise UnknownEncoder(f"{step.folder} has the activation {name}, which torch lacks; choose another encoder")

    return kind()
