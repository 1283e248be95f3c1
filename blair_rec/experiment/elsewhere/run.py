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
from blair_rec.errors import SourceError, counted
from blair_rec.evaluate.metrics import parse_metric
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.experiment.elsewhere.cases import cases_of, split_hash
from blair_rec.experiment.elsewhere.files import check_exported, check_manifest, files_hash, is_exported, is_matrix
from blair_rec.experiment.elsewhere.lists import Lists, lost_in_float32, read_lists
from blair_rec.experiment.elsewhere.matrices import Matrix, read_matrix
from blair_rec.experiment.elsewhere.ranks import list_notes, rank_lists
from blair_rec.experiment.elsewhere.scores import FixedScores
from blair_rec.experiment.fit import Fitted, measured
from blair_rec.experiment.planning.plan import Run
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.files.contents import sha256_of
from blair_rec.ranking.scoring import Ranks, rank

FilesRead = Mapping[str, Lists | Matrix]
"""By key of the config, as in config.names.FROM."""
FROM_TEST = ("from", "from_masked")
"""The keys of files for test cases."""


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """The result of another system's run."""

    fitted: Fitted
    ranks: Ranks
    """The ranks of the test cases."""
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
    files, read = variant.elsewhere_of(run.seed), read_files(variant, run.seed, data, test)
    model = fixed_scores(config, read, data, test, run.hashes["from"] or "")
    ranks, notes, depth = _ranks(config, model, test, read["from"], _lists(read, "from_masked"), k)
    values: dict[str, dict[str, float]] = {protocol: {} for protocol in PROTOCOLS}
    if "from_valid" in read:
        of_valid, more, _ = _ranks(config, model, data.valid, read["from_valid"], _lists(read, "from_valid_masked"), 0)
        values, notes = {protocol: measured(config, of_valid, protocol) for protocol in PROTOCOLS}, [*notes, *more]
    digests = {key: {"file": file, "sha256": sha256_of(Path(file))} for key, file in files.items()}
    notes += _same_for_both_parts(digests)
    if files_hash(variant, run.seed) != run.hashes["from"]:
        raise SourceError(f"{' or '.join(files.values())} has changed since this command began; start again")
    fitted = Fitted(model, 0.0, {"trained": 0, "frozen": 0}, variant.trials)
    return Elsewhere(fitted, ranks, values, [f"{run.variant}: {note}" for note in notes], digests, depth)


def check_elsewhere(
    config: CompareConfig, runs: Collection[Run], data: TrainingData, test: TextSequentialDataset
) -> None:
    """Read the files of all runs of other systems before anything is trained, as a second stage would, too.

    Raises:
        The errors of `read_files` and `listed_scores`.
    """
    in_second_stages = {member for run in runs for member in config.variants[run.variant].rerank}
    for run in runs:
        if (variant := config.variants[run.variant]).is_elsewhere:
            read = read_files(variant, run.seed, data, test)
            for one, key in ((read["from"], "from_masked"), (read.get("from_valid"), "from_valid_masked")):
                if isinstance(one, Lists):
                    cases = cases_of(test if one.part == "test" else data.valid, one.part)
                    list_notes(cases, one, _lists(read, key), _largest(config))
            if variant.has_lists and run.variant in in_second_stages:
                for masked in (False, True):
                    listed_scores(config, read, data, test, masked)


def read_files(variant: VariantConfig, seed: int, data: TrainingData, test: TextSequentialDataset) -> FilesRead:
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
        check_exported(path, "valid" if key.startswith("from_valid") else "test", key.endswith("_masked"))
        cases = cases_of(data.valid, "valid") if key.startswith("from_valid") else cases_of(test, "test")
        if matrix and key.endswith("_masked"):
            raise SourceError(f"{path}: a full score matrix serves both protocols; leave {key} out")
        found[key] = read_matrix(path, cases) if matrix else read_lists(path, cases)
    for key in ("from", "from_valid"):
        if isinstance(one := found.get(key), Matrix) and f"{key}_masked" in found:
            raise SourceError(f"{one.path}: a full score matrix serves both protocols; leave {key}_masked out")
    return found


