"""docs/extend.md is what it says: its package is installed, compared, and kept apart from what nobody vouches for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparisons import tiny_at

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"
SMALL = [
    "train.epochs=1",
    "seeds=[1]",
    "recbole={hidden_size: 8, inner_size: 8, n_layers: 1, n_heads: 1, MAX_ITEM_LIST_LENGTH: 10}",
]


def blocks() -> dict[str, str]:
    """The page's blocks of code, by the file that the first line names."""
    found = re.findall(r"```\w+\n# (\S+)\n(.*?)\n```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    return {name: f"{text}\n" for name, text in found}


def run(folder: Path, *command: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a folder, with another folder to import from."""
    places = [str(place) for place in (path, os.environ.get("PYTHONPATH")) if place]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "COLUMNS": "120"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def blair_rec(folder: Path, *command: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, without the folder that it runs in among the places to import from."""
    start = "import sys; sys.path.remove(''); from blair_rec.cli import main; sys.exit(main())"
    return run(folder, sys.executable, "-c", start, *command, path=path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files beside datasets/tiny, and its package installed in `site`."""
    folder = tmp_path_factory.mktemp("world")
    tiny_at(folder / "datasets")
    source = folder / "source"
    source.mkdir()
    for name, text in blocks().items():
        (folder if name == "my.yaml" else source).joinpath(name).write_text(text, encoding="utf-8")
    pip = ["pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    done = run(folder, sys.executable, "-m", *pip, str(source))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def compared(world: Path) -> Path:
    """The page's comparison, of one seed and one epoch."""
    sets = [part for setting in SMALL for part in ("--set", setting)]
    done = blair_rec(world, "compare", "my.yaml", "-o", "out", *sets, path=world / "site")
    assert done.returncode == 0, done.stderr
    return world / "out"


def result(out: Path, run: str) -> Any:
    """The result.json of a run."""
    return json.loads((out / "runs" / run / "result.json").read_text("utf-8"))


def test_the_pages_package_is_compared(compared: Path) -> None:
    assert {path.name for path in (compared / "runs").iterdir()} == {"id-1", "linear-1", "hinge-1", "recent-1"}
    linear = result(compared, "linear-1")
    assert [line["step"] for line in linear["transform_report"]] == ["center", "clip: {'share': 0.9}"]
    assert linear["setup"]["options"] == {"bias": True} and linear["encoder"]["name"] == "letters"
    assert result(compared, "hinge-1")["setup"]["train"]["loss_options"] == {"margin": 0.5}
    assert result(compared, "recent-1")["setup"]["options"] == {"events": 3}


def test_a_run_notes_the_package_and_its_version_and_only_where_it_has_a_part(compared: Path) -> None:
    for run in ("linear-1", "hinge-1", "recent-1"):
        assert re.fullmatch("[0-9a-f]{12}", result(compared, run)["code_files"]["my-parts 1.0"])
    plain = result(compared, "id-1")
    assert all(name.endswith(".py") for name in plain["code_files"]) and "+" not in plain["hashes"]["code"]
    assert "options" not in plain["setup"] and "loss_options" not in plain["setup"]["train"]


def test_a_finished_run_is_loaded_by_the_name_that_its_package_brings(world: Path, compared: Path) -> None:
    script = f"""
import blair_rec
best = blair_rec.load({str(compared / "runs" / "linear-1")!r}).recommend([["i07", "i08"]], k=3)
print(len(best[0]))
blair_rec.export_vectors({str(compared / "runs" / "hinge-1")!r}, "vectors")
print(len(blair_rec.TextSearch({str(next((compared / "stores").iterdir()))!r}).search(["a cup"], 2)[0]))
"""
    done = run(world, sys.executable, "-c", script, path=world / "site")
    assert done.returncode == 0 and done.stdout == "3\n2\n", done.stderr


def test_without_the_package_the_name_is_unknown_and_the_message_says_what_to_do(world: Path, compared: Path) -> None:
    done = blair_rec(world, "compare", "my.yaml", "-o", "out2")
    assert done.returncode != 0 and "variants.linear.items is 'linear'; known: id, text," in done.stderr
    script = f"import blair_rec; blair_rec.load({str(compared / 'runs' / 'linear-1')!r})"
    done = run(world, sys.executable, "-c", script)
    assert "ConfigError: no installed package defines the item side 'linear', the transform 'clip'; ins" in done.stderr


def test_an_edited_package_makes_its_runs_unfinished_and_no_others(world: Path, compared: Path) -> None:
    module = world / "site" / "my_parts.py"
    before = module.read_text("utf-8")
    sets = [part for setting in SMALL for part in ("--set", setting)]
    command = ["compare", "my.yaml", "-o", "out", *sets, "--dry-run"]
    try:
        module.write_text(before + "# edited\n", encoding="utf-8")
        done = blair_rec(world, *command[:-1], path=world / "site")
        assert done.returncode != 0
        said = " ".join(done.stderr.split())
        assert "3 finished runs in out (linear-1, hinge-1, recent-1)" in said and "the code of my-parts 1.0" in said
        assert "the code of blair_rec" not in said
    finally:
        module.write_text(before, encoding="utf-8")
    done = blair_rec(world, *command, path=world / "site")
    assert done.returncode == 0 and done.stdout.count("done") == 4, done.stdout


def test_recboles_way_takes_the_parts_as_well(world: Path) -> None:
    keys = {
        "blair_items": "my_parts:LinearItems",
        "blair_options": "{bias: true}",
        "blair_transforms": '[center, {"clip": 0.9}]',
        "blair_text_fields": "[title]",
        "blair_encoder": "letters",
        "blair_loss": "hinge",
        "blair_loss_options": "{margin: 0.5}",
        **{"epochs": "1", "hidden_size": "8", "inner_size": "8"},
    }
    flat = [f"--{key}={value}" for key, value in keys.items()]
    command = ["run", "--model", "BLaIRSASRec", "--dataset", "datasets/tiny", *flat]
    done = blair_rec(world, *command, path=world / "site")
    assert done.returncode == 0 and "ndcg@10" in done.stdout, done.stderr


def test_the_pages_contract_holds(world: Path) -> None:
    done = run(world / "source", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_parts.py")
    assert done.returncode == 0 and int(re.findall(r"(\d+) passed", done.stdout)[0]) > 25, done.stdout


def test_module_and_class_work_in_a_config_of_ones_own_and_in_a_run_only_where_they_are_trusted(world: Path) -> None:
    raw = yaml.safe_load((world / "my.yaml").read_text("utf-8"))
    raw["text"]["encoder"] = "my_parts:Letters"
    raw["variants"] = {
        "id": {"scorer": "popularity"},
        "own": {
            "items": "my_parts:LinearItems",
            "transforms": [{"my_parts:Clip": 0.9}],
            "train": {"loss": "my_parts:hinge"},
        },
    }
    (world / "own.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    sets = [part for setting in SMALL for part in ("--set", setting)]
    done = blair_rec(world, "compare", "own.yaml", "-o", "own", *sets, path=world / "source")
    assert done.returncode == 0, done.stderr
    assert "my_parts" in result(world / "own", "own-1")["code_files"]
    # The board is made of files alone: not even the module has to be there.
    assert blair_rec(world, "leaderboard", "own").returncode == 0
    load = "import sys, blair_rec; blair_rec.load('own/runs/own-1'{})"
    refused = run(world, sys.executable, "-c", load.format(""), path=world / "source")
    names = "trusted=['my_parts:LinearItems', 'my_parts:Clip']"
    assert "UntrustedCode: my_parts:LinearItems, my_parts:Clip: this Python code" in refused.stderr
    assert names in refused.stderr
    assert run(world, sys.executable, "-c", load.format(f", {names}"), path=world / "source").returncode == 0
