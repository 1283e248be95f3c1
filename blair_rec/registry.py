"""The list of all names that a config may choose from, ours and other packages'. Only this module imports them.

A name refers to `module:Class` or `module:function`. Listing names imports nothing; `load` imports one of them. Names
come from three places:

- `BUILT_IN`, below;
- installed packages, by their entry points of the groups `blair_rec.items`, `.scorers`, `.transforms`, `.losses` and
  `.encoders`;
- the user's own config, which may name `module:Class` directly. Such code is imported only inside `trusting`: a run, a
  store or a folder may come from somebody else, and must not decide which code runs here.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from blair_rec.errors import ConfigError, UntrustedCode, counted

_COUNTED = {
    "popularity": "blair_rec.ranking.scorers.popularity:Popularity",
    "markov": "blair_rec.ranking.scorers.rules:Markov",
    "sequential_rules": "blair_rec.ranking.scorers.rules:SequentialRules",
}
_NEIGHBOURS = {
    "last_item": "blair_rec.ranking.scorers.neighbours:LastItem",
    "mean_history": "blair_rec.ranking.scorers.neighbours:MeanHistory",
    "recent_history": "blair_rec.ranking.scorers.neighbours:RecentHistory",
}
_COUNTED_WITH_TEXT = {
    "text_rules": "blair_rec.ranking.scorers.text_rules:TextRules",
}
_SAMPLED = {
    "sampled_softmax": "blair_rec.training.losses:sampled_softmax",
    "gbce": "blair_rec.training.losses:gbce",
    "bpr": "blair_rec.training.losses:bpr",
}
BUILT_IN: dict[str, dict[str, str]] = {
    "items": {
        "id": "torch.nn:Embedding",  # the model's own embedding
        "text": "blair_rec.models.items.text:TextItems",
        "text_init": "blair_rec.models.items.text_init:TextInitItems",
        "text_delta": "blair_rec.models.items.text_delta:TextDeltaItems",
        "id_text": "blair_rec.models.items.id_text:IdTextItems",
        "unisrec": "blair_rec.models.items.unisrec:UniSRecItems",
        "sasrec_text": "blair_rec.models.items.sasrec_text:SASRecTextItems",
    },
    "scorers": {**_COUNTED, **_NEIGHBOURS, **_COUNTED_WITH_TEXT},
    "transforms": {
        "center": "blair_rec.models.transforms:Center",
        "l2": "blair_rec.models.transforms:L2",
        "pca": "blair_rec.models.transforms:PCA",
        "whiten": "blair_rec.models.transforms:Whiten",
        "shrink": "blair_rec.models.transforms:Shrink",
        "rescale": "blair_rec.models.transforms:Rescale",
    },
    "losses": {
        "full_softmax": "blair_rec.training.losses:full_softmax",
        **_SAMPLED,
        "recbole": "blair_rec.training.epochs:RecboleWay",  # the model's own loss
    },
    "encoders": {},  # folders, packages with a model inside, and models on the hub are not listed
    "sources": {
        "csv": "blair_rec.prepare.own:prepare_own",
        "amazon-2023": "blair_rec.prepare.public.reviews:prepare_amazon",
        "fetch": "blair_rec.prepare.public.fetch:prepare_named",
        "amazon-c4": "blair_rec.prepare.public.search:prepare_search",
        "esci": "blair_rec.prepare.public.search:prepare_search",
    },
}
"""The class or function of each of our names, by group. `sources` are the raw data that `blair-rec prepare` reads."""
TEXT_SCORERS = (*_NEIGHBOURS, *_COUNTED_WITH_TEXT)
"""Scorers that use text vectors; the others only count events."""
SAMPLED_LOSSES = tuple(_SAMPLED)
"""Losses over sampled negatives."""
OPEN = {
    "items": "item side",
    "scorers": "scorer",
    "transforms": "transform",
    "losses": "loss",
    "encoders": "encoder",
}
"""Groups that other packages can extend, with the word for one of their names in messages."""

CODE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
"""The regular expression of `module:Class`."""

_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


class Plugin(NamedTuple):
    """A name that an installed package adds."""

    target: str
    """`module:Class`."""
    package: str
    version: str


def is_code(name: object) -> bool:
    """Whether a name is written as `module:Class`."""
    return isinstance(name, str) and re.fullmatch(CODE, name) is not None


def names(group: str) -> tuple[str, ...]:
    """Our names of a group, followed by those of installed packages in alphabetical order.

    Raises:
        ConfigError: a package uses a name that is taken.
    """
    return (*BUILT_IN[group], *sorted(plugins(group)))


def knows(group: str, name: str) -> bool:
    """Whether a config may use it: a name of the group, or `module:Class`. Raises the errors of `names`."""
    return name in names(group) or (group in OPEN and is_code(name))


def is_outside(group: str, name: str | None) -> bool:
    """Whether a valid name is not one of ours. Raises the errors of `names`."""
    return name is not None and name not in BUILT_IN[group] and knows(group, name)


def plugins(group: str) -> dict[str, Plugin]:
    """Return the plugins that installed packages add to a group, by name. Their code is not imported.

    A package in the working directory doesn't count as installed, even if Python would find it.

    Raises:
        ConfigError: a package uses one of our names, or two packages use the same name.
    """
    here = Path.cwd()
    places = tuple(place for place in sys.path if place and Path(place).resolve() != here)
    return _plugins(group, places) if group in OPEN else {}


@cache
def _plugins(group: str, places: tuple[str, ...]) -> dict[str, Plugin]:
    found: dict[str, Plugin] = {}
    seen: set[str] = set()
    for distribution in distributions(path=list(places)):
        points = distribution.entry_points.select(group=f"blair_rec.{group}")
        if not points:  # true of most packages; saves reading their names
            continue
        package = distribution.metadata["Name"] or "a package without a name"
        key = re.sub(r"[-_.]+", "-", package).lower()
        if key in seen:  # Python also uses the first one it finds
            continue
        seen.add(key)
        for point in points:
            owner = "blair-rec" if point.name in BUILT_IN[group] else None
            owner = found[point.name].package if point.name in found else owner
            if owner is not None:
                raise ConfigError(
                    f"the packages {owner} and {package} both define the {OPEN[group]} {point.name!r}; uninstall one "
                    f"of them, or ask the author of {package} to rename it"
                )
            found[point.name] = Plugin(f"{point.module}:{point.attr}", package, distribution.version)
    return found


@contextmanager
def trusting(code: Collection[str]) -> Iterator[None]:
    """Within this block, `load` also imports these `module:Class`: the user's own config or the user named them."""
    before = _trusted.set(_trusted.get() | frozenset(code))
    try:
        yield
    finally:
        _trusted.reset(before)


