"""Run a few lines of Python in another process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def in_another_process(code: str, *arguments: Any) -> str:
    """Run code that finds `arguments` in sys.argv, and return what it prints."""
    command = [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{code}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
