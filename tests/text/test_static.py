"""Static embeddings are those of model2vec and of sentence-transformers, whoever wrote the folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_kinds import TEXTS, save, static_tokenizer
from encoders import cosines
from hypothesis import given, settings
from hypothesis import strategies as st

from blair_rec.errors import ConfigError, UnknownEncoder
from blair_rec.text.encoding import static
from blair_rec.text.encoding.encoder import load_encoder
from blair_rec.text.encoding.source import resolve_encoder

model2vec = pytest.importorskip("model2vec", reason="the reference is not installed")
EQUAL = 1 - 1e-6
UNKNOWN = "nothing of this is known"
LONG = "the lamp is red " * 400


def table(dtype: str = "float32", width: int = 12, rows: int | None = None) -> np.ndarray:
    rows = rows or static_tokenizer().get_vocab_size()
    vectors = np.random.default_rng(0).normal(size=(rows, width))
    return (vectors * 20 if dtype == "int8" else vectors).astype(dtype)


def save_model2vec(folder: Path, vectors: np.ndarray | None = None, tokenizer: Any = None, **settings: Any) -> Path:
    vectors = table() if vectors is None else vectors
    model = model2vec.StaticModel(vectors, tokenizer or static_tokenizer(), **settings)
    model.save_pretrained(folder)
    return folder


def reference(folder: Path, texts: Sequence[str], **settings: Any) -> np.ndarray:
    return np.asarray(model2vec.StaticModel.from_pretrained(folder).encode(list(texts), **settings))


def check(folder: Path, texts: Sequence[str] = (*TEXTS, UNKNOWN, LONG)) -> None:
    vectors, expected = load_encoder(resolve_encoder(str(folder))).encode(texts), reference(folder, texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-5 * np.abs(expected).max())
    known = np.linalg.norm(expected, axis=1) > 0
    assert cosines(vectors[known], expected[known]).min() >= EQUAL
    assert cosines(expected[[0]], expected[[1]]) < 0.999


@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_those_of_model2vec(tmp_path: Path, normalize: bool) -> None:
    check(save_model2vec(tmp_path / "m", normalize=normalize))
    source = resolve_encoder(str(tmp_path / "m"))
    assert source.modules == ("static_embedding", *["normalize"] * normalize)
    assert (source.pooling, source.max_length, source.capped_by) == ("mean", 512, "")


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_tables_of_fewer_bits_are_those_of_model2vec(tmp_path: Path, dtype: str) -> None:
    folder = save_model2vec(tmp_path / "m", table(dtype))
    vectors, expected = load_encoder(resolve_encoder(str(folder))).encode(TEXTS), reference(folder, TEXTS)
    assert cosines(vectors, expected).min() >= (EQUAL if dtype == "int8" else 1 - 1e-5), "theirs adds up in float16"


def test_a_small_table_that_tokens_share_is_put_together_again(tmp_path: Path) -> None:
    tokens = static_tokenizer().get_vocab_size()
    rng = np.random.default_rng(1)
    check(
        save_model2vec(
            tmp_path / "m", table(rows=4), weights=rng.uniform(0.5, 2, tokens).astype(np.float32),
            token_mapping=rng.integers(0, 4, tokens),
        )
    )  # fmt: skip


def test_a_tokenizer_of_pieces_of_words(tmp_path: Path) -> None:
    """Unigram names its unknown token only in its file."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace

    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁red", -1.0), ("▁la", -2.0), ("mp", -2.0), ("▁a", -1.5), ("b", -3.0)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = Metaspace()
    check(save_model2vec(tmp_path / "m", table(rows=len(pieces)), tokenizer), ["a red lamp", "lamp", "a bed", "äöü"])


@pytest.mark.parametrize("length", [3, None])
def test_the_length_of_the_model_is_its_limit(tmp_path: Path, length: int | None) -> None:
    folder = save_model2vec(tmp_path / "m", max_length=length)
    if length:
        check(folder)
        source = resolve_encoder(str(folder))
        assert (source.max_length, source.capped_by) == (3, "max_length in config.json")
    source = resolve_encoder(str(folder), max_length=2)
    [encoded] = load_encoder(source).encode_chunks([[*TEXTS[:3], LONG]])
    assert encoded.cut.tolist() == [True, False, True, True]
    np.testing.assert_allclose(encoded.vectors, reference(folder, [*TEXTS[:3], LONG], max_length=2), atol=1e-5)


