"""Bytes of a file -> grey frames. Strict: a damaged frame is an error, never a frame with wrong pixels.

The first reader that knows the bytes takes the file; formats/video.py takes what no other one knows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from discovr_ray.data.formats.decord_reader import grey_pieces
from discovr_ray.data.formats.dicom.reader import DicomReader
from discovr_ray.data.formats.mjpeg import MjpegReader
from discovr_ray.data.formats.nifti import NiftiReader
from discovr_ray.data.formats.png_avi import PngReader
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.data.formats.reader import Details, FormatReader, Frames, Indices, VideoInfo
from discovr_ray.data.formats.video import VideoReader
from discovr_ray.errors import ClipError

MIN_FPS, MAX_FPS = 1, 1000  # a second; others are units taken for each other, such as a FrameTime in seconds
# in the order in which they are asked
_READERS: tuple[FormatReader, ...] = (MjpegReader(), PngReader(), NiftiReader(), DicomReader(), VideoReader())
_BY_FORMAT = {name: reader for reader in _READERS for name in reader.formats}


def probe(data: bytes, fps: float = 0.0) -> VideoInfo:
    """Facts of a video; frames are counted, not believed. Only the first frame is decoded (see check_all_frames).

    Args:
        fps: what is known from elsewhere; counts where the file says nothing. 0: nothing is known.
    Errors:
        ClipError: empty, truncated, no video, no frame, or no sane size or frame rate.
    """
    if not data:
        raise ClipError("the file is empty")
    answers = (reader.probe(data) for reader in _READERS if reader.recognises(data))
    info = next(answer for answer in answers if answer is not None)  # VideoReader never leaves a file to others
    info = info._replace(fps=info.fps or fps)
    if info.num_frames < 2:
        return info  # a still image needs no frame rate
    if not info.fps:
        hint = _BY_FORMAT[info.format].rate_fields
        raise ClipError(f"neither the file nor its data set says how many frames a second has{hint}")
    if not MIN_FPS <= info.fps <= MAX_FPS:  # written so that NaN fails
        raise ClipError(f"frame rate {info.fps:g}: {MIN_FPS} to {MAX_FPS} frames a second are believed")
    return info


def details(data: bytes, info: VideoInfo, policy: IngestPolicy) -> Details:
    """What the file says about patient, view, geometry and the part of the picture to keep.

    Errors:
        ClipError: the file is refused for what it says, or by the policy.
    """
    return _BY_FORMAT[info.format].details(data, info, policy)


def decode_frames(data: bytes, format: str, indices: npt.ArrayLike, num_frames: int, decoder: str = "auto") -> Frames:
    """Grey frames [T, H, W] at source size; a frame that is asked for twice is decoded once.

    Args:
        format: VideoInfo.format.
        indices: source frames, in any order.
        num_frames: frames that the file must hold.
        decoder: "auto" takes the fast path where there is one, "decord" never does for videos.
    Errors:
        ClipError: undecodable, or another number of frames.
    """
    wanted, places = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= num_frames:
        raise ClipError(f"frames {wanted[:1]} to {wanted[-1:]} asked for, the video has {num_frames}")
    pieces = list(_pieces(data, format, wanted, num_frames, decoder))
    frames = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if np.array_equal(places, np.arange(len(wanted))):
        return frames
    return np.ascontiguousarray(frames[places])


def check_all_frames(data: bytes, info: VideoInfo) -> None:
    """Decode every frame once, as ingest does, holding few of them at a time.

    Errors:
        ClipError: a frame cannot be decoded, or frames differ in size.
    """
    for _ in all_frames(data, info):
        pass


def all_frames(data: bytes, info: VideoInfo) -> Iterator[Frames]:
    """Every frame, grey, in order, as arrays [n, H, W]; errors as of check_all_frames."""
    wanted = np.arange(info.num_frames)
    pieces = _pieces(data, info.format, wanted, info.num_frames, "auto")
    _BY_FORMAT[info.format].check(data)
    for piece in pieces:
        if piece.shape[1:] != (info.height, info.width):
            raise ClipError(f"frames of {piece.shape[1:]} pixels in a video of {(info.height, info.width)}")
        yield piece


def _pieces(data: bytes, format: str, wanted: Indices, num_frames: int, decoder: str) -> Iterator[Frames]:
    """The wanted frames (sorted, distinct), in order, as one or more arrays [n, H, W]."""
    reader = _BY_FORMAT.get(format)
    if reader is None:
        raise ClipError(f"format {format!r}: this version reads {', '.join(sorted(_BY_FORMAT))}")
    if decoder == "decord" and isinstance(reader, MjpegReader | VideoReader):
        return grey_pieces(data, wanted, num_frames, may_seek=isinstance(reader, MjpegReader))
    return reader.pieces(data, format, wanted, num_frames)
