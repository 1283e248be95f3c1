"""Text vectors for training: find or encode the stores of variants, and order vectors by item id."""

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
from blair_rec.text.template import ItemTexts, Template, catalogue_texts, recorded_template

if TYPE_CHECKING:  # imports torch and RecBole, which are not needed to find and read stores
    from blair_rec.data.dataset import ItemVectors

ITEM_FIELD = ID_FIELDS[0]
"""The default of RecBole's ITEM_ID_FIELD."""


ReadItems = Callable[[Path, Sequence[str]], Catalogue]
"""A function like read_catalogue: called with an item file and the possible names of its id field."""


class Vectors(Protocol):
    """The item vectors of a variant; two objects are equal if their vectors are the same."""

    @property
    def path(self) -> Path:
        """The folder of their store, which may not exist yet."""

    @property
    def encoder(self) -> str:
        """The name of the encoder that makes or made them."""

    @property
    def catalogue(self) -> Catalogue | None:
        """The items that they are made from; None if unknown."""

    @property
    def template(self) -> Template | None:
        """How the items' texts are made; None if unknown."""

    def known_sha256(self) -> str | None:
        """The hash of the store; None if it doesn't exist yet."""

    def check(self, item_tokens: Sequence[str], missing_text: str = "error") -> None:
        """Check before encoding that the vectors fit a data set with these items.

        Raises:
            CatalogueError: the catalogue has less than half of the items.
            MissingEmbeddings, TextlessItems: items or their text are missing, and `missing_text` is error.
        """

    def notes(self, item_tokens: Sequence[str]) -> list[str]:
        """Notes for readers of the results on the texts of these items, as far as known now."""

    def encode(self, progress: TextsDone | None = None, renew: bool = False) -> EmbeddingStore:
        """Read the store, or make it if it doesn't exist; with `renew` also if other code has made it."""


@dataclass(frozen=True)
class ReadyVectors:
    """Vectors of an existing store, for instance from another tool with `blair-rec store import`."""

    path: Path
    store: EmbeddingStore = field(repr=False, compare=False)
    catalogue: None = field(default=None, init=False)

    @property
    def encoder(self) -> str:
        """The encoder's name in the store."""
        return str(self.store.encoder.get("name", "unknown"))

    @property
    def template(self) -> Template | None:
        """The template of its texts; None if the store doesn't record it."""
        return recorded_template(self.store.template)

    def known_sha256(self) -> str:
        """The hash of the store."""
        return self.store.store_sha256

    def check(self, item_tokens: Sequence[str], missing_text: str = "error") -> None:
        """Does nothing: `EmbeddingStore.find` checks the items later."""

    def notes(self, item_tokens: Sequence[str]) -> list[str]:
        """Notes on items without a vector and on cut texts; the texts themselves are unknown."""
        return store_notes(self.store, item_tokens)

    def encode(self, progress: TextsDone | None = None, renew: bool = False) -> EmbeddingStore:
        """Read and check the store; it is never made again.

        Raises:
            StoreError: it is damaged.
        """
        return open_store(self.path)


