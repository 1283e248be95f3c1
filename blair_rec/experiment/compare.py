"""The main job: every variant with every seed under one budget; what is finished is not done again."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blair_rec.border.recbole_keys import setting_problems
from blair_rec.config.comparison import CompareConfig, load_config, written
from blair_rec.config.yaml_files import refuse
from blair_rec.errors import ConfigError, FolderBusy, OutputError
from blair_rec.evaluate.agreement import Move, moves
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.metrics import parse_metric
from blair_rec.evaluate.page.cards import CARDS_FILE, PAGE_FILE, write_cards
from blair_rec.evaluate.report import REPORT_FILES, write_reports
from blair_rec.evaluate.runs.results import RunResult, load_run, load_runs
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, RESULT_FILE, RUNS_FOLDER
from blair_rec.experiment.item_cards import comparison_cards
from blair_rec.experiment.item_vectors import ITEM_FIELD, Vectors, items_reader
from blair_rec.experiment.listener import Listener
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.planning.finished import finished_runs, refuse_changed
from blair_rec.experiment.planning.plan import Run, run_names, with_members
from blair_rec.experiment.planning.subset import Plan, averages_of, own_config, plan_all
from blair_rec.experiment.provenance import hash_of
from blair_rec.experiment.splits.leakage import leaks_of, new_items_notes
from blair_rec.files import alone_in, refuse_taken, tidy, write_text
from blair_rec.lines.rejected import REJECTED
from blair_rec.registry import trusting
from blair_rec.text.notes import cut_notes
from blair_rec.text.store.embeddings import EmbeddingStore

if TYPE_CHECKING:
    from blair_rec.experiment.run import Data

logger = logging.getLogger("blair_rec")

# RecBole and torch are imported where training starts: planning and rendering take neither.

CHECKPOINTS_FOLDER = "checkpoints"
WRITTEN = (CONFIG_FILE, RUNS_FOLDER, CHECKPOINTS_FOLDER, REJECTED, CARDS_FILE, *REPORT_FILES, PAGE_FILE)
"""What a comparison replaces or removes in its folder."""


def compare(
    config: CompareConfig | str | Path,
    out: str | Path,
    *,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    fresh: bool = False,
    accept_code: bool = False,
    listener: Listener | None = None,
) -> Leaderboard | None:
    """Encode, train, evaluate, and rank; started again, it goes on where it stopped, with the epoch that it was in.

    What can be wrong is looked for before anything is encoded, and again before anything is trained.

        board = blair_rec.compare("my.yaml", "runs/mine")
        for row in board.rows: ...  # one for each variant, best first

    Args:
        config: a comparison file, or what load_config has read of one.
        variants, seeds: what to run now, if not all; the folder's config and board keep the rest. Seeds that the config
            doesn't name take the place of its own.
        fresh: make these runs again, and the text vectors that other code has made; a finished run is there until its
            successor is whole.
        accept_code: keep finished runs that other code has made, and note that in them.

    Returns the leaderboard, or None while the baseline has no finished run.

    Raises:
        ChangedRuns: `out` holds runs of another config, data set, store or code, and `fresh` was not said.
        BadRun: `out` holds damaged runs, and `fresh` was not said.
        OutputError: `out` can't be written, or holds files of such names that no comparison wrote.
        FolderBusy: another process is at work in it.
        ConfigError, DatasetError, and what encoding and training raise.
    """
    listener, out = listener or Listener(), Path(out)
    config = own_config(config)
    refuse_taken(out, WRITTEN, (f"{RUNS_FOLDER}/*/{RESULT_FILE}",))  # before a lock is put there
    with trusting(config.code), alone_in(out):
        for place in (out, out / RUNS_FOLDER, out / CHECKPOINTS_FOLDER):
            tidy(place)
        folder = data_folder(config.dataset)
        planned_now = planned(config, out, variants, seeds)
        asked, encodings = planned_now.asked, planned_now.encodings
        others = [run for run in planned_now.runs if run not in asked]
        if fresh:
            asked = [dataclasses.replace(run, done=False) for run in asked]
            shutil.rmtree(out / CHECKPOINTS_FOLDER, ignore_errors=True)
        asked = [*asked, *averages_of([run.folder for run in asked if not run.done], others)]
        now = {run.folder for run in asked}
        refuse_changed([*asked, *(run for run in others if run.folder not in now)], out, accept_code)
        pending = [run for run in asked if not run.done]
        whole = planned_now.config
        if pending:
            from blair_rec.experiment.fit import check_outside, check_transforms
            from blair_rec.experiment.run import make_run, whole_data

            check_outside(whole, {run.variant for run in pending})
            data = whole_data(whole, folder)
            data.rejected.write(out / REJECTED)
            wanted = {run.variant: encodings[run.variant] for run in asked if run.store}
            missing = {name: whole.text_of(whole.variants[name]).missing_text for name in wanted}
            for vectors, missing_text in dict.fromkeys((wanted[name], missing[name]) for name in wanted):
                vectors.check(data.all_items, missing_text)
            data.notes = _notes(whole, data, wanted)
            stores = encode_stores(
                {run.variant: encodings[run.variant] for run in pending if run.store}, listener, fresh
            )
            for name, made in stores.items():  # whether they cover the items, before anything is trained
                made.find(data.all_items, missing[name])
                check_transforms(whole, name, data, made)
            data.notes = _with_cut_texts(data, stores)
            asked = [_with_store(run, stores) for run in asked]
            refuse_changed(asked, out, accept_code)
        write_text(out / CONFIG_FILE, written(whole))
        listener.planned(asked)
        for run in asked:
            if run.done:
                continue
            run = with_members(run)  # they are finished by now
            listener.started(run)
            begin = time.perf_counter()
            store = (stores[run.variant], run.store) if run.store else None
            told = partial(listener.epoch, run), partial(listener.step, run)
            value = make_run(whole, run, data, store, *told, checkpoint=_checkpoint(run, out))
            listener.finished(run, value, time.perf_counter() - begin)
        shutil.rmtree(out / CHECKPOINTS_FOLDER, ignore_errors=True)
        tokens = load_run(asked[0].folder).item_tokens
        item_field = config.recbole.get("ITEM_ID_FIELD", ITEM_FIELD)
        write_cards(out, comparison_cards(folder, encodings.values(), tokens, item_field, items_reader(config.recbole)))
        return _rendered(out, config.only(variants).baseline if variants else config.baseline)


def planned(
    config: CompareConfig, out: Path, variants: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> Plan:
    """The vectors that the variants ask for, and the runs; nothing is encoded, trained or written.

    `variants` and `seeds` are what is asked for, if not all.

    Raises:
        ConfigError: a metric or variant that there isn't; DatasetError: no such data set.
        CatalogueError, MissingField, EncoderUnavailable, UnknownEncoder: of the items' text and the encoder.
        StoreError: of vectors that should be there already.
    """
    for metric in config.evaluate.metrics:
        parse_metric(metric)
    refuse(setting_problems(config))
    with trusting(config.code):
        return plan_all(config, out, variants, seeds)


def leaderboard(out: str | Path) -> Leaderboard | None:
    """Render a comparison folder's finished runs again: leaderboard.{md,csv,json,html} and results.jsonl.

    None, and nothing written, while the baseline has no finished run. While another process is at work in the folder
    the board is made of what is finished, and its files are left to that process. No code that the folder's config
    names is imported.

        board = blair_rec.leaderboard("runs/mine")

    Raises:
        NoRuns, BadRun, UnpairedRuns, ChangedRuns, ConfigError: the folder is not a comparison, or damaged.
        OutputError: it can't be written.
    """
    out = Path(out)
    _config_in(out)  # before a lock is put into a folder that is no comparison
    try:
        with alone_in(out):
            return _rendered(out)
    except FolderBusy:
        logger.warning("another process is at work in %s, so the files of the leaderboard are left to it", out)
        return _board(out, None)[0]


def _rendered(out: Path, baseline: str | None = None) -> Leaderboard | None:
    """The board, written; `baseline` is whom to compare with while the config's own has no finished run."""
    board, runs = _board(out, baseline)
    if board is None:
        return None
    from blair_rec.evaluate.page.render import write_page  # brings Matplotlib, which planning does without

    try:
        write_reports(board, out)
        write_page(board, runs, out)
    except OSError as error:
        raise OutputError(f"{out} can't be written ({error.strerror}), so there is no leaderboard in it") from None
    return board


