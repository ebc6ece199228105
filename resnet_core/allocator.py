"""How the C library hands out memory.

glibc gives large blocks back to the system at once, and has them mapped and cleared again for the
next layer: up to half of a network's time on CPUs.
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, from now on, and so its peak of memory.

    Whether it does now. MALLOC_ variables (those of the workers under Ray, or a user's own) and C
    libraries other than glibc are left alone.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return all(library.mallopt(name, _NEVER) for name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
