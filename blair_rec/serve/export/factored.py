"""Replace the table of rules between items by a product of two factors of low rank.

Shapes: B cases, N item ids with the padding row 0, R rank of the factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds
from torch import Tensor

from blair_rec.errors import ConfigError
from blair_rec.experiment.loading import Loaded
from blair_rec.models.scorer import Scorer
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.scorers import Baseline, Rules

BALANCE = 0.25
"""Rows and columns of a table are divided by this power of their sums before the SVD, and multiplied by it afterwards.

Without it (0) the SVD spends its rank on the most frequent items. benchmarks/rules_svd.py measures both."""
CELLS = 1 << 20
"""Numbers of a table that are compared with their products together."""


@dataclass(frozen=True)
class Factors:
    """A table [N, N] as sources @ targets.T, without the row and the column of the padding."""

    sources: np.ndarray
    """[N - 1, R] float32; a user's vector is a weighted sum of those of the history."""
    targets: np.ndarray
    """[N - 1, R] float32; the products with the user's vector are the scores."""
    kept: float
    """1 - |table - product|^2 / |table|^2, the share of the table's squared norm that is kept."""


def factors_of(table: csr_array, rank: int, balance: float = BALANCE) -> Factors:
    """Return two factors of a table [N, N] by a truncated SVD; each gets the square root of the singular values.

    ARPACK starts from a vector of ones, so that the same machine finds the same factors again. For a rank of at least
    half the number of items, the table is made dense and gets a full SVD.

    Raises:
        ConfigError: the rank is not between 1 and N - 1, the number of items.
    """
    items = table.shape[0] - 1
    if not 1 <= rank <= items:
        raise ConfigError(f"rules_rank is {rank}; it has to be between 1 and {items}, the number of items")
    inner = csr_array(table[1:, 1:]).astype(np.float64)
    if not inner.count_nonzero():
        nothing = np.zeros((items, rank), np.float32)
        return Factors(nothing, nothing, 1.0)
    left, right = (np.asarray(abs(inner).sum(axis=axis), dtype=np.float64) for axis in (1, 0))
    left, right = (np.where(total > 0, total, 1) ** balance for total in (left, right))
    scaled = csr_array(diags_array(1 / left) @ inner @ diags_array(1 / right))
    if 2 * rank >= items:
        u, values, v = np.linalg.svd(scaled.toarray())
    else:
        u, values, v = svds(scaled, rank, v0=np.ones(items))
    order = np.argsort(-values)[:rank]
    root = np.sqrt(values[order])
    sources, targets = left[:, None] * u[:, order] * root, right[:, None] * v[order].T * root
    return Factors(sources.astype(np.float32), targets.astype(np.float32), _kept(inner, sources, targets))


def _kept(table: csr_array, sources: np.ndarray, targets: np.ndarray) -> float:
    """1 - |table - product|^2 / |table|^2, without the product in memory."""
    entries = table.tocoo()
    together, step = 0.0, max(1, CELLS // sources.shape[1])
    for begin in range(0, entries.nnz, step):
        row, column, value = (part[begin : begin + step] for part in (entries.row, entries.col, entries.data))
        together += float(value @ (sources[row] * targets[column]).sum(axis=1))
    own = float(((sources.T @ sources) * (targets.T @ targets)).sum())
    return min(1.0, (2 * together - own) / float(np.square(table.data).sum()))


class FactoredRules(Baseline):
    """Rules whose table is a product of two factors, so that their scores are inner products.

    score = (sum over the items i of the history of sources(i) / age(i)) . targets(item) + POPULARITY * share(item)

    This is the score of the rules with sources @ targets.T as their table. Popularity has a column of its own, so it
    stays exact.
    """

    sources: Tensor
    targets: Tensor

    def __init__(self, rules: Rules, sources: np.ndarray, targets: np.ndarray) -> None:
        """
        Args:
            rules: the rules; they decide which items of a history count, with which weights.
            sources: [N - 1, R] float32.
            targets: [N - 1, R + 1] float32; the last column is added to the scores of every history.
        """
        super().__init__(rules.n_items, rules.ITEM_SEQ, rules.ITEM_SEQ_LEN)
        self._of = (rules,)  # a tuple, so that torch doesn't take its table for a part of this module
        for name, array in (("sources", sources), ("targets", targets)):
            self.register_buffer(name, torch.from_numpy(np.pad(array, ((1, 0), (0, 0)))).to(rules.device))

    @property
    def rules(self) -> Rules:
        """The rules that are approximated."""
        return self._of[0]

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the weighted sum of the history's sources, and a 1 for the popularity: [B, R + 1] float32."""
        row, item, weight = self.rules.antecedents(interaction)
        total = self.sources.new_zeros(len(interaction[self.ITEM_SEQ]), self.sources.shape[1])
        total.index_add_(0, row, self.sources[item] * weight.unsqueeze(1))
        return torch.cat([total, total.new_ones(len(total), 1)], dim=1)

    def item_matrix(self) -> Tensor:
        """Return the items' targets and their popularity, [N, R + 1]."""
        return self.targets


def factored(rules: Rules, rank: int, balance: float = BALANCE) -> tuple[FactoredRules, float]:
    """Return rules as a product of vectors, and the share of their table's squared norm that is kept.

    Raises:
        ConfigError: as `factors_of`.
    """
    found = factors_of(table_of(rules), rank, balance)
    popularity = (rules.share[1:] * rules.POPULARITY).cpu().numpy()
    return FactoredRules(rules, found.sources, np.column_stack([found.targets, popularity])), found.kept


def table_of(rules: Rules) -> csr_array:
    """Return the table of rules between items, [N, N] float32."""
    parts = (part.cpu().numpy() for part in (rules.transitions, rules.successor, rules.start))
    return csr_array(tuple(parts), (rules.n_items, rules.n_items))


def scorers_in(scorer: Scorer) -> list[Scorer]:
    """Return the members of an average, and of averages in it, in their order; for another scorer only itself."""
    return [one for part in scorer.members for one in scorers_in(part)] if isinstance(scorer, Ensemble) else [scorer]


def tables_in(scorer: Scorer) -> list[Rules]:
    """Return the scorers of `scorers_in` whose table of rules can be factored.

    Rules of another package with a scoring of their own are not among them.
    """
    own = Rules.full_sort_predict
    return [one for one in scorers_in(scorer) if isinstance(one, Rules) and type(one).full_sort_predict is own]


def with_factors(loaded: Loaded, made: Iterator[FactoredRules]) -> Loaded:
    """Return a run in which these factored rules replace its `tables_in`, in their order."""
    if isinstance(loaded.model, Ensemble):
        members = tuple(with_factors(member, made) for member in loaded.members)
        average = Ensemble([member.model for member in members], loaded.model.weights.tolist())
        return loaded._replace(model=average.eval(), members=members)
    return loaded._replace(model=next(made)) if tables_in(loaded.model) else loaded
