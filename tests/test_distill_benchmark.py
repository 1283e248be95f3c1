"""benchmarks/distill.py records validation alone, and goes on where it stopped."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from comparisons import raw_config

from blair_rec.config.comparison import read_config
from blair_rec.experiment.compare import compare


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")


def test_it_records_validation_alone_and_goes_on_where_it_stopped(
    tiny: Path, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import side_by_side

    distill = importlib.import_module("distill")
    monkeypatch.setattr(side_by_side, "RESULTS", tmp_path / "results")
    variants = {
        "id": {"items": "id"},
        "text_delta": {"items": "text_delta", "transforms": ["center"]},
        "near": {"scorer": "recent_history", "transforms": ["center"]},
        "rules": {"scorer": "sequential_rules", "options": {"source_power": 0.5}},
        "untrained": {"average": ["near", "rules"]},
    }
    raw = raw_config(tiny, roberta, variants=variants, seeds=[1], train={"epochs": 1, "batch_size": 64}, baseline="id")
    raw["evaluate"] = {"protocol": "masked", "metrics": ["NDCG@10"]}
    board = compare(read_config(raw), tmp_path / "runs", variants=["id", "near", "rules"])
    assert board is not None
    said = ["--comparison", str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "--teachers", "untrained"]
    distill.main([*said, "--top", "20", "--rung", "1"])
    assert capsys.readouterr().out.count("epoch 1,") == 5  # without a teacher, and the trials
    record = json.loads((tmp_path / "results" / "distill-tiny.json").read_text("utf-8"))
    teacher = record["runs"]["teachers"]["untrained"]
    assert len(teacher["trials"]) == 4 and sum(teacher["weights"].values()) == pytest.approx(1)
    for row in (record["runs"]["plain"], teacher["student"]):
        assert row["share"] == row["value"] / teacher["value"]
    assert record["runs"]["plain"]["value"] > 0 and not record["runs"]["plain"]["finished_run"]
    page = (tmp_path / "results" / "distill-tiny.md").read_text("utf-8")
    assert f"| teacher `untrained` | {teacher['value']:.4f} |" in page

    # The average that `compare` makes has the same weights and value, and the student's run is plain training.
    compare(read_config(raw), tmp_path / "runs", variants=["text_delta", "near", "rules", "untrained"])
    run = json.loads((tmp_path / "runs" / "runs" / "untrained-1" / "result.json").read_text("utf-8"))
    assert run["valid"]["masked"]["NDCG@10"] == pytest.approx(teacher["value"])
    distill.main([*said, "--top", "20", "--rung", "1"])
    assert "epoch" not in capsys.readouterr().out.replace("best epoch", "").replace("1 epochs", "")
    again = json.loads((tmp_path / "results" / "distill-tiny.json").read_text("utf-8"))
    assert again["runs"]["teachers"] == record["runs"]["teachers"]
    assert again["runs"]["plain"]["finished_run"]
    assert again["runs"]["plain"]["value"] == pytest.approx(record["runs"]["plain"]["value"], abs=1e-9)
    with pytest.raises(SystemExit, match="other settings or members"):
        distill.main([*said, "--top", "21"])
    with pytest.raises(SystemExit, match="rules is not an average"):
        distill.main([*said[:-1], "rules"])
