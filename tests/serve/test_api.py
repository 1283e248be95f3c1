"""blair_rec.load: a finished run, loaded by another process, recommends what the run itself found best."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import VARIANTS, config_of, tiny_at
from encoders import build_roberta
from worlds import read_log, store_for

import blair_rec
from blair_rec.errors import BadRun, CheckpointError, ConfigError, MissingEmbeddings, StoreError, UnknownItems
from blair_rec.experiment.compare import compare
from blair_rec.text.store.embeddings import open_store
from blair_rec.text.store.writer import write_store


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with one run of each kind of variant; no test changes it."""
    folder = tmp_path_factory.mktemp("done")
    config = config_of(tiny_at(folder), build_roberta(folder / "tiny-roberta"), seeds=[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        compare(config, folder / "out")
    return folder


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A run over text, next to its store, to change."""
    shutil.copytree(done / "out", tmp_path / "out")
    return tmp_path / "out" / "runs" / "text-1"


def histories_before_the_test(done: Path) -> dict[str, list[str]]:
    """Every user's events before the last one, the true item of the test."""
    events: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in read_log(done / "tiny"):
        events.setdefault(user, []).append((time, item))
    return {user: [item for _, item in sorted(found)][:-1] for user, found in events.items()}


def first_numbering(done: Path) -> list[str]:
    """The users by RecBole's ids, which number them in the order of the file."""
    return list(dict.fromkeys(user for user, _, _ in read_log(done / "tiny")))


SCRIPT = """
import json, sys
from pathlib import Path
import blair_rec
histories = json.loads(Path("histories.json").read_text())
found = {}
for variant in sys.argv[2:]:
    model = blair_rec.load(Path(sys.argv[1]) / f"{variant}-1")
    for name, masked in (("masked", True), ("unmasked", False)):
        lists = model.recommend(histories, 20, exclude_history=masked, batch_size=50)
        found[f"{variant} {name}"] = [[item for item, _ in row] for row in lists]
        assert all(a.score >= b.score for row in lists for a, b in zip(row, row[1:]))
print(json.dumps(found))
"""


def test_another_process_recommends_what_the_run_found_best(done: Path) -> None:
    """All kinds of variants, the history left in and taken out, against topk.npz: the fresh process saw no data set."""
    histories = histories_before_the_test(done)
    users = first_numbering(done)
    Path("histories.json").write_text(json.dumps([histories[user] for user in users]))
    command = [sys.executable, "-c", SCRIPT, str(done / "out" / "runs"), *VARIANTS]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    different = set()
    for variant in VARIANTS:
        folder = done / "out" / "runs" / f"{variant}-1"
        tokens = json.loads((folder / "items.json").read_text())
        with np.load(folder / "topk.npz") as top, np.load(folder / "ranks.npz") as ranks:
            order = ranks["user"] - 1
            for protocol in ("masked", "unmasked"):
                expected = [[tokens[item] for item in row] for row in top[protocol]]
                ours = [found[f"{variant} {protocol}"][user] for user in order]
                assert ours == expected, (variant, protocol)
                different.add(json.dumps(ours))
    assert len(different) == 2 * len(VARIANTS), "the lists have to differ for this to mean anything"


def test_masked_recommendations_leave_out_the_whole_history(done: Path) -> None:
    model = blair_rec.load(done / "out" / "runs" / "text_init-1")
    histories = list(histories_before_the_test(done).values())
    assert max(map(len, histories)) > 10, "longer than the window of the model"
    for history, found in zip(histories, model.recommend(histories, 60), strict=True):
        assert len({item for item, _ in found}) == 60 and not {item for item, _ in found} & set(history)


def test_the_size_of_the_batch_changes_nothing(done: Path) -> None:
    model = blair_rec.load(done / "out" / "runs" / "text-1")
    histories = list(histories_before_the_test(done).values())[:7]
    whole = model.recommend(histories, 5)
    for size in (1, 3):
        parts = model.recommend(histories, 5, batch_size=size)
        assert [[item for item, _ in row] for row in parts] == [[item for item, _ in row] for row in whole]
    assert model.recommend([], 5) == []


def test_every_item_can_be_recommended(done: Path) -> None:
    model = blair_rec.load(done / "out" / "runs" / "id-1")
    assert len(model.item_tokens) == 80
    [found] = model.recommend([["i01"]], 80, exclude_history=False)
    assert {item for item, _ in found} == set(model.item_tokens)


@pytest.mark.parametrize(
    "histories, k, error, expected",
    [
        ("i01", 10, ConfigError, r"histories are lists of item tokens; got a string, so wrap it: \[\['item', ...\]\]"),
        (["i01", "i02"], 10, ConfigError, r"histories are lists of item tokens; got a string"),
        ([["i01"], []], 10, ConfigError, r"1 of 2 histories is empty; a next item needs at least one"),
        ([["i01", "x1"], ["x2"]], 3, UnknownItems, r"the model doesn't have 2 of 3 item tokens .first: x1, x"),
        ([["[PAD]"]], 3, UnknownItems, r"the model doesn't have 1 of 1 item token"),
        ([["i01", 2]], 3, ConfigError, r"item tokens are text, but 1 of 2 is not \(first: 2\)"),
        ([["i01"]], 0, ConfigError, r"k is 0; it has to be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_told(
    done: Path, histories: Any, k: int, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        blair_rec.load(done / "out" / "runs" / "id-1").recommend(histories, k)


# Loading


def sha256_of(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["store_sha256"])


def only_store(run: Path) -> Path:
    [store] = (run.parent.parent / "stores").iterdir()
    return store


def test_a_missing_store_is_named_by_its_hash(run: Path) -> None:
    shutil.rmtree(only_store(run))
    with pytest.raises(
        CheckpointError, match=rf"with the text vectors of store {sha256_of(run)}, but there is no store at"
    ):
        blair_rec.load(run)
    blair_rec.load(run.with_name("id-1"))  # needs none


def test_a_store_that_was_moved_can_be_pointed_to(run: Path, tmp_path: Path) -> None:
    expected = blair_rec.load(run).recommend([["i01", "i02"]], 5)
    only_store(run).rename(tmp_path / "moved")
    assert blair_rec.load(run, store=tmp_path / "moved").recommend([["i01", "i02"]], 5) == expected


def test_a_comparison_that_was_moved_as_a_whole_still_loads(run: Path, tmp_path: Path) -> None:
    expected = blair_rec.load(run).recommend([["i01", "i02"]], 5)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert blair_rec.load(tmp_path / "elsewhere" / "runs" / "text-1").recommend([["i01", "i02"]], 5) == expected


def test_another_store_is_refused(run: Path, tmp_path: Path) -> None:
    tokens = json.loads((run / "items.json").read_text())[1:]
    store_for(tmp_path / "same-items", tokens, text_dim=32)
    with pytest.raises(CheckpointError, match=rf"was trained on the text vectors of store {sha256_of(run)}"):
        blair_rec.load(run, store=tmp_path / "same-items")
    store_for(tmp_path / "too-few", tokens[:60], text_dim=32)
    with pytest.raises(MissingEmbeddings, match=r"store of text vectors lacks 20 of 80 items"):
        blair_rec.load(run, store=tmp_path / "too-few")
    store_for(tmp_path / "others", [f"x{n}" for n in range(80)], text_dim=32)
    with pytest.raises(StoreError, match=r"belongs to another catalogue: it has 0 of the 80 items"):
        blair_rec.load(run, store=tmp_path / "others")


@pytest.mark.parametrize("name", ["result.json", "items.json"])
def test_a_folder_that_is_no_finished_run_is_told(run: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"runs is not a finished run: it has no result.json; give a folder"):
        blair_rec.load(run.parent)
    (run / name).write_bytes(b"{\xff")
    # A comparison keeps a run whose folder has a result.json, so running it again is not enough.
    again = "delete the folder .*text-1, and make it again with the same command"
    with pytest.raises(BadRun, match=rf"text-1/{name}: can't be read: .*; {again}"):
        blair_rec.load(run)
    (run / name).unlink()
    missing = (
        "text-1 is not a finished run: it has no" if name == "result.json" else f"text-1 has no items.json; {again}"
    )
    with pytest.raises(CheckpointError, match=missing):
        blair_rec.load(run)


def test_missing_weights_are_told(run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: no saved weights there"):
        blair_rec.load(run)


# Items that came after training


def more_items(run: Path, path: Path, **changed: Any) -> Path:
    """A store like the run's with two items more: `twin` has the text of i05, `textless` none."""
    own = open_store(only_store(run))
    tokens = [*own.item_tokens, "twin"]
    vectors = np.vstack([own.vectors, own.table(["i05"])])
    made = {"encoder": dict(own.encoder), "template": dict(own.template), **changed}
    write_store(path, tokens, vectors, textless=("textless",), text_sha256="0" * 64, **made)
    return path


def test_an_item_from_a_larger_store_is_recommended_and_read_as_the_one_whose_text_it_shares(
    run: Path, tmp_path: Path
) -> None:
    before = blair_rec.load(run)
    model = blair_rec.load(run, extra_items=more_items(run, tmp_path / "more"))
    assert model.item_tokens == (*before.item_tokens, "twin")
    histories = [["i01", "i02"], ["i03"]]
    scores = [dict(found) for found in model.recommend(histories, 81, exclude_history=False)]
    for found, known in zip(scores, before.recommend(histories, 80, exclude_history=False), strict=True):
        assert found["twin"] == pytest.approx(found["i05"], rel=1e-5, abs=1e-6)
        assert {token: found[token] for token, _ in known} == pytest.approx(dict(known), rel=1e-5, abs=1e-6)
    of_twin, of_known = (
        dict(model.recommend([["i01", token]], 81, exclude_history=False)[0]) for token in ("twin", "i05")
    )
    assert of_twin == pytest.approx(of_known, rel=1e-5, abs=1e-6)


def test_a_run_that_knows_items_by_their_events_takes_no_new_ones(run: Path, tmp_path: Path) -> None:
    more = more_items(run, tmp_path / "more")
    with pytest.raises(ConfigError, match="after training can't be scored: items: id learns .*; use items: text"):
        blair_rec.load(run.with_name("id-1"), extra_items=more)
    with pytest.raises(ConfigError, match="after training can't be scored: items: text_init trains .*; use items: t"):
        blair_rec.load(run.with_name("text_init-1"), extra_items=more)


def test_extra_items_that_were_encoded_otherwise_are_refused(run: Path, tmp_path: Path) -> None:
    template = {"name": "plain", "version": 1, "fields": ["category"]}
    encoder = {"name": "another", "asked_for": "another", "revision": None, "pooling": "mean", "max_length": 8}
    for given, message in (
        ({"template": template}, "another template than"),
        ({"template": template, "encoder": encoder}, "another encoder and template than"),
    ):
        with pytest.raises(StoreError, match=f"more was made with {message}.*encode the extra items as those were"):
            blair_rec.load(run, extra_items=more_items(run, tmp_path / "more", **given))
    own = dict(open_store(only_store(run)).encoder)
    more_items(run, tmp_path / "more", encoder={**own, "asked_for": "a nickname"})
    assert "twin" in blair_rec.load(run, extra_items=tmp_path / "more").item_tokens


def test_every_kind_of_item_side_comes_back_with_its_options_and_its_transforms(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants: dict[str, Any] = {
        "id": {},
        "delta": {"items": "text_delta", "max_delta": 0.2, "transforms": ["center", {"pca": 6}]},
        "gate": {"items": "id_text", "fusion": "gate", "transforms": [{"whiten": "pca"}, {"rescale": 1.0}]},
        "experts": {"items": "unisrec", "transforms": [{"shrink": 0.5}]},
        "product": {"items": "unisrec", "train": {"temperature": None}},
        "adaptor": {"items": "sasrec_text", "control": "shuffle"},
    }
    settings: dict[str, Any] = {"variants": variants, "seeds": [1], "train": {"epochs": 1, "learning_rate": 0.01}}
    compare(config_of(done / "tiny", done / "tiny-roberta", **settings), tmp_path / "out")
    histories, users = histories_before_the_test(done), first_numbering(done)

    def fitted_again(vectors: np.ndarray) -> None:
        raise AssertionError("another machine may round otherwise, and then this model would read another text")

    monkeypatch.setattr("blair_rec.models.transforms._principal", fitted_again)
    for variant, said in variants.items():
        folder = tmp_path / "out" / "runs" / f"{variant}-1"
        result = json.loads((folder / "result.json").read_text())
        steps = [line["step"] for line in result["transform_report"]]
        assert steps[: len(result["transforms"])] == result["transforms"]
        assert steps[len(result["transforms"]) :] == (["pca: 8", "l2"] if variant == "delta" else [])
        assert result["setup"]["train"]["temperature"] == (0.07 if variant == "experts" else None)
        assert [result["setup"][name] for name in ("fusion", "max_delta")] == [
            said.get("fusion"),
            said.get("max_delta"),
        ]
        model = blair_rec.load(folder)
        with np.load(folder / "topk.npz") as top, np.load(folder / "ranks.npz") as ranks:
            asked = [histories[users[user - 1]] for user in ranks["user"]]
            tokens = json.loads((folder / "items.json").read_text())
            expected = [[tokens[item] for item in row] for row in top["masked"]]
        for found, tokens in zip(model.recommend(asked, 20), expected, strict=True):
            score_of = dict(found)  # those that score the same but for rounding may stand in another order
            ours = [score_of.get(token, found[-1].score) for token in tokens]
            assert ours == pytest.approx([score for _, score in found], rel=1e-5, abs=1e-6), variant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 1.5}, "k is 1.5; give a whole number"),
        ({"k": "3"}, "k is '3'; give a whole number"),
        ({"k": None}, "k is None; give a whole number"),
        ({"k": True}, "k is True; give a whole number"),
        ({"batch_size": 0}, "batch_size is 0; it has to be at least 1"),
        ({"batch_size": -1}, "batch_size is -1; it has to be at least 1"),
        ({"batch_size": 2.0}, "batch_size is 2.0; give a whole number"),
        ({"allow": 5}, "allow is 5; give a list of item tokens"),
        ({"deny": 5}, "deny is 5; give a list of item tokens"),
        ({"histories": None}, "histories are None; give a list of lists of item tokens"),
        ({"histories": 5}, "histories are 5; give a list of lists of item tokens"),
    ],
)
def test_arguments_of_another_kind_are_one_line(run: Path, given: dict[str, Any], message: str) -> None:
    recommender = blair_rec.load(run)
    with pytest.raises(ConfigError, match=f"^{message}"):
        recommender.recommend(**{"histories": [["i01"]], "k": 2, **given})
    if "batch_size" in given or "histories" in given:
        with pytest.raises(ConfigError, match=f"^{message}"):
            recommender.user_vectors(**{"histories": [["i01"]], **given})
    assert recommender.recommend([["i01"]], np.int64(2)) == recommender.recommend([["i01"]], 2)
