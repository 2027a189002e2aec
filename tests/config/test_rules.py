"""Every rule of a configuration: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from discovr_ray.config import (
    Config,
    NodeRoom,
    check_clips,
    check_resources,
    derive_plan,
    load_config,
    parse_config,
)
from discovr_ray.config.rules import ABOVE_ZERO, RANGES
from discovr_ray.errors import ConfigError


def problems_of(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    return caught.value.problems


def nested(key: str, value: Any) -> dict[str, Any]:
    section, name = key.split(".")
    return {section: {name: value}}


@pytest.mark.parametrize("key", sorted(RANGES))
def test_each_range_is_enforced(key: str) -> None:
    low, high = RANGES[key]
    section, name = key.split(".")
    kind = type(getattr(getattr(Config(), section), name))
    outside = []
    if low is not None and key not in ("model.width", "model.depth", "model.heads"):  # 0 means: taken from the size
        outside.append(low - 1)
    if high is not None:
        outside.append(high + 1)
    for value in outside or [-1]:
        assert any(
            line.startswith(f"{key} = ") and "must be " in line for line in problems_of(nested(key, kind(value)))
        )


@pytest.mark.parametrize("key", ABOVE_ZERO)
def test_divisors_must_be_above_zero(key: str) -> None:
    for value in (-0.5,) if key == "model.mlp_ratio" else (0.0, -0.5):  # an MLP ratio of 0 is taken from the size
        assert f"{key} = {value}: must be above 0" in problems_of(nested(key, value))


def test_every_number_has_a_rule() -> None:
    """A new field of a number type needs a range, or a line here that says why any value is fine."""
    ruled = set(RANGES) | set(ABOVE_ZERO)
    numbers = {
        f"{section}.{name}"
        for section, values in Config().to_dict().items()
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    checked_by_choice = {"engine.zero_stage"}  # a Literal
    assert numbers - ruled - checked_by_choice == set()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"data": {"num_frames": 63}},
            "model.tubelet_size = 2: must divide data.num_frames = 63",
        ),
        (
            {"data": {"image_size": 120}},
            "model.patch_size = 16: must divide data.image_size = 120",
        ),
        ({"model": {"heads": 5}}, "model.heads = 5: must divide model.width = 768"),
        ({"model": {"decoder_heads": 5}}, "model.decoder_heads = 5: must divide model.decoder_width = 384"),
        (
            {"run": {"workers": 3}, "engine": {"micro_batch": 8}},
            "engine.global_batch = 256: must be a multiple of run.workers x engine.micro_batch = 3 x 8 = 24 "
            "(the multiple is the number of accumulated passes)",
        ),
        (
            {"mask": {"video_ratio": 1.0}},
            "mask.video_ratio = 1.0: hides 49 of 49 patches; at least one must be hidden and one visible",
        ),
        (
            {"mask": {"image_ratio": 0.01}},
            "mask.image_ratio = 0.01: hides 0 of 49 patches; at least one must be hidden and one visible",
        ),
        (
            {"data": {"crop_scales": []}},
            "data.crop_scales = []: each must be above 0 and at most 1, and there must be one",
        ),
        (
            {"data": {"crop_scales": [1.0, 1.1]}},
            "data.crop_scales = [1.0, 1.1]: each must be above 0 and at most 1, and there must be one",
        ),
        ({"data": {"std": [0.2, 0.0, 0.2]}}, "data.std = [0.2, 0.0, 0.2]: each must be above 0"),
        ({"data": {"mean": [0.2, float("nan"), 0.2]}}, "data.mean = [0.2, nan, 0.2]: each must be a finite number"),
        (
            {"loss": {"w_vid": 0.0, "w_img": 0.0, "w_scd": 0.0}},
            "loss.w_vid = loss.w_img = loss.w_scd = 0: at least one must be above 0",
        ),
        ({"optim": {"beta1": 1.0}}, "optim.beta1 = 1: must be below 1"),
        *(
            (
                {section: {"hang_timeout_s": 60.0}, "storage": {"outage_patience_s": 60.0}},
                f"{section}.hang_timeout_s = 60: must be 0 or above storage.outage_patience_s = 60; "
                "a storage that pauses is waited for",
            )
            for section in ("run", "checkpoint")
        ),
        (
            {"data": {"decode_cpus": 2.0, "max_decode_cpus": 1.0}},
            "data.max_decode_cpus = 1: must be 0 or at least data.decode_cpus = 2",
        ),
        (
            {"run": {"gpus_per_worker": 0.5, "workers": 2}},
            "run.gpus_per_worker = 0.5: must be 1 where run.workers = 2; NCCL takes no two workers of a run on one GPU",
        ),
        ({"optim": {"lr": float("inf")}}, "optim.lr = inf: must be a finite number"),
        ({"optim": {"lr": float("nan")}}, "optim.lr = nan: must be at least 0"),
        (
            {"run": {"name": "../other"}},
            "run.name = '../other': must be letters, digits, '.', '_' and '-' (it names a folder)",
        ),
        (
            {"checkpoint": {"local_folder": "scratch"}},
            "checkpoint.local_folder = 'scratch': must be an absolute path on the workers' own disks",
        ),
        ({"run": {"name": ""}}, "run.name = '': must be letters, digits, '.', '_' and '-' (it names a folder)"),
    ],
)
def test_impossible_values_and_combinations_are_refused(values: dict[str, Any], expected: str) -> None:
    assert problems_of(values) == [expected]


def test_a_divisor_of_zero_is_a_problem_and_not_a_crash() -> None:
    values = {"model": {"tubelet_size": 0, "patch_size": 0, "decoder_heads": 0}}
    assert [line.split(" = ")[0] for line in problems_of(values)] == [
        "model.patch_size",
        "model.tubelet_size",
        "model.decoder_heads",
    ]


def test_fewer_clips_than_a_global_batch() -> None:
    config = load_config("demo")
    assert check_clips(config, 8) == []
    (problem,) = check_clips(config, 7)
    assert problem.startswith("engine.global_batch = 8: the manifest has only 7 clips after data.split = 'TRAIN'")
    with pytest.raises(ConfigError, match="only 7 clips"):
        derive_plan(config, 7)


def test_cpus_must_leave_room_for_decoding() -> None:
    config = load_config("demo", ["run.cpus_per_worker=1.5", "data.decode_cpus=1"])
    assert check_resources(config, [NodeRoom({}, 4, 0)]) == []
    (problem,) = check_resources(config, [NodeRoom({}, 3.5, 0)])
    assert problem.startswith(
        "run.workers x run.cpus_per_worker = 3 CPUs plus data.decode_cpus = 1: the cluster has 3.5"
    )


def test_each_gpu_worker_needs_a_gpu() -> None:
    config = load_config("vit_small")
    assert check_resources(config, [NodeRoom({}, 16, 2)]) == []
    assert check_resources(config, [NodeRoom({}, 16, 1)]) == ["run.workers = 2: each needs a GPU and the cluster has 1"]
    assert check_resources(load_config("demo"), [NodeRoom({}, 16, 0)]) == []
    half = load_config("vit_small", ["run.workers=1", "run.gpus_per_worker=0.5"])
    assert check_resources(half, [NodeRoom({}, 16, 0.5)]) == []
    assert check_resources(half, [NodeRoom({}, 16, 0)]) == [
        "run.workers = 1: each needs 0.5 GPUs and the cluster has 0"
    ]


def test_a_range_of_workers_holds_each_number_to_the_rules() -> None:
    config = load_config("demo", ["run.workers=[1,2]", "run.cpus_per_worker=1"])
    assert config.run.workers == (1, 2)
    assert parse_config(config.to_dict()) == config
    assert derive_plan(config, 96).accumulation == 1  # with both; one worker makes two passes
    assert check_resources(config, [NodeRoom({}, 2, 0)]) == []  # enough for the smaller number
    (problem,) = problems_of({"run": {"workers": [2, 4]}})
    assert problem.startswith("engine.global_batch = 256: must be a multiple of run.workers x engine.micro_batch = 3 x")
    assert problems_of({"run": {"workers": [2, 1]}}) == [
        "run.workers = (2, 1): must be [min, max], the smaller number first"
    ]
    assert problems_of({"run": {"workers": [0, 2]}}) == ["run.workers = (0, 2): must be at least 1"]


def test_labelled_nodes_must_have_room_each_for_its_own_work() -> None:
    labels = ["run.worker_node_labels={role: train}", "data.decode_node_labels={role: decode}"]
    config = load_config("vit_small", ["run.workers=2", "data.decode_cpus=4", *labels])
    train, decode = NodeRoom({"role": "train", "zone": "a"}, 2, 2), NodeRoom({"role": "decode"}, 4, 0)
    assert check_resources(config, [train, decode]) == []
    assert check_resources(config, [train, NodeRoom({}, 64, 8)]) == [
        "data.decode_cpus = 4 CPUs: nodes with {'role': 'decode'} have 0"
    ]
    assert check_resources(config, [decode, NodeRoom({"role": "train"}, 1, 0), NodeRoom({}, 64, 8)]) == [
        "run.workers x run.cpus_per_worker = 2 CPUs: nodes with {'role': 'train'} have 1",
        "run.workers = 2: each needs a GPU and the cluster has 0",
    ]


def test_labels_are_plain_names() -> None:
    (problem,) = problems_of({"run": {"worker_node_labels": {"role": "!decode"}}})
    assert problem.startswith("run.worker_node_labels = {role: '!decode'}: must be a plain label")
    (problem,) = problems_of({"data": {"decode_node_labels": {"role": "in(a,b)"}}})
    assert problem.startswith("data.decode_node_labels = {role: 'in(a,b)'}: must be a plain label")
    (problem,) = problems_of({"data": {"decode_node_labels": {"role": 1}}})
    assert "valid string" in problem
    assert parse_config({"run": {"worker_node_labels": {"ray.io/node-group": "gpu"}}})
