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


def keep_freed_memory() -> None:
    """Let this process keep what it frees, from now on, and so its peak of memory.

    A user's own MALLOC_ variables, and C libraries other than glibc, are left alone.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _NEVER)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)
