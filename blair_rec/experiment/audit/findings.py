"""The findings of an audit: one sentence each, which says what follows for somebody who trains or compares models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from blair_rec.errors import agreed, counted, out_of
from blair_rec.evaluate.metrics import parse_metric
from blair_rec.evaluate.significance import MIN_USERS
from blair_rec.experiment.audit.checks import Change, Checks, CutoffCheck
from blair_rec.experiment.audit.facts import NEAR, DataFacts
from blair_rec.experiment.audit.report import AuditFinding, AuditReport, ScorerRow, TextGain

SHORT, OLD = 10, 30
"""Fewer events per user than SHORT are few; test targets younger than OLD days are young."""
MATTERS = 0.05
"""Relative changes of a metric below this share are called small if their interval includes 0."""


def all_findings(report: AuditReport, notes: Sequence[str]) -> tuple[AuditFinding, ...]:
    """All findings; `notes` are those that a comparison of the same data shows, which belong to its basis."""
    found = [AuditFinding("floor", text) for text in _floor(report)]
    found += [AuditFinding("basis", text) for text in (*notes, *_basis(report))]
    found += [AuditFinding("text", text) for text in _text(report)]
    found += [AuditFinding("data", text) for text in _data(report.data, report)]
    return tuple(dict.fromkeys(found))


def _data(data: DataFacts, report: AuditReport) -> Iterator[str]:
    half = f"half of the users have at most {data.events_per_user.median:,.0f} events"
    if data.events_per_user.median < SHORT:
        yield f"{half}, so most targets have to be predicted from few items"
    else:
        yield f"{half}, so a model can learn from histories, and their maximum length (MAX_ITEM_LIST_LENGTH) matters"
    popularity = next((row for row in report.rows if row.name == "popularity"), None)
    if popularity is not None:
        first = report.metrics[0]
        value = popularity.metrics[report.protocol][first].mean
        most = f"the 1% most popular items have {data.top_share:.0%} of all events (Gini {data.gini:.2f})"
        best = report.rows[0].metrics[report.protocol][first].mean
        so = "so a model can score well without personal taste" if value > best / 2 else "so popularity is a weak floor"
        yield f"{most}, and popularity alone has {first} {value:.4f} where the best scorer has {best:.4f}, {so}"
    if data.tail_items + data.untrained_items > 0.5:
        rare = f"{data.tail_items + data.untrained_items:.0%} of the items have at most 5 training events"
        yield f"{rare}, so item vectors learned from events alone are uncertain for most of the catalogue"
    if (age := data.item_age_days) is not None:
        said = f"half of the test events come at most {age.median:,.0f} days after the first event of their item"
        so = "new items matter: measure them with `evaluate.new_items`" if age.median < OLD else "most items are known"
        yield f"{said}, so {so}"


def _floor(report: AuditReport) -> Iterator[str]:
    metric, protocol = report.metrics[0], report.protocol
    singles = [row for row in report.rows if row.name != "average"]
    best = singles[0]
    value = best.metrics[protocol][metric]
    within = f" [{value.ci95[0]:.4f}, {value.ci95[1]:.4f}]" if value.ci95 else ""
    of_tests = f"{report.cases:,} of {counted(report.tests, 'test case')}"
    how = f"on {of_tests}, drawn at random" if report.cases < report.tests else ""
    if value.ci95:
        so = f"so a trained model has to beat {value.ci95[1]:.4f} to clear this floor"
    else:
        so = "and with so few users there is no interval, so small differences between models mean nothing"
    where = f"{metric} ({protocol}{', ' if how else ''}{how})"
    yield f"without training, {best.name} has {where} {value.mean:.4f}{within}, {so}"
    average = next((row for row in report.rows if row.name == "average"), None)
    if average is not None and report.weights is not None:
        reached = average.metrics[protocol][metric].mean
        members = ", ".join(f"{name} {weight:.2g}" for name, weight in report.weights.items())
        if reached > value.mean:
            so = f"so this average, {reached / value.mean - 1:+.0%}, is the floor for systems of several models"
        else:
            so = "so mixing training-free scorers adds nothing here"
        yield f"their average ({members}; weights from validation) has {metric} {reached:.4f}, {so}"
    if value.mean < 3 * report.chance:
        yield (
            f"the best scorer is less than three times as good as a random order ({metric} {report.chance:.4f}), so "
            "this data gives simple methods almost nothing to predict from"
        )
    tail = best.slices.get("tail")
    head = best.slices.get("head")
    if tail is not None and head is not None and tail.mean is not None and head.mean and tail.cases >= MIN_USERS:
        rare = "are" if tail.mean < head.mean / 2 else "are not"
        yield (
            f"{best.name} has {metric} {tail.mean:.4f} on items with 1 to 5 training events and {head.mean:.4f} on "
            f"more frequent ones, so rare items {rare} where a model can gain most"
        )


def _basis(report: AuditReport) -> Iterator[str]:
    checks = report.checks
    if (ties := checks.ties) is not None:
        days = ", because times are whole days" if report.data.whole_days else ""
        yield (
            f"{ties.tied:,} of {counted(ties.neighbours, 'pair')} of successive events {agreed(ties.tied, 'have')} "
            f"tied timestamps{days}, so their order is not known"
        )
        yield _tie_sentence(ties.changes, report.metrics[0])
    elif report.data.times is not None:
        yield "no successive events of a user have tied timestamps, so the order of the file decides nothing"
    yield from _order(checks)
    yield _masking(report)
    if (cut := checks.cutoffs) is not None:
        yield _cutoffs(cut, report.metrics[0])
    yield from checks.skipped


def _tie_sentence(changes: Mapping[str, Change], metric: str) -> str:
    name = _most_by_ties(changes)
    if name is None:
        return "no scorer finds a target with stored ties, so the order of ties can't be judged"
    most = changes[name]
    said = f"with ties shuffled, {name} goes from {metric} {most.before:.4f} to {most.after:.4f} ({most.relative:+.0%})"
    if _is_small(most):
        return f"{said}, the largest change of the better scorers, so the order of ties hardly decides anything"
    if most.after < most.before:
        return (
            f"{said}, so file order tells which item comes next, and figures with stored ties are too high; "
            "use `ties: shuffled`"
        )
    return f"{said}, so figures depend on the order of ties; use `ties: shuffled` and say so"


def _most_by_ties(changes: Mapping[str, Change]) -> str | None:
    """The scorer that loses most if ties are shuffled; if none loses, the one that changes most; None if unknown.

    Scorers with less than half of the best figure don't count: nobody would report them.
    """
    best = max((one.before for one in changes.values()), default=0.0)
    known = [name for name, one in changes.items() if one.relative is not None and one.before >= best / 2]
    lost = [name for name in known if changes[name].after < changes[name].before and not _is_small(changes[name])]
    return max(lost or known, key=lambda name: abs(changes[name].after - changes[name].before), default=None)


def _cutoffs(cut: CutoffCheck, metric: str) -> str:
    before = max(cut.changes, key=lambda name: cut.changes[name].before)
    after = max(cut.changes, key=lambda name: cut.changes[name].after)
    one = cut.changes[after]
    best = f"{after} stays the best scorer" if before == after else f"{after} replaces {before} as the best scorer"
    unseen = cut.unseen / max(cut.tests, 1)
    more = "overstates" if one.after < one.before else "does not overstate"
    return (
        f"with cut-off times (`split: {{valid_from: {cut.valid_from}, test_from: {cut.test_from}}}`) there are "
        f"{counted(cut.tests, 'test case')} of {counted(cut.users, 'user')}, {unseen:.0%} of the targets have "
        f"no training event, and {best}: it has {metric} {one.after:.4f} there and {one.before:.4f} with "
        f"leave-one-out, so leave-one-out {more} what it reaches on later events"
    )


def _is_small(change: Change) -> bool:
    inside = change.ci95 is not None and change.ci95[0] <= 0 <= change.ci95[1]
    return abs(change.relative or 0) < MATTERS or inside


def _order(checks: Checks) -> Iterator[str]:
    known = {name: one for name, one in checks.order.changes.items() if one.relative is not None}
    if not known:
        return
    best = max(known, key=lambda name: known[name].before)
    name = min(known, key=lambda one: known[one].relative or 0)
    most = known[name]
    assert most.relative is not None
    if _is_small(most) or most.relative > 0:
        yield (
            "with the items of test histories in random order, no scorer loses much, so order says little here and a "
            "sequential model has little to gain over one that ignores it"
        )
        return
    own = known[best].relative or 0
    others = "" if name == best else f", and the best scorer, {best}, changes by {own:+.0%}"
    yield (
        f"with the items of test histories in random order, {name} loses {-most.relative:.0%}{others}, so order "
        "matters, and a sequential model can use it"
    )


def _masking(report: AuditReport) -> str:
    metric, best = report.metrics[0], report.rows[0]
    unmasked, masked = (best.metrics[protocol][metric].mean for protocol in ("unmasked", "masked"))
    moved = f"masking the history takes {best.name} from {metric} {unmasked:.4f} to {masked:.4f}"
    if report.in_history == 0:
        so = "never compare masked figures with unmasked ones" if masked != unmasked else "both protocols agree"
        return f"no test target is in its user's history, and {moved}, so {so}"
    repeated = f"{report.in_history:.1%} of the test targets are in their user's history"
    if report.in_history < 0.01:
        return f"{repeated}, and {moved}, so masking costs little; say which one a figure is"
    return f"{repeated}: masking makes them misses and lifts the other targets; {moved}, so report unmasked figures"


def _text(report: AuditReport) -> Iterator[str]:
    gain = report.text
    if gain is None:
        return
    near = gain.neighbours
    if near.items:
        yield (
            f"the {near.k} nearest items by text include {near.overlap:.0%} of the nearest by shared users (random: "
            f"{near.by_chance:.1%}), so text {_agrees(near.overlap)}"
        )
        if near.near >= MATTERS:
            yield (
                f"{near.near:.0%} of the items have another item with nearly the same text (cosine at least {NEAR}), "
                "so text alone can hardly tell these apart"
            )
    if near.alone:
        yield (
            f"{out_of(near.alone, report.data.items, 'item', 'share')} no training user with another "
            f"item, and {near.alone_with_text:,} of these {agreed(near.alone_with_text, 'have')} text, so only text "
            "can place them"
        )
    yield from _reach(gain, report)


def _agrees(overlap: float) -> str:
    if overlap < 0.1:
        return "finds other neighbours than users do, and the two can complement each other"
    return "repeats a part of what users show" if overlap < 0.5 else "says mostly what users show already"


def _reach(gain: TextGain, report: AuditReport) -> Iterator[str]:
    k = parse_metric(report.metrics[0]).k
    if (mixed := gain.shuffled) is not None:
        lost = 1 - mixed.shuffled / mixed.own if mixed.own > 0 else 0.0
        known = mixed.ci95 is not None and mixed.ci95[1] < 0
        so = (
            f"so the texts say something about the next item (chance: {report.chance:.4f})"
            if known
            else ("so it is not shown that the texts say anything about the next item")
        )
        yield (
            f"with texts randomly reassigned to items, {mixed.scorer} goes from {report.metrics[0]} {mixed.own:.4f} to "
            f"{mixed.shuffled:.4f} (-{lost:.0%}), {so}"
        )
    if (found := gain.reach) is None:
        return
    missed = f"{found.text} misses {found.only_counts:.1%} that {found.counts} reaches"
    if found.tail_only_text is None:
        yield (
            f"{found.text} reaches no test target within rank {found.k} that {found.counts} misses, so text adds no "
            f"case to what counting finds; {missed}"
        )
    else:
        yield (
            f"{found.text} reaches {found.only_text:.1%} of the test targets within rank {found.k} that {found.counts} "
            f"misses: these are the cases that text can add to what counting finds; {found.tail_only_text:.0%} of them "
            f"are items with at most 5 training events, against {found.tail:.0%} of all targets; {missed}"
        )
    more = found.hits["either"] - found.hits["counts"]
    yield (
        f"Recall@{min(10, report.data.items)} is {found.hits['counts']:.4f} for {found.counts} and would be "
        f"{found.hits['either']:.4f} if the better of it and {found.text} were known for each user, so "
        f"{'text is worth trying' if more > MATTERS * found.hits['counts'] else 'text has little room'} (at k = {k} "
        "and with these vectors)"
    )


def headline(report: AuditReport) -> str:
    """The floor and the most important reservation, in one sentence."""
    metric, best = report.metrics[0], report.rows[0]
    value = best.metrics[report.protocol][metric]
    name = "an average of training-free scorers" if best.name == "average" else best.name
    return f"Without training, {name} reaches {metric} {value.mean:.4f}{_reserve(report, best)}"


def _reserve(report: AuditReport, best: ScorerRow) -> str:
    ties = report.checks.ties
    name = None if ties is None else _most_by_ties(ties.changes)
    if ties is not None and name is not None and not _is_small(most := ties.changes[name]):
        assert most.relative is not None
        return f", and shuffling tied timestamps changes {name} by {most.relative:+.0%}"
    if report.leaks.before_training:
        return ", on a split whose training data contains later events than some test cases"
    interval = best.metrics[report.protocol][report.metrics[0]].ci95
    return f", with a 95% interval from {interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
