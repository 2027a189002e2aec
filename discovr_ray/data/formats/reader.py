"""What every format's reader offers, and what it says about a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.data.formats.policy import IngestPolicy

Frames = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

PIECE = 64  # frames held at once while a whole video is decoded
PIECE_BYTES = 128 * 2**20  # and their most bytes: headers that lie must not cost the machine's memory
MAX_SIDE = 4096  # pixels; more is a damaged header, and would be allocated before decoding fails


def frames_at_once(height: int, width: int, pixel_bytes: int = 1) -> int:
    """Frames of a piece: PIECE, fewer where they would take more than PIECE_BYTES."""
    return max(1, min(PIECE, PIECE_BYTES // (height * width * pixel_bytes)))


class VideoInfo(NamedTuple):
    format: str  # one of the reader's `formats`
    num_frames: int
    fps: float  # 0: the file does not say
    height: int  # pixels
    width: int


class Details(NamedTuple):
    """What a file says beyond its frames. None or "": it says nothing, and the adapter's word counts."""

    clip_id: str = ""
    patient_id: str = ""
    view: str = ""
    labels: str = "{}"  # a JSON object, added to the adapter's labels
    region: tuple[int, int, int, int] | None = None  # x0, y0, x1, y1 in pixels, ends excluded: the part to keep
    sector: tuple[int, ...] | None = None  # polygon x0, y0, x1, y1, ... in pixels of the frame; black outside of it
    cm_per_pixel: float | None = None
    anonymous: str = ""  # why there are no ids although the file's name must not become one; "": it may


class FormatReader(ABC):
    """Strict: a damaged frame is a ClipError, never a frame with wrong pixels. Readers keep no state."""

    formats: tuple[str, ...]  # every VideoInfo.format it returns
    rate_fields: str = ""  # " (...)", where a file would say its frame rate, for people who miss it

    @abstractmethod
    def recognises(self, data: bytes) -> bool:
        """Whether the first bytes are its own; cheap."""

    @abstractmethod
    def probe(self, data: bytes) -> VideoInfo | None:
        """Facts, frames counted, only the first one decoded; None leaves the file to the next reader.

        Errors:
            ClipError: the file cannot be used; the message is the reason.
        """

    @abstractmethod
    def pieces(self, data: bytes, format: str, wanted: Indices, num_frames: int) -> Iterator[Frames]:
        """The wanted frames (sorted, distinct), grey, in order, as one or more arrays [n, H, W]."""

    def check(self, data: bytes) -> None:
        """What decoding every frame does not reveal: frames that were repaired silently."""
        return

    def details(self, data: bytes, info: VideoInfo, policy: IngestPolicy) -> Details:
        """Beyond the frames. Errors: ClipError, the file is refused for what it says."""
        return Details()
