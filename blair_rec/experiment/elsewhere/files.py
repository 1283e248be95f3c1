"""The files of another system: their hashes, and the manifest of the split that they were made for."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blair_rec.config.names import MATRICES
from blair_rec.config.variant import VariantConfig
from blair_rec.errors import SourceError
from blair_rec.evaluate.runs.recorded import hash_of
from blair_rec.experiment.elsewhere.cases import IN_WORDS, PartName
from blair_rec.experiment.elsewhere.lists import LIST_KINDS
from blair_rec.experiment.elsewhere.matrices import ids_file
from blair_rec.files.contents import sha256_of

MANIFEST = "manifest.json"
EXPORTED_NAME = re.compile(r"(\.valid)?\.(masked|unmasked)$")
"""How the names of exported lists end, see written/export.py."""
FORMAT = "blair_rec split"
"""The value of `format` in a manifest of ours."""


def is_matrix(path: Path) -> bool:
    """Whether a file holds full score matrices, by its ending.

    Raises:
        SourceError: an unknown ending.
    """
    kind = path.suffix.lower()
    if kind not in (*MATRICES, *LIST_KINDS):
        raise SourceError(f"{path}: unknown kind of file; known endings: {', '.join((*LIST_KINDS, *MATRICES))}")
    return kind in MATRICES


def files_hash(variant: VariantConfig, seed: int) -> str | None:
    """The hash of all files that a run of another system reads; None while one of them is missing."""
    found = {}
    for key, file in variant.elsewhere_of(seed).items():
        paths = [Path(file)]
        if paths[0].suffix.lower() == ".npy":
            paths += sorted(paths[0].parent.glob(ids_file(paths[0], "*").name))
        for place, path in enumerate(paths):
            if not path.is_file():
                return None
            status = path.stat()
            found[f"{key} {place}"] = _sha256(path, status.st_size, status.st_mtime_ns)
    return hash_of(found)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Large files are read once as long as size and time of change stay the same."""
    return sha256_of(path)


def check_manifest(path: Path, split_sha256: str) -> None:
    """Check the manifest of a split that lies next to a file, if there is one.

    Raises:
        SourceError: it is the manifest of another split.
    """
    manifest = read_manifest(path.parent / MANIFEST)
    if manifest is not None and manifest.get("split_sha256") != split_sha256:
        raise SourceError(
            f"{path} lies next to the {MANIFEST} of another split (data set {manifest.get('dataset')!r}, made by "
            f"{manifest.get('made_by')}): its cases, order of ties or items differ. Make the lists for the split of "
            f"this comparison (`blair-rec split CONFIG`), or move them away from that {MANIFEST}"
        )


def is_exported(path: Path) -> bool:
    """Whether top lists come from `blair-rec leaderboard --export`, by the manifest next to them.

    Their scores count down with the rank, but items tied with the target have its score. So ties reveal the target.

    Raises:
        SourceError: the manifest can't be read.
    """
    manifest = read_manifest(path.parent / MANIFEST)
    return manifest is not None and "files" not in manifest  # that of a split names all its files


def check_exported(path: Path, part: PartName, masked: bool) -> None:
    """Check by its name that a file of `blair-rec leaderboard --export` is for these cases and this protocol.

    Raises:
        SourceError: it is for others.
    """
    if not is_exported(path):
        return
    found = EXPORTED_NAME.search(path.stem)
    if found is None:  # it was given another name
        return
    of_part: PartName = "valid" if found[1] else "test"
    protocol = found[2]
    if of_part != part or (masked and protocol == "unmasked"):
        key = f"from{'_valid' if of_part == 'valid' else ''}{'_masked' if protocol == 'masked' else ''}"
        raise SourceError(
            f"{path} was exported for the {IN_WORDS[of_part]} cases, history {protocol}, so it belongs under {key}; "
            f"give the lists of the {IN_WORDS[part]} cases here"
            if of_part != part
            else f"{path} was exported with the history among the candidates, so it belongs under {key}"
        )


def read_manifest(path: Path) -> Mapping[str, Any] | None:
    """A manifest of ours; None if the file is missing or is not one.

    Raises:
        SourceError: it can't be read.
    """
    try:
        if not path.is_file():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # it has just been removed
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} can't be read ({error}); run `blair-rec split` again") from None
    return found if isinstance(found, Mapping) and found.get("format") == FORMAT else None


def changed_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The files of a split that are missing or were changed since."""
    files = manifest.get("files")
    if not isinstance(files, Mapping):
        return [MANIFEST]
    return [
        name for name, digest in files.items() if not (folder / name).is_file() or sha256_of(folder / name) != digest
    ]
