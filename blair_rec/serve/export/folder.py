"""Export a finished run as a folder of ONNX files, arrays and JSON, and check its scores against the run's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import blair_rec
from blair_rec.errors import ConfigError, OutputError, first_of, shell_line
from blair_rec.evaluate.runs.recorded import read_recorded
from blair_rec.evaluate.runs.run_files import ITEMS_FILE, RESULT_FILE
from blair_rec.experiment.loading import Loaded, load_model
from blair_rec.extras import need
from blair_rec.files.contents import files_in, sha256_of
from blair_rec.files.locks import whole_folder
from blair_rec.files.places import real_place, refuse_file, refuse_loss
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.serve.export.approximation import Approximation, approximated
from blair_rec.serve.export.card import model_card
from blair_rec.serve.export.factored import tables_in
from blair_rec.serve.export.parts import write_part

CONFIG, CARD, PROGRAM = "config.json", "README.md", "recommend.py"
MEMBERS = "members"
"""The folder of an average's members."""
Z_SCORES = (
    "each member's scores minus their mean over all items of the history, over their standard deviation (divisor: the "
    "number of items; the history's own items count, too); 0 where the deviation is at most 1e-6 of the largest score; "
    "then the sum of the members, each times its weight"
)
TOLERANCE = 1e-4
"""The largest difference allowed from torch's scores, as a share of the standard deviation of a history's scores."""
CHECKED = 32
"""Number of histories that are scored by the run and by the export."""


class ExportedRun(NamedTuple):
    """The result of an export."""

    folder: Path
    files: dict[str, int]
    """Size of each file in bytes, by name."""
    difference: float
    """The largest difference from torch's scores, in standard deviations of a history's scores."""
    left_out: tuple[str, ...]
    """Members of an average whose weight is 0."""
    approximation: Approximation | None = None
    """How well vectors reproduce rules between items; None without `rules_rank`."""


def export_run(
    run_dir: str | Path,
    out: str | Path,
    store: str | Path | None = None,
    index: str | None = None,
    rules_rank: int | None = None,
) -> ExportedRun:
    """Write a folder that recommends like a finished run, without torch, RecBole and blair_rec (docs/export.md).

    Before the folder appears, random histories are scored by it and by the run, and compared. An earlier export is
    replaced when the new one is complete; a folder with anything else in it is not changed.

    Args:
        store: as for `load`.
        index: "faiss" adds an index of the item vectors of each part that has some.
        rules_rank: write rules between items as vectors of this rank instead of a matrix; scores are approximate.

    Raises:
        ConfigError: the run can't be exported (and why); CheckpointError, StoreError and others as `load`.
        MissingExtra: a library for it is not installed.
        OutputError: `out` is not an earlier export, or can't be written. FolderBusy: another process is writing it.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        need(library, "export", "an export")
    if index is not None:
        need("faiss", "faiss", "an index")
    run_dir, out = Path(run_dir), Path(out)
    _refuse_foreign(real_place(out))
    refuse_second_stage(run_dir)
    loaded = load_model(run_dir, store)
    approximation = None
    if rules_rank is not None:
        loaded, approximation = approximated(run_dir, loaded, rules_rank)
    loaded.model.eval()  # item sides drop numbers in training
    with whole_folder(out, "export", f"the export {out}") as partial:
        config, left_out = _write(run_dir, loaded, partial, index)
        if approximation is not None:
            config["approximation"] = {**asdict(approximation), "said": str(approximation)}
        difference = _largest_difference(loaded, partial)
        card = model_card(run_dir, config, difference, left_out)
        (partial / CARD).write_text(card, encoding="utf-8", newline="\n")
        _write_config(partial, {**config, "card_sha256": sha256_of(partial / CARD)})
        files = {name: (partial / name).stat().st_size for name in files_in(partial)}
    return ExportedRun(out, files, difference, left_out, approximation)


def refuse_second_stage(run_dir: Path) -> None:
    """Make sure that a run is no second stage.

    Raises:
        ConfigError: it is one.
    """
    path = run_dir / RESULT_FILE
    members = read_recorded(run_dir)["setup"].get("rerank") if path.is_file() else None
    if members:
        recommend = shell_line("blair-rec", "recommend", run_dir)
        raise ConfigError(
            f"{run_dir} is a second stage (rerank), which can't be exported: its trees read the scores of all members. "
            f"Recommend with `{recommend}` or blair_rec.load, or export an average of its members "
            f"({', '.join(members)})"
        )


def _write(run_dir: Path, loaded: Loaded, folder: Path, index: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write everything but the card; return the config, and the members with weight 0, which are skipped."""
    from blair_rec.serve.export.recommend import SCHEMA  # takes onnxruntime, which the package itself does without

    result = read_recorded(run_dir)
    tokens = loaded.item_tokens[1:]
    used: list[tuple[str, str, float | None, Loaded]] = []
    if isinstance(loaded.model, Ensemble):
        weights = [float(weight) for weight in loaded.model.weights]
        names = _names(result["setup"].get("runs") or result["setup"].get("average") or (), len(loaded.members))
        members = list(zip(names, weights, loaded.members, strict=True))
        used += [(name, f"{MEMBERS}/{name}", weight, member) for name, weight, member in members if weight != 0]
        average: dict[str, Any] | None = {"weights": dict(zip(names, weights, strict=True)), "z_scores": Z_SCORES}
    else:
        members, average = [], None
        used = [(str(result["variant"]), ".", None, loaded)]
    parts = []
    for name, place, weight, part in used:
        if part.members:
            raise ConfigError(f"{name} is an average inside of an average, which can't be exported; export it alone")
        (folder / place).mkdir(parents=True, exist_ok=True)
        said = write_part(part, name, folder / place, loaded.width, index)
        parts.append({"name": name, "folder": place, "weight": weight, **said})
    if index is not None and all(part["kind"] == "counted" for part in parts):
        hint = "; rules_rank (--rules-rank) writes rules as vectors, approximately" if tables_in(loaded.model) else ""
        raise ConfigError(
            f"{result['variant']} counts events and has no item vectors, so there is nothing to index{hint}"
        )
    (folder / ITEMS_FILE).write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(PROGRAM), folder / PROGRAM)
    config = {
        "schema": SCHEMA,
        "made_by": {"blair_rec": blair_rec.__version__, **{name: metadata.version(name) for name in ("torch", "onnx")}},
        "run": {
            key: result.get(key)
            for key in ("variant", "seed", "model", "items", "dataset", "control", "hashes", "store_sha256")
        },
        "items": len(tokens),
        "window": loaded.width,
        "least_length": max(part.pop("least_length") for part in parts),
        "average": average,
        "parts": parts,
        "files": {name: sha256_of(folder / name) for name in files_in(folder)},
    }
    _write_config(folder, config)
    used_names = {name for name, *_ in used}
    return config, tuple(name for name, *_ in members if name not in used_names)


