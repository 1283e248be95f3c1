"""Tuning students: over their own grid too, last of all, with lists of a finished teacher that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comparisons import Recorder, raw_config
from safetensors.numpy import load, save

from blair_rec.config.comparison import read_config
from blair_rec.errors import BadRun, ConfigError
from blair_rec.experiment.compare import compare
from blair_rec.experiment.tune import tune

VARIANTS = {
    "student": {"items": "id", "distill": "pair"},
    "id": {"items": "id"},
    "rules": {"scorer": "sequential_rules"},
    "pair": {"average": ["id", "rules"], "weights": "equal"},
}
RATES = {"train.learning_rate": [0.01, 0.03]}


def raw(tiny: Path, *names: str, **space: Any) -> dict[str, Any]:
    grids = {"budget": 2, "seed": 1, "space": RATES, **space}
    variants = {name: VARIANTS[name] for name in names}
    return raw_config(tiny, "none", variants=variants, seeds=[1], train={"epochs": 1}, baseline="id", tune=grids)


def test_a_student_is_tuned_with_the_lists_of_its_finished_teacher(tiny: Path, tmp_path: Path) -> None:
    out, runs, others = tmp_path / "tuned", tmp_path / "runs", ("id", "rules", "pair")
    tuned = tune(read_config(raw(tiny, *others)), out)
    compare(tuned, runs)
    grid = {"distill_weight": [0.25, 0.75], "distill_temperature": [1, 2]}
    config, recorder = read_config(raw(tiny, *VARIANTS, distill_space=grid)), Recorder()
    with pytest.raises(ConfigError, match="student learns from pair, whose finished run is needed; name the folder"):
        tune(config, out)
    found = tune(config, out, teachers=runs, listener=recorder)
    assert recorder.started_runs == [f"student, trial {n}, to epoch 1" for n in (1, 2)]  # the others are in the file
    student = found.variants["student"]
    assert student.distill_weight in (0.25, 0.75) and student.distill_temperature in (1, 2) and student.trials == 2
    assert student.train.keys() == {"learning_rate"}
    again = Recorder()
    tune(config, out, teachers=runs, listener=again)
    assert again.started_runs == []
    board = compare(found, runs)
    assert (
        board is not None and {row.variant: row.trials for row in board.rows}["student"] == 2 + 2
    )  # its own and those of id


def test_a_teacher_with_other_settings_or_seeds_is_refused(tiny: Path, tmp_path: Path) -> None:
    config, out = read_config(raw(tiny, *VARIANTS)), tmp_path / "tuned"
    runs, recorder = tmp_path / "runs", Recorder()
    compare(read_config(raw(tiny, "id", "rules", "pair")), runs)  # with the learning rate before tuning
    with pytest.raises(ConfigError, match="id-1 has other settings than this config; compare the teacher"):
        tune(config, out, teachers=runs)
    changed = config.tune
    assert changed is not None
    with pytest.raises(
        ConfigError, match=r"no finished run pair-5; it has pair with 1 seed: 1. Set tune.seed to one of"
    ):
        tune(config.changed(tune=changed.changed(seed=5)), out, teachers=runs, listener=recorder)
    with pytest.raises(
        ConfigError, match=r"no finished run rules-7; it has rules with 1 seed: 1. The run is valid for "
    ):
        tune(config.changed(seeds=(7,)), out, teachers=runs, listener=recorder)
    (runs / "runs" / "pair-1" / "result.json").unlink()
    with pytest.raises(
        ConfigError, match=r"no finished run pair-1; run this comparison with pair first .blair-rec compa"
    ):
        tune(config, out, teachers=runs, listener=recorder)
    compare(read_config(raw(tiny, "id", "rules", "pair")), runs)
    inter = tiny / "tiny.inter"
    inter.write_text(inter.read_text("utf-8").rstrip().rpartition("\n")[0] + "\n", "utf-8")
    with pytest.raises(
        ConfigError, match=r"pair-1 used other data than this config; compare the teacher with this data"
    ):
        tune(config, out, teachers=runs, listener=recorder)
    assert not recorder.started_runs


def test_a_missing_folder_of_teachers_is_the_first_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teachers: there is no folder .*nothing; give the folder of a comparison"):
        tune(tmp_path / "missing.yaml", tmp_path / "tuned", teachers=tmp_path / "nothing")


def test_a_teacher_that_is_damaged_or_was_made_again_is_noticed(tiny: Path, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "tuned"
    plain = raw(tiny, *VARIANTS, space={}, budget=1, distill_space={"distill_weight": [0.5]})
    teachers = read_config(
        {**plain, "variants": {name: VARIANTS[name] for name in ("id", "rules", "pair")}, "tune": None}
    )
    compare(teachers, runs)
    tune(read_config(plain), out, teachers=runs)
    weights = runs / "runs" / "id-1" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    with pytest.raises(BadRun, match=f"{weights}: can't be read"):
        tune(read_config(plain), out, teachers=runs)
    tensors = load(before)
    tensors["item_embedding.weight"] += 1  # as by other code; the weights of the average stay the same
    weights.write_bytes(save(tensors, {"schema": "1"}))
    compare(teachers, runs)
    recorder = Recorder()
    tune(read_config(plain), out, teachers=runs, listener=recorder)
    assert recorder.started_runs == ["student, trial 1, to epoch 1"]


def test_a_grid_for_students_needs_a_student_and_known_keys(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'distill_weight'"):
        read_config(raw(tiny, *VARIANTS, distill_space={"distil_weight": [0.5]}))
    config = read_config(raw(tiny, "id", "rules", distill_space={"distill_weight": [0.5]}))
    with pytest.raises(ConfigError, match="tune.distill_space: no variant of this comparison uses distill_weight"):
        tune(config, tmp_path / "tuned")
    config = read_config({**raw(tiny, *VARIANTS), "baseline": "student"})
    with pytest.raises(ConfigError, match="the baseline has to be a model with items: id and without its own settings"):
        tune(config, tmp_path / "tuned", teachers=tmp_path)
