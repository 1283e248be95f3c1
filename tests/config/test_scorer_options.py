"""Options of our training-free scorers in a comparison file: checked by name, type and limit."""

from __future__ import annotations

from typing import Any

import pytest

from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.config.options.scorers import OPTIONS, options_of
from blair_rec.config.variant import VariantConfig
from blair_rec.errors import ConfigError
from blair_rec.registry import BUILT_IN


@pytest.mark.parametrize(
    "variant, message",
    [
        (
            {"scorer": "sequential_rules", "options": {"source_powr": 1}},
            r"options.source_powr: unknown key; did you mean source_power\? "
            r"\(options of sequential_rules: source_power, target_power\)",
        ),
        (
            {"scorer": "sequential_rules", "options": {"source_power": "half"}},
            r"options.source_power is 'half'; expected a number \(options of sequential_rules: ",
        ),
        (
            {"scorer": "sequential_rules", "options": {"target_power": -1}},
            r"target_power is -1; it has to be at le",
        ),
        ({"scorer": "sequential_rules", "options": {3: 1}}, r"options.3: a key has to be text"),
        (
            {"scorer": "text_rules", "options": {"neighbours": 2.5}},
            r"options.neighbours is 2.5; expected a whole n",
        ),
        (
            {"scorer": "text_rules", "options": {"source_text": 1e-40}},
            r"source_text is 1e-40, too small to change a score; set 0, or at least 1e-06 \(options of text_rules",
        ),
        (
            {"scorer": "text_rules", "options": {"target_text": 8e37}},
            r"target_text is 8e.37; it has to be at most 1,000 ",
        ),
        (
            {"scorer": "text_rules", "options": {"source_power": 1e308}},
            r"source_power is 1e.308; it has to be at most 2",
        ),
        (
            {"scorer": "sequential_rules", "options": {"target_power": float("nan")}},
            r"target_power is nan; expected a fi",
        ),
        ({"scorer": "markov", "options": {"a": 1}}, r"options is {'a': 1}, but scorer: markov has no options; leave"),
        (
            {"items": "text", "options": {"a": 1}},
            r"options are for scorers and for parts of other packages; items: text",
        ),
    ],
)
def test_a_wrong_option_is_refused_with_those_that_exist(variant: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VariantConfig(**variant)


def test_all_wrong_options_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        VariantConfig(scorer="text_rules", options={"neighbours": 0, "source_text": -1})
    assert len(str(caught.value).splitlines()) == 2


def test_options_are_kept_as_they_are_given() -> None:
    variant = VariantConfig(scorer="sequential_rules", options={"source_power": 1})
    assert dict(variant.options) == {"source_power": 1} and isinstance(variant.options["source_power"], int)


def test_options_belong_to_scorers_of_the_registry() -> None:
    assert set(OPTIONS) <= set(BUILT_IN["scorers"])
    assert options_of("sequential_rules") == ("source_power", "target_power") and options_of("markov") == ()
    assert options_of("some:Other") == ()


def tuned(space: dict[str, Any]) -> CompareConfig:
    return read_config({"dataset": "d", "variants": {"id": {}}, "tune": {"scorer_space": space}})


@pytest.mark.parametrize(
    "space, message",
    [
        (
            {"options.source_powr": [1]},
            r"scorer_space: a key is 'options.source_powr'; did you mean 'options.source_",
        ),
        ({"transforms": [["center"]]}, r"scorer_space: a key is 'transforms'"),
        ({"options.source_power": 1}, r"scorer_space: options.source_power is 1; expected a list of values"),
    ],
)
def test_a_grid_of_options_that_can_not_be_meant_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tuned(space)
