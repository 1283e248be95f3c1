"""Where the text side meets the training side: a store's vectors in the order of a data set's item ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.sections import TextConfig
from blair_rec.device import AUTO
from blair_rec.errors import MissingEmbeddings, StoreError, TextlessItems
from blair_rec.experiment.provenance import vectors_code
from blair_rec.experiment.splits.leakage import text_notes
from blair_rec.text.catalogue import ID_FIELDS, Catalogue, read_catalogue
from blair_rec.text.encoding.encode import encode_catalogue, store_name
from blair_rec.text.encoding.encoder import TextsDone
from blair_rec.text.encoding.source import EncoderSource, resolve_encoder
from blair_rec.text.notes import catalogue_notes, check_match, cut_notes, store_notes
from blair_rec.text.store.embeddings import HEADER, EmbeddingStore, open_store
from blair_rec.text.template import ItemTexts, Template, catalogue_texts

if TYPE_CHECKING:  # takes torch and RecBole, which finding and reading stores does not
    from blair_rec.data.dataset import ItemVectors

ITEM_FIELD = ID_FIELDS[0]
"""RecBole's ITEM_ID_FIELD where nothing is said."""


ReadItems = Callable[[Path, Sequence[str]], Catalogue]
"""Called with an item file and the fields that may name its items, as read_catalogue."""


class Vectors(Protocol):
    """Item vectors that a variant asks for, equal for variants that ask for the same."""

    @property
    def path(self) -> Path:
        """The folder of their store, which is there or will be."""

    @property
    def encoder(self) -> str:
        """The name of what makes them, or has made them."""

    @property
    def catalogue(self) -> Catalogue | None:
        """The items that they are made from, if that is known."""

    def known_sha256(self) -> str | None:
        """The hash of the store, if it is there already."""

    def check(self, item_tokens: Sequence[str], missing_text: str = "error") -> None:
        """Make sure, before anything is encoded, that they can be those of a data set with these items.

        Raises:
            CatalogueError: the catalogue has less than half of them.
            MissingEmbeddings, TextlessItems: it lacks some, or their text, and `missing_text` is error.
        """

    def notes(self, item_tokens: Sequence[str]) -> list[str]:
        """What a reader of results over these items has to know of their texts, as far as it is known by now."""

    def encode(self, progress: TextsDone | None = None, renew: bool = False) -> EmbeddingStore:
        """The store: read if it is there, otherwise made; with `renew` made again if other code has made it."""


@dataclass(frozen=True)
class ReadyVectors:
    """Vectors that are there already, such as those of another tool that `blair-rec store import` has read."""

    path: Path
    store: EmbeddingStore = field(repr=False, compare=False)
    catalogue: None = field(default=None, init=False)

    @property
    def encoder(self) -> str:
        """The name that the store gives for it."""
        return str(self.store.encoder.get("name", "unknown"))

    def known_sha256(self) -> str:
        """The hash of the store."""
        return self.store.store_sha256

    def check(self, item_tokens: Sequence[str], missing_text: str = "error") -> None:
        """Nothing: the store itself says whose vectors it has (`EmbeddingStore.find`)."""

    def notes(self, item_tokens: Sequence[str]) -> list[str]:
        """Of items without a vector and texts that were cut; the texts themselves are unknown."""
        return store_notes(self.store, item_tokens)

    def encode(self, progress: TextsDone | None = None, renew: bool = False) -> EmbeddingStore:
        """The store, read and checked; it is never made again here.

        Raises:
            StoreError: it is damaged.
        """
        return open_store(self.path)


@dataclass(frozen=True)
class Encoding:
    """Vectors that are asked for: of which texts, by which encoder, and where their store is or will be."""

    template: Template
    catalogue: Catalogue = field(repr=False, compare=False)
    source: EncoderSource
    path: Path
    """Differs wherever texts, encoder or its settings do, so that no store takes the place of another."""
    device: str = field(default=AUTO, compare=False)
    """Where they are made, as choose_device has it."""

    @property
    def encoder(self) -> str:
        """The name of the encoder that is really used."""
        return self.source.name

    def check(self, item_tokens: Sequence[str], missing_text: str = "error") -> None:
        """Whether the catalogue is that of a data set with these items, and whether it has a text for each."""
        check_match(self.catalogue, item_tokens)
        if missing_text != "error":
            return
        lines = dict(zip(self.catalogue.item_tokens, catalogue_texts(self.catalogue, self.template), strict=True))
        if missing := [token for token in item_tokens if token not in lines]:
            raise MissingEmbeddings(missing, len(item_tokens))
        textless = [token for token in item_tokens if not lines[token]]
        if 0 < len(textless) < len(item_tokens):  # where none has text, encoding proposes other fields
            raise TextlessItems(textless, len(item_tokens))

    def notes(self, item_tokens: Sequence[str]) -> list[str]:
        """Of texts that are missing, cut, or shared by several items; cut ones are known once they are encoded."""
        fields, tokens = self.template.fields, self.catalogue.item_tokens
        lines = dict(zip(tokens, catalogue_texts(self.catalogue, self.template), strict=True))
        notes = catalogue_notes(self.catalogue, lines, fields, item_tokens)
        if (self.path / HEADER).is_file():
            notes += cut_notes(open_store(self.path, verify=False), item_tokens)
        known = set(item_tokens)
        return notes + text_notes(fields, [text for token, text in lines.items() if token in known])

    def known_sha256(self) -> str | None:
        """The hash of the store, if it is there already."""
        try:
            return open_store(self.path, verify=False).store_sha256 if (self.path / HEADER).is_file() else None
        except StoreError:  # damaged: encode() says so and makes it again
            return None

    def encode(self, progress: TextsDone | None = None, renew: bool = False) -> EmbeddingStore:
        """The store: read if it is there, otherwise made; with `renew` made again if other code has made it."""
        # Its name holds what it is made from: what is there and differs was left by another version.
        return encode_catalogue(
            self.catalogue,
            self.template,
            self.source,
            self.path,
            fresh=True,
            code=vectors_code(),
            renew=renew,
            device=self.device,
            progress=progress,
        )


