"""Write the model card of an exported folder: a description, measured results, requirements and limits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blair_rec.config.comparison import load_config
from blair_rec.config.yaml.files import to_yaml
from blair_rec.errors import BlairRecError, counted
from blair_rec.evaluate.report import to_markdown
from blair_rec.evaluate.runs.recorded import read_recorded
from blair_rec.evaluate.runs.results import RunResult
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, RUNS_FOLDER
from blair_rec.experiment.board import board_of
from blair_rec.experiment.planning.still_valid import finished_runs
from blair_rec.serve.export.licence import public_name

logger = logging.getLogger("blair_rec")

CITATIONS = {
    "RecBole": "Zhao et al., RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation "
    "Algorithms, CIKM 2021",
    "SASRec": "Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018",
    "eSASRec": "Tikhonovich et al., eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion, RecSys "
    "2025",
    "GRU4Rec": "Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016; Tan et al., "
    "Improved Recurrent Neural Networks for Session-based Recommendations, DLRS 2016",
    "BERT4Rec": "Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from "
    "Transformer, CIKM 2019",
    "SequentialRules": "Ludewig and Jannach, Evaluation of Session-based Recommendation Algorithms, UMUAI 2018",
    "TextRules": "Ludewig and Jannach, Evaluation of Session-based Recommendation Algorithms, UMUAI 2018",
    "text": "Zhang et al., Are ID Embeddings Necessary? Whitening Pre-trained Text Embeddings for Effective Sequential "
    "Recommendation, ICDE 2024",
    "text_delta": "Pembek et al., Let It Go? Not Quite: Addressing Item Cold Start in Sequential Recommendations with "
    "Content-Based Initialization, RecSys 2025",
    "unisrec": "Hou et al., Towards Universal Sequence Representation Learning for Recommender Systems, KDD 2022",
    "sasrec_text": "Hou et al., Bridging Language and Items for Retrieval and Recommendation, 2024",
    "hyp1231/blair": "Hou et al., Bridging Language and Items for Retrieval and Recommendation, 2024",
}
"""By the name of a part or of its encoder; the last key is the beginning of BLaIR's names."""


