"""Relative paths in a comparison file: looked up in the working directory, then next to the file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blair_rec.config.names import FROM

logger = logging.getLogger("blair_rec")


def with_paths(raw: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """Return a comparison file's content with resolved paths: dataset, and items, store and encoder of text.

    A data set and an items file become absolute paths, so that the comparison can be resumed from any directory. A
    store and an encoder in the working directory keep the path of the file, because runs are identified by it. A path
    that doesn't exist is not changed: it may be the name of one of RecBole's data sets, or of a model.

    Args:
        raw: the sections as YAML gives them, not checked yet.
        beside: the folder of the file.
    """
    result = dict(raw)
    if isinstance(dataset := raw.get("dataset"), str):
        result["dataset"] = _found(dataset, beside, "dataset", Path.is_dir, absolute=True)
    if isinstance(text := raw.get("text"), Mapping):
        result["text"] = _text(text, beside, "text")
    if isinstance(variants := raw.get("variants"), Mapping):
        result["variants"] = {name: _variant(variant, beside, str(name)) for name, variant in variants.items()}
    return result


def _variant(variant: Any, beside: Path, name: str) -> Any:
    if not isinstance(variant, Mapping):
        return variant
    result = dict(variant)
    if isinstance(text := variant.get("text"), Mapping):
        result["text"] = _text(text, beside, f"variants.{name}.text")
    for key in FROM:
        if key in variant:
            result[key] = _elsewhere(variant[key], beside, f"variants.{name}.{key}")
    return result


def _elsewhere(files: Any, beside: Path, where: str) -> Any:
    """Make the paths of another system's files absolute. Their content identifies a run, not their place."""
    if isinstance(files, Mapping):
        return {seed: _elsewhere(file, beside, f"{where}.{seed}") for seed, file in files.items()}
    return _found(files, beside, where, Path.is_file, absolute=True) if isinstance(files, str) else files


def _text(text: Mapping[str, Any], beside: Path, where: str) -> dict[str, Any]:
    """Resolve the paths of a text section, or of a variant's part of one."""
    result = dict(text)
    for key, fits, absolute in (
        ("items", Path.is_file, True),
        ("store", Path.is_dir, False),
        ("encoder", _is_encoder, False),
    ):
        if isinstance(value := text.get(key), str):
            result[key] = _found(value, beside, f"{where}.{key}", fits, absolute)
    fallback = text.get("fallback")
    if isinstance(fallback, Mapping) and isinstance(value := fallback.get("encoder"), str):
        encoder = _found(value, beside, f"{where}.fallback.encoder", _is_encoder, absolute=False)
        result["fallback"] = {**fallback, "encoder": encoder}
    return result


def _found(value: str, beside: Path, where: str, fits: Callable[[Path], bool], absolute: bool) -> str:
    """The path that the comparison uses; `fits` checks what exists there."""
    path = Path(value)
    if not value or path.is_absolute() or path.name in ("", ".."):
        return value
    if fits(path):
        return os.path.abspath(path) if absolute else value  # not resolve(): files may be named after a link
    for other in _places(path, beside):
        if fits(other):
            used = os.path.abspath(other)
            logger.info("%s: %s is not in the working directory; found next to the file: %s", where, value, used)
            return used
    return value


def _places(path: Path, beside: Path) -> list[Path]:
    """Where to look after the working directory.

    The last place is the file's own folder, if its name is part of the path. `prepare` writes data/shop/shop.yaml,
    which names data/shop; so the folder can be moved, and used from anywhere.
    """
    places, parts, own = [beside / path], path.parts, os.path.basename(os.path.abspath(beside))
    if own in parts:
        places.append(beside.joinpath(*parts[len(parts) - parts[::-1].index(own) :]))
    return places


def _is_encoder(path: Path) -> bool:
    return (path / "config.json").is_file()
