"""Pre-training: the loss against float64 loops, a world that can be learnt, and what happens when it is killed."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
)

from blair_rec.errors import ConfigError, FolderBusy, OutputError, PairsError, PretrainingError
from blair_rec.files.locks import alone_in
from blair_rec.files.writing import partial_of
from blair_rec.pretrain.batches import PairCollator
from blair_rec.pretrain.loss import contrastive_loss, same_pairs
from blair_rec.pretrain.model import PairModel, load_language_model
from blair_rec.pretrain.pairs import TextPair, TextPairs, open_pairs, split_pairs
from blair_rec.pretrain.retrieval import measures
from blair_rec.pretrain.settings import PretrainConfig, read_pretrain_config
from blair_rec.pretrain.train import pretrain
from blair_rec.pretrain.trainer import PairTrainer
from blair_rec.text.encoding.encoder import TextEncoder
from blair_rec.text.encoding.source import resolve_encoder

SLOTS, VALUES = 4, 5
"""Items of the world have four attributes of five values each; items and contexts name them in different words."""


def item_words(values: Sequence[int]) -> str:
    return " ".join(f"item{slot}x{value}" for slot, value in enumerate(values))


def context_words(values: Sequence[int], generator: np.random.Generator) -> str:
    words = [f"said{slot}x{value}" for slot, value in enumerate(values)]
    return " ".join(generator.permutation([*words, f"noise{generator.integers(5)}"]))


def build_encoder(folder: Path, *, seed: int = 0, width: int = 32, dropout: float = 0.0) -> Path:
    """A BERT whose vocabulary has the world's words, with random weights."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"noise{n}" for n in range(5))]
    words += [f"{kind}{slot}x{value}" for kind in ("item", "said") for slot in range(SLOTS) for value in range(VALUES)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names).save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1, "num_attention_heads": 2}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=16, initializer_range=0.2, **shape, **drop)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def write_world(path: Path, n_items: int, contexts: int, *, shuffled: bool = False, seed: int = 0) -> Path:
    """Pairs of the world: each item with its context; with `shuffled`, contexts go to random items."""
    generator = np.random.default_rng(seed)
    codes = generator.permutation(VALUES**SLOTS)[:n_items]
    items = [[code // VALUES**slot % VALUES for slot in range(SLOTS)] for code in codes for _ in range(contexts)]
    said = [context_words(values, generator) for values in items]
    if shuffled:
        said = [said[i] for i in generator.permutation(len(said))]
    rows = [f"{context}\t{item_words(values)}" for context, values in zip(said, items, strict=True)]
    path.write_text("\n".join(["review\tmeta", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


def small(pairs: Path, **settings: object) -> PretrainConfig:
    """A training of a few steps."""
    few = {"batch_size": 16, "max_steps": 4, "save_steps": 2, "max_length": 8, "learning_rate": 1e-3, "held_out": 0.2}
    return read_pretrain_config({"pairs": str(pairs), **few, **settings}, "test")


# The loss


def reference_loss(
    contexts: np.ndarray,
    items: np.ndarray,
    temperature: float,
    hard: np.ndarray | None,
    same: np.ndarray | None,
    same_hard: np.ndarray | None,
) -> float:
    """In float64, one context and one candidate after the other."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    losses = []
    for i, context in enumerate(contexts):
        candidates = [item for j, item in enumerate(items) if i == j or same is None or not same[i, j]]
        others = [] if hard is None else hard
        candidates += [item for j, item in enumerate(others) if same_hard is None or not same_hard[i, j]]
        total = sum(math.exp(cosine(context, candidate) / temperature) for candidate in candidates)
        losses.append(math.log(total) - cosine(context, items[i]) / temperature)
    return sum(losses) / len(losses)


@given(
    seed=st.integers(0, 1000),
    n=st.integers(2, 7),
    temperature=st.floats(0.05, 2),
    hard=st.booleans(),
    keys=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_contrastive_loss_is_that_of_plain_loops(
    seed: int, n: int, temperature: float, hard: bool, keys: bool
) -> None:
    generator = np.random.default_rng(seed)
    contexts, items, negatives = generator.standard_normal((3, n, 5))
    item_keys, context_keys, negative_keys = generator.integers(0, 4, (3, n))
    same_hard = item_keys[:, None] == negative_keys
    same = (item_keys[:, None] == item_keys) | (context_keys[:, None] == context_keys)
    ours = contrastive_loss(
        torch.from_numpy(contexts),
        torch.from_numpy(items),
        temperature,
        hard_negatives=torch.from_numpy(negatives) if hard else None,
        same=same_pairs(torch.from_numpy(item_keys), torch.from_numpy(context_keys)) if keys else None,
        same_hard=torch.from_numpy(same_hard) if keys else None,
    )
    masks = (same, same_hard) if keys else (None, None)
    expected = reference_loss(contexts, items, temperature, negatives if hard else None, *masks)
    assert ours.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def a_batch(encoder: Path, n: int = 6, *, hard: bool = False) -> tuple[PairCollator, list[TextPair]]:
    generator = np.random.default_rng(1)
    pairs = []
    for row in range(n):
        values, other = generator.integers(0, 2, (2, SLOTS))
        item = item_words(values)
        said = context_words(values, generator)
        wrong = item_words(other) if hard else None
        keys = [hash(text) >> 1 for text in (item, said)]
        pairs.append(TextPair(said, item, wrong, *keys, row, hash(wrong) >> 1 if wrong else -1))
    return PairCollator(AutoTokenizer.from_pretrained(encoder), 8, 0.3, seed=0), pairs


@pytest.mark.parametrize("hard", [False, True])
def test_a_batch_is_what_transformers_pads_and_masks(encoder: Path, hard: bool) -> None:
    collator, pairs = a_batch(encoder, n=9, hard=hard)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    texts = [text for pair in pairs for text in (pair.context, pair.item, pair.hard_negative) if text is not None]
    read = tokenizer(texts, truncation=True, max_length=8, padding=True, return_tensors="pt")
    masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    masking.generator = torch.Generator().manual_seed(collator._seed_of(pairs))
    words, labels = masking.torch_mask_tokens(read["input_ids"].clone())
    batch = collator(pairs)
    expected = {**read, "mlm_input_ids": words, "mlm_labels": labels}
    assert not read["attention_mask"].all() and (labels >= 0).any()
    for name in ("input_ids", "attention_mask", "mlm_input_ids", "mlm_labels"):
        torch.testing.assert_close(batch[name].flatten(0, 1), expected[name], rtol=0, atol=0)


def a_model(encoder: Path, pooling: str = "cls", **settings: object) -> PairModel:
    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = load_language_model(encoder, tokenizer, mlm=True)
    given: dict[str, object] = {"temperature": 0.05, "mlm_weight": 0.1, **settings}
    return PairModel(model, pooling, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("mlm_weight", [0.0, 0.1])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_whole_loss_is_contrast_plus_masked_words(
    encoder: Path, pooling: str, mlm_weight: float, hard: bool
) -> None:
    collator, pairs = a_batch(encoder, hard=hard)
    batch = collator(pairs)
    model = a_model(encoder, pooling, mlm_weight=mlm_weight).double().eval()
    assert (batch["mlm_labels"] >= 0).sum() > 3
    losses = model(**batch)
    with torch.no_grad():  # each text alone, without padding, through the parts of the model
        vectors = np.empty((*batch["input_ids"].shape[:2], model.language_model.config.hidden_size))
        words = []
        for at in np.ndindex(*batch["input_ids"].shape[:2]):
            length = int(batch["attention_mask"][at].sum())
            hidden = model.encoder(batch["input_ids"][at][None, :length]).last_hidden_state[0]
            pooled = hidden[0] if pooling == "cls" else hidden.mean(0)
            vectors[at] = model.head(pooled).numpy()
            scores = model.language_model(batch["mlm_input_ids"][at][None, :length]).logits[0].log_softmax(-1)
            labels = batch["mlm_labels"][at][:length]
            words += [-float(scores[place, label]) for place, label in enumerate(labels.tolist()) if label >= 0]
    same = np.array([[a.item == b.item or a.context == b.context for b in pairs] for a in pairs])
    assert same.sum() > len(pairs), "the batch has to hold an item twice"
    same_hard = np.array([[a.item == b.hard_negative for b in pairs] for a in pairs])
    assert same_hard.any() == hard, "the item of a pair has to be a hard negative of another"
    contrast = reference_loss(vectors[:, 0], vectors[:, 1], 0.05, vectors[:, 2] if hard else None, same, same_hard)
    assert losses["contrastive"].item() == pytest.approx(contrast, rel=1e-9)
    assert losses["loss"].item() == pytest.approx(contrast + mlm_weight * float(np.mean(words)), rel=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_chunks_give_the_loss_and_the_gradients_of_the_plain_step(encoder: Path, chunk_size: int) -> None:
    collator, pairs = a_batch(encoder)
    batch = collator(pairs)

    def step(chunk: int | None) -> tuple[float, dict[str, torch.Tensor]]:
        model = a_model(encoder, chunk_size=chunk).train()
        loss = model(**batch)["loss"]
        loss.backward()
        return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, plain_gradients = step(None)
    chunked, chunked_gradients = step(chunk_size)
    assert chunked == pytest.approx(plain, rel=1e-6)
    assert plain_gradients.keys() == chunked_gradients.keys() and len(plain_gradients) > 10
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_recomputed_chunks_drop_out_the_same(tmp_path: Path) -> None:
    """With dropout on, the gradient of chunks still is that of the loss they gave: checked by a small step along it."""
    folder = build_encoder(tmp_path / "encoder", dropout=0.3)
    collator, pairs = a_batch(folder)
    batch = collator(pairs)
    model = a_model(folder, chunk_size=2, temperature=1.0).double().train()

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        value: torch.Tensor = model(**batch)["loss"]
        return value

    before = loss()
    before.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    slope = sum(float(g.square().sum()) for g in gradients)
    step = 1e-6
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= step * parameter.grad
    assert (before - loss()).item() / step == pytest.approx(slope, rel=1e-3)


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from typing import Any
sys.path[:0] = {folders!r}
from test_pretrain import a_batch, a_model
encoder, out = Path({encoder!r}), Path({out!r})
dist.init_process_group("gloo")
collator, pairs = a_batch(encoder, 8)
batch = collator(pairs)
rank = dist.get_rank()
model = torch.nn.parallel.DistributedDataParallel(a_model(encoder).double().train())
half = slice(4 * rank, 4 * rank + 4)
losses = model(**{{name: tensor[half] for name, tensor in batch.items()}})
losses["loss"].backward()
mean = losses["loss"].detach().clone()
dist.all_reduce(mean)
if rank == 0:
    grads = {{name: p.grad for name, p in model.module.named_parameters() if p.grad is not None}}
    from safetensors.torch import save_file
    save_file({{**grads, "loss": mean / 2}}, str(out))
dist.destroy_process_group()
"""


def test_two_processes_have_the_loss_and_the_gradients_of_one(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "gradients.safetensors"
    script = tmp_path / "two.py"
    here = Path(__file__).parent
    folders = [str(here), str(here.parent / "helpers")]
    script.write_text(TWO_PROCESSES.format(folders=folders, encoder=str(encoder), out=str(out)), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    # Equal texts get equal keys in all processes only if Python hashes them the same way.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(out)
    collator, pairs = a_batch(encoder, 8)
    batch = collator(pairs)
    model = a_model(encoder).double().train()
    loss = model(**batch)["loss"]
    loss.backward()
    assert found.pop("loss").item() == pytest.approx(loss.item(), rel=1e-9)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


# Retrieval


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_recall_and_mrr_are_expectations_over_the_order_of_ties(data: st.DataObject) -> None:
    n, items, k = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 7)), data.draw(st.integers(1, 5))
    scores = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 2), min_size=items, max_size=items), min_size=n, max_size=n))
    )
    own = np.array(data.draw(st.lists(st.integers(0, items - 1), min_size=n, max_size=n)))
    relevant = np.arange(items) == own[:, None]
    generator = np.random.default_rng(0)
    recall, mrr, draws = 0.0, 0.0, 4000
    for case in range(n):
        noise = generator.random((draws, items))
        key = scores[case] + noise / 2  # a random order among equals
        rank = 1 + (key > key[:, own[case]][:, None]).sum(axis=1)
        recall += np.mean(rank <= k) / n
        mrr += np.mean(1 / rank) / n
    found = measures(scores.astype(float), relevant, k)
    assert found[f"recall@{k}"] == pytest.approx(recall, abs=0.06)
    assert found["mrr"] == pytest.approx(mrr, abs=0.06)


