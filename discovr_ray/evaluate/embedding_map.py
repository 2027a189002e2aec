"""A map of embeddings: two numbers for each video, so that neighbours on paper are neighbours in feature space."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from discovr_ray.evaluate.features import FeatureArray

PERPLEXITY = 30.0  # about the neighbours that t-SNE looks at
COMPONENTS = 50  # principal components that t-SNE starts from, as its authors advise
FEW = 10  # videos below which t-SNE has nothing to arrange


def embedding_map(x: FeatureArray, seed: int) -> npt.NDArray[np.float64]:
    """Features [n, D] -> places [n, 2], by t-SNE on cosine distances; by principal components for few videos."""
    if len(x) < FEW:
        flat = np.zeros((len(x), 2))
        count = min(2, len(x) - 1, x.shape[1])
        if count > 0:
            flat[:, :count] = PCA(count, svd_solver="full").fit_transform(x.astype(np.float64))
        return flat
    unit = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
    count = min(COMPONENTS, len(x) - 1, x.shape[1])
    reduced = PCA(count, svd_solver="full", random_state=seed).fit_transform(unit.astype(np.float64))
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced), np.float64)
