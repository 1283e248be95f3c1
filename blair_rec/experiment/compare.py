"""The main job: run every variant with every seed under the same budget, without repeating finished runs."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blair_rec.border.recbole_keys import setting_problems
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.section import to_dict
from blair_rec.config.yaml.files import refuse
from blair_rec.device import choose_device
from blair_rec.errors import CheckpointError, first_of
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.evaluate.metrics import parse_metric
from blair_rec.evaluate.notes import SHOWN_NOTES, by_importance
from blair_rec.evaluate.page.cards import CARDS_FILE, PAGE_FILE, write_cards
from blair_rec.evaluate.report import REPORT_FILES
from blair_rec.evaluate.runs.recorded import differences
from blair_rec.evaluate.runs.results import load_run
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, RESULT_FILE, RUNS_FOLDER
from blair_rec.experiment.board import rendered
from blair_rec.experiment.item_cards import comparison_cards
from blair_rec.experiment.item_vectors import ITEM_FIELD, Vectors, items_reader
from blair_rec.experiment.listener import Listener
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.planning.locks import (
    Made,
    alone_soon,
    checkpoint_in,
    clear_finished,
    clear_up,
    config_text,
    forget_checkpoints,
    holds,
    make_once,
    note_replaced,
    once_free,
    without_replaced,
    work_off,
    write_config,
)
from blair_rec.experiment.planning.own_config import own_config
from blair_rec.experiment.planning.plan import Run, made_how, made_of
from blair_rec.experiment.planning.shards import Shard, shard_names
from blair_rec.experiment.planning.still_valid import refuse_changed
from blair_rec.experiment.planning.subset import Plan, averages_of, plan_all
from blair_rec.experiment.splits.leakage import file_notes, leaks_of, new_items_notes
from blair_rec.files.places import refuse_taken, refuse_unwritable
from blair_rec.files.writing import tidy
from blair_rec.lines.rejected import REJECTED
from blair_rec.registry import trusting
from blair_rec.text.notes import cut_notes
from blair_rec.text.store.embeddings import EmbeddingStore

if TYPE_CHECKING:
    from blair_rec.experiment.run import Data

logger = logging.getLogger("blair_rec")

# RecBole and torch are imported only where training starts: planning and rendering don't need them.

WRITTEN = (CONFIG_FILE, RUNS_FOLDER, REJECTED, CARDS_FILE, *REPORT_FILES, PAGE_FILE)
"""Files and folders that a comparison replaces or removes in its output folder."""


def compare(
    config: CompareConfig | str | Path,
    out: str | Path,
    *,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    fresh: bool = False,
    accept_code: bool = False,
    shard: Shard | None = None,
    encode_only: bool = False,
    listener: Listener | None = None,
) -> Leaderboard | None:
    """Encode texts, train all variants, evaluate them, and write the leaderboard.

    An interrupted comparison resumes where it stopped, with the epoch that was being trained. Errors in config and data
    are found before texts are encoded, and again before training.

        board = blair_rec.compare("my.yaml", "runs/mine")
        for row in board.rows: ...  # one for each variant, best first

    Args:
        config: a comparison file, or the result of load_config.
        out: the folder of the comparison, created if needed.
        variants, seeds: the ones to run now; default: all. The folder's config and leaderboard keep the rest. Seeds
            that are not in the config replace its seeds.
        fresh: repeat these runs, and encode texts again if their vectors were made by other code. A finished run is
            kept until the new one is complete. To resume after an interruption, leave `fresh` out.
        accept_code: keep finished runs that were made by other code, and record that in them.
        shard: (i, n) trains every n-th run from number i on (counted from 0), for job arrays: docs/many_machines.md.
            Averages and students are made by any process that finds all their members, or their teacher, finished.
        encode_only: make the text vectors, then stop.
        listener: receives the progress: texts encoded, runs started, epochs trained, runs finished.

    Several processes may work in `out`: each run is trained by one of them. A plain comparison waits for runs that
    another process is training; a shard does not.

    Returns:
        The leaderboard; None for a shard that leaves runs to other processes, and with `encode_only`. While the
        baseline has no finished run, the first finished variant of the config is the baseline, and a note says so.

    Raises:
        ChangedRuns: `out` has runs of another config, data set, store or code, and `fresh` is false.
        BadRun: `out` has damaged runs, and `fresh` is false.
        OutputError: `out` can't be written, or has files with our names that no comparison wrote.
        FolderBusy: another process has changed the folder's config meanwhile, or keeps its lock.
        ConfigError, DatasetError: the config or the data can't be used. Encoding and training have more errors.
    """
    listener, out = listener or Listener(), Path(out)
    config = own_config(config)
    check_out(out)  # before the lock file
    with trusting(config.code):
        with alone_soon(out):
            tidy(out)
            config_before = config_text(out)
        clear_up(out / RUNS_FOLDER)
        folder = data_folder(config.dataset)
        planned_now = planned(config, out, variants, seeds)
        asked, encodings, whole = planned_now.asked, planned_now.encodings, planned_now.config
        others = [run for run in planned_now.runs if run.folder not in {one.folder for one in asked}]
        names = None if shard is None else shard_names(whole, variants or config.variants, seeds or config.seeds, shard)
        if fresh:
            asked = [dataclasses.replace(run, done=not _is_own(run, names) and holds(run)) for run in asked]
        renewed = [run.folder for run in asked if fresh]
        asked = [*asked, *averages_of([run.folder for run in asked if not run.done], others)]
        now = {run.folder for run in asked}
        refuse_changed([*asked, *(run for run in others if run.folder not in now)], out, accept_code)
        for warning in planned_now.warnings:  # not before: a refused comparison changes no board
            logger.warning("%s", warning)
        made = Made([run for run in asked if not run.done], planned_now.runs, renewed)
        clear_finished(asked)
        pending = [run for run in asked if not run.done and _is_own(run, names)]
        stores: dict[str, EmbeddingStore] = {}
        if pending:
            data, stores = _prepared(whole, folder, out, asked, pending, encodings, listener, fresh)
            asked = [_with_store(run, stores) for run in asked]
            pending = [_with_store(run, stores) for run in pending]
            refuse_changed(asked, out, accept_code)
        if encode_only:
            return None
        with alone_soon(out):
            write_config(whole, out, config_before)
        if fresh:
            note_replaced(pending)
        listener.planned([run for run in asked if _is_own(run, names)])

        def make(run: Run) -> bool:
            return make_once(run, made, out, partial(_train, whole, data, stores, fresh, listener), listener)

        for run in work_off(pending, make, wait=shard is None):
            if lacking := made.lacking(run):
                does = made_how(run.setup)
                logger.info("%s %s %s, which other processes make first", run.name, does, ", ".join(lacking))
            else:
                logger.warning("another process is training %s, so it is left to that process", run.name)
        if not all(made.is_made(run.folder) for run in asked):
            return None
        with alone_soon(out):
            tokens = load_run(asked[0].folder).item_tokens
            field, read = config.recbole.get("ITEM_ID_FIELD", ITEM_FIELD), items_reader(config.recbole)
            write_cards(out, comparison_cards(folder, encodings.values(), tokens, field, read))
            return rendered(out)


def check_out(out: Path) -> None:
    """Check that a comparison may be written into `out`.

    Raises:
        OutputError: `out` can't be written, or has files with our names that no comparison wrote.
    """
    refuse_taken(out, WRITTEN, (f"{RUNS_FOLDER}/*/{RESULT_FILE}",), folders=(RUNS_FOLDER,))
    refuse_unwritable(out)


def _prepared(
    config: CompareConfig,
    folder: Path,
    out: Path,
    asked: Sequence[Run],
    pending: Sequence[Run],
    encodings: Mapping[str, Vectors],
    listener: Listener,
    fresh: bool,
) -> tuple[Data, dict[str, EmbeddingStore]]:
    """Read the data set, check what can be checked before training, and encode the texts of the pending runs.

    Returns the data, and the store of each pending variant that uses text. Checks come before texts are encoded.
    """
    from blair_rec.experiment.elsewhere.run import check_elsewhere
    from blair_rec.experiment.fit import check_outside, check_transforms
    from blair_rec.experiment.members.rerank import check_second_stages
    from blair_rec.experiment.run import whole_data

    choose_device(config.computed_on)  # fails early if there is no such device
    check_outside(config, {run.variant for run in pending})
    data = whole_data(config, folder)
    check_second_stages(config, dict.fromkeys(run.variant for run in pending), data)
    check_elsewhere(config, pending, data, data.test)
    with alone_soon(out):
        data.rejected.write(out / REJECTED)
    wanted = {run.variant: encodings[run.variant] for run in asked if run.store}
    missing = {name: config.text_of(config.variants[name]).missing_text for name in wanted}
    for vectors, missing_text in dict.fromkeys((wanted[name], missing[name]) for name in wanted):
        vectors.check(data.all_items, missing_text)
    data.notes = _notes(config, data, wanted)
    stores = encode_stores({run.variant: encodings[run.variant] for run in pending if run.store}, listener, fresh)
    for name, store in stores.items():  # check before training that they cover the items
        store.find(data.all_items, missing[name])
        check_transforms(config, name, data, store)
    data.notes = _with_cut_texts(data, stores)
    return data, stores


def _is_own(run: Run, names: Collection[str] | None) -> bool:
    """Whether this process makes a run: any average or student, and the runs in `names`; None means all."""
    return names is None or run.name in names or bool(made_of(run.folder, run.setup))


def _train(
    config: CompareConfig,
    data: Data,
    stores: Mapping[str, EmbeddingStore],
    fresh: bool,
    listener: Listener,
    run: Run,
    work: Path,
) -> None:
    """Train and write a run. It resumes from the checkpoint in its work folder, unless `fresh`."""
    from blair_rec.experiment.run import make_run

    checkpoint = checkpoint_in(work, run)
    if fresh:
        forget_checkpoints(work)
    elif not checkpoint.is_file():
        for used in _other_checkpoints(work, run):
            logger.warning("%s begins again: its checkpoint used %s; restore these to resume it", run.name, used)
    listener.started(run)
    begin = time.perf_counter()
    store = (stores[run.variant], run.store) if run.store else None
    callbacks = partial(listener.epoch, run), partial(listener.step, run)
    value = make_run(config, run, data, store, *callbacks, checkpoint=checkpoint)
    listener.finished(run, value, time.perf_counter() - begin)


def _other_checkpoints(work: Path, run: Run) -> list[str]:
    """Say what each checkpoint of the run's unfinished trainings used that the run doesn't use now."""
    from blair_rec.training.checkpoint import settings_of

    found = []
    for path in sorted(work.glob("*.safetensors")):
        with suppress(CheckpointError):  # the lists of a teacher, or a damaged file
            changed = first_of(differences(settings_of(path), to_dict(run.setup)))
            found.append(f"different settings ({changed})" if changed else "other data, text vectors or code")
    return found


def planned(
    config: CompareConfig, out: Path, variants: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> Plan:
    """Plan the runs and the text vectors of a comparison; nothing is encoded, trained or written.

    `variants` and `seeds` are the ones to run; default: all.

    Raises:
        ConfigError: unknown metric or variant; DatasetError: the data set doesn't exist.
        CatalogueError, MissingField, EncoderUnavailable, UnknownEncoder: problems with the items' text or the encoder.
        StoreError: a store that the config names is missing or damaged.
    """
    for metric in config.evaluate.metrics:
        parse_metric(metric)
    refuse(setting_problems(config))
    with trusting(config.code):
        found = plan_all(config, out, variants, seeds)
        return dataclasses.replace(found, asked=without_replaced(found.asked))


def encode_stores(encodings: dict[str, Vectors], listener: Listener, renew: bool = False) -> dict[str, EmbeddingStore]:
    """Encode or read the store of each variant, each store once; `renew` is passed to Vectors.encode."""
    stores: dict[Vectors, EmbeddingStore] = {}
    for encoding in encodings.values():
        if encoding not in stores:
            encode = partial(encoding.encode, partial(listener.encoding, encoding.encoder), renew)
            stores[encoding] = once_free(encode, f"the store {encoding.path}")
    return {name: stores[encoding] for name, encoding in encodings.items()}


def _notes(config: CompareConfig, data: Data, encodings: dict[str, Vectors]) -> tuple[str, ...]:
    """Notes on the data and its texts for readers of the results; logged, and written into every run."""
    found, of_new_items = leaks_of(data.train, data.valid, data.test).notes(), new_items_notes(config, data.new_items)
    if data.new_items is not None:
        found += of_new_items
    for encoding in dict.fromkeys(encodings.values()):
        found += encoding.notes(data.item_tokens[1:])
    notes = _logged(found, (*data.unread, *file_notes(data)))  # logged when the files were read
    return tuple(dict.fromkeys([*notes, *of_new_items]))  # only the board says that new items were not measured


def _with_cut_texts(data: Data, stores: dict[str, EmbeddingStore]) -> tuple[str, ...]:
    """The notes, with those on cut texts, which were counted during encoding."""
    return _logged([note for made in stores.values() for note in cut_notes(made, data.item_tokens[1:])], data.notes)


def _logged(found: Iterable[str], before: Sequence[str] = ()) -> tuple[str, ...]:
    """The earlier notes and the new ones, each once; the most important new ones are logged."""
    notes = tuple(dict.fromkeys([*before, *found]))
    new = by_importance(notes[len(before) :])
    for note in new[:SHOWN_NOTES]:
        logger.info("data: %s", note)
    if more := len(new[SHOWN_NOTES:]):
        logger.info("data: %d more %s; see the page, or use --notes", more, "note" if more == 1 else "notes")
    return notes


def _with_store(run: Run, stores: dict[str, EmbeddingStore]) -> Run:
    if run.variant not in stores:
        return run
    return dataclasses.replace(run, hashes={**run.hashes, "store": stores[run.variant].store_sha256})
