"""Students in comparisons: what they learn, when they are made, when they are made again, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import InterruptedIn, Recorder, raw_config, tiny_at
from encoders import build_roberta
from safetensors.numpy import load, load_file, save
from worlds import write_log

import blair_rec
from blair_rec.config.comparison import read_config
from blair_rec.errors import BadRun, ChangedRuns, CheckpointError, ConfigError
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.experiment.board import leaderboard
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning import locks
from blair_rec.experiment.planning.plan import Run, members_hash
from blair_rec.serve.export.folder import export_run
from blair_rec.serve.export.vectors import export_vectors
from blair_rec.serve.refit import refit
from blair_rec.text.store.writer import write_store

TEXT = {"items": "text_delta", "transforms": ["center"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "mix": {"average": ["student", "id"], "weights": "equal"},
    "student": {**TEXT, "distill": "all"},
    "id_student": {"items": "id", "distill": "all", "distill_weight": 0.9, "distill_temperature": 2.0},
    "no_text": {"items": "id", "distill": "rules"},
    "all": {"average": ["delta", "near", "rules"]},
    "id": {"items": "id"},
    "delta": TEXT,
    "near": {"scorer": "recent_history", "transforms": ["center"]},
    "rules": {"scorer": "sequential_rules", "options": {"source_power": 0.5}},
}
SETTINGS: dict[str, Any] = {"seeds": [1], "baseline": "id", "train": {"epochs": 2, "batch_size": 64}}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> tuple[dict[str, Any], Path, Leaderboard]:
    """A config, its finished comparison, and the board; no test changes them."""
    folder = tmp_path_factory.mktemp("students")
    raw = raw_config(tiny_at(folder), encoder, variants=VARIANTS, **SETTINGS)
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        board = compare(read_config(raw), folder / "out", listener=recorder)
    assert board is not None
    order = {name: place for place, name in enumerate(recorder.started_runs)}
    assert order["all-1"] < order["student-1"] < order["mix-1"] and order["rules-1"] < order["no_text-1"]
    return raw, folder / "out", board


@pytest.fixture(scope="module")
def with_pair(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> tuple[dict[str, Any], Path]:
    """A config with a student of an average, and its finished comparison; no test changes them."""
    variants = {name: VARIANTS[name] for name in ("id", "near", "rules")} | {
        "pair": {"average": ["near", "rules"]},
        "student": {"items": "id", "distill": "pair"},
    }
    folder = tmp_path_factory.mktemp("pair")
    raw = raw_config(tiny_at(folder), encoder, variants=variants, **{**SETTINGS, "baseline": "rules"})
    compare(read_config(raw), folder / "out")
    return raw, folder / "out"


INTERRUPTED = ["id", "rules", "no_text"]


@pytest.fixture(scope="module")
def half_learned(tmp_path_factory: pytest.TempPathFactory, finished: tuple[dict[str, Any], Path, Leaderboard]) -> Path:
    """A comparison of INTERRUPTED that ended in the second epoch of the student; no test changes it."""
    out = tmp_path_factory.mktemp("half") / "out"
    with pytest.raises(KeyboardInterrupt):
        compare(read_config(finished[0]), out, variants=INTERRUPTED, listener=InterruptedIn(4))  # id has two epochs
    return out


@pytest.fixture
def interrupted(half_learned: Path, tmp_path: Path) -> Path:
    """A copy of it that the test may change."""
    return Path(shutil.copytree(half_learned, tmp_path / "out"))


def result_of(out: Path, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "runs" / run / "result.json").read_text("utf-8"))
    return found


def weights_of(out: Path, run: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(out / "runs" / run / "model.safetensors")
    return found


def wrong_lists(kept: bytes) -> bytes:
    """Return a file of lists with an item id that the data set doesn't have."""
    arrays = load(kept)
    arrays["items"][3, 4] = 81
    return bytes(save(arrays, {"schema": "1"}))


