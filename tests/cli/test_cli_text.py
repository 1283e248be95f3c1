"""blair-rec encode and blair-rec store do what they say, and tell what they can't."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from encoders import build_roberta

from blair_rec.cli import main
from blair_rec.text.store.embeddings import open_store

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return Path(shutil.copy(REPOSITORY / "datasets" / "tiny" / "tiny.item", tmp_path / "tiny.item"))


def encode(model: Path, items: Path, *more: str) -> int:
    return main(["encode", "--items", str(items), "--encoder", str(model), "--pooling", "cls", "-o", "s", *more])


def told(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    """Run a command; return its standard output, or its error."""
    assert main(list(arguments)) == status
    said = capsys.readouterr()
    return said.err if status else said.out


def test_parts_are_encoded_and_merged(model: Path, items: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("0/2", "1/2"):
        assert encode(model, items, "--fields", "title", "--shard", part) == 0
    capsys.readouterr()
    assert told(capsys, 0, "store", "merge", "s.1of2", "s.0of2", "-o", "s") == "joined 80 vectors of 2 stores in s\n"
    assert told(capsys, 0, "store", "verify", "s", "s.0of2") == (
        "s: 80 vectors, every byte as written\ns.0of2: 40 vectors, every byte as written\n"
    )
    assert encode(model, items, "--fields", "title") == 0
    assert capsys.readouterr().err == "", "the merged store is the catalogue's own: nothing is encoded"


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_wrong_device_is_an_error_even_if_nothing_has_to_be_encoded(
    model: Path, items: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(model, items, "--fields", "title") == 0
    assert encode(model, items, "--fields", "title", "--device", "auto") == 0
    capsys.readouterr()
    assert encode(model, items, "--fields", "title", "--device", device) == 1
    assert f"device is {repr(device) if device != 'cuda:99' else device}" in capsys.readouterr().err


def test_torchrun_decides_on_the_part(
    model: Path, items: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert encode(model, items, "--fields", "title") == 0
    assert open_store("s.1of4").shard == (1, 4)
    capsys.readouterr()
    assert encode(model, items, "--fields", "titel") == 1
    assert "did you mean 'title'" in capsys.readouterr().err, "each process tells its own errors"


def test_what_a_store_holds_is_told(model: Path, items: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode(model, items, "--fields", "title", "--dtype", "bfloat16", "--store-dtype", "float16") == 0
    assert "cosine of bfloat16 and float32 vectors of 80 texts: at least 0.99" in capsys.readouterr().out
    said = told(capsys, 0, "store", "info", "s")
    for line in ("vectors: 80 of width 32, float16", "encoder name: tiny-roberta", "encoder dtype: bfloat16"):
        assert f"{line}\n" in said
    assert "template fields: ['title']" in said and "from_float32: {'texts': 80" in said


def test_prompts_and_dimensions_are_said_and_stand_in_the_store(
    model: Path, items: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--prompt", "item: ", "--query-prompt", "I want: ", "--truncate-dim", "5", "--normalize"]
    assert encode(model, items, "--fields", "title", *more) == 0
    store = open_store("s")
    assert store.text_dim == 5
    np.testing.assert_allclose(np.linalg.norm(store.vectors, axis=1), 1, rtol=1e-5)
    said = told(capsys, 0, "store", "info", "s")
    for line in ("modules: ['normalize']", "prompt: item: ", "query_prompt: I want: ", "truncate_dim: 5"):
        assert f"encoder {line}\n" in said
    assert encode(model, items, "--fields", "title", *more[:-1], "--no-normalize") == 1
    assert "modules was ['normalize'], now None" in capsys.readouterr().err
    assert encode(model, items, "--fields", "title", "--prompt", "passage") == 1
    assert "prompt is 'passage', but tiny-roberta has no prompt of this name (it has: none)" in capsys.readouterr().err


def test_what_is_wrong_with_texts_is_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a red lamp for reading in bed " * 40
    lines = ["sku,title", f"x1,{long}", "x2,", "x1,again", "x3,a lamp", 'x4,"a ""small""', 'lamp"', "x5,", "x5,bed"]
    (tmp_path / "shop.csv").write_text("\n".join(lines) + "\n")
    more = ["--fields", "title", "--max-length", "1000"]
    assert encode(model, tmp_path / "shop.csv", *more, "--item-id", "sku") == 0
    said = capsys.readouterr().out
    assert "1 of 5 items has no text in title (first: x2): `text.missing_text` in a comparison file decides" in said
    assert "1 of 4 texts has more than the 128 tokens that tiny-roberta reads, so its end is cut off " in said
    assert "(max_length 1000 became 128: the model's 128 positions)" in said
    assert "2 rows of shop.csv repeat an item of an earlier row (first: x1): the first row with text is used" in said
    said = told(capsys, 0, "store", "info", "s")
    assert "items without text: 1\ntruncated texts: 1 of 4\n" in said
    assert "requested max_length: 1000, reduced to 128: the model's 128 positions\n" in said
    assert open_store("s").item_tokens == ("x1", "x3", "x4", "x5")
    assert encode(model, tmp_path / "shop.csv", *more) == 1
    assert "there is no field 'item_id' or 'parent_asin' for the item token; fields: sku" in capsys.readouterr().err


def test_encode_without_fields_names_those_of_the_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.csv").write_text("sku,titel,preis\nx1,Topf,3\n")
    said = told(capsys, 1, "encode", "--items", str(tmp_path / "shop.csv"), "--item-id", "sku", "-o", "s")
    assert "--fields is missing; " in said and said.endswith("It has: titel, preis\n")
    assert encode(model, tmp_path / "shop.csv", "--fields", "titel") == 1
    assert "fields: sku, titel, preis; name it as `item_id` (--item-id;" in capsys.readouterr().err


def test_a_store_of_other_settings_is_replaced_only_if_fresh_is_said(
    model: Path, items: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(model, items, "--fields", "title") == 0
    first = open_store("s").store_sha256
    assert encode(model, items, "--fields", "title", "--max-length", "9") == 1
    assert (
        "max_length was 128, now 9); choose another folder, or replace it with `fresh` (--fresh)"
        in capsys.readouterr().err
    )
    np.save(tmp_path / "a.npy", np.eye(2))
    (tmp_path / "a.ids.json").write_text("[1, 2]")
    assert "--fresh" in told(capsys, 1, "store", "import", "a.npy", "-o", "s")
    assert open_store("s").store_sha256 == first
    assert encode(model, items, "--fields", "title", "--max-length", "9", "--fresh") == 0
    assert open_store("s").encoder["max_length"] == 9
    assert "2 vectors of width 2" in told(capsys, 0, "store", "import", "a.npy", "-o", "s", "--fresh")


@pytest.mark.parametrize("template", ["blair", "blair_unicode", "blair_pretrain"])
def test_blairs_own_templates_need_no_fields(model: Path, tmp_path: Path, template: str) -> None:
    row = {"parent_asin": "x", "title": "Lamp", "features": ["bright"], "categories": [], "description": []}
    (tmp_path / "i.jsonl").write_text(json.dumps(row) + "\n")
    assert encode(model, tmp_path / "i.jsonl", "--template", template) == 0
    assert open_store("s").template["name"] == template


def test_vectors_go_out_and_come_back(model: Path, items: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode(model, items, "--fields", "title") == 0
    capsys.readouterr()
    said = told(capsys, 0, "store", "export", "s", "-o", "tiny.blair.feature")
    assert said == "80 vectors of width 32 in tiny.blair.feature, tiny.data_maps\n"
    assert "80 vectors" in told(capsys, 0, "store", "import", "tiny.blair.feature", "-o", "t", "--encoder", "blair")
    np.testing.assert_array_equal(open_store("t").vectors, open_store("s").vectors)
    assert open_store("t").encoder["name"] == "blair"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["store", "info", "nowhere"], "nowhere is not an embedding store"),
        (["store", "verify", "nowhere"], "nowhere is not an embedding store"),
        (["store", "merge", "a", "-o", "s"], "a is not an embedding store"),
        (["store", "import", "a.npy", "-o", "s"], "a.npy is not there"),
        (["encode", "--items", "i", "-o", "s"], "i is not there, or not a file"),
        (["encode", "--items", "i", "--fields", "t", "--template", "blair", "-o", "s"], "chooses its own fields"),
        (["encode", "--items", "i", "--template", "blare", "-o", "s"], "did you mean 'blair'?"),
        (["encode", "--items", "i", "--fields", "t", "--dtype", "int8", "-o", "s"], "dtype is 'int8'; "),
        (["encode", "--items", "i", "--fields", "t", "--shard", "2/2", "-o", "s"], "shard is '2/2'; it has to be I/N"),
        (["encode", "--items", "i", "--fields", "t", "--shard", "0", "-o", "s"], "shard is '0'; it has to be I/N"),
        (["encode", "--items", "i", "--fields", "t", "--ray-workers", "0", "-o", "s"], "at least 1 of each"),
        (
            ["encode", "--items", "i", "--fields", "t", "--ray-workers", "1", "--parts", "0", "-o", "s"],
            "--parts is 0; give at least 1 of each",
        ),
        (
            ["encode", "--items", "i", "--fields", "t", "--ray-workers", "1", "--device", "gpu", "-o", "s"],
            "--device has no",
        ),
        (
            ["encode", "--items", "i", "--fields", "t", "--ray-workers", "1", "--shard", "0/2", "-o", "s"],
            "shard has no",
        ),
    ],
)
def test_what_cannot_be_done_is_told(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in told(capsys, 1, *arguments)
