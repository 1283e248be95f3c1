"""An audit finds what small worlds were made of, with the figures of independent counts and of a comparison."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from worlds import Event, read_log, store_for, write_log

import blair_rec
from blair_rec.cli import main
from blair_rec.errors import AtomicFileError, DatasetError, OutputError, StoreError
from blair_rec.experiment.audit.audit import Audited, audit, check_out, write_audit
from blair_rec.experiment.audit.checks import propose
from blair_rec.experiment.audit.findings import headline
from blair_rec.experiment.audit.report import ScorerRow

START = 1_600_000_000


def write_items(folder: Path, texts: dict[str, str], column: str = "title:token_seq") -> None:
    lines = [f"item_id:token\t{column}", *(f"{token}\t{text}" for token, text in texts.items())]
    (folder / f"{folder.name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


def said(audited: Audited, words: str) -> str:
    (found,) = (one.text for one in audited.report.findings if words in one.text)
    return found


def row(audited: Audited, name: str) -> ScorerRow:
    return next(one for one in audited.report.rows if one.name == name)


def value(audited: Audited, name: str, metric: str = "NDCG@10") -> float:
    return row(audited, name).metrics[audited.report.protocol][metric].mean


def world(folder: Path, users: int, items: Sequence[str] = (), per_user: int = 5, seed: int = 0) -> list[Event]:
    """Users with random items at different times, and nothing to predict."""
    draw = random.Random(seed)
    events = [
        (f"u{user}", draw.choice(items), START + 100 * step + user) for user in range(users) for step in range(per_user)
    ]
    write_log(folder, events)
    return events


def test_what_text_adds_is_not_measured_with_a_scorer_that_counts_events_too(tmp_path: Path) -> None:
    events = [
        (f"u{user}", f"i{(user + step) % 40}", START + 1000 * step + user) for user in range(120) for step in range(5)
    ]
    folder = write_log(tmp_path / "walk", events)
    write_items(folder, {f"i{n}": f"word{n * 7 % 10} thing{n * 3 % 8}" for n in range(40)})
    found = audit(folder)
    assert value(found, "text_rules") == value(found, "markov") == 1, "by what it counts"
    gain = found.report.text
    assert gain is not None and gain.reach is not None and gain.reach.hits["counts"] == 1
    assert gain.reach.text in ("last_item", "recent_history", "mean_history") and value(found, gain.reach.text) < 0.5
    assert gain.reach.only_text == 0
    assert said(found, "within rank").startswith(f"{gain.reach.text} reaches no test target within rank ")
    assert f"that {gain.reach.counts} misses, so text adds no case to what counting finds; " in said(found, "within ra")


def test_where_text_alone_predicts_the_next_item_text_has_everything_and_counts_have_nothing(tmp_path: Path) -> None:
    tokens = [[f"i{user}_{step}" for step in range(4)] for user in range(60)]
    events = [(f"u{u}", one, START + 1000 * step + u) for u, of in enumerate(tokens) for step, one in enumerate(of)]
    folder = write_log(tmp_path / "texts", events)
    write_items(folder, {one: f"word{u} thing" for u, of in enumerate(tokens) for one in of})
    found = audit(folder)
    assert found.report.protocol == "masked"
    assert value(found, "recent_history") == value(found, "last_item") == 1 and value(found, "markov") == 0
    gain = found.report.text
    assert gain is not None and gain.reach is not None and gain.shuffled is not None
    assert gain.reach.only_text == 1 and gain.reach.only_counts == gain.reach.both == 0
    assert gain.reach.items_only_text == 60 and gain.reach.hits == {"text": 1, "counts": 0, "either": 1}
    # The valid and the test item of each user occur in no training sequence.
    assert gain.neighbours.alone == gain.neighbours.alone_with_text == 120 and gain.neighbours.overlap == 1
    assert gain.shuffled.own == 1 and gain.shuffled.shuffled < 0.2
    assert "60 of 60 test targets never occur in training" in said(found, "never occur")
    assert "so the texts say something about the next item" in said(found, "randomly reassigned")
    assert said(found, "within rank").endswith(
        "misses: these are the cases that text can add to what counting finds; 100% of them are items with at most 5 "
        f"training events, against 100% of all targets; {gain.reach.text} misses 0.0% that {gain.reach.counts} reaches"
    )


def test_where_ties_decide_everything_shuffling_them_takes_the_scorer_to_chance(tmp_path: Path) -> None:
    draw = random.Random(3)
    events = []
    for user in range(400):  # all events at one time; in the file an item of Q follows each item of P
        pairs = zip(draw.sample(range(20), 3), draw.sample(range(20), 3), strict=True)
        events += [(f"u{user}", one, START) for p, q in pairs for one in (f"p{p}", f"q{q}")]
    found = audit(write_log(tmp_path / "tied", events))
    ties = found.report.checks.ties
    assert ties is not None and ties.tied == ties.neighbours == 2000 and ties.tied_tests == ties.tests == 400
    chance = sum(1 / np.log2(rank + 2) for rank in range(10)) / 35  # five of 40 items are masked
    change = ties.changes["markov"]
    assert change.before > 1.5 * chance and abs(change.after - chance) < 0.3 * chance
    assert change.ci95 is not None and change.ci95[1] < 0
    assert "figures with stored ties are too high" in said(found, "with ties shuffled")
    assert "shuffling tied timestamps changes" in headline(found.report)
    assert found.report.checks.cutoffs is None and any("no cut-off times" in one for one in found.report.checks.skipped)


def test_a_leak_over_time_is_counted_as_by_hand_and_cut_off_times_remove_it(tmp_path: Path) -> None:
    events = world(tmp_path / "leak", 80, [f"i{n}" for n in range(15)])
    found = audit(tmp_path / "leak")
    by_user = {user: sorted((time, item) for who, item, time in events if who == user) for user, *_ in events}
    training = [time for of in by_user.values() for time, _ in of[:-2]]
    tests = [of[-1][0] for of in by_user.values()]
    leaks = found.report.leaks
    assert leaks.later_training == sum(time > min(tests) for time in training)
    assert leaks.before_training == sum(time < max(training) for time in tests)
    cut = found.report.checks.cutoffs
    assert cut is not None and not isinstance(cut.test_from, str)
    in_test = [who for who, _, time in events if time >= cut.test_from]
    assert cut.tests == len(in_test) and cut.users == len(set(in_test))
    earlier = {item for _, item, time in events if time < float(cut.valid_from)}
    assert cut.unseen == sum(item not in earlier for _, item, time in events if time >= cut.test_from)


def test_a_world_where_training_comes_after_the_tests_says_so(tmp_path: Path) -> None:
    early = [(f"a{u}", f"i{(u + k) % 9}", START + k) for u in range(30) for k in range(4)]
    late = [(f"b{u}", f"i{(u + k) % 9}", START + 1000 + k) for u in range(30) for k in range(4)]
    found = audit(write_log(tmp_path / "late", early + late))
    assert found.report.leaks.before_training == 30  # the tests of all early users
    assert "60 of 120 training events, 30 of 60 test cases" in said(found, "training contains events later")


def test_doubled_texts_are_counted(tmp_path: Path) -> None:
    items = [f"i{n}" for n in range(20)]
    world(tmp_path / "twice", 60, items)
    texts = {one: f"thing number {n}" for n, one in enumerate(items)}
    texts |= {"i1": "same words", "i2": "same words", "i3": "words, SAME!", "i4": ""}
    write_items(tmp_path / "twice", texts)
    facts = audit(tmp_path / "twice").report.texts
    assert facts is not None and (facts.missing, facts.identical, facts.nearly_identical) == (1, 2, 3)
    lengths = [len(text) for text in texts.values() if text]
    assert facts.characters is not None and facts.characters.median == median(lengths)


def test_facts_are_those_of_plain_counting(tiny: Path) -> None:
    log, found = read_log(tiny), audit(tiny)
    facts = found.report.data
    users, items = Counter(user for user, *_ in log), Counter(item for _, item, _ in log)
    assert (facts.users, facts.items, facts.events) == (len(users), len(items), len(log))
    assert facts.density == pytest.approx(len({event[:2] for event in log}) / (len(users) * len(items)))
    assert facts.events_per_user.median == median(users.values()) and facts.events_per_item.most == max(items.values())
    pairs = [abs(a - b) for a in items.values() for b in items.values()]
    assert facts.gini == pytest.approx(np.mean(pairs) / 2 / np.mean(list(items.values())))
    assert facts.repeats == pytest.approx(1 - len({event[:2] for event in log}) / len(log))
    first = {item: min(time for _, one, time in log if one == item) for item in items}
    last = {user: max((time, item) for who, item, time in log if who == user) for user in users}
    ages = [(time - first[item]) / 86_400 for time, item in last.values()]
    assert facts.item_age_days is not None and facts.item_age_days.median == pytest.approx(median(ages))


@pytest.mark.usefixtures("tiny")
def test_the_floor_is_what_a_comparison_measures(tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    names = ("popularity", "markov", "sequential_rules")
    variants = "".join(f"  {name}: {{scorer: {name}}}\n" for name in names)
    config.write_text(f"dataset: datasets/tiny\nbaseline: markov\nseeds: [1]\nvariants:\n{variants}", encoding="utf-8")
    board = blair_rec.compare(config, tmp_path / "run")
    assert board is not None
    found = audit(config)
    for one in board.rows:
        for protocol in ("masked", "unmasked"):
            ours = row(found, one.variant).metrics[protocol]
            assert {metric: each.mean for metric, each in ours.items()} == {
                metric: pytest.approx(each.mean, abs=1e-12) for metric, each in one.metrics[protocol].items()
            }
        parts = row(found, one.variant).slices
        assert parts["head"].mean == pytest.approx(one.slices["head"].metrics["unmasked"]["NDCG@10"].mean)
    shared = [note for note in board.notes if "new items were not measured" not in note]
    assert shared and set(shared) <= {one.text for one in found.report.findings}


@pytest.mark.usefixtures("tiny")
def test_a_store_replaces_tf_idf_and_has_to_have_the_items(tiny: Path, tmp_path: Path) -> None:
    tokens = sorted({item for _, item, _ in read_log(tiny)})
    store_for(tmp_path / "store", tokens)
    with_store, without = audit(tiny, tmp_path / "store"), audit(tiny)
    assert with_store.report.text is not None and with_store.report.text.vectors != "TF-IDF of the texts"
    assert value(with_store, "last_item") < value(without, "last_item")  # its vectors are random
    assert value(with_store, "markov") == value(without, "markov")
    store_for(tmp_path / "other", [f"x{n}" for n in range(20)])
    with pytest.raises(StoreError, match="belongs to another catalogue"):
        audit(tiny, tmp_path / "other")


def test_without_text_or_times_only_a_stated_finding_is_left_out(tmp_path: Path) -> None:
    events = world(tmp_path / "bare", 60, [f"i{n}" for n in range(30)])
    whole = audit(tmp_path / "bare")
    assert "there is no bare.item, so what text could add was not measured" in said(whole, "there is no")
    assert whole.report.text is None and set(whole.report.left_out) >= {"last_item", "recent_history"}
    events.sort(key=lambda event: event[2])
    lines = ["user_id:token\titem_id:token", *(f"{user}\t{item}" for user, item, _ in events)]
    path = tmp_path / "bare" / "bare.inter"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = audit(tmp_path / "bare")
    assert "no time column, so file order is taken as their order" in said(found, "no time column")
    assert found.report.leaks.tied is found.report.data.times is found.report.checks.ties is None
    assert {one.name: one.metrics for one in found.report.rows} == {one.name: one.metrics for one in whole.report.rows}
    assert path.read_text("utf-8") == "\n".join(lines) + "\n"  # the data is only read


def test_benchmark_files_are_audited(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    for part, length in (("train", 3), ("valid", 4), ("test", 5)):
        rows = [f"u{u}\t{' '.join(f'i{(u + k) % 40}' for k in range(length))}\ti{(u + length) % 40}" for u in range(60)]
        header = "user_id:token\titem_id_list:token_seq\titem_id:token"
        (folder / f"bench.{part}.inter").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    found = audit(folder)
    assert found.report.source == "benchmark files" and value(found, "markov") == 1
    assert found.report.data.events == 60 * 6 and found.report.data.events_per_user.median == 6
    change = found.report.checks.order.changes
    assert change["markov"].after < 0.5 and change["popularity"].after == change["popularity"].before
    assert "benchmark files hold no times" in said(found, "benchmark files")


def test_times_that_only_number_events_are_not_compared(tmp_path: Path) -> None:
    events = [(f"u{u}", f"i{(u + k) % 9}", k) for u in range(60) for k in range(4)]
    found = audit(write_log(tmp_path / "numbers", events))
    assert found.report.leaks.before_training is found.report.checks.ties is found.report.checks.cutoffs is None
    assert "item ages and cut-off times were not examined" in said(found, "only number the events")


def test_one_user_gives_figures_without_intervals(tmp_path: Path) -> None:
    found = audit(write_log(tmp_path / "one", [("u", f"i{n}", START + n) for n in range(5)]))
    assert found.report.metrics == ("NDCG@5", "Recall@5")
    assert all(each.ci95 is None for one in found.report.rows for each in one.metrics["masked"].values())
    assert "there is no interval" in said(found, "there is no interval")


def test_unusable_data_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AtomicFileError, match="no event after its first line"):
        audit(write_log(tmp_path / "empty", []))
    with pytest.raises(DatasetError, match="no user has two events"):
        audit(write_log(tmp_path / "short", [("u", "a", 1), ("v", "a", 2)]))
    with pytest.raises(DatasetError, match="there is no such folder"):
        audit(tmp_path / "nowhere")
    assert main(["audit", str(tmp_path / "empty")]) == 1
    assert "no event after its first line" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "audits").exists()


def test_the_command_writes_the_page_and_the_same_numbers_as_json(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(tiny), "-o", "out"]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    page = (tmp_path / "out" / "audit.html").read_text("utf-8")
    assert report["findings"] and all(one["text"] in printed for one in report["findings"])
    for one in report["rows"]:
        for metrics in one["metrics"].values():
            assert all(f"{each['mean']:.4f}" in page for each in metrics.values())
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "") and "src=" not in page
    assert main(["audit", str(tiny), "-o", "out", "--quiet"]) == 0  # its own files are replaced


def test_names_from_files_are_escaped_on_the_page(tmp_path: Path) -> None:
    world(tmp_path / "odd", 60, ["<b>x</b>", "i1", "i2", "i3", "i4", "i5"])
    write_items(tmp_path / "odd", {"i1": "one two", "i2": "one two"}, "<script>:token_seq")
    write_audit(audit(tmp_path / "odd"), tmp_path / "out")
    page = (tmp_path / "out" / "audit.html").read_text("utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_page_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "audit.html").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"audit\.html"):
        check_out(tmp_path)


@pytest.mark.parametrize("times, expected", [([1.0] * 9, None), ([1.0, 2.0] * 5, None), ([1.0, 2.0, 3.0], (2, 3))])
def test_cut_off_times_need_three_times(times: list[float], expected: tuple[int, int] | None) -> None:
    assert propose(np.array(times)) == expected


def test_proposed_days_leave_the_shares_that_the_page_names() -> None:
    times = START + 3600.0 * np.arange(10_000)
    found = propose(times)
    assert found is not None
    first, second = (np.datetime64(str(day)).astype("datetime64[s]").astype(float) for day in found)
    assert abs((times < first).mean() - 0.8) < 0.01 and abs((times < second).mean() - 0.9) < 0.01


def test_an_audit_json_of_another_program_is_not_replaced(tiny: Path, tmp_path: Path) -> None:
    for content in ('{"vulnerabilities": {}, "version": 2}', "[]", "mine"):
        (tmp_path / "audit.json").write_text(content, encoding="utf-8")
        with pytest.raises(OutputError, match=r"holds audit\.json, which this command did not write"):
            check_out(tmp_path)
    write_audit(audit(tiny), tmp_path / "ours")
    (tmp_path / "ours" / ".lock").unlink()
    check_out(tmp_path / "ours")


def test_a_folder_that_cannot_be_used_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for name, message in (("file", "is a file"), ("file/x", "Not a directory"), ("x" * 300, "can't be used")):
        with pytest.raises(OutputError, match=message):
            check_out(tmp_path / name)


def test_texts_without_a_word_are_said_to_have_none(tmp_path: Path) -> None:
    world(tmp_path / "signs", 60, [f"i{item}" for item in range(6)])
    write_items(tmp_path / "signs", {f"i{item}": "!!! ???" for item in range(6)}, "title:token_seq")
    assert "no item has a word in its text" in said(audit(tmp_path / "signs"), "no item has")
