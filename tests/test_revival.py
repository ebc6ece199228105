"""Dead features are those without a gradient; what replaces them is of the others' size."""

import pytest
import torch

from resnet_core.network import NetworkConfig, ResidualNetwork
from resnet_core.revival import DEAD_SHARE, dead_features, new_kernels, renew

CHANNELS = 8


def kernels(count: int = CHANNELS) -> torch.Tensor:
    return torch.randn(count, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(1))


def test_dead_is_what_has_a_small_share_of_the_mean_gradient() -> None:
    gradients = [kernels(), kernels()]
    gradients[1][:, 3] = 0
    gradients[1][:, 5] *= DEAD_SHARE / 10
    gradients[0][:, 2] *= 3 * DEAD_SHARE
    found = dead_features(gradients)
    assert found.shape == (2, CHANNELS)
    assert found.nonzero().tolist() == [[1, 3], [1, 5]]


def test_without_any_gradient_nothing_is_dead() -> None:
    assert not dead_features([torch.zeros(CHANNELS, CHANNELS, 3, 3)]).any()


def test_new_kernels_are_as_large_as_the_others_and_sum_to_zero() -> None:
    old = 0.03 * kernels()
    old[0] = 1e-6  # a dead one says nothing of the size
    new = new_kernels(old, 3, torch.Generator().manual_seed(0))
    assert new.shape == (3, CHANNELS, 3, 3)
    torch.testing.assert_close(new.sum((2, 3)), torch.zeros(3, CHANNELS), atol=1e-6, rtol=0)
    sizes = torch.linalg.vector_norm(new, dim=(1, 2, 3))
    median = torch.linalg.vector_norm(old, dim=(1, 2, 3)).median()
    torch.testing.assert_close(sizes, median.expand(3))
    again = new_kernels(old, 3, torch.Generator().manual_seed(0))
    assert torch.equal(new, again)


@pytest.mark.parametrize("expansion", [0, 2])
def test_renewed_are_the_features_of_one_block_alone(expansion: int) -> None:
    network = ResidualNetwork(NetworkConfig(num_blocks=2, channels=CHANNELS, expansion=expansion))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    features = torch.zeros(CHANNELS, dtype=torch.bool)
    features[[1, 6]] = True
    with torch.no_grad():
        renew(dict(network.named_parameters()), 1, features, lambda _: 7.0)
    after = network.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    parts = {"first.direct", "first.bias", "second.direct"}
    parts |= {"first.project", "second.expand"} if expansion else set()
    assert changed == {f"blocks.1.{part}" for part in parts}
    for name in changed:
        across = 1 if ".second." in name else 0
        kept = after[name].index_select(across, (~features).nonzero().flatten())
        assert torch.equal(kept, before[name].index_select(across, (~features).nonzero().flatten()))
        assert (after[name].index_select(across, features.nonzero().flatten()) == 7).all()
