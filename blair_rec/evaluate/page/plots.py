"""Charts of the page as inline SVG, drawn by Matplotlib and coloured by the page's style sheet."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from blair_rec.evaluate.page.cards import ItemMap
from blair_rec.evaluate.page.curves import Curve
from blair_rec.evaluate.page.gains import Gain

WIDTH = 360
"""In points: a phone shows one chart at full size, a desktop screen three side by side."""
# Matplotlib needs fixed colours, the page a light and a dark set: these are placeholders for variables of page.css.
INK, MUTED, GRID, PAPER, ACCENT, BASELINE, BETTER, WORSE = (f"#0{place}0{place}0{place}" for place in range(1, 9))
SERIES = tuple(f"#0a0a0{place}" for place in range(7))
VARIABLES = {
    **{INK: "ink", MUTED: "muted", GRID: "rule", PAPER: "paper", ACCENT: "accent"},
    **{BASELINE: "baseline", BETTER: "better", WORSE: "worse"},
    **{colour: f"series-{place}" for place, colour in enumerate(SERIES)},
}
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
# Okabe and Ito's palette, which colour-blind readers can distinguish, in tones visible on white and on black.
MAP_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "blair_rec",  # the same chart gives the same file
    "text.parse_math": False,  # a dollar sign in a name starts no formula
    "font.size": 11,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **{"text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": GRID, "axes.labelsize": 11},
    **{"xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED},
    **{"axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True},
    **{"legend.frameon": False, "legend.fontsize": 11},
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


@rc_context(STYLE)
def interval_plot(gains: Sequence[Gain], label: str, percent: bool) -> str:
    """One row per gain: the difference, its interval over users (thick), and over seeds and users (thin).

    Groups of gains are separated by a gap.
    """
    groups = list(dict.fromkeys(gain.group for gain in gains))
    rows = [-place - 0.5 * groups.index(gain.group) for place, gain in enumerate(gains)]
    labels = [_short(gain.label) for gain in gains]
    figure = _figure(36 + 24 * (1 - min(rows, default=0)), left=10 + 6.6 * max(map(len, labels), default=0))
    axes = figure.add_subplot()
    for row, gain in zip(rows, gains, strict=True):
        _interval(axes, row, gain)
    axes.axvline(0, color=BASELINE, linewidth=1.2, zorder=1)
    axes.set_yticks(rows, labels)
    axes.set_ylim(min(rows, default=0) - 0.6, 0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    _wide_enough(axes, gains)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(_percentage if percent else _signed))
    return _inline(figure, label)


@rc_context(STYLE)
def curve_plot(curves: Sequence[Curve], baseline: Sequence[Curve], metric: str, label: str) -> str:
    """The curves of one variant and of the baseline: the validation metric above, the loss below."""
    figure = _figure(270, left=62, bottom=38)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for colour, runs in ((BASELINE, baseline), (ACCENT, curves)):
        for curve in runs:
            above.plot(curve.epochs, curve.values, color=colour, linewidth=1.3, alpha=0.85)
            best = [value for epoch, value in zip(curve.epochs, curve.values, strict=True) if epoch == curve.best_epoch]
            above.plot([curve.best_epoch] * len(best), best, "o", color=colour, markersize=4)
            epochs = range(1, len(curve.losses) + 1)
            below.plot(epochs, curve.losses, color=colour, linewidth=1.3, alpha=0.85)
    above.set_ylabel(metric)
    below.set_ylabel("loss")
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in (above, below):
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_label_coords(-0.17, 0.5)
        axes.grid(axis="x", visible=False)
    return _inline(figure, label)


@rc_context(STYLE)
def time_plot(curves: Mapping[str, Sequence[Curve]], baseline: str, label: str) -> str:
    """The best validation metric so far by seconds of training: one line per run, one colour per variant."""
    variants = list(curves)
    legend = 17 * ((len(variants) + 1) // 2) + 6
    figure = _figure(250 + legend, left=46, bottom=40 + legend)
    axes = figure.add_subplot()
    others = [variant for variant in variants if variant != baseline]
    handles = []
    for variant in variants:
        colour, dashes = BASELINE, DASHES[0]
        if variant != baseline:
            place = others.index(variant)
            colour, dashes = SERIES[place % len(SERIES)], DASHES[place // len(SERIES) % len(DASHES)]
        line: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.3}
        for curve in curves[variant]:
            axes.step(curve.seconds, curve.best_so_far, where="post", **line)
        handles.append(Line2D([], [], label=_short(variant), **line))
    axes.set_xlabel("seconds of training and validation")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    figure.legend(handles=handles, loc="lower left", ncols=2, handlelength=2.2, labelspacing=0.35)
    return _inline(figure, label)


@rc_context(STYLE)
def map_plot(item_map: ItemMap, colours: Sequence[str], label: str) -> str:
    """A dot for each item at its position. Dots are one image inside the chart: thousands of shapes would be slow."""
    figure = _figure(300, left=22)
    axes = figure.add_subplot()
    order = np.random.default_rng(0).permutation(len(colours))  # so that no category covers another
    x, y = np.array(item_map.x)[order], np.array(item_map.y)[order]
    axes.scatter(x, y, c=np.array(colours)[order], s=5, linewidths=0, alpha=0.75, rasterized=True)
    for axis, share in zip((axes.xaxis, axes.yaxis), item_map.explained, strict=True):
        axis.set_ticks([])
        axis.set_label_text(f"{share:.1%} of the variance")
    return _inline(figure, label)


def _interval(axes: Axes, row: float, gain: Gain) -> None:
    """One row of an interval plot."""
    if gain.value is None:
        axes.text(0, row, gain.verdict, color=MUTED, va="center", ha="center", fontsize=9)
        return
    colour = {"better": BETTER, "worse": WORSE}.get(gain.verdict, MUTED)
    for interval, width in ((gain.seeds_ci95, 1.2), (gain.ci95, 4.5)):
        if interval is not None:
            axes.plot(interval, (row, row), color=colour, linewidth=width, solid_capstyle="butt", alpha=0.75)
    axes.plot(gain.value, row, "o", color=colour, markersize=6, markeredgecolor=PAPER, markeredgewidth=1.2)


def _wide_enough(axes: Axes, gains: Sequence[Gain]) -> None:
    """Set limits around all points and intervals over users; much wider intervals, over few seeds, are cut off."""
    ends = [0.0]
    for gain in gains:
        ends += [gain.value] if gain.value is not None else []
        ends += gain.ci95 or ()
    low, high = min(ends), max(ends)
    reach = (high - low) or 1.0
    whiskers = [end for gain in gains for end in gain.seeds_ci95 or () if low - reach <= end <= high + reach]
    axes.set_xlim(min(low, *whiskers, low) - 0.05 * reach, max(high, *whiskers, high) + 0.05 * reach)


def _percentage(value: float, _: int | None = None) -> str:
    return "0" if abs(value) < 1e-12 else f"{100 * value:+.3g}%".replace("-", "−")


def _signed(value: float, _: int | None = None) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}".replace("-", "−")


def _short(name: str) -> str:
    """The name, shortened in the middle if it is too long for a chart: names often differ at the end."""
    return name if len(name) <= 20 else f"{name[:9]}…{name[-10:]}"


def _figure(height: float, left: float, bottom: float = 22) -> Figure:
    """An empty figure with room for labels in its margins (points). Automatic layout would take longer than drawing."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=120)
    figure.subplots_adjust(left / WIDTH, bottom / height, 1 - 18 / WIDTH, 1 - 6 / height, hspace=0.16)
    return figure


def _inline(figure: Figure, label: str) -> str:
    """A figure as SVG inside the page, which sets its size, font and colours.

    `label` is the text for screen readers. Ids get a prefix, because Matplotlib uses the same ones in every chart.
    """
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    prefix = f"c{zlib.crc32(svg):08x}-"
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}]:
            parent.remove(child)
    used = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", svg.decode()))
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                del element.attrib[key]
                if value in used:
                    element.set("id", prefix + value)
            elif key == f"{{{XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{prefix}{value[1:]}")
            elif key == "clip-path":
                element.set(key, value.replace("#", f"#{prefix}"))
            elif key == "style":
                element.set(key, _style(value))
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _style(style: str) -> str:
    """The style with variables in place of placeholder colours, and without a font, which the page sets."""
    style = re.sub(r"font-family: [^;]*;? ?", "", style)
    return re.sub(r"#0[0-9a-f]{5}", lambda colour: _variable(colour.group()), style)


def _variable(colour: str) -> str:
    return f"var(--{VARIABLES[colour]})" if colour in VARIABLES else colour
