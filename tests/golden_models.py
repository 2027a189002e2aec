"""Our modules built from golden files: sizes from the tensors, weights under the reference's names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from discovr_ray.config import Config, DataConfig, ModelConfig
from discovr_ray.model.discovr import Student, Teacher
from discovr_ray.model.heads import ProjectionHead
from discovr_ray.model.vit import Encoder, EncoderSpec


class Golden(NamedTuple):
    name: str
    kind: str
    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:  # type: ignore[override]
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """State dict of the part `prefix`, without the fixed positions and gains that our modules do not store."""
        start = f"sd.{prefix}"
        return {
            name.removeprefix(start): value
            for name, value in self.tensors.items()
            if name.startswith(start) and not name.endswith(("pos_embed", "weight_g"))
        }

    def cases(self) -> Iterator[dict[str, Tensor]]:
        for case in sorted({name.split(".")[0] for name in self.tensors}):
            yield {name.split(".", 1)[1]: value for name, value in self.tensors.items() if name.startswith(case + ".")}


def read_golden(path: Path) -> Golden:
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, this is no dict
    return Golden(path.stem, metadata.get("kind") or path.stem.rsplit("_", 1)[0], metadata, tensors)


def visible_tokens(mask: Tensor) -> Tensor:
    """Masks [..., N] (1: hidden, equal counts) -> indices of the visible tokens [..., n], ascending."""
    shown = mask == 0
    return shown.nonzero()[:, -1].view(*mask.shape[:-1], int(shown.flatten(0, -2)[0].sum()))


def num_blocks(state: dict[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def encoder_from(golden: Golden) -> Encoder:
    state = golden.state()
    encoder = Encoder(encoder_spec(golden, state, golden.kind == "video_encoder", int(golden.metadata["num_heads"])))
    encoder.load_state_dict(state)
    return encoder


def encoder_spec(golden: Golden, state: dict[str, Tensor], is_video: bool, heads: int) -> EncoderSpec:
    clips = golden["frames"] if "frames" in golden else golden["video"]
    width, _, tubelet, patch, _ = state["patch_embed.proj.weight"].shape
    return EncoderSpec(
        width=width,
        depth=num_blocks(state),
        heads=heads,
        mlp_ratio=len(state["blocks.0.mlp.fc1.bias"]) / width,
        patch_size=patch,
        tubelet_size=tubelet,
        num_frames=clips.shape[2],
        image_size=clips.shape[-1],
        qkv_bias="blocks.0.attn.q_bias" in state,
        norm_eps=1e-6 if is_video else 1e-5,
    )


def decoder_config(golden: Golden) -> Config:
    """A config whose decoder has the file's sizes; the number of tokens does not matter to `decode`."""
    state = golden.state()
    output_width, width = state["head.weight"].shape
    return Config(
        data=DataConfig(num_frames=2, image_size=32),
        model=ModelConfig(
            width=output_width,
            depth=1,
            heads=1,
            mlp_ratio=len(state["blocks.0.mlp.fc1.bias"]) / width,
            decoder_width=width,
            decoder_depth=num_blocks(state),
            decoder_heads=int(golden.metadata["num_heads"]),
        ),
    )


def head_from(golden: Golden) -> ProjectionHead:
    state = golden.state()
    assert (golden["sd.last_layer.weight_g"] == 1).all()
    hidden, width = state["mlp.0.weight"].shape
    outputs, bottleneck = state["last_layer.weight_v"].shape
    head = ProjectionHead(
        ModelConfig(width=width, head_hidden=hidden, head_bottleneck=bottleneck, head_outputs=outputs)
    )
    head.load_state_dict(state)
    return head


def full_models(golden: Golden, momentum: float = 0.99) -> tuple[Student, Teacher]:
    """Student and teachers of a full step. The reference updates its teachers before it uses them: so do we, here."""
    config = full_config(golden)
    student, teacher = Student(config), Teacher(config)
    parts = {
        "video": ("encoder.", "video_teacher."),
        "image": ("image_student.", "image_teacher."),
        "video_head": ("video_dino_head.", "video_teacher_head."),
        "image_head": ("image_dino_head.", "image_teacher_head."),
    }
    for part, (of_student, of_teacher) in parts.items():
        getattr(student, part).load_state_dict(golden.state(of_student))
        averaged = {
            name: value.lerp(golden.state(of_student)[name], 1 - momentum)
            for name, value in golden.state(of_teacher).items()
        }
        getattr(teacher, part).load_state_dict(averaged)
    student.prototypes.load_state_dict({"weight": golden["sd.prototypes"]})
    extra = {"project.weight": golden["sd.encoder_to_decoder.weight"], "mask_token": golden["sd.mask_token"]}
    student.decoder.load_state_dict({**golden.state("decoder."), **extra})
    teacher.video_centre.copy_(golden["sd.video_center"][0])
    teacher.image_centre.copy_(golden["sd.image_center"][0])
    torch.testing.assert_close(teacher.video.cls_token, golden["video_teacher.cls_token_after"], rtol=0, atol=1e-6)
    return student, teacher


def full_config(golden: Golden) -> Config:
    video, decoder = golden.state("encoder."), golden.state("decoder.")
    head = golden.state("video_dino_head.")
    spec = encoder_spec(golden, video, True, int(golden.metadata["encoder_num_heads"]))
    hidden, width = head["mlp.0.weight"].shape
    outputs, bottleneck = head["last_layer.weight_v"].shape
    return Config(
        data=DataConfig(num_frames=spec.num_frames, image_size=spec.image_size),
        model=ModelConfig(
            width=width,
            depth=spec.depth,
            heads=spec.heads,
            mlp_ratio=spec.mlp_ratio,
            patch_size=spec.patch_size,
            tubelet_size=spec.tubelet_size,
            video_qkv_bias=spec.qkv_bias,
            decoder_width=decoder["norm.weight"].shape[0],
            decoder_depth=num_blocks(decoder),
            decoder_heads=int(golden.metadata["decoder_num_heads"]),
            head_hidden=hidden,
            head_bottleneck=bottleneck,
            head_outputs=outputs,
            num_prototypes=len(golden["sd.prototypes"]),
        ),
    )
