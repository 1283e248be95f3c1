"""Recommender.recommend: whatever holds histories, items allowed and denied, items that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from comparisons import config_of, tiny_at

import blair_rec
from blair_rec.errors import BlairRecError, ConfigError, SourceError, UnknownItems
from blair_rec.experiment.compare import compare
from blair_rec.serve.recommender import PopularItem, Recommender

HISTORIES = [["i01", "i02"], ["i03"], ["i05", "i01", "i77"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells histories apart."""
    folder = tmp_path_factory.mktemp("done")
    variants = {"rules": {"scorer": "sequential_rules"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        compare(config_of(tiny_at(folder), "none", variants=variants, baseline="rules", seeds=[1]), folder / "out")
    return folder / "out" / "runs" / "rules-1"


@pytest.fixture(scope="module")
def model(run: Path) -> Recommender:
    return blair_rec.load(run)


def generated() -> Iterator[Iterator[str]]:
    for history in HISTORIES:
        yield iter(history)


def test_any_iterable_gives_what_lists_give(model: Recommender) -> None:
    expected = model.recommend(HISTORIES, 5)
    assert model.recommend(generated(), 5) == expected
    assert model.recommend(tuple(map(tuple, HISTORIES)), 5) == expected
    assert model.recommend([np.array(history) for history in HISTORIES], 5) == expected
    assert model.recommend([pd.Series(history) for history in HISTORIES], 5) == expected
    assert model.recommend(np.array(HISTORIES, dtype=object), 5) == expected
    assert model.recommend(np.array([["i01", "i02"], ["i03", "i04"]]), 5) == model.recommend(
        [["i01", "i02"], ["i03", "i04"]], 5
    )


def test_mappings_and_frames_give_a_dict_by_user(model: Recommender) -> None:
    users = ["b", "a", "c"]
    expected = dict(zip(users, model.recommend(HISTORIES, 5), strict=True))
    assert model.recommend(dict(zip(users, HISTORIES, strict=True)), 5) == expected
    events = {
        "user_id": ["b", "a", "c", "b", "c", "c"],
        "item_id": ["i02", "i03", "i77", "i01", "i01", "i05"],
        "timestamp": [2, 0, 9, 1, 8, 7],
    }
    lists = {"user_id": users, "history": HISTORIES}
    frames: list[Any] = [pd.DataFrame(events), pl.DataFrame(events), pd.DataFrame(lists), pl.DataFrame(lists)]
    dated = pd.DataFrame(events).assign(timestamp=lambda frame: pd.to_datetime(frame["timestamp"], unit="D"))
    frames += [frame.rename(columns={"history": "item_id"}) for frame in frames[2:3]]
    for frame in [*frames, dated, pl.from_pandas(dated)]:
        found = model.recommend(frame, 5)
        assert found == expected and list(found) == users


def test_events_of_a_frame_without_times_stay_in_their_order(model: Recommender) -> None:
    frame = pd.DataFrame({"user_id": ["a", "a"], "item_id": ["i02", "i01"]})
    assert model.recommend(frame, 5) == {"a": model.recommend([["i02", "i01"]], 5)[0]}
    assert model.recommend(frame.head(0), 5) == {}


@pytest.mark.parametrize(
    "frame, message",
    [
        (pd.DataFrame({"user": ["a"], "item_id": ["i01"]}), "the frame: 1 of 2 columns is unknown .user.; did"),
        (pd.DataFrame({"user_id": ["a", None], "item_id": ["i01", "i02"]}), "line 2: user_id is empty"),
        (pd.DataFrame({"user_id": ["a", "b"], "item_id": ["i01", 2]}), "line 2: item_id is a number here and text in"),
        (pd.DataFrame({"user_id": [1.5], "item_id": ["i01"]}), "line 1: user_id is '1.5', a float; ids are text"),
        (
            pd.DataFrame({"user_id": ["a", "a"], "item_id": ["i01", "i02"], "timestamp": [1, None]}),
            "line 2: timestamp is 'None'; expected a number or a date",
        ),
    ],
)  # fmt: skip
def test_frames_that_can_not_be_meant_are_told(model: Recommender, frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        model.recommend(frame)


def test_allowed_and_denied_items(model: Recommender) -> None:
    everything = model.recommend(HISTORIES, 70)
    allow, deny = [f"i{n:02}" for n in range(1, 41)], ["i10", "i20", "i30"]
    for expected, found in zip(everything, model.recommend(HISTORIES, 10, allow=iter(allow)), strict=True):
        assert found == [one for one in expected if one.item_token in allow][:10]
    for expected, found in zip(everything, model.recommend(HISTORIES, 10, deny=set(deny)), strict=True):
        assert found == [one for one in expected if one.item_token not in deny][:10]
    for expected, found in zip(everything, model.recommend(HISTORIES, 10, allow=allow, deny=deny), strict=True):
        assert found == [one for one in expected if one.item_token in allow and one.item_token not in deny][:10]


def test_unknown_items_are_skipped_when_that_is_asked_for(model: Recommender) -> None:
    with_unknown = [["i01", "new", "i02"], ["new"], []]
    with pytest.raises(ConfigError, match="1 of 3 histories is empty"):
        model.recommend(with_unknown)
    with pytest.raises(UnknownItems, match="the model doesn't have 2 of 4 item tokens .first: new, new.*skip"):
        model.recommend(with_unknown[:2])
    first, second, third = model.recommend(with_unknown, 4, unknown="skip", deny=["new"])
    assert first == model.recommend([["i01", "i02"]], 4)[0] and not any(one.by_popularity for one in first)
    assert second == third and all(isinstance(one, PopularItem) and one.by_popularity for one in second)


def test_the_most_popular_items_are_those_with_most_training_events(model: Recommender, run: Path) -> None:
    tokens = json.loads((run / "items.json").read_text())
    with np.load(run / "histories.npz") as arrays:
        counts = dict(zip(tokens, arrays["item_counts"].tolist(), strict=True))
    expected = sorted(tokens[1:], key=lambda token: (-counts[token], tokens.index(token)))
    [found] = model.recommend([["new"]], 6, unknown="skip", deny=expected[:1])
    assert [tuple(one) for one in found] == [(token, counts[token]) for token in expected[1:7]]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"allow": "i01"}, ConfigError, r"allow is a string; give several item tokens, such as \['i01'\]"),
        ({"deny": [1]}, ConfigError, "deny: item tokens are text, but 1 of 1 is not"),
        ({"allow": ["i02", "no"]}, UnknownItems, "^allow: the model doesn't have 1 of 2 item tokens"),
        ({"allow": []}, ConfigError, "no item is left to recommend"),
        ({"unknown": "ignore"}, ConfigError, "unknown is 'ignore'; known: error, skip"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_told(
    model: Recommender, arguments: dict[str, Any], error: type[BlairRecError], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.recommend([["i01"]], **arguments)


@pytest.mark.parametrize("k", [3, 10**17])
def test_a_history_gets_fewer_items_if_fewer_are_left(model: Recommender, k: int) -> None:
    allow = ["i01", "i02", "i03"]
    whole = model.recommend([["i01", "i02"]], 3, allow=allow, exclude_history=False)[0]
    found = model.recommend([["i01", "i02"], ["new"], ["i01", "i02", "i03"]], k, allow=allow, unknown="skip")
    assert found[0] == [one for one in whole if one.item_token == "i03"]
    assert len(found[1]) == 3 and found[2] == []
    assert model.recommend([["i01", "i02"]], k, allow=allow, exclude_history=False) == [whole]


def test_histories_of_something_else_are_told(model: Recommender) -> None:
    with pytest.raises(ConfigError, match="histories are lists of item tokens; got int in place of a list"):
        model.recommend([1, 2])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="got a string"):
        model.recommend(np.array(["i01", "i02"]))
