"""Where the text side meets the training side: a store's vectors in the order of a data set's item ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from blair_rec.config import TextConfig
from blair_rec.recommend.dataset import ItemVectors
from blair_rec.text.catalogue import read_catalogue
from blair_rec.text.encode import encode_catalogue, store_name
from blair_rec.text.encoder import EncoderSource, resolve_encoder
from blair_rec.text.store import EmbeddingStore

Progress = Callable[[int, int], None]
"""Called with (done, total) as the work goes on."""


def find_encoder(text: TextConfig) -> EncoderSource:
    """Where the weights that the text section asks for lie.

    Raises:
        EncoderUnavailable: they can't be had, and no fallback is named.
    """
    fallback = text.fallback.encoder if text.fallback else None
    return resolve_encoder(
        text.encoder, revision=text.revision, fallback=fallback, pooling=text.pooling, max_length=text.max_length
    )


def encoded_store(
    text: TextConfig, items: Path, stores: Path, source: EncoderSource, progress: Progress | None = None
) -> tuple[EmbeddingStore, Path]:
    """The store of an item file's vectors inside the folder `stores`: read if it is there, otherwise made."""
    catalogue = read_catalogue(Path(text.items) if text.items else items)
    path = stores / store_name(text.fields, source)
    return encode_catalogue(catalogue, text.fields, source, path, progress=progress), path


def item_vectors(store: EmbeddingStore, item_tokens: Sequence[str], missing_text: str) -> ItemVectors:
    """Vectors by item id, where item_tokens[0] is RecBole's padding token.

    Raises:
        MissingEmbeddings, TextlessItems, StoreError: the store doesn't cover the data set.
    """
    rows = store.table([str(token) for token in item_tokens[1:]], missing_text)
    table = np.zeros((len(item_tokens), rows.shape[1]), dtype=np.float32)
    table[1:] = rows
    return ItemVectors(table, store.store_sha256)
