"""Embedding on a real Ray: rows in == rows out, whatever happens to videos, decoders, storage and the job itself."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from discovr_ray import load_encoder
from discovr_ray.config import DataConfig
from discovr_ray.data import storage
from discovr_ray.data.manifest import read_manifest, write_manifest
from discovr_ray.errors import (
    CheckpointError,
    ConfigError,
    FeaturesError,
    ManifestError,
    StreamError,
    TooManyBadClipsError,
)
from discovr_ray.evaluate.embedding import Decoded, Preprocessing, decode_video
from discovr_ray.evaluate.features import Features, read_features
from discovr_ray.launch.embed import EmbedSummary, carry_out, carry_out_together, embed, prepare
from discovr_ray.launch.encode_videos import EmbedOptions
from discovr_ray.model.vit import EncoderSpec
from discovr_ray.model.weights import make_card, pack, random_encoder, write_encoder

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
OPTIONS = EmbedOptions(clips_per_video=3, batch_size=4, workers=2)
SPEC = EncoderSpec(24, 2, 2, 2.0, 16, 2, 4, 32, True, 1e-6)
DATA = DataConfig(num_frames=4, image_size=32, frame_stride=3)


def write_random(folder: Path, seed: int = 0, spec: EncoderSpec = SPEC) -> str:
    encoder = random_encoder(make_card(spec, DATA, b""), seed)
    folder.mkdir(exist_ok=True)
    write_encoder(folder, encoder.card, pack(encoder.encoder.state_dict()))
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_random(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def done(encoder: str, echo_manifest: str, tmp_path_factory: pytest.TempPathFactory) -> EmbedSummary:
    """All 24 videos, undisturbed."""
    return embed(encoder, echo_manifest, str(tmp_path_factory.mktemp("features")), OPTIONS)


def folder_of(summary: EmbedSummary) -> Path:
    return Path(summary.videos_uri).parent


def same(first: Features, second: Features) -> None:
    """Up to the order of sums in other batches."""
    assert first._replace(cls=None, patches=None) == second._replace(cls=None, patches=None)  # type: ignore[arg-type]
    np.testing.assert_allclose(first.cls, second.cls, atol=1e-5)
    np.testing.assert_allclose(first.patches, second.patches, atol=1e-5)


def failed(folder: Path) -> dict[str, str]:
    return {row["clip_id"]: row["reason"] for row in pq.read_table(folder / "failed.parquet").to_pylist()}


def test_every_video_has_its_mean_features(done: EmbedSummary, encoder: str, echo_manifest: str) -> None:
    assert (done.num_videos, done.num_new, done.reasons) == (24, 24, {})
    features = read_features(str(folder_of(done)))
    rows = read_manifest(echo_manifest).to_pylist()
    assert features.clip_ids == [row["clip_id"] for row in rows]
    assert features.splits == [row["split"] for row in rows]
    assert features.patient_ids == [row["patient_id"] for row in rows]
    assert all(labels["ef"] > 0 for labels in features.labels)
    model = load_encoder(encoder)
    assert features.model_sha256 == model.card.model_sha256
    preprocessing = Preprocessing(4, 32, 3, 50.0, "fit_stride", DATA.mean, DATA.std, 3)
    assert features.preprocessing_sha256 == preprocessing.sha256
    for place in (0, 11, 23):
        tokens = model(torch.from_numpy(decode_video(rows[place], preprocessing).frames))
        cls, patches = tokens.cls.detach().numpy(), tokens.patches.detach().numpy().mean(axis=1)
        np.testing.assert_allclose(features.cls[place], cls.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(features.patches[place], patches.mean(axis=0), atol=1e-5)


def test_the_table_of_clips(done: EmbedSummary) -> None:
    clips = pq.read_table(folder_of(done) / "clips").to_pandas()
    assert len(clips) == done.num_clips == 72
    assert (clips.groupby("clip_id").window.apply(list).map(tuple) == (0, 1, 2)).all()
    assert (clips.groupby("clip_id").first_frame.apply(lambda starts: starts.is_monotonic_increasing)).all()
    assert not clips.padded_frames.any()


def test_the_same_again_embeds_nothing_and_other_labels_are_taken(
    done: EmbedSummary, encoder: str, echo_manifest: str, tmp_path: Path
) -> None:
    table = read_manifest(echo_manifest)
    labels = table.column_names.index("labels")
    write_manifest(table.set_column(labels, "labels", [['{"new": 1}'] * 24]), str(tmp_path / "manifest.parquet"))
    parts = {path: path.stat().st_mtime_ns for path in (folder_of(done) / "clips").iterdir()}
    again = embed(encoder, str(tmp_path / "manifest.parquet"), str(folder_of(done)), OPTIONS)
    assert (again.num_videos, again.num_new) == (24, 0)
    assert read_features(str(folder_of(done))).labels == [{"new": 1}] * 24
    assert embed(encoder, echo_manifest, str(folder_of(done)), OPTIONS, split="TEST").num_videos == 3
    assert set(read_features(str(folder_of(done))).splits) == {"TEST"}
    assert embed(encoder, echo_manifest, str(folder_of(done)), OPTIONS).num_new == 0
    assert {path: path.stat().st_mtime_ns for path in (folder_of(done) / "clips").iterdir()} == parts


@pytest.fixture
def spoiled(echo_manifest: str, tmp_path: Path) -> tuple[str, list[str]]:
    """A manifest with two videos that cannot be read: one missing, one of another content; and their ids."""
    table = read_manifest(echo_manifest)
    uris, digests, ids = (table[name].to_pylist() for name in ("uri", "sha256", "clip_id"))
    uris[5], digests[17] = f"{uris[5]}.gone", "0" * 64
    for name, values in (("uri", uris), ("sha256", digests)):
        table = table.set_column(table.column_names.index(name), name, [values])
    write_manifest(table, str(tmp_path / "manifest.parquet"))
    return str(tmp_path / "manifest.parquet"), [ids[5], ids[17]]


def test_videos_that_cannot_be_read_are_named_and_end_the_job(
    done: EmbedSummary, encoder: str, spoiled: tuple[str, list[str]], echo_manifest: str, tmp_path: Path
) -> None:
    manifest, ids = spoiled
    out = tmp_path / "out"
    with pytest.raises(TooManyBadClipsError, match=f"2 of 24 videos failed, 1 may; .*{ids[0]}: .*no such file"):
        embed(encoder, manifest, str(out), dataclasses.replace(OPTIONS, allow_failed=0.05))
    reasons = failed(out)
    assert set(reasons) == set(ids)
    assert "no such file" in reasons[ids[0]]
    assert "changed since ingest" in reasons[ids[1]]
    assert not (out / "videos.parquet").exists()
    allowed = embed(encoder, manifest, str(out), dataclasses.replace(OPTIONS, allow_failed=2))
    assert (allowed.num_videos, allowed.num_new, sum(allowed.reasons.values())) == (22, 0, 2)
    assert sorted([*read_features(str(out)).clip_ids, *failed(out)]) == read_manifest(manifest)["clip_id"].to_pylist()
    # a manifest that is right again: only the two are embedded
    mended = embed(encoder, echo_manifest, str(out), OPTIONS)
    assert (mended.num_videos, mended.num_new, failed(out)) == (24, 2, {})
    same(read_features(str(out)), read_features(str(folder_of(done))))


@pytest.mark.chaos
def test_encoders_together_decode_once_and_do_what_each_lacks(
    encoder: str, done: EmbedSummary, echo_manifest: str, tmp_path: Path
) -> None:
    """Killed after the first folder was whole: it stays, the other one gets what it would have got alone."""
    other = write_random(tmp_path / "other", seed=5)
    prepared = [
        prepare(of, echo_manifest, str(tmp_path / f"features-{place}"), OPTIONS, "TEST")
        for place, of in enumerate((other, encoder, other))
    ]
    carry_out(prepared[0])

    def decode(row: Mapping[str, Any], preprocessing: Preprocessing) -> Decoded:
        with (tmp_path / "decoded").open("a") as file:
            file.write(f"{row['clip_id']}\n")
        return decode_video(row, preprocessing)

    found = carry_out_together(prepared, decode)
    assert [of.num_new for of in found] == [0, 3, 3]
    assert len((tmp_path / "decoded").read_text().split()) == 3, "once for both"
    first, second, third = (read_features(of.videos_uri) for of in found)
    same(first, third)
    rows = [row for row, split in enumerate(read_features(done.videos_uri).splits) if split == "TEST"]
    np.testing.assert_allclose(second.cls, read_features(done.videos_uri).cls[rows], atol=1e-5)  # as of `same`


def test_a_decoder_that_crashes_costs_one_video(
    done: EmbedSummary, encoder: str, echo_manifest: str, tmp_path: Path
) -> None:
    ids = read_manifest(echo_manifest)["clip_id"].to_pylist()

    def decode(row: Mapping[str, Any], preprocessing: Preprocessing) -> Decoded:  # local: travels by value
        if row["clip_id"] == ids[7]:
            os.kill(os.getpid(), signal.SIGSEGV)
        if row["clip_id"] == ids[8]:
            raise ZeroDivisionError("in a decoder")
        return decode_video(row, preprocessing)

    options = dataclasses.replace(OPTIONS, allow_failed=2)
    summary = carry_out(prepare(encoder, echo_manifest, str(tmp_path), options), decode)
    assert summary.num_videos == 22
    assert failed(tmp_path) == {
        ids[7]: "the decoder crashed: SIGSEGV",
        ids[8]: "ZeroDivisionError: in a decoder",
    }
    mended = embed(encoder, echo_manifest, str(tmp_path), OPTIONS)
    assert mended.num_new == 2
    same(read_features(str(tmp_path)), read_features(str(folder_of(done))))


def test_an_outage_blames_no_video(done: EmbedSummary, encoder: str, echo_manifest: str, tmp_path: Path) -> None:
    ids = read_manifest(echo_manifest)["clip_id"].to_pylist()

    def decode(row: Mapping[str, Any], preprocessing: Preprocessing) -> Decoded:
        return Decoded(outage="no answer") if row["clip_id"] == ids[-1] else decode_video(row, preprocessing)

    with pytest.raises(StreamError, match="to be continued by the same command: no answer"):
        carry_out(prepare(encoder, echo_manifest, str(tmp_path), OPTIONS), decode)
    assert not (tmp_path / "videos.parquet").exists()
    embed(encoder, echo_manifest, str(tmp_path), OPTIONS)
    same(read_features(str(tmp_path)), read_features(str(folder_of(done))))


def test_features_that_are_not_finite_end_the_job(echo_manifest: str, tmp_path: Path) -> None:
    encoder = load_encoder(write_random(tmp_path / "encoder"))
    state = encoder.encoder.state_dict()
    state["norm.bias"][3] = float("nan")
    write_encoder(tmp_path / "encoder", make_card(SPEC, DATA, pack(state)), pack(state))
    with pytest.raises(
        FeaturesError, match=r"cls: features that are not finite \(NaN or infinite\) of 3 clip\(s\): '0X"
    ):
        embed(
            str(tmp_path / "encoder"),
            echo_manifest,
            str(tmp_path / "out"),
            dataclasses.replace(OPTIONS, allow_failed=24),
        )
    assert not (tmp_path / "out" / "videos.parquet").exists()


def test_refused_before_a_video_is_opened(done: EmbedSummary, encoder: str, echo_manifest: str, tmp_path: Path) -> None:
    out, other = str(folder_of(done)), write_random(tmp_path / "other", seed=1)
    with pytest.raises(FeaturesError, match="never mixed with others: model_sha256"):
        prepare(other, echo_manifest, out, OPTIONS)
    with pytest.raises(FeaturesError, match="clips_per_video 3 there, 2 now"):
        prepare(encoder, echo_manifest, out, dataclasses.replace(OPTIONS, clips_per_video=2))
    with pytest.raises(FeaturesError, match=r"features of encoder .*model_sha256"):
        prepare(f"random:{encoder}", echo_manifest, out, OPTIONS, seed=3)
    assert folder_of(done).joinpath("videos.parquet").exists()
    with pytest.raises(CheckpointError, match=r"encoder\.json: cannot be read"):
        prepare(str(tmp_path), echo_manifest, out, OPTIONS)
    with pytest.raises(ConfigError, match="encoder random:nonsense: neither a preset or size"):
        prepare("random:nonsense", echo_manifest, out, OPTIONS)
    with pytest.raises(ManifestError, match="no clip has it"):
        prepare(encoder, echo_manifest, out, OPTIONS, split="FOLD1")
    big = write_random(tmp_path / "big", spec=dataclasses.replace(SPEC, image_size=224))
    with pytest.raises(FeaturesError, match="the encoder takes frames of 224 pixels a side, and 24 of 24"):
        prepare(big, echo_manifest, str(tmp_path / "out"), OPTIONS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="99 workers with 1 CPUs each and a CPU for decoding: the cluster has 4 CPUs"):
        embed(encoder, echo_manifest, str(tmp_path / "out"), dataclasses.replace(OPTIONS, workers=99))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("clips_per_video", 0, "above 0"),
        ("batch_size", 0, "above 0"),
        ("precision", "fp16", "bf16 or fp32"),
        ("workers", -1, "0 .as many as fit. or more"),
        ("cpus_per_worker", 0.0, "above 0"),
        ("allow_failed", -1, "at least 0"),
        ("allow_failed", 1.5, "a whole number, or a share below 1"),
    ],
)
def test_options_out_of_range(field: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} = .*{rule}"):
        dataclasses.replace(OPTIONS, **{field: value})


@pytest.mark.s3
def test_everything_on_s3(
    done: EmbedSummary, encoder: str, echo_folder: Path, s3_server: Any, ray_cluster: None
) -> None:
    """Videos, manifest, encoder and features in a bucket; and again after a part was lost."""
    from discovr_ray.launch.ingest import ingest

    for path in sorted(echo_folder.rglob("*")):
        if path.is_file():
            storage.put_file(str(path), f"s3://bucket/embed/echo/{path.relative_to(echo_folder)}")
    for name in ("encoder.json", "encoder.safetensors"):
        storage.put_file(f"{encoder}/{name}", f"s3://bucket/embed/encoder/{name}")
    manifest = ingest(["s3://bucket/embed/echo"], "s3://bucket/embed/manifest").manifest_uri
    out = "s3://bucket/embed/features"
    embed("s3://bucket/embed/encoder/encoder.safetensors", manifest, out, OPTIONS)
    same(read_features(out), read_features(str(folder_of(done))))
    parts = storage.list_files(f"{out}/clips")
    storage.remove_tree(parts[0])
    again = embed("s3://bucket/embed/encoder", manifest, out, OPTIONS)
    assert 0 < again.num_new < 24
    same(read_features(out), read_features(str(folder_of(done))))


def job(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / "embed.py"), *arguments]


@pytest.fixture
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_job_goes_on_with_what_is_missing(
    done: EmbedSummary, encoder: str, echo_manifest: str, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = job(encoder, echo_manifest, "--output", str(out), "--clips-per-video", "3", "--batch-size", "1")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 200
    while not list(out.glob("clips/*.parquet")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    process.wait(30)
    assert not (out / "videos.parquet").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    already = re.search(r"24 videos, (\d+) of them already embedded", again.stderr)
    assert already is not None
    assert 0 < int(already.group(1)) < 24
    assert re.search(r"embedded (\d+) of \1 videos, [\d.]+/s", again.stderr)
    assert f"videos    24 ({24 - int(already.group(1))} of them embedded now)" in again.stdout
    same(read_features(str(out)), read_features(str(folder_of(done))))
    refused = subprocess.run(
        job(f"random:{encoder}", echo_manifest, "--output", str(out)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"refused: {out}: holds features of encoder")
