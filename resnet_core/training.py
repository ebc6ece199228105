"""One training step, and all that it keeps: weights, their moving average, the optimiser.

No engine here: a plain loop and a Ray worker call the same `Trainer.step` and get the same losses.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from resnet_core.degradation import Degradation
from resnet_core.errors import ConfigError, DataError, did_you_mean
from resnet_core.losses import LOSSES, fft
from resnet_core.muon import Muon
from resnet_core.network import Block, FoldableConv, NetworkConfig, ResidualNetwork, fold
from resnet_core.patches import PatchGroup, PatchSampler
from resnet_core.precision import Precision, compute_dtype, fix_arithmetic
from resnet_core.revival import REVIVE_EVERY_STEPS, dead_features, new_kernels, renew

OptimizerKind = Literal["muon", "adam"]
Schedule = Literal["cosine", "constant"]
_CHOICES = {
    "loss": tuple(LOSSES),
    "precision": get_args(Precision),
    "optimizer": get_args(OptimizerKind),
    "schedule": get_args(Schedule),
}
_LOWEST = {
    "batch_size": 1,
    "microbatches": 1,
    "input_px": 1,
    "steps": 1,
    "validate_every": 1,
    "warmup_steps": 0,
    "patience": 0,
    "seed": 0,
}
SHARE_OF_A_PART = 0.4
"""Of a step, for the parts that make one kernel: all go the same way, and add up to one step."""
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
_MUON_STATE = ("momentum",)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """All that fixes a training run but its data and its machine. Raises ConfigError."""

    name: str
    """Name of the weights that come out."""
    network: NetworkConfig
    degradation: Degradation
    source: str
    """Where the recipe comes from: paper and section."""
    loss: str = "l1"
    fft_weight: float = 0.0
    """Of the loss of the spectrum (`fft`), added to `loss`; 0.1 in MIMO-UNet (arXiv:2108.05054)."""
    batch_size: int = 16
    """Examples in a step, over all workers."""
    microbatches: int = 1
    """Parts of a worker's share that are computed one after another: less memory, the same step."""
    input_px: int = 32
    """Side of a training input, pixels."""
    steps: int = 20_000
    """Length of the schedule, and of the run if nothing ends it before."""
    optimizer: OptimizerKind = "muon"
    """`muon` for the blocks' kernels and Adam for the rest, or `adam` for all."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    schedule: Schedule = "cosine"
    """After a linear warm-up: half a cosine down to zero at `steps`, or `constant`."""
    warmup_steps: int = 200
    ema_decay: float = 0.999
    """Of the moving average of the weights, for each step; the average is what is kept."""
    gradient_clip_norm: float = 0.2
    """Largest global norm of the gradient; those of ordinary steps with L1 are 0.03 to 0.2."""
    precision: Precision = "auto"
    """Of the convolutions (autocast): weights stay float32. `auto` is bfloat16 where the device
    computes in it."""
    channels_last: bool = True
    """Whether tensors lie NHWC in memory, which is faster on CPUs and in half precision."""
    compile: bool = False
    """Whether torch.compile makes the step: faster on GPUs, needs a C++ compiler."""
    seed: int = 0
    validate_every: int = 1000
    """Steps between validations and checkpoints."""
    patience: int = 0
    """Validations in a row without a better PSNR that end the run; 0: none does."""

    def sampler(
        self, groups: Sequence[PatchGroup], sizes: Sequence[int], *, patch_px: int
    ) -> PatchSampler:
        """The batches of this recipe from patches in groups, as `PatchSampler` has them."""
        return PatchSampler(
            groups=groups,
            sizes=sizes,
            patch_px=patch_px,
            degradation=self.degradation,
            input_px=self.input_px,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def __post_init__(self) -> None:
        if self.degradation.scale != self.network.scale:
            raise ConfigError(
                f"the degradation's scale is {self.degradation.scale}, "
                f"the network's {self.network.scale}"
            )
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}; {did_you_mean(value, choices)}")
        if not re.fullmatch(r"[\w.-]*\w", self.name):
            raise ConfigError(f"name is {self.name!r}, expected a file's name without folders")
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ConfigError(f"{name} is {value!r}, expected a whole number from {low} up")
        if self.microbatches > 1 and self.network.kind == "residual-bn":
            raise ConfigError(
                "microbatches is above 1: residual-bn would take the statistics of each part, and"
                " the step would be another"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("learning_rate", "gradient_clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}, expected more than 0")
        if not (math.isfinite(self.fft_weight) and self.fft_weight >= 0):
            raise ConfigError(f"fft_weight is {self.fft_weight}, expected 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay is {self.ema_decay}, expected 0 to below 1")


class Trainer:
    """The state of a training run after `step_count` steps.

    `wrap` puts an engine around the network that averages gradients over `world_size` workers,
    such as DistributedDataParallel. The initial weights follow from the recipe's seed; torch's
    generator on the CPU is left as it was.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        *,
        device: torch.device | str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
        world_size: int = 1,
    ):
        self.recipe = recipe
        self.device = torch.device(device)
        fix_arithmetic(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = ResidualNetwork(recipe.network)
        self._dtype = compute_dtype(recipe.precision, self.device)
        self._layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network = network.to(self.device).to(memory_format=self._layout)
        self._wrapped = wrap(self.network)
        self._model = torch.compile(self._wrapped) if recipe.compile else self._wrapped
        self._world_size = world_size
        self._average = {name: value.detach().clone() for name, value in self._floats().items()}
        named = list(self.network.named_parameters())
        self._kernels = {
            name
            for name, p in named
            if recipe.optimizer == "muon" and name.startswith("blocks.") and p.ndim >= 2
        }
        rate = recipe.learning_rate
        others = [p for name, p in named if name not in self._kernels]
        self._adam = torch.optim.Adam(others, lr=rate)
        kernels = [p for name, p in named if name in self._kernels]
        share = SHARE_OF_A_PART if recipe.network.expansion else 1.0
        self._muon = (
            Muon(kernels, lr=rate, relative_step=share, dtype=self._dtype) if kernels else None
        )
        self.step_count = 0
        self.revived = 0
        """Features that got a new kernel (see `revival`), since this object was made."""

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step on a worker's share of the batch.

        The blocks' kernels are trained by Muon (see `muon`), all else by Adam (Kingma and Ba 2015,
        arXiv:1412.6980).
        inputs: float32 (N, 3, P, P), 0..1; targets: float32 (N, 3, s*P, s*P). Returns the loss
        before the step, a detached scalar on the device: its mean over the workers is that of the
        batch, also where their shares differ in size.
        """
        recipe = self.recipe
        self._wrapped.train()
        optimizers = [self._adam, *([self._muon] if self._muon else [])]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(self.step_count)
        self.network.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        parts = min(recipe.microbatches, len(inputs))
        pairs = zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True)
        for number, (some, wanted) in enumerate(pairs, start=1):
            with self._without_exchange() if number < parts else nullcontext():
                loss = self._part_loss(some, wanted)
                loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.gradient_clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        self.step_count += 1
        self._update_average()
        if recipe.network.kind == "residual" and self.step_count % REVIVE_EVERY_STEPS == 0:
            self._revive()
        return total

    def _part_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The part's share of the batch's loss, times the number of workers."""
        x = inputs.to(self.device, memory_format=self._layout)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16
        ):
            output = self._model(x)
        weight = len(inputs) * self._world_size / self.recipe.batch_size
        return weight * self._loss(output.float(), targets.to(self.device))

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        recipe = self.recipe
        loss = LOSSES[recipe.loss](output, target)
        return loss + recipe.fft_weight * fft(output, target) if recipe.fft_weight else loss

    def _without_exchange(self) -> AbstractContextManager[Any]:
        """Workers exchange gradients with the last part of a step alone."""
        no_sync = getattr(self._wrapped, "no_sync", nullcontext)
        return no_sync()

    def learning_rate(self, step: int) -> float:
        """Of the step that follows `step` steps."""
        recipe = self.recipe
        if step < recipe.warmup_steps:
            return recipe.learning_rate * (step + 1) / recipe.warmup_steps
        if recipe.schedule == "constant":
            return recipe.learning_rate
        span = max(1, recipe.steps - recipe.warmup_steps)
        done = min(1.0, (step - recipe.warmup_steps) / span)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def averaged(self) -> ResidualNetwork:
        """The network with the averaged weights, folded: what is validated and shipped."""
        network = ResidualNetwork(self.recipe.network).to(self.device)
        network.load_state_dict({**self.network.state_dict(), **self._average})
        return fold(network)

    def is_finite(self) -> bool:
        """Whether every weight is a number: a finite loss can have a gradient that is none."""
        return all(bool(value.isfinite().all()) for value in self._floats().values())

    def start_from(self, network: ResidualNetwork) -> list[str]:
        """Takes the weights of `network`, folded; a tail of another scale stays as initialised.

        A narrower or shallower `residual` network grows: new channels begin unread and new blocks
        begin as the identity, so that the function is kept (Net2Net, Chen et al. 2016,
        arXiv:1511.05641, sec. 2). Returns what is new, in words. Raises ConfigError if `network` is
        of another kind or unshuffle, or larger.
        """
        source, target = fold(network), self.network
        theirs, ours = source.config, target.config
        grown = replace(theirs, scale=ours.scale, expansion=ours.expansion)
        if ours.kind == "residual":
            grown = replace(
                grown,
                num_blocks=max(theirs.num_blocks, ours.num_blocks),
                channels=max(theirs.channels, ours.channels),
            )
        if grown != ours:
            raise ConfigError(f"can't start from {_told(theirs)}: the recipe has {_told(ours)}")
        with torch.no_grad():
            _grow(source.head, target.head)
            if theirs.scale == ours.scale:
                _grow(source.tail, target.tail)
            for index, block in enumerate(target.blocks):
                assert isinstance(block, Block)
                if index < theirs.num_blocks:
                    old = source.blocks[index]
                    assert isinstance(old, Block)
                    _grow(old.first, block.first)
                    _grow(old.second, block.second)
                else:
                    for parameter in (block.second.direct, block.second.project):
                        if parameter is not None:
                            parameter.zero_()
        self._average = {name: value.detach().clone() for name, value in self._floats().items()}
        added = {
            "blocks": ours.num_blocks - theirs.num_blocks,
            "channels": ours.channels - theirs.channels,
        }
        new = [f"{count} {what}" for what, count in added.items() if count]
        return new if theirs.scale == ours.scale else [*new, "tail"]

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, as named tensors on the CPU: a copy."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self._average.items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self._optimizer(name).state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        tensors["step_count"] = torch.tensor(self.step_count)
        return {
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in tensors.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`, a copy. DataError names what is missing or of another shape."""
        if "step_count" not in tensors:
            raise DataError("the checkpoint has no step_count")
        count = tensors["step_count"]
        if count.shape or count.is_floating_point() or int(count) < 0:
            raise DataError(f"the checkpoint's step_count is {count}, expected a number of steps")
        for name, shape in self._expected_shapes(with_optimizers=bool(count)).items():
            if name not in tensors:
                raise DataError(f"the checkpoint has no {name}")
            if tensors[name].shape != shape:
                raise DataError(
                    f"the checkpoint is of another network: {name} is "
                    f"{tuple(tensors[name].shape)}, expected {tuple(shape)}"
                )
        self.network.load_state_dict(_part(tensors, "network."))
        averages = _part(tensors, "average.")
        self._average = {
            name: averages[name].to(value, copy=True) for name, value in self._average.items()
        }
        self.step_count = int(count)
        for name, parameter in self.network.named_parameters() if self.step_count else ():
            self._optimizer(name).state[parameter] = {
                key: tensors[f"optimizer.{key}.{name}"].to(
                    "cpu" if key == "step" else self.device, copy=True
                )
                for key in self._state_keys(name)
            }

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        return self._muon if self._muon and name in self._kernels else self._adam

    def _state_keys(self, name: str) -> tuple[str, ...]:
        return _MUON_STATE if name in self._kernels else _ADAM_STATE

    def _expected_shapes(self, *, with_optimizers: bool) -> dict[str, torch.Size]:
        shapes = {f"network.{n}": v.shape for n, v in self.network.state_dict().items()}
        shapes |= {f"average.{n}": v.shape for n, v in self._average.items()}
        shapes["step_count"] = torch.Size([])
        for name, parameter in self.network.named_parameters() if with_optimizers else ():
            for key in self._state_keys(name):
                shape = torch.Size([]) if key == "step" else parameter.shape
                shapes[f"optimizer.{key}.{name}"] = shape
        return shapes

    def _floats(self) -> dict[str, Tensor]:
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if value.is_floating_point()}

    @torch.no_grad()
    def _revive(self) -> None:
        if self.step_count + REVIVE_EVERY_STEPS > self.recipe.steps:
            return  # too late to learn anything
        parameters = dict(self.network.named_parameters())
        kept = dict[str, dict[str, Tensor]]()
        for name, parameter in parameters.items():
            for key, value in self._optimizer(name).state[parameter].items():
                if value.shape == parameter.shape:
                    kept.setdefault(key, {})[name] = value
        gradients = {**kept.get("exp_avg", {}), **kept.get("momentum", {})}
        blocks = range(self.recipe.network.num_blocks)
        dead = dead_features([gradients[f"blocks.{block}.second.direct"] for block in blocks])
        generator = torch.Generator().manual_seed(self.recipe.seed + self.step_count)
        for block, features in enumerate(dead):
            count = int(features.sum())
            if count:
                name = f"blocks.{block}.first.direct"
                new = new_kernels(parameters[name], count, generator)
                for tensors in (parameters, self._average):
                    renew(tensors, block, features)
                    tensors[name][features] = new
                for key, tensors in kept.items():
                    # Without a second moment Adam's steps would be many times too long.
                    is_square = key == "exp_avg_sq"
                    renew(tensors, block, features, Tensor.mean if is_square else lambda _: 0.0)
        self.revived += int(dead.sum())

    @torch.no_grad()
    def _update_average(self) -> None:
        # An average over few steps leaves the initial weights behind sooner.
        decay = min(self.recipe.ema_decay, (1 + self.step_count) / (10 + self.step_count))
        floats = self._floats()
        update = get_ema_multi_avg_fn(decay)
        update([self._average[name] for name in floats], list(floats.values()), self.step_count)


def _grow(source: FoldableConv, target: FoldableConv) -> None:
    """Puts a plain kernel into the first channels of a wider one, which don't read new inputs."""
    outputs, inputs = source.direct.shape[:2]
    target.direct[:outputs] = 0
    target.direct[:outputs, :inputs] = source.direct
    target.bias[:outputs] = source.bias
    if target.project is not None:
        target.project[:outputs] = 0


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}


def _told(config: NetworkConfig) -> str:
    return f"{config.kind} {config.num_blocks}x{config.channels}, unshuffle {config.unshuffle}"
