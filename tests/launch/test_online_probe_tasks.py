"""The videos of the kNN probe are decoded in Ray tasks: what is wrong with one of them is said of that one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import ray

from discovr_ray.config import DataConfig
from discovr_ray.data.clip import Clip, load_clip
from discovr_ray.data.manifest import read_manifest
from discovr_ray.errors import StorageError
from discovr_ray.launch import online_probe
from discovr_ray.launch.online_probe import LOST, load_in_tasks

pytestmark = pytest.mark.ray
DATA = DataConfig(num_frames=4, image_size=32, decode_cpus=0.5)


@pytest.fixture
def rows(echo_manifest: str) -> list[dict[str, Any]]:
    return read_manifest(echo_manifest).slice(0, 10).to_pylist()


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tasks get this process's module, with the decoder below in it."""

    def load(row: Mapping[str, Any], data: DataConfig, position: float) -> Clip:
        if row["uri"] == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if row["uri"] == "outage":
            raise StorageError("no answer for minutes")
        if row["uri"] == "odd":
            raise ZeroDivisionError("odd")
        return load_clip(row, data, position)

    monkeypatch.setattr(online_probe, "load_clip", load)
    ray.cloudpickle.register_pickle_by_value(online_probe)
    yield
    ray.cloudpickle.unregister_pickle_by_value(online_probe)


def test_clips_are_those_of_the_middle_of_the_videos(rows: list[dict[str, Any]]) -> None:
    changed = {**rows[3], "sha256": "0" * 64}
    found = load_in_tasks([*rows[:3], changed, *rows[4:]], DATA)
    assert found.outage == ""
    assert found.frames.shape == (10, 4, 32, 32)
    assert [bool(reason) for reason in found.reasons] == [place == 3 for place in range(10)]
    assert "changed since ingest" in found.reasons[3]
    assert rows[3]["uri"] not in found.reasons[3]
    assert not found.frames[3].any()
    for place in (0, 9):
        assert np.array_equal(found.frames[place], load_clip(rows[place], DATA, 0.5).frames)
    assert load_in_tasks([], DATA).frames.shape == (0, 4, 32, 32)


def test_a_decoder_that_crashes_costs_its_video_alone(rows: list[dict[str, Any]], patched: None) -> None:
    rows[2] = {**rows[2], "uri": "crashes"}
    rows[9] = {**rows[9], "uri": "odd"}
    found = load_in_tasks(rows, DATA)
    assert found.reasons == ["", "", LOST, *[""] * 6, "ZeroDivisionError: odd"]
    assert [bool(frames.any()) for frames in found.frames] == [not reason for reason in found.reasons]


def test_a_storage_that_does_not_answer_is_no_videos_fault(rows: list[dict[str, Any]], patched: None) -> None:
    rows[9] = {**rows[9], "uri": "outage"}
    assert load_in_tasks(rows, DATA).outage == "no answer for minutes"
