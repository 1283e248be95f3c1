"""Modules whose files are damaged are refused, and no code that a model names is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blair_rec.errors import UnknownEncoder
from blair_rec.text.encoding.layers import load_steps, pool
from blair_rec.text.encoding.modules import PooledStep


def dense(folder: Path, **config: str) -> PooledStep:
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": torch.eye(3, 4), "linear.bias": torch.ones(3)}, folder / "model.safetensors")
    return PooledStep("dense", folder)


@pytest.mark.parametrize("name", ["os.system", "torch.nn.functional.relu", "torch.nn.NoSuch", "torch.nn.init"])
def test_an_activation_is_one_of_torchs_or_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownEncoder, match=f"has the activation {name}, which torch lacks"):
        load_steps([dense(tmp_path, activation_function=name)], 4)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    step = dense(tmp_path)
    with pytest.raises(UnknownEncoder, match="takes vectors of width 4, not 5"):
        load_steps([step], 5)
    save_file({"other": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UnknownEncoder, match=r"lack linear\.weight"):
        load_steps([step], 4)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UnknownEncoder, match="holds no weights"):
        load_steps([step], 4)


def test_pickled_weights_are_read_where_there_are_no_others(tmp_path: Path) -> None:
    step = dense(tmp_path)
    expected, width = load_steps([step], 4)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"linear.weight": torch.eye(3, 4), "linear.bias": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    x = torch.randn(2, 4)
    torch.testing.assert_close(load_steps([step], 4)[0](x), expected(x))
    assert width == 3


@pytest.mark.parametrize("mode", ["max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_a_text_without_a_token_gets_zeros(mode: str) -> None:
    hidden, real = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [False, False, False]])
    pooled = pool(hidden, real, mode)
    assert pooled[0].abs().min() > 0 and (pooled[1] == 0).all()
