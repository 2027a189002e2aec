"""The README of an exported encoder: what is known of it, and open fields for what only its owner knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from discovr_ray.model.weights import EncoderCard

OPEN = "**[to be filled in]**"
# addresses of storage and names of runs are nobody else's business
PRIVATE = {("data", "manifest"), ("model", "init_from")}
PUBLIC_SECTIONS = ("data", "mask", "model", "loss", "optim", "schedule", "engine")
MAX_METRICS = 60  # lines


@dataclass(frozen=True)
class CardFacts:
    """What is not in the encoder's files. Empty: an open field in the README."""

    name: str = "discovr-encoder"
    licence: str = ""  # an SPDX name, or a sentence
    intended_use: str = ""
    training_data: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)  # of the training, as Config.to_dict
    metrics: Mapping[str, Any] = field(default_factory=dict)  # nested; numbers are listed


def model_card(card: EncoderCard, facts: CardFacts, num_parameters: int, usage: str) -> str:
    """Markdown with the header that the Hugging Face hub reads; `usage` is a block of code."""
    return "\n".join(
        [
            *_header(facts),
            f"# {facts.name}",
            "",
            _summary(card),
            "",
            "## Use",
            "",
            usage,
            "",
            *_model(card, num_parameters),
            "## Training data",
            "",
            facts.training_data or f"{OPEN} Which patients, devices and views; consent and de-identification.",
            "",
            *_config(facts.config),
            "## Results",
            "",
            *(_metrics(facts.metrics) or ["No result is recorded with this encoder."]),
            "",
            "## Intended use",
            "",
            facts.intended_use or OPEN,
            "",
            "Not a medical device: features and everything computed from them are for research, not for diagnosis.",
            "",
            "## Limits",
            "",
            f"{OPEN} Groups of patients, devices and views that the training data lack; where it is known to fail.",
            "",
            "## Licence",
            "",
            facts.licence or f"{OPEN} The terms of the training data may forbid to share the weights.",
            "",
        ]
    )


def _summary(card: EncoderCard) -> str:
    if card.origin:
        return f"A video encoder for echocardiography. Where its weights come from: {card.origin}."
    return (
        "A video encoder for echocardiography: a clip becomes one CLS token and a grid of patch tokens. It was trained "
        "without labels, by the method of [DISCOVR](https://arxiv.org/abs/2506.11777), with discovr-ray."
    )


def _header(facts: CardFacts) -> list[str]:
    licence = facts.licence.lower() if facts.licence and " " not in facts.licence else "other"
    tags = ("echocardiography", "ultrasound", "video", "self-supervised", "discovr")
    return [
        "---",
        f"license: {licence}",
        "library_name: discovr-ray",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
        "",
    ]


def _model(card: EncoderCard, num_parameters: int) -> list[str]:
    spec = card.encoder
    rate = f"at {card.reference_fps:g} frames a second" if card.reference_fps else "whatever the frame rate"
    rows = {
        "architecture": f"ViT, {spec.depth} blocks, width {spec.width}, {spec.heads} heads, "
        f"{num_parameters / 1e6:.1f} M parameters",
        "tokens": f"{spec.tubelet_size} frames x {spec.patch_size} x {spec.patch_size} pixels; grid "
        f"{' x '.join(map(str, spec.grid))} (time, rows, columns), and a CLS token",
        "clip": f"{spec.num_frames} grey frames of {spec.image_size} x {spec.image_size} pixels, uint8",
        "frames taken": f"1 of {card.frame_stride}, {rate}; short videos: {card.short_clip}",
        "normalisation": f"built in: mean {list(card.mean)}, deviation {list(card.std)}, grey repeated to 3 channels",
        "optimiser steps": str(card.step) if card.step else "-",
        "weights sha256": f"`{card.weights_sha256}`",
        "model sha256": f"`{card.model_sha256}`",
    }
    return ["## Model", "", *_table(("", ""), rows), ""]


def _config(config: Mapping[str, Any]) -> list[str]:
    rows = {
        f"{section}.{name}": f"`{value}`"
        for section in PUBLIC_SECTIONS
        for name, value in config.get(section, {}).items()
        if (section, name) not in PRIVATE
    }
    if not rows:
        return []
    return [
        "<details><summary>Training configuration</summary>",
        "",
        *_table(("field", "value"), rows),
        "</details>",
        "",
    ]


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    numbers = dict(_numbers(metrics, ""))
    rows = {name: f"{value:.4g}" for name, value in list(numbers.items())[:MAX_METRICS]}
    more = [f"and {len(numbers) - MAX_METRICS} more"] if len(numbers) > MAX_METRICS else []
    return [*_table(("metric", "value"), rows), *more] if rows else []


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
