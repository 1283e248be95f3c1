"""The files of another system that is a member; they are read again, because runs hold no copy of them."""

from __future__ import annotations

from pathlib import Path

from blair_rec.config.comparison import CompareConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import SourceError
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment.elsewhere.files import files_hash
from blair_rec.experiment.elsewhere.run import FilesRead, read_files
from blair_rec.experiment.splits.reading import TrainingData


def files_of_member(
    config: CompareConfig, name: str, folder: Path, seed: int, data: TrainingData, test: TextSequentialDataset
) -> FilesRead | None:
    """Read the files of a member; None for a variant that was made here.

    Raises:
        SourceError: the files have changed since the member's run; or the errors of `read_files`.
    """
    variant = config.variants[name]
    if not variant.is_elsewhere:
        return None
    if files_hash(variant, seed) != load_run(folder).hashes.get("from"):
        raise SourceError(f"the files of {name} are not those of {folder}; run the comparison again")
    return read_files(variant, seed, data, test)
