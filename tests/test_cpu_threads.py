"""Threads that batches share: all for one that is alone, and never none."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch

from resnet_core.cpu_threads import MOST_AT_ONCE, CpuThreads


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_each_has_an_equal_share_and_one_alone_has_all() -> None:
    cpu = CpuThreads(4)
    for _ in range(2):
        with ExitStack() as stack:
            shares = [stack.enter_context(cpu.share()) for _ in range(6)]
        assert shares == [4, 2, 1, 1, 1, 1]


def test_the_share_is_of_the_thread_that_asks() -> None:
    cpu = CpuThreads(2)
    found: list[int] = []

    def compute() -> None:
        with cpu.share():
            found.append(torch.get_num_threads())

    with cpu.share():
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
        assert torch.get_num_threads() == 2
    assert found == [1]


def test_later_threads_begin_with_all() -> None:
    cpu = CpuThreads(4)
    with cpu.share(), cpu.share():
        assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 4


def test_no_more_run_at_once_than_memory_allows() -> None:
    assert CpuThreads(2).at_once == 2
    assert CpuThreads(1000).at_once == MOST_AT_ONCE
