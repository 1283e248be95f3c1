"""The main job: every variant with every seed under one budget; what is finished is not done again."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blair_rec.config import CompareConfig, load_config
from blair_rec.errors import ConfigError, OutputError
from blair_rec.evaluate.agreement import Move, moves
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.metrics import parse_metric
from blair_rec.evaluate.page.cards import write_cards
from blair_rec.evaluate.report import write_reports
from blair_rec.evaluate.results import load_run, load_runs
from blair_rec.evaluate.run_files import CONFIG_FILE, RUNS_FOLDER
from blair_rec.files import alone_in, tidy, write_text
from blair_rec.item_cards import comparison_cards
from blair_rec.item_vectors import Vectors, find_encodings
from blair_rec.leakage import leaks_of
from blair_rec.plan import (
    Run,
    data_folder,
    data_hash,
    finished_runs,
    plan,
    refuse_changed,
    with_members,
)
from blair_rec.provenance import hash_of
from blair_rec.sections import write_yaml
from blair_rec.text.notes import cut_notes
from blair_rec.text.store import EmbeddingStore

if TYPE_CHECKING:
    from blair_rec.run import Data

logger = logging.getLogger("blair_rec")

# RecBole and torch are imported where training starts: planning and rendering take neither.

STORES_FOLDER, CHECKPOINTS_FOLDER = "stores", "checkpoints"


class Listener:
    """Told what a comparison does; the command line shows it."""

    def encoding(self, encoder: str, done: int, total: int) -> None:
        """`done` of `total` texts have their vectors."""

    def planned(self, runs: list[Run]) -> None:
        """Before the first training."""

    def started(self, run: Run) -> None:
        """A training begins."""

    def step(self, run: Run, done: int, total: int, loss: float) -> None:
        """`done` of about `total` training steps of an epoch of the run are done; `loss` is the last one's."""

    def epoch(self, run: Run, epoch: Any) -> None:
        """An epoch (recommend.trainer.Epoch) of the run is over."""

    def finished(self, run: Run, value: float, seconds: float) -> None:
        """The run is written; `value` is its best validation metric."""


def compare(
    config: CompareConfig, out: Path, *, fresh: bool = False, listener: Listener | None = None
) -> Leaderboard | None:
    """Encode, train, evaluate, and rank; started again, it goes on where it stopped, with the epoch that it was in.

    What can be wrong is looked for before anything is encoded, and again before anything is trained. With `fresh` all
    runs are trained again; a finished one is there until its successor is whole.

    Returns the leaderboard, or None while the baseline has no finished run.

    Raises:
        ChangedRuns: `out` holds runs of another config, data set, store or version, and `fresh` was not said.
        BadRun: `out` holds damaged runs, and `fresh` was not said.
        OutputError: `out` can't be written, or another process is at work in it.
        ConfigError, DatasetError, and what encoding and training raise.
    """
    listener = listener or Listener()
    with alone_in(out):
        tidy(out / RUNS_FOLDER)
        folder = data_folder(config.dataset)
        encodings, runs = planned(config, out)
        if fresh:
            runs = [dataclasses.replace(run, done=False) for run in runs]
            shutil.rmtree(out / CHECKPOINTS_FOLDER, ignore_errors=True)
        refuse_changed(runs, out)
        pending = [run for run in runs if not run.done]
        if pending:
            from blair_rec.run import Data, make_run

            data = Data(config, folder)
            for vectors in dict.fromkeys(encodings.values()):
                vectors.check(data.item_tokens[1:])
            data.notes = _notes(data, encodings)
            stores = encode_stores({run.variant: encodings[run.variant] for run in pending if run.store}, listener)
            for name, made in stores.items():  # whether they cover the items, before anything is trained
                made.find(data.item_tokens[1:], config.text_of(config.variants[name]).missing_text)
            data.notes = _with_cut_texts(data, stores)
            runs = [_with_store(run, stores) for run in runs]
            refuse_changed(runs, out)
        write_text(out / CONFIG_FILE, write_yaml(config))
        listener.planned(runs)
        for run in runs:
            if run.done:
                continue
            run = with_members(run)  # they are finished by now
            listener.started(run)
            begin = time.perf_counter()
            store = (stores[run.variant], run.store) if run.store else None
            told = partial(listener.epoch, run), partial(listener.step, run)
            value = make_run(config, run, data, store, *told, checkpoint=_checkpoint(run, out))
            listener.finished(run, value, time.perf_counter() - begin)
        shutil.rmtree(out / CHECKPOINTS_FOLDER, ignore_errors=True)
        tokens = load_run(runs[0].folder).item_tokens
        write_cards(out, comparison_cards(folder, encodings.values(), tokens))
    return leaderboard(out)


