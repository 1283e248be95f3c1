"""Read the caller's own comparison file, the only kind whose Python code is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blair_rec.config.comparison import CompareConfig, load_config
from blair_rec.config.yaml.files import Option
from blair_rec.errors import ConfigError
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, RUNS_FOLDER


def own_config(config: CompareConfig | str | Path, overrides: Sequence[str | Option] = ()) -> CompareConfig:
    """Return the given config, or read it from the caller's file, whose `module:Class` names may be imported.

    Raises:
        ConfigError: see load_config; or the file is the config.yaml of a comparison's folder and names Python code,
            because such folders may come from someone else.
    """
    if isinstance(config, CompareConfig):
        return config
    path, read = Path(config), load_config(config, overrides)
    if read.code and path.name == CONFIG_FILE and (path.parent / RUNS_FOLDER).exists():
        raise ConfigError(
            f"{path} was written by a comparison and may come from someone else, so the Python code that it names is "
            f"not imported: {', '.join(sorted(read.code))}. If the code is yours, give the config that you wrote"
        )
    return read
