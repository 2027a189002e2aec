"""Embed the videos of a manifest with a frozen encoder, into a folder of features.

Every video ends in exactly one of two tables, videos.parquet and failed.parquet (evaluate/feature_folder.py).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from discovr_ray.data import storage
from discovr_ray.data.manifest import read_manifest, select_clips
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.errors import TooManyBadClipsError
from discovr_ray.evaluate.embedding import check_manifest_fits, decode_video, preprocessing_of, sources_of
from discovr_ray.evaluate.feature_folder import FAILED_FILE, Failure, FeatureFolder, FolderSettings
from discovr_ray.evaluate.features import VIDEOS_FILE
from discovr_ray.exchange.encoders import open_encoder
from discovr_ray.launch.encode_videos import Decode, EmbedOptions, encode_videos
from discovr_ray.launch.ray_session import ray_session
from discovr_ray.model.weights import PretrainedEncoder

logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """What is known before a video has been opened."""

    encoder: PretrainedEncoder
    clips: pa.Table  # manifest rows
    sources: dict[str, str]  # clip_id -> source_sha256
    folder: FeatureFolder
    options: EmbedOptions


class EmbedSummary(NamedTuple):
    videos_uri: str
    failed_uri: str
    num_videos: int  # with features
    num_clips: int  # temporal clips that they are the mean of
    num_new: int  # videos that were embedded now; the others were there
    reasons: dict[str, int]  # why videos failed -> videos


def embed(
    source: str, manifest: str, output: str, options: EmbedOptions, split: str = "", seed: int = 0
) -> EmbedSummary:
    """Embed a manifest's videos into the folder `output`: `prepare` and `carry_out`, which see."""
    return carry_out(prepare(source, manifest, output, options, split, seed))


def prepare(source: str, manifest: str, output: str, options: EmbedOptions, split: str = "", seed: int = 0) -> Prepared:
    """Load the encoder and the manifest, and refuse what can be refused before a video is opened.

    Args:
        source: encoder, as of exchange.encoders.open_encoder.
        split: videos of this split; "" takes all.
        seed: of random weights.
    Errors:
        CheckpointError, ConfigError: no such encoder.
        ManifestError: no manifest, or no video in the split.
        FeaturesError: the videos do not fit the encoder, or `output` holds features of another model or preparation.
        StorageError: `output` cannot be read or written.
    """
    encoder = open_encoder(source, seed)
    clips = select_clips(read_manifest(manifest), split, {})
    preprocessing = preprocessing_of(encoder.card, options.clips_per_video)
    check_manifest_fits(clips, preprocessing, options.allow_enlarged)
    settings = FolderSettings(
        encoder.card.model_sha256, encoder.card.encoder.width, preprocessing, options.precision, source
    )
    folder = FeatureFolder(storage.absolute(output), settings)
    folder.claim()
    return Prepared(encoder, clips, sources_of(clips), folder, options)


def carry_out(prepared: Prepared, decode: Decode = decode_video) -> EmbedSummary:
    """Embed what the folder lacks, and write its tables: `carry_out_together`, which see, of one encoder."""
    return carry_out_together([prepared], decode)[0]


def carry_out_together(prepared: Sequence[Prepared], decode: Decode = decode_video) -> list[EmbedSummary]:
    """Embed what the folders lack, and write their tables; a video is decoded once for all encoders.

    Args:
        prepared: of the same clips, preparation and options.
    Errors:
        ConfigError: the cluster has no room for the workers.
        TooManyBadClipsError: more videos failed than allowed (failed.parquet says why); the others' parts stay.
        FeaturesError: an encoder gave a value that is not finite; names the video.
        StreamError: storage that did not answer, or workers that could not work. What is done stays done.
    """
    _, clips, sources, _, options = prepared[0]
    wanted = [(clip_id, sources[clip_id]) for clip_id in clips["clip_id"].to_pylist()]
    lacking = [np.array([video not in done for video in wanted]) for done in (of.folder.done() for of in prepared)]
    missing = np.flatnonzero(np.any(lacking, axis=0))
    logger.info("%d videos, %d of them already embedded", clips.num_rows, clips.num_rows - len(missing))
    reasons: list[str] = []
    if len(missing):
        encoders = {of.folder: of.encoder for of, lacks in zip(prepared, lacking, strict=True) if lacks.any()}
        with ray_session():
            reasons = encode_videos(encoders, _todo(clips.take(pa.array(missing)), sources), options, decode)
    ids, splits = (clips[name].take(pa.array(missing)).to_pylist() for name in ("clip_id", "split"))
    failures = [Failure(*item) for item in zip(ids, splits, reasons, strict=True) if item[-1]]
    embedded = missing[np.array([not reason for reason in reasons], bool)]
    return [_finish(of, failures, int(lacks[embedded].sum())) for of, lacks in zip(prepared, lacking, strict=True)]


def _finish(prepared: Prepared, failures: Sequence[Failure], num_new: int) -> EmbedSummary:
    """Write a folder's tables. `num_new`: videos that it lacked before, and now has."""
    _, clips, sources, folder, options = prepared
    folder.write_failed(failures)
    counts = dict(Counter(failure.reason for failure in failures))
    failed_uri = storage.join(folder.uri, FAILED_FILE)
    allowed = options.failures_allowed(clips.num_rows)
    if len(failures) > allowed:
        raise TooManyBadClipsError(
            f"{len(failures)} of {clips.num_rows} videos failed, {allowed} may; reasons in {failed_uri}, "
            f"such as: {failures[0].clip_id}: {failures[0].reason}"
        )
    num_clips = folder.finish(clips, sources, failures)
    videos_uri = storage.join(folder.uri, VIDEOS_FILE)
    num_videos = clips.num_rows - len(failures)
    return EmbedSummary(videos_uri, failed_uri, num_videos, num_clips, num_new, counts)


def _todo(clips: pa.Table, sources: Mapping[str, str]) -> pa.Table:
    """Rows for the workers; labels and patients stay where they are."""
    found = pa.array([sources[clip_id] for clip_id in clips["clip_id"].to_pylist()], pa.string())
    return clips.select(COLUMNS).append_column("source_sha256", found)
