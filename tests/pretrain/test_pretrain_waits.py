"""A step of pre-training asks no tensor for a number, so the program doesn't wait for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pretrain import a_batch, a_model, build_encoder, small, write_world
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from blair_rec.pretrain.model import attention_of
from blair_rec.pretrain.train import pretrain
from blair_rec.pretrain.trainer import PairTrainer

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.is_nonzero}
"""Operations whose result, or its size, the program has to read."""
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
KINDS = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL, pad_token_id=1),
    "xlm-roberta": XLMRobertaConfig(**SMALL, pad_token_id=1),
    "mpnet": MPNetConfig(**SMALL, pad_token_id=1),
    "distilbert": DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=50),
    "modernbert": ModernBertConfig(**SMALL, pad_token_id=1, local_attention=4),
}


class Waits(TorchDispatchMode):
    """Notes the operations that would make the program wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in WAITING:
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [{}, {"chunk_size": 5}, {"mlm_weight": 0.0}, {"max_length": 6}], ids=str)
def test_no_step_of_the_trainer_waits(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Waits()
    steps: list[str] = []
    step: Callable[..., Tensor] = PairTrainer.training_step
    clip: Callable[..., Any] = PairTrainer._clip_grad_norm

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            steps.append(function.__name__)
            with waits:
                return function(*args, **kwargs)

        return run

    monkeypatch.setattr(PairTrainer, "_looks_at", lambda self, step: False)  # as on a GPU, between two looks
    monkeypatch.setattr(PairTrainer, "training_step", watched(step))
    monkeypatch.setattr(PairTrainer, "_clip_grad_norm", watched(clip))
    pairs = write_world(tmp_path / "world.tsv", 30, 3)
    pretrain(small(pairs, **settings), build_encoder(tmp_path / "encoder"), "cls", tmp_path / "out")
    assert steps.count("training_step") == steps.count("_clip_grad_norm") == 4
    assert waits.seen == []


def test_what_waits_is_seen() -> None:
    with Waits() as waits:
        assert torch.ones(3).all()
        torch.ones(3).nonzero()
        torch.ones(3).sum().item()
    assert len(waits.seen) == 3


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("max_length", [3, 8])
def test_a_step_needs_no_number_and_no_other_device(tmp_path: Path, max_length: int, hard: bool) -> None:
    """On the device meta a tensor has no numbers, and arithmetic with a tensor of the CPU fails."""
    folder = build_encoder(tmp_path / "encoder")
    collator, pairs = a_batch(folder, hard=hard)
    batch = type(collator)(collator.tokenizer, max_length, 0.3, 0)(pairs)
    lengths = batch["lengths"]
    assert (lengths == 3).all() if max_length == 3 else (lengths < lengths.max()).any(), "without and with padding"
    model = a_model(folder).to("meta").train()
    loss = model(**{name: one.to("meta") if isinstance(one, Tensor) else one for name, one in batch.items()})["loss"]
    loss.backward()
    assert loss.device.type == "meta"


@pytest.mark.parametrize("max_length", [3, 8])
def test_texts_without_padding_have_no_mask_so_that_the_fastest_attention_takes_them(
    tmp_path: Path, max_length: int
) -> None:
    folder = build_encoder(tmp_path / "encoder")
    collator, pairs = a_batch(folder)
    model, masks = a_model(folder), []
    model.encoder.register_forward_pre_hook(
        lambda module, args, given: masks.append(given["attention_mask"]), with_kwargs=True
    )
    model(**type(collator)(collator.tokenizer, max_length, 0.3, 0)(pairs))
    assert [mask is None for mask in masks] == [max_length == 3] * 2, "the texts, and those with masked words"


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_hides_the_padding_as_that_of_transformers_does(kind: str) -> None:
    config: PretrainedConfig = KINDS[kind]
    torch.manual_seed(0)
    model = AutoModel.from_config(config).double().eval()
    lengths = torch.tensor([9, 2, 5, 9])
    mask = (torch.arange(9) < lengths.unsqueeze(1)).long()
    ids = torch.randint(5, 50, mask.shape).where(mask.bool(), torch.tensor(config.pad_token_id or 0))
    with torch.no_grad():
        for rows, padded in ((slice(None), True), (slice(None, None, 3), False)):
            ours = model(ids[rows], attention_mask=attention_of(model.config, mask[rows], padded)).last_hidden_state
            theirs = model(ids[rows], attention_mask=mask[rows]).last_hidden_state
            torch.testing.assert_close(ours[mask[rows].bool()], theirs[mask[rows].bool()], rtol=0, atol=1e-12)
