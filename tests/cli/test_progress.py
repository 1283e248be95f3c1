"""Progress without a terminal: how often a line comes, what it says, and how long the rest is said to take."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from comparisons import Recorder, config_of, tiny_at
from encoders import build_roberta
from hypothesis import given, settings
from hypothesis import strategies as st

from blair_rec.cli.commands.data.prepare import Reading
from blair_rec.cli.progress import HALF_A_MINUTE, Counters, Live, Pace, duration
from blair_rec.cli.terminal import Console
from blair_rec.evaluate.runs.run_files import EpochRecord
from blair_rec.experiment.listener import Job
from blair_rec.experiment.tune import tune


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Training:
    """A job."""

    name: str
    epochs: int
    trained: int = 0
    done: bool = False


def epoch(number: int, best: float | None = None) -> EpochRecord:
    return EpochRecord(number, 5.0 - number / 10, 1.0, 0.1, None if best is None else {"NDCG@10": best})


@given(steps=st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 5)), max_size=40), begun=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_lines_are_half_a_minute_apart_and_extrapolate_what_was_done_since_the_begin(
    steps: list[tuple[float, int]], begun: int
) -> None:
    clock, said = Clock(), list[tuple[float, str]]()
    pace = Pace(lambda line: said.append((clock.now, line)), clock)
    total, done = begun + sum(more for _, more in steps) + 10, begun
    pace.tell("x", done, total)
    expected, last = [], clock.now
    for seconds, more in steps:
        clock.now += seconds
        done += more
        pace.tell("x", done, total)
        if clock.now - last >= HALF_A_MINUTE and done > begun:
            left = (clock.now - 1000) / (done - begun) * (total - done)
            expected.append((clock.now, f"x, about {duration(left)} left"))
            last = clock.now
    assert said == expected


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (5000, "83 min"), (12_000, "3 h 20 min"), (400_000, "4 days")],
)
def test_durations_are_read_at_a_glance(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def live(clock: Clock, **settings: bool) -> tuple[Live, io.StringIO]:
    file = io.StringIO()
    return Live(Console(file=file, width=40), clock=clock, **settings), file


def test_a_training_says_run_epoch_loss_best_and_the_time_left() -> None:
    """Three runs of ten epochs, of which one is done and one stops early; twenty seconds an epoch."""
    clock = Clock()
    shown, file = live(clock)
    jobs = [Training("id-1", 10, done=True), Training("id-2", 10), Training("last-2", 0), Training("text-2", 10)]
    with shown:
        shown.planned(jobs)
        shown.started(jobs[1])
        for number in range(1, 7):
            clock.now += 20
            shown.step(jobs[1], 5, 10, 1.0)
            shown.epoch(jobs[1], epoch(number, 0.01 * min(number, 3)))
        shown.finished(jobs[1], 0.03, 120)
        shown.started(jobs[2])
        shown.finished(jobs[2], 0.02, 0)
        shown.started(jobs[3])
        clock.now += 40
        shown.epoch(jobs[3], epoch(1))
    assert file.getvalue().splitlines() == [
        "already finished: 1 of 4 runs",
        # 40 s for 2 of 20 epochs; lines come with every second epoch
        "id-2, run 2 of 4, epoch 2 of 10: loss 4.800, best 0.0200, about 6 min left",
        "id-2, run 2 of 4, epoch 4 of 10: loss 4.600, best 0.0300, about 5 min left",
        "id-2, run 2 of 4, epoch 6 of 10: loss 4.400, best 0.0300, about 5 min left",
        "id-2: 0.0300 on validation, 120 s",
        "last-2: 0.0200 on validation, 0 s",
        # 160 s for 7 epochs, and 9 to go
        "text-2, run 4 of 4, epoch 1 of 10: loss 4.900, about 3 min left",
    ]


def test_an_epoch_of_minutes_is_a_line_and_its_steps_are_none() -> None:
    clock = Clock()
    shown, file = live(clock)
    jobs = [Training("id-1", 3)]
    shown.planned(jobs)
    shown.started(jobs[0])
    for step in range(100):
        clock.now += 6
        shown.step(jobs[0], step + 1, 100, 1.0)
    shown.epoch(jobs[0], epoch(1, 0.5))
    assert file.getvalue() == "id-1, run 1 of 1, epoch 1 of 3: loss 4.900, best 0.5000, about 20 min left\n"


def test_quiet_prints_no_progress_at_all() -> None:
    clock = Clock()
    shown, file = live(clock, quiet=True)
    jobs = [Training("id-1", 3), Training("id-2", 3, done=True)]
    shown.encoding("bert", 0, 100)
    shown.planned(jobs)
    shown.started(jobs[0])
    clock.now += 100
    shown.encoding("bert", 50, 100)
    shown.epoch(jobs[0], epoch(1, 0.5))
    shown.finished(jobs[0], 0.5, 100)
    assert file.getvalue() == ""


def test_encoding_says_how_many_texts_are_left() -> None:
    clock = Clock()
    shown, file = live(clock)
    for seconds, done in ((0, 0), (20, 500), (20, 1000), (20, 2000), (20, 4000)):
        clock.now += seconds
        shown.encoding("bert[/b]", done, 4000)
    assert file.getvalue().splitlines() == [
        "encoding 4,000 texts with bert[/b]",
        "encoding with bert[/b]: 1,000 of 4,000 texts, about 2 min left",
    ]


def test_reading_says_how_many_megabytes_are_left() -> None:
    clock, file = Clock(), io.StringIO()
    with Reading(Console(file=file, width=200)) as reading:
        reading.counters.clock = clock
        for seconds, done in ((0, 0), (45, 150_000_000), (45, 300_000_000), (45, 450_000_000)):
            clock.now += seconds
            reading.progress("reading a.jsonl", done, 450_000_000)
        reading.tell("3 events")
    assert file.getvalue().splitlines() == [
        "reading a.jsonl: 150 of 450 MB, about 2 min left",
        "reading a.jsonl: 300 of 450 MB, about 45 s left",
        "3 events",
    ]


def test_on_a_terminal_bars_take_the_place_of_lines() -> None:
    clock, file = Clock(), io.StringIO()
    with Counters(Console(file=file, force_terminal=True, width=200), clock=clock) as counters:
        for done in range(1, 4):
            clock.now += 100
            counters.update("pre-training", done, 4, "a line", "a note")
    assert "a note" in file.getvalue() and "a line" not in file.getvalue()


class Jobs(Recorder):
    """Remembers what was planned, and adds up what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.plan: list[str] = []
        self.skipped_jobs: list[str] = []
        self.tried: list[str] = []
        self.trained: dict[str, list[int]] = {}

    def planned(self, jobs: object) -> None:
        assert isinstance(jobs, list)
        self.plan += [job.name for job in jobs]

    def epoch(self, job: Job, epoch: EpochRecord) -> None:
        assert job.trained < epoch.epoch <= job.epochs
        self.trained.setdefault(job.name, []).append(epoch.epoch)

    def finished(self, job: Job, value: float, seconds: float, settings: str = "") -> None:
        super().finished(job, value, seconds)
        self.tried.append(settings)

    def skipped(self, job: Job) -> None:
        self.skipped_jobs.append(job.name)


def test_a_tuning_reports_as_many_trials_as_it_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = build_roberta(tmp_path / "models" / "tiny-roberta")
    space = {"space": {"train.learning_rate": [0.003, 0.01, 0.03, 0.1]}, "budget": 4, "rungs": [1]}
    variants = {"id": {}, "popular": {"scorer": "popularity"}}
    config = config_of(tiny_at(tmp_path), encoder, variants=variants, seeds=[1], train={"epochs": 3}, tune=space)
    first, again = Jobs(), Jobs()
    tune(config, tmp_path / "out", listener=first)
    assert len(first.plan) == len(first.finished_runs) == 4 + 2 and first.started_runs == first.finished_runs
    assert [re.sub(r"\d,", "n,", name) for name in first.finished_runs] == [
        *["id, trial n, to epoch 1"] * 4,
        *["id, trial n, to epoch 3"] * 2,
    ]
    assert sorted(first.trained.values()) == [[1]] * 4 + [[2, 3]] * 2
    assert first.tried[0].startswith("learning_rate 0.")
    tune(config, tmp_path / "out", listener=again)
    assert (again.started_runs, again.skipped_jobs) == ([], first.finished_runs)
