"""The installed package: its version, its command, its pins, and what a checkout brings along."""

from __future__ import annotations

import configparser
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from comparisons import write_config
from packaging.requirements import Requirement
from packaging.version import Version

import blair_rec

REPOSITORY = Path(__file__).resolve().parent.parent


def declared() -> list[Requirement]:
    """Every requirement of setup.cfg, the extras' included."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    texts = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    return [Requirement(line) for text in texts for line in text.splitlines() if line and not line.startswith("#")]


def pins() -> list[Requirement]:
    """Every line of constraints.txt."""
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def pinned(python: str) -> dict[str, Version]:
    """Name -> version that constraints.txt gives to this Python, such as '3.11'."""
    found: dict[str, Version] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            (only,) = pin.specifier
            assert only.operator == "==" and pin.name not in found
            found[pin.name] = Version(only.version)
    return found


def test_the_installed_version_is_the_one_the_package_names() -> None:
    assert metadata.version("blair-rec") == blair_rec.__version__


def test_dir_lists_the_public_names_and_no_helpers() -> None:
    listed = set(dir(blair_rec))
    assert set(blair_rec.__all__) <= listed
    assert not listed & {"Any", "TYPE_CHECKING", "annotations", "import_module", "ModuleType", "_HOMES"}


def test_the_changelog_opens_with_the_version_of_the_package() -> None:
    headings = [
        line for line in (REPOSITORY / "CHANGELOG.md").read_text("utf-8").splitlines() if line.startswith("## ")
    ]
    assert headings[0].startswith(f"## [{blair_rec.__version__}]")


def test_the_command_resolves() -> None:
    (command,) = metadata.entry_points(group="console_scripts", name="blair-rec")
    assert callable(command.load())


PUBLIC = [
    "TextSearch",
    "compare",
    "encode",
    "export_vectors",
    "leaderboard",
    "load",
    "open_store",
    "recommend_file",
    "refit",
    "tune",
]


def test_the_public_names_are_these_and_each_is_documented() -> None:
    assert sorted({*blair_rec.__all__} - {"__version__"}) == PUBLIC
    assert set(PUBLIC) <= set(dir(blair_rec))
    for name in PUBLIC:
        described = getattr(blair_rec, name).__init__ if name == "TextSearch" else getattr(blair_rec, name)
        assert "Raises" in (described.__doc__ or ""), name
        assert f"blair_rec.{name}(" in (getattr(blair_rec, name).__doc__ or ""), f"{name} without an example"
        assert f"blair_rec.{name}(" in (blair_rec.__doc__ or ""), name


def test_the_example_of_the_package_runs(tmp_path: Path, tiny: Path, roberta: Path) -> None:
    file = write_config(
        tmp_path / "my.yaml",
        tiny,
        roberta,
        variants={"near": {"scorer": "last_item"}, "popular": {"scorer": "popularity"}},
        baseline="popular",
    )
    board = blair_rec.compare(str(file), str(tmp_path / "mine"))
    assert board is not None and {row.variant for row in board.rows} == {"near", "popular"}
    assert blair_rec.leaderboard(str(tmp_path / "mine")) == board
    items = tiny / "tiny.item"
    store = blair_rec.encode(items, tmp_path / "store", fields=["title"], encoder=str(roberta), pooling="cls")
    again = blair_rec.open_store(tmp_path / "store")
    assert again.store_sha256 == store.store_sha256 and len(again) == 80
    (hits,) = blair_rec.TextSearch(again, items=items).search([titles(items)["i07"]], k=3)
    assert hits[0].item_token == "i07"
    run = tmp_path / "mine" / "runs" / "near-1"
    (best,) = blair_rec.load(run).recommend([["i07", "i08"]], k=3)
    assert len({item.item_token for item in best} - {"i07", "i08"}) == 3
    vectors = blair_rec.export_vectors(run, tmp_path / "vectors")
    assert len(np.load(vectors / "items.npy")) == 80


def titles(items: Path) -> dict[str, str]:
    """The title of each item of a .item file."""
    header, *lines = items.read_text("utf-8").splitlines()
    place = header.split("\t").index("title:token_seq")
    return {cells[0]: cells[place] for line in lines if (cells := line.split("\t"))}


def test_a_name_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'blair_rec' has no attribute 'lode'"):
        blair_rec.lode  # noqa: B018


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_to_a_version_it_allows(python: str) -> None:
    versions = {name.lower().replace("_", "-"): version for name, version in pinned(python).items()}
    for requirement in declared():
        if requirement.name == "ray":  # pinned to what RecBole 1.2.1 asks for: the extra goes without the constraints
            continue
        assert versions[requirement.name.lower().replace("_", "-")] in requirement.specifier, requirement


def test_recbole_follows_the_python() -> None:
    assert [str(pinned(python)["recbole"]) for python in ("3.11", "3.12")] == ["1.2.1", "1.2.0"]


def test_the_package_names_its_homes() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    urls = [line.partition(" = ") for line in setup["metadata"]["project_urls"].splitlines() if line]
    assert {name for name, _, _ in urls} == {"Documentation", "Source", "Issues", "Changelog", "Security"}
    home = setup["metadata"]["url"]
    for _, _, url in urls:
        assert url.startswith(home)
        _, _, path = url.partition("/main/")
        assert not path or (REPOSITORY / path).exists(), url


def test_a_commit_and_ci_run_what_make_check_runs() -> None:
    with (REPOSITORY / ".pre-commit-config.yaml").open(encoding="utf-8") as file:
        (hook,) = yaml.safe_load(file)["repos"][0]["hooks"]
    assert (hook["entry"], hook["pass_filenames"]) == ("make check", False)
    ci = (REPOSITORY / ".ci" / "run").read_text("utf-8")
    assert all(command in ci for command in ("make test\n", "make check\n", "make docs\n", "chromium chromium-driver"))


def test_the_record_of_the_pythons_has_the_pinned_versions() -> None:
    file = REPOSITORY / "benchmarks" / "results" / "pythons.json"
    record = json.loads(file.read_text("utf-8")) if file.exists() else pytest.skip("`make test-all` was not run")
    table = (REPOSITORY / "benchmarks" / "results" / "pythons.md").read_text("utf-8")
    for version, found in record["pythons"].items():
        assert found["python"].startswith(f"{version}.") and f"| {found['python']} |" in table
        assert found["versions"]["recbole"] == str(pinned(version)["recbole"])
