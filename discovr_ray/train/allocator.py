"""How the C library hands out memory to a process that trains on a CPU."""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

# glibc's <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, for the next step's tensors of the same sizes.

    glibc gives every large block back to the system at once, so that each activation of each step is made of fresh
    pages, which the kernel must clear first: a seventh of the time of a ViT-Base step. The peak stays what it was; what
    changes is that a process keeps it until it ends.

    Returns whether it worked; other C libraries than glibc have no such switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    done = mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
    if not done:
        logger.info("this C library cannot keep freed memory: CPU steps take somewhat longer")
    return done
