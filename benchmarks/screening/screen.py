"""Screen item sides: the same number of settings for each, one seed, validation only.

    python benchmarks/screening/screen.py --dataset FOLDER/Beauty --store STORE -o OUT

STORE is a store of the items' text vectors (`blair-rec encode`). Each method of METHODS has six settings. SASRec is
trained with each of them for --screen-epochs epochs, and with the best setting of each method to the end. Everything
that METHODS doesn't set comes from configs/beauty.yaml. `blair-rec tune` does the training: every setting is a variant
with one trial. It never reads the test split. The script can be stopped at any time. The same command then resumes and
repeats no finished trial. After a change of code or settings, `tune` repeats the trials that depend on it, and the
record has the last result of each.

The methods `alphafuse`, `whitenrec_plus`, `graph_components` and `frequency_gate` are item sides outside of the
package, in the modules next to this one. The script writes benchmarks/results/screening-NAME.{json,md}, where NAME is
the name of the data set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SEED = 1
REFERENCE = "text_delta"
BASE = ROOT / "configs" / "beauty.yaml"
SHARED = ("recbole", "model", "train", "evaluate")
"""Sections that are taken from BASE."""
ID_KEYS = (("train", "temperature"), ("recbole", "attn_dropout_prob"))
"""Keys that the settings of `id` change; the settings of the other methods keep those of BASE, or give their own."""


def _id(temperature: float | None, dropout: float) -> dict[str, Any]:
    return {"items": "id", "train": {"temperature": temperature}, "recbole": {"attn_dropout_prob": dropout}}


def _text_delta(temperature: float, max_delta: float) -> dict[str, Any]:
    return {
        "items": "text_delta",
        "transforms": ["center"],
        "max_delta": max_delta,
        "train": {"temperature": temperature},
    }


def _outside(items: str, temperature: float, transforms: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    return {
        "items": items,
        "transforms": list(transforms),
        "options": options,
        "train": {"temperature": temperature},
    }


METHODS: dict[str, list[dict[str, Any]]] = {
    "id": [_id(t, dropout) for t in (0.1, 0.07, None) for dropout in (0.2, 0.5)],
    "text_delta": [_text_delta(t, size) for t in (0.07, 0.1) for size in (0.5, 1.0, 2.0)],
    "alphafuse": [
        _outside("alphafuse:AlphaFuse", 0.07, null_dim=32, standardize=True),
        _outside("alphafuse:AlphaFuse", 0.07, null_dim=64, standardize=True),
        _outside("alphafuse:AlphaFuse", 0.07, null_dim=96, standardize=True),
        _outside("alphafuse:AlphaFuse", 0.1, null_dim=64, standardize=True),
        _outside("alphafuse:AlphaFuse", 0.07, null_dim=64, standardize=False),
        _outside("alphafuse:AlphaFuse", 0.07, null_dim=96, standardize=False),
    ],
    "whitenrec_plus": [
        _outside("whitenrec_plus:WhitenRecPlus", t, groups=groups) for t in (0.07, 0.1) for groups in (4, 8, 32)
    ],
    "graph_components": [
        _outside("graph_components:GraphComponents", t, graph_weight=weight, max_delta=1.0)
        for t in (0.07, 0.1)
        for weight in (0.8, 1.1, 1.5)  # on Beauty 78%, 59% and 24% of the text's variance are left; plain PCA: 85%
    ],
    "frequency_gate": [
        _outside("frequency_gate:FrequencyGate", t, [transform], gate=gate, slope=slope)
        for t in (0.07, 0.1)
        for transform, gate, slope in (
            ("whiten", "scalar", 0.0),
            ("whiten", "dimension", 1.0),
            ("center", "dimension", 1.0),
        )
    ],
}
"""The settings of each method: keys of a variant. The first of `id` are the settings of BASE."""


def comparison(
    dataset: str, store: str, variants: Mapping[str, Mapping[str, Any]], baseline: str, epochs: int, changed: Path
) -> dict[str, Any]:
    """Return a comparison for `tune` with one trial of each variant.

    The settings of the baseline become those of all variants, because `tune` wants a baseline without its own settings;
    so every other variant says what it has for the keys that `id` changes.

    Args:
        dataset: the folder of the data set.
        store: the folder of the store.
        variants: keys of each variant, by name.
        baseline: one of them, with `items: id`.
        epochs: the last epoch.
        changed: a file in the form of BASE.
    """
    base = yaml.safe_load(changed.read_text("utf-8"))
    shared: dict[str, Any] = {name: base[name] for name in SHARED}
    usual = {section: {key: shared[section].get(key) for of, key in ID_KEYS if of == section} for section, _ in ID_KEYS}
    full = {}
    for name, variant in variants.items():
        own = {section: {**usual[section], **variant.get(section, {})} for section in usual}
        full[name] = {**variant, **own}
    for section in usual:
        shared[section] = {**shared[section], **full[baseline].pop(section)}
    shared["train"]["epochs"] = epochs
    learning_rate = shared["train"].get("learning_rate", 0.001)
    return {
        "dataset": str(Path(dataset).resolve()),
        "text": {"missing_text": "mean", "store": str(Path(store).resolve())},
        **shared,
        "variants": full,
        "baseline": baseline,
        "seeds": [SEED],
        "tune": {"space": {"train.learning_rate": [learning_rate]}, "budget": 1, "seed": SEED},
    }


def name_of(method: str, number: int) -> str:
    """Return the name of a setting, such as alphafuse_3; settings count from 1."""
    return f"{method}_{number}"


def tried(plan: Mapping[str, Any], file: Path, folder: Path) -> dict[str, Any]:
    """Run `tune` over a comparison, which is written to `file`; return the trial of each variant, by name."""
    from blair_rec.experiment.tune import tune
    from blair_rec.experiment.tuning.trials import TRIALS_FILE, read_trials

    file.write_text(yaml.safe_dump(dict(plan), sort_keys=False), encoding="utf-8")
    tune(
        file,
        folder,
        on_trial=lambda trial: print(f"{trial.variant}: {trial.value:.4f}, {trial.seconds:.0f} s", flush=True),
    )
    epochs = plan["train"]["epochs"]
    return {trial.variant: trial for trial in read_trials(folder / TRIALS_FILE) if trial.epochs == epochs}


def screen(
    dataset: str, store: str, out: Path, screen_epochs: int, epochs: int, base: Path
) -> dict[str, dict[str, Any]]:
    """Try all settings, and train with the best of each method to the end; return the results by method.

    The best setting is the one with the highest value on validation; among equal ones it is the first.
    """
    settings = {name_of(method, n): one for method, all_of in METHODS.items() for n, one in enumerate(all_of, 1)}
    plan = comparison(dataset, store, settings, name_of("id", 1), screen_epochs, base)
    first = tried(plan, out / "screen.yaml", out / "screen")
    best = {}
    for method, all_of in METHODS.items():
        values = {number: first[name_of(method, number)].value for number in range(1, len(all_of) + 1)}
        best[method] = max(values, key=values.__getitem__)
    chosen = {method: settings[name_of(method, number)] for method, number in best.items()}
    last = tried(comparison(dataset, store, chosen, "id", epochs, base), out / "final.yaml", out / "final")
    return {
        method: {
            "settings": [
                {"settings": one, **measured(first[name_of(method, number)])} for number, one in enumerate(all_of, 1)
            ],
            "best": best[method],
            "trained_to_the_end": measured(last[method]),
        }
        for method, all_of in METHODS.items()
    }


def measured(trial: Any) -> dict[str, Any]:
    """Return what a record keeps of a trial."""
    return {"valid": trial.value, "best_epoch": trial.best_epoch, "seconds": trial.seconds}


def in_words(settings: Mapping[str, Any]) -> str:
    """Return the settings of a variant on one line, without the item side."""
    said = {**settings.get("train", {}), **settings.get("recbole", {}), **settings.get("options", {})}
    said |= {key: settings[key] for key in ("max_delta",) if key in settings}
    words = [f"{key} {'none' if value is None else value}" for key, value in said.items()]
    return ", ".join([*words, *settings.get("transforms", ())])


def to_page(dataset: str, found: Mapping[str, Mapping[str, Any]], screen_epochs: int, metric: str) -> list[str]:
    """Return the lines of the page."""
    reference = found[REFERENCE]["trained_to_the_end"]["valid"]
    lines = [
        f"# Screening of item sides on {dataset}",
        "",
        f"{metric} on validation cases; the test split was not read. Each method had the same number of settings, each "
        f"trained for {screen_epochs} epochs at most; the best of them was then trained to the end. There is one seed "
        f"({SEED}) and no test of significance, so small differences say nothing.",
        "",
        f"| method | best setting | after {screen_epochs} epochs | trained to the end | vs {REFERENCE} | best epoch | "
        "seconds |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method, of in sorted(found.items(), key=lambda pair: -pair[1]["trained_to_the_end"]["valid"]):
        chosen, end = of["settings"][of["best"] - 1], of["trained_to_the_end"]
        change = f"{end['valid'] / reference - 1:+.1%}" if reference and method != REFERENCE else "-"
        lines.append(
            f"| {method} | {in_words(chosen['settings'])} | {chosen['valid']:.4f} | {end['valid']:.4f} | {change} | "
            f"{end['best_epoch']} | {end['seconds']:,.0f} |"
        )
    lines += ["", "## All settings", "", f"| method | setting | {metric} | best epoch | seconds |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    for method, of in found.items():
        lines += [
            f"| {method} | {in_words(one['settings'])} | {one['valid']:.4f} | {one['best_epoch']} | "
            f"{one['seconds']:,.0f} |"
            for one in of["settings"]
        ]
    return lines


def with_changes(out: Path, changed: Sequence[str]) -> Path:
    """Return BASE, or a copy in OUT with changed keys."""
    if not changed:
        return BASE
    from blair_rec.config.yaml.files import load_yaml

    path = out / "base.yaml"
    path.write_text(yaml.safe_dump(load_yaml(BASE, changed), sort_keys=False), encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Screen, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder of the data set")
    parser.add_argument("--store", required=True, help="folder of a store of its items' text vectors")
    parser.add_argument("-o", "--out", required=True, type=Path, help="folder for trials; the same one to go on")
    parser.add_argument("--screen-epochs", type=int, default=6, help="epochs of each setting (default: 6)")
    parser.add_argument("--epochs", type=int, default=50, help="epochs of the best settings at most (default: 50)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the config")
    options = parser.parse_args(arguments)
    here = Path(__file__).resolve().parent
    sys.path[:0] = [place for place in (str(here), str(here.parent)) if place not in sys.path]
    from side_by_side import write_record

    options.out.mkdir(parents=True, exist_ok=True)
    base = with_changes(options.out, options.set)
    found = screen(options.dataset, options.store, options.out, options.screen_epochs, options.epochs, base)
    name, read = Path(options.dataset).resolve().name, yaml.safe_load(base.read_text("utf-8"))
    metric = f"{read['evaluate']['metrics'][0]} ({read['evaluate']['protocol']})"
    settings = {
        **{section: read[section] for section in SHARED},
        "seed": SEED,
        "screen_epochs": options.screen_epochs,
        "epochs": options.epochs,
        "metric": metric,
    }
    write_record(f"screening-{name}", settings, found, to_page(name, found, options.screen_epochs, metric))


if __name__ == "__main__":
    main()
