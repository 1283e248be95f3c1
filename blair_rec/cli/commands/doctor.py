"""blair-rec doctor: check the installation, the devices, the speed and the encoder, and say how to fix problems."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blair_rec.cli.terminal import Console, say
from blair_rec.config.names import ENCODER
from blair_rec.errors import BlairRecError, EncoderUnavailable, counted

if TYPE_CHECKING:
    from blair_rec.text.encoding.source import EncoderSource

# The example of BLaIR's model card: a request, two items, and the similarities given there.
REQUEST = (
    "I need a product that can scoop, measure, and rinse grains without the need for multiple utensils and dishes. "
    "It would be great if the product has measurements inside and the ability to rinse and drain all in one. I just "
    "have to be careful not to pour too much accidentally."
)
ITEMS = [
    "Talisman Designs 2-in-1 Measure Rinse & Strain | Holds up to 2 Cups | Food Strainer | Fruit Washing Basket | "
    "Strainer & Colander for Kitchen Sink | Dishwasher Safe - Dark Blue. The Measure Rinse & Strain by Talisman "
    "Designs is a 2-in-1 kitchen colander and strainer that will measure and rinse up to two cups. Great for any type "
    "of food from rice, grains, beans, fruit, vegetables, pasta and more. After measuring, fill with water and swirl "
    "to clean. Strain then pour into your pot, pan, or dish. The convenient size is easy to hold with one hand and is "
    "compact to fit into a kitchen cabinet or pantry. Dishwasher safe and food safe.",
    "FREETOO Airsoft Gloves Men Tactical Gloves for Hiking Cycling Climbing Outdoor Camping Sports (Not Support Screen "
    "Touch).",
]
SIMILARITIES = [0.8564, 0.5741]
TOLERANCE = 1e-3
PATIENCE = 15.0
"""Seconds to wait for the hub; a broken network may never answer."""
SIZE = 1024
"""Rows and columns of the matrices whose products are timed."""


class Finding(NamedTuple):
    """The result of one check."""

    state: str
    """ok, note (works, but may surprise), slow, or broken."""
    what: str
    cure: str = ""


def add(commands: Any) -> None:
    """Register the command."""
    command = commands.add_parser(
        "doctor", help="check the installation and the speed of this machine, and say how to fix problems"
    )
    command.add_argument("--encoder", default=ENCODER, help="a local folder with BLaIR, instead of the hub")
    command.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace, console: Console) -> int:
    broken = False
    for title, look in (
        ("installation", installation),
        ("devices", devices),
        ("threads and speed", speed),
        ("encoders", lambda: encoders(options.encoder)),
    ):
        say(Console(), f"{title}:", "bold")
        for finding in look():
            broken |= finding.state == "broken"
            say(Console(), f"  {finding.state:<7}{finding.what}" + f" -> {finding.cure}" * bool(finding.cure))
    return int(broken)


def installation() -> Iterator[Finding]:
    """Check versions: which required packages are missing or have another version."""
    from packaging.requirements import Requirement

    import blair_rec

    yield Finding("ok", f"blair_rec {blair_rec.__version__}, Python {platform.python_version()}, {platform.platform()}")
    lacking: dict[str, list[str]] = {}
    for line in metadata.requires("blair-rec") or ():
        requirement = Requirement(line)
        extra = _extra_of(requirement)
        if extra in ("test", "dev") or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            lacking.setdefault(extra, []).append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            state = "note" if extra else "broken"
            wanted = f"{requirement.name}{requirement.specifier}"
            found = f"{requirement.name} {version} is installed"
            if requirement.name == "ray":
                found = f"ray {version} is too old for --ray-workers, which is its only use here"
            yield Finding(state, found, f"pip install '{wanted}'")
    for extra, names in sorted(lacking.items()):
        wanted = f"pip install 'blair-rec[{extra}]'" if extra else f"pip install {' '.join(names)}"
        state, why = ("note", f"the extra {extra} is not installed") if extra else ("broken", "required, but missing")
        yield Finding(state, f"{', '.join(names)}: {why}", wanted)
    versions = (f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "recbole") if _is_there(name))
    yield Finding("ok", ", ".join(versions))


def _extra_of(requirement: Any) -> str:
    """The extra that a requirement belongs to; "" if it is always required."""
    _, found, behind = str(requirement.marker or "").partition("extra ==")
    return behind.strip().strip("\"'").split('"')[0].split("'")[0] if found else ""


def _is_there(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def devices() -> Iterator[Finding]:
    """Check which GPUs PyTorch sees, or why it sees none."""
    import torch

    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        yield Finding("ok", f"cuda:{number}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("note", "mps: an Apple GPU; encoders run there with --device mps, training runs on the CPU")
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return
    if torch.version.cuda:
        yield Finding(
            "slow", f"PyTorch is built for CUDA {torch.version.cuda} but sees no GPU", "install or update the driver"
        )
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "slow", "a GPU driver is installed, but this PyTorch is built only for the CPU", "pip install torch from "
            "https://download.pytorch.org/whl/cu130, or from the folder that fits the driver"
        )  # fmt: skip
    else:
        yield Finding("ok", "no GPU: everything runs on the CPU")


def speed() -> Iterator[Finding]:
    """Check processors and threads, and time matrix products in float32 and bfloat16."""
    import torch

    processors, threads = usable_processors(), torch.get_num_threads()
    said = f"PyTorch uses {counted(threads, 'thread')}, and {counted(processors, 'processor')} can be used"
    if threads > processors:
        yield Finding("slow", said, f"set OMP_NUM_THREADS={processors}: more threads only wait for each other")
    else:
        yield Finding("ok", said)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > processors:
        cure = "set OMP_NUM_THREADS=1 while it lasts" if threads > 1 else "wait for it, or stop some of it"
        yield Finding("slow", f"other work keeps the processors busy (load {load:.1f})", cure)
        yield Finding("note", "float32 and bfloat16 were not timed, because of this load", "run this again later")
        return
    rates = product_rates()
    times = rates["bfloat16"] / rates["float32"]
    said = f"{rates['float32']:.0f} GFLOP/s in float32, {times:.1f} times that in bfloat16"
    if times >= 1.3:
        yield Finding("ok", f"{said}: `dtype: bfloat16` encodes faster here, and `precision: bfloat16` trains faster")
    else:
        yield Finding("note", f"{said}: bfloat16 is not faster on this CPU", "keep dtype and precision at float32")


def usable_processors() -> int:
    """The number of processors that this process may use, limited by its affinity and its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        most, period = quota.read_text("ascii").split()
        if most != "max":
            count = min(count, max(1, int(most) // int(period)))
    return count


def product_rates() -> dict[str, float]:
    """GFLOP/s of matrix products on the CPU, by dtype: the best of five tries each, in turn."""
    import torch

    matrices = {
        dtype: torch.randn(SIZE, SIZE, device="cpu").to(getattr(torch, dtype)) for dtype in ("float32", "bfloat16")
    }
    best = dict.fromkeys(matrices, float("inf"))
    for _ in range(5):
        for dtype, matrix in matrices.items():
            begin = time.perf_counter()
            matrix @ matrix
            best[dtype] = min(best[dtype], time.perf_counter() - begin)
    return {dtype: 2 * SIZE**3 / seconds / 1e9 for dtype, seconds in best.items()}


def encoders(name: str) -> Iterator[Finding]:
    """Check that BLaIR gives the similarities of its model card, if it can be downloaded."""
    import numpy as np

    from blair_rec.text.encoding.encoder import load_encoder
    from blair_rec.text.unit import unit_rows

    try:
        source = _find(name)
        unit = unit_rows(load_encoder(source).encode([REQUEST, *ITEMS]).astype(np.float64))
    except EncoderUnavailable as error:
        yield Finding(
            "note", f"{name} was not checked: {error.why}", "let this machine reach the hub (HF_ENDPOINT names a "
            "mirror), or name a folder with its files: blair-rec doctor --encoder FOLDER"
        )  # fmt: skip
        return
    except BlairRecError as error:
        yield Finding("broken", str(error))
        return
    found = (unit[1:] @ unit[0]).tolist()
    said, card = (", ".join(f"{value:.4f}" for value in values) for values in (found, SIMILARITIES))
    if max(abs(a - b) for a, b in zip(found, SIMILARITIES, strict=True)) <= TOLERANCE:
        yield Finding("ok", f"{source.name} gives the similarities of BLaIR's model card: {said}")
    else:
        yield Finding(
            "broken", f"{source.name} (revision {source.revision}) gives {said}, but BLaIR's model card says {card}",
            "use BLaIR's own weights (hyp1231/blair-roberta-base), or download them again"
        )  # fmt: skip


def _find(name: str) -> EncoderSource:
    """Find BLaIR in a folder, in the hub's cache, or on the hub, which has to answer soon."""
    from blair_rec.text.encoding.source import cached_folder, resolve_encoder, why_unreachable

    if Path(name).is_dir():
        return resolve_encoder(name, pooling="cls")
    if (folder := cached_folder(name)) is not None:
        return dataclasses.replace(resolve_encoder(str(folder), pooling="cls"), name=name)
    if why := within(PATIENCE, lambda: why_unreachable(name)):
        raise EncoderUnavailable(name, why)
    return resolve_encoder(name, pooling="cls")


def within(seconds: float, ask: Callable[[], str]) -> str:
    """The answer, or a message that none came in time.

    Looking up a host's address has no time limit. So a thread does it, and is abandoned if it takes too long.
    """
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"the hub did not answer within {seconds:g} s"
