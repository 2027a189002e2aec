"""Students and teachers: shapes, order of frames and tokens, where gradients go."""

from __future__ import annotations

import torch
from tiny_model import random_clips, tiny_config
from torch import Tensor

from discovr_ray.model.discovr import Student, StudentOutput, Teacher, explain, split_frames, tubelet_features
from discovr_ray.model.masks import image_visible, video_visible
from discovr_ray.objective.scd import scd_loss
from discovr_ray.objective.sinkhorn import sinkhorn_scaling

CONFIG = tiny_config()
KEYS = torch.tensor([11, 22])


def models() -> tuple[Student, Teacher]:
    torch.manual_seed(0)
    return Student(CONFIG), Teacher(CONFIG).eval()


def run(student: Student, teacher: Teacher, clips: Tensor) -> StudentOutput:
    features = teacher(clips).image_features
    output: StudentOutput = student(clips, features, video_visible(KEYS, 0, CONFIG), image_visible(KEYS, 0, CONFIG))
    return output


def test_shapes() -> None:
    student, teacher = models()
    clips = random_clips(CONFIG, 2)
    targets, output = teacher(clips), run(student, teacher, clips)
    assert [tuple(value.shape) for value in targets] == [(2, 20), (2, 24), (8, 20), (2, 8, 24)]
    assert [tuple(value.shape) for value in output] == [(2, 2, 20), (3, 8, 20), (2, 8, 10), (2, 8, 10)]


def test_without_views_only_the_scores_are_computed() -> None:
    student, teacher = models()
    clips = random_clips(CONFIG, 2)
    visible = video_visible(KEYS, 0, CONFIG)
    features = teacher(clips).image_features
    output = student(clips, features, visible[-1:], image_visible(KEYS, 0, CONFIG)[:0])
    assert (output.video_logits.shape, output.image_logits.shape) == ((0, 2, 20), (0, 8, 20))
    whole = run(student, teacher, clips)
    torch.testing.assert_close(output.video_scores, whole.video_scores, rtol=0, atol=1e-6)
    torch.testing.assert_close(output.image_scores, whole.image_scores)


def test_frames_run_clip_by_clip() -> None:
    clips = torch.arange(2 * 4).view(2, 1, 4, 1, 1).expand(-1, 3, -1, 2, 2)
    frames = split_frames(clips)
    assert frames.shape == (8, 3, 1, 2, 2)
    assert frames[:, 0, 0, 0, 0].tolist() == list(range(8))


def test_features_of_a_tubelet_by_hand() -> None:
    """Two patches: standardised over the patches they are -1/sqrt(2) and 1/sqrt(2), or the reverse; then the mean."""
    rising, falling = [[0.0], [2.0]], [[5.0], [1.0]]
    patches = torch.tensor([[rising, rising, rising, falling]])  # [B=1, T=4, n=2, D=1]
    high = 0.5**0.5
    expected = torch.tensor([[[-high], [high], [0.0], [0.0]]])
    torch.testing.assert_close(tubelet_features(patches, 2), expected, rtol=0, atol=1e-5)


def test_image_features_stand_at_the_video_tokens_places() -> None:
    """Changing one patch of frame 3 moves, of the tubelets, the second alone."""
    _, teacher = models()
    clips = random_clips(CONFIG, 1)
    before = teacher(clips).image_features
    clips[:, :, 3, :8, 8:] += 1
    moved = (teacher(clips).image_features - before).abs().amax(dim=(0, 2))
    assert not moved[:4].any()
    assert moved[4:].argmax() == 1  # row 0, column 1


def test_scd_trains_video_decoder_and_prototypes_alone() -> None:
    student, teacher = models()
    output = run(student, teacher, random_clips(CONFIG, 2))
    ones = torch.ones(16)
    scalings = [
        sinkhorn_scaling([side.detach().flatten(0, 1)], [ones], 0.05, 10)
        for side in (output.video_scores, output.image_scores)
    ]
    scd_loss(output.video_scores, output.image_scores, *scalings, torch.ones(2), 2, CONFIG.loss).backward()
    trained = {name.split(".")[0] for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert trained == {"video", "decoder", "prototypes"}


def test_every_student_parameter_is_trained_and_no_teacher_one() -> None:
    student, teacher = models()
    output = run(student, teacher, random_clips(CONFIG, 2))
    sum(value.square().sum() for value in output).backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_teacher_parameters_have_their_students_names() -> None:
    student, teacher = models()
    shapes = {name: parameter.shape for name, parameter in student.named_parameters()}
    for name, parameter in teacher.named_parameters():
        assert shapes[name] == parameter.shape
    assert {name for name in shapes if not name.startswith(("decoder.", "prototypes."))} == {
        name for name, _ in teacher.named_parameters()
    }
    assert set(dict(teacher.named_buffers(remove_duplicate=True))) >= {"video_centre", "image_centre"}


def test_weight_decay_leaves_vectors_tokens_and_prototypes_alone() -> None:
    student, _ = models()
    kept = student.no_weight_decay()
    assert {"video.cls_token", "image.cls_token", "decoder.mask_token", "prototypes.weight"} <= kept
    decayed = {name for name, _ in student.named_parameters()} - kept
    assert {name.rsplit(".", 1)[-1] for name in decayed} == {"weight", "weight_v"}
    assert not [name for name in decayed if "norm" in name]


def test_same_seed_same_weights() -> None:
    first, second = models()[0].state_dict(), models()[0].state_dict()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_explanation() -> None:
    student, teacher = models()
    clips = random_clips(CONFIG, 2)
    explanation = explain(teacher, student.prototypes, clips)
    assert explanation.attention.shape == (2, 8)
    features = teacher(clips).image_features
    nearest = torch.cosine_similarity(features[:, :, None], student.prototypes.weight, dim=-1).argmax(-1)
    assert torch.equal(explanation.prototypes, nearest)
