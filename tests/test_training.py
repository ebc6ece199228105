"""The training step: it learns, it averages, it resumes exactly, it starts from other weights."""

import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from photographs_for_tests import make_photograph

from resnet_core.errors import ConfigError, DataError
from resnet_core.network import NetworkConfig, ResidualNetwork, fold
from resnet_core.patches import cut_patches
from resnet_core.standard_degradations import bicubic
from resnet_core.training import OptimizerKind, Trainer, TrainingRecipe

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
    precision="float32",
)
PATCHES = cut_patches(make_photograph(200, 200), patch_px=64)
SAMPLER = RECIPE.sampler([PATCHES], [len(PATCHES)], patch_px=64)


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


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("expansion", [0, 2])
def test_dead_features_live_again(
    monkeypatch: pytest.MonkeyPatch, optimizer: OptimizerKind, expansion: int
) -> None:
    recipe = replace(RECIPE, network=replace(NETWORK, expansion=expansion), optimizer=optimizer)
    dead = [0, 2, 5]
    inputs, targets = SAMPLER.batch(0)
    trainers = dict[int, Trainer]()
    for every in (1000, 3):
        monkeypatch.setattr("resnet_core.training.REVIVE_EVERY_STEPS", every)
        trainers[every] = trainer = Trainer(recipe)
        with torch.no_grad():
            trainer.network.blocks[0].first.bias[dead] = -100.0
        for _ in range(3):
            trainer.step(inputs, targets)
    left, trainer = trainers[1000], trainers[3]
    assert left.revived == 0
    assert trainer.revived >= len(dead)
    for one, other in ((left.network, trainer.network), (left.averaged(), trainer.averaged())):
        # What fires at a few pixels counts as dead too.
        torch.testing.assert_close(other(inputs), one(inputs), atol=5e-4, rtol=0)

    block = trainer.network.blocks[0]
    fired = (block.first(trainer.network.head(inputs)) > 0).float().mean((0, 2, 3))
    assert torch.all((fired[dead] > 0.2) & (fired[dead] < 0.8))
    state = trainer.state()
    squares = [value for name, value in state.items() if "exp_avg_sq.blocks.0.first" in name]
    assert squares
    assert all(value[dead].min() > 0 for value in squares), "Adam's steps would be far too long"
    trainer.step(inputs, targets)
    assert block.second.kernel()[:, dead].abs().sum((0, 2, 3)).min() > 0, "they are read"


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


@pytest.mark.parametrize("expansion", [0, 1, 3])
def test_a_kernel_moves_as_far_however_many_parts_it_has(expansion: int) -> None:
    network = replace(NETWORK, channels=32, expansion=expansion)
    trainer = Trainer(replace(RECIPE, network=network, warmup_steps=0, schedule="constant"))
    run_steps(trainer, 8)  # the tail begins at zero, and lets little of the gradient through
    before = fold(trainer.network)
    run_steps(trainer, 9)
    after = fold(trainer.network)
    for name in ("blocks.0.first.direct", "blocks.0.second.direct"):
        moved = (after.get_parameter(name) - before.get_parameter(name)).square().mean().sqrt()
        assert 0.08 < moved / RECIPE.learning_rate < 0.4, name


def test_the_spectrums_loss_is_added() -> None:
    inputs, targets = SAMPLER.batch(0)
    alone = Trainer(RECIPE).step(inputs, targets).item()
    spectrum = Trainer(replace(RECIPE, loss="fft")).step(inputs, targets).item()
    both = Trainer(replace(RECIPE, fft_weight=0.1)).step(inputs, targets).item()
    assert both == pytest.approx(alone + 0.1 * spectrum)


def test_weights_that_are_no_numbers_are_known() -> None:
    trainer = Trainer(RECIPE)
    assert trainer.is_finite()
    with torch.no_grad():
        trainer.network.blocks[0].first.direct[0, 0] = float("nan")
    assert not trainer.is_finite()


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


def trained(network: NetworkConfig) -> ResidualNetwork:
    trainer = Trainer(replace(RECIPE, network=network))
    run_steps(trainer, 8)
    return trainer.averaged()


