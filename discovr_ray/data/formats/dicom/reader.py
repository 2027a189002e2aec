"""DICOM cines as every other format: facts, grey frames on demand, and what the file says beyond them.

pydicom itself is only loaded when a file needs it; it takes a third of a second.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from discovr_ray.data.formats.dicom.attributes import FRAME_RATE, parse
from discovr_ray.data.formats.dicom.cine import read_cine
from discovr_ray.data.formats.dicom.details import read_details
from discovr_ray.data.formats.dicom.pixels import grey_frame
from discovr_ray.data.formats.dicom.timing import read_timing
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.data.formats.reader import Details, FormatReader, Frames, Indices, VideoInfo, frames_at_once
from discovr_ray.errors import ClipError


class DicomReader(FormatReader):
    """Files with the preamble of DICOM Part 10, which all archives write."""

    formats = ("dicom",)
    rate_fields = f" ({', '.join(FRAME_RATE)} are missing or 0)"

    def recognises(self, data: bytes) -> bool:
        return data[128:132] == b"DICM"

    def probe(self, data: bytes) -> VideoInfo:
        cine = read_cine(data)
        grey_frame(cine, 0)
        timing = read_timing(parse(data, FRAME_RATE).values, cine.num_frames)
        return VideoInfo(self.formats[0], cine.num_frames, timing.fps, cine.height, cine.width)

    def pieces(self, data: bytes, format: str, wanted: Indices, num_frames: int) -> Iterator[Frames]:
        cine = read_cine(data)
        if cine.num_frames != num_frames:
            raise ClipError(f"the video has {cine.num_frames} frames, {num_frames} expected")
        count = frames_at_once(cine.height, cine.width)
        for start in range(0, len(wanted), count):
            indices = wanted[start : start + count].tolist()
            piece = np.empty((len(indices), cine.height, cine.width), np.uint8)
            for place, index in zip(piece, indices, strict=True):
                place[:] = grey_frame(cine, index)
            yield piece

    def details(self, data: bytes, info: VideoInfo, policy: IngestPolicy) -> Details:
        return read_details(data, policy)
