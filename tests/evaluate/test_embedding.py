"""Which temporal clips a video gives, how they are prepared, and what the encoder makes of them."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from barcode import barcode_frames, encode, read_barcodes

from discovr_ray.config import DataConfig
from discovr_ray.data.clip import load_clip
from discovr_ray.data.decode import probe
from discovr_ray.data.manifest import SCHEMA
from discovr_ray.errors import ClipError, FeaturesError
from discovr_ray.evaluate.embedding import (
    Preprocessing,
    check_manifest_fits,
    decode_video,
    embed_clips,
    preprocessing_of,
    source_sha256,
    windows_of,
)
from discovr_ray.model.vit import EncoderSpec
from discovr_ray.model.weights import make_card, random_encoder

PREPARED = Preprocessing(4, 64, 3, 0.0, "fit_stride", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 3)
SPEC = EncoderSpec(24, 2, 2, 2.0, 16, 2, 4, 32, True, 1e-6)


@pytest.fixture
def row(tmp_path: Path) -> dict[str, Any]:
    content = encode(barcode_frames(40))
    path = tmp_path / "a.avi"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return {"clip_id": "a", "uri": str(path), "num_bytes": len(content), "sha256": digest, **probe(content)._asdict()}


def test_windows_lie_in_the_middle_of_equal_parts(row: dict[str, Any]) -> None:
    # 40 frames, a window spans 10: 31 places, of which 1/6, 3/6 and 5/6 are 5, 15 and 25
    windows = windows_of(row, PREPARED)
    assert [window.indices.tolist() for window in windows] == [[5, 8, 11, 14], [15, 18, 21, 24], [25, 28, 31, 34]]
    assert windows_of(row, dataclasses.replace(PREPARED, clips_per_video=1))[0].indices[0] == 15


def test_a_short_video_gives_as_many_clips_as_it_has(row: dict[str, Any]) -> None:
    assert len(windows_of({**row, "num_frames": 11}, PREPARED)) == 2  # starts 0 and 1
    (window,) = windows_of({**row, "num_frames": 3}, PREPARED)
    assert (window.indices.tolist(), window.num_padded) == ([0, 1, 2, 2], 1)
    with pytest.raises(ClipError, match="too few"):
        windows_of({**row, "num_frames": 1}, PREPARED)


def test_a_videos_clips_are_those_of_training(row: dict[str, Any]) -> None:
    decoded = decode_video(row, PREPARED)
    assert decoded.frames is not None
    assert decoded.frames.shape == (3, 4, 64, 64)
    assert [read_barcodes(clip) for clip in decoded.frames] == [[5, 8, 11, 14], [15, 18, 21, 24], [25, 28, 31, 34]]
    assert (decoded.first_frames, decoded.padded_frames) == ([5, 15, 25], [0, 0, 0])
    for clip, position in zip(decoded.frames, (1 / 6, 3 / 6, 5 / 6), strict=True):
        assert np.array_equal(clip, load_clip(row, PREPARED.data, position).frames)


def test_what_is_wrong_with_a_video_is_its_reason(row: dict[str, Any]) -> None:
    content = Path(row["uri"]).read_bytes()
    Path(row["uri"]).write_bytes(content[:-1] + b"x")
    decoded = decode_video(row, PREPARED)
    assert (decoded.frames, decoded.outage) == (None, "")
    assert "changed since ingest" in decoded.reason
    assert row["uri"] not in decoded.reason  # a file's name may be a patient's
    Path(row["uri"]).unlink()
    assert "no such file" in decode_video(row, PREPARED).reason


def test_the_mean_over_patches_and_the_cls_token(row: dict[str, Any]) -> None:
    encoder = random_encoder(make_card(SPEC, DataConfig(), b""), seed=0)
    clips = np.random.default_rng(0).integers(0, 256, (5, 4, 32, 32)).astype(np.uint8)
    expected = encoder(torch.from_numpy(clips))
    for batch_size in (1, 2, 5, 9):
        found = embed_clips(encoder, clips, batch_size, "fp32")
        np.testing.assert_allclose(found.cls, expected.cls.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(found.patches, expected.patches.detach().numpy().mean(axis=1), atol=1e-5)
    coarse = embed_clips(encoder, clips, 2, "bf16")
    assert coarse.cls.dtype == np.float32
    assert 1e-5 < np.abs(coarse.cls - found.cls).max() < 0.1


def test_the_preparation_is_the_cards() -> None:
    data = DataConfig(frame_stride=5, reference_fps=0.0, short_clip="loop")
    prepared = preprocessing_of(make_card(SPEC, data, b""), 7)
    assert prepared.data == DataConfig(
        num_frames=4, image_size=32, frame_stride=5, reference_fps=0.0, short_clip="loop"
    )
    hashes = {prepared.sha256}
    for name, value in {"clips_per_video": 6, "frame_stride": 4, "mean": (0.0, 0.0, 0.0)}.items():
        hashes.add(dataclasses.replace(prepared, **{name: value}).sha256)
    assert len(hashes) == 4


def table(*rows: dict[str, Any]) -> pa.Table:
    plain = {"clip_id": "a", "width": 64, "height": 64, "fps": 50.0, "num_frames": 10, "region": None}
    return pa.Table.from_pylist([plain | row for row in rows], SCHEMA)


def test_videos_smaller_than_the_encoders_frames_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    check_manifest_fits(table({}), PREPARED)
    small = table({}, {"clip_id": "b", "width": 40}, {"clip_id": "c", "region": [10, 0, 40, 64]})
    with pytest.raises(FeaturesError, match=r"64 pixels a side, and 2 of 3 videos are smaller, such as 'c' with 30"):
        check_manifest_fits(small, PREPARED)
    caplog.set_level(logging.WARNING)
    check_manifest_fits(small, PREPARED, allow_enlarged=True)
    assert "2 of 3 videos are enlarged" in caplog.text


def test_slow_videos_are_told(caplog: pytest.LogCaptureFixture) -> None:
    scaled = dataclasses.replace(PREPARED, reference_fps=50.0)  # at 16 frames a second, 3 * 16 / 50 is below 1
    check_manifest_fits(table({"fps": 16.0}, {"clip_id": "b", "fps": 17.0}), scaled)
    assert "1 of 2 videos have fewer frames a second" in caplog.text


def test_where_a_file_lies_does_not_change_its_source(row: dict[str, Any]) -> None:
    row = dict.fromkeys(SCHEMA.names) | row
    assert source_sha256(row) == source_sha256({**row, "uri": "elsewhere", "offset": 7, "labels": "{}"})
    for name, value in {"sha256": "0", "region": [0, 0, 8, 8], "fps": 1.0, "num_frames": 3}.items():
        assert source_sha256(row) != source_sha256({**row, name: value})


def test_a_random_encoder_follows_from_its_seed() -> None:
    card = make_card(SPEC, DataConfig(frame_stride=7), b"weights of somebody")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (random_encoder(card, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    clips = torch.zeros(1, 4, 32, 32)
    assert torch.equal(first(clips).patches, again(clips).patches)
    assert not torch.allclose(first(clips).patches, other(clips).patches, atol=1e-3)
    assert first.card == again.card
    assert len({card.model_sha256, first.card.model_sha256, other.card.model_sha256}) == 3
    assert (first.card.encoder, first.card.frame_stride) == (SPEC, 7)


def test_the_models_hash_covers_what_is_computed_with_the_weights() -> None:
    card = make_card(SPEC, DataConfig(), b"weights")
    assert card.weights_sha256 == hashlib.sha256(b"weights").hexdigest()
    other_heads = dataclasses.replace(card, encoder=dataclasses.replace(SPEC, heads=4))
    assert card.model_sha256 != other_heads.model_sha256
    assert card.model_sha256 == dataclasses.replace(card, frame_stride=9, origin="x").model_sha256
