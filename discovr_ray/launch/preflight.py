"""Everything that can be refused before a worker starts: data, folder of the run, resume, room on the cluster."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pyarrow as pa
import yaml

from discovr_ray.config import Config, check_clips, check_resources
from discovr_ray.data import storage
from discovr_ray.data.manifest import fingerprint, read_manifest, select_clips
from discovr_ray.data.stream.nodes import alive_nodes
from discovr_ray.errors import ConfigError, RunExistsError
from discovr_ray.evaluate.online import probe_videos
from discovr_ray.train import checkpoint

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
# what a continued run may change without becoming another run
FREE_ON_RESUME = {
    "data.manifest",  # the clips themselves are compared
    "data.decode_cpus",
    "data.max_decode_cpus",
    "data.decode_node_labels",
    "data.prefetch_batches",
    "data.max_bad_fraction",
    "schedule.max_steps",
    "engine.micro_batch",
    "engine.zero_stage",
    "engine.recompute_activations",
}
FREE_SECTIONS = {"checkpoint", "storage", "health", "probe", "run"}  # all but run.seed


def run_uri(config: Config) -> str:
    """Folder of the run."""
    return storage.join(storage.absolute(config.run.storage_path), config.run.name)


def load_clips(config: Config) -> pa.Table:
    """The manifest's rows that the run uses.

    Errors:
        ManifestError: no manifest, or nothing left after the filters.
        ConfigError: fewer clips than one global batch, or labels and splits that the kNN probe cannot use.
    """
    clips = select_clips(read_manifest(config.data.manifest), config.data.split, config.data.label_filter)
    problems = check_clips(config, clips.num_rows)
    if problems:
        raise ConfigError(problems)
    if config.probe.every_steps:
        probe_videos(config)
    return clips


def check_cluster(config: Config) -> None:
    """Refuse what the cluster as it is now can never start, unless `run.autoscaling` says that it will grow.

    Errors:
        ConfigError: too few CPUs or GPUs.
    """
    problems = check_resources(config, alive_nodes())
    if problems and config.run.autoscaling:
        logger.warning("waiting for the cluster to grow: %s", "; ".join(problems))
    elif problems:
        raise ConfigError(problems)


def refuse_taken_name(config: Config) -> None:
    """Cheap enough to come first.

    Errors:
        RunExistsError: the name is taken and `run.resume` is off.
        StorageError: the path cannot be read.
    """
    uri = run_uri(config)
    if not config.run.resume and _is_taken(uri):
        raise RunExistsError(
            f"run.name = {config.run.name!r}: {uri} already holds a run; choose another name, "
            "or continue it with run.resume=true"
        )


def check_resume(config: Config, clips: pa.Table) -> None:
    """Whether the newest checkpoint of the run, if any, can be continued with this configuration and these clips.

    Errors:
        RunExistsError: the name is taken and `run.resume` is off.
        ConfigError: the checkpoint was made with another model, data or schedule.
    """
    refuse_taken_name(config)
    newest = next(checkpoint.find_checkpoints(run_uri(config)), None)
    if newest is None:
        return
    state = newest.state
    problems = differences(state.config, config.to_dict())
    if state.clips_sha256 != fingerprint(clips):
        problems.append(
            f"data.manifest = {config.data.manifest}: selects other clips ({clips.num_rows}) than the run was started "
            f"with ({state.num_clips}); other clips are another run"
        )
    if problems:
        raise ConfigError(problems)


def claim_run_folder(config: Config, clips: pa.Table) -> None:
    """Make the run's folder and write its resolved config, or check that the run may go on there.

    Errors:
        RunExistsError, ConfigError: see `check_resume`.
        StorageError: the path cannot be written to.
    """
    check_resume(config, clips)
    uri = run_uri(config)
    # Ray's own list of checkpoints is bound to its exact version and to files that we may have pruned
    storage.remove_tree(storage.join(uri, "checkpoint_manager_snapshot.json"))
    storage.write_bytes(storage.join(uri, CONFIG_FILE), config_text(config).encode())


def _is_taken(uri: str) -> bool:
    return storage.exists(storage.join(uri, CONFIG_FILE)) or bool(checkpoint.sealed(uri))


def config_text(config: Config) -> str:
    """The resolved configuration as YAML; a run can be started from it."""
    text: str = yaml.safe_dump(_plain(config.to_dict()), sort_keys=False, default_flow_style=None, width=110)
    return text


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Fields that differ between two configs and must not when a run is continued; one line each."""
    problems = []
    defaults = _plain(Config().to_dict())
    for section, values in _plain(wanted).items():
        for name, value in values.items():
            key = f"{section}.{name}"
            old = _plain(stored).get(section, {}).get(name, defaults[section][name])  # an older version's config
            free = key in FREE_ON_RESUME or (section in FREE_SECTIONS and key != "run.seed")
            if old != value and not free:
                problems.append(f"{key} = {value}: the run to be continued has {old}; start a new run to change it")
    return problems


def _plain(value: Any) -> Any:
    """Tuples as lists, as YAML and JSON know them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def absolute_paths(config: Config) -> Config:
    """Workers run in other folders: make relative local paths absolute on the driver."""
    manifest, init_from, labelled = config.data.manifest, config.model.init_from, config.probe.manifest
    if manifest != "synthetic":
        manifest = storage.absolute(manifest)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, manifest=manifest),
        probe=dataclasses.replace(config.probe, manifest=labelled and storage.absolute(labelled)),
        model=dataclasses.replace(config.model, init_from=storage.absolute(init_from) if init_from else ""),
        run=dataclasses.replace(config.run, storage_path=storage.absolute(config.run.storage_path)),
    )
