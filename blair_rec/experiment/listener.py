"""Progress reports of a comparison or of tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Job(Protocol):
    """One training: a run of a comparison, or a trial of tuning."""

    @property
    def name(self) -> str:
        """The name of the run, such as id-1."""

    @property
    def epochs(self) -> int:
        """The last epoch, unless training stops early; 0 if nothing is trained."""

    @property
    def trained(self) -> int:
        """The number of epochs before this job, which resumes from their weights."""

    @property
    def done(self) -> bool:
        """Whether the job is finished already."""


class Listener:
    """Receives the progress of a comparison or of tuning. Inherit from it, and override the methods that you need."""

    def encoding(self, encoder: str, done: int, total: int) -> None:
        """Report that `done` of `total` texts are encoded."""

    def planned(self, jobs: Sequence[Job]) -> None:
        """Report all jobs, before the first training starts."""

    def started(self, job: Job) -> None:
        """Report that a training begins."""

    def step(self, job: Job, done: int, total: int, loss: float) -> None:
        """Report that `done` of about `total` steps of an epoch are done; `loss` is that of the last step."""

    def epoch(self, job: Job, epoch: Any) -> None:
        """Report that an epoch (a training.loop.Epoch) of the job is done."""

    def finished(self, job: Job, value: float, seconds: float, settings: str = "") -> None:
        """Report that the job's result is written.

        `value` is its best validation metric, `seconds` its time, and `settings` are those of a trial, in words.
        """

    def skipped(self, job: Job) -> None:
        """Report that a planned job was already finished."""
