"""`make prove PROVE_ARGS=--causes`: what each variant changes, and that it reaches what learns."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from discovr_ray.config import Config, load_config
from discovr_ray.data.phantom.patient import sample_patient
from discovr_ray.errors import ConfigError
from discovr_ray.evaluate.features import Features
from discovr_ray.exchange.encoders import open_encoder
from discovr_ray.model.discovr import Student

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.usefixtures("in_benchmarks")
TINY = [
    *("data.num_frames=4", "data.image_size=32", "model.width=24", "model.depth=1", "model.decoder_width=24"),
    *("model.decoder_depth=1", "model.num_prototypes=20", "model.head_hidden=32", "model.head_outputs=40"),
]


@pytest.fixture
def brightness(in_benchmarks: None) -> Iterator[ModuleType]:
    """The experiment's module; what it changes in this process is put back."""
    import brightness

    before = Student.forward
    yield brightness
    Student.forward = before  # type: ignore[method-assign]


def test_every_clip_has_a_brightness_of_its_own_within_the_limits(brightness: ModuleType) -> None:
    clips = torch.ones(64, 3, 4, 8, 8)
    found = brightness.brightened(clips)
    assert torch.equal(found, found[:, :1, :1, :1, :1].expand_as(found)), "one brightness in all of a clip"
    assert len(found[:, 0, 0, 0, 0].unique()) == 64
    limit = brightness.CONTRAST + brightness.OFFSET
    assert (found - 1).abs().max() <= limit < 2 * (found - 1).abs().max()


def test_the_students_see_it(brightness: ModuleType) -> None:
    config = load_config("prove", TINY)
    torch.manual_seed(0)
    student = Student(config)
    clips = torch.randn(2, 3, 4, 32, 32)
    features = torch.randn(2, 32, 24)
    visible = torch.arange(4).expand(2, 2, 4), torch.arange(3).expand(1, 8, 3)
    before = student(clips, features, *visible)
    brightness.change_brightness()
    after = student(clips, features, *visible)
    assert not torch.equal(before.video_logits, after.video_logits)
    assert not torch.equal(before.image_logits, after.image_logits)
    assert torch.equal(before.image_scores, after.image_scores), "of the teacher's features"


