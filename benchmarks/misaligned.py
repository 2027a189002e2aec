"""The reference's pairing of semantic cluster distillation, for the ablation table alone (docs/method.md, row 1).

It flattens the image tokens (t n) and keeps every second TOKEN instead of every second FRAME, and leaves the decoder's
output in the order [visible, masked]. So a video token is compared with another place at another time; of the paper's
tokens 0.2 % meet their own. No setting of the package does this: `misalign` changes the process that it runs in.
"""

from __future__ import annotations

from torch import Tensor

from discovr_ray.model import discovr
from discovr_ray.model.decoder import Decoder
from discovr_ray.model.discovr import tubelet_features

aligned_forward = Decoder.forward


def every_other_token(patches: Tensor, tubelet_size: int) -> Tensor:
    """Frame features [B, T, n, D] -> as many targets [B, N, D] as there are video tokens, of the wrong places."""
    return tubelet_features(patches, 1)[:, ::tubelet_size]


def visible_first(features: Tensor, visible: Tensor) -> Tensor:
    """Features [B, N, D] in their natural order -> those of the visible tokens [B, n], then the others."""
    order = reading_order(visible, features.shape[1])
    return features.gather(1, order[:, :, None].expand_as(features))


def reading_order(visible: Tensor, num_tokens: int) -> Tensor:
    """Natural index of each row of the reference's decoder output, [B, N]."""
    hidden = visible.new_ones(len(visible), num_tokens).scatter(1, visible, 0)
    return hidden.argsort(dim=1, stable=True)


def misaligned_forward(decoder: Decoder, tokens: Tensor, visible: Tensor) -> Tensor:
    return visible_first(aligned_forward(decoder, tokens, visible), visible)


def misalign() -> None:
    """Pair tokens as the reference does, in this process; Ray calls it in each of its workers."""
    discovr.tubelet_features = every_other_token
    Decoder.forward = misaligned_forward  # type: ignore[method-assign]