def test_a_prompt_that_fills_the_length_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder, prompt = save_model2vec(tmp_path / "m"), "the lamp is red: "
    read = len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt, add_special_tokens=False).ids)
    load_encoder(resolve_encoder(str(folder), prompt=prompt, max_length=read + 1))
    with pytest.raises(
        ConfigError, match=rf"max_length is {read}, but m adds {read} tokens to every text .special toke"
    ):
        load_encoder(resolve_encoder(str(folder), prompt=prompt, max_length=read))
    with pytest.raises(ConfigError, match=r"max_length is 3 .by max_length in config.json., .* itself; shorten the pr"):
        load_encoder(resolve_encoder(str(save_model2vec(tmp_path / "short", max_length=3)), prompt=prompt))


@given(
    texts=st.lists(
        st.lists(st.sampled_from(["a", "red", "lamp", "bed", "unknown"]), max_size=9).map(" ".join), max_size=9
    )
)
@settings(max_examples=20)
def test_a_texts_vector_does_not_depend_on_the_others(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "shared-static"
    if not folder.exists():
        save_model2vec(folder)
    encoder = load_encoder(resolve_encoder(str(folder)))
    together = encoder.encode(texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-6)


def test_vectors_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    """If sentence-transformers wrote the folder, unknown tokens count, too."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the reference is not installed")
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    first = StaticEmbedding(static_tokenizer(), embedding_weights=table())
    folder = save(tmp_path / "m", [first, Normalize()], prompts={"query": "red ", "document": "bed "}, truncate_dim=7)
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    texts = [*TEXTS, UNKNOWN]
    for batch in (2, 100):
        static_block, static.BLOCK = static.BLOCK, batch
        source = resolve_encoder(str(folder), max_length=10_000)
        vectors = load_encoder(source).encode(texts)
        static.BLOCK = static_block
        assert vectors.shape == (len(texts), 7)
        assert cosines(vectors, model.encode_document(texts)).min() >= EQUAL
    queries = load_encoder(source.for_queries()).encode(texts)
    assert cosines(queries, model.encode_query(texts)).min() >= EQUAL


def test_a_table_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = save_model2vec(tmp_path / "m", normalize=True)
    expected = reference(folder, TEXTS)
    (folder / "0_StaticEmbedding").mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).rename(folder / "0_StaticEmbedding" / name)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = "0_StaticEmbedding"
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config.json").unlink()
    vectors = load_encoder(resolve_encoder(str(folder))).encode(TEXTS)
    assert cosines(vectors, expected).min() >= EQUAL


def test_a_folder_of_model2vec_without_modules_json_is_known_by_its_config(tmp_path: Path) -> None:
    folder = save_model2vec(tmp_path / "m", normalize=True, config={"model_type": "model2vec"})
    expected = load_encoder(resolve_encoder(str(folder))).encode(TEXTS)
    (folder / "modules.json").unlink()
    np.testing.assert_array_equal(load_encoder(resolve_encoder(str(folder))).encode(TEXTS), expected)


def test_what_a_static_encoder_cannot_do_is_refused(tmp_path: Path) -> None:
    folder = save_model2vec(tmp_path / "m")
    with pytest.raises(ConfigError, match="pooling is 'cls', but m always takes the mean of its token vectors"):
        resolve_encoder(str(folder), pooling="cls")
    with pytest.raises(ConfigError, match="dtype is bfloat16, but m only looks vectors up; leave dtype out"):
        load_encoder(resolve_encoder(str(folder), dtype="bfloat16"))
    with pytest.raises(ConfigError, match="truncate_dim is 13, but m makes vectors of width 12"):
        load_encoder(resolve_encoder(str(folder), truncate_dim=13))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = save_model2vec(tmp_path / "m")
    save_file({"embeddings": table()[:3]}, folder / "model.safetensors")
    with pytest.raises(UnknownEncoder, match="m has 3 token vectors for .* tokens; the files don't belong together"):
        load_encoder(resolve_encoder(str(folder)))
    save_file({"other": table()}, folder / "model.safetensors")
    with pytest.raises(UnknownEncoder, match="holds no token vectors"):
        load_encoder(resolve_encoder(str(folder)))
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UnknownEncoder, match="model.safetensors can't be read"):
        load_encoder(resolve_encoder(str(folder)))
