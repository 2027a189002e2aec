"""What a GPU makes of the model: does it agree with the CPU, how fast is it, and where does the time go.

    python benchmarks/gpu.py                       # the paper's ViT-Base in bf16 on a CUDA device
    python benchmarks/gpu.py --json > gpu.json
    python benchmarks/gpu.py --size tiny --device cpu   # a trial of the script itself, seconds on any machine

Needs torch, timm and this checkout; with DeepSpeed and the package's other requirements installed, the step through
the training engine is measured too. No Ray, no data. Exit code 1 when the device disagrees with the CPU.

parity       the device against the CPU in fp32: largest differences of masks, crops, outputs, losses and gradients;
             how far apart one step moves students, teachers and centres; the losses of bf16 relative to fp32
batches      per batch size: clips_per_s, step_ms (median, 10th and 90th percentile), peak memory in 10^9 bytes, MFU
components   milliseconds and share of each part of the step, measured one by one at the best batch size
deepspeed    the step through the engine at that batch size
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import torch
from one_step import DeepSpeedStep, Inputs, OneStep, paper_config, random_batch, tiny_config
from torch import Tensor

from discovr_ray.config import Config
from discovr_ray.model.discovr import TeacherOutput, split_frames

# dense bf16 FLOP/s that the makers name, by a part of the device's name
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
# fp32 on both sides; what differs is the order of additions
TOLERANCES = {"crops": 1e-4, "outputs": 1e-4, "losses": 1e-5, "gradients": 1e-3}
# of the distance that weights and centres moved in one step; Adam's first step follows the gradient's sign alone, so
# that an entry whose gradient is next to nothing may go the other way
MOVES_TOLERANCE = 0.05
PARITY_MOMENTUM = 0.5  # of the teachers: a large step of theirs, far above the rounding of the weights
BF16_LOSS_TOLERANCE = 0.02

Report = dict[str, Any]


class Everything(NamedTuple):
    """What one step computes and changes, on the CPU."""

    inputs: Inputs
    outputs: list[Tensor]
    losses: list[Tensor]
    gradients: list[Tensor]
    moves: dict[str, Tensor]  # of students, teachers and centres


def main() -> int:
    arguments = _arguments()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    report: Report = {"device": _describe(device), "size": arguments.size, "parity": parity(device)}
    batches: list[Report] = []
    for num_clips in arguments.batches:
        batches.append(measure_batch(arguments, device, num_clips))
        if "out_of_memory" in batches[-1]:
            break
    report["batches"] = batches
    fitting = [batch for batch in batches if "clips_per_s" in batch]
    if fitting:
        best = max(fitting, key=lambda batch: batch["clips_per_s"])["num_clips"]
        for name, measure in (("components", measure_components), ("deepspeed", measure_deepspeed)):
            try:
                report[name] = measure(arguments, device, best)
            except torch.OutOfMemoryError:  # parts measured one by one hold more than a step; the rest still counts
                report[name] = {"num_clips": best, "out_of_memory": True}
    print(json.dumps(report, indent=None if arguments.json else 2))
    return 0 if report["parity"]["ok"] else 1


def parity(device: torch.device) -> Report:
    """The device against the CPU, at tiny size."""
    num_clips = 2
    config = tiny_config("fp32", num_clips)
    sides = [OneStep(config, torch.device("cpu")), OneStep(config, device)]
    seen = [_everything(step, num_clips) for step in sides]
    inputs, outputs, losses, gradients, moves = ([side[part] for side in seen] for part in range(5))
    differences = {
        "crops": _largest([inputs[0][0]], [inputs[1][0]]),
        "outputs": _largest(outputs[0], outputs[1]),
        "losses": _largest(losses[0], losses[1], relative=True),
        "gradients": _largest(gradients[0], gradients[1], relative=True),
    }
    moved = {name: _relative_distance(move, moves[1][name]) for name, move in moves[0].items()}
    masks_equal = all(torch.equal(ours, theirs) for ours, theirs in zip(inputs[0][1:], inputs[1][1:], strict=True))
    half = _everything(OneStep(tiny_config("bf16", num_clips), device), num_clips)[2]
    bf16 = _largest(losses[0], half, relative=True)
    close = all(difference <= TOLERANCES[name] for name, difference in differences.items())
    close = close and max(moved.values()) <= MOVES_TOLERANCE
    return {
        "ok": masks_equal and close and bf16 <= BF16_LOSS_TOLERANCE,
        "masks_equal": masks_equal,
        **{f"{name}_difference": difference for name, difference in differences.items()},
        **{f"{name}_moves_difference": distance for name, distance in moved.items()},
        "bf16_losses_difference": bf16,
        "tolerances": {**TOLERANCES, "moves": MOVES_TOLERANCE, "bf16_losses": BF16_LOSS_TOLERANCE},
    }


def measure_batch(arguments: argparse.Namespace, device: torch.device, num_clips: int) -> Report:
    """Whole steps at one batch size."""
    config = _config(arguments, num_clips)
    _forget(device)
    try:
        step = OneStep(config, device)
        batch = random_batch(config, num_clips, device)
        times = _times(lambda: step.step(*batch), device, arguments.steps)
    except torch.OutOfMemoryError:
        return {"num_clips": num_clips, "out_of_memory": True}
    return {"num_clips": num_clips, **_figures(times, config, num_clips, device)}


def measure_components(arguments: argparse.Namespace, device: torch.device, num_clips: int) -> Report:
    """Each part of the step alone, forward and backward where it trains; the parts' sum against the whole."""
    config = _config(arguments, num_clips)
    _forget(device)
    step = OneStep(config, device)
    frames, keys = random_batch(config, num_clips, device)
    inputs = step.prepare(frames, keys)
    parts = {"crop_and_masks": lambda: step.prepare(frames, keys), **_parts(step, inputs, step.targets(inputs))}
    medians = {name: statistics.median(_times(part, device, arguments.steps)) * 1000 for name, part in parts.items()}
    whole = statistics.median(_times(lambda: step.step(frames, keys), device, arguments.steps)) * 1000
    total = sum(medians.values())
    return {
        "num_clips": num_clips,
        "step_ms": round(whole, 3),
        "sum_of_parts_ms": round(total, 3),
        "parts": {name: {"ms": round(ms, 3), "share": round(ms / total, 4)} for name, ms in medians.items()},
    }


