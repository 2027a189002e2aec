"""What a trial does with what its run has left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from discovr_ray.launch.sweep_trial import retract_unmeasured
from discovr_ray.train import checkpoint


def save(run: Path, step: int) -> None:
    folder = run / checkpoint.folder_name(step)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"some")
    state = checkpoint.TrainState(step, samples_seen=8 * step, num_clips=64, world_size=1, zero_stage=0, config={})
    checkpoint.seal(str(folder), checkpoint.describe(folder), state)


@pytest.mark.parametrize(
    ("record", "left"),
    [
        ({"step": 6, "rank_me": 3.0, "knn_balanced_accuracy": 0.5}, [6, 3]),
        ({"step": 6, "rank_me": 3.0}, [3]),  # the probe could not be answered
        ({"step": 5, "rank_me": 3.0, "knn_balanced_accuracy": 0.5}, [3]),  # killed before the log was copied
    ],
)
def test_a_rung_without_its_figures_is_trained_again(tmp_path: Path, record: dict[str, float], left: list[int]) -> None:
    """Else every further try would meet the same gap, and a trial that was trained in full would have failed."""
    save(tmp_path, 3)
    save(tmp_path, 6)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    retract_unmeasured(str(tmp_path), 6, ["knn_balanced_accuracy"])
    assert [found.state.step for found in checkpoint.find_checkpoints(str(tmp_path))] == left
