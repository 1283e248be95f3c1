"""The shape of the package, read from its source: who imports whom, who may print, what must never be called."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LEVELS = (
    "cli",
    "testing",
    "serve",
    "recbole",
    "experiment",
    "ranking",
    "training",
    "models",
    "data",
    "border",
    "pretrain",
    "text",
    "evaluate",
    "prepare",
    "config",
    "lines",
    "files",
)
"""Parts of the package, top to bottom: each imports only itself and what comes below it. Any other module of the top
level (errors, extras, ...) is the ground: every part may use it, and it uses the ground alone."""
SIDES = ("text", "evaluate", "prepare")
"""Parts that meet in files on disk: none of them imports another one."""
PROGRAM = "blair_rec.serve.export.recommend"  # a program of its own, which exported folders hold a copy of
PLAIN_FILES = "blair_rec.experiment.elsewhere.written"  # what other systems read
PATCHES = "blair_rec.border.patches"  # where RecBole is patched, the one module with exceptions of its own
STOCK_CHECKPOINTS = "blair_rec.border.stock_checkpoints"  # the one module that may read a pickle
LONGEST_FILE, FULLEST_FOLDER, WIDEST_TOP = 350, 12, 7


@dataclass(frozen=True)
class Module:
    """One module of the package and its source."""

    name: str
    source: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def imports(self) -> dict[str, int]:
        """Dotted names this module imports, anywhere in it, and the line of each.

        `from a import b` counts as both `a` and `a.b`, because b may be a module.
        """
        found: dict[str, int] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in {"import_module", "__import__"}:
                names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            else:
                continue
            found.update((name, node.lineno) for name in names)
        return found

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = self.name.split(".")
        parents = here[: len(here) - node.level + self.is_package]
        return ".".join([*parents, *([node.module] if node.module else [])])

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Local names and what they stand for: {"np": "numpy", "load": "torch.load"}."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update((alias.asname, alias.name) for alias in node.names if alias.asname)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                found.update((alias.asname or alias.name, f"{base}.{alias.name}") for alias in node.names)
        return found

    def resolve(self, node: ast.AST) -> str:
        """`np.load` -> numpy.load, whatever numpy is called here; '' for what is not a plain dotted name."""
        head, dot, rest = dotted(node).partition(".")
        return self.aliases.get(head, head) + dot + rest


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        # Of `something().load` the last name is all there is to know.
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


# Each check yields what is wrong with one module, as "line 3: ...".
Check = Callable[[Module], Iterator[str]]


def part_of(name: str) -> str:
    """The part of the package that a module belongs to; "" for the package itself, which imports on first use."""
    return name.split(".")[1] if "." in name else ""


def imports_go_down(module: Module) -> Iterator[str]:
    """A part sees what is below it; text, evaluate and prepare don't see each other."""
    here = part_of(module.name)
    if not here:
        return
    for name, at in module.imports.items():
        there = part_of(name) if inside(name, "blair_rec") else ""
        if there in ("", here, "__version__"):
            continue
        up = there in LEVELS and (here not in LEVELS or LEVELS.index(there) < LEVELS.index(here))
        if up or (here in SIDES and there in SIDES):
            yield f"line {at}: imports {name}"


def no_file_is_long(module: Module) -> Iterator[str]:
    if (lines := module.source.count("\n")) > LONGEST_FILE:
        yield f"line {LONGEST_FILE + 1}: the file has {lines} lines; split it by its jobs"


