"""Write the record of a board with foreign systems: benchmarks/results/foreign-DATASET.{json,md}.

    python benchmarks/foreign/record_page.py FOLDER
    python benchmarks/foreign/record_page.py benchmarks/results/foreign-Beauty.json    # only its page

FOLDER holds lists/ (run_systems.py) and board/ (`blair-rec compare board.yaml -o board`).
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from course import LAST

RESULTS = Path(__file__).parents[1] / "results"
ENDS = {"minutes": "the limit", "patience": "no new best", "epochs": "all epochs done"}
POINTS = 8
"""Points of a validation curve on the page; the JSON file has all."""


def own_record(run: Path) -> dict[str, Any] | None:
    """Return the course of one of our trained runs, in the form of a foreign record; None for one without training."""
    lines = (run / "history.jsonl").read_text("utf-8").splitlines() if (run / "history.jsonl").is_file() else []
    epochs = [json.loads(line) for line in lines]
    if not epochs:
        return None
    curve, used = [], 0.0
    for number, epoch in enumerate(epochs, start=1):
        used += (epoch["train_seconds"] + epoch.get("valid_seconds", 0)) / 60
        curve.append({"epoch": number, "valid": (epoch["valid"] or {}).get("NDCG@10"), "minutes": used})
    curve = [point for point in curve if point["valid"] is not None]
    best = max(curve, key=lambda point: point["valid"])
    planned = json.loads((run / "result.json").read_text("utf-8"))["setup"]["train"]["epochs"]
    return {
        "used_minutes": used,
        "epochs": len(epochs),
        "best": best,
        "curve": curve,
        "ended_by": "epochs" if len(epochs) == planned else "patience",
        "still_rising": len(epochs) == planned and best in curve[-LAST:],
    }


def to_page(dataset: str, board: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the page: the figures, the course of each training, and what limits the comparison."""
    metrics = board["metrics"]
    cut = [name for name, record in records.items() if record.get("still_rising")]
    limits = sorted({record["limit_minutes"] for record in records.values() if "limit_minutes" in record})
    devices = sorted({record["device"] for record in records.values() if "device" in record})
    lines = [
        f"# Other systems and ours on {dataset}",
        "",
        f"All systems got the files of `blair-rec split`, and ranked the same {board['cases']:,} test cases among "
        f"{board['candidates']:,} items. The training of another system was limited to {_one_of(limits)} minutes "
        f"({' and '.join(devices)}), validation included; ours ended by its patience or after its epochs. "
        "The weights with the best NDCG@10 on validation (history masked) were kept. "
        "Settings are those of the authors, with one seed. "
        "Minutes are those of two cores (half of the CPU time of all threads); on a GPU, and for ours, those of the "
        "clock. "
        "[other_systems.md](../../docs/other_systems.md) has the commands.",
        "",
        (
            f"**{len(cut)} of {len(records)} trainings ended while validation still rose: {', '.join(cut)}. "
            "Their figures say what a system reaches in this time, not what it can reach.**"
            if cut
            else "No training ended while validation still rose."
        ),
        "",
        "## Test",
        "",
        "| system | "
        + " | ".join(f"{metric}, {protocol}" for protocol in _protocols(board) for metric in metrics)
        + " |",
        "|---|" + "---:|" * (len(metrics) * len(_protocols(board))),
    ]
    for row in board["rows"]:
        values = [row["metrics"][protocol][metric]["mean"] for protocol in _protocols(board) for metric in metrics]
        lines.append(f"| {_label(row)} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    if made := [note for note in board["notes"] if note.startswith("weights of ")]:
        lines += ["", "Averages and second stages, with their members and the weights of these in the average:", ""]
        lines += [f"- {note.removeprefix('weights of ')}" for note in made]
    lines += [
        "",
        "## Training",
        "",
        "| system | minutes | by the clock | threads | epochs | best epoch | validation NDCG@10 | ended by "
        "| still rising | tried |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|---:|",
    ]
    for name, record in records.items():
        threads = record.get("machine", {}).get("threads", "")
        clock = f"{record.get('clock_minutes', record['used_minutes']):.1f}"
        if "best" in record:
            best, rising = record["best"], "yes" if record["still_rising"] else "no"
            course = f"{record['epochs']:.3g} | {best['epoch']:.3g} | {best['valid']:.4f} | {ENDS[record['ended_by']]}"
        else:
            rising, course = "", f" |  | {record['settings']['valid']:.4f} | no epochs"
        lines.append(
            f"| {name} | {record['used_minutes']:.1f} | {clock} | {threads} | {course} | {rising} | "
            f"{record.get('trials', '')} |"
        )
    if differences := [
        record["difference_from_stock"] for record in records.values() if "difference_from_stock" in record
    ]:
        loss, gradients = (max(values[name] for values in differences) for name in ("loss", "gradients"))
        lines += [
            "",
            "RecTools' models don't compute the logits of padded positions, which their loss ignores. "
            f"On the first batch the loss differs from that of unchanged RecTools by {loss:.0e} of it, "
            f"the gradients by {gradients:.0e} of the largest one.",
        ]
    lines += ["", "Validation NDCG@10 (epoch: figure):", ""]
    lines += [f"- {name}: {_curve(record['curve'])}" for name, record in records.items() if "curve" in record]
    return lines


def _protocols(board: Mapping[str, Any]) -> list[str]:
    """The protocol that selects, then the other one."""
    return sorted(board["rows"][0]["metrics"], key=lambda protocol: protocol != board["protocol"])


def _one_of(limits: Sequence[float]) -> str:
    return " or ".join(f"{limit:g}" for limit in limits) or "no"


def _commits(found: str | Sequence[str]) -> str:
    """The commit of all runs, or the commits of a board whose runs were made by several."""
    return found if isinstance(found, str) else "commits " + " and ".join(found)


def _label(row: Mapping[str, Any]) -> str:
    return row["model"] if row["items"] == "trained elsewhere" else row["variant"]


def _curve(curve: Sequence[Mapping[str, float]]) -> str:
    """Evenly spaced points of a curve, with the first and the last."""
    count = min(POINTS, len(curve))
    places = sorted({round(place * (len(curve) - 1) / max(count - 1, 1)) for place in range(count)})
    return ", ".join(f"{curve[place]['epoch']:.3g}: {curve[place]['valid']:.4f}" for place in places)


def read_records(folder: Path, board: Mapping[str, Any]) -> dict[str, Any]:
    """Return the records of the systems on the board, ours included, by variant."""
    records: dict[str, Any] = {}
    for row in board["rows"]:
        name = row["variant"]
        path = folder / "lists" / f"{name}.json"
        if path.is_file():
            records[name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            own = own_record(folder / "board" / "runs" / f"{name}-{row['seeds'][0]}")
            if own is not None:
                records[name] = {**own, "trials": row["trials"], "machine": {"threads": board["provenance"]["threads"]}}
    return records


def main() -> None:
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="with lists/ and board/, or a record (.json) whose page is made again"
    )
    options = parser.parse_args()
    if options.folder.suffix == ".json":
        print(write_page(options.folder))
        return
    board = json.loads((options.folder / "board" / "leaderboard.json").read_text(encoding="utf-8"))
    records = read_records(options.folder, board)
    record = {"date": datetime.date.today().isoformat(), "board": board, "trainings": records}
    path = RESULTS / f"foreign-{board['dataset']}"
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(write_page(path.with_suffix(".json")))


def write_page(path: Path) -> str:
    """Write the page of a record next to it, and return it."""
    record = json.loads(path.read_text(encoding="utf-8"))
    made = record["board"]["provenance"]
    versions = f"blair_rec {made['blair_rec']}, torch {made['torch']}"
    page = [
        *to_page(record["board"]["dataset"], record["board"], record["trainings"]),
        "",
        f"{record['date']}; {made['machine']}; {versions}; {_commits(made['git_commit'])}.",
    ]
    path.with_suffix(".md").write_text("\n".join(page) + "\n", encoding="utf-8")
    return "\n".join(page)


if __name__ == "__main__":
    main()
