"""What an evaluation keeps of segmentation fits together, wherever it was killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from discovr_ray.data.adapters.listing import Trace
from discovr_ray.data.manifest import SCHEMA
from discovr_ray.evaluate import segmentation
from discovr_ray.evaluate.kept import KeptResults
from discovr_ray.evaluate.outlines import Labelled, LabelledFrame
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.targets import ClassRule
from discovr_ray.launch import segment
from discovr_ray.launch.encode_videos import EmbedOptions
from discovr_ray.launch.segment import Task, _Frames, _one_model

COUNT, SIZE = 12, 16


def test_a_result_never_finds_the_head_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the head and the result of other settings, and asked again with those of before."""
    monkeypatch.setattr(segmentation, "MIN_STEPS", 20)
    monkeypatch.setattr(segmentation, "WEIGHT_DECAYS", (0.1,))
    generator = np.random.default_rng(0)
    masks = np.zeros((COUNT, SIZE, SIZE), np.uint8)
    masks[:, 4:12, 4:12] = 1
    tokens = generator.normal(size=(COUNT, 16, 5)).astype(np.float16)
    ids = [f"v{place:02d}" for place in range(COUNT)]
    labelled = Labelled(("lv",), [LabelledFrame(clip_id, 0, (Trace(clip_id, 0, "lv"),)) for clip_id in ids], {})
    clips = pa.Table.from_pylist([{"clip_id": clip_id, "labels": "{}"} for clip_id in ids], SCHEMA)
    frames = _Frames(labelled.frames, masks, ["TRAIN"] * 6 + ["VAL"] * 3 + ["TEST"] * 3, ids)

    def asked(seed: int) -> tuple[list[list[float]], list[list[float]]]:
        """Dice that the result says, and head's weight."""
        settings = ProbeSettings(ClassRule("abnormal"), resamples=100, seed=seed)
        task = Task("", clips, {}, str(tmp_path), settings, EmbedOptions())
        result, _, head = _one_model(task, labelled, frames, ("encoder", tokens))
        assert head is not None
        return result.dice, head.weight.tolist()

    before = asked(0)
    assert asked(0) == before
    with monkeypatch.context() as forbidden:
        forbidden.setattr(segment, "fit_head", lambda *arguments: pytest.fail("fitted again"))
        assert asked(0) == before, "kept"
        forbidden.setattr(torch, "__version__", "0")
        with pytest.raises(pytest.fail.Exception, match="fitted again"):  # another torch, another head
            asked(0)
    with monkeypatch.context() as killed:
        killed.setattr(KeptResults, "put", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            asked(1)
    assert asked(0) == before
