"""`resray evaluate`: how close weights come to the truth on a folder of images, beside old methods.

Every image is taken as the truth, degraded as the weights' training degraded (super-resolution) or
at the fixed levels of the literature (noise, JPEG), enhanced by every method, and measured:

    conditions_for   which degradations a task is measured under
    make_pair        what is left of a truth under a condition
    measure          a result beside the truth
    evaluate_folder  folder + weights -> one `ConditionResult` for each condition, streaming
    format_table     a `ConditionResult` as text
"""

import argparse
import io
import json
import math
import shlex
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PillowImage

from pipelines.machine import machine_name
from pipelines.page_images import densest_box
from pipelines.report import (
    ConditionResult,
    CropStrip,
    EvaluateReport,
    ImageRow,
    MethodRow,
    WeightsCard,
    write_evaluate_report,
)
from resnet_core.classical import CLASSICAL
from resnet_core.degradation import Degradation, crop_to_multiple, degrade
from resnet_core.enhancer import Enhancer, EnhanceSettings
from resnet_core.errors import (
    ConfigError,
    DataError,
    ImageError,
    NoImageError,
    UnsupportedImageError,
)
from resnet_core.guard import deviation
from resnet_core.images import Image, decode
from resnet_core.images.image import round_to_8_bit
from resnet_core.levels import Levels
from resnet_core.metrics import crop_border, luma_y, psnr_rgb, psnr_y, ssim, ssim_y
from resnet_core.standard_degradations import RESTORE, bicubic, gaussian_noise, jpeg
from resnet_core.weights import Weights, load_weights, packaged_weights

NOISE_SIGMAS = (15, 25, 50)
JPEG_QUALITIES = (10, 20, 30, 40)
BASELINES_ENLARGING = ("bicubic", "lanczos", "unsharp-mask")
BASELINES_SAME_SIZE = ("input", "unsharp-mask", "median", "bilateral", "non-local-means")
SSIM_WINDOW_PX = 11
NUM_STRIPS = 8
"""Images shown side by side on a page, over all conditions; at least one for each."""
STRIP_PX = 144


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way to degrade the truth and to measure what comes back."""

    label: str
    degradation: Degradation
    colour: Literal["y", "rgb"] = "y"
    """PSNR on luma, as for super-resolution and JPEG, or on RGB, as for colour denoising."""
    gray_is_luma: bool = False
    """Gray images are measured as they are: those of the sets for JPEG are luma, 16..235."""

    @property
    def border_px(self) -> int:
        """Pixels not measured at each side: the scale, as in the papers; none at the same size."""
        return self.degradation.scale if self.degradation.scale > 1 else 0

    @property
    def smallest_px(self) -> int:
        """The shortest side that can be measured."""
        return SSIM_WINDOW_PX + 2 * self.border_px


@dataclass(frozen=True, kw_only=True)
class Method:
    """Something that enhances uint8 HWC pixels."""

    name: str
    enhance: Callable[[Levels], Levels]
    sha256: str | None = None
    """Of the weights file; None for the classical methods."""
    deviation: Callable[[Levels, Levels], float] | None = None
    """How far a result is from its input, as a share of what the guard allows; of weights alone."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate_folder` found. `left_out`: files that are no image, with the reason."""

    keys: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    conditions: tuple[ConditionResult, ...]
    guard_share: float
    """Of the time that the weights took."""


@dataclass(frozen=True, kw_only=True)
class _Tally:
    """Figures of one condition, gathered image by image."""

    condition: Condition
    methods: tuple[Method, ...]
    ms_per_megapixel: tuple[list[float], ...]
    deviations: tuple[list[float], ...]
    guard_s: list[float] = field(default_factory=list[float])
    weights_s: list[float] = field(default_factory=list[float])
    shapes: set[tuple[int, ...]] = field(default_factory=set[tuple[int, ...]])
    """Of the inputs so far."""
    images: list[ImageRow] = field(default_factory=list[ImageRow])
    strips: list[CropStrip] = field(default_factory=list[CropStrip])


