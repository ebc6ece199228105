"""The model card of a weights file, as Markdown: what `resray weights cards` writes.

All of it follows from the file alone, so that the same file gives the same card everywhere.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from resnet_core.network import ResidualNetwork
from resnet_core.weights import Weights

_CLEAN = (
    (
        "It was trained on clean pictures made small by bicubic reduction alone: noise and JPEG"
        " blocks of a worn source are enlarged with the rest."
    ),
    "It sharpens what is there and invents nothing: text or faces that can't be made out stay so.",
)
_WORN = (
    "What it takes for wear it takes away: fine grain, fabric or foliage may come out smoother.",
    "Wear that isn't in its degradation (scratches, motion blur, colour fringes) stays.",
)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What weights do, in a sentence, and what they don't."""

    purpose: str
    limits: tuple[str, ...]


_TASKS = {
    "sr-x2": _Task(purpose="Makes a clean picture twice as large.", limits=_CLEAN),
    "sr-x3": _Task(purpose="Makes a clean picture three times as large.", limits=_CLEAN),
    "sr-x4": _Task(purpose="Makes a clean picture four times as large.", limits=_CLEAN),
    "denoise": _Task(
        purpose="Takes noise of an unknown level from a colour picture, at the same size.",
        limits=(
            (
                "It was trained on Gaussian noise that is equal and independent in all pixels and"
                " channels. That of a camera's JPEG is blurred and coloured, and less of it goes."
            ),
            _WORN[0],
        ),
    ),
    "dejpeg": _Task(
        purpose="Takes the blocks and rings of JPEG from a picture, at the same size.",
        limits=(
            "What a quality below 10 threw away can't be given back.",
            "Resizing after JPEG moves the blocks off the grid that it was trained on.",
        ),
    ),
    "restore": _Task(
        purpose="Cleans an ordinary worn photograph (mild blur, noise, JPEG) at the same size.",
        limits=_WORN,
    ),
    "photo-x2": _Task(purpose="Makes a worn photograph clean and twice as large.", limits=_WORN),
}
_MEASURES = {
    "psnr_y_db": ("PSNR-Y", "{:.2f} dB"),
    "ssim_y": ("SSIM-Y", "{:.4f}"),
    "psnr_rgb_db": ("PSNR-RGB", "{:.2f} dB"),
}


def model_card(weights: Weights) -> str:
    """The card, ending in a newline. WeightsError for a network from elsewhere."""
    metadata, network = weights.metadata, weights.own_network
    assert metadata.degradation is not None
    task = _TASKS.get(metadata.task)
    purpose = task.purpose if task else f"Its task is {metadata.task}."
    limits = task.limits if task else ("Nothing is known of its limits.",)
    return f"""# {weights.name}

{purpose}

| matter | what is known |
|---|---|
{_lines(f"| {name} | {value} |" for name, value in _rows(weights, network))}

## What it undoes

The steps that made the inputs it was trained on, in order ([what they do](../degradations.md)):

```text
{_lines(map(repr, metadata.degradation.steps))}
```

## Figures

| set | measure | value |
|---|---|---|
{_lines(_figures(weights))}

PSNR and SSIM are on BT.601 luma (16..235), with a border of `scale` px left out when enlarging;
SSIM has a Gaussian window of 11 px. On the standard sets, beside the traditional methods:
[results](../results.md).

## Limits

{_lines(f"- {limit}" for limit in limits)}
- A result that is too far from its source is marked, or refused
  ([what a result may not do](../bulk.md#what-a-result-may-not-do)).

Written by `resray weights cards` from the metadata of `{weights.name}.safetensors`.
"""


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _rows(weights: Weights, network: ResidualNetwork) -> Iterator[tuple[str, str]]:
    metadata, config = weights.metadata, network.config
    shape = f"{config.num_blocks} residual blocks of {config.channels} channels"
    if config.unshuffle > 1:
        shape += f", on the picture unshuffled by {config.unshuffle}"
    size = "at the same size" if config.scale == 1 else f"{config.scale} times as large"
    gmacs = network.macs_per_output_pixel / 1000
    training = {name: metadata.training.get(name) for name in ("steps", "started from", "source")}
    rows = {
        "task": f"`{metadata.task}`, {size}",
        "network": f"{shape}; {network.num_parameters:,} parameters",
        "cost": f"{gmacs:,.0f} G multiply-adds for a megapixel of output",
        "sees": f"{config.halo_px} px of the source on each side of a pixel",
        "data": metadata.data,
        "licence": metadata.licence,
        "trained": ", ".join(f"{name} {value}" for name, value in training.items() if value),
        "made": f"{metadata.created}, by revision `{metadata.git_revision}`",
        "SHA-256": f"`{weights.sha256}`",
    }
    return ((name, value) for name, value in rows.items() if value)


def _figures(weights: Weights) -> Iterator[str]:
    for name, value in weights.metadata.figures.items():
        where, _, measure = name.rpartition(" ")
        title, form = _MEASURES.get(measure, (measure, "{:.4g}"))
        yield f"| {where} | {title} | {form.format(value)} |"
