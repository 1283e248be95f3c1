"""Every number of the table recomputed from the files, and what the table refuses or notes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from fake_runs import MINILM, fake_decided, fake_ranks, fake_run

from blair_rec.errors import ConfigError, UnpairedRuns
from blair_rec.evaluate.leaderboard import Score, build_leaderboard
from blair_rec.evaluate.metrics import top_lists
from blair_rec.evaluate.runs.results import load_run, load_runs
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.evaluate.significance import PairedSample, corrected, differences
from blair_rec.evaluate.slices import slices

METRICS = ["NDCG@10", "Recall@5", "MRR@10"]


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    for variant in ("id", "text", "shuffled"):
        for seed in (1, 2, 3):
            control = {"control": "shuffle"} if variant == "shuffled" else {}
            fake_run(tmp_path, variant, seed, **control)
    return tmp_path


def value_in_files(folder: Path, metric: str, protocol: str) -> float:
    """The metric of a run by its definition, one user and one rank at a time."""
    name, k = metric.split("@")
    ranks = np.load(folder / "ranks.npz")
    total = []
    for row in range(len(ranks["user"])):
        higher, equal = int(ranks[f"higher_{protocol}"][row]), int(ranks[f"equal_{protocol}"][row])
        places = [place for place in range(higher, higher + equal + 1) if place < int(k)]
        if protocol == "masked" and ranks["target_in_history"][row]:
            places = []
        gain = {"NDCG": lambda place: 1 / math.log2(place + 2), "MRR": lambda place: 1 / (place + 1)}
        total.append(math.fsum(gain.get(name, lambda place: 1.0)(place) for place in places) / (equal + 1))
    return math.fsum(total) / len(total)


def test_every_number_can_be_computed_again_from_the_files(comparison):
    board = build_leaderboard(load_runs(comparison), "id", METRICS, "unmasked")
    values = defaultdict(list)
    for folder in sorted((comparison / "runs").iterdir()):
        variant = json.loads((folder / "result.json").read_text())["variant"]
        for protocol in ("unmasked", "masked"):
            for metric in METRICS:
                values[variant, protocol, metric].append(value_in_files(folder, metric, protocol))
    checked = 0
    for row in board.rows:
        assert row.seeds == (1, 2, 3)
        for protocol, summaries in row.metrics.items():
            for metric, summary in summaries.items():
                expected = values[row.variant, protocol, metric]
                mean = sum(expected) / 3
                baseline = sum(values["id", protocol, metric]) / 3
                assert summary.per_seed == pytest.approx(expected, abs=1e-12)
                assert summary.mean == pytest.approx(mean, abs=1e-12)
                assert summary.std == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in expected) / 2), abs=1e-12)
                if row.variant == "id":
                    assert summary.versus_baseline is None
                else:
                    assert summary.versus_baseline.relative == pytest.approx((mean - baseline) / baseline, abs=1e-12)
                checked += 1
    assert checked == 3 * 2 * 3
    ranks = np.load(comparison / "runs" / "id-1" / "ranks.npz")
    assert (board.users, board.cases, board.candidates) == (40, 40, 30)
    assert board.target_in_history == sum(map(bool, ranks["target_in_history"])) > 0
    assert [row.train_seconds for row in board.rows] == pytest.approx([43.25] * 3)
    assert {row.variant: row.encoder and row.encoder.name for row in board.rows} == {
        "id": None,
        "text": MINILM["name"],
        "shuffled": MINILM["name"],
    }


@pytest.mark.parametrize("protocol", ["unmasked", "masked"])
@pytest.mark.parametrize("metrics", [METRICS, METRICS[::-1]])
def test_the_first_metric_under_the_chosen_protocol_orders_the_rows(comparison, protocol, metrics):
    board = build_leaderboard(load_runs(comparison), "id", metrics, protocol)
    means = [row.metrics[protocol][metrics[0]].mean for row in board.rows]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) == 3


def test_protocols_can_order_differently(tmp_path):
    worst, best = np.full(40, 20), np.zeros(40, dtype=np.int64)
    fake_run(tmp_path, "id", ranks=fake_ranks(higher_unmasked=best, higher_masked=worst))
    fake_run(tmp_path, "text", ranks=fake_ranks(higher_unmasked=worst, higher_masked=best))
    runs = load_runs(tmp_path)
    for protocol, order in (("unmasked", ["id", "text"]), ("masked", ["text", "id"])):
        assert [row.variant for row in build_leaderboard(runs, "id", METRICS, protocol).rows] == order


def test_tied_variants_are_ordered_by_name(tmp_path):
    for variant in ("id", "b", "a"):
        fake_run(tmp_path, variant, ranks=fake_ranks())
    board = build_leaderboard(load_runs(tmp_path), "id", METRICS, "unmasked")
    assert [row.variant for row in board.rows] == ["a", "b", "id"]
    assert board.rows[0].metrics["masked"]["NDCG@10"].versus_baseline.relative == 0


def test_the_order_of_the_runs_does_not_matter(comparison):
    runs = load_runs(comparison)
    shuffled = [runs[place] for place in np.random.default_rng(2).permutation(len(runs))]
    ours, theirs = (build_leaderboard(some, "id", METRICS, "masked").to_json() for some in (runs, shuffled))
    assert ours == theirs


def test_one_seed_has_no_standard_deviation(tmp_path):
    fake_run(tmp_path)
    (row,) = build_leaderboard(load_runs(tmp_path), "id", ["NDCG@10"], "unmasked").rows
    assert row.metrics["unmasked"]["NDCG@10"].std is None
    assert len(row.metrics["unmasked"]["NDCG@10"].per_seed) == 1


def test_a_baseline_that_finds_nothing_gives_no_relative_difference(tmp_path):
    fake_run(tmp_path, "id", ranks=fake_ranks(higher_unmasked=np.full(40, 25)))
    fake_run(tmp_path, "text")
    board = build_leaderboard(load_runs(tmp_path), "id", ["NDCG@10"], "unmasked")
    assert board.rows[0].variant == "text"
    assert board.rows[0].metrics["unmasked"]["NDCG@10"].versus_baseline.relative is None


def test_several_test_cases_of_one_user_are_one_user(tmp_path):
    fake_run(tmp_path, ranks=fake_ranks(user=np.arange(40) // 4))
    board = build_leaderboard(load_runs(tmp_path), "id", ["NDCG@10"], "unmasked")
    assert (board.users, board.cases) == (10, 40)


def test_missing_seeds_are_noted(comparison):
    runs = [run for run in load_runs(comparison) if (run.variant, run.seed) != ("text", 3)]
    board = build_leaderboard(runs, "id", METRICS, "unmasked")
    assert board.notes == ("text has seeds 1, 2 of 1, 2, 3",)
    assert build_leaderboard(load_runs(comparison), "id", METRICS, "unmasked").notes == ()


def test_versions_that_differ_between_runs_are_noted_and_all_named(tmp_path):
    fake_run(tmp_path, "id", provenance={"torch": "2.6.0", "machine": "a"})
    fake_run(tmp_path, "text", provenance={"torch": "2.7.0", "machine": "a", "git_commit": "f00"})
    board = build_leaderboard(load_runs(tmp_path), "id", METRICS, "unmasked")
    assert board.notes == ("runs differ in git_commit: unknown, f00", "runs differ in torch: 2.6.0, 2.7.0")
    assert board.provenance == {
        "torch": ["2.6.0", "2.7.0"],
        "machine": "a",
        "git_commit": [None, "f00"],
        "data_sha256": "d0",
        "code": "c0",
    }


def test_seeds_of_one_variant_with_different_encoders_are_refused(tmp_path):
    fake_run(tmp_path, "id")
    fake_run(tmp_path, "text", 1)
    fake_run(tmp_path, "text", 2, encoder={**MINILM, "name": "hyp1231/blair-roberta-base"})
    with pytest.raises(
        UnpairedRuns, match="text-1 and text-2 .* encoder of this variant is gt-all.* in the first and hyp"
    ):
        build_leaderboard(load_runs(tmp_path), "id", METRICS, "unmasked")


def test_the_same_variant_and_seed_twice_is_refused(tmp_path):
    one, two = (load_run(fake_run(tmp_path / name)) for name in ("one", "two"))
    with pytest.raises(UnpairedRuns, match="one/runs/id-1 and .*two/runs/id-1 are the same variant and seed"):
        build_leaderboard([one, two], "id", METRICS, "unmasked")


def test_runs_from_different_data_are_refused_wherever_they_come_from(tmp_path):
    one = load_run(fake_run(tmp_path / "one", "id"))
    two = load_run(fake_run(tmp_path / "two", "text", ranks=fake_ranks(cases=41)))
    with pytest.raises(UnpairedRuns, match="40 and 41 test cases"):
        build_leaderboard([one, two], "id", METRICS, "unmasked")


def test_invalid_requests_are_refused(comparison):
    runs = load_runs(comparison)
    with pytest.raises(ConfigError, match="baseline 'bm25' has no finished run; finished: id, shuffled, text"):
        build_leaderboard(runs, "bm25", METRICS, "unmasked")
    with pytest.raises(ConfigError, match="baseline 'id' has no finished run; finished: none"):
        build_leaderboard([], "id", METRICS, "unmasked")
    with pytest.raises(ConfigError, match="protocol is 'both'; known: unmasked, masked"):
        build_leaderboard(runs, "id", METRICS, "both")
    with pytest.raises(ConfigError, match="needs at least one metric"):
        build_leaderboard(runs, "id", [], "unmasked")
    with pytest.raises(ConfigError, match="'MAP@3': unknown metric"):
        build_leaderboard(runs, "id", ["MAP@3"], "unmasked")
    with pytest.raises(ConfigError, match="at least 31 items to rank, but there are only 30"):
        build_leaderboard(runs, "id", ["NDCG@31"], "unmasked")


def test_the_json_follows_the_schema(comparison):
    content = build_leaderboard(load_runs(comparison), "id", METRICS, "masked").to_json()
    content = json.loads(json.dumps(content, allow_nan=False))
    assert content["schema"] == 1
    assert (content["dataset"], content["baseline"], content["protocol"]) == ("toy", "id", "masked")
    assert content["metrics"] == METRICS
    assert {"blair_rec", "torch", "git_commit", "data_sha256"} <= content["provenance"].keys()
    rows = {row["variant"]: row for row in content["rows"]}
    text = rows["text"]
    assert text["seeds"] == [1, 2, 3]
    assert text["encoder"] == {**MINILM, "fallback": None}  # as this older run doesn't say it
    assert text["store_sha256"] == "ab" * 32
    assert text["parameters"] == {"trained": 1234, "frozen": 0}
    assert text["test_evaluations"] == 1
    assert (text["trials"], text["items"], rows["shuffled"]["control"]) == (0, "text_init", "shuffle")
    for protocol in ("unmasked", "masked"):
        assert list(text["metrics"][protocol]) == METRICS
        for summary in text["metrics"][protocol].values():
            assert summary.keys() == {"mean", "std", "per_seed", "versus_baseline"}
            assert summary["versus_baseline"].keys() == {
                "relative", "ci95", "seeds_ci95", "effect_size", "verdict",
                "p_users", "p_seeds", "p_value", "p_adjusted",
            }  # fmt: skip
        assert rows["id"]["metrics"][protocol]["NDCG@10"]["versus_baseline"] is None
    tail = text["slices"]["tail"]
    assert tail.keys() == {"label", "by", "users", "cases", "metrics"}
    assert tail["metrics"].keys() == {"unmasked", "masked"}
    assert text["top_lists"]["masked"].keys() == {"k", "coverage", "popularity", "gini"}
    assert (text["wall_seconds"], text["peak_memory_mb"]) == (52.5, 703)
    assert text["config_sha256"] == ["text-1", "text-2", "text-3"]


def test_scores_are_the_numbers_that_were_averaged(comparison):
    board = build_leaderboard(load_runs(comparison), "id", METRICS, "unmasked")
    scores = board.scores()
    parts = {name for row in board.rows for name in row.slices}
    assert len(scores) == 3 * 3 * 2 * 3 * (1 + len(parts))
    expected = value_in_files(comparison / "runs" / "text-2", "MRR@10", "masked")
    (found,) = [
        s
        for s in scores
        if (s.variant, s.seed, s.protocol, s.slice, s.metric) == ("text", 2, "masked", "all", "MRR@10")
    ]
    assert found == Score("text", "toy", 2, "masked", "all", "MRR@10", pytest.approx(expected, abs=1e-12))


# What is claimed


@pytest.fixture
def decided(tmp_path: Path) -> Path:
    return fake_decided(tmp_path)


def test_claims_are_corrected_over_all_variants_and_metrics_of_a_protocol(decided):
    runs = load_runs(decided)
    board = build_leaderboard(runs, "id", METRICS, "unmasked")
    rows = {row.variant: row for row in board.rows}
    for protocol in PROTOCOLS:
        asked = [(variant, metric) for variant in ("shuffled", "text", "worst") for metric in METRICS]
        values = {
            (run.variant, metric): np.stack([r.per_user(metric, protocol) for r in runs if r.variant == run.variant])
            for run in runs
            for metric in METRICS
        }
        pairs = [PairedSample(values[key], values["id", key[1]]) for key in asked]
        expected = corrected(differences(pairs, runs[0].ranks.user))
        assert [rows[variant].metrics[protocol][metric].versus_baseline for variant, metric in asked] == expected
    verdicts = {variant: rows[variant].metrics["unmasked"]["NDCG@10"].versus_baseline.verdict for variant, _ in asked}
    assert verdicts == {"text": "better", "worst": "worse", "shuffled": "no difference found"}


def test_slices_are_the_same_numbers_over_some_of_the_cases(decided):
    runs = load_runs(decided)
    board = build_leaderboard(runs, "id", METRICS, "unmasked")
    parts = {part.name: part for part in slices(runs[0].ranks) if part.cases.any()}
    raw, asked = [], []
    for part in parts.values():
        for variant in ("shuffled", "text", "worst"):
            for metric in METRICS:
                stacked = [
                    np.stack([r.per_user(metric, "masked")[part.cases] for r in runs if r.variant == name])
                    for name in (variant, "id")
                ]
                raw += differences([PairedSample(*stacked)], runs[0].ranks.user[part.cases])
                asked.append((part.name, variant, metric, stacked[0]))
    rows = {row.variant: row for row in board.rows}
    for (name, variant, metric, values), expected in zip(asked, corrected(raw), strict=True):
        found = rows[variant].slices[name]
        assert (found.users, found.cases) == (parts[name].cases.sum(),) * 2
        summary = found.metrics["masked"][metric]
        assert summary.per_seed == pytest.approx(values.mean(axis=1))
        # Pairs that are tested one by one get the same random signs.
        versus = summary.versus_baseline
        assert versus.verdict == expected.verdict
        assert (versus.relative is None) == (expected.relative is None)
        if expected.p_seeds is not None:
            assert versus.p_seeds == pytest.approx(expected.p_seeds)
            assert versus.p_users == pytest.approx(expected.p_users, abs=0.02)
    assert rows["text"].slices["repeated"].metrics["masked"]["NDCG@10"].mean == 0, "misses by definition"
    assert {rows["text"].slices[name].by for name in ("tail", "long", "new")} == {"popularity", "history", "repetition"}


def test_slices_with_few_users_say_so(tmp_path):
    few = np.where(np.arange(100) < 30, 0, 7)
    for variant in ("id", "text"):
        for seed in (1, 2):
            ranks = fake_ranks(seed + len(variant), cases=100)
            counts = np.arange(1, 31) % 8  # of every item, so that targets agree with it
            ranks["item"] = np.where(few == 0, 8, 7) + 0 * ranks["item"]
            fake_run(tmp_path, variant, seed, ranks={**ranks, "target_count": np.where(few == 0, 0, 7) + 0 * counts[0]})
    (row,) = (r for r in build_leaderboard(load_runs(tmp_path), "id", METRICS, "unmasked").rows if r.variant == "text")
    assert row.slices["cold"].users == 30
    assert row.slices["cold"].metrics["unmasked"]["NDCG@10"].versus_baseline.verdict == "too few users"
    assert row.slices["head"].metrics["unmasked"]["NDCG@10"].versus_baseline.verdict != "too few users"
    assert "tail" not in row.slices, "nobody's"


def test_what_is_recommended_is_the_mean_over_seeds_of_the_first_metrics_k(comparison):
    runs = load_runs(comparison)
    board = build_leaderboard(runs, "id", ["Recall@5", "NDCG@10"], "unmasked")
    for row in board.rows:
        for protocol in PROTOCOLS:
            found = [top_lists(r.topk(protocol), r.item_counts, 5) for r in runs if r.variant == row.variant]
            lists = row.top_lists[protocol]
            assert lists.k == 5
            for name in ("coverage", "popularity", "gini"):
                assert getattr(lists, name) == pytest.approx(sum(getattr(one, name) for one in found) / 3)


def test_what_checks_of_the_data_found_is_in_the_notes_once(tmp_path):
    fake_run(tmp_path, "id", notes=["2 of 9 users have no test case"])
    fake_run(tmp_path, "text", notes=["2 of 9 users have no test case", "3 items share their text"])
    board = build_leaderboard(load_runs(tmp_path), "id", METRICS, "unmasked")
    assert board.notes == ("2 of 9 users have no test case", "3 items share their text")


def notes_of(comparison, *by_seed):
    """The notes of a board: `by_seed` are those of the variant `both`, for seeds 1, 2, ..."""
    for seed, notes in enumerate(by_seed, start=1):
        fake_run(comparison, "id", seed)
        fake_run(comparison, "both", seed, notes=notes)
    return build_leaderboard(load_runs(comparison), "id", METRICS, "unmasked").notes


def test_notes_of_seeds_that_differ_in_numbers_are_one_note_with_their_ranges(tmp_path):
    said = "both orders the 20 best items of each member, {} per case; they contain the target in {} of the {} cases"
    notes = notes_of(
        tmp_path,
        ["weights of both: id_1 0.9, text 0.1 (chosen on validation)", said.format(45, "9.5%", "1,000")],
        ["weights of both: id_1 0.85, text 0.15 (chosen on validation)", said.format(47, "10.5%", "1,000")],
        ["weights of both: id_1 1, text 0 (chosen on validation)", said.format(46, "10.0%", "1,000")],
    )
    assert notes == (
        said.format("45 to 47", "9.5% to 10.5%", "1,000") + " (lowest to highest of seeds 1, 2, 3)",
        "weights of both: id_1 0.85 to 1, text 0 to 0.15 (chosen on validation) (lowest to highest of seeds 1, 2, 3)",
    )


def test_a_note_that_only_some_seeds_of_its_variant_have_names_them(tmp_path):
    nothing = "the trees of both found nothing to learn, so it orders its candidates by the average of its members"
    assert notes_of(tmp_path / "some", [nothing], [], [nothing]) == (f"{nothing} (seeds 1, 3)",)
    assert notes_of(tmp_path / "all", [nothing], [nothing]) == (nothing,)
    assert notes_of(tmp_path / "one", [nothing]) == (nothing,)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("both: 1.csv has no list for {}", "both: 2.csv has no list for {}"),
        ("both: valid-1.csv has no list for {}", "both: valid-2.csv has no list for {}"),
        ("both: events until 2024-07-01: {}", "both: events until 2024-08-03: {}"),
        ("both: a rate of 1e-05: {}", "both: a rate of 1e-07: {}"),
        ("both: torch 2.9.0: {}", "both: torch 2.13.0: {}"),
        ("both: NDCG@5 of {}", "both: NDCG@10 of {}"),
        ("both: runs/1: {}", "both: runs/2: {}"),
        ("both: item i12: {}", "both: item i13: {}"),
    ],
)
def test_digits_of_names_dates_versions_and_exponents_are_no_numbers(first, second, tmp_path):
    first, second = first.format(3), second.format(4)
    assert notes_of(tmp_path, [first], [second]) == (f"{first} (seed 1)", f"{second} (seed 2)")


def test_ranges_of_negative_numbers_go_from_the_lowest_to_the_highest(tmp_path):
    (note,) = notes_of(tmp_path, ["both: a change of -3% (-0.5)."], ["both: a change of -12% (2)."])
    assert note == "both: a change of -12% to -3% (-0.5 to 2). (lowest to highest of seeds 1, 2)"


def test_notes_of_one_run_and_names_that_are_numbers_are_never_merged(tmp_path):
    cuts = ["1 of 9 texts is cut", "2 of 9 texts is cut"]
    assert notes_of(tmp_path / "same", cuts, cuts) == tuple(cuts)
    users = ["both: 2 users have no list (first: 7, 9)", "both: 2 users have no list (first: 8, 9)"]
    expected = tuple(f"{note} (seed {seed})" for seed, note in enumerate(users, start=1))
    assert notes_of(tmp_path / "users", [users[0]], [users[1]]) == expected
