"""Transforms keep enough of the text: too few items for whitening are refused in time, and a loss is reported."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from comparisons import Recorder, config_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from worlds import SMALL, store_for

import blair_rec.recbole as plugin
from blair_rec.config.steps import FEWEST_PER_DIRECTION, ITEMS_PER_DIRECTION, Step
from blair_rec.errors import ConfigError
from blair_rec.experiment.compare import compare
from blair_rec.experiment.tune import tune
from blair_rec.experiment.tuning.search_space import draw, grid_of
from blair_rec.models.transforms import apply_transforms
from blair_rec.models.whitening import fit_checked, items_that_differ
from blair_rec.text.store.writer import write_store

TOKENS = [f"i{number:02d}" for number in range(1, 81)]
WHITENING: list[Step] = ["whiten", {"whiten": "pca"}, {"shrink": 1.0}]


def normal(n: int, width: int, seed: int = 0) -> np.ndarray:
    """[n, width] vectors that all differ."""
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32) + np.float32(0.5)


def proposed(message: str) -> list[Step]:
    """The steps that a message proposes instead."""
    return list(yaml.safe_load(message[message.index("[") :]))


def test_whitened_points_are_equally_far_from_each_other_where_items_are_few() -> None:
    """The error prevents this: with 40 different texts in 64 directions, nothing of the texts is left."""
    distances = pdist(apply_transforms(normal(40, 64), ["whiten"]))
    assert distances.max() - distances.min() < 1e-6 * distances.max()


@pytest.mark.parametrize("step", WHITENING)
@settings(max_examples=15)
@given(n=st.integers(4, 70), width=st.integers(2, 20), seed=st.integers(0, 5))
def test_few_items_for_the_directions_are_refused_and_the_proposal_is_taken(
    step: Step, n: int, width: int, seed: int
) -> None:
    vectors = normal(n, width, seed)
    directions = np.linalg.matrix_rank(vectors - vectors.mean(axis=0), tol=1e-4)
    if n < FEWEST_PER_DIRECTION * directions:
        with pytest.raises(ConfigError, match=rf"has {n} items for {directions} directions .* keep fewer") as refused:
            fit_checked(vectors, ["center", step])
        steps = proposed(str(refused.value))
        assert steps == ["center", {"pca": n // ITEMS_PER_DIRECTION}, step]
        assert fit_checked(vectors, steps)[0].report[-1]["rank"] == n // ITEMS_PER_DIRECTION
    else:
        fitted, rows = fit_checked(vectors, ["center", step])
        np.testing.assert_array_equal(rows, apply_transforms(vectors, ["center", step]))
        notes = [note for note in fitted.notes if "directions" in note]
        assert bool(notes) == (n < ITEMS_PER_DIRECTION * directions)
        if notes:
            assert fit_checked(vectors, proposed(notes[0]))[0].notes == ()


def test_components_that_are_named_already_are_the_directions() -> None:
    vectors = normal(100, 64)
    assert fit_checked(vectors, [{"pca": 25}, "whiten"])[0].notes == ()
    with pytest.raises(ConfigError, match=r"100 items for 64 directions \(1.6 for each\).*: \[\{pca: 25\}, whiten\]$"):
        fit_checked(vectors, [{"pca": 64}, "whiten"])


@pytest.mark.parametrize("steps", [["center"], ["l2"], [{"pca": 30}], [{"shrink": 0.5}], []])
def test_steps_that_do_not_whiten_are_not_refused(steps: list[Step]) -> None:
    fit_checked(normal(20, 64), steps)


def test_a_catalogue_like_that_of_the_quick_start_has_enough_items() -> None:
    """1,682 films with 1,661 texts in 384 directions, at a twelfth of the size."""
    assert fit_checked(normal(140, 32), ["whiten"])[0].notes == ()


def test_items_without_text_add_nothing() -> None:
    vectors = np.concatenate([normal(40, 32), np.repeat(normal(40, 32).mean(axis=0, keepdims=True), 60, axis=0)])
    with pytest.raises(ConfigError, match="whiten has 44 items for 32 directions"):
        fit_checked(vectors, ["whiten"])


def test_texts_that_many_items_share_are_classes_that_whitening_keeps() -> None:
    """Categories as texts: 12 different ones for 1,200 items."""
    vectors = np.repeat(normal(12, 32), 100, axis=0)
    fitted, rows = fit_checked(vectors, ["whiten"])
    assert fitted.notes == ()
    assert len(np.unique(rows.round(6), axis=0)) == 12


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 30))
def test_the_count_is_that_of_a_counter_and_stops_where_it_is_enough(values: list[int], enough: int) -> None:
    vectors = np.array(values, dtype=np.float32).reshape(-1, 1)
    whole = sum(min(times, ITEMS_PER_DIRECTION) for times in Counter(values).values())
    assert items_that_differ(vectors, enough) == min(whole, enough)


def test_vectors_from_which_nothing_can_be_learnt_are_reported() -> None:
    for vectors, steps in ((np.eye(700), []), (np.eye(60), ["center"]), (normal(41, 40), [{"shrink": 0.999}])):
        (note,) = fit_checked(vectors, list(steps))[0].notes
        assert re.match(r"after the transforms 99% of all pairs of items are equally far from each other", note)
    assert fit_checked(normal(700, 40), [])[0].notes == fit_checked(normal(700, 40), ["center"])[0].notes == ()


def test_an_earlier_fit_is_not_judged_again() -> None:
    fitted, rows = fit_checked(normal(100, 20), ["whiten"])
    again, few = fit_checked(normal(100, 20)[:3], ["whiten"], fitted.arrays)
    assert again.notes == ()
    np.testing.assert_allclose(few, rows[:3], rtol=1e-9, atol=1e-9)


# Before anything is trained

TEXT_VARIANTS: dict[str, dict[str, Any]] = {
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": ["whiten"]},
    "shuffled": {"items": "text", "transforms": ["whiten"], "control": "shuffle"},
}


def over_a_store(tiny: Path, width: int, **sections: Any) -> Any:
    """A comparison of tiny's 80 items with made-up vectors of this width."""
    store_for(Path(f"vectors{width}"), TOKENS, width)
    text = {"store": f"vectors{width}", "fields": ["title"]}
    return config_of(
        tiny, "unused", **{"text": text, "train": {"epochs": 1}, "seeds": [1], "variants": TEXT_VARIANTS, **sections}
    )


