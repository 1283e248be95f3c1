"""Equal tuning: the same number of trials for every variant, selected on validation; returns a config for compare.

The baseline is tuned first, over `tune.space`, and all variants share the chosen settings: text variants use the
backbone that is best without text. Then each text variant gets the same number of trials, over `tune.text_space` and
the learning rate. Tuning never sees test cases: `TrainingData` has none, and modules that read them are not imported.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blair_rec.border.recbole_keys import setting_problems
from blair_rec.config.comparison import CompareConfig, written
from blair_rec.config.tuning import TuneConfig
from blair_rec.config.yaml.files import refuse
from blair_rec.device import choose_device
from blair_rec.errors import ConfigError, ScoringError, TrainingError, counted
from blair_rec.evaluate.runs.recorded import hash_of
from blair_rec.evaluate.runs.run_files import WEIGHTS_FILE
from blair_rec.experiment.compare import encode_stores, planned
from blair_rec.experiment.listener import Listener
from blair_rec.experiment.planning.data_files import data_folder, data_hash
from blair_rec.experiment.planning.own_config import own_config
from blair_rec.experiment.planning.plan import outside_code, run_names, run_setup
from blair_rec.experiment.planning.teachers import check_folder, finished_teachers
from blair_rec.experiment.provenance import code_hash, hash_files, with_outside
from blair_rec.experiment.tuning.search_space import (
    Settings,
    draw,
    grid_of,
    in_grid,
    in_words,
    unused_keys,
    with_settings,
)
from blair_rec.experiment.tuning.trials import TRIALS_FILE, Trial, read_trials, write_trials
from blair_rec.files.locks import alone_in
from blair_rec.files.places import refuse_taken, refuse_unwritable
from blair_rec.files.writing import tidy, write_text
from blair_rec.lines.rejected import REJECTED
from blair_rec.registry import trusting
from blair_rec.text.store.embeddings import EmbeddingStore

if TYPE_CHECKING:  # takes torch and RecBole
    from blair_rec.experiment.splits.reading import TrainingData
    from blair_rec.training.distillation import Teaching

logger = logging.getLogger("blair_rec")

TUNED_FILE, CHECKPOINTS = "tuned.yaml", "checkpoints"
KEPT = 3
"""One of this many trials continues after a rung."""

EXAMPLE = """tune:
  space: {train.learning_rate: [0.001, 0.003], recbole.hidden_dropout_prob: [0.2, 0.5]}
  text_space: {transforms: [[center], [{shrink: 0.5}]]}
  budget: 4"""


def tune(
    config: CompareConfig | str | Path,
    out: str | Path,
    *,
    teachers: str | Path | None = None,
    listener: Listener | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> CompareConfig:
    """Try the same number of configurations for each variant; write the best on validation to OUT/tuned.yaml.

    Interrupted tuning resumes where it stopped: trials in OUT/trials.jsonl are not repeated, and a larger budget only
    adds trials. The best of all trials of the same grid and settings is chosen, also those of a larger budget. Averages
    are not tuned, because validation chooses their weights anyway; nor are scorers without settings.

        tuned = blair_rec.tune("my.yaml", "runs/tuned")
        board = blair_rec.compare(tuned, "runs/compared")

    Args:
        config: a comparison file, or the result of load_config.
        out: the folder of the tuning; it is created if needed.
        teachers: the folder of a comparison with finished runs of the teachers of the config's students (`distill`),
            made with the settings that tuning chooses and with its seed. Students are tuned last.
        listener: receives the progress: texts encoded, trials started, epochs trained, trials finished.
        on_trial: called with each new trial when it is finished.

    Returns:
        The config with the chosen settings.

    Raises:
        ConfigError: the folder of the teachers or a run in it is missing, the config has no student for them, there is
            no `tune` section, a value is invalid, no variant uses a key, or a grid has fewer points than the budget.
        OutputError: `out` can't be written, another process works in it, or it has files with our names that no tuning
            wrote.
        DatasetError: the data can't be used. Encoding and training have more errors.
    """
    out, runs = Path(out), None if teachers is None else Path(teachers)
    if runs is not None:
        check_folder(runs)
    config = own_config(config)
    space = config.tune
    if space is None or not (space.space or space.text_space or space.scorer_space or space.distill_space):
        what = "the config has no tune section" if space is None else "the tune section has no values to try"
        raise ConfigError(f"{what}; add a grid, such as\n{EXAMPLE}")
    if runs is not None and not any(variant.distill for variant in config.variants.values()):
        raise ConfigError(
            "teachers (--teachers) have no effect: no variant of the config is a student (distill); leave them out"
        )
    drawn = _drawn(config, space, teachers is not None)
    names = (TRIALS_FILE, TUNED_FILE, CHECKPOINTS, REJECTED)
    refuse_taken(out, names, (TRIALS_FILE,), folders=(CHECKPOINTS,))  # before the lock file is written
    refuse_unwritable(out / CHECKPOINTS)
    with trusting(config.code), alone_in(out):
        tidy(out)
        from blair_rec.experiment.fit import check_outside, check_transforms
        from blair_rec.experiment.splits.reading import training_data

        folder, data_sha256 = data_folder(config.dataset), data_hash(config)
        for name in drawn:
            if runs is not None and config.variants[name].distill is not None:
                finished_teachers(config, name, space.seed, runs, data_sha256)
        encodings = planned(config, out).encodings
        choose_device(config.computed_on)  # fails early if there is no such device
        check_outside(config, drawn)
        data = training_data(config, folder)
        data.rejected.write(out / REJECTED)
        listener = listener or Listener()
        stores = encode_stores({name: encodings[name] for name in drawn if name in encodings}, listener)
        for name, store in stores.items():
            for point in drawn[name]:
                check_transforms(with_settings(config, name, point), name, data, store)
        search = _Search(space, out, data, stores, data_sha256, on_trial, listener, runs)
        listener.planned([job for name, points in drawn.items() for job in search.jobs(config, name, len(points))])
        tuned = config
        for name, points in drawn.items():
            best = search.best(tuned, name, points)
            tuned = with_settings(tuned, name, best.settings)
            variant = tuned.variants[name].changed(trials=search.tried(name))
            tuned = tuned.changed(variants={**tuned.variants, name: variant})
        write_text(out / TUNED_FILE, written(tuned))
    return tuned


def _drawn(config: CompareConfig, space: TuneConfig, taught: bool) -> dict[str, list[Settings]]:
    """The settings to try for each variant that is tuned, students last; `taught`: whether teachers are given.

    Raises:
        ConfigError: a value is invalid, no variant uses a key, a grid has fewer points than the budget, a rung has no
            validation, or a student has no teacher.
    """
    if off := [rung for rung in space.rungs if rung % config.train.eval_every]:
        raise ConfigError(
            f"tune: rungs {off} are not multiples of train.eval_every ({config.train.eval_every}), so there is no "
            "validation in these epochs; choose multiples"
        )
    refuse(setting_problems(config))
    names = [config.baseline, *(name for name in config.variants if name != config.baseline)]
    names.sort(key=lambda name: config.variants[name].distill is not None)
    if not taught and config.variants[names[-1]].distill is not None:
        raise ConfigError(
            f"tune: {names[-1]} learns from {config.variants[names[-1]].distill}, whose finished run is needed; name "
            "the folder of its comparison as `teachers` (--teachers), or leave the student out"
        )
    grids = {name: grid_of(config, name) for name in names}
    drawn, problems = dict[str, list[Settings]](), unused_keys(config, grids)
    for name, grid in grids.items():
        if grid or config.variants[name].is_trained:
            try:
                drawn[name] = draw(config, name, grid)
            except ConfigError as error:
                problems.append(str(error))
    refuse(problems)
    return drawn


@dataclass(frozen=True)
class _Job:
    """A trial up to a rung, for the listener."""

    name: str
    epochs: int
    trained: int
    done: bool = False


class _Search:
    """The trials of all variants, and the file that keeps them."""

    def __init__(
        self,
        space: TuneConfig,
        out: Path,
        data: TrainingData,
        stores: Mapping[str, EmbeddingStore],
        data_sha256: str,
        on_trial: Callable[[Trial], None],
        listener: Listener,
        teachers: Path | None,
    ) -> None:
        self.teachers = teachers
        self.taught: dict[str, Teaching] = {}
        self.space, self.out, self.data, self.stores = space, out, data, stores
        self.data_sha256, self.on_trial, self.listener = data_sha256, on_trial, listener
        self.ledger = {(trial.key, trial.epochs): trial for trial in read_trials(out / TRIALS_FILE)}

    def tried(self, name: str) -> int:
        """How many configurations of a variant were tried in this folder, including those of other grids."""
        return len({trial.setup for trial in self.ledger.values() if trial.variant == name})

    def best(self, config: CompareConfig, name: str, points: list[Settings]) -> Trial:
        """Successive halving: train all points up to the first rung, the best third of them up to the next, and so on.

        Source: Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
        AISTATS 2016. A point resumes from its checkpoint, with bit-equal results to training without a stop.
        """
        alive = list(enumerate(points, start=1))
        for epochs in self.stages(config, name):
            trials = [self.trial(config, name, number, settings, epochs) for number, settings in alive]
            trials.sort(key=lambda trial: -trial.value)  # a stable sort: among ties the one drawn first
            alive = [(trial.number, trial.settings) for trial in trials[: math.ceil(len(trials) / KEPT)]]
        shutil.rmtree(self.out / CHECKPOINTS, ignore_errors=True)
        if earlier := self.earlier(config, name, trials):
            logger.info(
                "%s: %s has %s of an earlier tuning of the same grid; the best of all is chosen",
                name,
                self.out / TRIALS_FILE,
                counted(len(earlier), "other trial"),
            )
        return max([*trials, *earlier], key=lambda trial: trial.value)  # the first one among ties

    def earlier(self, config: CompareConfig, name: str, trials: list[Trial]) -> list[Trial]:
        """The other finished trials of the same grid and settings, such as those of a larger budget."""
        grid, epochs, known = grid_of(config, name), trials[0].epochs, {trial.key for trial in trials}
        return [
            trial
            for trial in self.ledger.values()
            if (trial.variant, trial.epochs) == (name, epochs)
            and trial.key not in known
            and in_grid(trial.settings, grid)
            and trial.key == self.hashes(with_settings(config, name, trial.settings), name)[1]
        ]

    def stages(self, config: CompareConfig, name: str) -> list[int]:
        """The epochs to stop after, including the last one; [0] if nothing is trained."""
        variant = config.variants[name]
        if not variant.is_trained:
            return [0]
        last = config.train_of(variant).epochs
        return [*(rung for rung in self.space.rungs if rung < last), last]

    def jobs(self, config: CompareConfig, name: str, points: int) -> list[_Job]:
        """Return as many jobs as `best` runs for this number of points. It isn't known yet which points continue."""
        jobs: list[_Job] = []
        for epochs in self.stages(config, name):
            jobs += [self.job(config, name, number + 1, epochs) for number in range(points)]
            points = math.ceil(points / KEPT)
        return jobs

    def job(self, config: CompareConfig, name: str, number: int, epochs: int) -> _Job:
        """The job of one trial up to a rung; it resumes from the rung before."""
        trained = max((stage for stage in self.stages(config, name) if stage < epochs), default=0)
        return _Job(f"{name}, trial {number}" + (f", to epoch {epochs}" if epochs else ""), epochs, trained)

    def trial(self, config: CompareConfig, name: str, number: int, settings: Settings, epochs: int) -> Trial:
        """The result of one point at a rung: from the file, or by training from the rung before."""
        config, store = with_settings(config, name, settings), self.stores.get(name)
        setup, key = self.hashes(config, name)
        job = self.job(config, name, number, epochs)
        if (key, epochs) in self.ledger:
            self.listener.skipped(job)
            return dataclasses.replace(self.ledger[key, epochs], number=number)
        self.listener.started(job)
        begin = time.perf_counter()
        value, best_epoch = self.fitted(config, name, store, job, self.out / CHECKPOINTS / f"{key}.safetensors")
        seconds = time.perf_counter() - begin
        trial = Trial(name, number, settings, epochs, value, best_epoch, seconds, setup, key)
        self.ledger[key, epochs] = trial
        write_trials(self.out / TRIALS_FILE, self.ledger.values())
        self.listener.finished(job, value, seconds, in_words(settings))
        self.on_trial(trial)
        return trial

    def hashes(self, config: CompareConfig, name: str) -> tuple[str, str]:
        """The `setup` and the `key` of a trial with the settings of this config."""
        store, teacher = self.stores.get(name), self.teacher(config, name)
        setup = hash_of(run_setup(config, name, self.space.seed))
        code = with_outside(code_hash(store is not None), outside_code(config, name))
        made = []
        if teacher is not None:
            runs = [teacher.with_name(run) for run in run_names(config, config.behind(name), [self.space.seed])]
            made = [hash_files([run / WEIGHTS_FILE for run in runs], teacher.parent)]
        return setup, hash_of([setup, self.data_sha256, store.store_sha256 if store else None, code, *made])

    def teacher(self, config: CompareConfig, name: str) -> Path | None:
        """The finished run of a student's teacher; None for other variants.

        Raises:
            ConfigError: there is none, or it was made with other settings or data.
        """
        if config.variants[name].distill is None or self.teachers is None:
            return None
        from blair_rec.experiment.members.teacher import finished_teacher

        return finished_teacher(config, name, self.space.seed, self.teachers, self.data_sha256)

    def teaching(self, config: CompareConfig, name: str) -> Teaching | None:
        """Return a student's lists and loss settings; None for other variants. A teacher's lists are made once."""
        if (folder := self.teacher(config, name)) is None:
            return None
        from blair_rec.experiment.members.teacher import teaching

        said = run_setup(config, name, self.space.seed)
        if folder.name not in self.taught:
            self.taught[folder.name] = teaching(config, said, folder, self.data, None)
        weight, temperature = said["distill"]["weight"], said["distill"]["temperature"]
        return dataclasses.replace(self.taught[folder.name], weight=weight, temperature=temperature)

    def fitted(
        self, config: CompareConfig, name: str, store: EmbeddingStore | None, job: _Job, checkpoint: Path
    ) -> tuple[float, int]:
        """The best validation metric and its epoch; 0, the worst value, if training diverges."""
        from blair_rec.experiment.fit import fit_variant, measured
        from blair_rec.ranking.scoring import rank

        checkpoint.parent.mkdir(exist_ok=True)
        on_epoch, on_step = partial(self.listener.epoch, job), partial(self.listener.step, job)
        taught = self.teaching(config, name)
        try:
            fitted = fit_variant(
                config, name, self.space.seed, self.data, store, on_epoch, checkpoint, on_step, job.epochs, taught
            )
        except (TrainingError, ScoringError) as error:
            logger.warning("a trial of %s failed and gets the worst value, 0: %s", name, error)
            return 0.0, 0
        if fitted.best_value is not None:
            return fitted.best_value, fitted.best_epoch
        ranks = rank(fitted.model, self.data.valid, config.evaluate.batch_size)  # nothing was measured during training
        return measured(config, ranks, config.evaluate.protocol)[config.evaluate.metrics[0]], 0