def _names(names: Sequence[str], members: int) -> list[str]:
    """Return names of an average's members; "member-1" and so on if `names` are too few or repeated (several seeds)."""
    if len(names) == len(set(names)) == members:
        return list(names)
    return [f"member-{number}" for number in range(1, members + 1)]


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def _largest_difference(loaded: Loaded, folder: Path) -> float:
    """Return the largest difference between the scores of random histories by the folder and by the run.

    Raises:
        ConfigError: they differ, so the model computes more than the files do.
    """
    model, count = loaded.model, len(loaded.item_tokens) - 1
    random = np.random.default_rng(0)
    lengths = [1, 1, loaded.width, *random.integers(1, loaded.width + 1, CHECKED - 3)]
    histories = [random.integers(1, count + 1, length) for length in lengths]
    rows = torch.zeros(CHECKED, loaded.width, dtype=torch.int64)
    for row, history in zip(rows, histories, strict=True):
        row[: len(history)] = torch.from_numpy(history)
    fields = {model.ITEM_SEQ: rows, model.ITEM_SEQ_LEN: torch.tensor([len(history) for history in histories])}
    with model.shared_items():
        interaction = {name: value.to(model.device) for name, value in fields.items()}
        expected = model.full_sort_predict(interaction)[:, 1:].float().cpu().numpy().astype(np.float64)
    tokens = [[loaded.item_tokens[item] for item in history] for history in histories]
    apart = np.abs(_scores(folder, tokens) - expected).max(axis=1)
    spread = np.maximum(expected.std(axis=1), 1e-6 * np.abs(expected).max(axis=1))
    difference = float(np.divide(apart, spread, out=np.zeros_like(apart), where=apart > 0).max())
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"the run can't be exported: the exported files score random histories differently from the run, by up "
            f"to {difference:.2g} standard deviations, so its model reads more than its items' vectors"
        )
    return difference


def _scores(folder: Path, histories: list[list[str]]) -> np.ndarray:
    """Return scores [histories, items] by the folder's files. One history is scored alone, the others together.

    Raises:
        ConfigError: the files can't be run.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    from blair_rec.serve.export.recommend import ExportedModel

    failures = (
        errors.Fail,
        errors.InvalidArgument,
        errors.RuntimeException,
        errors.NotImplemented,
        errors.InvalidGraph,
    )
    try:
        exported = ExportedModel(folder)
        return np.concatenate([exported.scores(histories[:1]), exported.scores(histories[1:])])
    except failures as error:  # a graph that was written for one size fails with another
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"the run can't be exported: its ONNX file can't be run ({reason})") from error


def _refuse_foreign(folder: Path) -> None:
    """Check that `folder` may be replaced: it is missing, empty, or an unchanged export.

    Raises:
        OutputError: it is a file, or holds what an export doesn't write.
    """
    refuse_file(folder)
    # Not more than a few: the folder may be a whole disk.
    files = sorted(islice((path for path in folder.rglob("*") if not path.is_dir()), 3)) if folder.is_dir() else []
    if not files:
        return
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        ours = {CONFIG, CARD, *config["files"]}
        card = config["card_sha256"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        names = first_of([path.relative_to(folder).as_posix() for path in files])
        raise OutputError(f"{folder} holds {names} and is not an earlier export; choose another folder") from None
    refuse_loss(folder, [name for name in files_in(folder) if name not in ours])
    if (folder / CARD).is_file() and sha256_of(folder / CARD) != card:
        raise OutputError(f"{folder / CARD} was changed since it was written, and that would be lost; move it first")
