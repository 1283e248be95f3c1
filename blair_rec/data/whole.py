"""All splits of a data set joined: the training data of a model if nothing is held out for evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from blair_rec.data.dataset import TextSequentialDataset

from recbole.data.interaction import cat_interactions


def whole_log(splits: Sequence[TextSequentialDataset]) -> TextSequentialDataset:
    """Return the cases of all these splits of one data set, each with its own history; the splits are not changed."""
    first = splits[0]
    if first.log is None:  # benchmark files: the rows contain their histories
        return first.copy(cat_interactions([split.inter_feat for split in splits]))
    rows = first.inter_feat.select(slice(None))
    rows.position = torch.cat([split.inter_feat.position for split in splits]).sort().values
    return first.copy(rows)
