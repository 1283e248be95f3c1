"""Quicker kernels give the vectors of the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blair_rec.text.encoding.fast import cpu
from blair_rec.text.encoding.fast.cpu import PRODUCTS, PackedLinear, attention_by_products, make_fast


def bert(dtype: torch.dtype, **settings: Any) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=50, max_position_embeddings=40, initializer_range=0.2, **sizes, **settings)
    return BertModel(config).to(dtype).eval()


def states(model: Any) -> torch.Tensor:
    """Attention over four padded texts of different lengths; the values at the padding don't matter."""
    lengths = torch.tensor([30, 17, 2, 1])
    mask = (torch.arange(30) < lengths[:, None]).long()
    ids = torch.randint(1, 50, (4, 30), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        hidden: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return hidden[mask.bool()].float()


def test_packed_linears_are_linears_in_float32() -> None:
    model = bert(torch.float32)
    expected = states(model)
    make_fast(model)
    assert any(isinstance(module, PackedLinear) for module in model.modules())
    assert not any(type(module) is nn.Linear for module in model.modules())
    torch.testing.assert_close(states(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("why", ["causal", "bias", "shared keys", "long"])
def test_attention_of_another_kind_goes_to_torchs_own_kernel(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Module()
    module.is_causal, module.num_key_value_groups = why == "causal", 2 if why == "shared keys" else 1
    query, key, value = (torch.randn(2, 4, 9, 8) for _ in range(3))
    if why == "shared keys":
        key, value = key[:, :2], value[:, :2]
    more = {"position_bias": torch.randn(1, 4, 9, 9)} if why == "bias" else {}
    if why == "long":
        monkeypatch.setattr(cpu, "LONGEST", 8)
        monkeypatch.setattr(Tensor, "softmax", None)  # no scores are held
    found, _ = attention_by_products(module, query, key, value, None, **more)
    keys, values = (one.repeat_interleave(4 // one.shape[1], dim=1) for one in (key, value))
    scores = query @ keys.transpose(-1, -2) * 8**-0.5 + more.get("position_bias", 0)
    if why == "causal":
        scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), float("-inf"))
    expected = (torch.softmax(scores, dim=-1) @ values).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_products_are_attention() -> None:
    exact, model = bert(torch.float32), bert(torch.bfloat16)
    make_fast(model)
    assert model.config._attn_implementation == PRODUCTS
    expected = states(exact)
    assert torch.cosine_similarity(states(model), expected).min() > 0.999
    cpu.AttentionInterface.register(PRODUCTS, attention_by_products)
    exact.set_attn_implementation(PRODUCTS)  # without rounding, to tell a wrong product from a rounded one
    torch.testing.assert_close(states(exact), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_machine_without_these_kernels_does_without(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bert(dtype)
    expected = states(model)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    make_fast(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert torch.cosine_similarity(states(model), expected).min() > 0.999


def test_a_linear_without_a_bias_is_packed_too() -> None:
    x, linear = torch.randn(7, 3, 16), nn.Linear(16, 8, bias=False)
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=1e-6, rtol=1e-5)
