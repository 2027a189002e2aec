"""The presets against the numbers they promise, written out here so that a changed default cannot pass unseen."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from discovr_ray.config import PRESET_DIR, Config, derive_plan, load_config, preset_names

# the released launcher's and the paper's values (docs/method.md, section "Defaults"); lr is per 256 clips
PAPER: dict[str, dict[str, Any]] = {
    "data": {
        "num_frames": 64,
        "frame_stride": 3,
        "image_size": 112,
        "crop_scales": (1.0, 0.875, 0.75, 0.66),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "mask": {"video_views": 4, "image_views": 4, "video_ratio": 0.9, "image_ratio": 0.9},
    "model": {
        "size": "base",
        "width": 768,
        "depth": 12,
        "heads": 12,
        "mlp_ratio": 4.0,
        "patch_size": 16,
        "tubelet_size": 2,
        "video_qkv_bias": True,
        "image_qkv_bias": False,
        "video_norm_eps": 1e-6,
        "image_norm_eps": 1e-5,
        "decoder_width": 384,
        "decoder_depth": 4,
        "decoder_heads": 6,
        "head_hidden": 2048,
        "head_bottleneck": 256,
        "head_outputs": 16384,
        "num_prototypes": 3000,
        "init_from": "",
    },
    "loss": {
        "w_vid": 1.0,
        "w_img": 1.0,
        "w_scd": 1.0,
        "student_temperature": 0.1,
        "teacher_temperature_start": 0.04,
        "teacher_temperature": 0.07,
        "centre_momentum": 0.9,
        "scd_temperature": 0.1,
        "sinkhorn_epsilon": 0.05,
        "sinkhorn_iterations": 10,
    },
    "optim": {"lr": 1.5e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.05},
    "schedule": {
        "epochs": 400,
        "max_steps": 0,
        "warmup_epochs": 40.0,
        "min_lr": 1e-6,
        "teacher_temperature_epochs": 30.0,
        "ema_momentum": 0.996,
        "ema_momentum_end": 1.0,
    },
    "engine": {"precision": "bf16"},
}


def test_the_paper_preset_holds_the_papers_values() -> None:
    values = load_config("paper_vit_base").to_dict()
    for section, fields in PAPER.items():
        assert {name: values[section][name] for name in fields} == fields, section
    for section in ("mask", "model", "loss", "schedule"):
        assert set(values[section]) == set(PAPER[section]), f"a field of {section} has no expected value here"


def test_the_papers_token_counts() -> None:
    config = load_config("paper_vit_base")
    patches = (config.data.image_size // config.model.patch_size) ** 2
    assert patches == 49
    assert config.data.num_frames // config.model.tubelet_size * patches == 1568
    assert int(config.mask.video_ratio * patches) == 44


def test_the_defaults_are_the_papers() -> None:
    """A YAML file that sets nothing gets the paper, so no field of the method may stand in the preset alone."""
    values, defaults = load_config("paper_vit_base").to_dict(), Config().to_dict()
    for section in ("mask", "loss", "optim", "schedule"):
        assert values[section] == defaults[section]
    machines = {"manifest", "decode_cpus"}
    assert {name: value for name, value in values["data"].items() if name not in machines} == {
        name: value for name, value in defaults["data"].items() if name not in machines
    }


def test_vit_small_differs_from_the_paper_in_size_and_machines_only() -> None:
    small, paper = load_config("vit_small").to_dict(), load_config("paper_vit_base").to_dict()
    assert (small["model"]["width"], small["model"]["depth"], small["model"]["heads"]) == (384, 12, 6)
    sizes = {"size", "width", "heads", "decoder_width", "decoder_heads"}
    assert {key for key in small["model"] if small["model"][key] != paper["model"][key]} == sizes
    for section in ("mask", "loss", "optim", "schedule"):
        assert small[section] == paper[section]


def test_demo_needs_two_cpus_and_no_data() -> None:
    config = load_config("demo")
    assert config.data.manifest == "synthetic"
    assert config.run.workers == 2
    assert not config.run.use_gpu
    assert config.engine.precision == "fp32"
    assert config.run.workers * config.run.cpus_per_worker + config.data.decode_cpus <= 2


def test_demo_saves_a_checkpoint_before_its_end() -> None:
    config = load_config("demo")
    train_clips = config.data.synthetic_clips // 2  # the synthetic set puts well over half of its clips into TRAIN
    assert derive_plan(config, train_clips).total_steps > config.checkpoint.every_steps


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_sets_no_field_to_its_default_but_for_size(name: str) -> None:
    """One truth: a value that repeats the default would stay behind when the default moves."""
    values = yaml.safe_load((PRESET_DIR / f"{name}.yaml").read_text())
    defaults = Config().to_dict()
    repeated = {
        f"{section}.{key}"
        for section, content in values.items()
        for key, value in content.items()
        if defaults[section][key] == value
    }
    stated_on_purpose = {
        "data.manifest",
        "data.decode_cpus",
        "model.size",
        "engine.zero_stage",
        "engine.precision",
        "engine.global_batch",
        "run.cpus_per_worker",
    }  # what depends on the machine stands in each preset, so that it can be read as a whole
    assert repeated <= stated_on_purpose