LIBRARIES_AT_HOME = {
    "recbole": ("blair_rec.border", "blair_rec.data", "blair_rec.models", "blair_rec.training", "blair_rec.recbole"),
    "transformers": ("blair_rec.text", "blair_rec.pretrain"),
    "huggingface_hub": ("blair_rec.text", "blair_rec.prepare", "blair_rec.serve.export"),
    "polars": ("blair_rec.prepare",),
    "pyarrow": (
        "blair_rec.text",
        "blair_rec.prepare",
        "blair_rec.pretrain",
        "blair_rec.serve",
        "blair_rec.lines",
        PLAIN_FILES,
    ),
    "faiss": ("blair_rec.text", "blair_rec.serve.export"),
    "onnx": ("blair_rec.serve.export",),
    "onnxruntime": ("blair_rec.serve.export",),
    "bm25s": ("blair_rec.text",),
    "lightgbm": ("blair_rec.ranking.rerank",),
    "Stemmer": ("blair_rec.text",),
    "ray": ("blair_rec.text", PATCHES),
    "accelerate": ("blair_rec.pretrain",),
    "sentence_transformers": (),
    "pandas": ("blair_rec.border", "blair_rec.data", "blair_rec.prepare"),
    "filelock": ("blair_rec.files.locks",),
}


def libraries_stay_at_home(module: Module) -> Iterator[str]:
    for library, homes in LIBRARIES_AT_HOME.items():
        if not any(inside(module.name, home) for home in homes):
            yield from (f"line {at}: imports {name}" for name, at in module.imports.items() if inside(name, library))


def the_report_side_is_light(module: Module) -> Iterator[str]:
    if not inside(module.name, "blair_rec.evaluate"):
        return
    allowed = {"numpy", "scipy", "blair_rec"} | sys.stdlib_module_names
    if module.name == "blair_rec.evaluate.report":
        allowed |= {"rich"}
    if inside(module.name, "blair_rec.evaluate.page"):
        allowed |= {"matplotlib", "jinja2"}
    yield from (
        f"line {at}: imports {name}" for name, at in module.imports.items() if name.split(".")[0] not in allowed
    )


IMPORTED_AS = {"ruamel.yaml": "ruamel", "faiss-cpu": "faiss", "pystemmer": "Stemmer"}


