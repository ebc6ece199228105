"""Checkpoints: whole or not at all, the last two and the best are kept, damage is passed over."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.checkpoints import (
    Checkpoint,
    Saver,
    best_checkpoint,
    newest_checkpoint,
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


def test_one_between_two_validations_keeps_the_steps_since_and_goes_with_the_next(
    store: Store,
) -> None:
    scores = {4: 30.0, 8: 31.0}
    save_checkpoint(store, checkpoint(4, scores))
    between = replace(checkpoint(6, scores), scalars=[(5, {"loss": 0.5}), (6, {"loss": 0.25})])
    assert read_checkpoint(store, save_checkpoint(store, between)).scalars == between.scalars
    assert kept(store) == [4, 6]
    found = newest_checkpoint(store, pytest.fail)
    assert found is not None
    assert found[1].step == 6
    assert best_checkpoint(store, between.history, pytest.fail).step == 4
    save_checkpoint(store, checkpoint(8, scores))
    assert kept(store) == [4, 8]


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
    assert best_checkpoint(store, history, pytest.fail).step == best


@pytest.mark.parametrize("damage", ["cut", "turned", "emptied"])
def test_a_damaged_newest_one_falls_back_to_the_one_before_and_says_so(
    store: Store, damage: str
) -> None:
    keys = [save_checkpoint(store, checkpoint(step, {1: 30.0, 2: 31.0})) for step in (1, 2)]
    data = store.get(keys[1]).data
    spoilt = {"cut": data[:-4], "turned": data[:-1] + b"\xff", "emptied": b""}[damage]
    store.put(keys[1], spoilt)
    told: list[str] = []
    found = newest_checkpoint(store, told.append)
    assert found is not None
    assert (found[0], found[1].step) == (keys[0], 1)
    assert told == [f"{store.url_of(keys[1])}: damaged; going on from the one before"]
    with pytest.raises(DataError, match="damaged"):
        read_checkpoint(store, keys[1])


def test_without_a_checkpoint_there_is_none(store: Store) -> None:
    assert newest_checkpoint(store, print) is None


def spoil(store: Store, key: str) -> None:
    store.put(key, store.get(key).data[:-4])


def test_what_comes_after_a_damaged_one_takes_its_place(store: Store) -> None:
    scores = {10: 34.0, 12: 31.0, 15: 32.0, 20: 33.0}
    for step in (10, 12, 20):
        key = save_checkpoint(store, checkpoint(step, {s: scores[s] for s in (10, 12, 20)}))
        if step > 10:
            spoil(store, key)
    found = newest_checkpoint(store, lambda _: None)
    assert found is not None
    assert found[1].step == 10
    for step, expected in ((15, [10, 15]), (20, [10, 15, 20])):
        save_checkpoint(store, checkpoint(step, {s: scores[s] for s in (10, 15, 20)}))
        assert kept(store) == expected
        found = newest_checkpoint(store, pytest.fail)
        assert found is not None
        assert found[1].step == step


def test_the_same_step_again_with_other_bytes_replaces_the_damaged_one(store: Store) -> None:
    scores = {1: 30.0, 2: 31.0}
    save_checkpoint(store, checkpoint(1, scores))
    spoil(store, save_checkpoint(store, checkpoint(2, scores)))
    again = Checkpoint(step=2, tensors={"a": torch.ones(3)}, history=checkpoint(2, scores).history)
    save_checkpoint(store, again)
    assert kept(store) == [1, 2]
    assert best_checkpoint(store, again.history, pytest.fail).step == 2


def test_a_damaged_best_one_leaves_the_next_best(store: Store) -> None:
    scores = {1: 33.0, 2: 31.0, 3: 32.0}
    keys = [save_checkpoint(store, checkpoint(step, scores)) for step in scores]
    spoil(store, keys[0])
    told: list[str] = []
    assert best_checkpoint(store, checkpoint(3, scores).history, told.append).step == 3
    assert len(told) == 1


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(store: Store) -> None:
    spoil(store, save_checkpoint(store, checkpoint(1, {1: 30.0})))
    with pytest.raises(DataError, match="none of its 1 checkpoints is whole"):
        newest_checkpoint(store, lambda _: None)


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
