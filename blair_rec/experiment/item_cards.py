"""Item cards for the page, from catalogue and stores: titles, categories, and a map of the vectors."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from blair_rec.errors import CatalogueError
from blair_rec.evaluate.page.cards import ItemCards, ItemMap
from blair_rec.experiment.item_vectors import ITEM_FIELD, ReadItems, Vectors, item_id_fields
from blair_rec.text.catalogue import Catalogue, Record, read_catalogue, texts_in
from blair_rec.text.store.embeddings import HEADER, EmbeddingStore, as_float32, open_store
from blair_rec.text.template import Template
from blair_rec.text.titles import first_field, title_of

logger = logging.getLogger("blair_rec")

CATEGORY_FIELDS = ("category", "categories", "class", "genre", "genres", "main_category")
MOST_POINTS = 5_000
"""The most points of a map; larger stores are sampled."""
SAYS_LITTLE = 0.8
"""If more than this share of the items have the same label, the next finer level is used."""


def gather_cards(
    item_tokens: Sequence[str],
    catalogue: Catalogue | None,
    stores: Iterable[EmbeddingStore],
    template: Template | None = None,
) -> ItemCards:
    """Make the cards of a data set's items; `catalogue` is None if it has none, `template` if no text is encoded."""
    wanted = set(item_tokens)
    rows = [] if catalogue is None else [row for row in catalogue.rows() if row[0] in wanted]
    category = first_field(CATEGORY_FIELDS, {name for _, record in rows for name in record})
    records: dict[str, Record] = {}
    titles: dict[str, str] = {}
    for token, record in rows:  # of several rows of an item, use the first with a title
        title = title_of(record, template)
        if token not in records or (title and token not in titles):
            records[token] = record
            titles |= {token: title} if title else {}
    return ItemCards(
        titles=titles,
        categories=telling_labels(
            {token: _labels(texts_in(record.get(category))) for token, record in records.items()}
        ),
        maps=tuple(item_map(store, item_tokens) for store in stores),
    )


def comparison_cards(
    folder: Path,
    encodings: Iterable[Vectors],
    item_tokens: Sequence[str],
    item_field: str = ITEM_FIELD,
    read: ReadItems = read_catalogue,
) -> ItemCards:
    """Make cards from the catalogue and stores of a comparison; without text, from the data set's .item file.

    `folder` contains the atomic files, `item_field` is RecBole's ITEM_ID_FIELD, `read` reads the .item file.
    """
    encodings = list(encodings)
    known = [encoding.catalogue for encoding in encodings if encoding.catalogue is not None]
    catalogue = known[0] if known else _own_catalogue(folder, item_field, read)
    template = next((one for encoding in encodings if (one := encoding.template) is not None), None)
    paths = dict.fromkeys(encoding.path for encoding in encodings if (encoding.path / HEADER).is_file())
    return gather_cards(item_tokens, catalogue, [open_store(path, verify=False) for path in paths], template)


def _own_catalogue(folder: Path, item_field: str, read: ReadItems) -> Catalogue | None:
    """The data set's .item file; None if it is missing or can't be read."""
    path = folder / f"{folder.name}.item"
    if not path.is_file():
        return None
    try:
        return read(path, item_id_fields(item_field))
    except CatalogueError as error:  # no variant needs it, so the page is made without titles
        logger.warning("the page shows no item titles: %s", error)
        return None


def telling_labels(labels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """One label per item token, from the coarsest level that distinguishes items; labels go from coarse to fine.

    For instance, the first label of all items of Amazon's Industrial & Scientific is that name, so the second is used.
    """
    labels = {token: of_item for token, of_item in labels.items() if of_item}
    deepest = max((len(of_item) for of_item in labels.values()), default=0)
    for level in range(deepest):
        chosen = {token: of_item[min(level, len(of_item) - 1)] for token, of_item in labels.items()}
        ((_, most),) = Counter(chosen.values()).most_common(1)
        if most <= SAYS_LITTLE * len(chosen):
            return chosen
    return {token: of_item[0] for token, of_item in labels.items()}


def item_map(store: EmbeddingStore, item_tokens: Sequence[str]) -> ItemMap:
    """The vectors of a data set's items projected to their two principal directions, the same on every machine."""
    rows = store.tokens.find(item_tokens)
    rows = rows[(rows >= 0) & (rows < len(store))]
    items = len(rows)
    if items > MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_POINTS, replace=False))
    vectors = as_float32(store.vectors[rows], store.dtype).astype(np.float64)
    from blair_rec.models.transforms import center, pca  # its folder imports torch and RecBole

    points = pca(vectors, 2)
    total = float(np.square(center(vectors)).sum())
    first, second = (float(share) for share in np.square(points).sum(axis=0) / (total or 1.0))
    x, y = (tuple(float(f"{value:.5g}") for value in column) for column in points.T)
    encoder = str(store.encoder.get("name", "unknown"))
    tokens = tuple(store.tokens.at(rows))
    return ItemMap(encoder, store.store_sha256, (first, second), items, tokens, x, y)


def _labels(pieces: Sequence[str]) -> list[str]:
    """['Toys', 'Puzzles'] from a list, or from a line with commas, bars or arrows; another line is one label."""
    if len(pieces) == 1:
        pieces = re.split(r"[|,;>]", pieces[0])
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]
