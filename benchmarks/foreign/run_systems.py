"""Train the foreign systems on a split, one after another, each in its environment; write their lists and records.

    python benchmarks/foreign/run_systems.py SPLIT -o LISTS --environments FOLDER [--minutes 60] [--systems A,B]

LISTS gets NAME.csv, NAME.masked.csv, NAME.valid.csv, NAME.valid.masked.csv, NAME.json and NAME.log of each system, and
the manifest of the split, so that a comparison refuses them for another split. A system whose record is there already
is skipped; delete it to train again.
unisrec also needs --code (a clone of RUCAIBox/UniSRec) and --text (text vectors of `blair-rec store export`).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from course import LIMIT

HERE = Path(__file__).parent
SYSTEMS = {
    "implicit_knn": ("implicit", "linear.py"),
    "recbole_sasrec": ("recbole", "recbole_sequential.py"),
    "rectools_esasrec": ("rectools", "rectools_sequential.py"),
    "rectools_ease": ("rectools", "linear.py"),
    "rectools_sasrec": ("rectools", "rectools_sequential.py"),
    "unisrec": ("recbole", "recbole_sequential.py"),
}
"""Environment and script of each system, in the order of training."""


def command_of(name: str, options: argparse.Namespace) -> list[str]:
    """Return the command that trains a system."""
    environment, script = SYSTEMS[name]
    python = options.environments / environment / "bin" / "python"
    command = [str(python), "-W", "ignore", str(HERE / script), str(options.split), "-o", str(options.out)]
    command += ["--system", name]
    if script != "linear.py":
        command += ["--minutes", str(options.minutes), "--device", options.device]
    if name == "unisrec":
        command += ["--code", str(options.code), "--text", str(options.text)]
    return command


def main() -> None:
    """Run the systems; one that fails is reported, and the next one runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--environments", type=Path, required=True, help="folder of make_environments.py")
    parser.add_argument("--minutes", type=float, default=60, help=LIMIT)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where they train (default: cpu)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="names, separated by commas")
    parser.add_argument("--code", type=Path)
    parser.add_argument("--text", type=Path)
    options = parser.parse_args()
    names = options.systems.split(",")
    if unknown := [name for name in names if name not in SYSTEMS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(SYSTEMS)}")
    if "unisrec" in names and not (options.code and options.text):
        parser.error("unisrec needs --code and --text; or name the other systems with --systems")
    if not (options.split / "manifest.json").is_file():
        parser.error(f"{options.split} has no manifest.json; write it with `blair-rec split CONFIG -o {options.split}`")
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.split / "manifest.json", options.out / "manifest.json")
    failed = []
    for name in names:
        if (options.out / f"{name}.json").is_file():
            print(f"{name}: is there already", flush=True)
            continue
        print(f"{name}: log in {options.out / name}.log", flush=True)
        with (options.out / f"{name}.log").open("w", encoding="utf-8") as log:
            done = subprocess.run(command_of(name, options), stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            failed.append(name)
            print(f"{name}: failed", flush=True)
    if failed:
        sys.exit(f"{len(failed)} of {len(names)} systems failed ({', '.join(failed)}); see their logs")


if __name__ == "__main__":
    main()
