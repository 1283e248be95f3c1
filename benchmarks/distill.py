"""Can one model learn the ranking of an average? Validation only; the test split is never scored.

    python benchmarks/distill.py --comparison RUNS -o OUT [--dataset DIR] [--teachers all,untrained]
        [--student text_delta] [--seed 1] [--top 100] [--rung 6] [--name NAME] [--set KEY=VALUE]

`distill` of a variant does the same in a comparison (docs/distill.md); this measures how its settings were chosen.
RUNS is the folder of a comparison with finished runs of the teachers' members. A teacher is one of its averages. Its
weights are those of its finished run, or they are chosen on validation here, as `compare` does. Its `--top` best items
at every training position come from the members' finished runs; rules are counted without the user of the position.

The student is a trained variant of the comparison with a full softmax. It learns from
(1 - a) * cross entropy of the next item + a * cross entropy of the softmax of the teacher's list over a temperature T.
The scores of a list are standardised before. Each a and T is trained for `--rung` epochs. The best on validation is
trained to the end, as is the student without a teacher (a = 0), unless its run is finished. All students are compared
with the first teacher named. Everything that is finished in OUT is used again. Written to
benchmarks/results/distill-NAME.{json,md}, where NAME is the data set unless it is given.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from side_by_side import write_record

PARTS, TEMPERATURES = (0.5, 0.9), (1.0, 2.0)
"""The trials: the teacher's part of the loss, and the temperature of its lists."""
ENOUGH = 0.95
"""The share of the first teacher's metric from which on one model would do."""


class Bench:
    """A comparison's data, the settings of the student, and the folder of the trials."""

    def __init__(self, options: argparse.Namespace) -> None:
        from blair_rec.config.comparison import load_config
        from blair_rec.experiment.compare import encode_stores, planned
        from blair_rec.experiment.item_vectors import item_vectors
        from blair_rec.experiment.listener import Listener
        from blair_rec.experiment.planning.data_files import data_folder
        from blair_rec.experiment.planning.plan import run_setup
        from blair_rec.experiment.splits.reading import training_data

        given = [f"dataset={options.dataset}"] if options.dataset else []
        self.comparison, self.out, self.rung, self.top = options.comparison, options.out, options.rung, options.top
        self.config = load_config(self.comparison / "config.yaml", [*given, *options.set])
        self.student, self.seed = options.student, options.seed
        if self.student not in self.config.variants or not self.config.variants[self.student].is_trained:
            sys.exit(f"{self.student} is not a trained variant of {self.comparison}")
        self.variant = self.config.variants[self.student]
        self.metric, self.protocol = self.config.evaluate.metrics[0], self.config.evaluate.protocol
        self.data = training_data(self.config, data_folder(self.config.dataset))
        if self.data.train.log is None:
            sys.exit("the data set has files for each split; this benchmark needs one .inter file with all events")
        self.setup = run_setup(self.config, self.student, self.seed)
        encodings = planned(self.config, self.comparison, [self.student]).encodings
        store = encode_stores(encodings, Listener()).get(self.student)
        missing = self.config.text_of(self.variant).missing_text
        self.vectors = None if store is None else item_vectors(store, self.data.item_tokens, missing)

    def run_folder(self, name: str) -> Path:
        """Return the folder of a variant's run."""
        from blair_rec.evaluate.runs.run_files import RUNS_FOLDER
        from blair_rec.experiment.planning.plan import run_names

        (run,) = run_names(self.config, [name], [self.seed])
        return Path(self.comparison / RUNS_FOLDER / run)

    def finished(self, name: str) -> Any:
        """Return the result of a finished run, without its test ranks; None if it is not finished."""
        from blair_rec.evaluate.runs.recorded import result_of
        from blair_rec.evaluate.runs.run_files import RESULT_FILE, read_json

        folder = self.run_folder(name)
        return result_of(folder, read_json(folder, RESULT_FILE)) if (folder / RESULT_FILE).is_file() else None

    def value_of(self, model: Any) -> float:
        """Return the metric on validation."""
        from blair_rec.experiment.fit import measured
        from blair_rec.ranking.scoring import rank

        ranks = rank(model, self.data.valid, self.config.evaluate.batch_size)
        return measured(self.config, ranks, self.protocol)[self.metric]

    def train(self, name: str, part: float, temperature: float, lists: Any, until: int | None = None) -> Any:
        """Train the student, or resume its training, up to an epoch; return a loop.Trained."""
        from blair_rec.border.settings import recbole_config
        from blair_rec.evaluate.runs.run_files import EpochRecord
        from blair_rec.experiment.fit import model_settings
        from blair_rec.models.text_models import model_class
        from blair_rec.training.distillation import Distilled, Teaching
        from blair_rec.training.epochs import build_training
        from blair_rec.training.loop import fit

        split, train = copy.copy(self.data.train), self.config.train_of(self.variant)
        split.item_vectors = self.vectors
        settings = {**model_settings(self.setup), "train_batch_size": train.batch_size}
        cls = model_class(self.setup["model"])
        recbole = recbole_config(cls, self.data.folder, {**settings, "device": self.config.computed_on})
        model, steps = build_training(cls, recbole, split, self.data.sequences, train, self.seed)
        if part:
            width = recbole["MAX_ITEM_LIST_LENGTH"]
            teaching = Teaching(lists, part, temperature)
            steps = Distilled(model, self.data.sequences, width, train, self.seed, teaching)

        def said(epoch: EpochRecord) -> None:
            value = "" if epoch.valid is None else f"{epoch.valid[self.metric]:.4f}"
            seconds = f"{epoch.train_seconds:.0f} + {epoch.valid_seconds:.0f} s"
            print(f"{name}: epoch {epoch.epoch}, loss {epoch.loss:.4f}, {value}, {seconds}", flush=True)

        (self.out / name).mkdir(parents=True, exist_ok=True)
        checkpoint = self.out / name / "checkpoint.safetensors"
        return fit(
            model,
            steps,
            lambda: {self.metric: self.value_of(model)},
            self.metric,
            train,
            on_epoch=said,
            checkpoint=checkpoint,
            until=until,
        )


