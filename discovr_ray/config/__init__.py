"""The whole configuration of a run: typed sections, loading, every rule, and what follows from them."""

from discovr_ray.config.loading import PRESET_DIR, check_types, load_config, parse_config, preset_names, read_yaml
from discovr_ray.config.nodes import NodeRoom, select_nodes, total_cpus
from discovr_ray.config.plan import RunPlan, derive_plan
from discovr_ray.config.rules import check_clips, check_config, check_resources
from discovr_ray.config.sections import (
    MODEL_SIZES,
    CheckpointConfig,
    Config,
    DataConfig,
    EngineConfig,
    HealthConfig,
    LossConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    StorageConfig,
)

__all__ = [
    "MODEL_SIZES",
    "PRESET_DIR",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EngineConfig",
    "HealthConfig",
    "LossConfig",
    "MaskConfig",
    "ModelConfig",
    "NodeRoom",
    "OptimConfig",
    "RunConfig",
    "RunPlan",
    "ScheduleConfig",
    "StorageConfig",
    "check_clips",
    "check_config",
    "check_resources",
    "check_types",
    "derive_plan",
    "load_config",
    "parse_config",
    "preset_names",
    "read_yaml",
    "select_nodes",
    "total_cpus",
]
