"""The main job: every variant with every seed under one budget; what is finished is not done again."""

from __future__ import annotations

import dataclasses
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from blair_rec.config import CompareConfig, TextConfig, VariantConfig, read_config, to_dict
from blair_rec.errors import ChangedRuns, ConfigError, OutputError
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.report import write_reports
from blair_rec.evaluate.results import load_runs
from blair_rec.plan import Run, changes, data_folder, plan, text_variants, write_text

# RecBole and torch are imported where training starts: planning and rendering take neither.


class Listener:
    """Told what a comparison does; the command line shows it."""

    def encoding(self, encoder: str, done: int, total: int) -> None:
        """`done` of `total` texts have their vectors."""

    def planned(self, runs: list[Run]) -> None:
        """Before the first training."""

    def started(self, run: Run) -> None:
        """A training begins."""

    def epoch(self, run: Run, epoch: Any) -> None:
        """An epoch (recommend.trainer.Epoch) of the run is over."""

    def finished(self, run: Run, value: float, seconds: float) -> None:
        """The run is written; `value` is its best validation metric."""


def compare(
    config: CompareConfig, out: Path, *, fresh: bool = False, listener: Listener | None = None
) -> Leaderboard | None:
    """Encode, train, evaluate, and rank; started again, it goes on where it stopped.

    Returns the leaderboard, or None while the baseline has no finished run.

    Raises:
        ChangedRuns: `out` holds runs of another config, data set, store or version, and `fresh` was not said.
        OutputError: `out` can't be written.
        ConfigError, DatasetError, and what encoding and training raise.
    """
    listener = listener or Listener()
    _make_writable(out)
    stores = {name: _encode(config, config.variants[name], out, listener) for name in text_variants(config)}
    hashes = {name: store.store_sha256 for name, (store, _) in stores.items()}
    runs = plan(config, out, hashes)
    if fresh:
        for run in runs:
            shutil.rmtree(run.folder, ignore_errors=True)
        runs = [dataclasses.replace(run, done=False) for run in runs]
    _refuse_changed(runs, out)
    write_text(out / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
    listener.planned(runs)
    pending = [run for run in runs if not run.done]
    if pending:
        from blair_rec.run import Data, train_run

        data = Data(config, data_folder(config.dataset))
        for run in pending:
            listener.started(run)
            begin = time.perf_counter()
            value = train_run(config, run, data, stores.get(run.variant), on_epoch=partial(listener.epoch, run))
            listener.finished(run, value, time.perf_counter() - begin)
    return leaderboard(out)


def leaderboard(out: Path) -> Leaderboard | None:
    """Render a comparison folder's finished runs again: leaderboard.{md,csv,json} and results.jsonl.

    None, and nothing written, while the baseline has no finished run.

    Raises:
        NoRuns, BadRun, UnpairedRuns, ConfigError: the folder is not a comparison, or damaged.
    """
    path = out / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{out} is not the folder of a comparison: it has no config.yaml; give the folder of `-o`")
    config = read_config(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    runs = [run for run in load_runs(out) if run.variant in config.variants and run.seed in config.seeds]
    if not any(run.variant == config.baseline for run in runs):
        return None
    board = build_leaderboard(runs, config.baseline, config.evaluate.metrics, config.evaluate.protocol)  # type: ignore[arg-type]
    write_reports(board, out)
    return board


def _encode(config: CompareConfig, variant: VariantConfig, out: Path, listener: Listener) -> Any:
    from blair_rec.item_vectors import encoded_store, find_encoder

    text: TextConfig = config.text_of(variant)
    folder = data_folder(config.dataset)
    source = find_encoder(text)
    return encoded_store(
        text,
        folder / f"{folder.name}.item",
        out / "stores",
        source,
        progress=lambda done, total: listener.encoding(source.name, done, total),
    )


def _refuse_changed(runs: list[Run], out: Path) -> None:
    stale = {run: words for run in runs if run.done and (words := changes(run))}
    if stale:
        words = list(dict.fromkeys(word for words in stale.values() for word in words))
        raise ChangedRuns(out, [run.folder.name for run in stale], words)


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{out} can't be written ({error.strerror}); choose another folder with -o") from None
