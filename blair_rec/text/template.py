"""The line of text an encoder reads for one item."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from blair_rec.errors import ConfigError, MissingField
from blair_rec.text.catalogue import Catalogue, Number, Record, Value, texts_in
from blair_rec.text.tokens import Digests, digests

TEMPLATE_VERSION = 2
"""Increased whenever the same record and fields would give another line."""
OWN_FIELDS = {
    "blair": ("title", "features", "categories", "description"),
    "blair_unicode": ("title", "features", "categories", "description"),
    "blair_pretrain": ("title", "features", "description"),
}
"""The fields of the templates that have fixed fields, by template name."""


@dataclass(frozen=True)
class Template:
    """A way to make one line of text from an item's metadata.

    `fields` joins the named fields in the given order. `blair` gives, byte for byte, the text that BLaIR's authors
    encode for recommendation; `blair_unicode` is the same but keeps characters beyond ASCII; `blair_pretrain` gives the
    text that they pre-trained on (hyp1231/AmazonReviews2023: seq_rec_results/dataset/process_amazon_2023.py,
    blair/sample_pretraining_data.py). Where their code fails, such as for a missing title, a field adds no text.

    Raises:
        ConfigError: an unknown name, no field for `fields`, or fields for a template that has its own.
    """

    name: str = "fields"
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in ("fields", *OWN_FIELDS):
            raise ConfigError(f"template is {self.name!r}; known: fields, {', '.join(OWN_FIELDS)}")
        if self.name == "fields" and (isinstance(self.fields, str) or not self.fields):
            raise ConfigError(f"text fields are {self.fields!r}; name at least one in a list, such as [title]")
        own = OWN_FIELDS.get(self.name, self.fields)
        if self.fields not in ((), own):
            raise ConfigError(f"the template {self.name} reads its own fields ({', '.join(own)}); don't name others")
        object.__setattr__(self, "fields", tuple(own))

    def line(self, record: Record) -> str:
        """The line of one item; "" if there is no text in it."""
        if self.name == "fields":
            return item_text(record, self.fields)
        if self.name == "blair_pretrain":
            return pretrain_text(record)
        return blair_text(record, keep_unicode=self.name == "blair_unicode")

    def header(self) -> dict[str, Any]:
        """The facts about the template that a store records, so that vectors of other lines are never reused."""
        return {"name": self.name, "version": TEMPLATE_VERSION, "fields": list(self.fields)}


def recorded_template(header: Mapping[str, Any]) -> Template | None:
    """The template that a store records; None if it doesn't say which text its vectors were made from."""
    name, fields = header.get("name"), tuple(header.get("fields", ()))
    if name not in ("fields", *OWN_FIELDS) or not fields:  # such as that of an imported store
        return None
    return Template(name, fields)


def catalogue_texts(catalogue: Catalogue, template: Template) -> list[str]:
    """[len(catalogue)] one line per item, in the order of the catalogue; "" for an item without text.

    If an item has several rows, the first one with text makes the line.

    Raises MissingField for a field that no record has.
    """
    known = catalogue.fields
    for name in template.fields:
        if name not in known:
            raise MissingField(name, known, str(catalogue.source))
    lines = [template.line(record) for record in catalogue.records]
    for row, token in enumerate(catalogue.item_tokens if catalogue.repeated else ()):
        if not lines[row]:
            lines[row] = next(filter(None, map(template.line, catalogue.repeated.get(token, ()))), "")
    return lines


