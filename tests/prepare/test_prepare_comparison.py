"""The comparison file that a preparation writes: its transforms, its protocol, its controls."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.config.comparison import load_config
from blair_rec.config.steps import ITEMS_PER_DIRECTION
from blair_rec.config.yaml.files import load_yaml
from blair_rec.models.transforms import apply_transforms
from blair_rec.prepare.comparison import WIDTHS, count_texts, protocol_for, steps_for, write_comparison
from blair_rec.prepare.events import RawLog


def log_of(pairs: list[tuple[int, int]]) -> RawLog:
    """Return a log of (user, item) events, user by user."""
    table = pl.DataFrame(sorted(pairs), schema={"user": pl.UInt32, "item": pl.UInt32}, orient="row")
    names = pl.Series([str(number) for number in range(9)])
    return RawLog(table.with_columns(time=pl.int_range(table.height)), names, names)


def write_texts(folder: Path, texts: list[str]) -> Path:
    rows = [f"i{number}\t{text}\tred\n" for number, text in enumerate(texts)]
    (folder / "x.item").write_text("item_id:token\ttitle:token_seq\tcolour:token\n" + "".join(rows), "utf-8")
    return folder / "x.yaml"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), min_size=1, max_size=20))
def test_the_protocol_is_masked_where_no_user_comes_back_to_an_item(pairs: list[tuple[int, int]]) -> None:
    protocol, why = protocol_for(log_of(pairs))
    repeats = len(pairs) - len(set(pairs))
    assert protocol == ("unmasked" if repeats else "masked") and why.startswith(f"{protocol}: ")
    assert not repeats or f"{repeats / len(pairs):.1%} of the events" in why


@given(st.integers(0, 10_000))
def test_whitening_has_enough_texts_for_each_direction(texts: int) -> None:
    steps = steps_for(texts)
    if steps == ["center"]:
        assert texts < ITEMS_PER_DIRECTION * 8
    elif steps == ["whiten"]:
        assert texts >= ITEMS_PER_DIRECTION * max(WIDTHS)
    else:
        [[name, width], last] = next(iter(steps[0].items())), steps[1]  # type: ignore[union-attr]
        assert (name, last) == ("pca", "whiten") and width <= min(WIDTHS) and texts >= ITEMS_PER_DIRECTION * width


@pytest.mark.parametrize("width", WIDTHS)
def test_whitening_as_written_for_a_small_catalogue_keeps_near_texts_near(width: int) -> None:
    """150 products in 15 groups: whitening alone would make all of them equally distant from each other."""
    random = np.random.default_rng(0)
    group = np.arange(150) % 15
    vectors = random.normal(size=(15, width))[group] + 0.3 * random.normal(size=(150, width))

    def gap(steps: list) -> float:
        rows = apply_transforms(vectors, steps)
        distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        same = group[:, None] == group[None]
        return float(distances[~same].mean() - distances[same & ~np.eye(150, dtype=bool)].mean()) / distances.mean()

    assert gap(steps_for(150)) > 0.1


def test_texts_are_counted_once_and_none_is_no_text(tmp_path: Path) -> None:
    path = write_texts(tmp_path, ["a cup", "a cup", "", "a jug"]).with_suffix(".item")
    assert count_texts(path, ["title"]) == 2 and count_texts(path, ["title", "colour"]) == 3
    assert count_texts(path, ["colour"]) == 1


@pytest.mark.parametrize("count, steps", [(5, ("center",)), (150, ({"pca": 37}, "whiten")), (4000, ("whiten",))])
def test_a_comparison_holds_baselines_and_a_shuffled_twin_of_each_text_variant(
    tmp_path: Path, count: int, steps: tuple
) -> None:
    path = write_texts(tmp_path, [f"text {number}" for number in range(count)])
    write_comparison(path, tmp_path / "x", log_of([(0, 0), (0, 1)]), {"fields": ["title"]}, ["title"])
    config = load_config(path)
    assert config.text.fields == ("title",) and config.evaluate.protocol == "masked"
    variants = {name: (one.kind, one.transforms, one.control) for name, one in config.variants.items()}
    assert variants == {
        "id": ("id", (), None),
        "sequential_rules": ("sequential_rules", (), None),
        "last_item": ("last_item", steps, None),
        "text": ("text", steps, None),
        "text_shuffled": ("text", steps, "shuffle"),
        "text_init": ("text_init", ("center",), None),
        "text_init_shuffled": ("text_init", ("center",), "shuffle"),
    }
    said = path.read_text()
    assert "# masked: no user has an item twice" in said
    assert ("distinct texts are too few to whiten all directions" in said) == (count < 4000)


def test_without_texts_there_are_still_variants_to_compare(tmp_path: Path) -> None:
    write_comparison(tmp_path / "x.yaml", tmp_path / "x", log_of([(0, 0), (0, 0)]), {})
    config = load_config(tmp_path / "x.yaml")
    assert set(config.variants) == {"id", "sequential_rules"} and config.evaluate.protocol == "unmasked"


def test_an_editor_finds_the_schema_next_to_the_file_and_reports_no_problem(tmp_path: Path) -> None:
    path = write_texts(tmp_path, ["red cup", "blue jug"])
    write_comparison(
        path, tmp_path / "x", log_of([(0, 0), (0, 1)]), {"fields": ["title"]}, ["title"], comments=["mine"]
    )
    first, second, *_ = path.read_text("utf-8").splitlines()
    assert second == "# mine" and first.startswith("# yaml-language-server: $schema=")
    schema = json.loads((tmp_path / first.partition("$schema=")[2]).read_text("utf-8"))
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(load_yaml(path))) == []