@pytest.mark.parametrize(
    "variant",
    [{"items": "text"}, {"items": "text_init"}, {"items": "text", "control": "random"}, {"scorer": "last_item"}],
)
def test_a_comparison_refuses_before_it_trains(tiny: Path, tmp_path: Path, variant: dict[str, Any]) -> None:
    variants = {"id": {"items": "id"}, "over": {**variant, "transforms": ["whiten"]}}
    wide = {"hidden_size": 64, "inner_size": 8, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 10}
    listener = Recorder()
    with pytest.raises(ConfigError, match=r"^variants.over: transforms: whiten has 80 items for (60|64) directions"):
        compare(over_a_store(tiny, 64, variants=variants, recbole=wide), tmp_path / "out", listener=listener)
    assert listener.started_runs == [] and not (tmp_path / "out" / "runs").exists()


def test_a_tuning_refuses_before_its_first_trial(tiny: Path, tmp_path: Path) -> None:
    grid = {"space": {"train.learning_rate": [0.01, 0.02]}, "text_space": {"transforms": [["center"], ["whiten"]]}}
    config = over_a_store(tiny, 60, tune={**grid, "budget": 2})
    config = over_a_store(tiny, 60, tune={**grid, "budget": 2, "seed": _seed_that_draws_whitening(config)})
    trials: list[Any] = []
    with pytest.raises(ConfigError, match=r"variants.text: transforms: whiten has 80 items for 60 directions"):
        tune(config, tmp_path / "out", on_trial=trials.append)
    assert trials == []


def _seed_that_draws_whitening(config: Any) -> int:
    for seed in range(20):
        tried = config.changed(tune=config.tune.changed(seed=seed))
        if any(point["transforms"] == ["whiten"] for point in draw(tried, "text", grid_of(tried, "text"))):
            return seed
    raise AssertionError("no seed draws it")


def test_the_plugin_refuses_before_it_trains(tiny: Path) -> None:
    store_for(Path("vectors"), TOKENS, 60)
    keys = {"blair_items": "text", "blair_store": "vectors", "blair_transforms": ["whiten"]}
    with pytest.raises(ConfigError, match=r"whiten has 80 items for 60 directions \(1.3 for each\)"):
        plugin.run_recbole(
            model="BLaIRSASRec", dataset="tiny", config_dict={**SMALL, "data_path": str(tiny.parent), **keys}
        )


def test_the_board_warns_of_few_items_and_of_vectors_without_information(tiny: Path, tmp_path: Path) -> None:
    board = compare(over_a_store(tiny, 30), tmp_path / "few")
    assert board is not None
    (note,) = [note for note in board.notes if "directions" in note]
    assert note == (
        "text: whiten has 80 items for 30 directions (2.7 for each); with 4 or more for each it would keep more of "
        "the text, for example with transforms: [{pca: 20}, whiten]"
    )
    write_store(
        Path("nothing"), TOKENS, np.eye(80, dtype=np.float32), textless=(),
        encoder={"name": "one-hot", "asked_for": "one-hot", "revision": None, "pooling": "mean", "max_length": 8},
        template={"name": "plain", "version": 1, "fields": ["title"]}, text_sha256="0" * 64,
    )  # fmt: skip
    variants = {"id": {}, "text": {"items": "text"}, "shuffled": {"items": "text", "control": "shuffle"}}
    text = {"store": "nothing", "fields": ["title"]}
    board = compare(over_a_store(tiny, 30, text=text, variants=variants), tmp_path / "nothing-left")
    assert board is not None
    assert [note.partition(":")[0] for note in board.notes if "equally far" in note] == ["text"]