def conditions_for(task: str, degradation: Degradation) -> tuple[Condition, ...]:
    """The conditions for weights of `task`, trained on `degradation`."""
    if task == "denoise":
        return tuple(
            Condition(
                label=f"noise of sigma {sigma}", degradation=gaussian_noise(sigma), colour="rgb"
            )
            for sigma in NOISE_SIGMAS
        )
    if task == "dejpeg":
        return tuple(
            Condition(label=f"JPEG quality {quality}", degradation=jpeg(quality), gray_is_luma=True)
            for quality in JPEG_QUALITIES
        )
    label = f"bicubic x{degradation.scale}" if task.startswith("sr-") else task
    return (Condition(label=label, degradation=degradation),)


def _conditions(weights: Weights) -> tuple[Condition, ...]:
    """Those of its task; where that isn't known, of clean enlargement or of `restore`."""
    metadata, scale = weights.metadata, weights.scale
    if metadata.degradation is not None:
        return conditions_for(metadata.task, metadata.degradation)
    assumed = RESTORE if scale == 1 else bicubic(scale)
    return conditions_for(assumed.name, assumed)


def evaluate_folder(
    folder: Path,
    weights: Sequence[Weights],
    settings: EnhanceSettings,
    *,
    device: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    num_strips: int = 0,
    on_image: Callable[[str], None] = lambda _key: None,
) -> Evaluation:
    """Measure `weights` and the classical methods on the images under `folder`, one at a time.

    Noise depends on `seed` and on the image's name alone. Raises DataError where the folder is
    missing, holds no image, or an image is broken or too small to measure.
    """
    left_out: list[tuple[str, str]] = []
    tallies: list[_Tally] | None = None
    keys: list[str] = []
    for key, truth in read_images(folder, left_out):
        tallies = tallies or _tallies(weights, settings, device)
        strips_each = max(num_strips // len(tallies), min(num_strips, 1))
        on_image(key)
        for tally in tallies:
            _measure(tally, key, truth, seed=seed, with_strip=len(keys) < strips_each)
        keys.append(key)
        if len(keys) == limit:
            break
    if tallies is None:
        others = f" ({len(left_out)} files of other kinds)" if left_out else ""
        raise DataError(f"{folder}: no image to evaluate{others}; expected photographs, as files")
    return Evaluation(
        keys=tuple(keys),
        left_out=tuple(left_out),
        conditions=tuple(_result(tally) for tally in tallies),
        guard_share=sum(sum(tally.guard_s) for tally in tallies)
        / sum(sum(tally.weights_s) for tally in tallies),
    )


def read_images(folder: Path, left_out: list[tuple[str, str]]) -> Iterator[tuple[str, Levels]]:
    """Key and uint8 HWC pixels of each image, sorted by key; other files go to `left_out`."""
    if folder.parts[:1] == ("s3:",):
        raise DataError(
            f"s3://{'/'.join(folder.parts[1:])}: a bucket, expected a folder of this machine"
        )
    if not folder.is_dir():
        what = "is a file, expected a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}")
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for key in sorted(paths):
        hidden = any(part.startswith((".", "_")) for part in key.split("/"))
        if hidden or not paths[key].is_file():
            continue
        try:
            yield key, _levels(paths[key])
        except NoImageError as error:
            left_out.append((key, f"not an image: {error}"))
        except UnsupportedImageError as error:
            left_out.append((key, str(error)))
        except (ImageError, OSError) as error:
            raise DataError(f"{key}: {error}; mend or remove it and run again") from error


def _levels(path: Path) -> Levels:
    """uint8 HWC, RGB or gray; 16-bit rounded to 8, alpha dropped."""
    return round_to_8_bit(decode(path.read_bytes()).pixels)


def _tallies(
    weights: Sequence[Weights], settings: EnhanceSettings, device: str | None
) -> list[_Tally]:
    """One tally for each condition, with the baselines first and the weights in their order."""
    methods: dict[Condition, list[Method]] = {}
    for name, each in zip(_row_names(weights, settings), weights, strict=True):
        enhancer = Enhancer(each, settings, device=device)
        method = Method(
            name=name,
            enhance=enhancer.enhance_pixels,
            sha256=each.sha256,
            deviation=_guard(each.metadata.task, settings.strength),
        )
        for condition in _conditions(each):
            methods.setdefault(condition, baselines(condition.degradation.scale)).append(method)
    return [
        _Tally(
            condition=condition,
            methods=tuple(found),
            ms_per_megapixel=tuple([] for _ in found),
            deviations=tuple([] for _ in found),
        )
        for condition, found in methods.items()
    ]


