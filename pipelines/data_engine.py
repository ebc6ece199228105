"""Ray Data as every pipeline here wants it: silent, without time limits of its own."""

import logging

from ray.data import DataContext


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
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
