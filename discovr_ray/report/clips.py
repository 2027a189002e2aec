"""Sample clips as small animated pictures: the frame, the teacher's attention over it, the prototype map over it."""

from __future__ import annotations

import base64
import colorsys
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:  # it brings torch, which a page does not need
    from discovr_ray.report.run_files import Samples

Pixels = npt.NDArray[np.uint8]

GAP = 4  # white pixels between the three pictures
ATTENTION_COVER = 0.75  # opacity where attention is highest
PROTOTYPE_COVER = 0.45
QUALITY = 72  # of the lossy WebP
# black, violet, red, orange, pale yellow: grows in lightness, so it reads in grey as well
HEAT = np.array([[0, 0, 0], [87, 15, 109], [187, 55, 84], [249, 142, 8], [252, 255, 164]], np.float32)


class ClipPicture(NamedTuple):
    """One sample, ready for the page."""

    clip_id: str
    data_uri: str  # animated WebP, three pictures side by side
    width: int
    height: int
    shares: list[tuple[int, float]]  # prototype -> share of the clip's tokens, most frequent first


def draw_clips(samples: Samples, frame_ms: int) -> list[ClipPicture]:
    """All samples; one frame is shown for `frame_ms`."""
    pictures = []
    for place, clip_id in enumerate(samples.clip_ids):
        frames = samples.frames[place]
        stripes = _stripes(frames, samples.attention[place], samples.prototypes[place])
        ids, counts = np.unique(samples.prototypes[place], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shares = [(int(ids[i]), float(counts[i] / counts.sum())) for i in order]
        height, width = stripes.shape[1:3]
        pictures.append(ClipPicture(clip_id, animate(stripes, frame_ms), width, height, shares))
    return pictures


def colour_of(prototype: int) -> tuple[int, int, int]:
    """The same colour for a prototype in every clip and run; neighbours in number differ clearly in hue."""
    hue = (prototype * 0.6180339887) % 1
    lightness = (0.46, 0.58, 0.68)[prototype // 7 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def _stripes(frames: Pixels, attention: npt.NDArray[np.float32], prototypes: npt.NDArray[np.int32]) -> Pixels:
    """Grey frames [T, H, W] and token maps [T', h, w] -> colour pictures [T, H, 3 W + gaps, 3]."""
    num_frames, height, width = frames.shape
    token = np.arange(num_frames) * len(attention) // num_frames  # frames of a tubelet share its tokens
    grey = np.repeat(frames[..., None], 3, axis=-1)
    gap = np.full((num_frames, height, GAP, 3), 255, np.uint8)
    # against the strongest of the clip; a share of the sum would be dark in large clips
    heat = np.stack([_enlarged(item, height, width) for item in attention / max(float(attention.max()), 1e-12)])
    heat = np.clip(heat, 0, 1)[token][..., None]
    warm = _blend(grey, _heat_colours(heat[..., 0]), ATTENTION_COVER * heat)
    rows, columns = np.arange(height) * prototypes.shape[1] // height, np.arange(width) * prototypes.shape[2] // width
    ids, inverse = np.unique(prototypes, return_inverse=True)
    palette = np.array([colour_of(int(prototype)) for prototype in ids], np.float32)
    painted = palette[inverse.reshape(prototypes.shape)][:, rows][:, :, columns][token]
    mapped = _blend(grey, painted, np.float32(PROTOTYPE_COVER))
    return np.concatenate([grey, gap, warm, gap, mapped], axis=2)


def _blend(grey: Pixels, colour: npt.NDArray[np.float32], cover: npt.NDArray[np.float32] | np.float32) -> Pixels:
    return np.asarray(np.rint(grey * (1 - cover) + colour * cover), np.uint8)


def _enlarged(grid: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    picture = Image.fromarray(grid.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32)


def _heat_colours(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Values 0 to 1 -> RGB, linear between the stops of HEAT."""
    place = heat * (len(HEAT) - 1)
    low = np.minimum(place.astype(np.intp), len(HEAT) - 2)
    weight = (place - low)[..., None].astype(np.float32)
    return np.asarray(HEAT[low] * (1 - weight) + HEAT[low + 1] * weight, np.float32)


def animate(pictures: Pixels, frame_ms: int) -> str:
    """Frames [T, H, W] or [T, H, W, 3] -> a data URI of an animated WebP."""
    images = [Image.fromarray(picture) for picture in pictures]
    file = io.BytesIO()
    images[0].save(
        file, "WEBP", save_all=True, append_images=images[1:], duration=frame_ms, loop=0, quality=QUALITY, method=2
    )
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