def _guard(task: str, strength: float) -> Callable[[Levels, Levels], float]:
    def share(source: Levels, result: Levels) -> float:
        images = (Image(pixels=pixels, format="PNG") for pixels in (source, result))
        return deviation(*images, task=task, strength=strength).share

    return share


def _row_names(weights: Sequence[Weights], settings: EnhanceSettings) -> list[str]:
    names = [each.name for each in weights]
    unique = [
        name if names.count(name) == 1 else f"{name} {each.sha256[:6]}"
        for name, each in zip(names, weights, strict=True)
    ]
    suffix = "" if settings.strength == 1 else f", strength {settings.strength:g}"
    return [name + suffix for name in unique]


def baselines(scale: int) -> list[Method]:
    """The traditional methods, the plain base first."""
    names = BASELINES_ENLARGING if scale > 1 else BASELINES_SAME_SIZE
    return [Method(name=name, enhance=_classical(name, scale)) for name in names]


def _classical(name: str, scale: int) -> Callable[[Levels], Levels]:
    if name == "input":
        return lambda pixels: pixels
    return lambda pixels: CLASSICAL[name](pixels, scale)


def _measure(tally: _Tally, key: str, truth: Levels, *, seed: int, with_strip: bool) -> None:
    condition = tally.condition
    _check_size(key, truth, condition)
    truth, degraded = make_pair(key, truth, condition, seed=seed)
    outputs: list[Levels] = []
    for index, method in enumerate(tally.methods):
        if method.sha256 and degraded.shape not in tally.shapes:
            method.enhance(degraded)  # the first call of a network on a size pays for its set-up
        started = time.perf_counter()
        outputs.append(method.enhance(degraded))
        seconds = time.perf_counter() - started
        megapixels = truth.shape[0] * truth.shape[1] / 1e6
        tally.ms_per_megapixel[index].append(1000 * seconds / megapixels)
        if method.deviation is None:
            continue
        tally.weights_s.append(seconds)
        started = time.perf_counter()
        tally.deviations[index].append(method.deviation(degraded, outputs[-1]))
        tally.guard_s.append(time.perf_counter() - started)
    tally.shapes.add(degraded.shape)
    figures = [measure(condition, output, truth) for output in outputs]
    row = ImageRow(
        key=key,
        psnr_db=tuple(psnr_db for psnr_db, _ in figures),
        ssim=tuple(similarity for _, similarity in figures),
    )
    tally.images.append(row)
    if with_strip:
        tally.strips.append(_strip(tally, row, truth, outputs))


def make_pair(
    key: str, truth: Levels, condition: Condition, *, seed: int = 0
) -> tuple[Levels, Levels]:
    """The truth, cropped to a multiple of the scale, and what is left of it."""
    truth = crop_to_multiple(truth, condition.degradation.scale)
    rng = np.random.default_rng([seed, zlib.crc32(key.encode("utf-8"))])
    return truth, degrade(truth, condition.degradation, rng)


def measure(condition: Condition, output: Levels, truth: Levels) -> tuple[float, float]:
    """PSNR in dB and SSIM, by the convention of the condition."""
    border_px = condition.border_px
    if condition.gray_is_luma and truth.shape[2] == 1:
        planes = (crop_border(pixels[:, :, 0], border_px) for pixels in (output, truth))
        similarity = ssim(*planes, data_range=255.0)
        return psnr_rgb(output, truth, border_px=border_px), similarity
    psnr = psnr_y if condition.colour == "y" else psnr_rgb
    return psnr(output, truth, border_px=border_px), ssim_y(output, truth, border_px=border_px)


def _check_size(key: str, truth: Levels, condition: Condition) -> None:
    scale = condition.degradation.scale
    height, width = (side - side % scale for side in truth.shape[:2])
    if min(height, width) < condition.smallest_px:
        raise DataError(
            f"{key}: {truth.shape[1]}x{truth.shape[0]} px is too small to measure under "
            f"{condition.label}: expected {condition.smallest_px} px a side or more"
        )


