"""Self-supervised pretraining of echocardiography video encoders (DISCOVR) on Ray and DeepSpeed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discovr_ray.model.weights import load_encoder

__all__ = ["load_encoder"]


def __getattr__(name: str) -> object:
    """Import torch only when the encoder is asked for: the jobs' `--help` should not wait for it."""
    if name == "load_encoder":
        from discovr_ray.model.weights import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
