"""What a DICOM file is refused for, what is kept of its screen, and what it may say: regions, sector, ids, labels."""

from __future__ import annotations

import hashlib
import hmac
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import KEY, TISSUE_2D, Array, Screen, cine, echo_screen
from pydicom.sr.codedict import codes
from pydicom.uid import JPEGBaseline8Bit

from discovr_ray.data.clip import keep_echo
from discovr_ray.data.decode import details, probe
from discovr_ray.data.formats.dicom.attributes import ALLOWED
from discovr_ray.data.formats.dicom.details import VIEWS
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.data.formats.reader import Details
from discovr_ray.errors import ClipError, ConfigError

SCREEN = echo_screen(24)
POLICY = IngestPolicy(id_key=KEY)
FRAMED = {"RegionLocationMinX0": 40, "RegionLocationMinY0": 10, "RegionLocationMaxX1": 279, "RegionLocationMaxY1": 209}
SPACING = {"PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3, "PhysicalDeltaX": 0.05, "PhysicalDeltaY": 0.05}
PICTURE = TISSUE_2D | FRAMED | SPACING


def details_of(data: bytes, policy: IngestPolicy = POLICY) -> Details:
    return details(data, probe(data), policy)


def regions(*items: dict[str, Any]) -> bytes:
    return cine(SCREEN.frames, SequenceOfUltrasoundRegions=list(items))


# --- regions


def test_region_and_spacing() -> None:
    found = details_of(regions(PICTURE))
    assert found.region == (40, 10, 280, 210)  # the last pixel is in it
    assert found.cm_per_pixel == 0.05
    ecg = {"RegionSpatialFormat": 4, "RegionDataType": 10} | FRAMED
    assert details_of(regions(ecg, PICTURE)).region == (40, 10, 280, 210)


def test_an_item_that_describes_no_region_is_none() -> None:
    """As GDCM writes it: nothing but a spacing, of which nobody knows where it holds."""
    found = details_of(regions(SPACING))
    assert (found.cm_per_pixel, found.sector is not None) == (None, True)
    assert details_of(regions(SPACING, PICTURE)).region == (40, 10, 280, 210)
    with pytest.raises(ClipError, match="RegionLocationMinX0 is missing"):
        details_of(regions(TISSUE_2D))


@pytest.mark.parametrize(
    "spacing",
    [{}, SPACING | {"PhysicalUnitsXDirection": 4}, SPACING | {"PhysicalDeltaY": 0.06}, SPACING | {"PhysicalDeltaX": 0}],
)
def test_spacing_is_left_out_where_it_is_no_single_number(spacing: dict[str, Any]) -> None:
    assert details_of(regions(TISSUE_2D | FRAMED | spacing)).cm_per_pixel is None


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([PICTURE, FRAMED | {"RegionSpatialFormat": 3, "RegionDataType": 3}], "^spectral Doppler"),
        ([PICTURE, FRAMED | {"RegionSpatialFormat": 1, "RegionDataType": 4}], "^spectral Doppler"),
        ([PICTURE, FRAMED | {"RegionSpatialFormat": 2, "RegionDataType": 1}], "^M-mode"),
        ([PICTURE, FRAMED | {"RegionSpatialFormat": 1, "RegionDataType": 2}], "^colour Doppler"),
        ([FRAMED | {"RegionSpatialFormat": 5, "RegionDataType": 10}], "no 2-D picture"),
        ([PICTURE | {"RegionLocationMinX0": 280}], "outside of the picture"),
        ([PICTURE | {"RegionLocationMaxX1": 140}, PICTURE | {"RegionLocationMinX0": 141}], "side by side"),
    ],
)
def test_clips_that_are_no_plain_2d_picture(items: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(ClipError, match=reason):
        details_of(regions(*items))


def test_colour_doppler_is_kept_on_request() -> None:
    box = {"RegionSpatialFormat": 1, "RegionDataType": 2} | FRAMED | {"RegionLocationMaxX1": 120}
    data = regions(box, PICTURE)
    assert details_of(data, IngestPolicy(color="keep", id_key=KEY)).region == (40, 10, 280, 210)


# --- colours where no region tells


def in_colour(screen: Screen) -> Array:
    return np.repeat(screen.frames[..., None], 3, -1)


def test_colour_doppler_without_regions_is_seen() -> None:
    frames = in_colour(SCREEN)
    frames[8:, 100:125, 130:170] = (220, 40, 10)  # a jet: 1.3 % of the screen, in two thirds of the frames
    for data in (cine(frames, photometric="RGB"), cine(frames, JPEGBaseline8Bit, "YBR_FULL_422", quality=90)):
        with pytest.raises(ClipError, match="colour Doppler"):
            details_of(data)
        assert details_of(data, IngestPolicy(color="keep", id_key=KEY)).sector


def test_tinted_pictures_and_coloured_logos_are_no_doppler() -> None:
    tinted = (in_colour(SCREEN) * np.array([1.0, 0.92, 0.8])).astype(np.uint8)
    tinted[:, 2:30, 100:160] = (20, 60, 230)
    assert details_of(cine(tinted, photometric="RGB")).sector


# --- sector


@pytest.mark.parametrize(("num_frames", "height", "width"), [(24, 240, 320), (40, 480, 640), (8, 240, 320)])
@pytest.mark.parametrize("quality", [0, 95, 60])
def test_text_and_ecg_are_masked_and_the_echo_stays(num_frames: int, height: int, width: int, quality: int) -> None:
    screen = echo_screen(num_frames, height, width)
    if quality:
        data = cine(in_colour(screen), JPEGBaseline8Bit, "YBR_FULL_422", quality=quality)
    else:
        data = cine(screen.frames)
    found = details_of(data)
    assert found.region is not None
    assert found.sector is not None
    x0, y0, x1, y1 = found.region
    kept = np.zeros((height, width), bool)
    kept[y0:y1, x0:x1] = keep_echo(np.ones((1, height, width), np.uint8), found.region, found.sector)[0]
    assert not (kept & screen.text).any()
    assert kept[screen.sector].mean() >= 0.99
    # JPEG spreads the line over its blocks of 8 pixels, and the fan of the small screen ends 3 pixels above it
    assert (kept & screen.ecg).sum() <= 0.02 * screen.ecg.sum()
    assert len(found.sector) <= 2 * 48


def test_text_outside_of_the_region_never_counts() -> None:
    """The polygon is in pixels of the whole frame, inside of the region."""
    found = details_of(regions(PICTURE))
    assert found.sector is not None
    xs, ys = found.sector[::2], found.sector[1::2]
    assert (min(xs) >= 40, max(xs) < 280, min(ys) >= 10, max(ys) < 210) == (True, True, True, True)


def test_a_chamber_that_never_changes_stays() -> None:
    found = details_of(cine(SCREEN.frames))
    centre = keep_echo(np.ones((1, 240, 320), np.uint8), None, found.sector)[0][100:120, 150:170]
    assert centre.all()


def still_screen() -> Array:
    return np.repeat(SCREEN.frames[:1], 24, 0)


def noise_screen() -> Array:
    return np.random.default_rng(0).integers(0, 2, (24, 240, 320), np.uint8) * 200


def two_fans() -> Array:
    return np.concatenate([SCREEN.frames, SCREEN.frames], axis=2)


def with_noise() -> Array:
    """Of 5 grey levels everywhere, as an analogue recording has it."""
    noise = np.random.default_rng(1).normal(0, 5, SCREEN.frames.shape)
    lifted = np.maximum(SCREEN.frames, 30)
    return (lifted + noise).clip(0, 255).astype(np.uint8)


def all_but_a_corner() -> Array:
    """Less than nine tenths change, but the outline of it holds the text in the still corner."""
    frames = noise_screen()
    frames[:, :85, :100] = 0
    return frames


@pytest.mark.parametrize(
    "frames",
    [still_screen(), two_fans(), SCREEN.frames[:7], with_noise(), noise_screen(), all_but_a_corner()],
    ids=["nothing moves", "two sectors", "too few frames", "noise", "nothing but noise", "all but a corner"],
)
def test_no_sector(frames: Array) -> None:
    """Text that cannot be masked is a reason to refuse, unless the file or the user says that there is none."""
    for said in (None, "YES"):
        with pytest.raises(ClipError, match=r"no sector .* so burned-in text cannot be masked.*--burned-in keep"):
            details_of(cine(frames, BurnedInAnnotation=said))
    assert details_of(cine(frames, BurnedInAnnotation="NO")).sector is None
    assert details_of(cine(frames), IngestPolicy(burned_in="keep", id_key=KEY)).sector is None


def test_a_region_that_is_all_echo_is_kept_whole_where_the_file_says_that_there_is_no_text() -> None:
    described = {"SequenceOfUltrasoundRegions": [PICTURE]}
    found = details_of(cine(noise_screen(), BurnedInAnnotation="NO", **described))
    assert (found.region, found.sector) == ((40, 10, 280, 210), None)
    with pytest.raises(ClipError, match="--burned-in keep takes such clips"):
        details_of(cine(noise_screen(), **described))


def test_an_ecg_in_the_picture_that_cannot_be_masked() -> None:
    ecg = {"RegionSpatialFormat": 4, "RegionDataType": 10} | FRAMED | {"RegionLocationMinY0": 180}
    still = {"frames": still_screen(), "BurnedInAnnotation": "NO"}
    data = cine(**still, SequenceOfUltrasoundRegions=[PICTURE, ecg])
    with pytest.raises(ClipError, match=r"\(an ECG\) shows within the 2-D picture cannot be masked"):
        details_of(data)
    assert details_of(data, IngestPolicy(burned_in="keep", id_key=KEY)).region == (40, 10, 280, 210)
    below = cine(**still, SequenceOfUltrasoundRegions=[PICTURE | {"RegionLocationMaxY1": 179}, ecg])
    assert details_of(below).region == (40, 10, 280, 180)


def test_only_the_region_of_the_samples_is_held() -> None:
    frames = np.zeros((40, 480, 640), np.uint8)
    corner = TISSUE_2D | dict.fromkeys(("RegionLocationMinX0", "RegionLocationMinY0"), 0)
    corner |= dict.fromkeys(("RegionLocationMaxX1", "RegionLocationMaxY1"), 99)
    data = cine(frames, JPEGBaseline8Bit, BurnedInAnnotation="NO", SequenceOfUltrasoundRegions=[corner])
    info = probe(data)
    details(data, info, POLICY)
    tracemalloc.start()
    details(data, info, POLICY)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 100 * 100 + 10 * 480 * 640


def test_burned_in_annotation_is_honoured() -> None:
    drop = IngestPolicy(burned_in="drop", id_key=KEY)
    with pytest.raises(ClipError, match="BurnedInAnnotation is YES"):
        details_of(cine(SCREEN.frames, BurnedInAnnotation="YES"), drop)
    for said in (None, "NO"):
        assert details_of(cine(SCREEN.frames, BurnedInAnnotation=said), drop).sector
    assert details_of(cine(SCREEN.frames, BurnedInAnnotation="YES")).sector


def test_other_modalities_are_refused() -> None:
    with pytest.raises(ClipError, match="Modality is not US"):
        details_of(cine(SCREEN.frames, Modality="XA"))
    assert details_of(cine(SCREEN.frames, Modality=None)).sector  # what anonymised sets leave out


# --- ids and labels


def expected_hash(kind: str, value: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:32]


def test_ids_are_keyed_hashes() -> None:
    found = details_of(cine(SCREEN.frames))
    assert found.patient_id == expected_hash("patient", "MRN 0001")
    assert found.clip_id == expected_hash("clip", "1.2.826.0.1.3680043.8.498.1")
    assert json.loads(found.labels) == {"study": expected_hash("study", "1.2.826.0.1.3680043.8.498.2")}
    assert found.anonymous == ""
    other = details_of(cine(SCREEN.frames), IngestPolicy(id_key="another key of thirty-two signs!"))
    assert other.patient_id not in ("", found.patient_id)
    padded = details_of(cine(SCREEN.frames, PatientID="MRN 0001 "))
    assert padded.patient_id == found.patient_id


@pytest.mark.parametrize(
    ("attributes", "key", "reason"),
    [
        ({}, "", "DISCOVR_ID_KEY is not set.*secrets.token_hex"),
        ({"PatientID": None}, KEY, "^PatientID missing"),
        ({"PatientID": ""}, KEY, "^PatientID missing"),
        ({"SOPInstanceUID": None, "PatientID": None}, KEY, "^PatientID and SOPInstanceUID missing"),
    ],
)
def test_no_ids_without_a_key_or_without_a_patient(attributes: dict[str, Any], key: str, reason: str) -> None:
    """The adapter's word counts then; where it has none, ingest refuses the file for this reason."""
    found = details_of(cine(SCREEN.frames, **attributes), IngestPolicy(id_key=key))
    assert found.patient_id == ""
    named = bool(key) and "SOPInstanceUID" not in attributes  # so that a table need but name the patient
    assert found.clip_id == (expected_hash("clip", "1.2.826.0.1.3680043.8.498.1") if named else "")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.anonymous)
    assert "study" not in json.loads(found.labels) or key


