"""Encoding without padding: every text gets the vector that it gets with padding, in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_kinds import ENCODERS, TEXTS, sentence_model
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blair_rec.text.encoding.encoder import TextEncoder
from blair_rec.text.encoding.fast import unpadded
from blair_rec.text.encoding.source import resolve_encoder

KINDS = [kind for kind in ENCODERS if kind in unpadded.FIRST_POSITION]


def one_text_at_a_time(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    starts: Tensor,
    longest: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute attention_within_texts by torch's ordinary attention, text by text."""
    assert attention_mask is None and longest == int(starts.diff().max())
    found = torch.zeros_like(query)
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        found[:, :, begin:end] = scaled_dot_product_attention(*(part[:, :, begin:end] for part in (query, key, value)))
    return found.transpose(1, 2), None


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the CPU and float32 as if they were a GPU and half precision."""
    monkeypatch.setattr(unpadded, "reads_unpadded", lambda model, device: True)
    monkeypatch.setattr(unpadded, "attention_within_texts", one_text_at_a_time)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "lasttoken"])
def test_vectors_are_those_of_padded_texts(
    kind: str, pooling: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = resolve_encoder(str(sentence_model(tmp_path / "model", kind, pooling)))
    padded = TextEncoder(source).encode(TEXTS)
    request.getfixturevalue("on_a_cpu")
    encoder = TextEncoder(source)
    np.testing.assert_allclose(encoder.encode(TEXTS), padded, rtol=0, atol=2e-5)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, padded, rtol=0, atol=2e-5)


def test_a_text_without_tokens_gets_zeros_beside_others_and_alone(tmp_path: Path, on_a_cpu: None) -> None:
    encoder = TextEncoder(resolve_encoder(str(sentence_model(tmp_path / "model", "bert", "mean"))))
    alone = encoder._encode_batch([[4, 5, 6]])
    beside = encoder._encode_batch([[], [4, 5, 6], []])
    np.testing.assert_allclose(beside[1], alone[0], atol=1e-6)
    assert not beside[0].any() and not beside[2].any()
    assert not encoder._encode_batch([[], []]).any()


def test_only_known_types_in_half_precision_on_a_gpu_are_read_so(tmp_path: Path) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for kind in ("bert", "roberta", "mpnet", "modernbert", "albert"):
        model = TextEncoder(resolve_encoder(str(sentence_model(tmp_path / kind, kind))))._model
        assert not unpadded.reads_unpadded(model, gpu), "float32"
        assert not unpadded.reads_unpadded(model.bfloat16(), cpu)
        assert unpadded.reads_unpadded(model, gpu) == (kind in ("bert", "roberta"))
        model.config.is_decoder = True
        assert not unpadded.reads_unpadded(model, gpu), "a decoder's tokens don't see what follows"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_a_gpu_are_those_of_the_cpu(kind: str, tmp_path: Path) -> None:
    source = resolve_encoder(str(sentence_model(tmp_path / "model", kind, "mean")), dtype="bfloat16")
    exact = TextEncoder(resolve_encoder(source.name)).encode(TEXTS).astype(np.float64)
    encoder = TextEncoder(source, "cuda")
    assert encoder._unpadded
    ours = encoder.encode(TEXTS).astype(np.float64)
    cosines = (exact * ours).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(ours, axis=1)
    assert cosines.min() > 0.999
