"""Projection head and prototypes: unit lengths, precision, and what trains."""

from __future__ import annotations

import torch
from tiny_model import tiny_config

from discovr_ray.model.heads import ProjectionHead, Prototypes

MODEL = tiny_config().model


def test_logits_are_cosines() -> None:
    """A feature along one of the directions has the logit 1 there; lengths of rows and features do not matter."""
    head = ProjectionHead(MODEL)
    head.mlp = torch.nn.Identity()  # type: ignore[assignment]
    rows = head.last_layer.weight_v
    logits = head(5 * rows)
    torch.testing.assert_close(logits.diagonal(), torch.ones(20))
    assert logits.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        rows.mul_(3)
    torch.testing.assert_close(head(rows), logits)


def test_only_directions_train() -> None:
    head = ProjectionHead(MODEL)
    assert {name.split(".")[-1] for name in head.last_layer.state_dict()} == {"weight_v"}
    head(torch.randn(3, 24)).square().sum().backward()
    rows = head.last_layer.weight_v
    assert rows.grad is not None
    torch.testing.assert_close((rows * rows.grad).sum(dim=1), torch.zeros(20), rtol=0, atol=1e-5)


def test_prototype_scores_are_fp32_cosines() -> None:
    prototypes = Prototypes(MODEL)
    features = torch.randn(2, 5, 24, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        scores = prototypes(features)
    assert (scores.shape, scores.dtype) == ((2, 5, 10), torch.float32)
    expected = torch.cosine_similarity(features[:, :, None], prototypes.weight, dim=-1)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
    scores.sum().backward()
    assert prototypes.weight.grad is not None
    assert features.grad is not None
