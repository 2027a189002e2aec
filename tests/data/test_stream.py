"""The stream on a real Ray cluster, real video files: the same run for any number of ranks and any starting step."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import ray
from clip_table import manifest_of

from discovr_ray.config import Config, DataConfig, derive_plan, parse_config
from discovr_ray.data.microbatch import decode_micro_batch
from discovr_ray.data.plan import plan_stream
from discovr_ray.data.stream import ClipStream, MicroBatch, open_stream, reader
from discovr_ray.errors import ConfigError, ManifestError, StreamError

pytestmark = pytest.mark.ray

STEPS_PER_EPOCH = 2  # 23 clips, 8 in a global batch: 7 are left out of each epoch
TOTAL_STEPS = 6
SEGMENT = 12  # micro-batches: three steps, so segments and epochs end at different steps


class Seen(NamedTuple):
    """What identifies a clip of the stream."""

    clip_id: str
    key: int
    epoch: int
    weight: float
    num_padded: int
    frames: str


def summarise(batch: MicroBatch) -> list[Seen]:
    assert batch.weights.dtype == np.float32
    digests = [hashlib.sha256(frames.numpy().tobytes()).hexdigest() for frames in batch.frames]
    columns = (batch.clip_ids, batch.clip_keys.tolist(), batch.weights.tolist(), batch.padded_frames.tolist(), digests)
    return [Seen(name, key, batch.epoch, *rest) for name, key, *rest in zip(*columns, strict=True)]


def read_rank(stream: ClipStream, rank: int) -> list[list[list[Seen]]]:
    """[step][pass] -> clips."""
    result = []
    for batches in stream.steps(rank):
        assert len({batch.step for batch in batches}) == 1
        result.append([summarise(batch) for batch in batches])
    return result


def read_all(stream: ClipStream, world_size: int) -> list[list[Seen]]:
    """[step] -> the global batch, in the order of passes and, within a pass, of ranks."""
    with ThreadPoolExecutor(world_size) as pool:
        ranks = list(pool.map(lambda rank: read_rank(stream, rank), range(world_size)))
    return in_global_order(ranks)


def in_global_order(ranks: list[list[list[list[Seen]]]]) -> list[list[Seen]]:
    assert len({len(steps) for steps in ranks}) == 1
    return [
        [clip for one_pass in zip(*steps, strict=True) for clips in one_pass for clip in clips]
        for steps in zip(*ranks, strict=True)
    ]


def make_config(**data: Any) -> Config:
    return parse_config(
        {
            "data": {"num_frames": 8, "max_bad_fraction": 0.5, "prefetch_batches": 2, **data},
            "engine": {"global_batch": 8, "micro_batch": 2},
            "schedule": {"epochs": 3, "warmup_epochs": 1},
            "run": {"seed": 3, "cpus_per_worker": 0.5},
        }
    )


def start(clips: pa.Table, world_size: int, start_step: int = 0, config: Config | None = None) -> ClipStream:
    config = config or make_config()
    return open_stream(clips, config, derive_plan(config, clips.num_rows), world_size, start_step, SEGMENT)


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("discovr-stream")]


def wait_for_no_reader() -> None:
    deadline = time.monotonic() + 60
    while reader_threads() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not reader_threads()


@pytest.fixture(scope="module")
def clips(echo_folder: Path) -> pa.Table:
    return manifest_of(sorted((echo_folder / "Videos").glob("*.avi"))[:23])


@pytest.fixture(scope="module")
def whole_run(ray_cluster: None, clips: pa.Table) -> list[list[Seen]]:
    return read_all(start(clips, world_size=1), 1)


def test_the_stream_is_what_the_plan_says(whole_run: list[list[Seen]], clips: pa.Table) -> None:
    config = make_config()
    plan = plan_stream(config, derive_plan(config, 23), 1, 0)
    assert (plan.steps_per_epoch, plan.total_steps) == (STEPS_PER_EPOCH, TOTAL_STEPS)
    for number in (0, 13, 23):
        block = decode_micro_batch(clips, number, plan, config.data)
        got = whole_run[number // 4][number % 4 * 2 : number % 4 * 2 + 2]
        assert [clip.clip_id for clip in got] == block["clip_id"].tolist()
        assert [clip.frames for clip in got] == [hashlib.sha256(f.tobytes()).hexdigest() for f in block["frames"]]
        assert [clip.epoch for clip in got] == [number // 8] * 2


def test_every_clip_comes_once_an_epoch(whole_run: list[list[Seen]]) -> None:
    assert [len(batch) for batch in whole_run] == [8] * TOTAL_STEPS
    for first in range(0, TOTAL_STEPS, STEPS_PER_EPOCH):
        counts = Counter(clip.clip_id for batch in whole_run[first : first + STEPS_PER_EPOCH] for clip in batch)
        assert set(counts.values()) == {1}
        assert len(counts) == 23 - 23 % 8


def test_four_ranks_see_the_global_batches_of_one(whole_run: list[list[Seen]], clips: pa.Table) -> None:
    assert read_all(start(clips, 4), 4) == whole_run


def test_two_processes_see_the_global_batches_of_one(whole_run: list[list[Seen]], clips: pa.Table) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    stream = start(clips, 2)
    remote = ray.remote(num_cpus=0.5)(read_rank)
    results = [remote.remote(stream, rank) for rank in range(2)]
    del stream  # the copies that were sent keep it open
    assert in_global_order(ray.get(results)) == whole_run


def test_the_handle_survives_plain_pickle(whole_run: list[list[Seen]], clips: pa.Table) -> None:
    stream = start(clips, 1, start_step=5)
    sent = pickle.dumps(stream)
    assert len(sent) < 1000  # the most that ray.train.collective broadcasts without a warning
    assert read_all(pickle.loads(sent), 1) == whole_run[5:]


@pytest.mark.parametrize("start_step", [1, 3])
def test_a_later_start_is_the_rest_of_the_run(whole_run: list[list[Seen]], clips: pa.Table, start_step: int) -> None:
    assert read_all(start(clips, 2, start_step), 2) == whole_run[start_step:]


def test_a_start_at_the_end_yields_nothing(ray_cluster: None, clips: pa.Table) -> None:
    assert read_all(start(clips, 2, TOTAL_STEPS), 2) == []


def test_frames_can_be_written_to(ray_cluster: None, clips: pa.Table) -> None:
    steps = start(clips, 1, start_step=5).steps(0)
    (batch, *_) = next(steps)
    before = batch.frames.clone()
    batch.frames.bitwise_not_()
    assert batch.frames.shape == (2, 8, 112, 112)
    assert (batch.frames + before == 255).all()
    steps.close()


def test_bad_clips_keep_their_places(whole_run: list[list[Seen]], clips: pa.Table, tmp_path: Path) -> None:
    flipped, missing = 4, 17
    names, uris = clips["clip_id"].to_pylist(), clips["uri"].to_pylist()
    content = bytearray(Path(uris[flipped]).read_bytes())
    content[len(content) // 2] ^= 0x10
    (tmp_path / "flipped.avi").write_bytes(content)
    uris[flipped], uris[missing] = str(tmp_path / "flipped.avi"), str(tmp_path / "missing.avi")
    damaged = clips.set_column(clips.column_names.index("uri"), "uri", pa.array(uris))
    bad = {names[flipped]: "sha256", names[missing]: "no such file"}  # and no name of one: it may be a patient's

    stream = start(damaged, 1)
    steps = list(stream.steps(0))
    failures = [failure for batches in steps for batch in batches for failure in batch.failures]
    for step, batches in enumerate(steps):
        got = [clip for batch in batches for clip in summarise(batch)]
        for clip, expected in zip(got, whole_run[step], strict=True):
            if clip.clip_id in bad:
                assert (clip.clip_id, clip.key, clip.weight) == (expected.clip_id, expected.key, 0.0)
            else:
                assert clip == expected
    zeros = [not frames.any() for batches in steps for batch in batches for frames in batch.frames]
    in_batches = [name in bad for batches in steps for batch in batches for name in batch.clip_ids]
    assert zeros == in_batches
    assert Counter(failure.clip_id for failure in failures) == Counter(
        clip.clip_id for batch in whole_run for clip in batch if clip.clip_id in bad
    )
    assert set(bad) == {failure.clip_id for failure in failures}
    assert all(bad[failure.clip_id] in failure.reason for failure in failures)
    assert not any(".avi" in failure.reason for failure in failures)


def test_an_early_end_leaves_nothing_behind(whole_run: list[list[Seen]], clips: pa.Table) -> None:
    stream = start(clips, 2)
    iterators = [stream.steps(rank) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(next, iterators))
    for iterator in iterators:
        iterator.close()
    wait_for_no_reader()
    assert read_all(start(clips, 1, start_step=4), 1) == whole_run[4:]


def test_an_end_at_a_segment_border_frees_the_rank_that_waits(ray_cluster: None, clips: pa.Table) -> None:
    stream = start(clips, 2)
    ahead, behind = stream.steps(0), stream.steps(1)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(next, [ahead, behind]))
    for _ in range(2):
        next(ahead)  # its thread is through with the first segment and waits for rank 1 to begin the second one
    ahead.close()
    behind.close()
    wait_for_no_reader()


def test_a_rank_that_does_not_read_is_noticed(
    ray_cluster: None, clips: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "STALL_LIMIT_S", 3.0)
    stream = start(clips, 2)
    with pytest.raises(StreamError, match=r"no clips for .* all ranks reading"):
        next(stream.steps(0))
    monkeypatch.undo()
    late = stream.steps(1)
    next(late)
    late.close()
    wait_for_no_reader()


class Deadly(DataConfig):
    """Takes a decode process down from inside, as a decoder's segmentation fault would."""

    def __getattribute__(self, name: str) -> Any:
        if name == "decoder" and sys._getframe(1).f_globals["__name__"] == "discovr_ray.data.clip":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getattribute__(name)


