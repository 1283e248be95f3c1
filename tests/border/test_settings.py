"""An exception of RecBole becomes a one-line error with place and advice; errors of our own code stay unchanged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from comparisons import config_of, tiny_at

from blair_rec.border.settings import recbole_config, recbole_errors
from blair_rec.errors import ConfigError, RecBoleError
from blair_rec.experiment.fit import fit_variant
from blair_rec.experiment.splits.reading import training_data

from recbole.data.interaction import Interaction
from recbole.model.layers import MultiHeadAttention


def test_an_error_of_recbole_becomes_one_line_with_place_and_advice() -> None:
    expected = (
        r"^RecBole can't build it: ValueError: The hidden size \(8\) is not a multiple of .* heads \(3\) "
        r"\(recbole/model/layers.py, line \d+\); do this$"
    )
    with pytest.raises(RecBoleError, match=expected) as found, recbole_errors("build it", "do this"):
        MultiHeadAttention(3, 8, 0.0, 0.0, 1e-12)
    assert "\n" not in str(found.value) and isinstance(found.value.__cause__, ValueError)


def test_an_error_of_a_library_that_recbole_calls_becomes_one_line_too() -> None:
    wrong: Any = torch.zeros(2)
    with (
        pytest.raises(RecBoleError, match=r"can't cut: IndexError: .*recbole/data/interaction.py"),
        recbole_errors("cut", "x"),
    ):
        Interaction({"a": wrong})[torch.tensor([5])]


def test_errors_of_our_code_and_of_other_libraries_are_not_changed() -> None:
    with pytest.raises(ConfigError, match="ours"), recbole_errors("ask", "x"):
        raise ConfigError("ours")
    with pytest.raises(KeyError, match="neither"), recbole_errors("ask", "x"):
        raise KeyError("neither")
    with pytest.raises(TypeError, match="should be a str|expected str"), recbole_errors("ask", "x"):
        recbole_config("SASRec", None, {})  # type: ignore[arg-type]  (the last line before Python's is ours)
    with pytest.raises(KeyboardInterrupt), recbole_errors("ask", "x"):
        raise KeyboardInterrupt


def test_settings_that_recbole_refuses_are_reported_with_the_models_name() -> None:
    with pytest.raises(RecBoleError, match=r"RecBole can't take the settings of SASRec: ValueError: .*under `recbole`"):
        recbole_config("SASRec", "tiny", {"train_neg_sample_args": 3})


def test_a_model_that_recbole_can_not_build_is_an_error(tmp_path: Path) -> None:
    variants = {"id": {"items": "id", "recbole": {"n_heads": 3}}}
    config = config_of(tiny_at(tmp_path), "none", variants=variants)
    data = training_data(config, tmp_path / "tiny")
    expected = r"^RecBole can't build SASRec: ValueError: The hidden size \(8\) .*layers.py.*under `recbole`$"
    with pytest.raises(RecBoleError, match=expected):
        fit_variant(config, "id", 1, data, None)


def test_a_data_set_that_recbole_can_not_read_is_an_error(tmp_path: Path) -> None:
    recbole = {"val_interval": {"no_column": "[0,1]"}}
    config = config_of(tiny_at(tmp_path), "none", variants={"id": {"items": "id"}}, recbole=recbole)
    with pytest.raises(
        RecBoleError, match=r"^RecBole can't read data set .*tiny': .*dataset.py, line \d+\); look at its"
    ):
        training_data(config, tmp_path / "tiny")


def test_a_note_names_unread_settings_and_is_kept_with_the_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("blair_rec"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="blair_rec")  # RecBole leaves the root logger at the level of its last run
    config = config_of(tiny_at(tmp_path), "none", variants={"id": {"items": "id"}}, recbole={"gpu_id": 1, "mine": 2})
    data = training_data(config, tmp_path / "tiny")
    unread = "gpu_id (`device` chooses the GPU), mine"
    note = f"settings under `recbole` that nothing in this comparison uses: {unread}"
    assert data.unread == (note,) and note in caplog.messages
    clean = training_data(config_of(tmp_path / "tiny", "none", variants={"id": {"items": "id"}}), tmp_path / "tiny")
    assert clean.unread == ()
    assert torch.equal(clean.train.inter_feat["item_id"], data.train.inter_feat["item_id"])


def test_other_names_of_the_columns_reach_the_data_set(tmp_path: Path) -> None:
    tiny = tiny_at(tmp_path)
    usual = training_data(config_of(tiny, "none", variants={"id": {"items": "id"}}), tiny)
    for path in tiny.glob("tiny.i*"):
        title, rest = path.read_text("utf-8").split("\n", 1)
        title = title.replace("item_id:", "sku:").replace("user_id:", "who:").replace("timestamp:", "when:")
        path.write_text(f"{title}\n{rest}", "utf-8")
    fields = {"USER_ID_FIELD": "who", "ITEM_ID_FIELD": "sku", "TIME_FIELD": "when"}
    named = training_data(config_of(tiny, "none", variants={"id": {"items": "id"}}, recbole=fields), tiny)
    assert named.item_tokens == usual.item_tokens
    assert torch.equal(named.train.inter_feat["sku"], usual.train.inter_feat["item_id"])
