"""Figures that tell whether training works: losses, speed, and the signs of collapse.

Teacher entropy (nats; log L when every output is equally likely, 0 when one output takes all), prototype usage
perplexity (1: one prototype takes every token, K: all are used alike), standard deviation of the normalised features
and RankMe (Garrido et al., ICML 2023): the effective rank of recent features.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F

from discovr_ray.config import Config, RunPlan
from discovr_ray.model.discovr import Teacher
from discovr_ray.schedules import StepValues
from discovr_ray.train.objective import Pass

FEATURES_KEPT = 512  # recent clips, per rank, that feature_std and rank_me are computed from


class Metrics:
    """Collects over the steps between two records, which rank 0 makes.

    Its own clips and waits stand for those of all ranks; losses and prototype counts are everybody's.
    """

    def __init__(self, config: Config, plan: RunPlan, teacher: Teacher, rank: int) -> None:
        self._config = config
        self._plan = plan
        self._teacher = teacher
        self._rank = rank
        passes_kept = max(1, FEATURES_KEPT // config.engine.micro_batch)
        self._features: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=passes_kept)  # with clips' weights
        self._counts: torch.Tensor | None = None
        self._start_window()

    def waited(self, seconds: float) -> None:
        """Time spent waiting for the next step's clips."""
        self._wait_s += seconds

    def leave_out(self, seconds: float) -> None:
        """Time that counts neither as training nor as waiting."""
        self._started += seconds

    def observe(
        self, passes: Sequence[Pass], losses: dict[str, float], prototype_counts: torch.Tensor, grad_norm: float
    ) -> None:
        """After every optimiser step that was not skipped, with the global losses; never waits for the device.

        `prototype_counts` [K] counts this rank's tokens by their nearest prototype.
        """
        for one in passes:
            if self._rank == 0:  # copies, because features are a slice of all tokens, which would stay in memory
                self._features.append((one.teacher.video_features.to(torch.float32, copy=True), one.weights))
            self._padded += one.num_padded
            self._frames += one.clips.shape[0] * one.clips.shape[2]
        self._video_logits, self._image_logits = passes[-1].teacher.video_logits, passes[-1].teacher.image_logits
        self._losses.append(losses)
        self._counts = prototype_counts if self._counts is None else self._counts + prototype_counts
        self._grad_norm = grad_norm

    def record(self, step: int, values: StepValues, num_bad: int) -> dict[str, float] | None:
        """Means since the last record, as plain numbers; None on all ranks but 0.

        None everywhere, and no new start, when not a single step was observed. Every rank must call it.
        """
        if self._counts is None:
            return None
        dist.all_reduce(self._counts)
        record = self._figures(step, values, num_bad, self._counts) if self._rank == 0 else None
        self._start_window()
        return record

    def _figures(self, step: int, values: StepValues, num_bad: int, counts: torch.Tensor) -> dict[str, float]:
        elapsed = time.perf_counter() - self._started
        steps = len(self._losses)
        teacher, tau = self._teacher, values.teacher_temperature
        features = torch.cat([kept[weights > 0] for kept, weights in self._features]).cpu()
        return {
            "step": step,
            "epoch": step / self._plan.steps_per_epoch,
            **{name: sum(losses[name] for losses in self._losses) / steps for name in self._losses[0]},
            "lr": values.lr,
            "ema_momentum": values.ema_momentum,
            "teacher_temperature": tau,
            "grad_norm": self._grad_norm,
            "clips_per_s": steps * self._config.engine.global_batch / elapsed,
            "data_wait_share": min(1.0, self._wait_s / elapsed),
            "video_teacher_entropy": teacher_entropy(self._video_logits, teacher.video_centre, tau),
            "image_teacher_entropy": teacher_entropy(self._image_logits, teacher.image_centre, tau),
            "prototype_perplexity": usage_perplexity(counts),
            "feature_std": feature_std(features),
            "rank_me": rank_me(features),
            "padded_share": self._padded / max(1, self._frames),
            "bad_clips": num_bad,
        }

    def _start_window(self) -> None:
        self._started = time.perf_counter()
        self._wait_s = 0.0
        self._padded = self._frames = 0
        self._losses: list[dict[str, float]] = []
        self._counts = None


def teacher_entropy(logits: torch.Tensor, centre: torch.Tensor, temperature: float) -> float:
    """Mean entropy in nats of softmax((logits [B, L] - centre [L]) / temperature)."""
    log_p = F.log_softmax((logits.float() - centre) / temperature, dim=-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())


def usage_perplexity(counts: torch.Tensor) -> float:
    """exp of the entropy of the shares counts [K] / sum: the number of prototypes in effective use, 1 .. K."""
    shares = counts.double() / counts.sum()
    return float(torch.special.entr(shares).sum().exp())


def feature_std(features: torch.Tensor) -> float:
    """Standard deviation over clips of L2-normalised features [B, D], times sqrt(D): 1 when spread out, 0 collapsed."""
    if len(features) < 2:
        return math.nan
    unit = F.normalize(features, dim=-1)
    return float(unit.std(dim=0).mean() * features.shape[1] ** 0.5)


def rank_me(features: torch.Tensor) -> float:
    """RankMe of features [B, D]: exp of the entropy of the normalised singular values, 1 .. min(B, D)."""
    if len(features) < 2:
        return math.nan
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum() + 1e-7
    return float(torch.special.entr(shares).sum().exp())