def is_trusted(group: str, name: str) -> bool:
    """Whether `load` may import it: anything except a `module:Class` outside of `trusting`."""
    return name in BUILT_IN[group] or not is_code(name) or name in _trusted.get()


def check(needed: Collection[tuple[str, str]]) -> None:
    """Check that all these names, each with its group, may be imported. Nothing is imported.

    Raises:
        ConfigError: no installed package defines some of them.
        UntrustedCode: some are a `module:Class` outside of `trusting`; the message lists all of these.
    """
    if lacking := [f"the {OPEN[group]} {name!r}" for group, name in needed if not knows(group, name)]:
        raise ConfigError(f"no installed package defines {', '.join(lacking)}; install the package that does")
    if code := [name for group, name in needed if not is_trusted(group, name)]:
        raise UntrustedCode(code)


def load(group: str, name: str) -> Any:
    """Import the class or function of a name.

    Raises:
        ConfigError: there is no such name, or its code can't be imported.
        UntrustedCode: `module:Class` outside of `trusting`.
    """
    target = _target(group, name)
    if name in BUILT_IN[group]:
        return _imported(target)
    try:
        return _imported(target)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            f"the {OPEN[group]} {name} can't be imported from {target} ({type(error).__name__}: {error}); install its "
            "package again, or put the folder of its module on PYTHONPATH"
        ) from error


