"""One address of an object store for all processes; a test says what becomes of each request."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

import object_store_for_tests
import pytest
from object_store_for_tests import FaultProxy, Faults, fault_proxy, use_store

Answer = tuple[int, Mapping[str, str], bytes]
Serve = Callable[[str, str, Callable[[], Answer]], Answer]
"""Method, path, and a function that asks the store, to the answer that the client gets."""


def pass_on(_method: str, _path: str, ask: Callable[[], Answer]) -> Answer:
    return ask()


@dataclass(kw_only=True)
class Board:
    """The one address of all stores."""

    proxy: FaultProxy
    seaweedfs: str
    store: str
    """The endpoint that requests go to."""
    serve: Serve = pass_on

    def reset(self) -> None:
        self.store, self.serve, self.proxy.faults = self.seaweedfs, pass_on, Faults()


@contextmanager
def store_board(seaweedfs: str) -> Generator[Board]:
    """The AWS_* variables point at it, here and in what is started meanwhile."""
    boards: list[Board] = []

    class Handler(object_store_for_tests._Handler):
        def _ask_the_store(self, body: bytes) -> Answer:
            self.store_host = boards[0].store.removeprefix("http://")
            ask = super()._ask_the_store
            return boards[0].serve(self.command, unquote(self.path), lambda: ask(body))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_store_for_tests, "_Handler", Handler)
        with fault_proxy(seaweedfs) as proxy:
            boards.append(Board(proxy=proxy, seaweedfs=seaweedfs, store=seaweedfs))
            use_store(patch, proxy.endpoint)
            yield boards[0]
