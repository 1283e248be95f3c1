"""Keys of a variant that name files of another system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from blair_rec.config.comparison import CompareConfig, load_config, read_config, written
from blair_rec.errors import ConfigError
from blair_rec.experiment.planning.plan import is_seedless


def config(variant: dict[str, Any], **sections: Any) -> CompareConfig:
    raw = {"dataset": "tiny", "variants": {"id": {}, "x": variant}, "seeds": [1, 2], **sections}
    return read_config(yaml.safe_load(yaml.safe_dump(raw)))


@pytest.mark.parametrize(
    "variant, message",
    [
        ({"from": 3}, "variants.x.from is 3; expected a file, or a file for each seed such as {1: a.csv, 2: b.csv}"),
        ({"from": ""}, "variants.x.from is ''; expected a file"),
        ({"from": {}}, "variants.x.from is {}; expected a file"),
        ({"from": {"one": "a"}}, "variants.x.from has 'one' where a seed is needed"),
        ({"from": {1: 2, 2: "b"}}, "variants.x.from.1 is 2; expected the name of a file"),
        ({"from": {1: "a"}}, "variants.x.from has no file for seed 2; add one, or leave the seed out of seeds"),
        (
            {"from": "a", "items": "text"},
            "variants.x.items can't be set with `from`: the variant was trained elsewhere",
        ),
        ({"from": "a", "average": ["id", "y"]}, "variants.x.average can't be set with `from`"),
        ({"from_masked": "a"}, "variants.x.from_masked needs `from`, with the lists of the other system"),
        ({"label": "A"}, "variants.x.label needs `from`"),
        ({"from": {1: "a", 2: "b"}, "from_valid": "c"}, "from: a file for each seed, but from_valid: a single one"),
        (
            {"from": {1: "a", 2: "b"}, "from_masked": {1: "a", 2: "b", 3: "c"}},
            "from and from_masked name different seeds",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_cure(variant: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(variant)
    assert message in str(error.value)


def test_files_by_seed_read_back_as_they_were_written(tmp_path: Path) -> None:
    read = config({"from": {1: "a", 2: "b"}, "label": "A", "trials": 4})
    path = tmp_path / "again.yaml"
    path.write_text(written(read), "utf-8")
    assert load_config(path) == read
    assert read.variants["x"].elsewhere_of(2) == {"from": "b"} and not is_seedless(read, "x")


def test_one_file_is_valid_for_every_seed() -> None:
    read = config({"from": "a", "from_masked": "b"})
    assert is_seedless(read, "x") and read.variants["x"].elsewhere_of(1) == read.variants["x"].elsewhere_of(2)
    assert (read.variants["x"].kind, read.variants["x"].is_trained, read.variants["x"].uses_text) == (
        "trained elsewhere",
        False,
        False,
    )


def test_files_are_looked_up_next_to_the_comparison_file(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a.csv").touch()
    raw = {"dataset": "tiny", "variants": {"id": {}, "x": {"from": {1: "a.csv", 2: "gone.csv"}}}, "seeds": [1, 2]}
    (folder / "my.yaml").write_text(yaml.safe_dump(raw), "utf-8")
    read = load_config(folder / "my.yaml")
    assert [read.variants["x"].elsewhere_of(seed)["from"] for seed in (1, 2)] == [str(folder / "a.csv"), "gone.csv"]
