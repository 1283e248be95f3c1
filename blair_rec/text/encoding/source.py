"""Where an encoder's files lie, and how it reads a text: a folder, an installed package, or a model on the hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from blair_rec import registry
from blair_rec.errors import ConfigError, EncoderUnavailable, UnknownEncoder
from blair_rec.text.encoding.packages import packaged_model

# huggingface_hub is imported where it is used: to find a folder or a package, or to read what one has made, takes none.

logger = logging.getLogger("blair_rec")

Pooling = Literal["cls", "mean"]

DTYPES = ("float32", "bfloat16", "float16")

SAFE_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Taken only where a model has no safetensors; transformers reads them with torch's weights_only."""
CONFIG_FILES = ("config.json", "1_Pooling/config.json", "sentence_bert_config.json")
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")

HUB_SECONDS = 5.0
"""How long the hub may take to answer, or to accept a connection, before it counts as unreachable."""

# Their first position is the one after the padding token's: max_position_embeddings promises more than there is.
OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "camembert",
    "mpnet",
    "longformer",
)


@dataclass(frozen=True)
class EncoderSource:
    """An encoder that has been found: where its files lie, and how it reads a text."""

    name: str
    """Really used: hub name, package name, or the last part of a folder's path."""
    asked_for: str
    """What the configuration says; differs from `name` for a folder, or where a fallback stepped in."""
    path: Path
    """Folder with the weights, the config and the tokenizer."""
    revision: str
    """Commit on the hub; for a folder or a package 16 hex digits of a SHA-256 over weights, config and tokenizer."""
    pooling: Pooling
    """cls: the first token's vector; mean: of all tokens but the padding."""
    max_length: int
    """Tokens read per text, special ones included; the rest is cut off."""
    capped_by: str = ""
    """What made max_length smaller than asked for; empty if nothing did."""
    dtype: str = "float32"
    """What the model computes in: float32, bfloat16 or, on a GPU, float16."""
    asked_length: int = field(default=0, compare=False)
    """The max_length that was asked for."""
    outside: bool = field(default=False, compare=False)
    """Whether it is a class of another package (see outside.py), and there are no files of ours to read."""

    def header(self) -> dict[str, str | int]:
        """What a store records of the encoder; not the path, which is this machine's alone."""
        return {
            "name": self.name,
            "asked_for": self.asked_for,
            "revision": self.revision,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "dtype": self.dtype,
        }


def resolve_encoder(
    name: str,
    *,
    revision: str | None = None,
    fallback: str | None = None,
    pooling: str = "auto",
    max_length: int = 512,
    dtype: str = "float32",
) -> EncoderSource:
    """Find an encoder's files without loading them.

    Looked for in this order: a name of the registry (an entry point of `blair_rec.encoders`); a local folder; an
    installed package whose module has `get_model_path()` (a module of the working directory is never imported); the
    hub, or where the hub can't be reached its local cache. `fallback` is another such name: it is taken, with a
    warning, only if the hub can't be reached; `revision` and `pooling` belong to `name` and don't carry over to it.

    Raises UnknownEncoder for a name that the hub refuses or a folder that isn't a model, EncoderUnavailable if the hub
    can't be reached, ConfigError if `pooling: auto` has nothing to go by.
    """
    if registry.is_outside("encoders", name):
        from blair_rec.text.encoding.outside import outside_source

        return outside_source(name, revision, pooling, max_length, dtype)
    if pooling not in ("auto", "cls", "mean"):
        raise ConfigError(f"pooling is {pooling!r}; known: auto, cls, mean")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}")
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}; at least 1 token has to be read")
    try:
        used, folder, found = _find(name, revision)
    except EncoderUnavailable as unavailable:
        if fallback is None:
            raise
        source = resolve_encoder(fallback, max_length=max_length, dtype=dtype)
        logger.warning("%s; asked for %s, using %s, as `fallback` says", unavailable.why, name, source.name)
        return dataclasses.replace(source, asked_for=name)
    config = _read_json(folder / "config.json")
    how = cast(Pooling, pooling) if pooling != "auto" else _pooling(folder, used)
    length, capped_by = _capped_length(folder, config, max_length)
    return EncoderSource(used, name, folder, found, how, length, capped_by, dtype, max_length)


def _find(name: str, revision: str | None) -> tuple[str, Path, str]:
    """(name really used, folder, revision) of an encoder."""
    folder = Path(name).expanduser()
    # A folder that merely shares a package's name, such as a store, does not hide the package.
    if (folder / "config.json").is_file() or (os.sep in name and folder.is_dir()):
        return _local(folder.resolve().name, folder, revision)
    if name.startswith((".", "~", os.sep)) or name.endswith(os.sep) or name.count(os.sep) > 1:
        raise _no_folder(name)
    # The hub has no owner of these names, so that models/mine can only be a folder.
    if name.partition("/")[0] in ("models", "datasets", "spaces"):
        raise _no_folder(name)
    if (packaged := packaged_model(name)) is not None:
        return _local(name, packaged, revision)
    try:
        return _hub(name, revision)
    except EncoderUnavailable as error:
        if folder.is_dir():
            raise EncoderUnavailable(name, f"the folder {name} holds no config.json, and {error.why}") from error
        if os.sep in name and folder.parent.is_dir():  # a misspelt folder, or a hub name
            raise EncoderUnavailable(name, f"there is no folder {name}, and {error.why}") from error
        raise


