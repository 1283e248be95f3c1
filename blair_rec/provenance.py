"""What a result has to carry so that it can be traced: versions, commit, machine, and hashes of what went in."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import blair_rec

try:
    import resource
except ImportError:  # not on Windows, which has no such count
    resource = None  # type: ignore[assignment]

PACKAGES = ("recbole", "torch", "numpy", "scipy", "pandas", "transformers")
TRAINING_SIDE = (
    "recommend",
    "atomic.py",
    "rejected.py",
    "config.py",
    "config_sections.py",
    "plugin_config.py",
    "sections.py",
    "item_vectors.py",
    "plan.py",
    "steps.py",
    "fit.py",
    "run.py",
)
"""What decides, next to data and config, on the numbers of a run."""


def provenance(threads: int) -> dict[str, str | int | None]:
    """Versions, commit and machine, for result.json."""
    return {
        "blair_rec": blair_rec.__version__,
        **{package: metadata.version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "git_commit": git_commit(),
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "threads": threads,
    }


def hash_of(content: Any) -> str:
    """SHA-256 of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def hash_files(files: Iterable[Path], root: Path) -> str:
    """SHA-256 over the names below `root` and the contents of files, read in blocks."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root)}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        digest.update(b"\n")
    return digest.hexdigest()


@functools.cache
def code_hash() -> str:
    """Version and a hash over the sources that training depends on: changed reports don't call for new runs."""
    package = Path(__file__).parent
    files = [
        path for name in TRAINING_SIDE for path in ([package / name] if "." in name else (package / name).rglob("*.py"))
    ]
    return f"{blair_rec.__version__}+{hash_files(files, package)[:12]}"


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, '-dirty' if it was changed since; None if installed."""
    package = Path(__file__).parent
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
    """The most memory that this process has held so far, in MiB (ru_maxrss); None where the system can't say."""
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


@functools.cache
def processor() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
