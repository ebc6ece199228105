"""Makes docs/before-after.png: a crop of an example, halved, enlarged again two ways, and itself.

.venv/bin/python docs/before_after.py
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from resnet_core import Enhancer, decode, load_weights
from resnet_core.classical import bicubic
from resnet_core.degradation import crop_to_multiple, degrade
from resnet_core.metrics import psnr_y
from resnet_core.standard_degradations import standard_degradation

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "sr-x2"
SHOWN = (("osprey.jpg", (136, 18)), ("colosseum.webp", (190, 120)))
SIDE_PX = 96
ZOOM = 3
GAP_PX = 6
CAPTION_PX = 26
INK, PAPER = "#24292f", "white"


def row(photograph: NDArray[np.uint8], corner: tuple[int, int]) -> list[tuple[str, Image.Image]]:
    """Captions and pictures of one photograph (uint8 HWC RGB), cut at `corner` (x, y)."""
    enhancer = Enhancer(load_weights(WEIGHTS))
    target = crop_to_multiple(photograph, enhancer.scale)
    small = degrade(target, standard_degradation(WEIGHTS), np.random.default_rng(0))
    pictures = {
        "bicubic": bicubic(small, enhancer.scale),
        f"resray {WEIGHTS}": enhancer.enhance_pixels(small),
        "the original": target,
    }
    captions = {
        name: name
        if name == "the original"
        else f"{name}  {psnr_y(picture, target, border_px=enhancer.scale):.2f} dB"
        for name, picture in pictures.items()
    }
    return [(captions[name], zoomed(picture, corner)) for name, picture in pictures.items()]


def zoomed(picture: NDArray[np.uint8], corner: tuple[int, int]) -> Image.Image:
    """A square of the picture with every pixel shown as ZOOM x ZOOM."""
    x, y = corner
    crop = Image.fromarray(picture[y : y + SIDE_PX, x : x + SIDE_PX])
    return crop.resize((SIDE_PX * ZOOM, SIDE_PX * ZOOM), Image.Resampling.NEAREST)


def sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """The rows under each other, each picture over its caption."""
    side = SIDE_PX * ZOOM
    columns = len(rows[0])
    size = (columns * (side + GAP_PX) - GAP_PX, len(rows) * (side + CAPTION_PX))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(15)
    for line, pictures in enumerate(rows):
        for column, (caption, picture) in enumerate(pictures):
            left, top = column * (side + GAP_PX), line * (side + CAPTION_PX)
            page.paste(picture, (left, top))
            draw.text((left + 2, top + side + 3), caption, fill=INK, font=font)
    return page


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    rows = [
        row(decode((ROOT / "examples" / name).read_bytes()).pixels, corner)
        for name, corner in SHOWN
    ]
    path = ROOT / "docs" / "before-after.png"
    sheet(rows).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
