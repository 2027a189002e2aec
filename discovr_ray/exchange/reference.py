"""The authors' released weights -> our two files. Their names of an encoder's parameters are ours as well.

A file holds the whole pretraining model. One part is taken, every other key must be of a part that the model is known
to have: a key too many or too few means another model, whose encoder would load and be wrong.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from discovr_ray.config import MODEL_SIZES, DataConfig
from discovr_ray.data import storage
from discovr_ray.errors import CheckpointError, RunExistsError
from discovr_ray.exchange.reference_file import ReferenceFile, read_reference_file
from discovr_ray.model.blocks import sinusoid
from discovr_ray.model.vit import EncoderSpec
from discovr_ray.model.weights import CARD_FILE, WEIGHTS_FILE, load_encoder, make_card, pack, write_encoder

VIDEO_PARTS = ("video_teacher", "encoder")  # `encoder` is the video student
IMAGE_PARTS = ("image_teacher", "image_student")
PARTS = (*VIDEO_PARTS, *IMAGE_PARTS)
_ENDS = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias")
_QKV_BIASES = ("attn.q_bias", "attn.v_bias")
_IN_BLOCK = (
    *("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias"),
    *("norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
)
_HEADS = ("image_dino_head", "image_teacher_head", "video_dino_head", "video_teacher_head")


def _any(names: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, names))})"


# keys of the parts that are not taken
_KNOWN = re.compile(
    "|".join(
        [
            "mask_token|prototypes|image_center|video_center|encoder_to_decoder\\.weight",
            rf"{_any(PARTS)}\.{_any(_ENDS)}",
            rf"{_any((*VIDEO_PARTS, 'decoder'))}\.blocks\.\d+\.{_any((*_IN_BLOCK, *_QKV_BIASES))}",
            rf"{_any(IMAGE_PARTS)}\.blocks\.\d+\.{_any(_IN_BLOCK)}",
            r"decoder\.(?:norm|head)\.(?:weight|bias)",
            rf"{_any(_HEADS)}\.(?:mlp\.[024]\.(?:weight|bias)|last_layer\.weight_[gv])",
        ]
    )
)
NUM_FRAMES, IMAGE_SIZE, FRAME_STRIDE = 64, 112, 3  # of the released models, where the file does not say


@dataclass(frozen=True)
class ImportOptions:
    """What the weights alone do not say. None: what the file's arguments say, else the released models' value."""

    part: Literal["video_teacher", "encoder", "image_teacher", "image_student"] = "video_teacher"
    heads: int | None = None  # attention heads; by width: 12 for 768
    num_frames: int | None = None  # T
    image_size: int | None = None  # pixels
    frame_stride: int | None = None  # source frames
    reference_fps: float = 0.0  # the authors take every n-th frame, whatever the frame rate
    short_clip: Literal["fit_stride", "repeat_last", "loop"] = "repeat_last"  # as the authors do


class Imported(NamedTuple):
    spec: EncoderSpec
    state: dict[str, Tensor]  # of model.vit.Encoder
    data: DataConfig  # how clips are prepared


class ImportSummary(NamedTuple):
    encoder_uri: str
    spec: EncoderSpec
    num_parameters: int
    num_ignored: int  # keys of other parts
    origin: str


def import_weights(source: str, output: str, options: ImportOptions) -> ImportSummary:
    """Read the authors' file and write encoder.safetensors and encoder.json into the folder `output`.

    Args:
        source, output: local or remote.
    Errors:
        CheckpointError: as of read_reference_file and encoder_of.
        RunExistsError: the folder has an encoder already.
        StorageError: a path cannot be read or written.
    """
    output = storage.absolute(output)
    if storage.exists(storage.join(output, WEIGHTS_FILE)):
        raise RunExistsError(f"{output}: holds an encoder already; choose another folder")
    with tempfile.TemporaryDirectory(prefix="discovr-import-") as folder:
        path = storage.absolute(source)
        if storage.is_remote(source):
            path = str(Path(folder, "source.pth"))
            storage.get_file(source, path)
        file = read_reference_file(path)
        imported = encoder_of(file, options)
        weights = pack(imported.state)
        epoch = "" if file.epoch is None else f", epoch {file.epoch}"
        origin = f"{options.part} of {source.rpartition('/')[2]}{epoch}, sha256 {file.sha256}"
        write_encoder(folder, make_card(imported.spec, imported.data, weights, origin=origin), weights)
        load_encoder(folder)  # what is given away has been read once
        for name in (WEIGHTS_FILE, CARD_FILE):
            storage.put_file(str(Path(folder, name)), storage.join(output, name))
    return ImportSummary(
        encoder_uri=storage.join(output, WEIGHTS_FILE),
        spec=imported.spec,
        num_parameters=sum(value.numel() for value in imported.state.values()),
        num_ignored=len(file.state) - len(imported.state) - 1,  # the positions are taken, and not written
        origin=origin,
    )


def encoder_of(file: ReferenceFile, options: ImportOptions) -> Imported:
    """One part of a reference model as an encoder of ours.

    Errors:
        CheckpointError: a key is missing or unexpected, a value is not finite, the positions are not the fixed ones, or
            the sizes do not follow from file and options; names them all.
    """
    is_video = options.part in VIDEO_PARTS
    prefix = f"{options.part}."
    part = {name.removeprefix(prefix): value for name, value in file.state.items() if name.startswith(prefix)}
    _check_keys(file.state, part, options.part, is_video)
    spec = _spec(part, file.arguments, options, is_video)
    _check_values(part, spec, prefix)
    stride = options.frame_stride or _number(file.arguments, "sampling_rate") or FRAME_STRIDE
    data = DataConfig(frame_stride=stride, reference_fps=options.reference_fps, short_clip=options.short_clip)
    return Imported(spec, {name: value for name, value in part.items() if name != "pos_embed"}, data)


def _check_keys(state: Mapping[str, Tensor], part: Mapping[str, Tensor], name: str, is_video: bool) -> None:
    if not part:
        there = sorted({key.partition(".")[0] for key in state})
        raise CheckpointError(f"no part {name} in the file; there are: {', '.join(there[:20])}")
    places = [int(found.group(1)) for key in part if (found := re.match(r"blocks\.(\d+)\.", key))]
    has_bias = is_video and any(key.endswith(_QKV_BIASES) for key in part)
    in_block = (*_IN_BLOCK, *(_QKV_BIASES if has_bias else ()))
    expected = {*_ENDS, *(f"blocks.{i}.{key}" for i in range(max(places, default=0) + 1) for key in in_block)}
    missing = sorted(f"{name}.{key}" for key in expected - set(part))
    unexpected = sorted(f"{name}.{key}" for key in set(part) - expected)
    unexpected += sorted(key for key in state if not key.startswith(f"{name}.") and not _KNOWN.fullmatch(key))
    problems = [f"missing: {', '.join(missing)}"] if missing else []
    problems += [f"unexpected: {', '.join(unexpected)}"] if unexpected else []
    if problems:
        raise CheckpointError(f"the file is not of a model that this version knows; keys {'; '.join(problems)}")


def _spec(
    part: Mapping[str, Tensor], arguments: Mapping[str, Any], options: ImportOptions, is_video: bool
) -> EncoderSpec:
    kernel, positions, hidden = part["patch_embed.proj.weight"], part["pos_embed"], part["blocks.0.mlp.fc1.bias"]
    if kernel.ndim != 5 or kernel.shape[1] != 3 or kernel.shape[3] != kernel.shape[4] or positions.ndim != 3:
        raise CheckpointError(
            f"patch_embed.proj.weight {list(kernel.shape)} and pos_embed {list(positions.shape)}: must be "
            "[D, 3, tubelet, patch, patch] and [1, 1 + N, D]"
        )
    width, _, tubelet, patch, _ = kernel.shape
    heads = options.heads or _number(arguments, "encoder_num_heads", "num_heads")
    by_width = {size[0]: size[2] for size in MODEL_SIZES.values()}
    heads = heads or by_width.get(width, 0)
    if not heads or width % heads:
        raise CheckpointError(
            f"heads = {heads or 'unknown'}: must divide the width {width}; the weights do not tell, give --heads"
        )
    num_frames, image_size = _clip_size(positions.shape[1] - 1, tubelet, patch, arguments, options, is_video)
    return EncoderSpec(
        width=width,
        depth=len({key.split(".")[1] for key in part if key.startswith("blocks.")}),
        heads=heads,
        mlp_ratio=len(hidden) / width,
        patch_size=patch,
        tubelet_size=tubelet,
        num_frames=num_frames,
        image_size=image_size,
        qkv_bias="blocks.0.attn.q_bias" in part,
        norm_eps=1e-6 if is_video else 1e-5,
    )


def _clip_size(
    num_tokens: int, tubelet: int, patch: int, arguments: Mapping[str, Any], options: ImportOptions, is_video: bool
) -> tuple[int, int]:
    """Frames and pixels a side: several pairs make the same number of tokens."""
    pairs = [
        (num_tokens // side**2 * tubelet, side * patch)
        for side in range(1, int(num_tokens**0.5) + 1)
        if num_tokens % side**2 == 0 and (is_video or num_tokens == side**2)
    ]
    num_frames = (options.num_frames or _number(arguments, "num_frames")) if is_video else tubelet
    image_size = options.image_size or _number(arguments, "input_size")
    fitting = [pair for pair in pairs if num_frames in (None, pair[0]) and image_size in (None, pair[1])]
    if num_frames is None and image_size is None and (NUM_FRAMES, IMAGE_SIZE) in pairs:
        return NUM_FRAMES, IMAGE_SIZE
    if len(fitting) != 1:
        known = ", ".join(f"{frames} x {size}" for frames, size in pairs)
        raise CheckpointError(
            f"{num_tokens} tokens with num_frames = {num_frames or 'unknown'} and image_size = "
            f"{image_size or 'unknown'}: must be one of {known}; give --num-frames and --image-size"
        )
    return fitting[0]


def _number(arguments: Mapping[str, Any], *names: str) -> int | None:
    """The first of these arguments that is a positive whole number."""
    values = (arguments.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)


def _check_values(part: Mapping[str, Tensor], spec: EncoderSpec, prefix: str) -> None:
    broken = [prefix + key for key, value in part.items() if not torch.isfinite(value.float()).all()]
    if broken:
        raise CheckpointError(f"values that are not finite (NaN or infinite) in {', '.join(broken)}")
    positions = part["pos_embed"][0].float()
    expected = sinusoid(len(positions) - 1, spec.width)
    if positions.shape[1] != spec.width or positions[0].any() or not torch.allclose(positions[1:], expected, atol=1e-4):
        raise CheckpointError(f"{prefix}pos_embed: not the fixed sinusoids with a CLS row of zeros; another model")
