"""Ray Data as every pipeline here wants it: silent, without time limits, over when it is left."""

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ray.data import DataContext

READERS = ("iter_threaded", "StreamingExecutor")
"""How the names of the engine's own threads begin."""

READERS_END_S = 10.0

TERMINAL = "console"
"""The name of the handler of Ray Data's logger that writes there."""

T = TypeVar("T")


def data_context() -> DataContext:
    """A copy of the current context, to build a dataset in (`DataContext.current`)."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1
    context.memory_usage_poll_interval_s = None
    return context


def quieten() -> None:
    """Ray Data writes its plan and each error's trace to the terminal; files keep them."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == TERMINAL:
            handler.setLevel(logging.CRITICAL)


def iterate(items: Iterable[T]) -> Iterator[T]:
    """The rows or batches of a dataset, whose engine is over when the iterator is closed.

    Its threads otherwise notice later that nobody reads on, and one that lets go of an object
    while Ray shuts down ends the process without a word.
    """
    try:
        yield from items
    finally:
        for thread in threading.enumerate():
            if thread.name.startswith(READERS):
                thread.join(READERS_END_S)