def _no_folder(name: str) -> UnknownEncoder:
    return UnknownEncoder(f"the encoder folder {name} is not there; name a folder with a config.json, or a hub name")


def _local(name: str, folder: Path, revision: str | None) -> tuple[str, Path, str]:
    if revision is not None:
        raise ConfigError(
            f"revision is {revision!r}, but {name!r} is a folder or a package, not a hub name; leave it out"
        )
    if lacking := _lacking(folder):
        raise UnknownEncoder(f"{folder} holds no {' and no '.join(lacking)}; save a model there with save_pretrained()")
    return name, folder, _content_revision(folder)


def _lacking(folder: Path) -> list[str]:
    """What a folder would still need to be loaded as a model."""
    parts = {
        "config.json": ("config.json",),
        "weights (model*.safetensors or pytorch_model*.bin)": ("model*.safetensors", "pytorch_model*.bin"),
        "tokenizer (tokenizer.json, vocab.* or *.model)": ("tokenizer.json", "vocab.*", "*.model"),
    }
    return [part for part, patterns in parts.items() if not _files(folder, patterns)]


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _content_revision(folder: Path) -> str:
    """SHA-256 over names and contents of the weight, config and tokenizer files, its first 16 hex digits."""
    weights = _files(folder, SAFE_WEIGHTS) or _files(folder, PICKLED_WEIGHTS)
    whole = hashlib.sha256()
    for file in [*weights, *_files(folder, CONFIG_FILES + TOKENIZER_FILES)]:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        whole.update(f"{file.relative_to(folder).as_posix()} {digest.hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def _hub(name: str, revision: str | None) -> tuple[str, Path, str]:
    """A model on the hub: fetched, or found in the local cache if the hub does not answer."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        # Asked first, because snapshot_download asks the same without any time limit.
        info = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
        names = [file.rfilename for file in info.siblings or []]
        safe = any(file.startswith("model") and file.endswith(".safetensors") for file in names)
        patterns = [*CONFIG_FILES, *TOKENIZER_FILES, *(SAFE_WEIGHTS if safe else PICKLED_WEIGHTS)]
        # By branch, not by commit: only so does the cache learn which commit the branch is at, to know it offline.
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise UnknownEncoder(
            f"encoder {name!r} is neither a folder, nor an installed package, nor a hub name: {error}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            return _cached(name, revision, f"the hub answers with status {status}")
        at = f" at revision {revision!r}" if revision else ""
        raise UnknownEncoder(
            f"the hub does not give out {name!r}{at} (status {status}), and no folder or installed package has that "
            "name; check the spelling, log in with `hf auth login` if the model is private or gated, or `pip install` "
            "the package"
        ) from error
    # Network errors come as the HTTP client's HTTPError or as an OSError, by release of huggingface_hub.
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of this machine's disk, not of the network
        return _cached(name, revision, f"the hub can't be reached ({error or type(error).__name__})")
    if lacking := _lacking(folder):
        raise UnknownEncoder(f"{name!r} on the hub holds no {' and no '.join(lacking)}; choose a text encoder")
    return name, folder, folder.name  # the cache calls the folder by its commit


def _cached(name: str, revision: str | None, why: str) -> tuple[str, Path, str]:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str) or _lacking(Path(config).parent):
        raise EncoderUnavailable(name, why)
    folder = Path(config).parent
    logger.info("%s; %s comes from the local cache, commit %s", why, name, folder.name)
    return name, folder, folder.name


def _read_json(path: Path) -> dict[str, Any]:
    """A model's JSON file; {} where it isn't there."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnknownEncoder(f"{path} is broken ({error}); get the model again") from error
    return content if isinstance(content, dict) else {}


def _pooling(folder: Path, name: str) -> Pooling:
    """How the model was meant to be pooled, as sentence-transformers records it, or as BLaIR's card says."""
    config = _read_json(folder / "1_Pooling" / "config.json")
    if config:
        mode = config.get("pooling_mode")
        if mode is None:  # up to sentence-transformers 5: one flag per mode
            flags = {key.removeprefix("pooling_mode_"): on for key, on in config.items() if "pooling_mode_" in key}
            modes = [mode for mode, on in flags.items() if on]
        else:
            modes = [mode] if isinstance(mode, str) else list(mode)
        if modes in (["cls_token"], ["cls"]):
            return "cls"
        if modes in (["mean_tokens"], ["mean"]):
            return "mean"
        raise ConfigError(
            f"{name} was trained with pooling {' + '.join(modes) or 'none'}; only cls and mean are known here"
        )
    if name.startswith("hyp1231/blair-"):
        return "cls"
    raise ConfigError(
        f"{name} does not say how it pools (no 1_Pooling/config.json); set `pooling: cls` or `pooling: mean` "
        "(`blair_pooling` in a RecBole config)"
    )


def _capped_length(folder: Path, config: dict[str, Any], asked: int) -> tuple[int, str]:
    """(tokens read per text, what lowered them from `asked`, or "")."""
    limits: list[tuple[int, str]] = [(asked, "")]
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and positions > 0:
        if config.get("model_type") in OFFSET_POSITIONS:
            positions -= (config.get("pad_token_id") or 0) + 1
        limits.append((positions, f"the model's {positions} positions"))
    for file, key in (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length")):
        limit = _read_json(folder / file).get(key)
        # A tokenizer without a limit says 1e30, as a float or as an int.
        if isinstance(limit, (int, float)) and limit < asked:
            limits.append((int(limit), f"{key} in {file}"))
    return min(limits, key=lambda limit: limit[0])
