"""Import weights that the authors of DISCOVR released: their .pth -> encoder.safetensors and encoder.json.

    python jobs/import_weights.py checkpoint-799.pth encoders/authors
    python jobs/import_weights.py checkpoint-799.pth encoders/authors-student --part encoder

The file is read without running anything in it. Sizes come from the weights, what they do not say from the arguments
stored beside them, else from the options here or the released models' values.
Exit codes: 0 done, 2 refused: damaged, unsafe, or of another model; nothing is written then.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.errors import DiscovrError
from discovr_ray.exchange.reference import FRAME_STRIDE, IMAGE_SIZE, NUM_FRAMES, PARTS, ImportOptions, import_weights


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    own = ImportOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", metavar="FILE", help="the authors' .pth; local or s3://")
    parser.add_argument("output", metavar="DIR", help="folder to write; local or s3://")
    parser.add_argument("--part", choices=PARTS, default=own.part, help=f"which encoder (default {own.part})")
    parser.add_argument("--heads", type=_positive, metavar="N", help="attention heads (default: by width, 12 for 768)")
    parser.add_argument("--num-frames", type=_positive, metavar="N", help=f"frames of a clip (default {NUM_FRAMES})")
    parser.add_argument("--image-size", type=_positive, metavar="PIXELS", help=f"a side (default {IMAGE_SIZE})")
    parser.add_argument(
        "--frame-stride", type=_positive, metavar="N", help=f"every n-th frame is taken (default {FRAME_STRIDE})"
    )
    parser.add_argument(
        "--reference-fps",
        type=float,
        default=own.reference_fps,
        metavar="FPS",
        help="let the stride scale with a video's frame rate over this one (default 0: never, as the authors)",
    )
    parser.add_argument(
        "--short-clip",
        choices=("fit_stride", "repeat_last", "loop"),
        default=own.short_clip,
        help=f"for videos shorter than a clip (default {own.short_clip}, as the authors)",
    )
    return parser.parse_args(arguments)


def main() -> int:
    arguments = vars(parse_arguments())
    source, output = arguments.pop("file"), arguments.pop("output")
    try:
        summary = import_weights(source, output, ImportOptions(**arguments))
    except DiscovrError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    spec = summary.spec
    print(f"encoder   {summary.encoder_uri}")
    print(
        f"sizes     {spec.depth} blocks, width {spec.width}, {spec.heads} heads, q and v biases: "
        f"{'yes' if spec.qkv_bias else 'no'}; {summary.num_parameters / 1e6:.1f} M parameters"
    )
    print(f"clips     {spec.num_frames} frames of {spec.image_size} pixels a side")
    print(f"origin    {summary.origin}")
    print(f"ignored   {summary.num_ignored} tensors of other parts")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
