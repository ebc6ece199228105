"""Laws of the training losses."""

import numpy as np
import pytest
import torch

from resnet_core.losses import LOSSES, Loss, charbonnier, fft, l1

EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def batch(seed: int, size: tuple[int, ...] = (2, 3, 16, 17)) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


@EVERY_LOSS
def test_scalar_symmetric_and_least_for_equal_pictures(loss: Loss) -> None:
    a, b = batch(0), batch(1)
    assert loss(a, b).shape == ()
    torch.testing.assert_close(loss(a, b), loss(b, a))
    assert loss(a, a) < loss(a, b)


@EVERY_LOSS
def test_grows_with_the_error(loss: Loss) -> None:
    a, noise = batch(0), batch(1) - 0.5
    values = [float(loss(a, a + strength * noise)) for strength in (0.01, 0.1, 0.5, 1.0)]
    assert values == sorted(values)


@EVERY_LOSS
def test_gradient_is_finite_even_at_zero_error(loss: Loss) -> None:
    output = batch(0).requires_grad_()
    loss(output, batch(0)).backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()


@EVERY_LOSS
def test_value_doesnt_depend_on_the_batch_size(loss: Loss) -> None:
    a, b = batch(0), batch(1)
    torch.testing.assert_close(loss(a, b), loss(a.repeat(3, 1, 1, 1), b.repeat(3, 1, 1, 1)))


@EVERY_LOSS
def test_shapes_that_would_broadcast_are_refused(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\) and target \(2, 1, 8, 8\)"):
        loss(batch(0, (2, 3, 8, 8)), batch(1, (2, 1, 8, 8)))


def test_equal_pictures_cost_nothing() -> None:
    assert l1(batch(0), batch(0)) == 0.0
    assert fft(batch(0), batch(0)) == 0.0
    torch.testing.assert_close(charbonnier(batch(0), batch(0), eps=0.25), torch.tensor(0.25))


def test_charbonnier_tends_to_l1() -> None:
    a, b = batch(0), batch(1)
    torch.testing.assert_close(charbonnier(a, b, eps=1e-6), l1(a, b))


def test_fft_agrees_with_numpy() -> None:
    a, b = batch(0), batch(1)
    expected = np.abs(np.fft.rfft2((a - b).numpy(), norm="ortho")).mean()
    assert float(fft(a, b)) == pytest.approx(expected, rel=1e-5)


def test_fft_takes_half_precision() -> None:
    a, b = batch(0).bfloat16(), batch(1).bfloat16()
    assert fft(a, b).dtype == torch.float32
