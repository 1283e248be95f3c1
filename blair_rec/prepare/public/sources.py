"""Find the files of a public data set in a local folder or on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from blair_rec.errors import SourceError
from blair_rec.files.contents import sha256_of
from blair_rec.prepare.folder import Tell, need_room

Find = Callable[[str], "Path | None"]
"""File name in the data set's layout -> local path, or None if the file doesn't exist."""


def in_folder(folder: Path) -> Find:
    """Return a finder for a full or partial copy of the data set, or for a flat folder; files may end in .gz.

    Raises:
        SourceError: the folder doesn't exist.
    """
    if not folder.is_dir():
        raise SourceError(f"--source {folder} doesn't exist or is not a folder")

    def find(name: str) -> Path | None:
        parts = PurePosixPath(name).parts
        shorter = [folder.joinpath(*parts[cut:]) for cut in range(len(parts))]
        names = [path.with_name(path.name + end) for path in shorter for end in ("", ".gz")]
        return next((path for path in names if path.is_file()), None)

    return find


def on_hub(repository: str, tell: Tell) -> Find:
    """Return a finder that downloads files of a data set on the hub to huggingface_hub's cache, if not there yet.

    An interrupted download resumes. HF_ENDPOINT names a mirror. `tell` gets a line before each download. The finder
    raises SourceError if the hub refuses or can't be reached, and the file is not in the cache.
    """

    def find(name: str) -> Path | None:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

        cached = try_to_load_from_cache(repository, name, repo_type="dataset")
        if isinstance(cached, str):
            return Path(cached)
        where = f"{name} of {repository}"
        try:
            about = get_hf_file_metadata(hf_hub_url(repository, name, repo_type="dataset"))
            tell(f"downloading {where}")
            need_room(Path(constants.HF_HUB_CACHE), about.size or 0, tell)
            path = Path(hf_hub_download(repository, name, repo_type="dataset"))
        except EntryNotFoundError:
            return None
        except HfHubHTTPError as error:
            raise SourceError(
                f"the hub refuses {where} (status {error.response.status_code}); "
                "try again later, or download the file yourself and name its folder with --source"
            ) from error
        except (HTTPError, OSError, ValueError) as error:  # depends on the release of huggingface_hub
            raise SourceError(
                f"{where} can't be downloaded ({error or type(error).__name__}); the part received is kept: run the "
                "same command again, name a mirror with HF_ENDPOINT, or download the file yourself and name its folder "
                "with --source"
            ) from error
        _check_hash(path, about.etag or "", where)
        return path

    return find


def _check_hash(path: Path, tag: str, where: str) -> None:
    """Check a download against its tag on the hub, which is the SHA-256 of a large file."""
    if re.fullmatch("[0-9a-f]{64}", tag) and (found := sha256_of(path)) != tag:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise SourceError(
            f"{where} was downloaded with SHA-256 {found}, but the hub gives {tag}; the file was removed: run the same "
            "command again"
        )


def need(find: Find, names: Sequence[str]) -> list[Path]:
    """Return the paths of all these files.

    Raises:
        SourceError: a file doesn't exist.
    """
    found = [(name, find(name)) for name in names]
    if missing := [name for name, path in found if path is None]:
        raise SourceError(
            f"{missing[0]} was not found, neither at this path nor by its file name alone, with or without .gz; "
            "datasets/README.md shows the layout"
        )
    return [path for _, path in found if path is not None]
