"""All sections of a configuration, with their defaults.

Defaults live here and nowhere else; they are the values of the paper and its released launcher (docs/config.md).
The sections are plain frozen dataclasses, so `model/` and `objective/` can take one without any dependency.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

STRICT = {"extra": "forbid", "strict": True}  # read by pydantic when a file is loaded


@dataclass(frozen=True)
class DataConfig:
    """Which clips are read and how a clip becomes `num_frames` frames of `image_size` pixels."""

    __pydantic_config__: ClassVar[Any] = STRICT

    manifest: str = "synthetic"  # path or URI of manifest.parquet; "synthetic" makes the embedded data set first
    split: str = "TRAIN"  # manifest rows of this split are used; "" takes every row
    label_filter: dict[str, str | float | bool] = field(default_factory=dict)  # rows whose labels equal all of these
    synthetic_clips: int = 64  # size of the embedded data set, all splits together
    synthetic_seed: int = 0  # same seed, same bytes of every video
    num_frames: int = 64  # T, frames of a clip
    frame_stride: int = 3  # source frames from one taken frame to the next, at reference_fps
    reference_fps: float = 50.0  # the stride scales with fps / reference_fps, so a clip spans the same time; 0: never
    short_clip: Literal["fit_stride", "repeat_last", "loop"] = "fit_stride"  # when the video is shorter than a window
    image_size: int = 112  # H = W, pixels
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # side of the random crop, as a share of image_size
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet, for grey repeated to 3 channels
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # of ImageNet
    decoder: Literal["auto", "decord"] = "auto"  # auto: libjpeg for Motion-JPEG, else FFmpeg; decord: to compare with
    max_bad_fraction: float = 0.001  # share of the manifest's clips that may fail before the run stops
    decode_cpus: float = 1.0  # CPUs that must stay free for decoding; on a cluster that grows, what it is to grow to
    max_decode_cpus: float = 0.0  # CPUs that decoding may take at most; 0: all that training leaves free
    decode_node_labels: dict[str, str] = field(default_factory=dict)  # decode on nodes with all of these Ray labels
    prefetch_batches: int = 4  # micro-batches decoded ahead, per worker


@dataclass(frozen=True)
class StorageConfig:
    """How long object storage is waited for, and how often it is asked. Places and credentials: docs/data.md."""

    __pydantic_config__: ClassVar[Any] = STRICT

    read_timeout_s: float = 0.3  # a read without a byte for so long is asked anew, each time with twice the patience
    connect_timeout_s: float = 2.0  # seconds until a connection must stand
    write_timeout_s: float = 60.0  # seconds; a server may acknowledge a large part late
    attempts: int = 5  # of a request, and reads of a file whose content is not what its hash says
    outage_patience_s: float = 120.0  # storage that answers nobody is asked again for so long, after pauses that double


@dataclass(frozen=True)
class MaskConfig:
    """Masked views of the students (section 3 of the paper)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    video_views: int = 4  # V of the video branch; semantic cluster distillation takes one more
    image_views: int = 4  # V of the image branch
    video_ratio: float = 0.9  # share of patches hidden in every tubelet slice (tube masks)
    image_ratio: float = 0.9  # share of patches hidden in a frame


@dataclass(frozen=True)
class ModelConfig:
    """Encoders, decoder, heads and prototypes. width, depth and heads of 0 are taken from `size`."""

    __pydantic_config__: ClassVar[Any] = STRICT

    size: Literal["tiny", "small", "base", "large", "huge", "giant"] = "base"  # fills the four fields below
    width: int = 0  # D; 0: of `size`
    depth: int = 0  # blocks of each encoder; 0: of `size`
    heads: int = 0  # attention heads; 0: of `size`
    mlp_ratio: float = 0.0  # hidden width of a block's MLP over D; 0: of `size`
    patch_size: int = 16  # pixels
    tubelet_size: int = 2  # frames in one video token
    video_qkv_bias: bool = True  # q and v only; keys never have a bias
    image_qkv_bias: bool = False  # the same for the image branch
    video_norm_eps: float = 1e-6  # of LayerNorm in the video encoder and the decoder
    image_norm_eps: float = 1e-5  # of LayerNorm in the image encoder
    decoder_width: int = 384  # of the decoder that predicts semantic features
    decoder_depth: int = 4  # blocks
    decoder_heads: int = 6  # attention heads
    head_hidden: int = 2048  # width of the projection heads' two hidden layers
    head_bottleneck: int = 256  # width of the L2-normalised layer before the last
    head_outputs: int = 16384  # L, outputs of the projection heads
    num_prototypes: int = 3000  # K; swept
    init_from: str = ""  # path or URI of an encoder that student and teacher video encoder start from; "": random


