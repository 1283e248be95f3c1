"""Make an environment for each kind of foreign system: FOLDER/rectools, FOLDER/recbole, FOLDER/implicit.

    python3.11 benchmarks/foreign/make_environments.py FOLDER [--torch-from SITE-PACKAGES] [--only recbole]

Packages are pinned in requirements/. From PyPI, PyTorch for Linux includes CUDA, which takes gigabytes. With
--torch-from, the environments use a PyTorch that is already installed, such as .venv/lib/python3.11/site-packages;
its version has to be the pinned one. An environment that is there already is kept and completed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
KINDS = tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))
TORCH = ("torch", "torchgen", "functorch", "sympy", "mpmath", "networkx", "filelock", "fsspec", "jinja2", "markupsafe")
"""PyTorch and what it imports, less typing_extensions and setuptools, which the requirements bring."""


def link_torch(packages: Path, links: Path, environment: Path) -> None:
    """Let an environment import PyTorch from another one's site-packages, and nothing else from there.

    Raises:
        SystemExit: there is no PyTorch.
    """
    if not (packages / "torch").is_dir():
        raise SystemExit(f"{packages} has no torch; give the site-packages folder of an environment that has it")
    links.mkdir(parents=True, exist_ok=True)
    for name in TORCH:
        # The .dist-info folders tell pip that the requirement is satisfied.
        for path in [packages / name, *packages.glob(f"{name}-*.dist-info"), *packages.glob(f"{name}.libs")]:
            link = links / path.name
            if path.exists() and not link.is_symlink():
                link.symlink_to(path.resolve())
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "torch.pth").write_text(f"{links.resolve()}\n", encoding="utf-8")


def main() -> None:
    """Make the environments, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--torch-from", type=Path, metavar="SITE-PACKAGES")
    parser.add_argument("--only", choices=KINDS, action="append", help="make this one; may be repeated")
    options = parser.parse_args()
    for kind in options.only or KINDS:
        environment = options.folder / kind
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        if options.torch_from and kind != "implicit":
            link_torch(options.torch_from, options.folder / "torch", environment)
        command = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*command, "--requirement", REQUIREMENTS / f"{kind}.txt"], check=True)
        print(f"{environment / 'bin' / 'python'} is ready", flush=True)


if __name__ == "__main__":
    main()