# Worlds


def test_held_out_contexts_find_their_items_after_training_and_not_before(encoder: Path, tmp_path: Path) -> None:
    pairs = write_world(tmp_path / "pairs.tsv", 400, 3)
    config = small(pairs, batch_size=64, max_steps=60, save_steps=1000, learning_rate=3e-3)
    record = pretrain(config, encoder, "mean", tmp_path / "trained")
    chance = 10 / record["before"]["items"]
    assert record["before"]["recall@10"] < 2.5 * chance < 0.4
    assert record["after"]["recall@10"] > 0.8


def test_nothing_is_learnt_from_shuffled_pairs(encoder: Path, tmp_path: Path) -> None:
    pairs = write_world(tmp_path / "pairs.tsv", 400, 3, shuffled=True)
    config = small(pairs, batch_size=64, max_steps=60, save_steps=1000, learning_rate=3e-3)
    record = pretrain(config, encoder, "mean", tmp_path / "trained")
    assert record["after"]["recall@10"] < 2 * 10 / record["after"]["items"]


@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=30),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_no_item_and_no_context_is_on_both_sides_of_the_split(
    rows: list[tuple[int, int]], share: float, seed: int
) -> None:
    item, context = np.array(rows).T
    pairs = TextPairs(lambda row: ("", "", None), np.arange(len(rows)), item, context, "")
    try:
        training, held_out = split_pairs(pairs, share, seed)
    except PairsError:  # too few items would be left
        return
    assert len(held_out) > 0 and training.n_items > 1
    assert not set(training.item_keys) & set(held_out.item_keys)
    assert not set(training.context_keys) & set(held_out.context_keys)