# width, depth, heads, MLP ratio: the sizes that ViT papers use under these names
MODEL_SIZES: dict[str, tuple[int, int, int, float]] = {
    "tiny": (192, 12, 3, 4.0),
    "small": (384, 12, 6, 4.0),
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 16, 48 / 11),
}


@dataclass(frozen=True)
class LossConfig:
    """Weights, temperatures and the assignment (sections 3.1-3.3 of the paper)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    w_vid: float = 1.0  # weight of video self-distillation
    w_img: float = 1.0  # weight of image self-distillation
    w_scd: float = 1.0  # weight of semantic cluster distillation; swept
    student_temperature: float = 0.1  # tau_s
    teacher_temperature_start: float = 0.04  # tau_t at step 0; lower is sharper
    teacher_temperature: float = 0.07  # tau_t, reached after schedule.teacher_temperature_epochs
    centre_momentum: float = 0.9  # share of the old centre that stays at each step
    scd_temperature: float = 0.1  # of the prototype scores
    sinkhorn_epsilon: float = 0.05  # smoothness of the assignment; lower is harder
    sinkhorn_iterations: int = 10  # each balances prototypes, then tokens


@dataclass(frozen=True)
class OptimConfig:
    """AdamW."""

    __pydantic_config__: ClassVar[Any] = STRICT

    lr: float = 1.5e-4  # peak, per 256 clips of global batch
    beta1: float = 0.9  # decay of the mean of gradients
    beta2: float = 0.95  # decay of the mean of squared gradients
    eps: float = 1e-8  # added to the root of the mean square
    weight_decay: float = 0.05  # not on biases, norms, tokens and prototypes
    grad_clip_norm: float = 0.0  # L2 over all parameters; 0: no clipping


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the run and everything that changes with the step."""

    __pydantic_config__: ClassVar[Any] = STRICT

    epochs: int = 400  # passes over the clips; where the schedules end
    max_steps: int = 0  # stop after this many optimiser steps; 0: after `epochs`. Schedules keep following `epochs`
    warmup_epochs: float = 40.0  # epochs of linear warm-up; then cosine to min_lr
    min_lr: float = 1e-6  # at the end; absolute, not per 256 clips
    teacher_temperature_epochs: float = 30.0  # epochs of the teacher temperature's linear ramp
    ema_momentum: float = 0.996  # swept; cosine to ema_momentum_end
    ema_momentum_end: float = 1.0  # 1: the teachers stand still at the end


@dataclass(frozen=True)
class EngineConfig:
    """How a step is spread over workers. Accumulation = global_batch / (run.workers x micro_batch)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    zero_stage: Literal[0, 1, 2, 3] = 1  # what DeepSpeed shards: 1 moments, 2 + gradients, 3 + weights
    precision: Literal["bf16", "fp32"] = "bf16"  # of the computation; weights, moments and teachers are always fp32
    global_batch: int = 256  # clips per optimiser step
    micro_batch: int = 8  # clips per worker and forward pass
    recompute_activations: bool = False  # less memory for about a third more time in the students


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved. The last step is always saved."""

    __pydantic_config__: ClassVar[Any] = STRICT

    every_steps: int = 500  # optimiser steps
    keep: int = 3  # newest complete checkpoints that stay
    max_failed_saves: int = 3  # in a row, until the run stops; each costs a warning, and training goes on
    hang_timeout_s: float = 1200.0  # training waits for a save so long until workers tell where and restart; 0: never
    local_folder: str = ""  # on every worker's own disk, for files on their way to storage_path; "": the system's


