"""Parity with the public reference where it follows its paper, and with the paper's formulas where it does not.

Reads every *.safetensors of the folder named by DISCOVR_GOLDEN (default: tests/golden). tests/golden/README.md says
what the files hold and where the tolerances come from.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from golden_models import (
    Golden,
    decoder_config,
    encoder_from,
    full_models,
    head_from,
    read_golden,
    visible_tokens,
)
from torch import Tensor
from torch.nn import functional

from discovr_ray.config import LossConfig, ModelConfig
from discovr_ray.model.blocks import sinusoid
from discovr_ray.model.decoder import Decoder
from discovr_ray.model.discovr import split_frames, tubelet_features
from discovr_ray.model.heads import Prototypes
from discovr_ray.model.vit import patchify
from discovr_ray.objective.distillation import distillation_loss, logit_sum, update_centre
from discovr_ray.objective.scd import scd_loss
from discovr_ray.objective.sinkhorn import assign, sinkhorn_scaling

FOLDER = Path(os.environ.get("DISCOVR_GOLDEN") or Path(__file__).parent / "golden")
FILES = [read_golden(path) for path in sorted(FOLDER.glob("*.safetensors"))]
KINDS = {"video_encoder", "image_encoder", "decoder", "dino_head", "sinkhorn", "dino_loss", "scd", "full_step"}

ACTIVATION = {"rtol": 0.0, "atol": 2e-5}
ASSIGNMENT = {"rtol": 0.0, "atol": 1e-6}
LOSS = {"rtol": 1e-5, "atol": 0.0}
GRADIENT_NORM = {"rtol": 1e-4, "atol": 1e-7}


def of_kind(*kinds: str) -> pytest.MarkDecorator:
    files = [golden for golden in FILES if golden.kind in kinds]
    return pytest.mark.parametrize("golden", files, ids=[golden.name for golden in files])


def close(ours: Tensor, theirs: Tensor, tolerance: dict[str, float]) -> None:
    torch.testing.assert_close(ours.detach().reshape(theirs.shape), theirs, **tolerance)


def test_every_file_is_of_a_known_kind() -> None:
    assert FILES, f"no *.safetensors in {FOLDER}"
    assert {golden.kind for golden in FILES} <= KINDS


@of_kind("video_encoder", "image_encoder")
def test_encoder(golden: Golden) -> None:
    encoder = encoder_from(golden)
    clips = golden["video" if golden.kind == "video_encoder" else "frames"]
    close(encoder.positions, golden["sd.pos_embed"][0, 1:], ACTIVATION)
    assert not golden["sd.pos_embed"][0, 0].any()  # the CLS token's position is zero
    full = encoder(clips)
    close(full.cls, golden["full.cls"], ACTIVATION)
    close(full.patches, golden["full.tokens"], ACTIVATION)
    masks = {"visible": "mask", "visible_tube": "mask_tube", "visible_free": "mask_free"}
    compared = 0
    for output, mask in masks.items():
        if mask in golden:
            tokens = encoder(clips, visible_tokens(golden[mask]))
            close(tokens.cls, golden[f"{output}.cls"], ACTIVATION)
            close(tokens.patches, golden[f"{output}.tokens"], ACTIVATION)
            compared += 1
    assert compared


@of_kind("video_encoder")
def test_patch_embedding(golden: Golden) -> None:
    encoder = encoder_from(golden)
    pixels = patchify(golden["video"], encoder.spec.tubelet_size, encoder.spec.patch_size)
    close(encoder.patch_embed(pixels), golden["patch_embed"], ACTIVATION)


@of_kind("decoder")
def test_decoder(golden: Golden) -> None:
    decoder = Decoder(decoder_config(golden))
    missing, unexpected = decoder.load_state_dict(golden.state(), strict=False)
    assert (set(missing), unexpected) == ({"mask_token", "project.weight"}, [])
    output = decoder.decode(golden["input"])
    close(output, golden["output"], ACTIVATION)
    close(output[:, -3:], golden["output_last3"], ACTIVATION)


@of_kind("dino_head")
def test_projection_head(golden: Golden) -> None:
    close(head_from(golden)(golden["input"]), golden["output"], ACTIVATION)


@of_kind("sinkhorn")
def test_sinkhorn(golden: Golden) -> None:
    outputs = [name for name in golden.tensors if ".q_eps" in name]
    assert outputs
    for name in outputs:
        scores = golden[name.split(".q_eps")[0] + ".scores"]
        epsilon, iterations = name.split(".q_eps")[1].split("_it")
        scaling = sinkhorn_scaling([scores], [torch.ones(len(scores))], float(epsilon), int(iterations))
        close(assign(scores, scaling, float(epsilon)), golden[name], ASSIGNMENT)


@of_kind("dino_loss")
def test_distillation_loss(golden: Golden) -> None:
    for case in golden.cases():
        teacher, student, centre = case["teacher_logits"], case["student_logits"], case["center"][0]
        weights = torch.ones(len(teacher))
        temperatures = (case["teacher_temp"].item(), case["student_temp"].item())
        loss = distillation_loss(teacher, student, centre, *temperatures, weights, len(teacher))
        close(loss, case["loss"], LOSS)
        # the reference multiplies its image loss by 256 / frames
        close(loss * 256 / len(teacher), case["loss_image_scaled"], LOSS)


@of_kind("dino_loss")
def test_centre_follows_raw_logits(golden: Golden) -> None:
    for case in golden.cases():
        teacher, centre = case["teacher_logits"], case["center"][0].clone()
        update_centre(centre, logit_sum(teacher, torch.ones(len(teacher))), len(teacher), momentum=0.8)
        close(centre, case["center_after_raw_logits_m0.8"], ACTIVATION)
        assert not torch.allclose(centre, case["center_after_reference_softmax"][0], atol=1e-3)


@of_kind("scd")
def test_semantic_cluster_distillation(golden: Golden) -> None:
    """Scores and codes as the reference; loss with soft codes, by formula."""
    for case in golden.cases():
        num_prototypes, width = case["prototypes_raw"].shape
        prototypes = Prototypes(ModelConfig(width=width, num_prototypes=num_prototypes))
        prototypes.load_state_dict({"weight": case["prototypes_raw"]})
        student = case["student_features"].clone().requires_grad_()
        video, image = prototypes(torch.stack([student, case["teacher_features"]]))
        close(video, case["student_scores"], ACTIVATION)
        close(image, case["teacher_scores"], ACTIVATION)

        ones = torch.ones(video.shape[:2].numel())
        video_v, image_v = (
            sinkhorn_scaling([side.detach().flatten(0, 1)], [ones], 0.05, 10) for side in (video, image)
        )
        close(assign(video, video_v, 0.05), case["student_q"], ASSIGNMENT)
        close(assign(image, image_v, 0.05), case["teacher_q"], ASSIGNMENT)

        loss = scd_loss(video, image, video_v, image_v, torch.ones(len(video)), len(video), LossConfig())
        close(loss, case["softtarget_loss_t_scores"] + case["softtarget_loss_s_scores"], LOSS)
        loss.backward()
        # the reference's gradients come from one of the two terms with argmax labels: ours must differ from them
        assert student.grad is not None
        assert not torch.allclose(student.grad, case["grad_student_features"], atol=1e-6)


@of_kind("scd")
def test_gradient_of_one_term_with_hard_codes_is_the_references(golden: Golden) -> None:
    """The scores' derivatives, checked with the reference's own labels."""
    for case in golden.cases():
        num_prototypes, width = case["prototypes_raw"].shape
        prototypes = Prototypes(ModelConfig(width=width, num_prototypes=num_prototypes))
        prototypes.load_state_dict({"weight": case["prototypes_unit"]})
        student = case["student_features"].clone().requires_grad_()
        logits = prototypes(student).flatten(0, 1) / 0.1
        loss = functional.cross_entropy(logits, case["teacher_q"].flatten(0, 1).argmax(-1))
        close(loss, case["loss_s_scores_vs_t_labels"], LOSS)
        loss.backward()
        assert student.grad is not None
        close(student.grad, case["grad_student_features"], ACTIVATION)


@of_kind("full_step")
def test_teacher_targets_and_decoder_of_a_whole_step(golden: Golden) -> None:
    student, teacher = full_models(golden)
    clips, mask = golden["video"], golden["global_mask"]
    visible = visible_tokens(mask)
    frames = teacher.image(split_frames(clips)).patches.unflatten(0, (len(clips), -1))
    close(tubelet_features(frames, tubelet_size=1), golden["image_teacher_tokens_normalized"], ACTIVATION)

    placed = student.decoder.place(student.decoder.project(student.video(clips, visible).patches), visible)
    num_tokens, width = placed.shape[1:]
    # the reference's decoder positions are those of the encoder shifted by one
    shifted = placed + sinusoid(num_tokens + 1, width)[1:]
    order = mask.argsort(dim=1, stable=True)[:, :, None].expand(-1, -1, width)  # visible tokens, then masked ones
    close(shifted.gather(1, order), golden["decoder_input"], ACTIVATION)
    close(student.decoder.decode(shifted), golden["decoder_output_natural_order"], ACTIVATION)


@of_kind("full_step")
def test_losses_and_gradients_of_a_whole_step(golden: Golden) -> None:
    student, teacher = full_models(golden)
    clips = golden["video"]
    targets = teacher(clips)
    video_visible = visible_tokens(torch.cat([golden["local_masks"], golden["global_mask"][None]]))
    output = student(clips, targets.image_features, video_visible, visible_tokens(golden["image_masks"]))
    # linear from 0.04 to 0.07 over 30 epochs, as a table of 30 rows
    temperature = min(0.07, 0.04 + 0.03 * golden["epoch"].item() / 29)
    num_clips, num_frames = clips.shape[0], clips.shape[0] * clips.shape[2]
    vid = distillation_loss(
        targets.video_logits,
        output.video_logits,
        teacher.video_centre,
        temperature,
        0.1,
        torch.ones(num_clips),
        num_clips,
    )
    img = distillation_loss(
        targets.image_logits,
        output.image_logits,
        teacher.image_centre,
        temperature,
        0.1,
        torch.ones(num_frames),
        num_frames,
    )
    close(vid, golden["video_dino_loss"], LOSS)
    close(img * 256 / num_frames, golden["image_dino_loss"], LOSS)

    # these parts see only the losses compared above; the rest also sees the reference's defective cluster loss
    (vid + img * 256 / num_frames).backward()
    names = {"video_dino_head": "video_head", "image_dino_head": "image_head", "image_student": "image"}
    compared = 0
    for reference, ours in names.items():
        for name, parameter in getattr(student, ours).named_parameters():
            assert parameter.grad is not None
            close(parameter.grad.norm(), golden[f"gradnorm.{reference}.{name}"], GRADIENT_NORM)
            compared += 1
    assert compared == sum(name.split(".")[1] in names for name in golden.tensors if name.startswith("gradnorm."))
