"""`distill` and its settings: which teachers and students are refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.errors import ConfigError
from blair_rec.experiment.planning.plan import run_setup

VARIANTS: dict[str, dict[str, Any]] = {
    "id": {},
    "delta": {"items": "text_delta"},
    "rules": {"scorer": "sequential_rules"},
    "divided": {"scorer": "sequential_rules", "options": {"target_power": 0.5}},
    "popular": {"scorer": "popularity"},
    "all": {"average": ["delta", "rules"]},
    "near": {"scorer": "last_item"},
    "untrained": {"average": ["rules", "near"]},
    "counts": {"average": ["id", "popular"]},
    "second": {"rerank": ["id", "rules"]},
    "other": {"from": "lists.csv"},
    "shuffled": {"items": "text_delta", "control": "shuffle"},
}


def config_of(**more: Any) -> CompareConfig:
    return read_config({"dataset": "tiny", "text": {"fields": ["title"]}, "variants": {**VARIANTS, **more}})


@pytest.mark.parametrize("teacher", ["all", "rules", "delta", "id", "shuffled", "untrained"])
@pytest.mark.parametrize("items", ["id", "text_delta"])
def test_any_item_side_learns_from_averages_models_and_rules(teacher: str, items: str) -> None:
    config = config_of(student={"items": items, "distill": teacher, "distill_weight": 0.5})
    assert run_setup(config, "student", 1)["distill"] == {
        "teacher": teacher, "run": f"{teacher}-1", "weight": 0.5, "temperature": 1.0, "items": 100
    }  # fmt: skip
    assert config.behind("student") == (teacher, *config.variants[teacher].members)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"distil": "all"}, r"variants.student.distil: unknown key; did you mean distill"),
        ({"distill": "al"}, r"variants.student.distill is 'al'; did you mean 'all'"),
        (
            {"distill": "student"},
            r"names 'student', which learns from a teacher itself; a teacher is a model without distill, a scorer",
        ),
        (
            {"distill": "second"},
            r"names 'second', a second stage, .* order some items alone; a teacher is a model",
        ),
        (
            {"distill": "other"},
            r"names 'other', trained elsewhere: .* training positions; a teacher is a model",
        ),
        (
            {"distill": "counts"},
            r"names 'counts' with its member 'popular', whose scorer popularity counts the training",
        ),
        (
            {"distill": "popular"},
            r"names 'popular', .* the position to predict included; a teacher is a model without distill, a scorer "
            r"\(sequential_rules, last_item, mean_history, recent_history\), or an average of these",
        ),
        ({"distill": "divided"}, r"names 'divided', whose rules have a target_power"),
        ({"distill": "all", "items": "text", "control": "shuffle"}, r"so control: shuffle is no control"),
        ({"distill": "all", "train": {"loss": "bpr"}}, r"distill needs train.loss: full_softmax, but the loss is bpr"),
        ({"distill_weight": 0.5}, r"distill_weight needs distill, with the variant to learn from"),
        ({"distill_temperature": 2}, r"distill_temperature needs distill"),
        ({"distill": "all", "distill_weight": 1.5}, r"distill_weight is 1.5; it has to be at most 1"),
        ({"distill": "all", "distill_temperature": 0}, r"distill_temperature is 0; it has to be a positive number"),
        ({"distill": "all", "scorer": "markov"}, r"scorer: markov is not trained, so leave distill out"),
        ({"distill": "all", "average": ["id", "delta"]}, r"distill can't be set on an average"),
    ],
)
def test_what_cannot_learn_or_teach_is_refused(student: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(student=student)


def test_a_chain_of_students_is_refused() -> None:
    first = {"distill": "all"}
    with pytest.raises(
        ConfigError, match="variants.second_student.distill names 'student', which learns from a teacher"
    ):
        config_of(student=first, second_student={"distill": "student"})
    with pytest.raises(ConfigError, match="names 'pair' with its member 'student', which learns from a teacher itself"):
        config_of(student=first, pair={"average": ["student", "id"]}, last={"distill": "pair"})
    assert config_of(student=first, pair={"average": ["student", "id"]}).behind("pair")[2:] == ("all", "delta", "rules")


def test_a_control_may_learn_from_a_control() -> None:
    config_of(student={"items": "text", "control": "shuffle", "distill": "shuffled"})


def test_a_selection_of_a_student_keeps_what_its_teacher_is_made_of() -> None:
    config = config_of(student={"distill": "all"})
    only = config.only(["student"])
    assert set(only.variants) == {"student", "all", "delta", "rules"} and only.baseline == "student"
