"""Checks of a data set before training, against loops over its events, and on logs with known flaws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import Event, built, write_log

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.experiment.splits.leakage import (
    NOWHERE,
    TEST,
    TRAINING,
    VALIDATION,
    Leaks,
    count_leaks,
    leaks_of,
    text_notes,
)

EVENTS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=25)


@given(EVENTS, st.integers(0, 3))
def test_counts_are_those_of_loops_over_events(events, held_out):
    """Users may have any part of their last events in any split."""
    events = sorted(events, key=lambda event: (event[0], event[2]))
    part = []
    for place, (user, *_) in enumerate(events):
        later = sum(other == user for other, *_ in events[place + 1 :])
        part.append([TEST, VALIDATION, NOWHERE][later] if later < held_out else TRAINING)
    user, item, time = (np.array(column) for column in zip(*events, strict=True))
    found = count_leaks(user, item, np.array(part), time.astype(float))

    training = [event for event, where in zip(events, part, strict=True) if where == TRAINING]
    tests = [event for event, where in zip(events, part, strict=True) if where == TEST]
    assert (found.tests, found.training) == (len(tests), len(training))
    assert found.users == len({user for user, *_ in events})
    assert found.without_test == found.users - len({user for user, *_ in tests})
    assert found.unseen == sum(item not in {item for _, item, _ in training} for _, item, _ in tests)
    numbered = all(
        time == sum(u == user for u, *_ in events[:place]) + events[0][2]
        for place, (user, _, time) in enumerate(events)
    )
    if numbered and events[0][2] in (0, 1):
        assert (found.tied, found.duplicates, found.before_training, found.later_training) == (None,) * 4
        return
    assert found.duplicates == len(events) - len(set(events))
    assert found.before_training == sum(any(other > time for *_, other in training) for *_, time in tests)
    assert found.later_training == sum(any(other < time for *_, other in tests) for *_, time in training)
    assert found.tied == sum(
        part[place] == TEST and place > 0 and events[place - 1][0] == user and events[place - 1][2] == time
        for place, (user, _, time) in enumerate(events)
    )


@pytest.mark.parametrize("first", [0, 1])
def test_times_that_only_number_events_are_no_clock(first):
    user = np.repeat([1, 2], 4)
    time = np.tile(np.arange(4) + first, 2).astype(float)
    found = count_leaks(user, np.ones(8, int), np.array([0, 0, 1, 2] * 2), time)
    assert (found.tied, found.before_training) == (None, None)
    shared = count_leaks(user, np.ones(8, int), np.array([0, 0, 1, 2] * 2), time + np.repeat([0, 7], 4))
    assert (shared.tied, shared.before_training, shared.later_training) == (0, 1, 2)


def flawed() -> list[Event]:
    """201 events with known flaws, with timestamps in seconds that float32 can't distinguish."""
    start = 1_700_000_000
    events: list[Event] = []
    for user in range(20):
        events += [(f"u{user:02d}", f"i{(user + step) % 12:02d}", start + 10 * user + step) for step in range(9)]
    events += [("late", f"i{step:02d}", start + 5000 + step) for step in range(10)]  # all after everybody else
    events += [("tied", f"i{step:02d}", start + min(step, 8)) for step in range(10)]  # the last two at one time
    events += [("twice", "i03", start + 1), *(("twice", "i03", start + 2) for _ in range(2))]
    events += [("twice", "i04", start + step) for step in (3, 4, 5)]
    events += [("cold", f"i{step:02d}", start + step) for step in range(5)] + [("cold", "never", start + 9)]
    return [*events, ("short", "i01", start), ("short", "i02", start + 1), ("single", "i01", start)]


def test_the_flaws_of_a_log_are_found_in_the_splits_that_training_gets(tmp_path: Path) -> None:
    _, (train, valid, test) = built(TextSequentialDataset, write_log(tmp_path / "flawed", flawed()))
    found = leaks_of(train, valid, test)
    assert found == Leaks(
        users=26,
        without_test=2,
        tests=24,
        unseen=1,
        tied=1,
        duplicates=1,
        before_training=23,
        training=found.training,
        later_training=found.later_training,
    )
    notes = found.notes()
    assert len(notes) == 5
    later = f"{found.later_training} of {found.training} training events, 23 of 24 test cases"
    assert notes[0].startswith(
        f"training contains events later than some test cases ({later}); set the config key `split`"
    )
    assert notes[1].startswith("1 of 24 test targets shares its timestamp with the event before; file order decides")
    assert notes[2].startswith("1 of 24 test targets never occurs in training")
    assert notes[3].startswith("2 of 26 users have no test case")
    assert notes[4] == "1 event repeats another one (same user, item and timestamp)"


def test_a_clean_log_has_no_notes(tmp_path: Path) -> None:
    """All training events are before all test events, and all targets occur in training."""
    events = [(f"u{user}", f"i{(user + step) % 6}", 100 * step + user) for user in range(8) for step in range(7)]
    _, splits = built(TextSequentialDataset, write_log(tmp_path / "clean", events))
    assert leaks_of(*splits).notes() == []


words = st.lists(st.sampled_from(["Red", "red", "Lamp", "lamp!", "of", ""]), max_size=3).map(" ".join)


@given(st.lists(words, max_size=8))
@settings(max_examples=200)
def test_items_with_the_same_words_are_counted(texts):
    texts = [" ".join(text.split()) for text in texts]
    with_text = [text for text in texts if text]
    plain = [sorted(text.lower().replace("!", "").split()) for text in with_text]
    same = sum(with_text.count(text) > 1 for text in with_text)
    alike = sum(plain.count(words) > 1 for words in plain)
    found = text_notes(["title"], texts)
    if not alike:
        assert found == []
        return
    (note,) = found
    if not same:
        assert note.startswith(
            f"the texts (title) of {alike} of {len(with_text)} items differ only in case, punctuation"
        )
        return
    assert note.startswith(f"{same} of {len(with_text)} items share identical text (title), ")
    assert (f", and {alike - same} more differ only in case" in note) == (alike > same)
    assert note.endswith(", so text can't tell them apart")
