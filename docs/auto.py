"""Measures `--weights auto` on mixed sets, for docs/auto.md: what it sees, chooses and is worth.

.venv/bin/python docs/auto.py FOLDER...             a mixed set of the images of each folder
.venv/bin/python docs/auto.py FOLDER... --bounds    and what auto would give with other bounds
.venv/bin/python docs/auto.py FOLDER... --clean     how many photographs are left alone, by size
"""

import argparse
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from pipelines.auto import BOUNDS, CANDIDATES, NO_WEIGHTS, Bounds, choose
from pipelines.evaluate import read_images
from pipelines.machine import machine_name
from resnet_core import Enhancer, Image, decode, load_weights
from resnet_core.degradation import Degradation, degrade
from resnet_core.degradation_steps import Blur
from resnet_core.inspection import Findings, inspect_image
from resnet_core.levels import Levels, to_pil
from resnet_core.standard_degradations import RESTORE, gaussian_noise

LARGEST_SIDE_PX = 512
"""Of the middle of a larger picture that is taken."""
SIGMAS_LEVELS, QUALITIES, BLURS_PX = (5.0, 50.0), (10, 90), (0.5, 2.0)
CLEAN, NOISE, JPEG, PNG, BLUR, PHOTO = KINDS = (
    "clean",
    "noise",
    "JPEG",
    "JPEG, saved as PNG",
    "blur",
    "worn photograph",
)
STRENGTHS = (0.5, 0.75, 1.0, 1.25)
LEARNED = 1.0
ALONE = (NO_WEIGHTS.name, LEARNED)
WAYS = (ALONE, *((name, LEARNED) for name in CANDIDATES))
ROUNDING = 1 / 12
"""The squared error that rounding to levels has anyway: so a clean picture left alone has a figure,
58.9 dB."""
SHORT_SIDES_PX = (160, 256, 512, 1024)
TRIED = {
    "noise_levels": (2.0, 2.5, 3.0, 3.5, 4.0),
    "grain_levels": (0.5, 1.0, 1.5, 2.0, 3.0),
    "grain_of_noise": (1.25, 1.5, 1.75, 2.0, 2.5),
    "clean_quality": (80, 85, 88, 92, 96),
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A worn picture, and what each of the weights makes of it."""

    kind: str
    amount: float
    """Sigma of the noise in levels, or of the blur in px, or quality of the JPEG."""
    found: Findings
    psnr_db: dict[tuple[str, float], float]
    """By weights and strength."""


def worn(truth: Levels, rng: np.random.Generator) -> Iterator[tuple[str, float, Image]]:
    """A picture as it is, and with each kind of wear: kind, amount, image as decoded."""
    yield CLEAN, 0.0, png(truth)
    sigma = float(rng.uniform(*SIGMAS_LEVELS))
    yield NOISE, sigma, png(degrade(truth, gaussian_noise(sigma), rng))
    for kind in (JPEG, PNG):
        quality = int(rng.integers(*QUALITIES, endpoint=True))
        image = through_jpeg(truth, quality)
        yield kind, quality, image if kind == JPEG else png(image.pixels)
    sigma = float(rng.uniform(*BLURS_PX))
    round_only = Blur(sigma_px=(sigma, sigma), probabilities=(1, 0, 0, 0, 0, 0))
    blur = Degradation(name="blur", scale=1, steps=(round_only,))
    yield BLUR, sigma, png(degrade(truth, blur, rng))
    yield PHOTO, 0.0, png(degrade(truth, RESTORE, rng))


def png(pixels: Levels) -> Image:
    return Image(pixels=pixels, format="PNG")


def through_jpeg(pixels: Levels, quality: int) -> Image:
    buffer = io.BytesIO()
    to_pil(pixels).save(buffer, "JPEG", quality=quality)
    return decode(buffer.getvalue())


def middle(pixels: Levels) -> Levels:
    """Its middle, at most LARGEST_SIDE_PX a side."""
    top, left = (max(side - LARGEST_SIDE_PX, 0) // 2 for side in pixels.shape[:2])
    part = pixels[top : top + LARGEST_SIDE_PX, left : left + LARGEST_SIDE_PX]
    return np.ascontiguousarray(part)


def psnr_db(picture: Levels, truth: Levels) -> float:
    """Over all channels; see ROUNDING."""
    error = np.square(picture.astype(np.float32) - truth).mean(dtype=np.float64)
    return float(10 * np.log10(255**2 / (error + ROUNDING)))


def mixed_set(folder: Path) -> list[Sample]:
    """Each image of a folder once clean and once under each kind of wear."""
    enhancers = {name: Enhancer(load_weights(name)) for name in CANDIDATES}
    samples: list[Sample] = []
    for key, pixels in read_images(folder, []):
        truth = middle(pixels)
        for kind, amount, image in worn(truth, np.random.default_rng(zlib.crc32(key.encode()))):
            figures = {ALONE: psnr_db(image.pixels, truth)}
            for name, enhancer in enhancers.items():
                change = enhancer.enhance(image).pixels.astype(np.float32) - image.pixels
                for strength in STRENGTHS:
                    result = np.rint(np.clip(image.pixels + strength * change, 0, 255))
                    figures[name, strength] = psnr_db(result, truth)
            found = inspect_image(image)
            samples.append(Sample(kind=kind, amount=amount, found=found, psnr_db=figures))
    return samples


def of_kind(samples: Sequence[Sample], *kinds: str) -> list[Sample]:
    return [sample for sample in samples if sample.kind in kinds]


def auto_db(sample: Sample, bounds: Bounds = BOUNDS) -> float:
    return sample.psnr_db[choose(sample.found, bounds), LEARNED]


def print_table(samples: Sequence[Sample]) -> None:
    names = ["left alone", *(f"`{name}`" for name in CANDIDATES), "`auto`", "best of each"]
    print(f"| PSNR dB | {' | '.join(names)} | chosen |\n|{'---|' * (len(names) + 2)}")
    groups = {kind: (kind,) for kind in KINDS} | {"all": KINDS, "all but the clean": KINDS[1:]}
    for title, kinds in groups.items():
        some = of_kind(samples, *kinds)
        ways = np.array([[sample.psnr_db[way] for way in WAYS] for sample in some])
        means = [*ways.mean(0), np.mean([auto_db(each) for each in some]), ways.max(1).mean()]
        counts = Counter(choose(sample.found) for sample in some)
        chosen = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        print(f"| {title} | {' | '.join(f'{mean:.2f}' for mean in means)} | {chosen} |")


def print_strengths(samples: Sequence[Sample]) -> None:
    """Of what auto chose, where it chose any."""
    chosen = [(each.psnr_db, choose(each.found)) for each in samples]
    acted = [(psnr_db, name) for psnr_db, name in chosen if name != NO_WEIGHTS.name]
    figures = np.array([[psnr_db[name, each] for each in STRENGTHS] for psnr_db, name in acted])
    told = [f"{s:g}: {mean:.2f} dB" for s, mean in zip(STRENGTHS, figures.mean(0), strict=True)]
    print(f"\nstrength {', '.join(told)}; the best for each: {figures.max(1).mean():.2f} dB")


def print_sight(samples: Sequence[Sample]) -> None:
    """What was found beside what was done."""
    noisy = of_kind(samples, NOISE)
    errors = [(each.found.noise_levels or 0.0) / each.amount - 1 for each in noisy]
    print(f"noise: {np.mean(errors):+.0%} on average, {min(errors):+.0%} to {max(errors):+.0%}")
    for kind in (JPEG, PNG):
        pictures = of_kind(samples, kind)
        found = [(each, each.found.jpeg_quality) for each in pictures]
        off = [abs(quality - each.amount) for each, quality in found if quality is not None]
        most = max(off, default=0)
        print(f"{kind}: {len(off)} of {len(found)} qualities found, off by {most:g} at most")


def print_bounds(samples: Sequence[Sample]) -> None:
    """The mean of auto if one bound were another."""
    for name, values in TRIED.items():
        means = [
            np.mean([auto_db(each, replace(BOUNDS, **{name: value})) for each in samples])
            for value in values
        ]
        told = [f"{value:g}: {mean:.2f}" for value, mean in zip(values, means, strict=True)]
        print(f"{name} {', '.join(told)}")


def print_left_alone(folder: Path) -> None:
    """Of photographs that are clean, made smaller."""
    chosen = {side: Counter[str]() for side in SHORT_SIDES_PX}
    for _, pixels in read_images(folder, []):
        picture = to_pil(pixels)
        for side, counts in chosen.items():
            share = side / min(picture.size)
            size = (round(picture.width * share), round(picture.height * share))
            smaller = np.array(picture.resize(size, PillowImage.Resampling.LANCZOS))
            counts[choose(inspect_image(png(smaller)))] += 1
    for side, counts in chosen.items():
        told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        print(f"shorter side {side} px: {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--bounds", action="store_true")
    parser.add_argument("--clean", action="store_true")
    args = parser.parse_args()
    print(f"on {machine_name()}")
    for folder in args.folders:
        if args.clean:
            print_left_alone(folder)
            continue
        samples = mixed_set(folder)
        print(f"\n{folder.name}: {len(samples)} pictures\n")
        print_table(samples)
        print_strengths(samples)
        print_sight(samples)
        if args.bounds:
            print_bounds(samples)


if __name__ == "__main__":
    main()
