"""Every architecture, pooling and module gives the vectors of sentence-transformers, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_kinds import DECODERS, ENCODERS, POSITIONS, TEXTS, sentence_model
from encoders import cosines

from blair_rec.config.names import POOLINGS
from blair_rec.text.encoding.encoder import load_encoder
from blair_rec.text.encoding.source import EncoderSource, resolve_encoder

pytest.importorskip("sentence_transformers", reason="the reference is not installed")

EQUAL = 1 - 1e-6


def reference(folder: Path, texts: Sequence[str] = TEXTS, batch_size: int = 32, **settings: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return np.asarray(model.encode(list(texts), batch_size=batch_size, **settings))


def check(folder: Path, expected: np.ndarray | None = None, **settings: Any) -> EncoderSource:
    """Our vectors are the expected ones in batches of one text, of some, and of all."""
    expected = reference(folder) if expected is None else expected
    source = resolve_encoder(str(folder), **settings)
    for tokens_per_batch in (1, 100, 10_000):
        vectors = load_encoder(source, tokens_per_batch=tokens_per_batch).encode(TEXTS)
        assert vectors.shape == expected.shape
        assert cosines(vectors, expected).min() >= EQUAL
        lengths = np.linalg.norm(expected, axis=1)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), lengths, rtol=1e-4)
    assert cosines(expected[[0]], expected[[1]]) < 0.999, "the texts have to differ for this to mean anything"
    return source


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_are_those_of_sentence_transformers(tmp_path: Path, kind: str) -> None:
    source = check(sentence_model(tmp_path / kind, kind))
    assert (source.pooling, source.modules, source.max_length) == ("mean", (), POSITIONS)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_are_those_of_sentence_transformers(tmp_path: Path, kind: str, padding_side: str) -> None:
    """sentence-transformers pads on either side; we pad after the text."""
    source = check(sentence_model(tmp_path / kind, kind, "lasttoken", padding_side=padding_side))
    assert source.pooling == "lasttoken"


@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "mean"), ("mean", "max", "lasttoken")])
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_poolings_are_those_of_sentence_transformers(tmp_path: Path, kind: str, pooling: Any) -> None:
    source = check(
        sentence_model(tmp_path / "model", kind, pooling, padding_side="left" if kind in DECODERS else "right")
    )
    assert source.pooling == (pooling if isinstance(pooling, str) else "+".join(pooling))


def dense(**settings: Any) -> Callable[[int], list[Any]]:
    from sentence_transformers.base.modules import Dense

    return lambda width: [Dense(width, 8, **settings)]


def normalize() -> Any:
    from sentence_transformers.base.modules import Normalize

    return Normalize()


def layer_norm(width: int) -> Any:
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    made = LayerNorm(width)
    made.norm.weight.data.uniform_(0.5, 2)
    made.norm.bias.data.normal_()
    return made


def dropout() -> Any:
    from sentence_transformers.sentence_transformer.modules import Dropout

    return Dropout(0.5)


@pytest.mark.parametrize(
    "behind, names",
    [
        (lambda width: [normalize()], ["normalize"]),
        (dense(), ["dense"]),
        (dense(bias=False), ["dense"]),
        (dense(use_residual=True), ["dense"]),
        (lambda width: [*dense()(width), *dense(bias=False)(8), normalize()], ["dense", "dense", "normalize"]),
        (lambda width: [layer_norm(width), dropout(), normalize()], ["layer_norm", "normalize"]),
    ],
)  # fmt: skip
def test_modules_after_the_pooling_are_those_of_sentence_transformers(
    tmp_path: Path, behind: Callable[[int], list[Any]], names: list[str]
) -> None:
    source = check(sentence_model(tmp_path / "model", pooling=("cls", "mean"), behind=behind))
    assert source.header()["modules"] == names


@pytest.mark.parametrize("name", ["Tanh", "GELU", "ReLU", "Sigmoid", "Identity", "SiLU"])
def test_activations_are_those_of_torch(tmp_path: Path, name: str) -> None:
    import torch

    check(sentence_model(tmp_path / "model", behind=dense(activation_function=getattr(torch.nn, name)())))


def test_a_text_that_is_read_in_small_letters(tmp_path: Path) -> None:
    folder = sentence_model(tmp_path / "model", transformer_settings={"do_lower_case": True})
    config = folder / "sentence_bert_config.json"
    config.write_text(config.read_text().replace("{", '{"do_lower_case": true,', 1))
    source = check(folder, reference(folder))
    assert source.modules == ("lowercase",)
    vectors = load_encoder(source).encode(["A RED Lamp", "a red lamp"])
    np.testing.assert_array_equal(*vectors)


def test_a_model_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    """Older releases of sentence-transformers saved models like this."""
    folder = sentence_model(tmp_path / "model", behind=lambda width: [normalize()])
    inside = folder / "0_Transformer"
    inside.mkdir()
    for file in folder.glob("*"):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(inside / file.name)
    listed = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(listed.replace('"path": ""', '"path": "0_Transformer"'))
    before = check(folder).revision
    with (inside / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert resolve_encoder(str(folder)).revision != before


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "mpnet", "t5", "modernbert", "qwen3", "gemma3_text"])
def test_bfloat16_is_the_same_model(tmp_path: Path, kind: str) -> None:
    """Its attention may have a bias, a window, shared keys, or a causal mask."""
    folder = sentence_model(tmp_path / kind, kind)
    exact = load_encoder(resolve_encoder(str(folder))).encode(TEXTS)
    fast = load_encoder(resolve_encoder(str(folder), dtype="bfloat16")).encode(TEXTS)
    assert 0.995 < cosines(exact, fast).min() < 1


# Prompts


PROMPTS = {"query": "a red ", "passage": "the small lamp ", "other": "bed "}


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("kind, pooling", [("bert", "mean"), ("qwen3", "weightedmean"), ("bert", "cls")])
def test_prompts_are_pooled_or_left_out_as_in_sentence_transformers(
    tmp_path: Path, include: bool, kind: str, pooling: str
) -> None:
    folder = sentence_model(
        tmp_path / "m", kind, pooling, pooling_settings={"include_prompt": include}, prompts=PROMPTS
    )
    source = check(folder, reference(folder, prompt_name="passage"))
    assert (source.prompt, source.query_prompt) == (PROMPTS["passage"], PROMPTS["query"])
    queries = load_encoder(source.for_queries()).encode(TEXTS)
    assert cosines(queries, reference(folder, prompt_name="query")).min() >= EQUAL
    other = load_encoder(resolve_encoder(str(folder), prompt="other")).encode(TEXTS)
    assert cosines(other, reference(folder, prompt_name="other")).min() >= EQUAL
    own = load_encoder(resolve_encoder(str(folder), prompt="in bed: ")).encode(TEXTS)
    assert cosines(own, reference(folder, prompt="in bed: ")).min() >= EQUAL
    none = load_encoder(resolve_encoder(str(folder), prompt="")).encode(TEXTS)
    assert cosines(none, reference(folder)).min() >= EQUAL


# Fewer dimensions, and length 1


@pytest.mark.parametrize("said_by", ["us", "the model"])
@pytest.mark.parametrize("unit", [True, False])
def test_the_first_dimensions_are_kept(tmp_path: Path, said_by: str, unit: bool) -> None:
    behind: Callable[[int], list[Any]] = lambda width: [normalize()] if unit else []  # noqa: E731
    settings = {"truncate_dim": 5} if said_by == "the model" else {}
    folder = sentence_model(tmp_path / "m", behind=behind, **settings)
    source = resolve_encoder(str(folder), truncate_dim=5 if said_by == "us" else None)
    vectors = load_encoder(source).encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 5) and source.header()["truncate_dim"] == 5
    assert cosines(vectors, reference(folder, truncate_dim=5)).min() >= EQUAL
    if unit:
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_length_1_is_given_or_left_out_as_asked(tmp_path: Path) -> None:
    plain = sentence_model(tmp_path / "plain")
    unit = sentence_model(tmp_path / "unit", behind=lambda width: [normalize()])
    check(plain, reference(unit), normalize=True)
    source = check(unit, reference(plain), normalize=False)
    assert source.header().keys() == resolve_encoder(str(plain)).header().keys(), "as an older version made it"


# Long contexts


def test_a_long_text_is_read_alone_in_bounded_memory(tmp_path: Path) -> None:
    from transformers import AutoConfig

    folder = sentence_model(tmp_path / "m", "qwen3", "lasttoken")
    for file, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        path = folder / file
        path.write_text(path.read_text().replace(f'"{key}": {POSITIONS}', f'"{key}": 4096'))
    assert AutoConfig.from_pretrained(folder).max_position_embeddings == 4096
    texts = ["the small red lamp " * 900, "lamp", "a red lamp"]
    encoder = load_encoder(resolve_encoder(str(folder), max_length=4096), tokens_per_batch=64)
    read: list[list[int]] = []
    encode_batch = encoder._encode_batch  # type: ignore[attr-defined]
    encoder._encode_batch = lambda tokens: (read.append([len(text) for text in tokens]), encode_batch(tokens))[1]  # type: ignore[attr-defined]
    assert cosines(encoder.encode(texts), reference(folder, texts, batch_size=1)).min() >= EQUAL
    assert [len(batch) for batch in read] == [1, 2] and read[0][0] > 2000