def measure_deepspeed(arguments: argparse.Namespace, device: torch.device, num_clips: int) -> Report:
    """The step through the training engine; clips_per_s beside that of `batches` shows what the engine costs."""
    _forget(device)
    config = _config(arguments, num_clips, arguments.zero_stage)
    try:
        step = DeepSpeedStep(config, device)
    except ImportError as error:
        return {"skipped": f"{type(error).__name__}: {error}"}
    batch = random_batch(config, num_clips, device)
    times = _times(lambda: step.step(*batch), device, arguments.steps)
    return {
        "zero_stage": arguments.zero_stage,
        "num_clips": num_clips,
        **_figures(times, config, num_clips, device),
    }


def step_flops(config: Config, num_clips: int) -> float:
    """Floating-point operations of one step: matrix products alone, a backward pass counted as two forward ones."""
    data, mask, model = config.data, config.mask, config.model
    patches = (data.image_size // model.patch_size) ** 2
    slices, frames = data.num_frames // model.tubelet_size, num_clips * data.num_frames
    shown_video = (patches - int(mask.video_ratio * patches)) * slices
    shown_image = patches - int(mask.image_ratio * patches)
    pixels = 3 * model.patch_size**2

    def encode(sequences: int, tokens: int, frames_per_token: int, trained: bool, cls_only: bool) -> float:
        sizes = (tokens + 1, model.width, model.mlp_ratio)
        blocks = _block_flops(*sizes) * (model.depth - 1) + _block_flops(*sizes, cls_only)
        embedding = 2 * tokens * pixels * frames_per_token * model.width  # pixels need no gradient
        return sequences * (blocks * (3 if trained else 1) + embedding * (2 if trained else 1))

    teachers = encode(num_clips, patches * slices, model.tubelet_size, trained=False, cls_only=True)
    teachers += encode(frames, patches, 1, trained=False, cls_only=False)
    video_views = (mask.video_views + 1) * num_clips
    students = encode(video_views, shown_video, model.tubelet_size, trained=True, cls_only=False)
    students += encode(mask.image_views * frames, shown_image, 1, trained=True, cls_only=True)
    tokens = patches * slices
    decoder = num_clips * model.decoder_depth * _block_flops(tokens, model.decoder_width, model.mlp_ratio)
    decoder += num_clips * 2 * (tokens + shown_video) * model.width * model.decoder_width
    hidden, bottleneck = model.head_hidden, model.head_bottleneck
    head = 2 * (model.width * hidden + hidden * hidden + hidden * bottleneck + bottleneck * model.head_outputs)
    heads = head * (mask.video_views * num_clips + mask.image_views * frames)
    scores = 2 * 2 * num_clips * tokens * model.width * model.num_prototypes
    return teachers + head * (num_clips + frames) + students + 3 * (decoder + heads + scores)


def _block_flops(tokens: int, width: int, mlp_ratio: float, cls_only: bool = False) -> float:
    outputs = 1 if cls_only else tokens
    return 2 * width * width * (3 * tokens + (1 + 2 * mlp_ratio) * outputs) + 4 * tokens * outputs * width


def _parts(step: OneStep, inputs: Inputs, targets: TeacherOutput) -> dict[str, Callable[[], object]]:
    """Name -> function that runs the part once; inputs from other parts are computed beforehand."""
    student, teacher = step.student, step.teacher
    with torch.no_grad():
        output = step.run_student(inputs, targets)
        with step.autocast():
            video = student.video(inputs.clips, inputs.video_visible)
            image = student.image(split_frames(inputs.clips), inputs.image_visible)

    def trained(*leaves: Tensor, run: Callable[..., Any]) -> Callable[[], None]:
        """Forward and backward of `run`, with gradients for the leaves and for the parameters."""

        def once() -> None:
            with step.autocast():
                results = run(*[leaf.detach().requires_grad_() for leaf in leaves])
            results = [result for result in results if result.requires_grad]
            torch.autograd.backward(results, [torch.ones_like(result) for result in results])

        return once

    def taught(run: Callable[[], object]) -> Callable[[], object]:
        def once() -> object:
            with torch.no_grad(), step.autocast():
                return run()

        return once

    def heads(video_cls: Tensor, image_cls: Tensor) -> list[Tensor]:
        return [student.video_head(video_cls), student.image_head(image_cls)]

    return {
        "video_teacher": taught(lambda: teacher.video(inputs.clips)),
        "image_teacher": taught(lambda: teacher.image(split_frames(inputs.clips))),
        "video_students": trained(run=lambda: student.video(inputs.clips, inputs.video_visible)),
        "image_students": trained(run=lambda: student.image(split_frames(inputs.clips), inputs.image_visible)),
        "decoder": trained(video.patches[-1], run=lambda seen: [student.decoder(seen, inputs.video_visible[-1])]),
        "heads": trained(video.cls[:-1], image.cls, run=heads),
        "prototypes": trained(
            torch.stack([targets.image_features] * 2), run=lambda features: [student.prototypes(features)]
        ),
        "scd": trained(output.video_scores, output.image_scores, run=lambda one, other: [step.clusters(one, other)]),
        "distillation": trained(
            output.video_logits,
            output.image_logits,
            run=lambda one, other: step.distillation(output._replace(video_logits=one, image_logits=other), targets),
        ),
        "optimiser": step.optimiser.step,
        "centres_and_teachers": lambda: (step.update_centres(targets), step.update_teacher(0.996)),
    }


def _everything(step: OneStep, num_clips: int) -> Everything:
    """One step, seen from the CPU."""
    before = _state(step)
    inputs = step.prepare(*random_batch(step.config, num_clips, step.device))
    targets = step.targets(inputs)
    output = step.run_student(inputs, targets)
    losses = step.losses(output, targets)
    step.backward(losses)
    gradients = _on_cpu([parameter.grad for parameter in step.student.parameters() if parameter.grad is not None])
    step.optimise()
    step.update_centres(targets)
    step.update_teacher(PARITY_MOMENTUM)
    moves = {name: after - before[name] for name, after in _state(step).items()}
    return Everything(Inputs(*_on_cpu(inputs)), _on_cpu([*targets, *output]), _on_cpu(losses), gradients, moves)


def _state(step: OneStep) -> dict[str, Tensor]:
    """Everything that a step changes, as one vector each, in fp64 on the CPU."""
    centres = [step.teacher.video_centre, step.teacher.image_centre]
    parts = {"student": step.student.parameters(), "teacher": step.teacher.parameters(), "centres": centres}
    return {
        name: torch.cat([tensor.double().flatten() for tensor in _on_cpu(list(part))]) for name, part in parts.items()
    }


def _relative_distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / ours.norm())


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().to("cpu", copy=True) for tensor in tensors]