@pytest.mark.chaos
def test_a_decoder_that_crashes_again_and_again_ends_the_stream(ray_cluster: None, clips: pa.Table) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    config = make_config()
    config = dataclasses.replace(config, data=Deadly(**vars(config.data)))
    stream = start(clips, 1, config=config)
    with pytest.raises(StreamError, match="a decode process died 4 times"):
        list(stream.steps(0))
    wait_for_no_reader()


def test_storage_that_does_not_answer_ends_the_stream(
    ray_cluster: None, clips: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({"outage_patience_s": 0}))  # the decode tasks have it from here
    uris = ["/proc/self/mem"] * clips.num_rows  # reading it is an I/O error
    stream = start(clips.set_column(clips.column_names.index("uri"), "uri", pa.array(uris)), 1)
    with pytest.raises(StreamError, match="step 0, rank 0: the storage of the clips does not answer") as caught:
        list(stream.steps(0))
    assert str(caught.value).endswith(
        "/proc/self/mem: cannot read: Input/output error (rounds of attempts: 1, within 0 s or more)"
    )
    wait_for_no_reader()


def test_wrong_arguments_are_refused_at_once(ray_cluster: None, clips: pa.Table) -> None:
    config = make_config()
    plan = derive_plan(config, 23)
    with pytest.raises(ManifestError, match="22 clips, the run was planned for 23"):
        open_stream(clips.slice(1), config, plan, 1, 0)
    with pytest.raises(ConfigError, match="multiple of workers"):
        open_stream(clips, config, plan, 3, 0)


def test_blocks_in_a_wrong_order_are_refused() -> None:
    block = {"number": np.array([7, 7])}
    assert reader._checked(block, 7) is block
    with pytest.raises(StreamError, match=r"expected micro-batch 6, got \[7\]"):
        reader._checked(block, 6)
    with pytest.raises(StreamError, match=r"expected micro-batch 7, got \[6, 7\]"):
        reader._checked({"number": np.array([6, 7])}, 7)
    with pytest.raises(StreamError, match="at its end"):
        reader._checked(None, 7)


def test_decode_processes_do_not_load_torch() -> None:
    code = "import sys, discovr_ray.data.stream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_million_rows_start_quickly_in_little_memory() -> None:
    """The issue's own bounds; on an idle laptop it is about 8 s. Peak memory includes torch's 0.5 GB."""
    script = Path(__file__).parents[2] / "benchmarks" / "stream.py"
    output = subprocess.run([sys.executable, script, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    assert result["rows"] == 1_000_000
    assert result["start"]["seconds"] < 30
    assert result["start"]["driver_rss_gb"] < 1.5
