"""Download a public data set by name and convert it: `blair-rec prepare fetch amazon-2014/Beauty`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from blair_rec.errors import ConfigError
from blair_rec.prepare.folder import Hashes, Tell, check_limits, is_done, new_folder, write_record
from blair_rec.prepare.own import OwnData, prepare_own
from blair_rec.prepare.public.convert import (
    META,
    META_FIELDS,
    MOVIE_COLUMNS,
    MOVIES,
    RATINGS,
    convert_metadata_2014,
    convert_movielens,
    converted,
    unpack_atomic,
)
from blair_rec.prepare.public.download import cache_folder, get, is_url
from blair_rec.prepare.public.named import NamedData, named_data
from blair_rec.prepare.public.reviews import Amazon, prepare_amazon
from blair_rec.prepare.reading.blocks import Progress
from blair_rec.prepare.reading.records import columns_among

FIELDS_2018: tuple[str, ...] = ("title", "category", "feature", "description", "brand")
"""The text fields of Amazon 2018's metadata."""


@dataclass(frozen=True)
class Fetch:
    """A request for a public data set."""

    name: str
    """FAMILY/NAME, such as amazon-2014/Beauty."""
    source: str | None = None
    """A folder with the files, or the https address of a folder on a mirror; by default the public home."""
    core: int | None = None
    """Users and items with fewer events are removed; by default 5 for Amazon and 0 for MovieLens."""
    max_rejected: float = 0.01
    """The share of lines that may be rejected."""

    def __post_init__(self) -> None:
        data = self.data
        check_limits(self.core or 0, self.max_rejected)
        if data.family == "recbole" and self.core is not None:
            raise ConfigError(
                "--core: RecBole's files are not changed; set `user_inter_num_interval` in the comparison"
            )
        if data.family == "amazon-2023" and self.source is not None and is_url(self.source):
            raise ConfigError("--source is an address; amazon-2023 is on the hub: name a mirror with HF_ENDPOINT")

    @property
    def data(self) -> NamedData:
        """The data set of this name."""
        return named_data(self.name)


def prepare_named(
    asked: Fetch, folder: Path, tell: Tell, progress: Progress | None = None, *, fresh: bool = False
) -> bool:
    """Write the data set to `folder`, whose name it takes; return False if the same command already made it.

    Files are downloaded once, to the cache whose place is shown, and checked by hash (see download.get).

    Raises:
        ConfigError: no such data set.
        SourceError: a file can't be downloaded, has another hash, is damaged, or is not safe to unpack.
        RejectedLines: too many lines can't be used.
        OutputError: the folder or the cache can't be written, or the folder has other content.
    """
    data = asked.data
    if data.family == "amazon-2023":
        source = Path(asked.source) if asked.source is not None else None
        core = 5 if asked.core is None else asked.core
        amazon = Amazon(data.name, core, source=source, max_rejected=asked.max_rejected)
        return prepare_amazon(amazon, folder, tell, progress, fresh=fresh)
    cache = cache_folder() / data.family
    tell(f"cache: {cache}")
    files = [get(file, cache, asked.source, tell, progress) for file in data.files]
    if data.family == "recbole":
        return _unpacked(asked, files[0], folder, tell, fresh)
    return prepare_own(_own(asked, data, files, progress), folder, tell, progress, fresh=fresh)


def _own(asked: Fetch, data: NamedData, files: list[Path], progress: Progress | None) -> OwnData:
    """Return the request that reads the downloaded files."""
    user, item, time, core = "reviewerID", "asin", "unixReviewTime", 5
    events, items, fields = files[0], files[-1], FIELDS_2018
    if data.family == "amazon-2014":
        items = converted(items, convert_metadata_2014(progress, asked.max_rejected)) / META
        fields = META_FIELDS
    if data.family != "movielens":  # some categories lack a field
        fields = tuple(columns_among(items, fields))
    if data.family == "movielens":
        user, item, time, core = "userId", "movieId", "timestamp", 0
        tables = converted(files[0], convert_movielens)
        events, items, fields = tables / RATINGS, tables / MOVIES, MOVIE_COLUMNS[1:]
    core = core if asked.core is None else asked.core
    return OwnData(events, user, item, time, "whole", items, None, fields, core, max_rejected=asked.max_rejected)


def _unpacked(asked: Fetch, archive: Path, folder: Path, tell: Tell, fresh: bool) -> bool:
    """Write the atomic files of one of RecBole's archives, unchanged but for their names."""
    if is_done(folder, asdict(asked), [archive], fresh):
        return False
    with new_folder(folder) as partial:
        hashes = Hashes([archive])
        hashes.begin()
        files = unpack_atomic(archive, partial, folder.name)
        tell("files: " + ", ".join(path.name for path in files))
        write_record(partial, asdict(asked), hashes, {"files": len(files)})
    return True
