"""Ray Data over blocks of rows where a process may die: its block is lost, the others come back in order."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray


def map_blocks(
    work: Callable[..., pa.Table],
    blocks: Sequence[pa.Table],
    arguments: Sequence[Any],
    max_retries: int,
    max_lost_blocks: int = -1,
    resources: Mapping[str, float] | None = None,
) -> Iterator[pa.Table]:
    """work(block, *arguments) of every block, in order; a block whose process died is left out.

    Args:
        max_retries: times that a block is tried again after a death. Ray Data's own default is for ever.
        max_lost_blocks: -1 is any number.
        resources: num_cpus and num_gpus of each process; one CPU without them.
    Errors:
        RayError: more blocks were lost.
    """
    if not blocks:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 has no other way to bound the retries
        found = ray.data.from_arrow(list(blocks)).map_batches(
            work,
            batch_size=None,
            batch_format="pyarrow",
            fn_args=list(arguments),
            ray_remote_args_fn=lambda: {"max_retries": max_retries},
            **(resources or {}),
        )
    set_up(found, max_lost_blocks)
    found.context.execution_options.preserve_order = True
    yield from found.iter_batches(batch_size=None, batch_format="pyarrow")


def set_up(data: Any, max_lost_blocks: int) -> None:
    """Have this data set lose blocks (-1: any number) without a word, and show no bars."""
    data.context.max_errored_blocks = max_lost_blocks
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a lost block is looked at again: no news for the user