@pytest.mark.parametrize("item_id", [None, "item_id"])
def test_no_hard_negative_is_the_text_of_a_held_out_item(tmp_path: Path, item_id: str | None) -> None:
    path = tmp_path / "pairs.tsv"
    lines = [f"said {row}\ttext {row}\ttext {(7 * row + 3) % 40}\tid {row}" for row in range(30)]  # 30 to 39: of none
    path.write_text("\n".join(["review\tmeta\tother\titem_id", *lines]) + "\n", encoding="utf-8")
    training, held_out = split_pairs(open_pairs(path, "review", "meta", item_id, "other"), 0.3, seed=1)
    texts = {pair.item for pair in held_out}
    kept = {pair.row: pair for pair in training}
    assert len(texts) == 9
    for row in range(30):  # a row is trained on unless one of its texts is held out
        assert (row in kept) == (not texts & {f"text {row}", f"text {(7 * row + 3) % 40}"})


@given(rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_with_an_id_or_a_text_in_common_are_of_one_item(tmp_path: Path, rows: list[tuple[int, int]]) -> None:
    rows = [*rows, (8, 8), (9, 9)]
    lines = [f"said\ttext {text}\tid {number}" for number, text in rows]
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(["review\tmeta\titem_id", *lines]) + "\n", encoding="utf-8")
    item = list(range(len(rows)))
    for _ in rows:  # the smallest row that can be reached, step by step
        for a, b in itertools.product(range(len(rows)), repeat=2):
            if rows[a][0] == rows[b][0] or rows[a][1] == rows[b][1]:
                item[a] = item[b] = min(item[a], item[b])
    found = open_pairs(path, "review", "meta", item_id="item_id").item_keys
    np.testing.assert_array_equal(found[:, None] == found, np.equal.outer(item, item))


