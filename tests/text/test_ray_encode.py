"""Two workers of a local Ray write the same parts as `--shard`; without a current Ray an error says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import build_roberta

from blair_rec.errors import CatalogueError, MissingExtra
from blair_rec.text.catalogue import Number, read_catalogue
from blair_rec.text.encoding import ray_encode
from blair_rec.text.encoding.encode import encode_catalogue
from blair_rec.text.encoding.ray_encode import encode_with_ray
from blair_rec.text.encoding.source import resolve_encoder
from blair_rec.text.store.shards import merge_stores
from blair_rec.text.template import Template

BLAIR = Template("blair")


def current_ray() -> Any:
    try:
        found = version("ray")
    except PackageNotFoundError:
        pytest.skip("ray (the extra `ray`) is not installed")
    if tuple(map(int, found.split(".")[:2])) < ray_encode.OLDEST:
        pytest.skip(f"ray {found} is RecBole's old one; the extra `ray` takes an environment with RecBole 1.2.0")
    return pytest.importorskip("ray", reason="ray (the extra `ray`) is not installed")


@pytest.fixture
def ray() -> Iterator[Any]:
    ray = current_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def rows() -> list[dict[str, Any]]:
    return [
        {
            "parent_asin": f"B{number:03}", "title": f"Lamp &amp; {number} \u706f" if number % 7 else None,
            "features": ["bright", f"size {number % 5}"][: number % 3], "categories": [["Home"], []][number % 2],
            "description": [], "price": 5.10 if number % 2 else None,
        }
        for number in range(60)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_two_workers_write_the_parts_of_the_whole(ray: Any, kind: str, tmp_path: Path) -> None:
    folder = build_roberta(tmp_path / "tiny-roberta")
    find = partial(resolve_encoder, str(folder), pooling="cls")
    lines = tmp_path / "items.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    items = lines
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        items = tmp_path / "items.parquet"
        pq.write_table(pa.Table.from_pylist(rows()), items)
    done: list[tuple[int, int]] = []
    parts = encode_with_ray(
        [items], BLAIR, find, tmp_path / "ray" / "s", parts=3, workers=2, progress=lambda *at: done.append(at)
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in parts) == ["s.0of3", "s.1of3", "s.2of3"]
    merged = merge_stores(parts, tmp_path / "s")
    whole = encode_catalogue(read_catalogue(lines), BLAIR, find(), tmp_path / "whole")
    assert (merged.item_tokens, merged.textless) == (whole.item_tokens, whole.textless)
    assert merged.text_sha256 == whole.text_sha256
    np.testing.assert_allclose(merged.vectors, whole.vectors, atol=1e-4)


def test_files_of_another_kind_are_refused(ray: Any, tmp_path: Path) -> None:
    find = partial(resolve_encoder, str(build_roberta(tmp_path / "tiny-roberta")), pooling="cls")
    with pytest.raises(CatalogueError, match=r"a\.csv: give files of one kind, \.parquet or \.jsonl"):
        encode_with_ray([tmp_path / "a.csv"], BLAIR, find, tmp_path / "s", parts=2, workers=2)


def encode_nothing() -> None:
    encode_with_ray(["a.jsonl"], BLAIR, lambda: pytest.fail("looked for an encoder"), "s", parts=2, workers=2)


def test_an_old_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_encode, "need", lambda *_: None)
    monkeypatch.setattr(ray_encode, "version", lambda _: "2.6.3")
    with pytest.raises(MissingExtra, match=r"needs ray 2\.40 or newer, and 2\.6\.3 is installed .*blair-rec\[ray\]"):
        encode_nothing()


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blair_rec.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"encoding on a cluster needs ray.*blair-rec\[ray\]"):
        encode_nothing()


def test_a_row_of_parquet_is_read_as_json_would_be() -> None:
    row = {"t": "x", "n": 5.5, "i": 7, "l": ["a", None], "d": {"k": float("nan")}}
    record = ray_encode._record({**row, "b": True, "z": None}, "part 0")
    assert record == {"t": "x", "n": "5.5", "i": "7", "l": ["a", None], "d": {"k": None}, "b": True, "z": None}
    assert isinstance(record["n"], Number)
