"""The kNN probe during training: asked on time, the same on all ranks and at all stages, and no trace in training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gloo_ranks import run_ranks
from loop_runs import Outcome, run_loop, tiny_config
from probe_runs import probe_config, run_probed

from discovr_ray.evaluate.embedding import embed_clips
from discovr_ray.launch.online_probe import FIGURE
from discovr_ray.model.vit import Encoder, video_spec
from discovr_ray.model.weights import PretrainedEncoder, make_card

TRAINED = ("loss", "loss_vid", "loss_img", "loss_scd", "grad_norm", "feature_std", "rank_me")


@pytest.fixture(scope="module")
def plain() -> Outcome:
    return run_loop(0, tiny_config())


def test_training_is_the_same_to_the_bit(plain: Outcome, tmp_path: Path) -> None:
    probed, asked_at, figures = run_probed(0, probe_config(tmp_path))
    assert asked_at == [5, 10, 12]
    assert [[record[name] for name in TRAINED] for record in probed.records] == [
        [record[name] for name in TRAINED] for record in plain.records
    ]
    for before, after in ((plain.student, probed.student), (plain.teacher, probed.teacher)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    logged = {int(record["step"]): record[FIGURE] for record in probed.records if FIGURE in record}
    assert logged == dict(zip(asked_at, (found[FIGURE] for found in figures), strict=True))
    assert all(0 <= value <= 1 for value in logged.values())


def test_a_step_that_is_not_logged_is_when_the_probe_is(tmp_path: Path) -> None:
    probed, asked_at, _ = run_probed(0, probe_config(tmp_path, run={"log_every_steps": 4}))
    assert [record["step"] for record in probed.records] == [1, 4, 5, 8, 10, 12]
    assert [int(record["step"]) for record in probed.records if FIGURE in record] == asked_at


@pytest.mark.dist
@pytest.mark.parametrize(("stage", "outages"), [(0, 0), (3, 1)])
def test_ranks_share_the_work_and_agree(tmp_path: Path, stage: int, outages: int) -> None:
    """19 videos on two ranks, at stage 3 with weights in pieces: what one rank says alone.

    An outage of the storage on one rank costs all of them the first probe, and nothing else.
    """
    alone = [found[FIGURE] for found in run_probed(0, probe_config(tmp_path))[2]]
    config = probe_config(tmp_path, engine={"micro_batch": 2, "zero_stage": stage}, run={"workers": 2})
    first, second = run_ranks(2, run_probed, tmp_path / "ranks", config, (), outages)
    assert first[2] == second[2]
    assert first[1] == second[1] == [5, 10, 12]
    assert first[2][:outages] == [{}] * outages
    assert [found[FIGURE] for found in first[2][outages:]] == pytest.approx(alone[outages:])
    assert second[0].records == []


def test_the_weights_are_the_teachers(tmp_path: Path) -> None:
    from loop_runs import build_engine

    config = tiny_config()
    engine = build_engine(config)
    engine.update_teacher(0.5)
    before = torch.random.get_rng_state()
    encoder = Encoder(video_spec(config))
    torch.random.set_rng_state(before)
    engine.copy_encoder(encoder)
    expected = {name.removeprefix("video."): value for name, value in engine.encoder_state().items()}
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())
    clips = torch.randint(256, (2, 4, 32, 32), dtype=torch.uint8)
    whole = PretrainedEncoder(make_card(video_spec(config), config.data, b""))
    whole.encoder.load_state_dict(expected)
    found = embed_clips(whole.eval(), clips.numpy(), 2, "fp32").cls
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (config.data.mean, config.data.std))
    teacher = engine.forward_teacher((clips[:, None] / 255 - mean) / std).video_features
    torch.testing.assert_close(torch.from_numpy(found), teacher, rtol=1e-4, atol=1e-5)


def test_videos_that_cannot_be_decoded_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outcome, _, figures = run_probed(0, probe_config(tmp_path), bad=["video-3", "video-15"])
    assert len(figures) == 3
    assert all(FIGURE in found for found in figures)
    assert caplog.text.count("the kNN probe does without video-3: damaged") == 1
    assert outcome.steps == 12


def test_a_probe_without_enough_videos_is_a_warning(
    plain: Outcome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [f"video-{number}" for number in range(13, 19)]
    outcome, asked_at, figures = run_probed(0, probe_config(tmp_path), bad=bad)
    assert figures == [{}, {}, {}]
    assert asked_at == [5, 10, 12]
    assert "no kNN probe: of VAL, 0 videos have features" in caplog.text
    assert len(outcome.records) == len(plain.records)


def test_its_time_is_not_counted_as_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from discovr_ray.train import online_probe

    clock = iter([10.0, 17.0])
    monkeypatch.setattr(online_probe.time, "perf_counter", lambda: next(clock))
    left_out: list[float] = []
    paused: list[str] = []

    class Watch:
        def __enter__(self) -> None:
            paused.append("from")

        def __exit__(self, *_: object) -> None:
            paused.append("to")

    found = online_probe.probe_if_due(
        probe_config(tmp_path),
        SimpleNamespace(total_steps=12),  # type: ignore[arg-type]
        5,
        SimpleNamespace(probe=lambda step: paused.append("asked") or {FIGURE: 1.0}),  # type: ignore[arg-type]
        SimpleNamespace(paused=Watch),  # type: ignore[arg-type]
        SimpleNamespace(leave_out=left_out.append),  # type: ignore[arg-type]
    )
    assert found == {FIGURE: 1.0}
    assert left_out == [7.0]
    assert paused == ["from", "asked", "to"]