def find_encoder(text: TextConfig) -> EncoderSource:
    """Where the weights that the text section asks for lie.

    Raises:
        EncoderUnavailable: they can't be had, and no fallback is named.
    """
    fallback = text.fallback.encoder if text.fallback else None
    return resolve_encoder(
        text.encoder,
        revision=text.revision,
        fallback=fallback,
        pooling=text.pooling,
        max_length=text.max_length,
        dtype=text.dtype,
        prompt=text.prompt,
        query_prompt=text.query_prompt,
        truncate_dim=text.truncate_dim,
        normalize=text.normalize,
    )


def find_encoding(
    text: TextConfig,
    items: Path,
    stores: Path,
    source: EncoderSource,
    item_field: str = ITEM_FIELD,
    read: ReadItems = read_catalogue,
    device: str = AUTO,
) -> Encoding:
    """The vectors of an item file's texts, with their store inside the folder `stores`; nothing is encoded yet.

    `item_field` is RecBole's ITEM_ID_FIELD, which names the items in their file, too. `read` may keep what it has read,
    for encodings that share an item file.

    Raises:
        CatalogueError: no such file, or one that can't be read; MissingField: a field that it doesn't have.
    """
    catalogue = read(Path(text.items) if text.items else items, item_id_fields(item_field))
    template = Template(text.template, text.fields)
    made_from = ItemTexts.of(catalogue, template).sha256
    path = stores / f"{store_name(template, source)}-{made_from[:8]}"
    return Encoding(template, catalogue, source, path, device)


def find_encodings(
    config: CompareConfig, folder: Path, stores: Path, only: Collection[str] | None = None
) -> dict[str, Vectors]:
    """By variant, for all that use text, or for those of `only`.

    Each encoder is looked for once, and each catalogue is read once, however many variants ask for it.

    Raises:
        StoreError: a store that the config names is missing or damaged; and as find_encoder and find_encoding do.
    """
    sources: dict[object, EncoderSource] = {}
    read = cache(items_reader(config.recbole))
    found: dict[str, Vectors] = {}
    for name, variant in config.variants.items():
        if not variant.uses_text or (only is not None and name not in only):
            continue
        text = config.text_of(variant)
        if text.store is not None:
            found[name] = ReadyVectors(Path(text.store), open_store(text.store, verify=False))
            continue
        asked = (
            text.encoder, text.revision, text.fallback, text.pooling, text.max_length, text.dtype, text.prompt,
            text.query_prompt, text.truncate_dim, text.normalize,
        )  # fmt: skip
        if asked not in sources:
            sources[asked] = find_encoder(text)
        item_field = config.recbole.get("ITEM_ID_FIELD", ITEM_FIELD)
        items = folder / f"{folder.name}.item"
        found[name] = find_encoding(text, items, stores, sources[asked], item_field, read, config.computed_on)
    return found


def items_reader(recbole: Mapping[str, Any]) -> ReadItems:
    """read_catalogue for `.item` files that are written as RecBole's `field_separator` and `encoding` say."""
    separator, encoding = recbole.get("field_separator") or "\t", recbole.get("encoding") or "utf-8"
    return partial(read_catalogue, separator=separator, encoding=encoding)


def item_id_fields(item_field: str) -> tuple[str, ...]:
    """Where a catalogue may name its items, if RecBole's ITEM_ID_FIELD is `item_field`: there first."""
    return tuple(dict.fromkeys((item_field, *ID_FIELDS)))


def item_vectors(store: EmbeddingStore, item_tokens: Sequence[str], missing_text: str) -> ItemVectors:
    """Vectors by item id, where item_tokens[0] is RecBole's padding token.

    Raises:
        MissingEmbeddings, TextlessItems, StoreError: the store doesn't cover the data set.
    """
    from blair_rec.data.dataset import ItemVectors

    rows = store.table([str(token) for token in item_tokens[1:]], missing_text)
    table = np.zeros((len(item_tokens), rows.shape[1]), dtype=np.float32)
    table[1:] = rows
    return ItemVectors(table, store.store_sha256)
