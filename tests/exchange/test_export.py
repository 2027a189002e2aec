"""Exports compute what the encoder computes, say what is known of it, and keep private what nobody else should read."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

from discovr_ray import load_encoder
from discovr_ray.config import DataConfig, load_config
from discovr_ray.errors import CheckpointError, ConfigError, ParityError, RunExistsError
from discovr_ray.exchange import export as export_module
from discovr_ray.exchange.encoders import open_encoder
from discovr_ray.exchange.export import export
from discovr_ray.exchange.formats import Run, Source, largest_difference, write_safetensors
from discovr_ray.exchange.model_card import CardFacts, model_card
from discovr_ray.model.vit import EncoderSpec, Tokens
from discovr_ray.model.weights import make_card, pack, random_encoder, write_encoder

ROOT = Path(__file__).parents[2]
SPEC = EncoderSpec(24, 2, 2, 2.0, 8, 2, 4, 16, True, 1e-6)
CLIPS = torch.randint(0, 256, (3, 4, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """As a run leaves it: encoder and configuration."""
    folder = tmp_path / "run"
    folder.mkdir()
    encoder = random_encoder(make_card(SPEC, DataConfig(), b""), 0)
    weights = pack(encoder.encoder.state_dict())
    write_encoder(folder, make_card(SPEC, DataConfig(frame_stride=5), weights, step=40), weights)
    config = load_config("demo", ["data.manifest=/archive/of/patients/manifest.parquet", "run.storage_path=/secret"])
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config.to_dict()))))
    return folder


def expected(folder: Path) -> Tokens:
    tokens: Tokens = load_encoder(folder)(CLIPS)
    return tokens


def check_loads(folder: Path, run_folder: Path) -> None:
    torch.testing.assert_close(tuple(load_encoder(folder)(CLIPS)), tuple(expected(run_folder)), rtol=0, atol=0)
    assert load_encoder(folder).card == load_encoder(run_folder).card


def test_all_formats(run_folder: Path, tmp_path: Path) -> None:
    exported = export(str(run_folder), str(tmp_path / "out"), ["safetensors", "huggingface", "onnx"], CardFacts())
    assert [item.difference for item in exported[:2]] == [0, 0]
    assert 0 < exported[2].difference < 1e-5
    for item in exported:
        text = Path(item.uri, "README.md").read_text()
        assert load_encoder(run_folder).card.model_sha256 in text
        assert "| data.frame_stride | `4` |" in text  # of the run's config.yaml
        assert "secret" not in text
        assert "patients/manifest" not in text


def test_the_hub_folder(run_folder: Path, tmp_path: Path) -> None:
    (item,) = export(str(run_folder), str(tmp_path / "out"), ["huggingface"], CardFacts())
    folder = Path(item.uri)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    check_loads(folder, run_folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]) == (24, 2, 48)
    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        assert file.metadata() == {"format": "pt"}  # the hub's own loaders ask for it
    # exported again, it is the same
    (again,) = export(str(folder), str(tmp_path / "again"), ["safetensors"], CardFacts())
    check_loads(Path(again.uri), run_folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: 0 bytes with another SHA-256 than config\.json"):
        load_encoder(folder)


def test_onnx_takes_any_number_of_clips_and_says_what_it_is(run_folder: Path, tmp_path: Path) -> None:
    import onnxruntime

    (item,) = export(str(run_folder), str(tmp_path / "out"), ["onnx"], CardFacts())
    session = onnxruntime.InferenceSession(f"{item.uri}/encoder.onnx", providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map["discovr_ray"])
    assert card["frame_stride"] == 5
    for count in (1, 2, 3):
        cls, patches = session.run(["cls", "patches"], {"clips": CLIPS[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(cls), expected(run_folder).cls[:count], rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(patches), expected(run_folder).patches[:count], rtol=0, atol=1e-5)


def write_wrongly(source: Source, folder: Path) -> Run:
    """Loses a bias on the way."""
    state = source.encoder.encoder.state_dict()
    state = {name: value + 2e-4 * (name == "norm.bias") for name, value in state.items()}
    weights = pack(state)
    return write_safetensors(Source(source.encoder, make_card(SPEC, DataConfig(), weights), weights), folder)


def test_an_export_that_computes_something_else_is_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = export_module._Format(write_wrongly, "")
    monkeypatch.setitem(export_module.FORMATS, "wrong", wrong)
    with pytest.raises(ParityError, match=r"format wrong: an output differs by 0\.0002"):
        export(str(run_folder), str(tmp_path / "out"), ["safetensors", "wrong"], CardFacts())
    assert not (tmp_path / "out").exists()
    export(str(run_folder), str(tmp_path / "out"), ["wrong"], CardFacts(), tolerance=1e-3)


def test_nan_is_no_parity(run_folder: Path) -> None:
    encoder = load_encoder(run_folder)
    assert largest_difference(encoder, lambda clips: tuple(x * float("nan") for x in encoder(clips))) == float("inf")


def test_refusals(run_folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match="format 'torchscript': must be one of safetensors, huggingface, onnx"):
        export(str(run_folder), out, ["torchscript"], CardFacts())
    with pytest.raises(ConfigError, match="pixels are no encoder"):
        export("pixels:small", out, ["safetensors"], CardFacts())
    with pytest.raises(CheckpointError, match=r"encoder\.json: cannot be read"):
        export(str(tmp_path / "none"), out, ["safetensors"], CardFacts())
    export(str(run_folder), out, ["safetensors"], CardFacts())
    with pytest.raises(RunExistsError, match="out/safetensors: holds files already"):
        export(str(run_folder), out, ["huggingface", "safetensors"], CardFacts())
    assert not (tmp_path / "out/huggingface").exists()


def test_the_model_card_says_what_is_known_and_leaves_the_rest_open() -> None:
    card = dataclasses.replace(make_card(SPEC, DataConfig(), b""), origin="encoder of x.pth")
    facts = CardFacts(
        name="mine",
        licence="CC-BY-NC-4.0",
        metrics={"knn": {"f1": 0.61453, "ok": True}, "ef": {"mae": 7.79, "unit": "%"}},
    )
    text = model_card(card, facts, 1_000_000, "usage")
    header = yaml.safe_load(text.split("---")[1])
    assert (header["license"], header["library_name"]) == ("cc-by-nc-4.0", "discovr-ray")
    assert "# mine" in text
    assert "Where its weights come from: encoder of x.pth." in text
    assert "| knn.f1 | 0.6145 |\n| ef.mae | 7.79 |\n" in text
    assert text.count("[to be filled in]") == 3  # data, use, limits
    filled = dataclasses.replace(facts, intended_use="research", training_data="synthetic", licence="ask us first")
    text = model_card(card, filled, 1_000_000, "usage")
    assert text.count("[to be filled in]") == 1
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"
    assert "ask us first" in text
    assert "No result is recorded" in model_card(card, CardFacts(), 1, "")


@pytest.mark.s3
def test_from_and_to_s3(run_folder: Path, s3_server: Any) -> None:
    from discovr_ray.data import storage

    for path in run_folder.iterdir():
        storage.put_file(str(path), f"s3://bucket/export/run/{path.name}")
    (item,) = export("s3://bucket/export/run", "s3://bucket/export/out", ["huggingface"], CardFacts())
    assert item.uri == "s3://bucket/export/out/huggingface"
    torch.testing.assert_close(tuple(open_encoder(item.uri)(CLIPS)), tuple(expected(run_folder)), rtol=0, atol=0)
    assert b"data.frame_stride" in storage.read_bytes(f"{item.uri}/README.md")


def test_the_job(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"knn": {"f1": 0.5}}')
    job = [sys.executable, str(ROOT / "jobs/export.py"), str(run_folder), str(tmp_path / "out")]
    options = ["--formats", "safetensors,huggingface", "--metrics", str(tmp_path / "metrics.json")]
    done = subprocess.run([*job, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "huggingface  max abs difference 0.00e+00 (allowed 0.0001)" in done.stdout
    assert "| knn.f1 | 0.5 |" in (tmp_path / "out/safetensors/README.md").read_text()
    again = subprocess.run([*job, *options], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("refused: ")
