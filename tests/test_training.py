"""The training step: it learns, it averages, it resumes exactly, it starts from other weights."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from photographs_for_tests import make_photograph

from resnet_core.degradation import bicubic
from resnet_core.errors import ConfigError, DataError
from resnet_core.network import NetworkConfig
from resnet_core.patches import PatchSampler, cut_patches
from resnet_core.training import Trainer, TrainingRecipe

NETWORK = NetworkConfig(scale=2, num_blocks=1, channels=16, expansion=2)
RECIPE = TrainingRecipe(
    name="test",
    network=NETWORK,
    degradation=bicubic(2),
    source="",
    batch_size=4,
    input_px=16,
    steps=40,
    warmup_steps=5,
    learning_rate=2e-3,
)
SAMPLER = PatchSampler(
    patches=cut_patches(make_photograph(200, 200), patch_px=64),
    degradation=RECIPE.degradation,
    input_px=RECIPE.input_px,
    batch_size=RECIPE.batch_size,
    seed=RECIPE.seed,
)


def run_steps(trainer: Trainer, until: int) -> list[float]:
    steps = range(trainer.step_count, until)
    return [trainer.step(*SAMPLER.batch(step)).item() for step in steps]


@pytest.mark.parametrize("kind", ["residual", "residual-bn", "plain"])
def test_it_learns(kind: str) -> None:
    network = replace(NETWORK, kind=kind)
    trainer = Trainer(replace(RECIPE, network=network, warmup_steps=0))
    inputs, targets = SAMPLER.batch(0)
    # A brighter picture is what every network can learn in a few steps.
    losses = [trainer.step(inputs, targets + 0.05).item() for _ in range(20)]
    assert losses[-1] < 0.6 * losses[0]


def test_the_first_loss_is_that_of_the_base() -> None:
    inputs, targets = SAMPLER.batch(0)
    base = torch.nn.functional.interpolate(inputs, scale_factor=2, mode="bicubic", antialias=True)
    assert Trainer(RECIPE).step(inputs, targets).item() == pytest.approx(
        (base - targets).abs().mean().item()
    )


@pytest.mark.parametrize("kind", ["residual", "residual-bn"])
def test_resumed_equals_uninterrupted(kind: str) -> None:
    recipe = replace(RECIPE, network=replace(NETWORK, kind=kind))
    whole = Trainer(recipe)
    losses = run_steps(whole, 12)

    first = Trainer(recipe)
    head = run_steps(first, 5)
    second = Trainer(recipe)
    second.load_state(first.state())
    assert second.step_count == 5
    assert head + run_steps(second, 12) == losses
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    states = [Trainer(RECIPE).state(), Trainer(RECIPE).state()]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    other = Trainer(replace(RECIPE, seed=1)).state()
    assert not torch.equal(other["network.head.direct"], states[0]["network.head.direct"])


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    rate = Trainer(RECIPE).learning_rate
    rates = [rate(step) for step in range(41)]
    assert rates[0] == pytest.approx(2e-3 / 5)
    assert max(rates) == rates[5] == pytest.approx(2e-3)
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert rates[40] == pytest.approx(0, abs=1e-9)


def test_the_average_follows_the_weights() -> None:
    trainer = Trainer(replace(RECIPE, ema_decay=0.0))
    run_steps(trainer, 3)
    state = trainer.state()
    assert torch.allclose(state["average.tail.direct"], state["network.tail.direct"])
    slow = Trainer(replace(RECIPE, ema_decay=0.99))
    start = slow.state()["network.tail.direct"]
    run_steps(slow, 3)
    state = slow.state()
    moved = (state["network.tail.direct"] - start).abs().sum()
    assert 0 < (state["average.tail.direct"] - start).abs().sum() < moved


def test_the_averaged_network_is_folded_and_apart_from_the_trainer() -> None:
    trainer = Trainer(RECIPE)
    run_steps(trainer, 3)
    network = trainer.averaged()
    assert network.config == replace(NETWORK, expansion=0)
    x = torch.rand(1, 3, 8, 8)
    before = network(x)
    run_steps(trainer, 5)
    assert torch.equal(network(x), before)


def test_another_scale_starts_from_the_body() -> None:
    source = Trainer(RECIPE)
    run_steps(source, 8)
    network = source.averaged()
    x4 = replace(RECIPE, network=replace(NETWORK, scale=4), degradation=bicubic(4))
    target = Trainer(x4)
    assert target.start_from(network) == ["tail"]
    started = target.averaged()
    torch.testing.assert_close(started.head.kernel(), network.head.kernel())
    same = Trainer(RECIPE)
    assert same.start_from(network) == []
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(same.averaged()(x), network(x))


def test_weights_of_another_width_are_no_start() -> None:
    others = (replace(NETWORK, channels=32), replace(NETWORK, num_blocks=2))
    for network in (*others, replace(NETWORK, kind="plain")):
        other = Trainer(replace(RECIPE, network=network))
        with pytest.raises(ConfigError, match=r"can't start from .*: the recipe has residual 1x16"):
            Trainer(RECIPE).start_from(other.averaged())


def test_a_checkpoint_of_another_network_is_refused() -> None:
    other = Trainer(replace(RECIPE, network=replace(NETWORK, channels=32)))
    with pytest.raises(DataError, match="the checkpoint is of another network"):
        Trainer(RECIPE).load_state(other.state())


@pytest.mark.parametrize("name", ["step_count", "network.head.bias", "adam.exp_avg.tail.bias"])
def test_a_checkpoint_that_lacks_something_is_refused(name: str) -> None:
    trainer = Trainer(RECIPE)
    run_steps(trainer, 1)
    state = trainer.state()
    del state[name]
    with pytest.raises(DataError, match=f"the checkpoint has no {name}"):
        Trainer(RECIPE).load_state(state)


def test_a_kept_state_does_not_change_with_later_steps() -> None:
    trainer = Trainer(RECIPE)
    run_steps(trainer, 2)
    kept = trainer.state()
    copy = {name: value.clone() for name, value in kept.items()}
    run_steps(trainer, 4)
    other = Trainer(RECIPE)
    other.load_state(kept)
    run_steps(other, 4)
    assert all(torch.equal(value, copy[name]) for name, value in kept.items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "bf16"}, "precision is 'bf16'; did you mean 'bfloat16'"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, expected more than 0"),
        ({"seed": -1}, "seed is -1, expected a whole number from 0 up"),
        ({"name": "../x"}, "expected a file's name without folders"),
        ({"loss": "l2"}, "loss is 'l2'; known: charbonnier, fft, l1"),
        ({"steps": 0}, "steps is 0, expected a whole number from 1 up"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"degradation": bicubic(3)}, "the degradation's scale is 3, the network's 2"),
    ],
)
def test_a_bad_recipe_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(RECIPE, **fields)


def test_bfloat16_trains_to_nearly_the_same_loss() -> None:
    exact, fast = Trainer(RECIPE), Trainer(replace(RECIPE, precision="bfloat16"))
    batch = SAMPLER.batch(0)
    losses = [[t.step(*batch).item() for _ in range(4)] for t in (exact, fast)]
    assert np.allclose(losses[0], losses[1], rtol=0.02)
    assert losses[0] != losses[1]
