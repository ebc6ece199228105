"""Processes that are measured in turn: each is ready and idle until it is asked.

An order is one line of JSON on its standard input, and the answer a line `ANSWER {...}` on its
standard output, among whatever else it prints.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster.connect import WORKER_ENVIRONMENT

FOLDER = Path(__file__).resolve().parent.parent
ANSWER = "ANSWER "
TUNED = {*WORKER_ENVIRONMENT, "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
"""Variables that a user doesn't have; a contestant gets them only where it is given them."""

Order = dict[str, Any]
Answer = dict[str, Any]


class Contestant:
    """A module of `parts` as a process that waits for orders, while in its `with` block."""

    def __init__(
        self, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in TUNED}
        self._told = " ".join([module, *arguments])
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", f"parts.{module}", *arguments],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=inherited | dict(environment or {}),
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        if kind is not None:
            self._process.terminate()
        self._process.stdin.close()
        self._process.wait()

    def ask(self, **order: Any) -> Answer:
        """Give an order and wait for its answer. RuntimeError if the process ends instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise RuntimeError(f"{self._told}: ended without an answer, status {self._process.wait()}")


def answer_orders(handle: Callable[[Order], Answer]) -> None:
    """In the contestant: take orders until the input ends."""
    for line in sys.stdin:
        print(ANSWER + json.dumps(handle(json.loads(line))), flush=True)
