"""The provenance of results: versions, commit, machine, and hashes of inputs and code."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import blair_rec
from blair_rec.evaluate.runs.recorded import hash_of

try:
    import resource
except ImportError:  # missing on Windows
    resource = None  # type: ignore[assignment]

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of our sources."""
PACKAGES = ("recbole", "torch", "numpy", "scipy", "pandas", "transformers")
BESIDE_RUNS = (
    # The command line, users of finished runs, and makers of data sets and encoders, which have their own hashes.
    "cli/",
    "serve/",
    "testing/",
    "prepare/",
    "pretrain/",
    # Evaluation of finished runs and its output.
    "evaluate/__init__.py",
    "evaluate/across.py",
    "evaluate/agreement.py",
    "evaluate/answer.py",
    "evaluate/caption.py",
    "evaluate/cells.py",
    "evaluate/formats/",
    "evaluate/leaderboard.py",
    "evaluate/notes.py",
    "evaluate/page/",
    "evaluate/report.py",
    "evaluate/runs/",
    "evaluate/significance.py",
    "evaluate/slices.py",
    # Search, and import and export of stores.
    "text/search/",
    "text/store/exchange.py",
    # The schema for editors and documentation.
    "config/schema.py",
    # Planning, files, error messages. The settings that tuning chose are in the config.
    "__init__.py",
    "deprecation.py",
    "errors.py",
    "extras.py",
    "files/",
    "experiment/audit/",
    "experiment/planning/locks.py",
    "experiment/planning/still_valid.py",
    "experiment/planning/shards.py",
    "experiment/board.py",
    "experiment/compare.py",
    "experiment/elsewhere/verify.py",
    "experiment/elsewhere/written/",
    "experiment/item_cards.py",
    "experiment/splits/leakage.py",
    "experiment/listener.py",
    "experiment/provenance.py",
    "experiment/tuning/",
    "experiment/planning/own_config.py",
    "experiment/planning/subset.py",
    "experiment/tune.py",
    # Refits, which are not ranked.
    "data/whole.py",
    # Audits, which rank nothing that is trained.
    "data/shuffled.py",
)
"""Modules and packages that don't affect the numbers of a run. All others count, so that a new or moved one can't be
forgotten."""
TEXT_SIDE = "text/"
"""The code that makes text vectors: runs without text don't depend on it."""


def provenance(threads: int, device: str | None = None) -> dict[str, str | int | None]:
    """Versions, commit and machine, for result.json; `device` is the result of device_name, if known."""
    return {
        "blair_rec": blair_rec.__version__,
        **{package: metadata.version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "git_commit": git_commit(),
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "threads": threads,
        **({"device": device} if device else {}),
    }


def hash_files(files: Iterable[Path], root: Path) -> str:
    """SHA-256 of the files' contents and their names relative to `root`, read in blocks."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root)}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        digest.update(b"\n")
    return digest.hexdigest()


@functools.cache
def code_files(text: bool, package: Path = PACKAGE) -> dict[str, str]:
    """12 digits of the SHA-256 of each module that affects the numbers of a run, by its path in the package.

    `text` is whether the run uses text vectors: only then the code that makes them counts.

    Raises:
        LookupError: `BESIDE_RUNS` or `TEXT_SIDE` names something that doesn't exist.
    """
    paths = [path.relative_to(package).as_posix() for path in sorted(package.rglob("*.py"))]
    for name in (*BESIDE_RUNS, TEXT_SIDE):
        if not any(_is_in(path, name) for path in paths):
            raise LookupError(f"provenance.py lists {name}, which is not in {package}; list it by its new name")
    beside = BESIDE_RUNS if text else (*BESIDE_RUNS, TEXT_SIDE)
    counted = [path for path in paths if not any(_is_in(path, name) for name in beside)]
    return {path: hashlib.sha256((package / path).read_bytes()).hexdigest()[:12] for path in counted}


def _is_in(path: str, name: str) -> bool:
    return path.startswith(name) if name.endswith("/") else path == name


def code_hash(text: bool) -> str:
    """One hash of all `code_files`; for a run with text a slash and the hash of the code that makes vectors follow."""
    files = code_files(text)
    parts = [{path: files[path] for path in files if _is_in(path, TEXT_SIDE) == side} for side in (False, True)]
    return "/".join(hash_of(part)[:12] for part in parts if part)


def with_outside(code: str, outside: Mapping[str, str]) -> str:
    """The code hash; if other packages' code is used, a plus sign and its hash follow (registry.source_hash)."""
    return f"{code}+{hash_of(dict(outside))[:12]}" if outside else code


def vectors_code() -> str:
    """One hash of the code that makes text vectors, recorded in stores."""
    return code_hash(True).rpartition("/")[2]


@functools.cache
def git_commit() -> str | None:
    """The commit of this package's checkout, with '-dirty' if files were changed since; None if it is installed."""
    package = PACKAGE
    if not (package.parent / ".git").exists():
        return None
    git = ["git", "-C", str(package.parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", str(package)], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if changed else "")


def peak_memory_mb() -> int | None:
    """Peak memory of this process so far in MiB (ru_maxrss); None if the system doesn't report it."""
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


@functools.cache
def processor() -> str:
    """The name of the processor, if the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
