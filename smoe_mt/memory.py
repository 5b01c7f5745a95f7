"""Training and translating on a CPU keep the memory that they free.

Gradients of the experts and activations are freed and allocated anew at every step. glibc gives blocks of that size back
to the system, which then has to map and zero every page of them again. So with the logits of each step of a beam search.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK = 1 << 30  # bytes; larger ones still go back
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next step; the process grows to its peak and stays there.

    Returns whether this system's allocator took the advice.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
