"""All splits joined: each case of each split once, and every event of the log is used for training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from worlds import built, cases, read_log

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.sequences import training_sequences
from blair_rec.data.whole import whole_log

CUT = {"valid_from": 1_720_000_000, "test_from": 1_728_000_000}


@pytest.mark.parametrize("settings", [{}, {"blair_split": CUT}], ids=["leave one out", "cut-off times"])
def test_the_whole_has_every_case_and_every_event(tiny: Path, settings: dict[str, Any]) -> None:
    _, splits = built(TextSequentialDataset, tiny, **settings)
    before = [cases([split]) for split in splits]
    whole = whole_log(splits)
    assert Counter(cases([whole])) == Counter(cases(splits)) and len(whole) == sum(map(len, splits))
    sequences = training_sequences(whole)
    tokens = whole.field2id_token["item_id"]
    events = Counter(item for _, item, _ in read_log(tiny))
    assert Counter(str(tokens[item]) for item in sequences.items) == events
    assert sequences.n_targets == len(whole)
    assert [cases([split]) for split in splits] == before, "the splits stay as they are"


def test_benchmark_files_are_put_together_too(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    folder.mkdir()
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    rows = {"train": ["u1\ta\tb", "u1\ta b\tc", "u2\tb\tc"], "valid": ["u1\ta b c\td"], "test": ["u1\ta b c d\te"]}
    for part, lines in rows.items():
        (folder / f"world.{part}.inter").write_text(header + "\n".join(lines) + "\n", "utf-8")
    settings = {
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
    }
    _, splits = built(TextSequentialDataset, folder, **settings)
    whole = whole_log(splits)
    sequences = training_sequences(whole)
    tokens = whole.field2id_token["item_id"]
    found = [
        "".join(str(tokens[item]) for item in sequences.items[begin:end])
        for begin, end in zip(sequences.offsets, sequences.offsets[1:], strict=False)
    ]
    assert sorted(found) == ["abcde", "bc"] and sequences.n_targets == 5
