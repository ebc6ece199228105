"""How the pipelines use Ray Data."""

import logging
import threading
from collections.abc import Iterator

import pytest
import ray.data

from cluster.connect import ray_session
from pipelines.data_engine import READERS, TERMINAL, iterate, quieten


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_session():
        yield


def engine_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(READERS)]


def read_first() -> None:
    rows = ray.data.range(40, override_num_blocks=20).iter_rows()
    for _ in iterate(rows):
        assert engine_threads()
        raise ValueError("nobody reads on")


@pytest.mark.ray
def test_the_engine_is_over_when_its_reader_fails() -> None:
    with pytest.raises(ValueError, match="nobody reads on"):
        read_first()
    assert not engine_threads()


@pytest.mark.ray
def test_every_row_is_read() -> None:
    rows = iterate(ray.data.range(40, override_num_blocks=20).iter_rows())
    assert sorted(row["id"] for row in rows) == list(range(40))


@pytest.mark.ray
def test_the_terminal_alone_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ray.data")
    quieten()
    levels = {handler.name: handler.level for handler in logger.handlers}
    assert levels.pop(TERMINAL) == logging.CRITICAL
    assert "file" in levels
    assert max(levels.values()) < logging.ERROR
    logging.getLogger("pipelines").error("a line of ours")
    assert "a line of ours" in caplog.text