@pytest.mark.skipif("BLAIR_REC_DATA" not in os.environ, reason="BLAIR_REC_DATA names no folder of real data")
@pytest.mark.parametrize("item_id", [None, "item_id"])
def test_no_text_of_real_held_out_pairs_is_trained_on(item_id: str | None) -> None:
    path = Path(os.environ["BLAIR_REC_DATA"]) / "ReviewPairs" / "pairs.tsv"
    fields = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    training, held_out = split_pairs(open_pairs(path, "review", "meta", item_id), 0.25, seed=1)
    seen = {field for row in training.rows for field in fields[row]}
    secret = {field for row in held_out.rows for field in fields[row]}
    assert len(training) > 2_500 and len(held_out) > 500
    assert not seen & secret


# What it leaves


def test_the_result_is_a_plain_folder_that_the_text_side_reads(encoder: Path, tmp_path: Path) -> None:
    pairs = write_world(tmp_path / "pairs.tsv", 60, 2)
    out = tmp_path / "trained"
    pretrain(small(pairs), encoder, "mean", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.tsv", "trained"], "no checkpoints are left"
    assert {path.stat().st_mode for path in out.iterdir() if path.is_file()} == {pairs.stat().st_mode}, "as any file"
    trained, begun = AutoModel.from_pretrained(out), AutoModel.from_pretrained(encoder)
    assert not any("head" in name or "cls." in name for name in load_file(out / "model.safetensors"))
    moved = (trained.embeddings.word_embeddings.weight - begun.embeddings.word_embeddings.weight).abs().max()
    assert moved > 1e-4
    source = resolve_encoder(str(out), pooling="auto")
    assert source.pooling == "mean" and len(source.revision) == 16
    vectors = TextEncoder(source).encode(["item0x1 item1x2", "said0x1"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        hidden = trained.eval()(**tokenizer("item0x1 item1x2", return_tensors="pt")).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors[0], hidden.numpy(), atol=1e-5)


def test_what_is_read_of_a_text_is_no_more_than_before(tmp_path: Path) -> None:
    folder = build_encoder(tmp_path / "encoder")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 11}', encoding="utf-8")
    pretrain(small(write_world(tmp_path / "pairs.tsv", 60, 2)), folder, "mean", tmp_path / "trained")
    assert (
        resolve_encoder(str(tmp_path / "trained")).max_length == resolve_encoder(str(folder), pooling="mean").max_length
    )
    assert resolve_encoder(str(tmp_path / "trained")).max_length == 11


def test_a_killed_training_goes_on_to_the_same_weights(encoder: Path, tmp_path: Path) -> None:
    folder = build_encoder(tmp_path / "encoder", dropout=0.1)
    pairs = write_world(tmp_path / "pairs.tsv", 200, 3)
    config = {"pairs": str(pairs), "encoder": str(folder), "pooling": "cls", "batch_size": 16, "max_length": 8}
    config |= {"max_steps": 60, "save_steps": 10, "learning_rate": 1e-3}
    path = tmp_path / "pretrain.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "blair_rec.cli", "pretrain", str(path), "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    work = tmp_path / ".killed.training"
    end = time.monotonic() + 60
    while not (work / "checkpoint-20").is_dir() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists() and list(work.glob("checkpoint-*"))
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", out))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not work.exists()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_train_the_same_encoder(encoder: Path, tmp_path: Path) -> None:
    pairs = write_world(tmp_path / "pairs.tsv", 60, 2)
    stats = torch._dynamo.utils.counters["stats"]
    graphs = [stats["unique_graphs"]]
    records = [
        pretrain(
            small(pairs, compile=compiled), encoder, "cls", tmp_path / str(compiled),
            progress=lambda *_: graphs.append(stats["unique_graphs"]),
        )
        for compiled in (False, True)
    ]  # fmt: skip
    assert graphs[-1] > graphs[0], "something was compiled"
    assert stats["unique_graphs"] == graphs[-1], "nothing is compiled to measure the held-out pairs"
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("False", "True")]
    assert weights[0].keys() == weights[1].keys()
    # Biases of keys have no gradient but rounding, which Adam scales up; they don't change a vector.
    texts = ["item0x1 item1x2", "said0x1 noise3"]
    plain, compiled = (TextEncoder(resolve_encoder(str(tmp_path / str(way)))).encode(texts) for way in (False, True))
    np.testing.assert_allclose(plain, compiled, atol=2e-4)
    start = TextEncoder(resolve_encoder(str(encoder), pooling="cls")).encode(texts)
    assert np.abs(plain - start).max() > 0.01, "the bound is far below what training changes"
    assert records[1]["config"]["compile"] and records[0]["before"] == records[1]["before"]