@pytest.mark.parametrize("expansion", [0, 2])
@pytest.mark.parametrize(
    ("num_blocks", "channels", "new"),
    [
        (1, 16, []),
        (1, 24, ["8 channels"]),
        (3, 16, ["2 blocks"]),
        (3, 24, ["2 blocks", "8 channels"]),
    ],
)
def test_a_smaller_network_grows_and_keeps_its_function(
    num_blocks: int, channels: int, expansion: int, new: list[str]
) -> None:
    small = trained(NETWORK)
    larger = replace(NETWORK, num_blocks=num_blocks, channels=channels, expansion=expansion)
    trainer = Trainer(replace(RECIPE, network=larger))
    assert trainer.start_from(small) == new
    x = torch.rand(2, 3, 12, 10)
    expected = small.residual(x)
    assert expected.abs().max() > 0.01, "a network that does nothing would keep everything"
    for network in (trainer.network, trainer.averaged()):
        torch.testing.assert_close(network.residual(x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 4])
def test_new_channels_and_blocks_learn(scale: int) -> None:
    small = trained(NETWORK)
    larger = replace(NETWORK, scale=scale, num_blocks=2, channels=24)
    trainer = Trainer(replace(RECIPE, network=larger, degradation=bicubic(scale), warmup_steps=0))
    fresh = fold(trainer.network)
    trainer.start_from(small)
    before = fold(trainer.network)
    for name in ("head", "blocks.0.first", "blocks.0.second", "blocks.1.first"):
        begun = slice(None) if name.startswith("blocks.1") else slice(16, None)
        kernels = (n.get_parameter(f"{name}.direct")[begun] for n in (before, fresh))
        assert torch.equal(*kernels), f"{name}: what is new begins as in any network"
    for step in range(4):
        inputs, _ = SAMPLER.batch(step)
        trainer.step(inputs, inputs.repeat_interleave(scale, 2).repeat_interleave(scale, 3))
    after = fold(trainer.network)
    layers = ("head", "blocks.0.first", "blocks.0.second", "blocks.1.first", "blocks.1.second")
    for name in (*layers, "tail"):
        moved = after.get_parameter(f"{name}.direct") - before.get_parameter(f"{name}.direct")
        # The input and output channels of the layer that are new.
        for part in (moved[16:], moved[:, 16:]) if "blocks" in name else (moved,):
            assert part.abs().amax(dim=(2, 3)).gt(0).float().mean() > 0.5, name
    assert after.tail.direct[:, 16:].any(), "new channels are read"
    assert after.get_parameter("blocks.1.second.direct").any(), "new blocks do something"


def test_normalisation_is_folded_into_the_start() -> None:
    trainer = Trainer(replace(RECIPE, network=replace(NETWORK, kind="residual-bn")))
    run_steps(trainer, 8)
    trainer.network.eval()
    target = Trainer(RECIPE)
    target.start_from(trainer.network)
    x = torch.rand(1, 3, 12, 12)
    torch.testing.assert_close(target.network(x), trainer.network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "recipe_fields",
    [
        {"channels": 8},
        {"num_blocks": 1, "channels": 32},
        {"kind": "plain"},
        {"kind": "residual-bn", "num_blocks": 2},
        {"unshuffle": 2, "num_blocks": 2},
    ],
)
def test_weights_that_are_larger_or_of_another_kind_are_no_start(
    recipe_fields: dict[str, object],
) -> None:
    source = replace(NETWORK, num_blocks=2)
    other = Trainer(replace(RECIPE, network=source)).averaged()
    trainer = Trainer(replace(RECIPE, network=replace(source, **recipe_fields)))
    before = trainer.state()
    ours = trainer.network.config
    message = (
        f"can't start from residual 2x16, unshuffle 1: the recipe has "
        f"{ours.kind} {ours.num_blocks}x{ours.channels}, unshuffle {ours.unshuffle}"
    )
    with pytest.raises(ConfigError, match=message):
        trainer.start_from(other)
    assert all(torch.equal(value, before[name]) for name, value in trainer.state().items())