@dataclass(frozen=True, eq=False)
class ItemTexts:
    """The lines of a catalogue's items: what a store is made from."""

    item_tokens: tuple[str, ...]
    """Items that have text."""
    texts: tuple[str, ...]
    """[len(item_tokens)], none of them empty."""
    textless: tuple[str, ...] = ()
    """The other items."""
    whole: Mapping[str, Any] | None = None
    """For a part: items and sha256 of the whole catalogue, the same for all parts."""

    @classmethod
    def of(cls, catalogue: Catalogue, template: Template, shard: tuple[int, int] | None = None) -> ItemTexts:
        """The lines of a whole catalogue, or of its part (i, n), counted from 0. Raises as catalogue_texts does."""
        pairs = list(zip(catalogue.item_tokens, catalogue_texts(catalogue, template), strict=True))
        if not shard:
            return cls._of_pairs(pairs)
        part, parts = shard
        whole = {"items": len(pairs), "sha256": cls._of_pairs(pairs).sha256}
        return cls._of_pairs(pairs[part * len(pairs) // parts : (part + 1) * len(pairs) // parts], whole)

    @classmethod
    def _of_pairs(cls, pairs: Sequence[tuple[str, str]], whole: Mapping[str, Any] | None = None) -> ItemTexts:
        return cls(
            tuple(token for token, text in pairs if text),
            tuple(text for _, text in pairs if text),
            tuple(token for token, text in pairs if not text),
            whole,
        )

    @cached_property
    def digests(self) -> Digests:
        """[len(texts), 2] digests of the texts."""
        return digests(self.texts)

    @cached_property
    def sha256(self) -> str:
        """Hash of the tokens and texts in their order."""
        return text_hash(digests(self.item_tokens), self.digests, digests(self.textless))


def text_hash(item_tokens: Digests, texts: Digests, textless: Digests) -> str:
    """SHA-256 over the digests of the items with text, of their texts, and of the items without text."""
    whole = hashlib.sha256()
    for part in (item_tokens, texts, textless):
        whole.update(f"{len(part)}\n".encode() + part.tobytes())
    return whole.hexdigest()


def item_text(record: Record, fields: Sequence[str]) -> str:
    """The chosen fields of one item, in order, as a single line; missing fields add nothing.

    Every run of whitespace, line breaks included, becomes one space. An item without any text gives "".
    """
    pieces = [text for name in fields for text in texts_in(record.get(name))]
    return " ".join(" ".join(pieces).split())


def blair_text(record: Record, keep_unicode: bool = False) -> str:
    """Title, features, categories and description, each cleaned and followed by a space; lists end with a dot.

    The spaces of empty fields stay: BLaIR's tokenizer sees them. An item without any text gives "".
    """
    line = "".join(f"{_sentence(record.get(name), keep_unicode)} " for name in OWN_FIELDS["blair"])
    return line if line.strip() else ""


def _sentence(value: Value, keep_unicode: bool) -> str:
    if isinstance(value, Number):
        return f"{float(value)}." if set(value) & set(".eE") else f"{value}."
    if isinstance(value, dict):
        value = list(texts_in(value))
    if isinstance(value, list) and value:
        return ", ".join(_cleaned(element, keep_unicode) for element in value) + "."
    return _cleaned(value, keep_unicode)


def _cleaned(value: Value, keep_unicode: bool) -> str:
    """Decode HTML entities, remove tags, and turn line ends, tabs and runs of spaces into one space.

    Unless `keep_unicode`, a space then replaces each character beyond ASCII.
    """
    text = value if isinstance(value, str) else ", ".join(_strings(value))
    text = re.sub(r"<[^>]+>", "", html.unescape(text).strip())
    text = re.sub(r" +", " ", re.sub(r"[\n\t]", " ", text))
    return text if keep_unicode else re.sub(r"[^\x00-\x7F]", " ", text)


def pretrain_text(record: Record) -> str:
    """Title, features and description joined by spaces, on one line, without further changes."""
    pieces: list[str] = []
    for name in OWN_FIELDS["blair_pretrain"]:
        value = record.get(name)
        pieces += [value] if isinstance(value, str) else _strings(value)
    return " ".join(pieces).replace("\t", " ").replace("\n", " ").replace("\r", "").strip()


def _strings(value: Value) -> list[str]:
    """All texts in a value; empty ones in a list are kept, so that their separator stays in the line."""
    if isinstance(value, list):
        return [text for element in value for text in ([element] if isinstance(element, str) else _strings(element))]
    return texts_in(value)
