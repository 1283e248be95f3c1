"""Made-up data where the next item depends on text alone and ids can't be learnt: does text win, and only real text?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from worlds import write_log

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.names import ProtocolName
from blair_rec.config.sections import TextConfig, TrainConfig
from blair_rec.config.variant import VariantConfig
from blair_rec.evaluate.runs.results import RunResult, load_run
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.experiment.planning.plan import Run, run_setup
from blair_rec.experiment.run import make_run, whole_data
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.store.writer import write_store

GROUPS, PER_GROUP, USERS, EVENTS = 30, 100, 600, 6
SEEDS = (1, 2, 3)
METRIC = "NDCG@10"
GAIN = sum(1 / np.log2(place + 2) for place in range(10))
"""Sum of the gains of the first ten places: a random ranking of n items gets GAIN / n."""
TWINS = {
    "text_shuffled": VariantConfig(items="text", transforms=("whiten",), control="shuffle"),
    "text_random": VariantConfig(items="text", transforms=("whiten",), control="random"),
    "text_init_shuffled": VariantConfig(items="text_init", transforms=("center",), control="shuffle"),
    "text_init_random": VariantConfig(items="text_init", transforms=("center",), control="random"),
}
"""The same models over meaningless text."""
VARIANTS = {
    "id": VariantConfig(),
    "text": VariantConfig(items="text", transforms=("whiten",)),
    "text_init": VariantConfig(items="text_init", transforms=("center",)),
    **TWINS,
}


def write_world(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """A log where any item of a group is followed by any item of the next group; returns each item's group.

    Users draw from 3000 items at random, so an item has less than one training event on average. Almost nothing can be
    learnt about its id, while its group has 80 events.
    """
    log, group_of = [], {}
    for user in range(USERS):
        start = int(rng.integers(GROUPS))
        for event in range(EVENTS):
            group = (start + event) % GROUPS
            item = f"i{group * PER_GROUP + int(rng.integers(PER_GROUP))}"
            group_of[item] = group
            log.append((f"u{user}", item, 1000 * user + event))
    write_log(folder, log)
    return group_of


def write_texts(path: Path, group_of: dict[str, int], rng: np.random.Generator) -> EmbeddingStore:
    """Averages of word vectors: three words that an item shares with its group, and one of 200 meaningless words."""
    words = rng.standard_normal((3 * GROUPS + 200, 48))
    texts = [[*range(3 * group, 3 * group + 3), 3 * GROUPS + rng.integers(200)] for group in group_of.values()]
    encoder = {"name": "words", "asked_for": "words", "revision": None, "pooling": "mean", "max_length": 4}
    return write_store(
        path,
        list(group_of),
        np.array([words[text].mean(axis=0) for text in texts], dtype=np.float32),
        textless=(),
        encoder=encoder,
        template={"name": "fields", "version": 1, "fields": ["title"]},
        text_sha256="0" * 64,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[RunResult]]:
    """Every variant, trained once with each seed under the same budget."""
    folder = tmp_path_factory.mktemp("worlds")
    rng = np.random.default_rng(0)
    store = write_texts(folder / "store", write_world(folder / "cycle", rng), rng)
    config = CompareConfig(
        dataset=str(folder / "cycle"),
        variants=VARIANTS,
        seeds=SEEDS,
        text=TextConfig(fields=("title",)),
        train=TrainConfig(epochs=12, eval_every=4, learning_rate=0.005, batch_size=512),
        recbole={
            "hidden_size": 32, "inner_size": 32, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": EVENTS,
            "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2,
        },
    )  # fmt: skip
    data = whole_data(config, folder / "cycle")
    found: dict[str, list[RunResult]] = {}
    for name, variant in VARIANTS.items():
        for seed in SEEDS:
            path = store.path if variant.uses_text else None
            hashes = {"config": "", "data": "", "store": store.store_sha256 if path else None, "code": ""}
            run = Run(
                name, seed, run_setup(config, name, seed), hashes, path, folder / "runs" / f"{name}-{seed}", done=False
            )
            make_run(config, run, data, (store, path) if path else None)
            found.setdefault(name, []).append(load_run(run.folder))
    return found


def mean(runs: list[RunResult], protocol: ProtocolName) -> float:
    """The metric over seeds and users."""
    return float(np.mean([run.per_user(METRIC, protocol).mean() for run in runs]))


def random_ranking(results: dict[str, list[RunResult]]) -> float:
    """The metric of a random ranking."""
    return float(GAIN / results["id"][0].ranks.candidates)


def test_the_made_up_data_is_as_described(results: dict[str, list[RunResult]]) -> None:
    ranks = results["id"][0].ranks
    assert len(ranks.user) == USERS and ranks.candidates > 2000
    assert (ranks.target_count == 0).mean() > 0.4 and (ranks.target_count <= 2).mean() > 0.9
    assert not ranks.target_in_history.any(), "new to each user, whichever protocol"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("variant", ["text", "text_init"])
def test_text_beats_id_at_least_threefold(
    results: dict[str, list[RunResult]], variant: str, protocol: ProtocolName
) -> None:
    assert mean(results[variant], protocol) > 3 * mean(results["id"], protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("variant", TWINS)
def test_meaningless_text_does_not_beat_id(
    results: dict[str, list[RunResult]], variant: str, protocol: ProtocolName
) -> None:
    """Clearly better than noise: twice the metric of a random ranking.

    The standard error of a mean over 3 x 600 random rankings is 0.4 times its value. So that of a difference is 0.5
    times, and the bound is four of them. Real text is far above the same bound.
    """
    bound = mean(results["id"], protocol) + 2 * random_ranking(results)
    assert (
        mean(results[variant], protocol) < bound < min(mean(results[name], protocol) for name in ("text", "text_init"))
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_model_predicts_more_than_the_group(results: dict[str, list[RunResult]], protocol: ProtocolName) -> None:
    """The history determines only the next group. A model that beats a random order inside it has seen the answer."""
    best = random_ranking(results) * GROUPS
    assert max(mean(runs, protocol) for runs in results.values()) < 1.2 * best