def test_a_wider_plain_network_is_no_start() -> None:
    plain = replace(NETWORK, kind="plain")
    other = Trainer(replace(RECIPE, network=plain)).averaged()
    wider = Trainer(replace(RECIPE, network=replace(plain, channels=32)))
    with pytest.raises(ConfigError, match="can't start from plain 1x16"):
        wider.start_from(other)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    other = Trainer(replace(RECIPE, network=replace(NETWORK, channels=32)))
    with pytest.raises(DataError, match="the checkpoint is of another network"):
        Trainer(RECIPE).load_state(other.state())


@pytest.mark.parametrize("count", [torch.tensor([1, 2]), torch.tensor(-5), torch.tensor(0.5)])
def test_a_checkpoint_of_no_number_of_steps_is_refused(count: torch.Tensor) -> None:
    trainer = Trainer(RECIPE)
    with pytest.raises(DataError, match="expected a number of steps"):
        trainer.load_state(trainer.state() | {"step_count": count})


@pytest.mark.parametrize("name", ["step_count", "network.head.bias", "optimizer.exp_avg.tail.bias"])
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
        ({"optimizer": "adm"}, "optimizer is 'adm'; did you mean 'adam'"),
        ({"schedule": "linear"}, "schedule is 'linear'; known: constant, cosine"),
        ({"microbatches": 0}, "microbatches is 0, expected a whole number from 1 up"),
        (
            {"microbatches": 2, "network": replace(NETWORK, kind="residual-bn")},
            "microbatches is above 1: residual-bn would take the statistics of each part",
        ),
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


def test_shares_of_workers_add_up_to_the_batch_whatever_their_sizes() -> None:
    inputs, targets = SAMPLER.batch(0)
    whole = Trainer(RECIPE)
    expected = whole.step(inputs, targets).item()
    gradient = gradient_of(whole)
    shares = [Trainer(RECIPE, world_size=3) for _ in range(3)]
    losses = [
        trainer.step(*SAMPLER.batch(0, rank=rank, world_size=3)).item()
        for rank, trainer in enumerate(shares)
    ]
    assert np.mean(losses) == pytest.approx(expected, rel=1e-5)
    mean = sum(gradient_of(trainer) for trainer in shares) / 3
    torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-7)


def gradient_of(trainer: Trainer) -> torch.Tensor:
    gradient = trainer.network.tail.direct.grad
    assert gradient is not None
    return gradient


@pytest.mark.parametrize("microbatches", [2, 3, 8])
def test_a_batch_in_parts_is_the_same_step(microbatches: int) -> None:
    # Without clipping, which would hide another size of the gradient.
    recipe = replace(RECIPE, gradient_clip_norm=1e9)
    whole, parts = Trainer(recipe), Trainer(replace(recipe, microbatches=microbatches))
    for step in range(3):
        losses = [trainer.step(*SAMPLER.batch(step)).item() for trainer in (whole, parts)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(gradient_of(whole), gradient_of(parts), rtol=1e-3, atol=1e-6)


def test_adam_trains_all_if_it_is_asked_for() -> None:
    trainer = Trainer(replace(RECIPE, optimizer="adam"))
    run_steps(trainer, 2)
    state = trainer.state()
    assert "optimizer.exp_avg.blocks.0.first.direct" in state
    assert not any(name.startswith("optimizer.momentum") for name in state)
    other = Trainer(replace(RECIPE, optimizer="adam"))
    other.load_state(state)
    assert run_steps(other, 4) == run_steps(trainer, 4)


def test_a_constant_schedule_stays_after_its_warm_up() -> None:
    rate = Trainer(replace(RECIPE, schedule="constant")).learning_rate
    assert rate(0) < rate(4) <= rate(5) == rate(39) == RECIPE.learning_rate


def test_the_layout_in_memory_changes_no_loss() -> None:
    losses = [run_steps(Trainer(replace(RECIPE, channels_last=flag)), 3) for flag in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_gives_the_same_losses() -> None:
    losses = [run_steps(Trainer(replace(RECIPE, compile=flag)), 2) for flag in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