def test_short_keys_are_refused_and_keys_are_not_shown() -> None:
    with pytest.raises(ConfigError, match="DISCOVR_ID_KEY has 6 characters; at least 32") as caught:
        IngestPolicy(id_key="secret")
    assert "secret " not in str(caught.value)
    assert KEY not in repr(POLICY)


def view_of(scheme: str, value: str) -> str:
    item = {"CodingSchemeDesignator": scheme, "CodeValue": value, "CodeMeaning": "whatever stands here"}
    return details_of(cine(SCREEN.frames, ViewCodeSequence=[item])).view


def test_view_codes() -> None:
    echo = codes.cid12226
    named = {
        "A4C": [echo.ApicalFourChamber, echo.ApicalFourChamberRVFocused, echo.ApicalFourChamberRVModified],
        "A2C": [echo.ApicalTwoChamber],
        "A3C": [echo.ApicalLongAxis],
        "PLAX": [echo.ParasternalLongAxis],
        "PSAX": [getattr(echo, name) for name in echo.dir("ParasternalShortAxis")],
    }
    modern = {(code.scheme_designator, code.value): view for view, found in named.items() for code in found}
    assert {key: view for key, view in VIEWS.items() if key[0] != "SRT"} == modern
    older = Counter(view for (scheme, _), view in VIEWS.items() if scheme == "SRT")
    assert older == {"A2C": 1, "A3C": 1, "A4C": 1, "PLAX": 1, "PSAX": 5}
    assert view_of("SCT", "399214001") == "A4C"
    assert view_of("SRT", "G-0396") == "PLAX"
    assert view_of("SCT", "399200001") == ""  # subcostal: no name for it here
    assert details_of(cine(SCREEN.frames)).view == ""


def test_labels() -> None:
    vector = [0] + [10, 30] * 11 + [20]
    data = cine(
        SCREEN.frames,
        FrameTime=None,
        FrameTimeVector=vector,
        HeartRate=72,
        Manufacturer="GE Vingmed Ultrasound",
        ManufacturerModelName="Vivid",
    )
    labels = json.loads(details_of(data).labels)
    labels.pop("study")
    assert labels == {"frame_time_varies": 1, "heart_rate_bpm": 72, "vendor": "GE"}
    odd = json.loads(details_of(cine(SCREEN.frames, HeartRate=0, Manufacturer="GEORGE Clinic")).labels)
    assert odd.keys() == {"study"}


def test_the_page_lists_what_is_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "dicom.md").read_text()
    table = page[page.index("| attribute |") :].split("\n\n")[0]
    cells = ",".join(line.split("|")[1] for line in table.splitlines()[2:])
    assert sorted(ALLOWED) == sorted(word.strip(" `") for word in cells.split(","))
