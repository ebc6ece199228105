"""Checkpoints: whole or not at all, the last two and the best are kept, damage is passed over."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.checkpoints import (
    Checkpoint,
    Saver,
    best_key,
    newest_key,
    read_checkpoint,
    save_checkpoint,
)
from pipelines.storage import Store, StoreError, open_store
from resnet_core.errors import DataError


def checkpoint(step: int, scores: dict[int, float]) -> Checkpoint:
    history = [{"step": s, "psnr_y_db": psnr} for s, psnr in scores.items() if s <= step]
    return Checkpoint(step=step, tensors={"a": torch.full((3,), float(step))}, history=history)


def kept(store: Store) -> list[int]:
    return [int(info.key[12:20]) for info in store.list_objects("checkpoints/")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def test_what_is_read_is_what_was_saved(store: Store) -> None:
    saved = checkpoint(7, {7: 30.0})
    key = save_checkpoint(store, saved)
    found = read_checkpoint(store, key)
    assert (found.step, found.history) == (saved.step, saved.history)
    assert torch.equal(found.tensors["a"], saved.tensors["a"])


@given(scores=st.lists(st.floats(20, 40), min_size=1, max_size=8))
def test_the_last_two_and_the_best_are_kept(
    scores: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("run")))
    by_step = dict(enumerate(scores, start=1))
    for step in by_step:
        save_checkpoint(store, checkpoint(step, by_step))
    best = max(by_step, key=lambda step: (by_step[step], step))
    assert kept(store) == sorted({best, *list(by_step)[-2:]})
    history = checkpoint(len(scores), by_step).history
    assert read_checkpoint(store, best_key(store, history)).step == best


@pytest.mark.parametrize("damage", ["cut", "turned", "emptied"])
def test_a_damaged_newest_one_falls_back_to_the_one_before_and_says_so(
    store: Store, damage: str
) -> None:
    keys = [save_checkpoint(store, checkpoint(step, {1: 30.0, 2: 31.0})) for step in (1, 2)]
    data = store.get(keys[1]).data
    spoilt = {"cut": data[:-4], "turned": data[:-1] + b"\xff", "emptied": b""}[damage]
    store.put(keys[1], spoilt)
    told: list[str] = []
    assert newest_key(store, told.append) == keys[0]
    assert told == [f"{store.url_of(keys[1])}: damaged; going on from the one before"]
    with pytest.raises(DataError, match="damaged"):
        read_checkpoint(store, keys[1])


def test_without_a_checkpoint_there_is_none(store: Store) -> None:
    assert newest_key(store, print) is None
    with pytest.raises(DataError, match="no checkpoint in it"):
        best_key(store, [])


def test_saving_goes_on_beside_and_its_errors_come_with_the_next_call() -> None:
    saver = Saver()
    done: list[int] = []
    saver.submit(lambda: done.append(1))
    saver.wait()
    assert done == [1]

    def fail() -> None:
        raise StoreError("the disk is full")

    saver.submit(fail)
    with pytest.raises(StoreError, match="the disk is full"):
        saver.submit(lambda: done.append(2))
    assert done == [1]