def fixed_scores(
    config: CompareConfig, read: FilesRead, data: TrainingData, test: TextSequentialDataset, digest: str = ""
) -> FixedScores:
    """Return a scorer for the cases that have score matrices."""
    parts = (("from", test), ("from_valid", data.valid))
    matrices = [(split, one) for key, split in parts if isinstance(one := read.get(key), Matrix)]
    return FixedScores(test, torch.device(choose_device(config.computed_on)), matrices, digest)


def listed_scores(
    config: CompareConfig, read: FilesRead, data: TrainingData, test: TextSequentialDataset, masked: bool
) -> tuple[FixedScores, bool, list[str]]:
    """Return a scorer for the cases that have top lists, whether all lists hold all items, and notes.

    For a second stage. Lists for validation and test are read up to the same length, because the trees also learn
    from absences. Lists that were exported from a board are read without ties, which would reveal the target. If
    only one of the two files has scores, the ranks of both are used.

    Args:
        masked: read the lists without the history, if there are some for both parts.

    Raises:
        SourceError: scores that are too large, or differ by too little.
    """
    keys = ("from", "from_valid")
    if masked and _lists(read, "from_valid_masked") is not None:
        keys = ("from_masked", "from_valid_masked")
    of_test, of_valid = (_lists(read, key) for key in keys)
    assert of_test is not None and of_valid is not None  # see VariantConfig.problems_in_second_stage
    for one in (of_test, of_valid):
        if wrong := int((np.abs(one.score) > np.finfo(np.float32).max).sum()):
            raise SourceError(
                f"{one.path}: {counted(wrong, 'score')} beyond the range of 32-bit numbers, which a second stage "
                "reads; give smaller scores, or ranks alone"
            )
        if lost_in_float32(one.case, one.score):
            raise SourceError(
                f"{one.path}: its scores differ by less than 32-bit numbers can hold, which a second stage reads, so "
                "many of them would be ties; give ranks alone"
            )
    depth, notes = min(of_test.longest, of_valid.longest), []
    if of_test.longest != of_valid.longest:
        notes.append(
            f"{of_test.path.name} lists up to {counted(of_test.longest, 'item')} and {of_valid.path.name} up to "
            f"{of_valid.longest:,}; the second stage reads the first {depth:,} of both"
        )
    if mixed := of_test.ranked != of_valid.ranked:
        ranks, scores = (of_test, of_valid) if of_test.ranked else (of_valid, of_test)
        notes.append(
            f"{ranks.path.name} gives ranks alone and {scores.path.name} scores; the second stage reads the places in "
            "both"
        )
    first = [one.by_place() if mixed or is_exported(one.path) else one for one in (of_test, of_valid)]
    given = [(split, one.first(depth)) for split, one in zip((test, data.valid), first, strict=True)]
    whole = all(len(one.case) == len(split) * (split.item_num - 1) for split, one in given)
    return FixedScores(test, torch.device(choose_device(config.computed_on)), given), whole, notes


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


def _same_for_both_parts(files: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Notes on files that serve test and validation cases, whose histories differ."""
    pairs = ((files[key], files.get(key.replace("from", "from_valid"))) for key in FROM_TEST if key in files)
    return [
        f"{Path(one['file']).name} and {Path(other['file']).name} have the same content, for test and validation "
        "cases: that is right only for a system that reads no histories"
        for one, other in pairs
        if other is not None and one["sha256"] == other["sha256"]
    ]


def _lists(read: FilesRead, key: str) -> Lists | None:
    """The top lists of a key; None without such, or for a matrix."""
    found = read.get(key)
    return found if isinstance(found, Lists) else None


def _largest(config: CompareConfig) -> int:
    """The largest cutoff of the metrics."""
    return max(parse_metric(metric).k for metric in config.evaluate.metrics)
