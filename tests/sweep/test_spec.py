"""A sweep's file: what is refused, all at once, and what is written down of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_sweep import made_sweep, write_sweep

from discovr_ray.errors import SweepError
from discovr_ray.sweep.spec import load_sweep, masked, spec_text

ROOT = Path(__file__).resolve().parents[2]


def refusals(folder: Path, **changes: Any) -> list[str]:
    with pytest.raises(SweepError) as caught:
        made_sweep(folder, **changes)
    return caught.value.problems


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trails": 3}, "trails: unknown; did you mean trials?"),
        ({"asha": {"frist_steps": 3}}, "asha.frist_steps: unknown; did you mean first_steps?"),
        ({"trials": "six"}, "trials = 'six': input should be a valid integer"),
        ({"trials": 0}, "trials = 0: must be above 0 where hours = 0"),
        ({"asha": {"first_steps": 3, "reduction": 1}}, "asha.reduction = 1: must be at least 2"),
        ({"name": "../up"}, "name = '../up': must be letters"),
        ({"storage": "sweep.db"}, "storage = 'sweep.db': must be a database's URL"),
        ({"storage_path": "s3://bucket/sweeps"}, "SQLite needs a folder on a disk"),
        ({"config": "dmeo"}, "config 'dmeo': no preset"),
        ({"overrides": ["optim.rl=1"]}, "optim.rl: unknown field; did you mean lr?"),
        ({"overrides": ["run.name=x"]}, "run.name=x: a sweep sets that"),
        ({"overrides": ["run.workers=[1, 2]", "engine.micro_batch=2"]}, "run.workers = [1, 2]: must be one number"),
        ({"objective": ["kn_balanced_accuracy"]}, "did you mean knn_balanced_accuracy?"),
        ({"objective": ["knn_balanced_accuracy"]}, "needs probe.label"),
        ({"objective": ["rank_me", "quality"]}, "the same figure twice"),
        ({"objective": ["quality", "clips_per_s"]}, "ASHA compares by a single one"),
        ({"space": {}}, "space: must name at least one field"),
        ({"space": {"loss.w_scd": {"unifrom": [0, 1]}}}, "unifrom: unknown; did you mean uniform?"),
        ({"space": {"loss.w_scd": {"log_uniform": [0, 1]}}}, "a logarithmic scale begins above 0"),
        ({"space": {"loss.w_scd": {"uniform": [2, 1]}}}, "the smaller number first"),
        ({"space": {"model.depth": {"int": [1.5, 4]}}}, "two whole numbers"),
        ({"space": {"model.size": {"choice": []}}}, "choice must be a list"),
        ({"space": {"model.depth": {"int": [1, 4], "when": {"loss.w_scd": 1}}}}, "that stands before"),
        (
            {"space": {"loss.w_scd": {"choice": [0, 1]}, "model.depth": {"int": [1, 4], "when": {"loss.w_scd": 2}}}},
            "when: loss.w_scd is never 2: it is 0 or 1",
        ),
        (
            {"space": {"loss.w_scd": {"uniform": [0, 1]}, "model.depth": {"int": [1, 4], "when": {"loss.w_scd": 1}}}},
            "when: loss.w_scd must be a choice or an int",
        ),
        ({"first": {"loss.w_scd": 9}}, "first.loss.w_scd = 9: outside the space"),
        ({"first": {"optim.lr": 1e-3}}, "first.optim.lr = 0.001: not in the space"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert any(expected in problem for problem in refusals(tmp_path, **changes))


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    problems = refusals(tmp_path, trails=3, retries=-1, space={"loss.w_scd": 3}, overrides=["optim.rl=1"])
    assert len(problems) == 4


def test_a_missing_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    with pytest.raises(SweepError, match=r"did you mean sweep-file\.yaml"):
        load_sweep(path.with_name("sweep-fiel.yaml"))


def test_quality_is_knn_with_a_label_and_rank_me_without(tmp_path: Path) -> None:
    assert made_sweep(tmp_path).objectives == ("rank_me",)
    assert made_sweep(tmp_path, overrides=["probe.label=abnormal"]).objectives == ("knn_balanced_accuracy",)


def test_the_written_sweep_can_be_read_again_and_has_no_password(tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path, storage="postgresql://me:s:e@cret@host/db")
    text = spec_text(sweep.spec)
    assert "cret" not in text
    assert "postgresql://me:***@host/db" in text
    (tmp_path / "again.yaml").write_text(text)
    assert load_sweep(tmp_path / "again.yaml").space == sweep.space


def test_urls_without_a_password_stay_as_they_are() -> None:
    assert masked("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"
    assert masked("postgresql://me@host:5432/db") == "postgresql://me@host:5432/db"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me@tenant:secret@host/db", "postgresql://me@tenant:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&sslmode=require", None),
    ],
)
def test_passwords_at_other_places_are_masked(url: str, shown: str | None) -> None:
    assert masked(url) == (shown or url.replace("secret", "***"))


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_sweeps_are_possible(path: Path) -> None:
    sweep = load_sweep(path)
    sweep.space.refuse_impossible(sweep.config)
    assert sweep.spec.name == path.stem
