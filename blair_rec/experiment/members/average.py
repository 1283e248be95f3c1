"""Average finished runs of the same seed, with weights that validation chooses."""

from __future__ import annotations

import time

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.variant import VariantConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.evaluate.metrics import metric_values
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment.elsewhere.run import fixed_scores
from blair_rec.experiment.fit import Fitted
from blair_rec.experiment.loading import load_model
from blair_rec.experiment.members.files import files_of_member
from blair_rec.experiment.planning.plan import Run, member_folders
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.ranking.ensemble import Ensemble, choose_weights


def selects_on(config: CompareConfig, variant: VariantConfig) -> str:
    """The protocol, masked or unmasked, by which validation selects the weights of a variant or of an average."""
    return variant.weights if variant.weights in ("masked", "unmasked") else config.evaluate.protocol


def average(config: CompareConfig, run: Run, data: TrainingData, test: TextSequentialDataset) -> Fitted:
    """Build the ensemble of finished runs of the same seed; its costs include those of its members.

    `test` is read only for members of other systems, whose scores belong to its cases.

    Raises:
        BadRun, CheckpointError: the run of a member is damaged.
    """
    variant, begin = config.variants[run.variant], time.perf_counter()
    folders = member_folders(run.folder, run.setup)
    results = [load_run(folder) for folder in folders]
    models = []
    for name, folder in zip(variant.average, folders, strict=True):
        read = files_of_member(config, name, folder, run.seed, data, test)
        if read is None:
            models.append(load_model(folder, dataset=data.train, device=config.computed_on).model)
        else:
            models.append(fixed_scores(config, read, data, test))
    ensemble, best = Ensemble(models), None
    if variant.weights != "equal":
        first = config.evaluate.metrics[:1]
        weights, best = choose_weights(
            ensemble,
            data.valid,
            selects_on(config, variant) == "masked",
            lambda *ranks: metric_values(first, *ranks)[first[0]],
            config.evaluate.batch_size,
        )
        ensemble = Ensemble(ensemble.members, weights)
    return Fitted(
        ensemble,
        time.perf_counter() - begin + sum(result.train_seconds for result in results),
        {part: sum(getattr(result.parameters, part) for result in results) for part in ("trained", "frozen")},
        sum(result.trials for result in results),
        best_value=best,
        weights=dict(zip(variant.average, ensemble.weights.tolist(), strict=True)),
    )