def plain(bench: Bench) -> dict[str, Any]:
    """Return the row of the student without a teacher: of its finished run, or trained here."""
    from blair_rec.evaluate.runs.run_files import CURVE_FILE
    from blair_rec.experiment.provenance import hash_of

    result, folder = bench.finished(bench.student), bench.run_folder(bench.student)
    if result is None:
        fresh(bench.out / "plain", {"student": bench.setup})
        return {**row_of(bench, bench.train("plain", 0, 1, None)), "finished_run": False}
    if result.hashes["config"] != hash_of(bench.setup):
        sys.exit(f"{folder} has other settings than this comparison; leave out --set, or choose another --student")
    curve = [json.loads(line) for line in (folder / CURVE_FILE).read_text("utf-8").splitlines()]
    return {**to_row(bench, curve), "finished_run": True}


def row_of(bench: Bench, trained: Any, until: int | None = None) -> dict[str, Any]:
    """Return a row of the record about a training, or about its epochs up to `until`."""
    return to_row(bench, [dataclasses.asdict(line) for line in trained.history[:until]])


def to_row(bench: Bench, curve: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the best value of a curve and its epoch, the best up to the rung, the number of epochs, and seconds."""
    measured = [(line["valid"][bench.metric], line["epoch"]) for line in curve if line["valid"]]
    value, epoch = max(measured, key=lambda pair: pair[0])
    return {
        "value": value,
        "best_epoch": epoch,
        "value_at_rung": max((value for value, epoch in measured if epoch <= bench.rung), default=0.0),
        "epochs": len(curve),
        "seconds": sum(line["train_seconds"] + line["valid_seconds"] for line in curve),
    }


def fresh(folder: Path, made_of: dict[str, Any]) -> None:
    """Keep in a folder what its files are made of; exit if they were made of something else."""
    file, text = folder / "made_of.json", json.dumps(made_of, indent=1, sort_keys=True)
    if file.is_file() and file.read_text("utf-8") != text:
        sys.exit(f"{folder} was made with other settings or members; give another folder to -o, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def teach(bench: Bench, name: str) -> dict[str, Any]:
    """Make the lists of a teacher, train the students, and return the teacher's part of the record."""
    members = list(bench.config.variants[name].average)
    hashes = {member: bench.finished(member).hashes for member in members}
    fresh(bench.out / name, {"members": hashes, "student": bench.setup, "top": bench.top})
    teacher, lists = taught(bench, name, members)
    print(f"{name}: {teacher}", flush=True)
    trials = []
    for part in PARTS:
        for temperature in TEMPERATURES:
            trained = bench.train(f"{name}/a{part:g}-T{temperature:g}", part, temperature, lists, bench.rung)
            trials.append({"a": part, "T": temperature, **row_of(bench, trained, bench.rung)})
    chosen = max(trials, key=lambda trial: trial["value_at_rung"])
    at = chosen["a"], chosen["T"]
    student = row_of(bench, bench.train(f"{name}/a{at[0]:g}-T{at[1]:g}", *at, lists))
    return {**teacher, "trials": trials, "student": {"a": at[0], "T": at[1], **student}}


def taught(bench: Bench, name: str, members: list[str]) -> tuple[dict[str, Any], Any]:
    """Return what the record says of a teacher, and its lists; both are kept in the teacher's folder."""
    from blair_rec.evaluate.metrics import metric_values
    from blair_rec.experiment.loading import load_model
    from blair_rec.experiment.members.average import selects_on
    from blair_rec.ranking.ensemble import Ensemble, choose_weights
    from blair_rec.ranking.teacher import taught_lists
    from blair_rec.training.distillation import TaughtLists

    says, kept = bench.out / name / "teacher.json", bench.out / name / "lists.safetensors"
    if says.is_file() and kept.is_file():
        n_items = len(bench.data.item_tokens)
        shape = bench.data.sequences.n_targets, min(bench.top, n_items - 1)
        if (found := TaughtLists.load(kept, shape, n_items)) is not None:
            return json.loads(says.read_text("utf-8")), found
    begin, masked, device = time.perf_counter(), bench.protocol == "masked", bench.config.computed_on
    loaded = [load_model(bench.run_folder(one), dataset=bench.data.train, device=device) for one in members]
    ensemble: Any = Ensemble([one.model for one in loaded])
    if bench.finished(name) is not None:
        ensemble = load_model(bench.run_folder(name), dataset=bench.data.train, device=device).model
    elif bench.config.variants[name].weights != "equal":
        weights, _ = choose_weights(
            ensemble,
            bench.data.valid,
            selects_on(bench.config, bench.config.variants[name]) == "masked",
            lambda *ranks: metric_values([bench.metric], *ranks)[bench.metric],
            bench.config.evaluate.batch_size,
        )
        ensemble = Ensemble(ensemble.members, weights)
    value, chosen = bench.value_of(ensemble), time.perf_counter()
    lists = taught_lists(ensemble, bench.data.sequences, min(one.width for one in loaded), masked, bench.top)
    lists.save(kept)
    teacher = {
        "members": members,
        "trained_members": [one for one in members if bench.config.variants[one].is_trained],
        "weights": dict(zip(members, ensemble.weights.tolist(), strict=True)),
        "value": value,
        "ndcg_at_training_positions": lists.ndcg,
        "positions": len(lists.items),
        "seconds_for_weights": chosen - begin,
        "seconds_for_lists": time.perf_counter() - chosen,
    }
    says.write_text(json.dumps(teacher, indent=1), "utf-8")
    return teacher, lists


def to_page(dataset: str, settings: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Return the record as lines of Markdown."""
    student, metric, base = settings["student"], settings["metric"], record["plain"]
    first = settings["first_teacher"]
    page = [
        f"# {dataset}: one model that learns the ranking of an average",
        "",
        f"{metric} ({settings['protocol']}) on validation; the test split was not scored. The student is "
        f"`{student}`, seed {settings['seed']}. Loss: (1 - a) * cross entropy of the next item + a * cross entropy of "
        f"the softmax over T of the teacher's best {settings['top']} items, whose scores are standardised in each "
        f"list. Each a and T was trained for {settings['rung']} epochs, the best one to the end.",
        "",
        f"| model | validation | share of `{first}` | best epoch | seconds |",
        "|---|---:|---:|---:|---:|",
        f"| `{student}` without a teacher | {base['value']:.4f} | {base['share']:.1%} | {base['best_epoch']} | "
        f"{base['seconds']:.0f} |",
    ]
    for name, teacher in record["teachers"].items():
        row, made = teacher["student"], teacher["seconds_for_weights"] + teacher["seconds_for_lists"]
        page += [
            f"| teacher `{name}` | {teacher['value']:.4f} | | | {made:.0f} for weights and lists |",
            f"| `{student}` taught by `{name}`, a {row['a']:g}, T {row['T']:g} | {row['value']:.4f} | "
            f"{row['share']:.1%} | {row['best_epoch']} | {row['seconds']:.0f} |",
        ]
    reached = [name for name, teacher in record["teachers"].items() if teacher["student"]["share"] >= ENOUGH]
    said = f"reached by the student of {', '.join(reached)}" if reached else "not reached by a taught student"
    page += ["", f"{ENOUGH:.0%} of `{first}`: {said}.", ""]
    for name, teacher in record["teachers"].items():
        weights = ", ".join(f"{member} {weight:.2f}" for member, weight in teacher["weights"].items())
        text = (
            f"Teacher `{name}`: {weights}. At the {teacher['positions']:,} training positions, with rules counted "
            f"without the user, its NDCG@10 is {teacher['ndcg_at_training_positions']:.4f}."
        )
        if teacher["trained_members"]:
            text += f" {', '.join(teacher['trained_members'])} was itself trained on these positions."
        page += [text, ""]
    page += ["| teacher | a | T | validation after the rung | seconds |", "|---|---:|---:|---:|---:|"]
    page.append(f"| none | 0 | | {base['value_at_rung']:.4f} | |")
    for name, teacher in record["teachers"].items():
        page += [
            f"| `{name}` | {trial['a']:g} | {trial['T']:g} | {trial['value_at_rung']:.4f} | {trial['seconds']:.0f} |"
            for trial in teacher["trials"]
        ]
    return page


def main(arguments: list[str] | None = None) -> None:
    """Train what is not finished and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparison", type=Path, required=True, help="the folder of a comparison")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder of lists and checkpoints")
    parser.add_argument("--dataset", help="the folder of the data set, if it was moved")
    parser.add_argument("--teachers", default="all,untrained", help="averages of the comparison, separated by commas")
    parser.add_argument("--student", default="text_delta", help="a trained variant of the comparison")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--top", type=int, default=100, help="items in a teacher's list")
    parser.add_argument("--rung", type=int, default=6, help="epochs after which the best trial is chosen")
    parser.add_argument("--name", help="part of the record's file name; default: the data set")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the config")
    options = parser.parse_args(arguments)
    if not (options.comparison / "config.yaml").is_file():
        sys.exit(f"{options.comparison} is not the folder of a comparison")
    bench = Bench(options)
    teachers = options.teachers.split(",")
    for name in teachers:
        variant = bench.config.variants.get(name)
        if variant is None or not variant.average:
            sys.exit(f"{name} is not an average of {options.comparison}")
        if missing := [member for member in variant.average if bench.finished(member) is None]:
            sys.exit(f"{name}: not finished with seed {options.seed}: {', '.join(missing)}")
    settings = {name: getattr(bench, name) for name in ("student", "seed", "metric", "protocol", "top", "rung")}
    settings |= {"first_teacher": teachers[0], "parts": PARTS, "temperatures": TEMPERATURES, "changed": options.set}
    record: dict[str, Any] = {"plain": plain(bench), "teachers": {}}
    dataset = Path(bench.config.dataset).name
    for name in teachers:
        record["teachers"][name] = teach(bench, name)
        goal = record["teachers"][teachers[0]]["value"]
        for row in (record["plain"], *(teacher["student"] for teacher in record["teachers"].values())):
            row["share"] = row["value"] / goal
        write_record(f"distill-{options.name or dataset}", settings, record, to_page(dataset, settings, record))


if __name__ == "__main__":
    main()