def _board(out: Path, baseline: str | None) -> tuple[Leaderboard | None, list[RunResult]]:
    config = _config_in(out)
    runs = finished_runs(config, out)
    finished = {run.variant for run in runs}
    baseline = config.baseline if config.baseline in finished else baseline
    if baseline not in finished:
        return None, runs
    names = {run.folder.name for run in runs}
    pending = [name for name in run_names(config, config.variants, config.seeds) if name not in names]
    evaluate = config.evaluate
    return build_leaderboard(runs, baseline, evaluate.metrics, evaluate.protocol, pending), runs


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


def encode_stores(encodings: dict[str, Vectors], listener: Listener, renew: bool = False) -> dict[str, EmbeddingStore]:
    """The store of each variant; one that several share is made, and read, once. `renew` is that of Vectors.encode."""
    stores: dict[Vectors, EmbeddingStore] = {}
    for encoding in encodings.values():
        if encoding not in stores:
            stores[encoding] = encoding.encode(partial(listener.encoding, encoding.encoder), renew)
    return {name: stores[encoding] for name, encoding in encodings.items()}


def _notes(config: CompareConfig, data: Data, encodings: dict[str, Vectors]) -> tuple[str, ...]:
    """What a reader of the results has to know about the data and its texts; logged, and written into every run."""
    found, of_new_items = leaks_of(data.train, data.valid, data.test).notes(), new_items_notes(config, data.new_items)
    if data.new_items is not None:
        found += of_new_items
    for encoding in dict.fromkeys(encodings.values()):
        found += encoding.notes(data.item_tokens[1:])
    left_out = [f"{data.rejected.note('events')}; they are in {REJECTED}"] if data.rejected.count else []
    notes = _told(found, (*data.unread, *left_out, *data.reading_notes))  # these were logged when the files were read
    return tuple(dict.fromkeys([*notes, *of_new_items]))  # that nothing was measured is for the board alone


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
