"""Hand-computed windows."""

from __future__ import annotations

import numpy as np
import pytest

from discovr_ray.config import DataConfig
from discovr_ray.data.window import choose_window
from discovr_ray.errors import ClipError


def data_config(**values: object) -> DataConfig:
    return DataConfig(**{"num_frames": 4, "frame_stride": 3, "reference_fps": 50.0, **values})


def test_stride_at_reference_fps_and_every_start_place() -> None:
    # 12 frames, span 10: it starts at 0, 1 or 2
    starts = [choose_window(12, 50, data_config(), position).indices.tolist() for position in (0.0, 0.34, 0.9999999)]
    assert starts == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


@pytest.mark.parametrize(
    ("fps", "indices"),
    [
        (100, [0, 6, 12, 18]),  # twice the rate, twice the stride: the same time
        (25, [0, 2, 3, 5]),  # 1.5 frames: rounded one by one, so the span keeps its length
        (30, [0, 2, 4, 5]),  # 1.8 frames
        (10, [0, 1, 2, 3]),  # 0.6 frames: never below 1, no frame twice
    ],
)
def test_stride_follows_the_frame_rate(fps: float, indices: list[int]) -> None:
    window = choose_window(19, fps, data_config(), 0.0)
    assert window.indices.tolist() == indices
    assert window.num_padded == 0


def test_reference_fps_of_zero_ignores_the_frame_rate() -> None:
    assert choose_window(50, 200, data_config(reference_fps=0.0), 0.0).indices.tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("policy", "num_frames", "indices", "num_padded"),
    [
        ("fit_stride", 7, [0, 2, 4, 6], 0),  # the largest step that fits
        ("fit_stride", 9, [0, 3, 5, 8], 0),  # 8 / 3 a frame
        ("fit_stride", 3, [0, 1, 2, 2], 1),
        ("repeat_last", 9, [0, 3, 6, 6], 1),
        ("repeat_last", 3, [0, 0, 0, 0], 3),
        ("loop", 9, [0, 3, 6, 0], 1),
        ("loop", 6, [0, 3, 0, 3], 2),
        ("loop", 3, [0, 0, 0, 0], 3),
    ],
)
def test_short_clips(policy: str, num_frames: int, indices: list[int], num_padded: int) -> None:
    window = choose_window(num_frames, 50, data_config(short_clip=policy), 0.7)
    assert window.indices.tolist() == indices
    assert window.num_padded == num_padded
    assert window.num_padded == 4 - len(set(indices))


def test_the_papers_window_on_a_short_video() -> None:
    # method.md, trap 12: of 64 frames at stride 3, 60 are distinct when the video has 180
    paper = DataConfig(short_clip="repeat_last")
    assert choose_window(180, 50, paper, 0.0).num_padded == 4
    assert choose_window(180, 50, DataConfig(short_clip="fit_stride"), 0.0).num_padded == 0
    assert choose_window(190, 50, paper, 0.99).indices[-1] == 189


@pytest.mark.parametrize("policy", ["fit_stride", "repeat_last", "loop"])
def test_every_index_lies_in_the_video(policy: str) -> None:
    for num_frames in range(2, 260, 7):
        for fps in (7.3, 29.97, 50.0, 133.3):
            for position in (0.0, 0.5, 1 - 2**-53):
                window = choose_window(num_frames, fps, DataConfig(short_clip=policy), position)
                assert window.indices.min() >= 0
                assert window.indices.max() < num_frames
                assert window.indices.shape == (64,)
                assert window.indices.dtype == np.int64
                assert window.num_padded == 64 - len(np.unique(window.indices))


@pytest.mark.parametrize(("num_frames", "fps"), [(1, 50.0), (0, 50.0), (100, 0.0), (100, float("nan")), (100, -5.0)])
def test_refused(num_frames: int, fps: float) -> None:
    with pytest.raises(ClipError, match=r"too few|frame rate"):
        choose_window(num_frames, fps, data_config(), 0.0)
