"""The contract of training-free scorers, as a test class to inherit.

Shapes: N item ids with the padding row 0, B cases, L items of a history at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from blair_rec.config.steps import Step
from blair_rec.errors import ConfigError
from blair_rec.models.scorer import Scorer
from blair_rec.ranking.scorers import Baseline, make_baseline
from blair_rec.testing.items import CATALOGUE, text_vectors, training_sequences

FIELDS = "item_id_list", "item_length"
"""The fields of an interaction that a scorer reads."""


class ScorerContract:
    """Checks that a training-free scorer gives a case the same scores each time: in any batch, and after saving.

    Set `kind`, and `options` and `transforms` if it takes some.
    """

    kind: ClassVar[type[Baseline]]
    options: ClassVar[Mapping[str, Any]] = {}
    transforms: ClassVar[Sequence[Step]] = ()

    def build(self, counted: bool = True) -> Any:
        """Build the scorer over CATALOGUE ids; `counted` says whether it has counted the training split."""
        rows = text_vectors()[1:]
        scorer: Any = make_baseline(self.kind, self.options, CATALOGUE, FIELDS, rows, self.transforms)
        if counted:
            scorer.count(training_sequences())
        return scorer.eval()

    def test_it_is_a_scorer(self) -> None:
        """It has everything that ranking, recommending, exporting and saving need."""
        scorer = self.build()
        assert isinstance(scorer, Scorer) and isinstance(scorer.scores_by_product, bool)
        assert (scorer.fitted_transforms is not None) == self.kind.uses_text

    def test_every_item_of_every_case_has_a_finite_score(self) -> None:
        """Scores are [B, N]; column 0, the padding, is ignored."""
        with torch.no_grad():
            scores = self.build().full_sort_predict(cases())
        assert scores.shape == (4, CATALOGUE) and scores.is_floating_point()
        assert torch.isfinite(scores[:, 1:]).all()

    def test_it_changes_nothing_that_it_is_given_and_answers_the_same_again(self) -> None:
        """Nothing is random, so one run is enough for all seeds."""
        scorer, asked = self.build(), cases()
        before = {name: values.clone() for name, values in asked.items()}
        first, again, other = scorer.full_sort_predict(asked), scorer.full_sort_predict(asked), self.build()
        assert torch.equal(first, again) and torch.equal(first, other.full_sort_predict(asked))
        assert all(torch.equal(asked[name], before[name]) for name in before)

    def test_a_case_has_its_scores_alone_and_with_more_padding(self) -> None:
        """The scores depend neither on the other cases of a batch nor on the width of the window."""
        scorer, together = self.build(), self.build().full_sort_predict(cases())
        wide = {FIELDS[0]: torch.nn.functional.pad(cases()[FIELDS[0]], (0, 3)), FIELDS[1]: cases()[FIELDS[1]]}
        torch.testing.assert_close(scorer.full_sort_predict(wide)[:, 1:], together[:, 1:])
        for row in range(len(together)):
            one = {name: values[row : row + 1] for name, values in cases().items()}
            torch.testing.assert_close(scorer.full_sort_predict(one)[0, 1:], together[row, 1:])

    def test_scores_that_are_products_are_those_of_users_and_items(self) -> None:
        """A nearest-neighbour index relies on it if `scores_by_product` is True."""
        scorer = self.build()
        if scorer.scores_by_product:
            users, items = scorer.user_vectors(cases()), scorer.item_matrix()
            assert len(users) == 4 and len(items) == CATALOGUE
            torch.testing.assert_close((users @ items.T)[:, 1:], scorer.full_sort_predict(cases())[:, 1:])

    def test_its_state_and_the_text_are_all_it_takes(self) -> None:
        """Counts are saved and loaded like weights."""
        scorer, other = self.build(), self.build(counted=False)
        other.load_state_dict(scorer.state_dict())
        assert torch.equal(other.full_sort_predict(cases()), scorer.full_sort_predict(cases()))

    def test_items_that_came_later_are_scored_or_refused(self) -> None:
        """They are scored if their text is enough; all other items keep their scores."""
        scorer = self.build()
        before = scorer.full_sort_predict(cases())
        try:
            scorer.append_items(text_vectors()[[4, 9]])
        except ConfigError:
            return
        after = scorer.full_sort_predict(cases())
        assert after.shape == (4, CATALOGUE + 2)
        torch.testing.assert_close(after[:, 1:CATALOGUE], before[:, 1:])


def cases() -> dict[str, Tensor]:
    """Return an interaction of four histories of 1 to 5 items, padded with 0 at the end."""
    histories = [[3], [1, 2, 3], [7, 7, 8, 30, 1], [12, 5]]
    items = torch.zeros(len(histories), 5, dtype=torch.int64)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.tensor(history)
    return {FIELDS[0]: items, FIELDS[1]: torch.tensor([len(history) for history in histories])}
