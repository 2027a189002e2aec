"""From YAML and overrides to a configuration: what is understood, and that everything wrong comes at once."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from discovr_ray.config import (
    MODEL_SIZES,
    Config,
    check_config,
    load_config,
    parse_config,
    preset_names,
)
from discovr_ray.errors import ConfigError, DiscovrError


def problems_of(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    return caught.value.problems


def override_problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", overrides)
    return caught.value.problems


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"optim": {"lerning_rate": 1e-3}}, "optim.lerning_rate: unknown field; valid names: lr, beta1"),
        ({"model": {"num_prototype": 10}}, "model.num_prototype: unknown field; did you mean num_prototypes?"),
        ({"engine": {"zero_stagee": 1}}, "engine.zero_stagee: unknown field; did you mean zero_stage?"),
        ({"modle": {"width": 10}}, "modle: unknown section; did you mean model?"),
        ({"zzz": {}}, "zzz: unknown section; valid names: data, storage, mask, model, loss"),
        ({"data": {"num_frames": "64"}}, "data.num_frames = '64': input should be a valid integer"),
        ({"data": {"num_frames": 64.5}}, "data.num_frames = 64.5: input should be a valid integer"),
        ({"data": {"num_frames": True}}, "data.num_frames = True: input should be a valid integer"),
        ({"data": {"num_frames": None}}, "data.num_frames = None: input should be a valid integer"),
        ({"run": {"use_gpu": 1}}, "run.use_gpu = 1: input should be a valid boolean"),
        ({"run": {"name": 7}}, "run.name = 7: input should be a valid string"),
        ({"optim": {"lr": "fast"}}, "optim.lr = 'fast': input should be a valid number"),
        ({"data": {"crop_scales": 0.5}}, "data.crop_scales = 0.5: input should be a valid array"),
        ({"data": {"mean": [0.5, 0.5]}}, "data.mean"),
        ({"data": {"label_filter": {"diagnosis": ["normal"]}}}, "data.label_filter = ['normal']"),
        (
            {"data": {"short_clip": "pad"}},
            "data.short_clip = 'pad': input should be 'fit_stride', 'repeat",
        ),
        ({"data": {"decoder": "pyav"}}, "data.decoder = 'pyav': input should be 'auto' or 'decord'"),
        ({"engine": {"zero_stage": 4}}, "engine.zero_stage = 4: input should be 0, 1, 2 or 3"),
        ({"engine": {"precision": "fp16"}}, "engine.precision = 'fp16': input should be 'bf16' or 'fp32'"),
        ({"model": {"size": "mega"}}, "model.size = 'mega': input should be 'tiny'"),
        ({"model": 3}, "model = 3: input should be"),
        ({"data": {"manifest": object()}}, "configuration holds a value that is no plain number"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(values: dict[str, Any], expected: str) -> None:
    problems = problems_of(values)
    assert problems[0].startswith(expected)


def test_integers_are_accepted_where_numbers_are_wanted() -> None:
    config = parse_config({"optim": {"lr": 1}, "data": {"crop_scales": [1, 0.5], "label_filter": {"abnormal": 0}}})
    assert config.optim.lr == 1.0
    assert config.data.crop_scales == (1.0, 0.5)
    assert config.data.label_filter == {"abnormal": 0}


def test_everything_wrong_is_reported_together() -> None:
    problems = override_problems(
        "model.widht=3",
        "dat.x=1",
        "engine.zero_stage=7",
        "data.image_size=big",
        "mask.video_views=0",
        "model.decoder_heads=7",
        "engine.micro_batch=5",
        "run",
        "optim.lr",
    )
    assert sorted(line.split(":")[0].split(" = ")[0] for line in problems) == [
        "dat",
        "data.image_size",
        "engine.global_batch",
        "engine.zero_stage",
        "mask.video_views",
        "model.decoder_heads",
        "model.widht",
        "override 'optim.lr'",
        "override 'run'",
    ]


def test_a_refused_field_makes_no_second_problem_out_of_its_default() -> None:
    # 7 frames and a tubelet of "7" would fit; the default tubelet of 2 that stands in for "7" would not
    assert problems_of({"data": {"num_frames": 7}, "model": {"tubelet_size": "7"}}) == [
        "model.tubelet_size = '7': input should be a valid integer"
    ]
    assert problems_of({"data": {"num_frames": 7}, "model": "tiny"}) == ["model = 'tiny': input should be an object"]


def test_the_message_counts_and_lists_the_problems() -> None:
    error = ConfigError(["a.b = 1: wrong", "c.d = 2: wrong"])
    assert str(error) == "2 problems in the configuration:\n  - a.b = 1: wrong\n  - c.d = 2: wrong"
    assert str(ConfigError(["a.b = 1: wrong"])).startswith("1 problem in the configuration:")


def test_config_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["a.b = 1: wrong", "c.d = 2: wrong"])))
    assert isinstance(error, ConfigError)
    assert isinstance(error, DiscovrError)
    assert error.problems == ["a.b = 1: wrong", "c.d = 2: wrong"]
    assert str(error).count("problems in the configuration") == 1


@pytest.mark.parametrize(
    ("override", "section", "name", "expected"),
    [
        ("optim.lr=1e-6", "optim", "lr", 1e-6),
        ("optim.lr=2E-3", "optim", "lr", 2e-3),
        ("optim.lr=.5", "optim", "lr", 0.5),
        ("optim.eps=1.5e-8", "optim", "eps", 1.5e-8),
        ("schedule.epochs=3", "schedule", "epochs", 3),
        ("run.use_gpu=true", "run", "use_gpu", True),
        ("run.name=1e-6b", "run", "name", "1e-6b"),
        ("run.name=2026-11-20", "run", "name", "2026-11-20"),
        ("run.storage_path=s3://bucket/a=b", "run", "storage_path", "s3://bucket/a=b"),
        ("run.storage_path=/data/a #1/runs", "run", "storage_path", "/data/a #1/runs"),
        ("run.storage_path=/data/b: c", "run", "storage_path", "/data/b: c"),
        ("run.storage_path=/data/it's [new", "run", "storage_path", "/data/it's [new"),
        ("run.name=2024", "run", "name", "2024"),
        ("run.name=yes", "run", "name", "yes"),
        ("run.name='2024'", "run", "name", "2024"),
        ("engine.precision=fp32", "engine", "precision", "fp32"),
        ("engine.zero_stage=2", "engine", "zero_stage", 2),
        ("data.split=", "data", "split", ""),
        ("data.split=''", "data", "split", ""),
        ("data.crop_scales=[1, 0.5]", "data", "crop_scales", (1.0, 0.5)),
        ("data.crop_scales=[1e-1]", "data", "crop_scales", (0.1,)),
        ("data.label_filter={diagnosis: normal}", "data", "label_filter", {"diagnosis": "normal"}),
        ("data.label_filter={}", "data", "label_filter", {}),
    ],
)
def test_override_values(override: str, section: str, name: str, expected: Any) -> None:
    value = getattr(getattr(load_config("demo", [override]), section), name)
    assert value == expected
    assert type(value) is type(expected)


def test_the_last_override_wins_and_the_file_keeps_the_rest() -> None:
    config = load_config("demo", ["model.depth=2", "model.depth=3"])
    assert config.model.depth == 3
    assert config.model.width == 96


@pytest.mark.parametrize("override", ["optim.lr", "lr=1", "optim.lr.x=1", "=1", "optim.=1", ".lr=1"])
def test_an_override_needs_a_section_a_field_and_a_value(override: str) -> None:
    assert override_problems(override) == [f"override {override!r}: must have the form section.field=value"]


def test_overrides_that_are_no_value() -> None:
    assert override_problems("model.width=null") == ["model.width = None: input should be a valid integer"]
    assert override_problems("data.crop_scales=[1, 0.5")[0].startswith(
        "override 'data.crop_scales=[1, 0.5': value is not"
    )


def test_a_file_with_an_empty_section(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data:\nrun: {name: mine}\n")
    config = load_config(path, ["data.num_frames=32"])
    assert config.data.num_frames == 32
    assert config.run.name == "mine"


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# nothing set\n")
    assert load_config(path) == parse_config({})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- data\n- model\n", "must be a mapping of sections, got list"),
        ("data: {num_frames: 8\n", "not valid YAML"),
        ("data: {num_frames: 8, num_frames: 16}\n", "'num_frames' stands twice"),
        ("run: {name: a}\ndata: {}\nrun: {seed: 1}\n", "'run' stands twice"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert expected in str(caught.value)
    assert "run.yaml" in str(caught.value)


def test_a_missing_file_names_the_presets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no preset \\(demo, paper_vit_base, prove, vit_small\\)") as caught:
        load_config(tmp_path / "absent.yaml")
    assert "No such file" in str(caught.value)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(binary)


@pytest.mark.parametrize("name", preset_names())
def test_a_resolved_config_round_trips(name: str) -> None:
    config = load_config(name)
    assert parse_config(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert check_config(config) == []


@pytest.mark.parametrize(("size", "shape"), MODEL_SIZES.items())
def test_sizes_fill_in_what_is_not_set(size: str, shape: tuple[int, int, int, float]) -> None:
    model = parse_config({"model": {"size": size}}).model
    assert (model.width, model.depth, model.heads, model.mlp_ratio) == shape
    set_by_hand = parse_config({"model": {"size": size, "depth": 3}}).model
    assert (set_by_hand.width, set_by_hand.depth) == (shape[0], 3)


def test_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Config().data.num_frames = 3  # type: ignore[misc]