def planned(config: CompareConfig, out: Path) -> tuple[dict[str, Vectors], list[Run]]:
    """The vectors that the variants ask for, and the runs; nothing is encoded, trained or written.

    Raises:
        ConfigError: a metric that there isn't; DatasetError: no such data set.
        CatalogueError, MissingField, EncoderUnavailable, UnknownEncoder: of the items' text and the encoder.
        StoreError: of vectors that should be there already.
    """
    for metric in config.evaluate.metrics:
        parse_metric(metric)
    data = data_hash(config)
    encodings = find_encodings(config, data_folder(config.dataset), out / STORES_FOLDER)
    return encodings, plan(config, out, encodings, data)


def leaderboard(out: Path) -> Leaderboard | None:
    """Render a comparison folder's finished runs again: leaderboard.{md,csv,json,html} and results.jsonl.

    None, and nothing written, while the baseline has no finished run.

    Raises:
        NoRuns, BadRun, UnpairedRuns, ChangedRuns, ConfigError: the folder is not a comparison, or damaged.
        OutputError: it can't be written.
    """
    config = _config_in(out)
    runs = finished_runs(config, out)
    if not any(run.variant == config.baseline for run in runs):
        return None
    board = build_leaderboard(runs, config.baseline, config.evaluate.metrics, config.evaluate.protocol)  # type: ignore[arg-type]
    from blair_rec.evaluate.page.render import write_page  # brings Matplotlib, which planning does without

    try:
        write_reports(board, out)
        write_page(board, runs, out)
    except OSError as error:
        raise OutputError(f"{out} can't be written ({error.strerror}), so there is no leaderboard in it") from None
    return board


def check(out: Path, other: Path) -> list[Move]:
    """How every metric of a comparison's finished runs moved against those of an older one, and whether beyond noise.

    Raises:
        NoRuns, BadRun, ConfigError: one of the folders is no comparison, or damaged, or they share no variant.
        UnpairedRuns: they ranked other items or test cases.
    """
    config = _config_in(out)
    return moves(finished_runs(config, out), load_runs(other), config.evaluate.metrics)


def _config_in(out: Path) -> CompareConfig:
    path = out / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{out} is not the folder of a comparison: it has no {path.name}; give the folder of `-o`")
    return load_config(path)


def encode_stores(encodings: dict[str, Vectors], listener: Listener) -> dict[str, EmbeddingStore]:
    """The store of each variant; one that several share is made, and read, once."""
    stores: dict[Vectors, EmbeddingStore] = {}
    for encoding in encodings.values():
        if encoding not in stores:
            stores[encoding] = encoding.encode(partial(listener.encoding, encoding.encoder))
    return {name: stores[encoding] for name, encoding in encodings.items()}


def _notes(data: Data, encodings: dict[str, Vectors]) -> tuple[str, ...]:
    """What a reader of the results has to know about the data and its texts; logged, and written into every run."""
    found = leaks_of(data.train, data.valid, data.test).notes()
    for encoding in dict.fromkeys(encodings.values()):
        found += encoding.notes(data.item_tokens[1:])
    return _told(found)


def _with_cut_texts(data: Data, stores: dict[str, EmbeddingStore]) -> tuple[str, ...]:
    """The notes, with those on texts that are longer than their encoder reads, which encoding has counted."""
    return _told([note for made in stores.values() for note in cut_notes(made, data.item_tokens[1:])], data.notes)


def _told(found: Iterable[str], before: Sequence[str] = ()) -> tuple[str, ...]:
    """The notes from before and those that were found, each once; new ones are logged."""
    notes = tuple(dict.fromkeys([*before, *found]))
    for note in notes[len(before) :]:
        logger.info("data: %s", note)
    return notes


def _checkpoint(run: Run, out: Path) -> Path:
    """Where a run that is being trained is kept: under another name for any other config, data, store or version."""
    folder = out / CHECKPOINTS_FOLDER
    folder.mkdir(exist_ok=True)
    return folder / f"{run.folder.name}-{hash_of(dict(run.hashes))[:16]}.safetensors"


def _with_store(run: Run, stores: dict[str, EmbeddingStore]) -> Run:
    if run.variant not in stores:
        return run
    return dataclasses.replace(run, hashes={**run.hashes, "store": stores[run.variant].store_sha256})
