"""The CPU threads of a process, shared by the batches that run at once.

Threads that work on one batch wait for each other after every layer, and whatever else wants a core
meanwhile holds all of them up: with 2 threads and JPEGs coming and going, one batch on both takes
longer than two batches on one each. A batch that is alone has all threads, so that a single image
doesn't take longer than it must.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch

MOST_AT_ONCE = 16
"""Batches: each has its activations in memory."""


class CpuThreads:
    """So many threads for all batches together; any thread may ask for its share."""

    def __init__(self, count: int):
        self.count = count
        self.at_once = min(count, MOST_AT_ONCE)
        """Batches that are worth running at once."""
        self._lock = threading.Lock()
        self._running = 0

    @contextmanager
    def share(self) -> Generator[int]:
        """While the block runs, torch computes in this thread with an equal share, at least one;
        after it with all."""
        with self._lock:
            self._running += 1
            share = max(self.count // self._running, 1)
        torch.set_num_threads(share)
        try:
            yield share
        finally:
            torch.set_num_threads(self.count)  # later threads begin with what was set last
            with self._lock:
                self._running -= 1
