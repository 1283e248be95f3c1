"""Render the record of gpu.py as a page."""

from __future__ import annotations

from typing import Any

BELOW = """\
The factor of an epoch is relative to a SASRec in plain PyTorch in the same run: every sequence is padded to the window,
scores are computed at every slot, and a step has as many targets as ours. The rows below it compute scores only at the
targets, or use 128 users per step. The factor of the softmax is relative to its three matrix products alone, in chunks
of the same size. A share of the products' rate is the rate of operations for real tokens, over the rate of bfloat16
products of the encoder's shapes.
"""
Rows = list[tuple[str, str, str]]


def exactness(parts: dict[str, Any]) -> Rows:
    """Return the rows on ranks equal to the CPU's and on resumed trainings."""
    rows: Rows = []
    if ranks := parts.get("ranks"):
        higher, lists = ranks["higher_masked"], ranks["topk_masked"]["differ"]
        text = f"{higher['differ']:,} of {ranks['cases']:,} cases differ, by {higher['by at most']} at most; "
        text += f"{lists:,} top-10 lists differ"
        rows.append(("ranks with the same weights as on the CPU", text, "equal but for rounding"))
    if resume := parts.get("resume"):
        wrong = sum(part["differ"] for part in resume.values() if isinstance(part, dict))
        rows.append(("training resumed from a checkpoint", f"{wrong:,} numbers differ", "0"))
    return rows


def speed(parts: dict[str, Any]) -> Rows:
    """Return the rows on training and ranking."""
    rows: Rows = []
    if epoch := parts.get("epoch"):
        padded = epoch["seconds"]["padded, scores at every slot"]
        for name, value in epoch["seconds"].items():
            goal = "under 0.5 s and 5x" if name == "ours, float32" else ""
            rows.append((f"an epoch of `id` ({epoch['data']}): {name}", f"{value:.3f} s, {padded / value:.1f}x", goal))
    for name, row in parts.get("softmax", {}).get("rows", {}).items():
        alone = parts["softmax"]["rows"]["products alone, " + name.rpartition(", ")[2]]["seconds"]
        size = f", {row['peak bytes'] / 2**30:.2f} GiB" if "peak bytes" in row else ""
        goal = "within 2x, under 2 GiB" if name.startswith("ours") else ""
        text = f"{1000 * row['seconds']:.0f} ms, {row['seconds'] / alone:.2f}x{size}"
        of = "softmax of {targets:,} targets over {items:,} items".format(**parts["softmax"])
        rows.append((f"{of}: {name}", text, goal))
    if ranking := parts.get("ranking"):
        size = f", {ranking['peak bytes'] / 2**30:.2f} GiB" if "peak bytes" in ranking else ""
        faster = ranking["seconds of the CPU for all users"] / ranking["seconds"]
        text = f"{ranking['seconds']:.1f} s, {faster:.0f}x the CPU with {ranking['threads']} threads{size}"
        rows.append((f"{ranking['users']:,} users, {ranking['items']:,} items, top-20", text, "10x, under 4 GiB"))
    return rows


def text_side(parts: dict[str, Any]) -> Rows:
    """Return the rows on encoding and pre-training."""
    rows: Rows = []
    for name, amount, seconds in (
        ("encoding", "operations", "seconds"),
        ("pretraining", "operations a step", "seconds a step"),
    ):
        part = parts.get(name, {})
        for way, value in part.get(seconds, {}).items():
            if way in ("tokenizer alone", "first batches, layers compiled"):
                continue
            rate = part[amount] / value
            share = rate / part["products"]["the encoder's shapes"]
            text = f"{value:.2f} s, {rate / 1e12:.0f} TFLOP/s, {share:.0%} of the products' rate"
            rows.append((f"{name} ({seconds}), {way}", text, "45%"))
    return rows


def to_markdown(record: dict[str, Any]) -> str:
    """Return the record as a page."""
    rows = [row for part in (exactness, speed, text_side) for row in part(record["parts"])]
    made = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    times: dict[str, list[str]] = {}
    for name, part in record["parts"].items():
        times.setdefault(f"{part['date']}, commit {part['git_commit']}", []).append(name)
    when = "; ".join(f"{', '.join(names)}: {time}" for time, names in times.items())
    where = f"{record['device']}, {record['cores']} cores; {made}. {when}."
    table = [f"| {' | '.join(row)} |" for row in [("what was measured", "result", "goal"), ("---",) * 3, *rows]]
    title = "# Tiny sizes, to try the script: no measurement" if record["small"] else "# On a GPU"
    return "\n".join([title, "", *table, "", BELOW, where, ""])
