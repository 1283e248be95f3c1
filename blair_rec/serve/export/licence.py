"""The licence of a text encoder, as its own model card states it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from blair_rec.config.yaml.files import read_yaml
from blair_rec.errors import ConfigError, UnknownEncoder
from blair_rec.text.encoding.packages import packaged_model
from blair_rec.text.encoding.source import HUB_SECONDS

UNKNOWN = "unknown: check"


def encoder_licence(encoder: Mapping[str, Any]) -> str:
    """The `license` in an encoder's model card, or "unknown: check" if there is no card or it names no licence.

    It looks for a card in the encoder's folder or package, in the hub's local cache, and on the hub.

    Args:
        encoder: name and asked_for, as a store has them.
    """
    name = str(encoder.get("name", ""))
    for path in _cards(name, str(encoder.get("asked_for", ""))):
        if licence := _front_matter(path).get("license"):
            return str(licence)
    return _of_the_hub(name) or UNKNOWN


def public_name(asked_for: str) -> str:
    """An encoder's name without the folders of this machine: a hub's or package's name, or a folder's last part."""
    return Path(asked_for).name if Path(asked_for).is_absolute() or asked_for.count("/") > 1 else asked_for


def _cards(name: str, asked_for: str) -> Iterator[Path]:
    if (Path(asked_for) / "config.json").is_file():  # a folder; the name is its last part
        yield Path(asked_for) / "README.md"
        return
    try:
        folder = packaged_model(name)
    except UnknownEncoder:
        folder = None
    if folder is not None:
        yield folder / "README.md"


@cache
def _of_the_hub(name: str) -> str | None:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]

    if name.count("/") != 1:  # no name of the hub's
        return None
    try:
        cached = try_to_load_from_cache(name, "README.md")
        if isinstance(cached, str):
            return str(_front_matter(Path(cached)).get("license") or "") or None
        found = HfApi().model_info(name, timeout=HUB_SECONDS).card_data
    except (HFValidationError, HfHubHTTPError, HTTPError, OSError):
        return None
    return str(found.get("license") or "") or None if found is not None else None


def _front_matter(path: Path) -> dict[str, Any]:
    """Return the YAML between the first two lines of dashes; {} if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        found = read_yaml(text.split("---")[1], str(path)) if text.startswith("---") and text.count("---") > 1 else None
    except (OSError, ValueError, ConfigError):
        return {}
    return found if isinstance(found, dict) else {}