def test_a_machine_that_cannot_compile_is_an_error(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    pairs = write_world(tmp_path / "pairs.tsv", 60, 2)
    with pytest.raises(
        PretrainingError, match=r"can't compile .* \(.*no-such-compiler.*\); .* or set `compile: false`"
    ):
        pretrain(small(pairs, compile=True), encoder, "cls", tmp_path / "out")
    pretrain(small(pairs), encoder, "cls", tmp_path / "out")  # nothing stands in the way of a training without it


# Bad input


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "review\tmeta\nnice\t\nnice\titem a\n \titem b\n",
            r"2 of 3 pairs have an empty review or meta \(row 1, row 3\)",
        ),
        ("review\tmeta\nnice\titem a\ngood\titem a\n", "2 pairs of 1 item; contrast needs at least two"),
        (
            "review\ttext\nnice\titem a\n",
            "no column 'meta'; columns: review, text; the keys context, item, item_id and",
        ),
        ("review\tmeta\nnice\n", "a row has 1 column, the header 2"),
    ],
)
def test_a_file_that_nothing_can_be_learnt_from_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PairsError, match=message):
        open_pairs(path, "review", "meta")


def test_a_hard_negative_that_is_the_item_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    rows = ["one\titem a\titem a\t1", "two\titem b\titem a\t2", "three\titem a, red\titem a\t1"]
    path.write_text("\n".join(["review\tmeta\twrong\tid", *rows]), encoding="utf-8")
    with pytest.raises(PairsError, match=r"1 of 3 pairs has the pair's own item as wrong \(row 1\)"):
        open_pairs(path, "review", "meta", hard_negative="wrong")
    with pytest.raises(PairsError, match=r"2 of 3 pairs have the pair's own item as wrong \(row 1, row 3\)"):
        open_pairs(path, "review", "meta", item_id="id", hard_negative="wrong")


