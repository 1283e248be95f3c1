"""Pages of docs/ as programs: their files are written, their commands and their Python code are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blair_rec.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
QUICK = {
    "compare": ["--set", "train.epochs=1", "--quiet"],
    "tune": ["--set", "train.epochs=1", "--quiet"],
    "run": ["--epochs=1"],
}
"""Options that make a command of a page quick."""


class Block(NamedTuple):
    """A block of code: its language, the name of the file that it is, and its text."""

    language: str
    file: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """All blocks of code of a page, in order."""
    pattern = r"^```(\w*)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$"
    return [Block(*found) for found in re.findall(pattern, page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)]


def commands_of(text: str) -> Iterator[list[str]]:
    """The commands of a block, as lists of words."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_page(page: Path, options: Mapping[str, Sequence[str]] = {}, changes: Mapping[str, str] = {}) -> dict[str, Any]:
    """Run a page in the working directory and return the names that its Python code defines.

    A block with a title is written to this file. Blocks of `sh` are run, and so is Python without a title; each command
    has to succeed. `options` has more options for commands by name, such as {"prepare": ["--source", "folder"]}.
    `changes` are made in the files of the page.
    """
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            text = block.text
            for old, new in changes.items():
                text = text.replace(old, new)
            Path(block.file).write_text(text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, page.name, "exec"), names)
        elif block.language == "sh":
            for words in commands_of(block.text):
                run_command(words, options)
    return names


def run_command(words: list[str], options: Mapping[str, Sequence[str]]) -> None:
    """Run one command: ours in this process, others as programs. What would install packages is not run."""
    program, *arguments = words
    if program == "blair-rec":
        name = arguments[0]
        assert main([*arguments, *QUICK.get(name, ()), *options.get(name, ())]) == 0, words
    elif program != "pip":
        subprocess.run([sys.executable if program == "python" else program, *arguments], check=True)
