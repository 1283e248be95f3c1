"""Notes are ordered by what they change for a reader's conclusion, those of earlier versions too."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.evaluate.notes import by_importance
from blair_rec.experiment.splits.leakage import Leaks, text_notes

CLEAN = Leaks(
    users=9, without_test=0, tests=8, unseen=0, tied=0, duplicates=0, before_training=0, training=50, later_training=0
)
PENDING = "1 of 8 planned runs is not done yet (first: id-2)"
BEATEN = "text (0.0527) does not beat training-free rules (0.0569) on NDCG@10 (unmasked)"
NO_SPLIT = "the trees of both found nothing to learn, so it orders its candidates by the average of its members"
NO_TEXT = "3 of 80 items have no text in title (first: a, b, c): `missing_text` decides on their vectors"
CUT = "1 of 79 texts have more than the 128 tokens that tiny-roberta reads, and their end is left out"
REJECTED = (
    "2 of 1,303 lines of events can't be used (first: tiny.inter, line 6: timestamp is empty); see rejected.jsonl"
)
SETTINGS = "gru used different settings: model is GRU4Rec (shared: SASRec)"
UNKNOWN = "something that no rule knows"
RECORD = ["weights of both: id 0.5, text 0.5 (equal)", "runs differ in torch: 2.6.0, 2.7.0"]


def leaks(**found: int) -> str:
    (note,) = dataclasses.replace(CLEAN, **found).notes()
    return note


def test_notes_are_ordered_by_what_they_change():
    (same,) = text_notes(["title"], ["a", "a", "b"])
    expected = [
        PENDING,
        BEATEN,
        NO_SPLIT,
        leaks(before_training=3, later_training=4),
        leaks(tied=2),
        NO_TEXT,
        same,
        "text has seeds 1 of 1, 2",
        "text was evaluated on the test split 3 times in this folder",
        SETTINGS,
        leaks(unseen=1),
        leaks(without_test=1),
        REJECTED,
        leaks(duplicates=1),
        CUT,
        UNKNOWN,
        *RECORD,
    ]
    assert by_importance(expected[::-1]) == tuple(expected)


@pytest.mark.parametrize(
    "old, new",
    [
        (
            "5 of 8 test cases are earlier than some training event of another user, and 6 of 9 training events are "
            "later than some test case: training knows what was to come (cut-off times for all users avoid it: "
            "`split`)",
            leaks(before_training=5, later_training=6),
        ),
        (
            "2 of 8 true items of the test split have the time of the event before them: which of the two is predicted "
            "is a matter of the order in the file (`ties`)",
            leaks(tied=2),
        ),
        (
            "2 of 9 items have the very text (title) of another one: text can't tell these apart",
            text_notes(["title"], ["a", "a"])[0],
        ),
        ("gru has settings of its own: model is GRU4Rec (shared: SASRec)", SETTINGS),
    ],
)
def test_notes_of_earlier_versions_have_the_same_place(old, new):
    others = [PENDING, NO_TEXT, CUT, UNKNOWN, *RECORD]
    places = [by_importance([*others, note]).index(note) for note in (old, new)]
    assert places[0] == places[1] < len(others) - 2


@given(st.lists(st.sampled_from([PENDING, NO_TEXT, CUT, UNKNOWN, "another unknown note", *RECORD])))
def test_no_note_is_lost_or_repeated_and_unknown_ones_keep_their_order(notes):
    found = by_importance(notes)
    assert sorted(found) == sorted(set(notes))
    unknown = [note for note in found if "know" in note]
    assert unknown == list(dict.fromkeys(note for note in notes if "know" in note))
