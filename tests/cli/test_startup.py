"""How little is imported before a command has work to do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import blair_rec

HEAVY = [
    "scipy",
    "numpy",
    "pandas",
    "torch",
    "recbole",
    "transformers",
    "polars",
    "pyarrow",
    "matplotlib",
    "ray",
    "pydantic",
]
COMMANDS = [
    *["", "compare", "leaderboard", "tune", "run", "models", "encode", "store", "search", "search-eval", "pretrain"],
    *["store info", "store import", "prepare", "prepare csv", "prepare amazon-2023", "prepare amazon-c4"],
]
SCRIPT = """
import contextlib, io, json, sys
from blair_rec.cli import main
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    assert "usage: blair-rec " + command in shown.getvalue(), command
with contextlib.suppress(SystemExit):
    main(["--version"])
print(json.dumps(sorted(sys.modules)))
"""


def test_no_help_text_imports_a_library_of_numbers() -> None:
    command = [sys.executable, "-c", SCRIPT, json.dumps(COMMANDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    version, modules = done.stdout.splitlines()
    assert version == f"blair-rec {blair_rec.__version__}"
    assert [name for name in HEAVY if name in json.loads(modules)] == []


@pytest.mark.parametrize("command", ["compare", "tune", "encode", "pretrain", "prepare csv", "prepare amazon-2023"])
def test_every_long_command_can_be_quiet(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from blair_rec.cli import main

    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert "--quiet" in capsys.readouterr().out


def test_the_api_is_listed_before_it_is_imported() -> None:
    script = "import sys, blair_rec; print(dir(blair_rec), 'blair_rec.serve.recommender' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(blair_rec.__all__) <= set(dir(blair_rec))
    assert done.stdout.endswith("False\n") and all(repr(name) in done.stdout for name in blair_rec.__all__)