def test_two_texts_of_one_column_are_an_error(tmp_path: Path) -> None:
    for names in ({"context": "meta"}, {"hard_negative": "meta"}, {"hard_negative": "review"}):
        with pytest.raises(PairsError, match="give each text a column of its own"):
            open_pairs(tmp_path / "none.tsv", **{"context": "review", "item": "meta", **names})


def test_a_file_that_is_no_utf8_or_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"review\tmeta\nnice\t\xff\xfe\n")
    with pytest.raises(PairsError, match="not UTF-8"):
        open_pairs(path, "review", "meta")
    with pytest.raises(PairsError, match="no such file"):
        open_pairs(tmp_path / "none.tsv", "review", "meta")


def test_json_lines_read_as_the_same_pairs(tmp_path: Path) -> None:
    rows = [("said \tone", "item a", "1"), ("said two", "item b", "2")]
    lines = [json.dumps({"said": said, "about": item, "id": number}) for said, item, number in rows]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = open_pairs(path, "said", "about", item_id="id")
    assert [(pair.context, pair.item) for pair in pairs] == [(said, item) for said, item, _ in rows]
    assert pairs.n_items == 2
    path.write_text("{broken\n", encoding="utf-8")
    with pytest.raises(PairsError, match="line 1: broken JSON"):
        open_pairs(path, "said", "about")


def test_a_loss_that_is_not_a_number_is_named_at_once(encoder: Path, tmp_path: Path) -> None:
    pairs, broken = write_world(tmp_path / "pairs.tsv", 60, 2), encoder_without_numbers(encoder, tmp_path)
    with pytest.raises(PretrainingError, match=r"the loss is nan at step 1; lower learning_rate"):
        pretrain(small(pairs, held_out=0), broken, "mean", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_vectors_that_are_not_numbers_are_no_perfect_retrieval(encoder: Path, tmp_path: Path) -> None:
    """A comparison with nan is false, so no other item would score above the right one."""
    pairs, broken = write_world(tmp_path / "pairs.tsv", 60, 2), encoder_without_numbers(encoder, tmp_path)
    said = r"36 of 36 held-out texts have vectors that are not finite; lower learning_rate, or choose another encoder"
    with pytest.raises(PretrainingError, match=said):
        pretrain(small(pairs), broken, "mean", tmp_path / "out")


def encoder_without_numbers(encoder: Path, tmp_path: Path) -> Path:
    """A copy of the encoder whose word vectors are nan."""
    folder = Path(shutil.copytree(encoder, tmp_path / "broken"))
    model = BertForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 1e-300}, r"temperature is 1e-300; it has to be at least 1e-06"),
        ({"mlm_weight": 1e38}, r"mlm_weight is 1e\+38; it has to be at most 1,000,000"),
        ({"learning_rate": 1e38}, r"learning_rate is 1e\+38; it has to be at most 1,000"),
        ({"weight_decay": 1e300}, r"weight_decay is 1e\+300; it has to be at most 1,000,000"),
        (
            {"learning_rate": 0.001, "weight_decay": 2000},
            r"learning_rate \* weight_decay is 2, so no weight would be kept; lower weight_decay below 1000",
        ),
        ({"item_id": ""}, r"item_id is ''; give a value, or leave it out"),
        ({"encoder": ""}, r"encoder is ''; give a value, or leave it out"),
        ({"seed": -1}, r"seed is -1; it has to be at least 0"),
        ({"seed": 2**32}, r"seed is 4294967296; it has to be at most 4,294,967,295"),
        ({"chunk_size": 10**30}, r"chunk_size is 10+; it has to be at most 1,000,000,000"),
        ({"max_length": 10**30}, r"max_length is 10+; it has to be at most 1,000,000,000"),
    ],
)
def test_settings_that_no_training_survives_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small(Path("pairs.tsv"), **settings)


