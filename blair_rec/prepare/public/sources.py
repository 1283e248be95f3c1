"""Where the files of a public data set are: in a local folder, or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from blair_rec.errors import SourceError
from blair_rec.prepare.folder import Tell, need_room

Find = Callable[[str], "Path | None"]
"""A name in the data set's own layout -> the file, or None if there is none."""


def in_folder(folder: Path) -> Find:
    """Files in a copy of the data set, of a part of its folders, or flat in one folder; each may end in .gz.

    Raises:
        SourceError: no such folder.
    """
    if not folder.is_dir():
        raise SourceError(f"--source {folder} is not there, or not a folder")

    def find(name: str) -> Path | None:
        parts = PurePosixPath(name).parts
        shorter = [folder.joinpath(*parts[cut:]) for cut in range(len(parts))]
        names = [path.with_name(path.name + end) for path in shorter for end in ("", ".gz")]
        return next((path for path in names if path.is_file()), None)

    return find


def on_hub(repository: str, tell: Tell) -> Find:
    """Files of a data set on the hub, fetched into huggingface_hub's cache; what is there already is not fetched again.

    A download that was cut off goes on where it stopped. HF_ENDPOINT names a mirror. What is fetched is told before.
    To look for a file raises SourceError if the hub refuses or can't be reached, and the file is not in the cache.
    """

    def find(name: str) -> Path | None:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

        cached = try_to_load_from_cache(repository, name, repo_type="dataset")
        if isinstance(cached, str):
            return Path(cached)
        where = f"{name} of {repository}"
        try:
            size = get_hf_file_metadata(hf_hub_url(repository, name, repo_type="dataset")).size or 0
            tell(f"fetching {where}")
            need_room(Path(constants.HF_HUB_CACHE), size, tell)
            return Path(hf_hub_download(repository, name, repo_type="dataset"))
        except EntryNotFoundError:
            return None
        except HfHubHTTPError as error:
            raise SourceError(
                f"the hub does not give out {where} (status {error.response.status_code}); "
                "try again later, or get the file by hand and name its folder with --source"
            ) from error
        except (HTTPError, OSError, ValueError) as error:  # by release of huggingface_hub
            raise SourceError(
                f"{where} can't be fetched ({error or type(error).__name__}); what has arrived is kept: run the same "
                "command again, name a mirror with HF_ENDPOINT, or get the file by hand and name its folder: --source"
            ) from error

    return find


def need(find: Find, names: Sequence[str]) -> list[Path]:
    """All of these files.

    Raises:
        SourceError: one is not there.
    """
    found = [(name, find(name)) for name in names]
    if missing := [name for name, path in found if path is None]:
        raise SourceError(
            f"{missing[0]} is not there, neither in that place nor by its bare name, plain or with .gz; "
            "datasets/README.md shows the layout"
        )
    return [path for _, path in found if path is not None]
