"""Tokens of a frame are those of its own tubelet; the folder gives back what was put in, or says what is missing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from discovr_ray.errors import FeaturesError
from discovr_ray.evaluate import dense
from discovr_ray.evaluate.dense import (
    WHOLE,
    DenseFolder,
    DenseSettings,
    Item,
    dense_tokens,
    moment_of,
    tokens_per_clip,
    tokens_per_frame,
)
from discovr_ray.evaluate.embedding import preprocessing_of
from discovr_ray.exchange.encoders import open_encoder
from discovr_ray.exchange.pixels import PatchPixels
from discovr_ray.model.weights import PretrainedEncoder


@pytest.fixture(scope="module")
def encoder() -> PretrainedEncoder:
    return open_encoder("random:demo", 1)


@pytest.mark.parametrize("num_frames", [9, 40, 47, 200])
def test_a_moment_has_its_frame(num_frames: int, encoder: PretrainedEncoder) -> None:
    """Also at both ends, and where the stride steps over it; frames stay in order and in the video."""
    preprocessing = preprocessing_of(encoder.card, 1)
    for frame in range(num_frames):
        indices, place = moment_of({"num_frames": num_frames, "fps": 50.0}, frame, preprocessing)
        assert len(indices) == preprocessing.num_frames
        assert indices[place] == frame
        assert indices.min() >= 0
        assert indices.max() < num_frames
        assert (np.diff(indices) >= 0).all()
    if num_frames == 200:
        middle = moment_of({"num_frames": 200, "fps": 50.0}, 100, preprocessing)
        assert middle.place == preprocessing.num_frames // 2, "in the middle where there is room"


def test_tokens_are_those_of_the_frames_tubelet(encoder: PretrainedEncoder) -> None:
    spec = encoder.card.encoder
    shape = (2, spec.num_frames, spec.image_size, spec.image_size)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with torch.inference_mode():
        patches = encoder(torch.from_numpy(frames)).patches
    grid = patches.unflatten(1, spec.grid).numpy()
    found = dense_tokens(encoder, frames, [5, 0], whole=False, precision="fp32")
    assert found.shape == (2, tokens_per_frame(encoder), spec.width)
    assert np.array_equal(found[0], grid[0, 5 // spec.tubelet_size].reshape(-1, spec.width))
    assert np.array_equal(found[1], grid[1, 0].reshape(-1, spec.width))
    whole = dense_tokens(encoder, frames, [0, 0], whole=True, precision="fp32")
    assert whole.shape == (2, tokens_per_clip(encoder), spec.width)
    # parts of the time have equal sizes here, so the mean over them is that over all; sums in another order
    assert np.allclose(whole.mean(axis=1), patches.mean(dim=1).numpy(), atol=1e-5)


def test_pixels_of_patches_are_the_frames_own(encoder: PretrainedEncoder) -> None:
    spec = encoder.card.encoder
    pixels = PatchPixels(encoder.card).eval()
    frames = np.zeros((1, spec.num_frames, spec.image_size, spec.image_size), np.uint8)
    frames[0, :2, : spec.patch_size, spec.patch_size : 2 * spec.patch_size] = 255
    found = dense_tokens(pixels, frames, [0], whole=False, precision="fp32")
    assert found.shape == (1, tokens_per_frame(encoder), spec.tubelet_size * spec.patch_size**2)
    assert (found[0, 1] == 1).all()
    assert not np.delete(found[0], 1, axis=0).any()
    assert pixels.card.model_sha256 != encoder.card.model_sha256


def test_the_folder_gives_back_what_was_put_in(encoder: PretrainedEncoder, tmp_path: Path) -> None:
    settings = DenseSettings("a" * 64, preprocessing_of(encoder.card, 1), "fp32", 3, 2)
    folder = DenseFolder(str(tmp_path), settings)
    folder.claim()
    items = [Item("b", 4, "s"), Item("a", 9, "s"), Item("a", WHOLE, "s")]
    tokens = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    folder.write_part(items[:2], tokens[:2])
    folder.write_part(items[2:], tokens[2:])
    assert folder.done() == set(items)
    assert np.array_equal(folder.read([items[1], items[0]]), tokens[[1, 0]])
    with pytest.raises(FeaturesError, match="1 of 2 items have no tokens"):
        folder.read([items[0], Item("b", 4, "the file has changed")])
    for bad in (np.nan, 1e6):
        with pytest.raises(FeaturesError, match=r"not finite .* of clip 'a'"):
            folder.write_part(items[1:2], np.full((1, 2, 3), bad, np.float32))
    folder.claim()  # again, as a second call does
    with pytest.raises(FeaturesError, match=r"model_sha256 a+ there, b+ now"):
        DenseFolder(str(tmp_path), settings._replace(model_sha256="b" * 64)).claim()
    with pytest.raises(FeaturesError, match="width 3 there, 5 now"):
        DenseFolder(str(tmp_path), settings._replace(width=5)).claim()
    next(tmp_path.glob("parts/*.parquet")).write_bytes(b"cut")
    with pytest.raises(FeaturesError, match="damaged"):
        folder.done()


def test_parts_are_not_read_far_ahead(
    encoder: PretrainedEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread pool reads all that it is given however slowly that is taken, so memory would hold the whole folder."""
    folder = DenseFolder(str(tmp_path), DenseSettings("a" * 64, preprocessing_of(encoder.card, 1), "fp32", 3, 2))
    items = [Item(str(number), 4, "s") for number in range(3 * dense.READ_THREADS)]
    for item in items:
        folder.write_part([item], np.zeros((1, 2, 3), np.float32))
    given: list[int] = []

    class Pool(ThreadPoolExecutor):
        def map(self, work: Any, uris: Any) -> Any:  # type: ignore[override]
            given.append(len(list(uris)))
            return super().map(work, uris)

    monkeypatch.setattr(dense, "ThreadPoolExecutor", Pool)
    assert folder.done() == set(items)
    assert given == [dense.READ_THREADS] * 3
