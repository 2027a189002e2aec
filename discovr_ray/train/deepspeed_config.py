"""What DeepSpeed and AdamW are told, as pure functions of the configuration."""

from __future__ import annotations

from typing import Any

from discovr_ray.config import Config, OptimConfig
from discovr_ray.model.discovr import Student

BUCKET_ELEMENTS = 50_000_000  # of one collective; DeepSpeed's default of 5e8 would cost 2 GB of fp32 buffer
PERSISTENT_ELEMENTS = 100_000  # at stage 3, parameters up to this size stay whole on every rank


def deepspeed_config(config: Config, world_size: int) -> dict[str, Any]:
    """The student's DeepSpeed configuration.

    Parameters, gradients and their reduction stay fp32; bf16 is a matter of autocast around the computation, so the
    ZeRO partitions are the fp32 master weights themselves.
    """
    engine = config.engine
    return {
        "train_micro_batch_size_per_gpu": engine.micro_batch,
        "gradient_accumulation_steps": accumulation(config, world_size),
        "gradient_clipping": config.optim.grad_clip_norm,
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": engine.zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS,
            "memory_efficient_linear": False,  # it replaces torch.nn.functional.linear for the whole process
        },
        "torch_autocast": {
            "enabled": engine.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # those would be gathered and reduced in bf16
        },
    }


def teacher_config(config: Config, world_size: int) -> dict[str, Any]:
    """The stage 3 teacher's: partitioned like the student, and gathered module by module for its forward pass.

    DeepSpeed would keep small parameters whole on every rank, and these copies would miss the shard's updates.
    """
    shared = deepspeed_config(config, world_size)
    zero = {**shared["zero_optimization"], "stage3_param_persistence_threshold": 0}
    return {**shared, "gradient_clipping": 0.0, "zero_optimization": zero}


def accumulation(config: Config, world_size: int) -> int:
    """Passes per optimiser step; the configuration's rules make it whole."""
    return config.engine.global_batch // (world_size * config.engine.micro_batch)


def parameter_groups(student: Student, optim: OptimConfig) -> list[dict[str, Any]]:
    """Two AdamW groups: with weight decay, and without (biases, norms, tokens, prototypes)."""
    exempt = student.no_weight_decay()
    named = [(name, parameter) for name, parameter in student.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in named if name not in exempt], "weight_decay": optim.weight_decay},
        {"params": [p for name, p in named if name in exempt], "weight_decay": 0.0},
    ]