def load_class(group: str, name: str, base: type, needs: Sequence[str] = ()) -> Any:
    """Import the class of a name, which has to be a subclass of `base` with its own methods `needs`.

    Raises:
        ConfigError: it is not a subclass of `base`, or lacks such a method; or an error of `load`.
        UntrustedCode: as for `load`.
    """
    found = load(group, name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"the {OPEN[group]} {name} is not a subclass of {base.__module__}.{base.__qualname__}; make it one"
        )
    check_methods(group, name, found, dict.fromkeys(needs, base))
    return found


def check_methods(group: str, name: str, kind: type, needs: Mapping[str, type]) -> None:
    """Check that a class has its own methods.

    Args:
        needs: the methods, each with the class whose method only says that it is missing. A method counts as its own if
            `kind` does not inherit from that class.

    Raises:
        ConfigError: it lacks some.
    """
    if missing := [
        f"`{method}`" for method, base in needs.items() if getattr(kind, method, None) is vars(base)[method]
    ]:
        *others, last = missing
        methods = f"methods {', '.join(others)} and {last}" if others else f"method {last}"
        raise ConfigError(f"the {OPEN[group]} {name} lacks the {methods}; docs/extend.md says what to return")


def check_call(group: str, name: str, code: Any, given: int, options: Mapping[str, Any]) -> None:
    """Check that the code of a name can be called with `given` values of ours, followed by the user's options.

    Raises:
        ConfigError: it can't; the message shows its signature.
    """
    if not callable(code):
        raise ConfigError(
            f"the {OPEN[group]} {name} is {type(code).__name__} {code!r:.40}, which can't be called; name a class or a "
            "function (docs/extend.md)"
        )
    try:
        signature = inspect.signature(code)
    except ValueError:  # written in C
        return
    try:
        signature.bind(*[None] * given, **options)
    except TypeError as error:
        said = f"the options {dict(options)}" if options else "no options"
        raise ConfigError(
            f"the {OPEN[group]} {name} can't be called with {counted(given, 'value')} of ours and {said}: {error}; its "
            f"signature is {name}{signature}"
        ) from None


def source_hash(group: str, name: str) -> dict[str, str]:
    """The version and hash of code from outside, which a run records; empty for our own names. Nothing is imported.

    {"my-package 1.2": 12 digits of a SHA-256}. The hash covers all Python files of the class's top-level package,
    because its modules import each other; or just the module's file, if it is in no package. For `module:Class`, the
    key is the module's name.

    Raises:
        ConfigError: there is no such name, or no such file.
        UntrustedCode: as for `load`.
    """
    if name in BUILT_IN[group]:
        return {}
    target = _target(group, name)
    plugin = plugins(group).get(name)
    spec = _first_with_code(target.partition(":")[0])
    if spec is None or not spec.has_location or spec.origin is None:
        raise ConfigError(
            f"the {OPEN[group]} {name} has no Python file: {target} is not found; install its package, or put the "
            "folder of its module on PYTHONPATH"
        )
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    files = {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    digest = hashlib.sha256()
    for relative, path in sorted((files or {Path(spec.origin).name: Path(spec.origin)}).items()):
        digest.update(f"{relative}\n".encode() + path.read_bytes() + b"\n")
    label = f"{plugin.package} {plugin.version}" if plugin else spec.name
    return {label: digest.hexdigest()[:12]}


def _target(group: str, name: str) -> str:
    """The `module:Class` of a name, if it may be imported."""
    if name in BUILT_IN[group]:
        return BUILT_IN[group][name]
    if is_code(name):
        if name not in _trusted.get():
            raise UntrustedCode([name])
        return name
    if plugin := plugins(group).get(name):
        return plugin.target
    raise ConfigError(
        f"unknown {OPEN[group]} {name!r}; install the package that defines it (known: {', '.join(names(group))})"
    )


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    found: Any = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _first_with_code(module: str) -> ModuleSpec | None:
    """The outermost package around a module that has a file; packages without one are plain folders."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        try:
            spec = find_spec(".".join(parts[:depth]))  # imports only parents, which are plain folders
        except ValueError:  # such as __main__ in a notebook
            return None
        if spec is None or spec.origin is not None:
            return spec
    return None