@dataclass(frozen=True)
class Encoding:
    """Vectors to encode: from which texts, by which encoder, and into which store."""

    template: Template
    catalogue: Catalogue = field(repr=False, compare=False)
    source: EncoderSource
    path: Path
    """Different texts, encoders or settings give different folders, so that no store replaces another."""
    device: str = field(default=AUTO, compare=False)
    """The device for encoding; see choose_device."""

    @property
    def encoder(self) -> str:
        """The name of the encoder that is used, which may be the fallback."""
        return self.source.name

    def check(self, item_tokens: Sequence[str], missing_text: str = "error") -> None:
        """Check that the catalogue fits a data set with these items and has a text for each."""
        check_match(self.catalogue, item_tokens)
        if missing_text != "error":
            return
        lines = dict(zip(self.catalogue.item_tokens, catalogue_texts(self.catalogue, self.template), strict=True))
        if missing := [token for token in item_tokens if token not in lines]:
            raise MissingEmbeddings(missing, len(item_tokens))
        textless = [token for token in item_tokens if not lines[token]]
        if 0 < len(textless) < len(item_tokens):  # if no item has text, encoding raises and suggests other fields
            raise TextlessItems(textless, len(item_tokens))

    def notes(self, item_tokens: Sequence[str]) -> list[str]:
        """Notes on missing, cut and identical texts; cut texts are known only after encoding."""
        fields, tokens = self.template.fields, self.catalogue.item_tokens
        lines = dict(zip(tokens, catalogue_texts(self.catalogue, self.template), strict=True))
        notes = catalogue_notes(self.catalogue, lines, fields, item_tokens)
        if (self.path / HEADER).is_file():
            notes += cut_notes(open_store(self.path, verify=False), item_tokens)
        known = set(item_tokens)
        return notes + text_notes(fields, [text for token, text in lines.items() if token in known])

    def known_sha256(self) -> str | None:
        """The hash of the store; None if it doesn't exist yet."""
        try:
            return open_store(self.path, verify=False).store_sha256 if (self.path / HEADER).is_file() else None
        except StoreError:  # damaged: encode() reports it and makes it again
            return None

    def encode(self, progress: TextsDone | None = None, renew: bool = False) -> EmbeddingStore:
        """Read the store, or make it if it doesn't exist; with `renew` also if other code has made it."""
        # Its name depends on texts and encoder, so a store of this name that differs is from another version.
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
    """Find the weights of the encoder that the text section names.

    Raises:
        EncoderUnavailable: the weights are not available, and there is no fallback.
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
    """Prepare the encoding of an item file's texts into a store in the folder `stores`; nothing is encoded yet.

    `item_field` is RecBole's ITEM_ID_FIELD, also used for the item file. `read` may cache, for encodings that share an
    item file.

    Raises:
        CatalogueError: the file is missing or can't be read; MissingField: it lacks a text field.
    """
    catalogue = read(Path(text.items) if text.items else items, item_id_fields(item_field))
    template = Template(text.template, text.fields)
    made_from = ItemTexts.of(catalogue, template).sha256
    path = stores / f"{store_name(template, source)}-{made_from[:8]}"
    return Encoding(template, catalogue, source, path, device)


def find_encodings(
    config: CompareConfig, folder: Path, stores: Path, only: Collection[str] | None = None
) -> dict[str, Vectors]:
    """The vectors by variant, for all variants that use text, or for those in `only`.

    Each encoder is searched once and each catalogue is read once, even if several variants use it.

    Raises:
        StoreError: a store that the config names is missing or damaged; and the errors of find_encoder and
            find_encoding.
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
    """A read_catalogue that uses RecBole's settings `field_separator` and `encoding` for `.item` files."""
    separator, encoding = recbole.get("field_separator") or "\t", recbole.get("encoding") or "utf-8"
    return partial(read_catalogue, separator=separator, encoding=encoding)


def item_id_fields(item_field: str) -> tuple[str, ...]:
    """The possible id fields of a catalogue, `item_field` (RecBole's ITEM_ID_FIELD) first."""
    return tuple(dict.fromkeys((item_field, *ID_FIELDS)))


def item_vectors(store: EmbeddingStore, item_tokens: Sequence[str], missing_text: str) -> ItemVectors:
    """The vectors of a store ordered by item id; item_tokens[0] is RecBole's padding token.

    Raises:
        MissingEmbeddings, TextlessItems, StoreError: the store doesn't cover the data set.
    """
    from blair_rec.data.dataset import ItemVectors

    rows = store.table([str(token) for token in item_tokens[1:]], missing_text)
    table = np.zeros((len(item_tokens), rows.shape[1]), dtype=np.float32)
    table[1:] = rows
    return ItemVectors(table, store.store_sha256)
