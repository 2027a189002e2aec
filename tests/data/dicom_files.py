"""Synthetic DICOM cines in every transfer syntax and colour space that is read, and echo screens with text and ECG."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gdcm
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

Array = npt.NDArray[np.uint8]

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
JPEG_2000 = (JPEG2000Lossless, JPEG2000)
LOSSLESS = (*NATIVE, JPEGLossless, JPEGLosslessSV1, JPEG2000Lossless, RLELossless)
TISSUE_2D = {"RegionSpatialFormat": 1, "RegionDataType": 1}
KEY = "0123456789abcdef" * 2
_FULL_RANGE = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def to_ybr(rgb: Array) -> Array:
    """[..., 3], full range ITU-R BT.601 as JPEG and DICOM's YBR_FULL use it."""
    return np.asarray(np.rint(rgb @ _FULL_RANGE.T + [0, 128, 128]).clip(0, 255), np.uint8)


def luma(rgb: Array) -> npt.NDArray[np.float64]:
    return np.asarray(rgb @ _FULL_RANGE[0])


def colour_frames(num_frames: int, height: int = 48, width: int = 64) -> Array:
    """RGB [T, H, W, 3]: smooth, strongly coloured, different in every frame; chroma constant in 2 x 2 pixels."""
    rng = np.random.default_rng(5)
    images = [
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((width // 2, height // 2), 1)
        for _ in range(num_frames)
    ]
    return np.stack([np.asarray(image).repeat(2, 0).repeat(2, 1) for image in images])


def grey_frames(num_frames: int, height: int = 48, width: int = 64) -> Array:
    """[T, H, W]: smooth, no two neighbours and no two frames alike."""
    rng = np.random.default_rng(6)
    images = [
        Image.fromarray(rng.integers(0, 256, (5, 7), np.uint8)).resize((width, height), 3) for _ in range(num_frames)
    ]
    return np.stack([np.asarray(image) for image in images])


def cine(
    frames: Array,
    syntax: UID = ExplicitVRLittleEndian,
    photometric: str = "MONOCHROME2",
    quality: int = 98,
    **attributes: Any,
) -> bytes:
    """A multi-frame ultrasound file.

    Args:
        frames: as they are stored, but for YBR_*: grey or palette indices [T, H, W], or RGB [T, H, W, 3].
        attributes: keywords of DICOM's dictionary; None takes one away that would be there.
    """
    dataset = basic_dataset(frames, photometric)
    dataset.file_meta.TransferSyntaxUID = syntax
    fill(dataset, attributes)
    if syntax in NATIVE:
        dataset.PixelData = native_bytes(frames, photometric, dataset.get("PlanarConfiguration", 0), syntax)
        dataset["PixelData"].VR = "OW" if is_swapped(frames, syntax) else "OB"
        return to_bytes(dataset)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        stored = to_ybr(frames) if photometric == "YBR_FULL" else frames
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PixelData = stored.tobytes() + b"\0" * (stored.size % 2)
        return by_gdcm(to_bytes(dataset), syntax)
    dataset.PixelData = encapsulate([encode(frame, syntax, photometric, quality, dataset) for frame in frames])
    dataset["PixelData"].VR = "OB"
    return to_bytes(dataset)


def basic_dataset(frames: Array, photometric: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    dataset.PatientID = "MRN 0001"
    dataset.Modality = "US"
    dataset.NumberOfFrames = len(frames)
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = 8 * frames.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    dataset.FrameTime = 20
    return dataset


def fill(dataset: Dataset, attributes: dict[str, Any]) -> None:
    for keyword, value in attributes.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            items = [Dataset() for _ in value]
            for item, content in zip(items, value, strict=True):
                fill(item, content)
            setattr(dataset, keyword, items)
        else:
            setattr(dataset, keyword, value)


def to_bytes(dataset: Dataset) -> bytes:
    syntax = dataset.file_meta.TransferSyntaxUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", UltrasoundMultiFrameImageStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    file = io.BytesIO()
    dataset.save_as(
        file,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    return file.getvalue()


def native_bytes(frames: Array, photometric: str, planar: int, syntax: UID) -> bytes:
    if photometric.startswith("YBR"):
        frames = to_ybr(frames)
    if photometric == "YBR_FULL_422":  # Y Y Cb Cr of two neighbours
        pairs = frames.reshape(*frames.shape[:2], -1, 2, 3)
        both = np.stack([pairs[..., 0, 0], pairs[..., 1, 0], pairs[..., 0, 1], pairs[..., 0, 2]], -1)
        return both.tobytes()
    if planar:
        frames = np.moveaxis(frames, 3, 1)
    data = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    if is_swapped(frames, syntax):
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    return data


def is_swapped(frames: Array, syntax: UID) -> bool:
    """Big-endian grey is written as 16-bit words (OW), so that both ways of big-endian pixels are there."""
    return syntax == ExplicitVRBigEndian and frames.ndim == 3


def encode(frame: Array, syntax: UID, photometric: str, quality: int, dataset: Dataset) -> bytes:
    """One frame's code stream."""
    if syntax == JPEGBaseline8Bit:
        if frame.ndim == 2:
            return bytes(simplejpeg.encode_jpeg(frame[..., None], quality, "GRAY", "Gray"))
        if photometric == "RGB":  # with Adobe's marker: components are R, G, B
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "JPEG", quality=quality, keep_rgb=True, subsampling=0)
            return file.getvalue()
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality, "RGB", "422"))
    if syntax in JPEG_2000:
        file = io.BytesIO()
        mixed = photometric in ("YBR_RCT", "YBR_ICT")
        image = Image.fromarray(to_ybr(frame) if photometric == "YBR_FULL" else frame)
        lossy = {"quality_mode": "rates", "quality_layers": [4]} if photometric == "YBR_ICT" else {}
        image.save(file, "JPEG2000", no_jp2=True, mct=int(mixed), irreversible=photometric == "YBR_ICT", **lossy)
        return file.getvalue()
    stored = to_ybr(frame) if photometric == "YBR_FULL" else frame
    properties = {
        "rows": dataset.Rows,
        "columns": dataset.Columns,
        "samples_per_pixel": dataset.SamplesPerPixel,
        "number_of_frames": 1,
        "bits_allocated": dataset.BitsAllocated,
        "bits_stored": dataset.BitsStored,
        "pixel_representation": 0,
        "photometric_interpretation": photometric,
        "planar_configuration": 0,
    }
    return get_encoder(RLELossless).encode(stored.tobytes(), encoding_plugin="pydicom", **properties)


def by_gdcm(data: bytes, syntax: UID) -> bytes:
    """The same file in another transfer syntax."""
    kinds = {
        JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
        JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    }
    with tempfile.TemporaryDirectory() as folder:
        source, target = str(Path(folder) / "a"), str(Path(folder) / "b")
        Path(source).write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(source)
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(target)
        assert writer.Write()
        return Path(target).read_bytes()


def palette(rgb: Sequence[tuple[int, int, int]], bits: int = 8) -> dict[str, Any]:
    """The attributes of a colour table of up to 256 colours, each channel 0 to 255."""
    entries = np.zeros((256, 3), np.uint16)
    entries[: len(rgb)] = rgb
    tables = (entries * 257).astype("<u2") if bits == 16 else entries.astype(np.uint8)
    attributes: dict[str, Any] = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        attributes[f"{name}PaletteColorLookupTableData"] = tables[:, channel].tobytes()
    return attributes


class Screen(NamedTuple):
    frames: Array  # [T, H, W]
    sector: npt.NDArray[np.bool_]  # [H, W], where the echo is
    text: npt.NDArray[np.bool_]  # [H, W], burned-in letters, ruler and grey bar
    ecg: npt.NDArray[np.bool_]  # [T, H, W], the moving line


def echo_screen(num_frames: int = 40, height: int = 240, width: int = 320, scrolling: bool = True) -> Screen:
    """A fan of moving speckle with a dark chamber, names in the corners, a grey bar, a counter, an ECG below."""
    rows, columns = np.indices((height, width))
    apex = (0.06 * height, width / 2)
    radius = np.hypot(rows - apex[0], columns - apex[1])
    angle = np.degrees(np.arctan2(columns - apex[1], rows - apex[0]))
    sector = (radius > 0.03 * height) & (radius < 0.8 * height) & (np.abs(angle) < 40)
    chamber = np.hypot(rows - 0.45 * height, (columns - 0.5 * width) * 1.4) < 0.14 * height
    rng = np.random.default_rng(3)
    frames = np.zeros((num_frames, height, width), np.uint8)
    ecg = np.zeros(frames.shape, bool)
    texture = np.asarray(
        Image.fromarray(rng.integers(0, 256, (height // 2, width // 2), np.uint8)).resize((width, height), 2), float
    )
    text = burned_in_text(height, width)
    for number in range(num_frames):
        beat = np.sin(2 * np.pi * number / 20)
        moved = np.roll(texture, (round(3 * beat), round(2 * beat)), (0, 1)) + rng.normal(0, 12, texture.shape)
        picture = np.where(chamber, 6 + moved / 40, moved * (1.1 - radius / height))
        frames[number] = np.where(sector, picture.clip(0, 255), 0)
        frames[number][text] = 230
        ecg[number] = ecg_trace(height, width, number if scrolling else 0)
        frames[number][ecg[number]] = 200
        counter = np.asarray(_drawn((60, 12), f"{number:04d}"))
        frames[number][height - 12 :, :60][counter] = 255
    return Screen(frames, sector, text, ecg)


def burned_in_text(height: int, width: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    for top, left, words in (
        (2, 2, "DOE^JANE"),
        (14, 2, "MRN 0001"),
        (2, width - 80, "ST. ELSEWHERE"),
        (14, width - 80, "21.11.2026"),
    ):
        letters = np.asarray(_drawn((min(80, width - left), 12), words))
        mask[top : top + 12, left : left + letters.shape[1]] |= letters
    mask[height // 3 : height // 3 + 60, width - 12 : width - 6] = True  # grey bar
    mask[20 : height - 40 : 10, width - 20 : width - 16] = True  # depth ruler
    return mask


def ecg_trace(height: int, width: int, shift: int) -> npt.NDArray[np.bool_]:
    """A line of two pixels in the lowest part, one beat per 80 pixels, three pixels further each frame."""
    phase = (np.arange(width) + 3 * shift) % 80
    spike, wave = np.exp(-(((phase - 30) / 2.5) ** 2)), np.exp(-(((phase - 50) / 6) ** 2))
    level = 0.93 * height - 0.06 * height * spike - 4 * wave
    image = Image.new("1", (width, height))
    ImageDraw.Draw(image).line([(int(x), float(y)) for x, y in enumerate(level)], fill=1, width=2)
    return np.asarray(image).copy()


def _drawn(size: tuple[int, int], words: str) -> Image.Image:
    image = Image.new("1", size)
    ImageDraw.Draw(image).text((1, 0), words, fill=1)
    return image
