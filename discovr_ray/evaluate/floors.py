"""What a number must beat: an encoder that has learnt nothing, and the pixels themselves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from sklearn.decomposition import PCA

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.features import FeatureArray
from discovr_ray.model.vit import Encoder
from discovr_ray.model.weights import CARD_FILE, WEIGHTS_FILE, EncoderCard

PIXEL_COMPONENTS = 128  # of the principal components


def write_random_encoder(folder: Path, card: EncoderCard, seed: int) -> None:
    """Write an encoder of the same architecture and preprocessing with weights as they are before training.

    The same seed gives the same file, so features of it can be kept.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = Encoder(card.encoder).state_dict()
    weights = save(dict(sorted(state.items())))
    found = dataclasses.replace(card, step=0, weights_sha256=hashlib.sha256(weights).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(weights)
    (folder / CARD_FILE).write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n")


def pixel_features(pixels: FeatureArray, train: npt.NDArray[np.intp], seed: int) -> FeatureArray:
    """Pixels of videos [n, P] -> their principal components [n, at most PIXEL_COMPONENTS], found on rows `train` alone.

    Errors:
        EvaluationError: fewer than 2 training videos, or all are equal.
    """
    known = pixels[train].astype(np.float64)
    if len(known) < 2 or not known.std(axis=0).any():
        raise EvaluationError(f"raw pixels: {len(known)} training videos, of which two must differ")
    count = min(PIXEL_COMPONENTS, len(known) - 1, known.shape[1])
    model = PCA(count, svd_solver="randomized", random_state=seed).fit(known)
    return np.asarray(model.transform(pixels.astype(np.float64)), np.float32)