def test_a_length_without_room_for_text_is_an_error_before_the_pairs_are_read(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_length is 2, but .* adds 2 tokens to every text .special tokens."):
        pretrain(small(tmp_path / "missing.csv", max_length=2), encoder, "cls", tmp_path / "out")


def test_texts_are_cut_at_the_encoders_own_limit(encoder: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    rows = [f"said0x1 said1x{n % 5}\t" + f"item0x{n % 5} item1x{n // 5} " * 20 for n in range(25)]
    pairs.write_text("\n".join(["review\tmeta", *rows]), encoding="utf-8")
    longest = AutoModel.from_pretrained(encoder).config.max_position_embeddings
    outs = [tmp_path / str(length) for length in (longest, 4 * longest)]
    for out in outs:
        pretrain(small(pairs, max_length=int(out.name), batch_size=4), encoder, "mean", out)
    first, second = (load_file(out / "model.safetensors") for out in outs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_precision_that_a_cpu_would_ignore_is_an_error(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision is float16, which needs a GPU; on a CPU use bfloat16 or float32"):
        pretrain(small(tmp_path / "none.tsv", precision="float16", device="cpu"), encoder, "mean", tmp_path / "out")


@pytest.mark.parametrize(("steps", "recorded"), [(1, [1]), (10, [10]), (12, [10, 12])])
def test_the_record_has_a_loss_of_every_ten_steps_and_of_the_last_ones(
    encoder: Path, tmp_path: Path, steps: int, recorded: list[int]
) -> None:
    told: list[float] = []
    config = small(write_world(tmp_path / "pairs.tsv", 60, 2), max_steps=steps, mlm_weight=0, save_steps=100)
    record = pretrain(config, encoder, "mean", tmp_path / "out", progress=lambda done, total, loss: told.append(loss))
    assert [line["step"] for line in record["losses"]] == recorded
    last = told[recorded[-2] if len(recorded) > 1 else 0 :]
    assert record["losses"][-1]["loss"] == pytest.approx(np.mean(last), rel=1e-3)
    assert json.loads((tmp_path / "out" / "pretraining.json").read_text("utf-8"))["losses"] == record["losses"]


def test_the_learning_curves_are_kept_with_the_encoder(encoder: Path, tmp_path: Path) -> None:
    pairs, out = write_world(tmp_path / "pairs.tsv", 60, 2), tmp_path / "out"
    for fresh in (False, True):
        pretrain(small(pairs, tensorboard=True), encoder, "mean", out, fresh=fresh)
        [events] = (out / "tensorboard").iterdir()
        assert b"train/loss" in events.read_bytes()


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_the_training_resumes(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, out = write_world(tmp_path / "pairs.tsv", 60, 2), tmp_path / "out"
    save, tries = PairTrainer._save, []

    def full_at_second(*given: object) -> None:
        tries.append(given)
        if len(tries) == 2:
            raise SafetensorError("I/O error: No space left on device")
        save(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(PairTrainer, "_save", full_at_second)
    with pytest.raises(OutputError, match=r"can't be written into .*No space left on device.*; free some space"):
        pretrain(small(pairs), encoder, "mean", out)
    seen: list[int] = []
    pretrain(small(pairs), encoder, "mean", out, progress=lambda step, *_: seen.append(step))
    assert seen == [3, 4]


def test_a_place_that_cannot_be_written_is_an_error_before_training(encoder: Path, tmp_path: Path) -> None:
    pairs = write_world(tmp_path / "pairs.tsv", 60, 2)
    (tmp_path / "loop").symlink_to("loop")
    for name in ("loop", "x" * 240, "x" * 300):
        with pytest.raises(OutputError, match="can't be used .*; choose another place"):
            pretrain(small(pairs), encoder, "mean", tmp_path / name)


def test_a_tokenizer_of_another_model_is_an_error(encoder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.add_tokens(["onemore"])
    with pytest.raises(PretrainingError, match="has 51 words, the model 50: they do not belong together"):
        load_language_model(encoder, tokenizer, mlm=True)


def test_what_would_be_lost_or_mixed_is_an_error(encoder: Path, tmp_path: Path) -> None:
    pairs = write_world(tmp_path / "pairs.tsv", 60, 2)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(OutputError, match="is there already"):
        pretrain(small(pairs), encoder, "mean", out)
    out.rmdir()
    with pytest.raises(PretrainingError, match="less than one batch of 4096"):
        pretrain(small(pairs, batch_size=4096), encoder, "mean", out)
    work = tmp_path / ".out.training"
    (work / "checkpoint-3").mkdir(parents=True)
    (work / "checkpoint-3" / "whole").touch()
    (work / "identity.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        PretrainingError, match="holds checkpoints of a training that used different settings .*temperature"
    ):
        pretrain(small(pairs), encoder, "mean", out)


def test_fresh_replaces_what_a_pretraining_wrote_and_nothing_else(encoder: Path, tmp_path: Path) -> None:
    pairs, out = write_world(tmp_path / "pairs.tsv", 60, 2), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"holds 1 file that this command did not write \(first: thesis.txt\)"):
        pretrain(small(pairs), encoder, "mean", out, fresh=True)
    assert (out / "thesis.txt").read_text(encoding="utf-8") == "mine"
    (out / "thesis.txt").rename(tmp_path / "thesis.txt")
    pretrain(small(pairs), encoder, "mean", out, fresh=True)
    first = load_file(out / "model.safetensors")
    pretrain(small(pairs, seed=2), encoder, "mean", out, fresh=True)
    again = load_file(out / "model.safetensors")
    assert not all(torch.equal(first[name], again[name]) for name in first)
    (tmp_path / "thesis.txt").rename(out / "thesis.txt")
    with pytest.raises(OutputError, match=r"holds 1 file that this command did not write \(first: thesis.txt\)"):
        pretrain(small(pairs), encoder, "mean", out, fresh=True)
    assert (out / "thesis.txt").is_file() and load_file(out / "model.safetensors").keys() == again.keys()
    record = (out / "pretraining.json").read_text(encoding="utf-8")
    (out / "pretraining.json").write_text('{"files": ["*"]}', encoding="utf-8")
    with pytest.raises(OutputError, match="files that this command did not write"):
        pretrain(small(pairs), encoder, "mean", out, fresh=True)
    (out / "pretraining.json").write_text(record, encoding="utf-8")
    (out / "thesis.txt").rename(out / "1_Pooling" / "thesis.txt")
    with pytest.raises(
        OutputError, match=r"holds 1 file that this command did not write \(first: 1_Pooling/thesis.txt\)"
    ):
        pretrain(small(pairs), encoder, "mean", out, fresh=True)
    (out / "1_Pooling" / "thesis.txt").unlink()
    work = tmp_path / ".out.training"
    (work / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(OutputError, match="holds checkpoint-1 but no .lock or identity.json"):
        pretrain(small(pairs), encoder, "mean", out, fresh=True)
    assert (work / "checkpoint-1").is_dir()


def test_an_encoder_that_an_earlier_version_wrote_is_kept_and_the_reason_given(encoder: Path, tmp_path: Path) -> None:
    pairs, out = write_world(tmp_path / "pairs.tsv", 60, 2), tmp_path / "out"
    out.mkdir()
    (out / "pretraining.json").write_text('{"pairs_sha256": "0"}', encoding="utf-8")
    (out / "model.safetensors").touch()
    with pytest.raises(
        OutputError, match="an earlier version of blair_rec trained the encoder .*remove this one yourself"
    ):
        pretrain(small(pairs), encoder, "mean", out, fresh=True)
    assert (out / "model.safetensors").is_file()


def test_two_trainings_of_one_folder_never_meet(encoder: Path, tmp_path: Path) -> None:
    pairs, out = write_world(tmp_path / "pairs.tsv", 60, 2), tmp_path / "out"
    half = partial_of(out)
    with alone_in(tmp_path / ".out.training"):
        half.mkdir()
        with pytest.raises(FolderBusy, match="writing the encoder .*out; wait until it has finished"):
            pretrain(small(pairs), encoder, "mean", out)
        assert half.is_dir(), "what the other one writes stays"
    (tmp_path / ".out.training" / "identity.json").write_text("{}", encoding="utf-8")  # killed before a checkpoint
    pretrain(small(pairs), encoder, "mean", out)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_invalid_settings_are_errors() -> None:
    with pytest.raises(ConfigError, match="temprature: unknown key; did you mean temperature"):
        read_pretrain_config({"pairs": "p.tsv", "temprature": 1}, "cfg")
    with pytest.raises(ConfigError, match="batch_size is 1"):
        read_pretrain_config({"pairs": "p.tsv", "batch_size": 1}, "cfg")
    with pytest.raises(ConfigError, match="seed is -1; it has to be at least 0"):
        read_pretrain_config({"pairs": "p.tsv", "seed": -1}, "cfg")
    with pytest.raises(ConfigError, match="held_out is 1"):
        read_pretrain_config({"pairs": "p.tsv", "held_out": 1}, "cfg")
