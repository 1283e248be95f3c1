"""Tuning of training-free scorers: their options are chosen on validation, by the same number of trials."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from comparisons import config_of
from encoders import build_roberta

from blair_rec.config.comparison import CompareConfig
from blair_rec.errors import ConfigError
from blair_rec.experiment.compare import compare
from blair_rec.experiment.tune import tune
from blair_rec.experiment.tuning.search_space import chosen, draw, grid_of
from blair_rec.experiment.tuning.trials import Trial

VARIANTS: dict[str, dict[str, Any]] = {
    "id": {"items": "id"},
    "rules": {"scorer": "sequential_rules", "options": {"target_power": 0.1}},
    "shared": {"scorer": "text_rules"},
    "popular": {"scorer": "popularity"},
}
POWERS = [0, 0.5, 1]
SPACE = {"options.source_power": POWERS, "options.neighbours": [1, 3]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


def to_tune(tiny: Path, encoder: Path, **tune: Any) -> CompareConfig:
    section = {"space": {"train.learning_rate": [0.01, 0.001]}, "scorer_space": SPACE, "budget": 2, **tune}
    return config_of(tiny, encoder, variants=VARIANTS, seeds=[1], train={"epochs": 1}, baseline="id", tune=section)


def test_each_scorer_gets_the_options_that_it_has(tiny: Path, encoder: Path) -> None:
    config = to_tune(tiny, encoder, text_space={"transforms": [["center"], ["l2"]], "train.learning_rate": [0.1]})
    assert grid_of(config, "rules") == {"options.source_power": POWERS}
    assert grid_of(config, "shared") == {"transforms": [["center"], ["l2"]], **SPACE}
    assert grid_of(config, "popular") == {} and grid_of(config, "id") == {"train.learning_rate": [0.01, 0.001]}
    assert [len(draw(config, name, grid_of(config, name))) for name in VARIANTS] == [2, 2, 2, 1]


def test_options_are_chosen_on_validation_and_the_others_stay(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    seen: list[Trial] = []
    config = to_tune(tiny, encoder, budget=3, space={"train.learning_rate": [0.01, 0.001, 0.1]})
    after = tune(config, tmp_path / "out", on_trial=seen.append)
    trials = {trial.settings["options.source_power"]: trial.value for trial in seen if trial.variant == "rules"}
    best = max(POWERS, key=lambda power: trials[power])
    options = dict(after.variants["rules"].options)
    assert sorted(trials) == POWERS and len(set(trials.values())) > 1
    assert trials[options["source_power"]] == trials[best] and options["target_power"] == 0.1
    assert after.variants["rules"].trials == after.variants["shared"].trials == 3
    assert chosen(after, "rules") == {"options.source_power": options["source_power"]}
    assert set(after.variants["shared"].options) == {"source_power", "neighbours"}
    compare(after.only(["rules"]), tmp_path / "compared")
    result = json.loads((tmp_path / "compared" / "runs" / "rules-1" / "result.json").read_text("utf-8"))
    assert result["valid"][after.evaluate.protocol][after.evaluate.metrics[0]] == trials[best]


def test_an_option_that_no_scorer_of_the_comparison_has_is_refused_with_the_closest_one(
    tiny: Path, encoder: Path, tmp_path: Path
) -> None:
    config = to_tune(tiny, encoder)
    kept = {name: variant for name, variant in config.variants.items() if variant.scorer != "text_rules"}
    assert any(variant.scorer == "sequential_rules" for variant in kept.values())
    expected = (
        "tune.scorer_space: no variant of this comparison uses options.source_text; did you mean "
        "'options.source_power'? correct it, or leave it out; options of its scorers: options.source_power, "
        "options.target_power"
    )
    space = {"options.source_power": [0, 1], "options.source_text": [0, 1]}
    changed = config.changed(variants=kept, tune=config.tune.changed(scorer_space=space))
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        tune(changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
