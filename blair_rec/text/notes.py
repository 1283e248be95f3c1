"""Notes for readers of results about the items' texts: missing, cut, repeated, or without a matching item."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from blair_rec.errors import CatalogueError, agreed, counted, first_of, out_of
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.store.embeddings import EmbeddingStore

FILLED = "`text.missing_text` in a comparison file decides what such items get"


def check_match(catalogue: Catalogue, item_tokens: Sequence[str]) -> None:
    """Raise CatalogueError if a catalogue has less than half of a data set's items: it must belong to another one.

    `EmbeddingStore.find` refuses a store in the same way; this check comes before anything is encoded.
    """
    own = set(catalogue.item_tokens)
    unknown = [token for token in item_tokens if token not in own]
    if len(unknown) * 2 > len(item_tokens):
        raise CatalogueError(
            f"{catalogue.source} is the catalogue of other items: it has {len(item_tokens) - len(unknown)} of the "
            f"{counted(len(item_tokens), 'item')} of the data set (missing: {first_of(unknown)}; it has: "
            f"{first_of(catalogue.item_tokens)}); name the file that has these items, with ids written in the same way"
        )


def catalogue_notes(
    catalogue: Catalogue, lines: Mapping[str, str], fields: Sequence[str], item_tokens: Collection[str]
) -> list[str]:
    """One sentence for each reason why items of a data set lack text; `lines` are the texts by item token."""
    name, wanted = catalogue.source.name, len(item_tokens)
    notes = []
    if unknown := [token for token in item_tokens if token not in lines]:
        notes.append(
            f"{out_of(len(unknown), wanted, 'item', 'are')} not in {name} (first: {first_of(unknown)}): {FILLED}"
        )
        known = set(item_tokens)
        if foreign := [token for token in lines if token not in known]:
            notes.append(
                f"{len(foreign):,} of {counted(len(lines), 'item')} of {name} {agreed(len(foreign), 'are')} not "
                f"in the data set (first: "
                f"{first_of(foreign)}): are the ids written in the same way?"
            )
    if textless := [token for token in item_tokens if lines.get(token) == ""]:
        notes.append(_textless(textless, wanted, fields))
    return notes + repeat_notes(catalogue)


def repeat_notes(catalogue: Catalogue) -> list[str]:
    """One sentence about rows of a catalogue that repeat an item, if there are any."""
    if not catalogue.repeats:
        return []
    return [
        f"{counted(catalogue.repeats, 'row')} of {catalogue.source.name} "
        f"{'repeats' if catalogue.repeats == 1 else 'repeat'} an item of an earlier row (first: "
        f"{next(iter(catalogue.repeated))}): the first row with text is used"
    ]


def store_notes(store: EmbeddingStore, item_tokens: Sequence[str] | None = None) -> list[str]:
    """The same notes about a store: for the items of a data set or, without `item_tokens`, for all of the store's."""
    wanted = len(store.tokens) if item_tokens is None else len(item_tokens)
    fields = store.template.get("fields", ())
    if item_tokens is None:
        unknown: list[str] = []
        textless: Sequence[str] = store.textless
    else:
        rows = store.tokens.find(item_tokens)
        unknown = [token for token, row in zip(item_tokens, rows, strict=True) if row < 0]
        textless = [token for token, row in zip(item_tokens, rows, strict=True) if row >= len(store)]
    notes = []
    if unknown:
        where = store.path.name if store.path else "in memory"
        notes.append(
            f"{out_of(len(unknown), wanted, 'item', 'are')} not in the store {where} (first: {first_of(unknown)}): "
            f"{FILLED}"
        )
    if textless:
        notes.append(_textless(textless, wanted, fields))
    return notes + cut_notes(store, item_tokens)


def cut_notes(store: EmbeddingStore, item_tokens: Sequence[str] | None = None) -> list[str]:
    """One sentence about texts longer than their encoder reads; none if there are none, or they were not counted."""
    if store.cut is None or store.cut_rows is None:
        return []
    flags = store.cut_rows
    if item_tokens is not None:
        rows = store.tokens.find(item_tokens)
        flags = flags[rows[(rows >= 0) & (rows < len(store))]]
    if not (cut := int(flags.sum())):
        return []
    length, asked, capped_by = store.encoder["max_length"], store.cut["asked_length"], store.cut["capped_by"]
    why = f"max_length is {length}" if asked <= length else f"max_length {asked} became {length}: {capped_by}"
    return [
        f"{out_of(cut, len(flags), 'text', 'have')} more than the {counted(length, 'token')} that "
        f"{store.encoder['name']} reads, so {'its' if cut == 1 else 'their'} end is cut off ({why})"
    ]


def _textless(textless: Sequence[str], wanted: int, fields: Sequence[str]) -> str:
    said = f" in {', '.join(fields)}" if fields else ""
    subject = f"{out_of(len(textless), wanted, 'item', 'have')}"
    return f"{subject} no text{said} (first: {first_of(textless)}): {FILLED}"