@dataclass(frozen=True)
class HealthConfig:
    """When training is in trouble, and what is done about it (docs/reliability.md). The report has the same limits."""

    __pydantic_config__: ClassVar[Any] = STRICT

    max_skipped_in_row: int = 3  # steps whose loss or gradient is not finite are skipped; more in a row end the run
    on_collapse: Literal["warn", "stop"] = "warn"  # when a sign of collapse lasts; stop ends the run with its name
    patience_steps: int = 500  # optimiser steps that a sign must last
    early_share: float = 0.2  # of the run; until then features have had no time to spread, and no sign counts
    min_feature_std: float = 0.05  # spread of the features, below which all clips look alike to the model
    min_rank_me: float = 2.0  # directions in use, below which the features are one number
    min_prototype_share: float = 0.02  # prototypes in effective use as a share of K; below 2 prototypes is a sign too
    min_entropy_share: float = 0.02  # a teacher's entropy as a share of log L: below, one answer takes all
    max_entropy_share: float = 0.98  # above, it finds all answers equally likely
    spike_factor: float = 1.5  # a loss above so many times its median over the last spike_window_steps is a spike
    spike_window_steps: int = 100  # optimiser steps


@dataclass(frozen=True)
class ProbeConfig:
    """The kNN probe while training runs, on labelled videos: bank from TRAIN, queries from VAL (docs/evaluate.md)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    every_steps: int = 0  # optimiser steps from one probe to the next, and one at the end; 0: never
    label: str = ""  # label of the manifest whose values are the classes
    manifest: str = ""  # path or URI of a manifest with the labelled videos; "": data.manifest
    k: int = 20  # nearest videos that vote
    temperature: float = 0.07  # of the votes; lower counts the nearest more
    max_train: int = 512  # videos of the bank; they stay in the workers' memory, uint8, each worker its share
    max_val: int = 256  # videos that are asked


@dataclass(frozen=True)
class RunConfig:
    """Name, place and resources of the run."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str = "pretrain"  # folder of the run inside storage_path
    storage_path: str = "runs"  # local path or URI; must be shared by all nodes
    resume: bool = False  # continue the run of this name; without it an existing name is refused
    seed: int = 0  # of weights, order, windows, crops and masks
    workers: int | tuple[int, int] = 1  # training processes, with use_gpu one GPU each; [min, max]: as many as fit
    resize_interval_s: float = 60.0  # with [min, max]: how often to look whether another number of workers fits
    use_gpu: bool = False  # CUDA and NCCL; else CPU and gloo
    cpus_per_worker: float = 1.0  # CPUs that Ray sets aside for each
    gpus_per_worker: float = 1.0  # with use_gpu; below 1, runs of one worker share a GPU
    worker_node_labels: dict[str, str] = field(default_factory=dict)  # train on nodes with all of these Ray labels
    threads_per_worker: int = 0  # torch threads; 0: int(cpus_per_worker), at least 1; with use_gpu torch's own number
    log_every_steps: int = 10  # optimiser steps between two lines of metrics
    price_per_hour: float = 0.0  # of one worker, in any currency, for the line about cost at the end; 0: not told
    max_failures: int = -1  # worker-group restarts before the run fails, lost nodes included; -1: no limit
    max_failures_per_step: int = 2  # failures from one and the same checkpoint; lost or reclaimed nodes do not count
    hang_timeout_s: float = 0.0  # seconds without a step until workers tell where they hang and restart; 0: never
    claim_timeout_s: float = 60.0  # a job that gives no sign of life for so long is dead, and its run may be resumed
    autoscaling: bool = False  # the cluster may grow: do not hold the run against its present size

    @property
    def min_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


@dataclass(frozen=True)
class Config:
    """All sections. Frozen: use `dataclasses.replace` or `load_config(..., overrides)`."""

    __pydantic_config__: ClassVar[Any] = STRICT

    data: DataConfig = field(default_factory=DataConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dict, as stored in checkpoints and accepted by `parse_config`."""
        return dataclasses.asdict(self)