def _strip(tally: _Tally, row: ImageRow, truth: Levels, outputs: Sequence[Levels]) -> CropStrip:
    """The same window by every method, where the baseline is furthest from the truth."""
    error = np.abs(luma_y(outputs[0]) - luma_y(truth))
    box = densest_box(error, STRIP_PX, STRIP_PX)
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    crops: list[tuple[str, float | None, bytes]] = [
        (method.name, decibels, _lossless(output[rows, columns]))
        for method, decibels, output in zip(tally.methods, row.psnr_db, outputs, strict=True)
    ]
    crops.append(("truth", None, _lossless(truth[rows, columns])))
    return CropStrip(key=row.key, crops=tuple(crops))


def _lossless(pixels: Levels) -> bytes:
    buffer = io.BytesIO()
    squeezed = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    PillowImage.fromarray(np.ascontiguousarray(squeezed)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def _result(tally: _Tally) -> ConditionResult:
    psnr_db = np.mean([image.psnr_db for image in tally.images], axis=0).tolist()
    ssim = np.mean([image.ssim for image in tally.images], axis=0).tolist()
    rows = tuple(
        MethodRow(
            name=method.name,
            is_weights=method.sha256 is not None,
            sha256=method.sha256,
            psnr_db=psnr_db[index],
            ssim=ssim[index],
            ms_per_megapixel=(
                None if method.name == "input" else statistics.median(tally.ms_per_megapixel[index])
            ),
            gain_db=_difference(psnr_db[index], psnr_db[0]),
            deviation=max(tally.deviations[index], default=None),
        )
        for index, method in enumerate(tally.methods)
    )
    return ConditionResult(
        label=tally.condition.label,
        psnr_name="PSNR-Y" if tally.condition.colour == "y" else "PSNR-RGB",
        ssim_name="SSIM-Y",
        methods=rows,
        images=tuple(tally.images),
        strips=tuple(tally.strips),
    )


def _difference(a: float, b: float) -> float:
    return 0.0 if a == b else a - b


def format_table(result: ConditionResult) -> str:
    """One condition as text, columns aligned, the best PSNR marked with a star."""
    names = [row.name for row in result.methods]
    width = max(len(name) for name in (*names, "method"))
    best = max(row.psnr_db for row in result.methods)
    psnr = f"{result.psnr_name} dB"
    lines = [f"{'method':{width}}  {psnr:>11}  {'gain':>6}  {result.ssim_name:>6}  {'ms/MP':>7}"]
    lines[0] += f"  {'guard':>5}"
    for index, row in enumerate(result.methods):
        gain = f"{row.gain_db:+.2f}" if index else ""
        cost = "" if row.ms_per_megapixel is None else f"{row.ms_per_megapixel:.1f}"
        guard = "" if row.deviation is None else f"{row.deviation:.2f}"
        star = " *" if row.psnr_db == best else ""
        lines.append(
            f"{row.name:{width}}  {row.psnr_db:>11.2f}  {gain:>6}  {row.ssim:>6.4f}  "
            f"{cost:>7}  {guard:>5}{star}"
        )
    return "\n".join(lines)


def conventions(evaluation: Evaluation, *, machine: str, seed: int) -> tuple[str, ...]:
    """What the figures mean, one sentence each."""
    names = {result.psnr_name for result in evaluation.conditions}
    lines = [f"Means over {len(evaluation.keys)} images; the gain is above the first row."]
    if "PSNR-Y" in names:
        lines.append(
            "PSNR-Y, SSIM-Y: BT.601 luma (16..235), not rounded; when enlarging, a border of "
            "`scale` px is left out; sides are cropped to a multiple of the scale first."
        )
    if any(result.label.startswith("JPEG") for result in evaluation.conditions):
        lines.append("Under JPEG a gray image is luma already and is measured as it is.")
    if "PSNR-RGB" in names:
        lines.append("PSNR-RGB: over the three channels together, no border left out.")
    lines.append("SSIM: Gaussian window of 11 px, sigma 1.5 (Wang et al. 2004).")
    lines.append(f"The degraded image has 8 bits; chance comes from seed {seed} and the file name.")
    lines.append(
        "guard: the largest deviation of a result, above 1 is suspect (docs/bulk.md); it took"
        f" {evaluation.guard_share:.1%} of the time of the weights."
    )
    lines.append(f"ms/MP: median milliseconds for a megapixel of output on {machine}.")
    return tuple(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resray evaluate`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of good images")
    parser.add_argument(
        "--weights",
        metavar="NAME|PATH",
        nargs="+",
        help="weights to measure, behind DIR: names from `resray weights list`, or files of"
        " resray's, or such that spandrel knows (default: all that come with the package)",
    )
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N images by name")
    parser.add_argument(
        "--strength", metavar="S", type=float, default=1.0, help="of the residual (default: 1)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of noise and other chance (default: 0)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: the best)")
    parser.add_argument("--report", metavar="FILE.html", type=Path, help="write a page with plots")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures as JSON")


def _check_device(name: str | None) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        gpus = torch.cuda.device_count()
        raise ConfigError(
            f"--device {name}: expected cpu, cuda or cuda:N; torch sees {gpus} GPUs"
        ) from error


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; the exit status. ResrayError for what the user can mend."""
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit: expected 1 or more, found {args.limit}")
    if args.seed < 0:
        raise ConfigError(f"--seed: expected 0 or more, found {args.seed}")
    _check_device(args.device)
    weights = [load_weights(name) for name in args.weights or packaged_weights()]
    evaluation = evaluate_folder(
        args.folder,
        weights,
        EnhanceSettings(strength=args.strength),
        device=args.device,
        limit=args.limit,
        seed=args.seed,
        num_strips=NUM_STRIPS if args.report else 0,
        on_image=_show_progress,
    )
    machine = machine_name(args.device)
    notes = conventions(evaluation, machine=machine, seed=args.seed)
    _print(args.folder, evaluation, notes)
    if args.json:
        _write_json(args.json, args.folder, evaluation, machine, args.seed)
    if args.report:
        report = EvaluateReport(
            title=f"{args.folder.resolve().name}: {len(evaluation.keys)} images measured",
            folder=str(args.folder),
            num_images=len(evaluation.keys),
            created_at=datetime.now(UTC),
            machine=machine,
            command=_command(args),
            conventions=notes,
            conditions=evaluation.conditions,
            weights=tuple(_card(each) for each in weights),
        )
        write_evaluate_report(args.report, report)
        print(f"\nreport: {args.report}")
    return 0


def _show_progress(key: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{key}", end="", file=sys.stderr, flush=True)


def _print(folder: Path, evaluation: Evaluation, notes: Sequence[str]) -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    for key, reason in evaluation.left_out:
        print(f"left out: {key}: {reason}", file=sys.stderr)
    for result in evaluation.conditions:
        print(f"{folder}, {result.label}\n\n{format_table(result)}\n")
    print("\n".join(notes))


def _command(args: argparse.Namespace) -> str:
    words = ["resray", "evaluate", str(args.folder)]
    words += ["--weights", *args.weights] if args.weights else []
    words += ["--limit", str(args.limit)] if args.limit else []
    words += ["--strength", f"{args.strength:g}"] if args.strength != 1 else []
    words += ["--seed", str(args.seed)] if args.seed else []
    return shlex.join(words)


def _card(weights: Weights) -> WeightsCard:
    return WeightsCard(
        name=weights.name,
        sha256=weights.sha256,
        task=weights.metadata.task,
        scale=weights.scale,
        parameters=weights.network.num_parameters,
        licence=weights.metadata.licence,
    )


def _write_json(path: Path, folder: Path, evaluation: Evaluation, machine: str, seed: int) -> None:
    document = {
        "folder": str(folder),
        "images": len(evaluation.keys),
        "machine": machine,
        "seed": seed,
        "conditions": [_json_condition(result) for result in evaluation.conditions],
    }
    try:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: the figures can't be written: {error.strerror}") from error


def _json_condition(result: ConditionResult) -> dict[str, Any]:
    """JSON has no infinity (the PSNR of equal pictures): null stands for it."""
    names = [row.name for row in result.methods]
    return {
        "condition": result.label,
        "psnr": result.psnr_name,
        "ssim": result.ssim_name,
        "methods": [
            {
                "name": row.name,
                "sha256": row.sha256,
                "psnr_db": _finite(row.psnr_db),
                "gain_db": _finite(row.gain_db),
                "ssim": row.ssim,
                "ms_per_megapixel": row.ms_per_megapixel,
                "deviation": row.deviation,
            }
            for row in result.methods
        ],
        "images": [
            {
                "key": image.key,
                "psnr_db": dict(zip(names, map(_finite, image.psnr_db), strict=True)),
                "ssim": dict(zip(names, image.ssim, strict=True)),
            }
            for image in result.images
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