def _largest(ours: Sequence[Tensor], theirs: Sequence[Tensor], relative: bool = False) -> float:
    """Largest difference, or the largest one relative to its tensor's largest value."""
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        scale = float(one.abs().max()) if relative else 1.0
        worst = max(worst, float((one.float() - other.float()).abs().max()) / max(scale, 1e-8))
    return worst


def _times(function: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, after three that do not count."""
    times = []
    for number in range(3 + repeats):
        _synchronise(device)
        started = time.perf_counter()
        function()
        _synchronise(device)
        if number >= 3:
            times.append(time.perf_counter() - started)
    return times


def _figures(times: list[float], config: Config, num_clips: int, device: torch.device) -> Report:
    ordered = sorted(times)
    median = statistics.median(times)
    flops = step_flops(config, num_clips)
    peak = next((value for name, value in PEAK_FLOPS.items() if name in _describe(device)["name"]), None)
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return {
        "clips_per_s": round(num_clips / median, 3),
        "step_ms": round(median * 1000, 3),
        "step_ms_p10": round(ordered[len(ordered) // 10] * 1000, 3),
        "step_ms_p90": round(ordered[len(ordered) * 9 // 10] * 1000, 3),
        "peak_memory_gb": memory and round(memory, 3),
        "tflop_per_step": round(flops / 1e12, 4),
        "tflop_per_s": round(flops / median / 1e12, 3),
        "mfu": peak and round(flops / median / peak, 4),
    }


def _describe(device: torch.device) -> Report:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"name": name, "torch": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}


def _config(arguments: argparse.Namespace, num_clips: int, zero_stage: int = 0) -> Config:
    make = paper_config if arguments.size == "paper" else tiny_config
    return make(arguments.precision, num_clips, zero_stage)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget(device: torch.device) -> None:
    """Free what an earlier measurement held and start counting memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--size", choices=("paper", "tiny"), default="paper", help="model and clips (default paper)")
    parser.add_argument("--device", help="cuda, cuda:1, cpu (default: cuda when there is one)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64], help="clips per step, rising")
    parser.add_argument("--steps", type=int, default=10, help="measured calls of everything (default 10)")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=1, help="of the DeepSpeed part")
    parser.add_argument("--json", action="store_true", help="print the report on one line")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
