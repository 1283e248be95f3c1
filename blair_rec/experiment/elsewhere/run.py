"""The run of another system: its lists or matrices, read, checked and ranked as our own runs are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.variant import VariantConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.device import choose_device
from blair_rec.errors import SourceError
from blair_rec.evaluate.metrics import parse_metric
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.experiment.elsewhere.cases import cases_of, split_hash
from blair_rec.experiment.elsewhere.files import check_manifest, files_hash, is_matrix
from blair_rec.experiment.elsewhere.lists import Lists, read_lists
from blair_rec.experiment.elsewhere.matrices import Matrix, read_matrix
from blair_rec.experiment.elsewhere.ranks import list_notes, rank_lists
from blair_rec.experiment.elsewhere.scores import FixedScores
from blair_rec.experiment.fit import Fitted, measured
from blair_rec.experiment.planning.plan import Run
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.files import sha256_of
from blair_rec.ranking.scoring import Ranks, rank

FilesRead = Mapping[str, Lists | Matrix]
"""By key: from, from_masked, from_valid."""


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What a run of another system gives."""

    fitted: Fitted
    ranks: Ranks
    """Of the test cases."""
    valid: dict[str, dict[str, float]]
    """Metrics on the validation split, by protocol; empty without from_valid."""
    notes: list[str]
    files: dict[str, dict[str, str]]
    """By key of the config: the file and its SHA-256."""
    depth: dict[str, int]
    """By protocol, the length of the longest list; empty for matrices."""


def rank_elsewhere(
    config: CompareConfig, run: Run, data: TrainingData, test: TextSequentialDataset, k: int
) -> Elsewhere:
    """Rank the test cases by the files of another system.

    Args:
        k: items kept of each top list.

    Raises:
        The errors of `read_files`; SourceError: a file that changes while it is read.
    """
    variant = config.variants[run.variant]
    files, read = variant.elsewhere_of(run.seed), read_files(config, variant, run.seed, data, test)
    model = fixed_scores(config, read, data, test)
    ranks, notes, depth = _ranks(config, model, test, read["from"], _masked(read), k)
    values: dict[str, dict[str, float]] = {protocol: {} for protocol in PROTOCOLS}
    if "from_valid" in read:
        of_valid, more, _ = _ranks(config, model, data.valid, read["from_valid"], None, 0)
        values, notes = {protocol: measured(config, of_valid, protocol) for protocol in PROTOCOLS}, [*notes, *more]
    digests = {key: {"file": file, "sha256": sha256_of(Path(file))} for key, file in files.items()}
    if files_hash(variant, run.seed) != run.hashes["from"]:
        raise SourceError(f"{' or '.join(files.values())} has changed since this command began; start again")
    fitted = Fitted(model, 0.0, {"trained": 0, "frozen": 0}, variant.trials)
    return Elsewhere(fitted, ranks, values, [f"{run.variant}: {note}" for note in notes], digests, depth)


def check_elsewhere(
    config: CompareConfig, runs: Collection[Run], data: TrainingData, test: TextSequentialDataset
) -> None:
    """Read the files of all runs of other systems before anything is trained.

    Raises:
        The errors of `read_files`.
    """
    for run in runs:
        if (variant := config.variants[run.variant]).is_elsewhere:
            read = read_files(config, variant, run.seed, data, test)
            for part, one in (("test", read["from"]), ("valid", read.get("from_valid"))):
                if isinstance(one, Lists):
                    cases = cases_of(test if part == "test" else data.valid, "test" if part == "test" else "valid")
                    list_notes(cases, one, _masked(read) if part == "test" else None, _largest(config))


def read_files(
    config: CompareConfig, variant: VariantConfig, seed: int, data: TrainingData, test: TextSequentialDataset
) -> FilesRead:
    """Read and check all files of a run of another system.

    Raises:
        SourceError: see read_lists, read_matrix and check_manifest.
        MissingExtra: Parquet without pyarrow.
    """
    identity = split_hash(data.train, data.valid, test)
    found: dict[str, Lists | Matrix] = {}
    for key, file in variant.elsewhere_of(seed).items():
        path = Path(file)
        matrix = is_matrix(path)
        check_manifest(path, identity)
        cases = cases_of(data.valid, "valid") if key == "from_valid" else cases_of(test, "test")
        if matrix and key == "from_masked":
            raise SourceError(f"{path}: a full score matrix serves both protocols; leave from_masked out")
        found[key] = read_matrix(path, cases) if matrix else read_lists(path, cases)
    if isinstance(found["from"], Matrix) and "from_masked" in found:
        raise SourceError(f"{found['from'].path}: a full score matrix serves both protocols; leave from_masked out")
    return found


def fixed_scores(
    config: CompareConfig, read: FilesRead, data: TrainingData, test: TextSequentialDataset
) -> FixedScores:
    """A scorer for the cases of which there are score matrices."""
    parts = (("from", test), ("from_valid", data.valid))
    matrices = [(split, one) for key, split in parts if isinstance(one := read.get(key), Matrix)]
    return FixedScores(test, torch.device(choose_device(config.computed_on)), matrices)


def _ranks(
    config: CompareConfig,
    model: FixedScores,
    split: TextSequentialDataset,
    content: Lists | Matrix,
    masked: Lists | None,
    k: int,
) -> tuple[Ranks, list[str], dict[str, int]]:
    """The ranks of a split's targets, notes, and the depth of lists by protocol."""
    if isinstance(content, Matrix):
        return rank(model, split, config.evaluate.batch_size, k=k), [], {}
    cases = cases_of(split, content.part)
    notes = list_notes(cases, content, masked, _largest(config))
    unmasked = rank_lists(cases, content, "unmasked", k)
    after_masking = rank_lists(cases, masked or content, "masked", k)
    ranks = Ranks(
        user=split.inter_feat[split.uid_field].numpy(),
        item=cases.target,
        higher_unmasked=unmasked.higher,
        equal_unmasked=unmasked.equal,
        higher_masked=after_masking.higher,
        equal_masked=after_masking.equal,
        target_in_history=cases.target_in_history,
        history_length=np.bincount(cases.history_case, minlength=len(cases)).astype(np.int64),
        topk_unmasked=unmasked.topk,
        topk_masked=after_masking.topk,
    )
    return ranks, notes, {"unmasked": unmasked.depth, "masked": after_masking.depth}


def _masked(read: FilesRead) -> Lists | None:
    found = read.get("from_masked")
    return found if isinstance(found, Lists) else None


def _largest(config: CompareConfig) -> int:
    """The largest cutoff of the metrics."""
    return max(parse_metric(metric).k for metric in config.evaluate.metrics)