def model_card(run_dir: Path, config: Mapping[str, Any], difference: float, left_out: Sequence[str]) -> str:
    """README.md in Markdown, with the front matter of a card on the Hugging Face hub.

    Args:
        config: the content of config.json.
        difference: the largest difference from the run's own scores, in standard deviations of a history's scores.
        left_out: members of an average with weight 0.
    """
    result = read_recorded(run_dir)
    run, parts = config["run"], config["parts"]
    encoders = {part["encoder"]["name"]: part["encoder"] for part in parts if part.get("encoder")}
    title = f"{run['variant']} on {run['dataset']}"
    blocks = [
        _front_matter(encoders),
        f"# {title}",
        "A sequential recommender: it reads the items that a user took, oldest first, and scores all items as the next "
        "one. Exported by blair_rec; nothing in this folder needs torch, RecBole or blair_rec.",
        f"## Parts\n\n{_parts(parts, left_out)}",
        f"## Use\n\n{_use(parts)}",
        f"## Data\n\n{_data(config, result)}",
        f"## Text encoder and licences\n\n{_licences(encoders)}{_of_teacher(result)}",
        f"## Limits\n\n{_limits(config, difference, bool(result.get('refit')))}",
        f"## Results\n\n{_results(run_dir, result)}",
        f"## Citations\n\n{_citations(parts, encoders)}",
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(encoders: Mapping[str, Any]) -> str:
    said = {
        "tags": ["recommendation", "sequential-recommendation", "onnx", "blair_rec"],
        "pipeline_tag": "other",
        "library_name": "onnx",
    }
    on_hub = [name for name in encoders if name.count("/") == 1]
    return f"---\n{to_yaml({**said, **({'base_model': on_hub} if on_hub else {})})}---"


def _parts(parts: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> str:
    lines = ["| part | scored by | items | weight | new items by their text |", "|---|---|---|---:|---|"]
    for part in parts:
        weight = "" if part["weight"] is None else f"{part['weight']:.3g}"
        takes = "yes" if part["takes_new_items"] else "no"
        lines.append(f"| {part['name']} | {part['model']} | {part['items'] or 'counted'} | {weight} | {takes} |")
    if left_out:
        lines.append(f"\nMembers of the average with weight 0 are left out: {', '.join(left_out)}.")
    return "\n".join(lines)


def _use(parts: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "```",
        "pip install numpy scipy onnxruntime",
        'python recommend.py histories.jsonl -k 10    # a line: {"user_id": 1, "item_id": ["item", ...]}',
        "```",
        'In Python: `from recommend import ExportedModel; ExportedModel(folder).recommend([["item", ...]], k=10)`.',
    ]
    if all(part["takes_new_items"] for part in parts):
        lines.append(
            "New items, by their text vectors of the same encoder and template (config.json names both): "
            "`--extra new.npy`, with their ids as a JSON list in `new.ids.json`."
        )
    return "\n".join(lines)


def _data(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    hashes = config["run"]["hashes"] or {}
    known = {key: value for key, value in hashes.items() if value}
    lines = [
        f"{config['run']['dataset']}: {counted(config['items'], 'item')}; the newest "
        f"{counted(config['window'], 'item')} of a history are read.",
        *(f"- {key} hash: `{value}`" for key, value in known.items()),
    ]
    if result.get("refit"):
        lines.append(f"- a refit: trained on {result.get('trained_on', 'all events')}")
    return "\n".join(lines)


def _licences(encoders: Mapping[str, Mapping[str, Any]]) -> str:
    if not encoders:
        return "No text encoder was used."
    lines = []
    for name, said in encoders.items():
        asked = said.get("asked_for")
        instead = f" (asked for: {asked})" if said.get("fallback", asked not in (None, name)) else ""
        read = f"pooling {said.get('pooling')}, {said.get('max_length')} tokens"
        lines.append(f"- {name}{instead}: licence {said['licence']}; {read}")
    lines.append("\nThe licence of the data and of this model is not recorded: check before you publish.")
    return "\n".join(lines)


def _of_teacher(result: Mapping[str, Any]) -> str:
    """A sentence on the text that a student's teacher used."""
    said = result.get("distill") or {}
    if not said.get("uses_text"):
        return ""
    return (
        f"\n\nThis model learned the ranking of its teacher {said['teacher']}, which used text: "
        f"{', '.join(said['uses_text'])}. Licences of the encoders there may apply."
    )


def _limits(config: Mapping[str, Any], difference: float, refit: bool) -> str:
    fixed = [part["name"] for part in config["parts"] if not part["takes_new_items"]]
    apart = f"differ from the run's own by at most {difference:.1g} of their standard deviation"
    said = f"Scores of random histories {apart}" if difference else "Scores equal the run's own on random histories"
    if "approximation" in config:
        said = str(config["approximation"]["said"]).capitalize()
    lines = [
        "- Scores compare within one history alone.",
        f"- {said}.",
        "- A user without a known item gets an error: give popular items there.",
    ]
    if fixed:
        lines.append(
            f"- Items that came after training can't be scored: {', '.join(fixed)} know items by their events."
        )
    if refit:
        lines.append("- The refit itself was never measured: the table is that of the runs it was made from.")
    else:
        lines.append("- Trained without the validation and test events that the table was measured on.")
    return "\n".join(lines)


def _results(run_dir: Path, result: Mapping[str, Any]) -> str:
    """The comparison's tables, with controls, intervals, leaks and ties; or else the run's own metrics."""
    folder = run_dir.resolve()
    if result.get("source"):  # a refit
        folder = (folder / str(result["source"][0]["run"])).resolve()
    comparison = folder.parent.parent
    try:
        if folder.parent.name == RUNS_FOLDER and (comparison / CONFIG_FILE).is_file():
            config = load_config(comparison / CONFIG_FILE)
            runs = [_without_paths(run) for run in finished_runs(config, comparison)]
            lines = to_markdown(board_of(config, runs)).splitlines()
            return "\n".join(f"##{line}" if line.startswith("#") else line for line in lines)
        why = f"{folder} is not in the folder of a comparison"
    except BlairRecError as error:
        why = str(error)
    logger.warning("the model card has no table of results: %s", why)
    lines = ["The comparison of this run was not found. The metrics on validation:\n"]
    for protocol, metrics in (result.get("valid") or {}).items():
        lines += [f"- {protocol}: {', '.join(f'{name} {value:.4f}' for name, value in metrics.items())}"]
    return "\n".join([*lines, *(f"- Note: {note}" for note in result.get("notes") or ())])


def _without_paths(run: RunResult) -> RunResult:
    """The run, without folders of this machine in the name of its encoder."""
    if run.encoder is None:
        return run
    return replace(run, encoder=replace(run.encoder, asked_for=public_name(run.encoder.asked_for)))


def _citations(parts: Sequence[Mapping[str, Any]], encoders: Mapping[str, Any]) -> str:
    names = {str(part[key]) for part in parts for key in ("model", "items")}
    cited = [CITATIONS["RecBole"]] if any(part["kind"] == "encoder" for part in parts) else []
    cited += [text for name, text in CITATIONS.items() if name in names]
    cited += [CITATIONS["hyp1231/blair"] for name in encoders if name.startswith("hyp1231/blair")]
    return "\n".join(f"- {text}" for text in dict.fromkeys(cited)) or "None."
