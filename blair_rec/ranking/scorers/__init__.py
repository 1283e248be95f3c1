"""Training-free scorers, one module for each family: popularity, rules between items, nearest neighbours by text."""

from blair_rec.ranking.scorers.base import Baseline, Counted
from blair_rec.ranking.scorers.build import build_baseline, make_baseline, scorer_kind
from blair_rec.ranking.scorers.neighbours import LastItem, MeanHistory, RecentHistory
from blair_rec.ranking.scorers.popularity import Popularity
from blair_rec.ranking.scorers.rules import Markov, Rules, SequentialRules
from blair_rec.ranking.scorers.text_rules import TextRules

__all__ = [
    "Baseline",
    "Counted",
    "LastItem",
    "Markov",
    "MeanHistory",
    "Popularity",
    "RecentHistory",
    "Rules",
    "SequentialRules",
    "TextRules",
    "build_baseline",
    "make_baseline",
    "scorer_kind",
]
