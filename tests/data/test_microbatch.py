"""One micro-batch, decoded in this process: the right clips and windows, and what a failed clip leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from clip_table import manifest_of

from discovr_ray.config import DataConfig
from discovr_ray.data.clip import load_clip
from discovr_ray.data.microbatch import decode_micro_batch
from discovr_ray.data.plan import StreamPlan
from discovr_ray.randomness import Purpose, clip_key, uniform

DATA = DataConfig(num_frames=8, frame_stride=3, image_size=112)


@pytest.fixture(scope="module")
def clips(echo_folder: Path) -> pa.Table:
    return manifest_of(list((echo_folder / "Videos").glob("*.avi")))


def make_plan(clips: pa.Table) -> StreamPlan:
    return StreamPlan(
        seed=5,
        num_clips=clips.num_rows,
        steps_per_epoch=3,
        total_steps=9,
        global_batch=8,
        micro_batch=4,
        world_size=1,
        start_step=0,
    )


def test_rows_come_in_the_plans_order_with_the_clips_own_windows(clips: pa.Table) -> None:
    plan = make_plan(clips)
    block = decode_micro_batch(clips, 9, plan, DATA)
    assignment = plan.assignment(9)
    assert assignment.epoch == 1
    assert block["frames"].shape == (4, 8, 112, 112)
    assert block["number"].tolist() == [9] * 4
    for place, row_number in enumerate(assignment.rows.tolist()):
        row = clips.slice(row_number, 1).to_pylist()[0]
        key = clip_key(row["clip_id"])
        expected = load_clip(row, DATA, float(uniform(5, 1, Purpose.WINDOW, key)))
        assert block["clip_id"][place] == row["clip_id"]
        assert block["clip_key"][place] == key
        assert block["num_padded"][place] == expected.num_padded
        assert block["reason"][place] == ""
        np.testing.assert_array_equal(block["frames"][place], expected.frames)


def test_a_window_moves_from_epoch_to_epoch(clips: pa.Table) -> None:
    plan = make_plan(clips)
    seen: dict[str, list[bytes]] = {}
    for number in range(12):
        block = decode_micro_batch(clips, number, plan, DATA)
        for name, frames in zip(block["clip_id"], block["frames"], strict=True):
            seen.setdefault(name, []).append(frames.tobytes())
    twice = [windows for windows in seen.values() if len(windows) == 2]
    assert twice
    assert any(first != second for first, second in twice)


def test_padded_frames_are_counted(clips: pa.Table) -> None:
    long_window = DataConfig(num_frames=64, frame_stride=6, short_clip="repeat_last")
    block = decode_micro_batch(clips, 0, make_plan(clips), long_window)
    assert block["num_padded"].max() > 0


def test_a_failed_clip_keeps_its_place(clips: pa.Table, tmp_path: Path) -> None:
    plan = make_plan(clips)
    whole = decode_micro_batch(clips, 0, plan, DATA)
    broken = plan.assignment(0).rows.tolist()[2]
    uris = clips["uri"].to_pylist()
    uris[broken] = str(tmp_path / "gone.avi")
    damaged = clips.set_column(clips.column_names.index("uri"), "uri", pa.array(uris))
    block = decode_micro_batch(damaged, 0, plan, DATA)
    assert [bool(reason) for reason in block["reason"]] == [False, False, True, False]
    assert "no such file" in block["reason"][2]
    assert "gone.avi" not in block["reason"][2]
    assert not block["frames"][2].any()
    assert block["clip_id"].tolist() == whole["clip_id"].tolist()
    np.testing.assert_array_equal(block["frames"][[0, 1, 3]], whole["frames"][[0, 1, 3]])