def declared_libraries() -> set[str]:
    """The libraries that setup.cfg requires, by the name of import. RecBole's own requirements don't count."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    extras = [value for name, value in setup["options.extras_require"].items() if name not in {"test", "dev", "docs"}]
    lines = "\n".join([setup["options"]["install_requires"], *extras]).split("\n")
    names = {re.split(r"[<>=!~ ;\[]", line)[0].lower() for line in lines if line and not line.startswith("#")}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


DECLARED = declared_libraries()


def every_library_is_declared(module: Module) -> Iterator[str]:
    known = DECLARED | {"blair_rec"} | sys.stdlib_module_names
    if module.name == PATCHES:
        known |= {"ray"}  # RecBole's own, for who calls the one function of RecBole that uses it
    yield from (f"line {at}: imports {name}" for name, at in module.imports.items() if name.split(".")[0] not in known)


PRINTERS = {"print", "pprint.pprint", "pprint.pp", "rich.print", "sys.stdout.write", "sys.stderr.write", "click.echo"}


def only_the_command_line_prints(module: Module) -> Iterator[str]:
    if inside(module.name, "blair_rec.cli") or module.name == PROGRAM:
        return
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name = module.resolve(node.func)
        to_the_terminal = not any(keyword.arg == "file" for keyword in node.keywords)
        if name in PRINTERS or (name == "rich.console.Console" and to_the_terminal):
            yield f"line {node.lineno}: {name}()"


def everything_public_has_a_docstring(module: Module) -> Iterator[str]:
    first = module.tree.body[0] if module.tree.body else None
    docstring = ast.get_docstring(module.tree, clean=False) or ""
    if first is None or first.lineno != 1 or not docstring.partition("\n")[0].strip():
        yield "line 1: no docstring on the first line"
    for node in module.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if not (ast.get_docstring(node) or "").strip():
                yield f"line {node.lineno}: {node.name} has no docstring"


HALF_A_SENTENCE = re.compile(r"\s*(?:Of|As|What|Those|Such)\b", re.IGNORECASE)
"""Words that begin no docstring: an imperative or a noun phrase has to come first."""


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Docstrings of modules, classes and functions, and those below an attribute: all strings that do nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def docstrings_begin_with_a_verb_or_a_noun(module: Module) -> Iterator[str]:
    for docstring in docstrings(module.tree):
        if begin := HALF_A_SENTENCE.match(str(docstring.value)):
            yield f"line {docstring.lineno}: a docstring begins with {begin[0].strip()!r}; name the thing first"


PICKLERS = ("pickle", "_pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal")


def nothing_is_pickled(module: Module) -> Iterator[str]:
    for name, at in module.imports.items():
        if name.partition(".")[0] in PICKLERS:
            yield f"line {at}: imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = module.resolve(node)
            # Functions named without being called count: they may be handed on. RecBole's evaluation loads the
            # checkpoint that the same process wrote just before, which STOCK_CHECKPOINTS reads.
            if name == "torch.save" or (name == "torch.load" and module.name != STOCK_CHECKPOINTS):
                yield f"line {node.lineno}: {name}"
            if name.endswith((".read_pickle", ".to_pickle")):
                yield f"line {node.lineno}: {name}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield f"line {node.value.lineno}: allow_pickle"


def nouns_agree_with_their_numbers(module: Module) -> Iterator[str]:
    """`{n} of {total} rows` is wrong for a single row, so `counted` has to write the noun."""
    for node in ast.walk(module.tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for before, middle, total, after in zip(parts, parts[1:], parts[2:], parts[3:], strict=False):
            if not (isinstance(before, ast.FormattedValue) and isinstance(total, ast.FormattedValue)):
                continue
            fixed = isinstance(total.value, ast.Name) and total.value.id.isupper()  # a constant, never 1
            fixed = fixed or (isinstance(total.value, ast.Call) and dotted(total.value.func) == "counted")
            if getattr(middle, "value", "") not in (" of ", " of the ") or fixed:
                continue
            if noun := re.match(r" (?:[a-z-]+ )?[a-z]{3,}(?<!s)s\b", str(getattr(after, "value", ""))):
                yield f"line {node.lineno}: a number before{noun[0]!r}"


def no_error_is_swallowed(module: Module) -> Iterator[str]:
    """A broad `except` has to end in a bare `raise`: it may clean up, not decide."""

    def broad(caught: ast.expr | None) -> bool:
        if isinstance(caught, ast.Tuple):
            return any(broad(one) for one in caught.elts)
        return caught is None or module.resolve(caught).split(".")[-1] in {"Exception", "BaseException"}

    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and broad(node.type):
            last = node.body[-1]
            if not (isinstance(last, ast.Raise) and last.exc is None):
                yield f"line {node.lineno}: broad except"
        if isinstance(node, ast.Call) and module.resolve(node.func).split(".")[-1] == "suppress":
            if any(broad(argument) for argument in node.args):
                yield f"line {node.lineno}: suppresses everything"


CHECKS: tuple[Check, ...] = (
    imports_go_down,
    no_file_is_long,
    libraries_stay_at_home,
    the_report_side_is_light,
    every_library_is_declared,
    only_the_command_line_prints,
    everything_public_has_a_docstring,
    docstrings_begin_with_a_verb_or_a_noun,
    nothing_is_pickled,
    nouns_agree_with_their_numbers,
    no_error_is_swallowed,
)


@pytest.fixture(scope="module")
def package_modules() -> list[Module]:
    """Every module of the package, parsed once for all checks."""
    modules = []
    for path in sorted((REPOSITORY / "blair_rec").rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        modules.append(Module(".".join(parts[:-1] if is_package else parts), path.read_text("utf-8"), is_package))
    return modules


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_package_keeps_its_shape(check: Check, package_modules: list[Module]) -> None:
    assert {"", *LEVELS} <= {part_of(module.name) for module in package_modules}
    wrongs = [f"{module.name}, {wrong}" for module in package_modules for wrong in check(module)]
    assert not wrongs, "\n".join(wrongs)


def test_docstrings_outside_of_the_package_begin_with_a_verb_or_a_noun() -> None:
    paths = [path for folder in ("benchmarks", "docs", "tests") for path in (REPOSITORY / folder).rglob("*.py")]
    assert {REPOSITORY / "docs" / "hooks" / "site.py", Path(__file__)} <= set(paths)
    wrongs = [
        f"{path.relative_to(REPOSITORY)}, {wrong}"
        for path in paths
        if REPOSITORY / "tests" / "fixtures" not in path.parents  # files as older versions wrote them
        for wrong in docstrings_begin_with_a_verb_or_a_noun(Module(path.stem, path.read_text("utf-8")))
    ]
    assert not wrongs, "\n".join(wrongs)


VIOLATIONS: list[tuple[Check, str, str, str]] = [
    (imports_go_down, "blair_rec.text.store", "import blair_rec.models.items", "imports blair_rec.models.items"),
    (imports_go_down, "blair_rec.text.store", "from blair_rec import evaluate", "imports blair_rec.evaluate"),
    (imports_go_down, "blair_rec.evaluate.report", "from ..text import store", "imports blair_rec.text"),
    (imports_go_down, "blair_rec.prepare.own", "import blair_rec.text.catalogue", "imports blair_rec.text.catalogue"),
    (imports_go_down, "blair_rec.models.items", "def f():\n    from ..training.epochs import a", "line 2: imports"),
    (imports_go_down, "blair_rec.data.x", "import_module('blair_rec.models')", "imports blair_rec.models"),
    (imports_go_down, "blair_rec.experiment.run", "from blair_rec import serve", "imports blair_rec.serve"),
    (imports_go_down, "blair_rec.errors", "import blair_rec.config", "imports blair_rec.config"),
    (imports_go_down, "blair_rec.text.store", "from .. import cli", "imports blair_rec.cli"),
    (imports_go_down, "blair_rec.files.locks", "import blair_rec.lines", "imports blair_rec.lines"),
    (imports_go_down, "blair_rec.errors", "import blair_rec.files.writing", "imports blair_rec.files.writing"),
    (no_file_is_long, "blair_rec.errors", "x = 1\n" * (LONGEST_FILE + 1), f"{LONGEST_FILE + 1} lines"),
    (libraries_stay_at_home, "blair_rec.experiment", "def f():\n    import recbole.config", "imports recbole.config"),
    (libraries_stay_at_home, "blair_rec.text.encoder", "from recbole import data", "imports recbole"),
    (libraries_stay_at_home, "blair_rec.models.items", "import transformers", "imports transformers"),
    (libraries_stay_at_home, "blair_rec.cli", "from huggingface_hub import errors", "imports huggingface_hub"),
    (libraries_stay_at_home, "blair_rec.text.encoder", "import sentence_transformers", "imports sentence_transformers"),
    (the_report_side_is_light, "blair_rec.evaluate.metrics", "import torch", "imports torch"),
    (the_report_side_is_light, "blair_rec.evaluate.metrics", "import rich.table", "imports rich.table"),
    (every_library_is_declared, "blair_rec.text.encoder", "import datasets", "imports datasets"),
    (
        every_library_is_declared,
        "blair_rec.experiment",
        "import tqdm",
        "imports tqdm",
    ),
    (only_the_command_line_prints, "blair_rec.experiment", "print('hello')", "print()"),
    (only_the_command_line_prints, "blair_rec.experiment", "import sys\nsys.stderr.write('x')", "sys.stderr.write()"),
    (only_the_command_line_prints, "blair_rec.experiment", "from rich.console import Console\nConsole()", "Console()"),
    (everything_public_has_a_docstring, "blair_rec.experiment", "", "no docstring on the first line"),
    (everything_public_has_a_docstring, "blair_rec.x", "# note\n'''Late.'''", "no docstring on the first line"),
    (everything_public_has_a_docstring, "blair_rec.experiment", "'''\nLate.\n'''", "no docstring on the first line"),
    (everything_public_has_a_docstring, "blair_rec.x", "'''A.'''\ndef f(): pass", "line 2: f has no docstring"),
    (everything_public_has_a_docstring, "blair_rec.x", "'''A.'''\nclass C: pass", "line 2: C has no docstring"),
    (docstrings_begin_with_a_verb_or_a_noun, "blair_rec.x", "'''What it does.'''", "line 1: a docstring"),
    (docstrings_begin_with_a_verb_or_a_noun, "blair_rec.x", "def f():\n    '''\n    As g.'''", "line 2: a docstring"),
    (docstrings_begin_with_a_verb_or_a_noun, "blair_rec.x", "n: str\n'Such as x.'", "begins with 'Such'"),
    (nothing_is_pickled, "blair_rec.experiment", "from pickle import loads", "imports pickle"),
    (nothing_is_pickled, "blair_rec.experiment", "def f():\n    import joblib", "imports joblib"),
    (nothing_is_pickled, "blair_rec.experiment", "import torch\ntorch.load('x')", "line 2: torch.load"),
    (nothing_is_pickled, "blair_rec.experiment", "import torch as t\nf(t.load)", "line 2: torch.load"),
    (nothing_is_pickled, "blair_rec.experiment", "from torch import load as read\nread('x')", "line 2: torch.load"),
    (nothing_is_pickled, PATCHES, "import torch\ntorch.load('x')", "line 2: torch.load"),
    (nothing_is_pickled, STOCK_CHECKPOINTS, "import torch\ntorch.save(a, 'x')", "line 2: torch.save"),
    (nothing_is_pickled, "blair_rec.experiment", "np.load('x', allow_pickle=True)", "line 1: allow_pickle"),
    (nothing_is_pickled, "blair_rec.experiment", "np.load('x', allow_pickle=flag)", "line 1: allow_pickle"),
    (nothing_is_pickled, "blair_rec.experiment", "frame().to_pickle('x')", "to_pickle"),
    (nouns_agree_with_their_numbers, "blair_rec.x", "f'{n} of {len(rows):,} rows'", "a number before' rows'"),
    (nouns_agree_with_their_numbers, "blair_rec.x", "f'{n:,} of the {all} test cases'", "before' test cases'"),
    (no_error_is_swallowed, "blair_rec.experiment", "try: a\nexcept: pass", "line 2: broad except"),
    (no_error_is_swallowed, "blair_rec.experiment", "try: a\nexcept Exception: pass", "line 2: broad except"),
    (no_error_is_swallowed, "blair_rec.x", "try: a\nexcept (OSError, BaseException): b", "line 2: broad except"),
    (no_error_is_swallowed, "blair_rec.experiment", "with contextlib.suppress(Exception): a", "suppresses everything"),
]


@pytest.mark.parametrize("check, name, source, expected", VIOLATIONS)
def test_a_violation_is_seen(check: Check, name: str, source: str, expected: str) -> None:
    wrongs = list(check(Module(name, source)))
    assert any(expected in wrong for wrong in wrongs), wrongs


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, *_ in VIOLATIONS} == set(CHECKS)


@pytest.mark.parametrize(
    "name, source",
    [
        ("blair_rec.text.encoding.encoder", "import transformers\nfrom blair_rec.text import store"),
        ("blair_rec.recbole", "import recbole.config\nimport blair_rec.border.patches"),
        ("blair_rec.experiment.run", "import blair_rec.text.encoding, blair_rec.models, blair_rec.errors"),
        ("blair_rec.evaluate.report", "import numpy, rich.table\nfrom blair_rec.errors import BlairRecError"),
        ("blair_rec.border.settings", "from blair_rec import __version__, config"),
        ("blair_rec.files.locks", "import filelock\nfrom blair_rec.errors import OutputError"),
        ("blair_rec.cli", "import rich\nprint('hello')"),
        (PROGRAM, "import sys\nsys.stdout.write('hello')"),
        (STOCK_CHECKPOINTS, "import torch\ntorch.load('x')"),
        (PATCHES, "importlib.import_module('ray.tune')"),
        ("blair_rec.experiment", "np.load('x', allow_pickle=False)\njson.load(file)"),
        ("blair_rec.x", "def f():\n    '''Assign what is given, such as x.'''"),
        ("blair_rec.x", 'f"{n} of {LARGEST} rows, {n} of {counted(all, noun)} leaves"'),
        ("blair_rec.experiment", "try: a\nexcept BaseException:\n    clean_up()\n    raise"),
        ("blair_rec.experiment", "try: a\nexcept OSError as error: raise Problem() from error"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    module = Module(name, f"'''A module.'''\n{source}")
    assert [wrong for check in CHECKS for wrong in check(module)] == []


def test_no_folder_is_crowded_and_the_top_level_is_small() -> None:
    package = REPOSITORY / "blair_rec"
    files = {folder: len(list(folder.glob("*.py"))) for folder in (package, *package.rglob("*/"))}
    crowded = [f"{folder.name}: {count}" for folder, count in files.items() if count > FULLEST_FOLDER]
    assert not crowded
    assert files[package] <= WIDEST_TOP


def names_of_types(module: Module) -> Iterator[str]:
    """Public classes of a module, and names that it gives to a type, such as `Progress = Callable[[int], None]`."""
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and dotted(node.annotation) == "TypeAlias":
            names = [dotted(node.target)]
        else:
            continue
        yield from (name for name in names if re.fullmatch(r"[A-Z]+[a-z]\w*", name))


def test_a_public_name_of_a_class_or_a_type_means_one_thing(package_modules: list[Module]) -> None:
    homes: dict[str, list[str]] = {}
    for module in package_modules:
        for name in names_of_types(module):
            homes.setdefault(name, []).append(module.name)
    assert not {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_names_of_types_are_seen() -> None:
    source = "class Table: pass\nclass _Own: pass\nDone = Callable[[int], None]\nValue = int | str\nLIMIT = 1 << 3\n"
    source += "Part: TypeAlias = 'int'\nshare: float = 1\n"
    assert list(names_of_types(Module("blair_rec.x", source))) == ["Table", "Done", "Value", "Part"]


def test_relative_imports_are_resolved_from_packages_and_modules_alike() -> None:
    assert "blair_rec.text.store" in Module("blair_rec.text.encode", "from . import store").imports
    assert "blair_rec.text.store" in Module("blair_rec.text", "from . import store", is_package=True).imports
    assert "blair_rec.errors" in Module("blair_rec.text", "from .. import errors", is_package=True).imports


def modules_loaded_by(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_but_itself_and_a_little_of_the_standard_library() -> None:
    loaded = modules_loaded_by("import blair_rec")
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"blair_rec"}
    assert {name for name in loaded if inside(name, "blair_rec")} == {"blair_rec"}
    assert len(loaded) < 40


def test_a_heavy_import_would_be_seen() -> None:
    assert "numpy" in modules_loaded_by("import blair_rec, numpy")


# Where a checkout, a home or a scratch folder would be on somebody's machine; not part of an address or a longer path.
MACHINE_PATH = re.compile(r"(?<![\w.:/}~-])/(?:work|tmp|root|home|opt|mnt|Users)\b(?:/[\w.-]+)*|\b[A-Z]:\\\w+")
TEXT_FILES = {".cfg", ".css", ".csv", ".html", ".json", ".jsonl", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}


def repository_texts() -> Iterator[Path]:
    """The text files of the repository, in the folders that the layout names."""
    yield from (
        path for path in REPOSITORY.iterdir() if path.suffix in TEXT_FILES or path.name in {"Makefile", "LICENSE"}
    )
    yield REPOSITORY / ".ci" / "run"
    for folder in ("benchmarks", "blair_rec", "configs", "datasets", "docs", "tests"):
        yield from (path for path in (REPOSITORY / folder).rglob("*") if path.suffix in TEXT_FILES)


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    texts = list(repository_texts())
    assert {"Makefile", "CONTRIBUTING.md", "run", "__init__.py"} <= {path.name for path in texts}
    found = [
        f"{path.relative_to(REPOSITORY)}: {match.group()}"
        for path in texts
        for match in MACHINE_PATH.finditer(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("start", ["work", "tmp", "root", "home", "Users"])
def test_a_path_of_somebodys_machine_is_seen(start: str) -> None:
    assert MACHINE_PATH.search(f"run `cd /{start}/checkout` first")
    assert not MACHINE_PATH.search(f"https://example.org/{start}/page, docs/{start}/page, ~/{start}, <{start}>")