@pytest.mark.ray
def test_workers_of_that_ray_are_changed_and_later_ones_are_not(tmp_path: Path) -> None:
    script = tmp_path / "ask.py"
    script.write_text(
        f"""import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import ray
import variants
from brightness import change_brightness

@ray.remote
def forward() -> str:
    from discovr_ray.model.discovr import Student
    return Student.forward.__name__

with variants._changed_workers(change_brightness):
    print(ray.get(forward.remote()))
print(ray.get(forward.remote()))
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "RAY_ADDRESS": ""}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["brightened_forward", "forward"]


def test_causes_differ_in_what_they_are_named_for(tmp_path: Path) -> None:
    from causes import CAUSES
    from taught import taught
    from trial import Trial, pretrained
    from variants import changed, finished

    trial = Trial(load_config("prove"), tmp_path, "labelled")
    variants = [finished(trial, "its/run"), *CAUSES]
    assert len({variant.folder for variant in variants}) == len({variant.name for variant in variants}) == 7
    own = {variant.folder: changed(trial, variant, epochs=0).config for variant in variants}
    learn = {variant.folder: variant.learn for variant in variants}
    assert learn["run"](trial) == "its/run"
    assert own["sharp"].loss.teacher_temperature < own["few-outputs"].loss.teacher_temperature
    assert own["few-outputs"].loss.teacher_temperature < trial.config.loss.teacher_temperature
    assert (own["scd-alone"].loss.w_vid, own["scd-alone"].loss.w_img) == (0, 0)
    assert learn["labels"] is learn["labels-long"] is taught
    short = {variant.folder: changed(trial, variant, epochs=2).config.schedule.epochs for variant in variants}
    assert short.pop("labels-long") == trial.config.schedule.epochs
    assert set(short.values()) == {2}
    assert learn["few-outputs"] is learn["sharp"] is learn["scd-alone"] is pretrained
    assert _without_place(own["brightness"]) == _without_place(own["labels"]) == _without_place(trial.config)


def _without_place(config: Config) -> dict[str, object]:
    return {name: value for name, value in config.to_dict().items() if name != "run"}


@pytest.mark.ray
def test_labels_teach_the_encoder_and_it_opens_as_any_other(echo_manifest: str, tmp_path: Path) -> None:
    from taught import taught
    from trial import Trial

    config = load_config(
        "prove",
        [*TINY, f"data.manifest={echo_manifest}", "engine.global_batch=8", "engine.micro_batch=4", "run.name=labels"],
    )
    trial = Trial(config, tmp_path, "labelled")
    encoder = open_encoder(taught(trial))
    assert encoder.card.origin == "taught by labels"
    assert (encoder.card.encoder.width, encoder.card.frame_stride) == (24, config.data.frame_stride)
    random = open_encoder(f"random:{tmp_path / 'labels'}", config.run.seed)
    name = "blocks.0.mlp.fc1.weight"
    assert not torch.equal(encoder.encoder.state_dict()[name], random.encoder.state_dict()[name])
    card = tmp_path / "labels" / "encoder.json"
    written = card.stat().st_mtime_ns
    assert taught(trial) == str(tmp_path / "labels")
    assert card.stat().st_mtime_ns == written, "what is done is not done again"
    longer = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, epochs=40))
    with pytest.raises(ConfigError, match="is finished: 108 steps, not 120"):
        taught(trial._replace(config=longer))


def test_every_epoch_has_every_video_once() -> None:
    from taught import _orders

    orders = _orders(7, 3, np.random.default_rng(0))
    epochs = [next(orders) + next(orders) for _ in range(5)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_spread_finds_the_direction_that_follows_the_gain() -> None:
    from trial import SETTINGS, spread_of

    assert SETTINGS.feature == "patches"
    generator = np.random.default_rng(0)
    gain = generator.normal(size=200)
    x = generator.normal(size=(200, 6)).astype(np.float32)
    x[:, 2] += 5 * gain
    names = [str(row) for row in range(200)]
    labels: list[dict[str, str | float | bool]] = [{"gain_db": float(value)} for value in gain]
    found = spread_of(Features(names, names, ["TRAIN"] * 200, labels, x * 0, x, "", ""))
    assert 0.7 < found.first < 0.9  # 26 of 31
    assert found.gain > 0.95


def test_losses_are_those_of_the_last_record(tmp_path: Path) -> None:
    from variants import losses_of

    assert losses_of(str(tmp_path)) == {}
    records = [{"step": step, "loss_vid": step, "loss_img": 2, "loss_scd": 3, "lr": 1} for step in (1, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert losses_of(str(tmp_path)) == {"loss_vid": 20, "loss_img": 2, "loss_scd": 3}


def test_facts_are_those_of_the_patient_behind_the_video() -> None:
    from knowledge import facts_of

    steady = facts_of(["S5-000003", "S5-000011"], "steady")
    patient = sample_patient(5, 11)
    assert {name: values[1] for name, values in steady.items()} == {
        "apex, across": patient.apex_x,
        "apex, down": patient.apex_y,
        "tilt": patient.tilt,
        "area of the ventricle": patient.radius * patient.length,
        "thickness of the wall": patient.wall,
        "volume, mL": patient.edv_ml,
        "ejected share": patient.ejected_share,
        "gain": patient.gain_db,
    }
    free = facts_of(["S5-000003", "S5-000011"], "free")
    assert (free["apex, across"] != steady["apex, across"]).all()
    assert (free["gain"] == steady["gain"]).all()


def test_features_that_hold_a_fact_know_it_and_no_other() -> None:
    from knowledge import facts_of, knowledge_of, table

    names = [f"S5-{index:06d}" for index in range(150)]
    splits = [("TRAIN", "VAL", "TEST")[index % 3] for index in range(150)]
    facts = facts_of(names, "steady")
    x = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    x[:, 1] = facts["tilt"]
    known = knowledge_of(Features(names, names, splits, [{}] * 150, x, x, "", ""), x, facts)
    assert known["tilt"] > 0.99
    assert max(value for name, value in known.items() if name != "tilt") < 0.3
    heads, row = table({"encoder": known})
    assert row[heads.index("tilt")] == "1.00"