def assert_equal(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_a_run_names_its_teacher_and_adds_its_costs(finished: tuple[dict[str, Any], Path, Leaderboard]) -> None:
    _, out, board = finished
    student, teacher = result_of(out, "student-1"), result_of(out, "all-1")
    assert student["setup"]["distill"] == {
        "teacher": "all", "run": "all-1", "weight": 0.5, "temperature": 1.0, "items": 100
    }  # fmt: skip
    assert student["hashes"]["members"] == members_hash(out / "runs" / "student-1", student["setup"]) is not None
    own = result_of(out, "id_student-1")["setup"]["distill"]
    assert (own["weight"], own["temperature"]) == (0.9, 2.0)
    assert student["distill"]["uses_text"] == ["delta", "near"] and student["distill"]["trained"] == ["delta"]
    assert 0 < student["distill"]["ndcg_at_positions"] < 1 and student["distill"]["positions"] == 941
    assert student["train_seconds"] > teacher["train_seconds"] and student["test_evaluations"] == 1
    assert "distill" not in result_of(out, "id-1") and "distill" not in result_of(out, "id-1")["setup"]
    assert {row.variant for row in board.rows} == set(VARIANTS)


def test_the_board_says_where_the_teacher_uses_text(finished: tuple[dict[str, Any], Path, Leaderboard]) -> None:
    _, _, board = finished
    assert "student: learned the ranking of all, which uses text (delta, near)" in board.notes
    assert (
        "id_student: learned the ranking of all, which uses text (delta, near); so it is no model without text"
        in board.notes
    )
    assert "no_text: learned the ranking of rules, which uses no text" in board.notes
    trained = "delta of its teacher was trained on the positions that the lists are for"
    assert [note for note in board.notes if trained in note] == [
        f"{name}: {trained}" for name in ("student", "id_student")
    ]


def test_a_finished_student_is_not_made_again_and_is_loaded_without_its_teacher(
    finished: tuple[dict[str, Any], Path, Leaderboard],
) -> None:
    raw, out, board = finished
    recorder = Recorder()
    again = compare(read_config(raw), out, listener=recorder)
    assert recorder.started_runs == [] and again is not None and again.rows == board.rows
    loaded = blair_rec.load(out / "runs" / "student-1")
    assert len(loaded.recommend([["i07", "i20"]], k=3)[0]) == 3


def test_an_exported_student_has_one_vector_space_with_its_scores(
    finished: tuple[dict[str, Any], Path, Leaderboard], tmp_path: Path
) -> None:
    _, out, _ = finished
    run, histories = out / "runs" / "student-1", [["i07", "i20"], ["i01"], ["i33", "i02", "i10"]]
    loaded = blair_rec.load(run)
    folder = export_vectors(run, tmp_path / "vectors")
    tokens = json.loads((folder / "items.json").read_text("utf-8"))
    products = loaded.user_vectors(histories) @ np.load(folder / "items.npy").T
    best = [[tokens[item] for item in np.argsort(-row)[:5]] for row in products]
    assert best == [[item for item, _ in row] for row in loaded.recommend(histories, k=5, exclude_history=False)]
    exported = export_run(run, tmp_path / "exported")
    assert exported is not None
    card = (tmp_path / "exported" / "README.md").read_text("utf-8")
    assert "learned the ranking of its teacher all, which used text: delta, near" in card


def test_a_refit_of_a_student_or_of_its_average_is_refused(
    finished: tuple[dict[str, Any], Path, Leaderboard], tmp_path: Path
) -> None:
    _, out, _ = finished
    for variant in ("student", "mix"):
        with pytest.raises(ConfigError, match=r"student-1 is a student \(distill\), which can't be refitted"):
            refit(out, tmp_path / "refit", variant=variant)
    with pytest.raises(ConfigError) as raised:  # of a single run, --variant can't choose another one
        refit(out / "runs" / "student-1", tmp_path / "refit")
    assert "refit another variant (possible: " in str(raised.value)
    assert str(raised.value).endswith(f"`blair-rec refit {out.resolve()} --variant NAME -o DIR`")


def test_a_model_with_the_loss_of_recbole_cannot_be_a_student(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    variants = {"id": {"items": "id"}, "narm": {"items": "id", "model": "NARM", "distill": "id"}}
    raw = raw_config(tiny, encoder, variants=variants, **SETTINGS)
    with pytest.raises(ConfigError, match="variants.narm: distill isn't supported for .*NARM"):
        compare(read_config(raw), tmp_path / "out")


@pytest.mark.parametrize(("teacher", "through"), [("caser", "'caser'"), ("pair", "'pair' with its member 'caser'")])
def test_a_model_that_reads_more_than_histories_is_refused_before_any_training(
    tiny: Path, tmp_path: Path, teacher: str, through: str
) -> None:
    variants = {
        "id": {"items": "id"},
        "caser": {"items": "id", "model": "Caser"},
        "pair": {"average": ["id", "caser"]},
        "student": {"items": "id", "distill": teacher},
    }
    recorder = Recorder()
    with pytest.raises(
        ConfigError, match=f"variants.student: distill names {through}, whose model Caser reads user_id"
    ):
        compare(
            read_config(raw_config(tiny, "none", variants=variants, **SETTINGS)), tmp_path / "out", listener=recorder
        )
    assert recorder.started_runs == []


def test_a_scorer_of_another_package_that_counts_is_refused_before_any_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_counts.py").write_text(
        "from blair_rec.ranking.scorers.popularity import Popularity\n\n\nclass Theirs(Popularity):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    variants = {
        "id": {"items": "id"},
        "theirs": {"scorer": "their_counts:Theirs"},
        "pair": {"average": ["id", "theirs"]},
        "student": {"items": "id", "distill": "pair"},
    }
    recorder = Recorder()
    with pytest.raises(ConfigError, match="variants.student: Theirs counts the training split"):
        compare(
            read_config(raw_config(tiny, "none", variants=variants, **SETTINGS)), tmp_path / "out", listener=recorder
        )
    assert recorder.started_runs == []


def test_a_damaged_member_of_a_teacher_is_named_with_the_cure(tiny: Path, tmp_path: Path) -> None:
    variants = {name: VARIANTS[name] for name in ("id", "rules")} | {
        "pair": {"average": ["rules", "id"]},
        "student": {"items": "id", "distill": "pair"},
    }
    config, out = read_config(raw_config(tiny, "none", variants=variants, **SETTINGS)), tmp_path / "out"
    compare(config, out, variants=["id", "rules", "pair"])
    weights = out / "runs" / "id-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadRun, match=re.escape(f"{weights}: can't be read")) as refused:
        compare(config, out, variants=["student"])
    assert f"delete the folder {weights.parent}, and make it again" in str(refused.value)
    with pytest.raises(CheckpointError, match=re.escape(f"delete the folder {weights.parent}")):
        compare(config, out)
    shutil.rmtree(weights.parent)
    with pytest.raises(ConfigError, match="learns from pair-1, which has to be made again, because its members"):
        compare(config, out, variants=["student"])
    recorder = Recorder()
    compare(config, out, listener=recorder)
    assert recorder.started_runs == ["id-1", "student-1"]  # id is trained to the same weights, so pair fits it


def test_a_student_alone_needs_its_finished_teacher(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    raw = raw_config(tiny, encoder, variants=VARIANTS, **SETTINGS)
    out, config = tmp_path / "out", read_config(raw)
    with pytest.raises(ConfigError, match="no_text-1 learns from rules-1, which is not finished; name rules"):
        compare(config, out, variants=["id", "no_text"])
    compare(config, out, variants=["id", "rules"])
    recorder = Recorder()
    board = compare(config, out, variants=["id", "no_text"], listener=recorder)
    assert recorder.started_runs == ["no_text-1"] and board is not None
    compare(config, out, variants=["no_text"], fresh=True, listener=recorder)
    assert recorder.started_runs == ["no_text-1"] * 2
    assert result_of(out, "no_text-1")["test_evaluations"] == 2


def test_a_teacher_that_is_made_again_makes_its_student_again(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    variants = {name: VARIANTS[name] for name in ("id", "near", "rules")} | {
        "pair": {"average": ["near", "id"]},
        "student": {"items": "id", "distill": "pair"},
        "mix": {"average": ["student", "rules"]},
    }
    raw = raw_config(tiny, encoder, variants=variants, **SETTINGS)
    out = tmp_path / "out"
    compare(read_config(raw), out)
    before, recorder = result_of(out, "student-1"), Recorder()
    raw["train"] = {**raw["train"], "epochs": 3}
    compare(read_config(raw), out, fresh=True, variants=["id"], listener=recorder)
    assert recorder.started_runs == ["id-1", "pair-1", "student-1", "mix-1"]
    again = Recorder()
    compare(read_config(raw), out, fresh=True, variants=["id"], listener=again)
    assert again.started_runs == ["id-1"]  # trained to the same weights, so all others fit it
    after = result_of(out, "student-1")
    assert after["hashes"]["members"] != before["hashes"]["members"]
    assert leaderboard(out) is not None  # nothing on it is of a run that was replaced


@pytest.mark.parametrize(
    ("run", "changed", "said"),
    [
        (
            "student-1",
            {"student": {"items": "id", "distill": "near", "distill_weight": 0.9}},
            "distill.weight: 0.5 -> 0.9",
        ),
        ("student-1", {"student": {"items": "id", "distill": "near"}}, "distill.teacher: 'pair' -> 'near'"),
        ("student-1", {"student": {"average": ["near", "rules"]}}, "average"),
        ("id-1", {"id": {"items": "id", "distill": "near"}}, "distill"),
        ("id-1", {"id": {"average": ["near", "rules"]}, "student": {"items": "id", "distill": "near"}}, "average"),
    ],
)
def test_no_finished_training_is_replaced_by_one_with_other_settings(
    with_pair: tuple[dict[str, Any], Path], tmp_path: Path, run: str, changed: dict[str, Any], said: str
) -> None:
    finished, done = with_pair
    out = Path(shutil.copytree(done, tmp_path / "out"))
    before, weights = result_of(out, run), weights_of(out, run)
    raw = {**finished, "variants": finished["variants"] | changed}
    recorder = Recorder()
    with pytest.raises(ChangedRuns, match=re.escape(said)) as refused:
        compare(read_config(raw), out, listener=recorder)
    assert run in str(refused.value) and recorder.started_runs == []
    assert result_of(out, run) == before
    assert_equal(weights_of(out, run), weights)
    compare(read_config(raw), out, fresh=True)
    assert result_of(out, run)["setup"] != before["setup"]


def test_the_learning_of_a_student_resumes_bit_for_bit(
    finished: tuple[dict[str, Any], Path, Leaderboard], interrupted: Path
) -> None:
    raw, whole, _ = finished
    (lists,) = interrupted.glob("runs/.no_text-1.training/*.lists.safetensors")
    assert load_file(lists)["items"].shape == (941, 80)
    recorder = Recorder()
    compare(read_config(raw), interrupted, variants=INTERRUPTED, listener=recorder)
    assert recorder.started_runs == ["no_text-1"] and recorder.epochs == 1
    assert_equal(weights_of(interrupted, "no_text-1"), weights_of(whole, "no_text-1"))
    assert not list(interrupted.glob("runs/.*"))


@pytest.mark.parametrize("damage", [lambda kept: kept[: len(kept) // 2], lambda kept: b"garbage" * 20, wrong_lists])
def test_damaged_lists_are_made_again(
    finished: tuple[dict[str, Any], Path, Leaderboard],
    interrupted: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    raw, whole, _ = finished
    (lists,) = interrupted.glob("runs/.no_text-1.training/*.lists.safetensors")
    lists.write_bytes(damage(lists.read_bytes()))
    compare(read_config(raw), interrupted, variants=INTERRUPTED)
    assert f"{lists} is damaged, so the lists of rules-1 are made again" in caplog.text
    assert_equal(weights_of(interrupted, "no_text-1"), weights_of(whole, "no_text-1"))


def test_shards_make_students_after_their_teachers(
    finished: tuple[dict[str, Any], Path, Leaderboard], tmp_path: Path
) -> None:
    raw, whole, _ = finished
    recorders = [Recorder(), Recorder()]
    for part, recorder in enumerate(recorders):
        compare(read_config(raw), tmp_path / "out", shard=(part, 2), listener=recorder)
    made = [name for recorder in recorders for name in recorder.started_runs]
    assert sorted(made) == sorted(f"{name}-1" for name in VARIANTS)
    assert made.index("all-1") < made.index("student-1")
    for run in ("student-1", "id_student-1", "mix-1"):
        assert_equal(weights_of(tmp_path / "out", run), weights_of(whole, run))


def test_a_student_without_text_learns_an_order_that_only_its_teacher_knows(tmp_path: Path) -> None:
    """A user takes items of one group. An item has about one event, so only its text says which group it is in."""
    rng, groups, size, users = np.random.default_rng(3), 15, 60, 150
    log = [
        (f"u{user}", f"i{group * size + int(rng.integers(size))}", 1000 * user + event)
        for user in range(users)
        for group in [int(rng.integers(groups))]
        for event in range(6)
    ]
    tokens = sorted({item for _, item, _ in log})
    of_group = rng.standard_normal((groups, 16))
    vectors = np.array([of_group[int(token[1:]) // size] for token in tokens]) + rng.normal(0, 0.1, (len(tokens), 16))
    encoder = {"name": "words", "asked_for": "words", "revision": None, "pooling": "mean", "max_length": 4}
    write_store(tmp_path / "store", tokens, vectors.astype(np.float32), encoder=encoder, template={"name": "title"})
    raw = {
        "dataset": str(write_log(tmp_path / "world", log)),
        "text": {"store": str(tmp_path / "store")},
        "recbole": {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 6},
        "train": {"epochs": 30, "patience": 30, "batch_size": 64, "learning_rate": 0.01},
        "variants": {
            "id": {"items": "id"},
            "near": {"scorer": "last_item"},
            "student": {"items": "id", "distill": "near"},
        },
        "seeds": [1],
    }
    board = compare(read_config(raw), tmp_path / "out")
    assert board is not None
    found = {row.variant: row.metrics["unmasked"]["NDCG@10"].mean for row in board.rows}
    assert found["student"] > 1.5 * found["id"] and found["student"] > 0.8 * found["near"], found


def test_a_student_is_made_again_with_the_average_that_it_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finished_run(variant: str, **setup: Any) -> Run:
        return Run(
            variant, 1, {"seed": 1, **setup}, {"members": "the same"}, None, tmp_path / f"{variant}-1", done=True
        )

    model = finished_run("id")
    pair = finished_run("pair", average=["id", "rules"])
    student = finished_run("student", distill={"run": "pair-1"})
    monkeypatch.setattr(locks, "holds", lambda run: True)
    made = locks.Made([model, pair, student], [model, pair, student])
    assert not made.keeps(student), "other weights of id can give pair the same ranks, but other lists"
    assert made.keeps(pair)
    assert made.keeps(student), "now the average is the one that it learned from"
