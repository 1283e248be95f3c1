"""Run Python code in another process: a new one, or a fork of this one, which has imported everything already."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO


def in_another_process(code: str, *arguments: Any) -> str:
    """Run code that finds `arguments` in sys.argv, and return what it prints."""
    command = [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{code}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def in_a_fork(run: Callable[[], Any], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call `run` in a fork of this process, and return its output and the exit status that it returns.

    A traceback goes to standard error and gives the status 1, as it does in a new process.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        status = os.waitstatus_to_exitcode(os.waitpid(_fork(run, cwd, out, err), 0)[1])
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess([], status, out.read(), err.read())


def in_two_forks(run: Callable[[], Any], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call `run` in two forks with the environment that torchrun gives two processes; return what both say.

    If one fails, the other is killed, as torchrun does it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(rank: int) -> Any:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return run()

    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        left = {_fork(partial(start, rank), cwd, said, said) for rank in (0, 1)}
        failed = 0
        while left:
            time.sleep(0.01)
            for child in sorted(left):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    left.remove(child)
                    failed = failed or os.waitstatus_to_exitcode(status)
                elif failed:
                    os.kill(child, signal.SIGKILL)
        said.seek(0)
        return subprocess.CompletedProcess([], failed, "", said.read())


def _fork(run: Callable[[], Any], cwd: Path, out: TextIO, err: TextIO) -> int:
    """Start a fork that calls `run` in a folder, and return its process id."""
    if (child := os.fork()) > 0:
        return child
    status = 1
    try:
        os.chdir(cwd)
        sys.stdout, sys.stderr = out, err
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        status = run() or 0
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        out.flush()
        err.flush()
        os._exit(status)
