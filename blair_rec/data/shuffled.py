"""The cases of a split with the items of each history in random order, to measure how much the order matters."""

from __future__ import annotations

import numpy as np
import torch

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.hidden import with_cases
from blair_rec.data.log import LOG_POSITION

from recbole.data.interaction import Interaction


def shuffled_histories(split: TextSequentialDataset, seed: int = 0) -> TextSequentialDataset:
    """Return the same cases, each with the items of its whole history in random order; targets stay.

    Only items are moved: all other columns, such as times, keep their order.
    """
    generator = np.random.default_rng(seed)
    if split.log is None:
        name = split.iid_field + split.config["LIST_SUFFIX"]
        lists = split.inter_feat[name]
        key = torch.from_numpy(generator.random(lists.shape)).masked_fill_(lists == 0, 2)  # padding stays at the end
        columns = {**split.inter_feat.interaction, name: lists.gather(1, torch.argsort(key, dim=1))}
        return split.copy(Interaction(columns))
    position = split.inter_feat[LOG_POSITION]
    length = split.log.before(position)
    size = length + 1
    ends = torch.cumsum(size, 0)
    case = torch.repeat_interleave(torch.arange(len(position), device="cpu"), size)
    event = (position - length)[case] + torch.arange(len(case), device="cpu") - (ends - size)[case]
    key = torch.from_numpy(generator.random(len(case)))
    key[ends - 1] = 2  # the target stays last
    order = torch.from_numpy(np.lexsort((key.numpy(), case.numpy())))
    fields = {name: values[event] for name, values in split.log.fields.items()}
    fields[split.iid_field] = fields[split.iid_field][order]
    return with_cases(split, fields, size)
