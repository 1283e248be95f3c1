"""What a comparison or a tuning reports while it works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Job(Protocol):
    """One training: a run of a comparison, or a trial of a tuning."""

    @property
    def name(self) -> str:
        """Such as id-1."""

    @property
    def epochs(self) -> int:
        """The last epoch, if nothing ends the training before; 0 for what isn't trained."""

    @property
    def trained(self) -> int:
        """The epochs before this job, from whose weights it goes on."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""


class Listener:
    """Receives the progress of a comparison or a tuning; the command line shows it."""

    def encoding(self, encoder: str, done: int, total: int) -> None:
        """`done` of `total` texts have their vectors."""

    def planned(self, jobs: Sequence[Job]) -> None:
        """Before the first training."""

    def started(self, job: Job) -> None:
        """A training begins."""

    def step(self, job: Job, done: int, total: int, loss: float) -> None:
        """`done` of about `total` training steps of an epoch are done; `loss` is the last one's."""

    def epoch(self, job: Job, epoch: Any) -> None:
        """An epoch (recommend.trainer.Epoch) of the job is over."""

    def finished(self, job: Job, value: float, seconds: float, settings: str = "") -> None:
        """The job's result is written; `value` is its best validation metric, `settings` what a trial tried."""

    def skipped(self, job: Job) -> None:
        """A job that was planned turned out to be finished already."""
