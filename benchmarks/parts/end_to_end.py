"""Photographs from a bucket into a bucket: resray, and its rivals on the same photographs.

The scripts of the rivals are here too, as a user of each would write them: `RayExample` by the
batch inference pages of Ray's documentation, `loop` by hand.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import obstore
from numpy.typing import NDArray
from PIL import Image

from cluster.connect import WORKER_ENVIRONMENT, Resources, ray_session
from parts.contestant import Answer, Contestant, Order, answer_orders
from parts.figures import Figure, median_ratio, table
from parts.job import WEIGHTS, Job, fused_stage
from parts.local_store import plain_store
from resnet_core.images import decode

GROUPS = 2
TURNS = ("bare", "resray", "bare", "ray-example", "loop")
"""In each group. What is compared closely stands side by side: the machine's own speed drifts."""
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
QUALITY = 93
"""Of JPEG, as resray writes it."""
RAY_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many photographs."""

    all: int
    for_rivals: int
    """Of each group: they need several times as long for each."""


QUICK = Size(all=32, for_rivals=RAY_BATCH)
FULL = Size(all=400, for_rivals=2 * RAY_BATCH)

Pixels = NDArray[np.uint8]


def photographs(count: int) -> Iterator[bytes]:
    """JPEGs of about 512 x 512: crops from the examples, enlarged or reduced, turned over."""
    rng = np.random.default_rng(512)
    paths = sorted(path for path in EXAMPLES.iterdir() if path.suffix != ".md")
    sources = [Image.fromarray(decode(path.read_bytes()).pixels) for path in paths]
    for number in range(count):
        source = sources[number % len(sources)]
        side = int(min(source.size) * rng.uniform(0.6, 1.0))
        left, top = (int(rng.integers(0, length - side + 1)) for length in source.size)
        size = tuple(int(rng.integers(480, 545)) for _ in range(2))
        box = (left, top, left + side, top + side)
        picture = source.resize(size, Image.Resampling.LANCZOS, box=box)
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield jpeg(np.asarray(picture), quality=int(rng.integers(80, 96)))


def jpeg(pixels: Pixels, *, quality: int = QUALITY) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class Resray:
    """The parts of `resray enhance`."""

    def __init__(self, resources: Resources) -> None:
        from pipelines.bulk import Pool  # noqa: PLC0415

        self.pool = Pool.of(resources)

    def run(self, order: Order) -> Answer:
        from pipelines.bulk import Stage  # noqa: PLC0415
        from pipelines.enhance import CPU_BATCH_PX, GPU_BATCH_PX, MEMORY_PX  # noqa: PLC0415
        from pipelines.enhance_object import Worker  # noqa: PLC0415

        job, pool = Job.between(order["source"], order["target"]), self.pool
        worker = Worker(
            stages=job.stages,
            weights=(job.weights,),
            threads=pool.threads,
            batch_px=GPU_BATCH_PX if pool.gpus else CPU_BATCH_PX,
            memory_px=MEMORY_PX,
        )
        give_up = job.stages.failed
        stages = [fused_stage(job.stages, worker.whole)]
        if pool.apart:
            stages = [
                Stage(name="read", build=worker.read, give_up=give_up, has_network=False),
                Stage(name="network", build=worker.improve, give_up=give_up, has_network=True),
                Stage(name="write", build=worker.write, give_up=give_up, has_network=False),
            ]
        timing = job.run(stages, pool)
        assert timing.summary.failed == 0, timing.summary.failures
        return {"objects": timing.summary.ok, "seconds": timing.work_s}


class RayExample:
    """A job in the manner of Ray's documentation; all threads, since the user may know that."""

    def __init__(self, resources: Resources) -> None:
        self.gpus = int(resources.gpus > 0)

    def run(self, order: Order) -> Answer:
        import pyarrow.fs  # noqa: PLC0415
        import ray.data  # noqa: PLC0415

        bucket, _, prefix = order["source"].removeprefix("s3://").partition("/")
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        files = pyarrow.fs.S3FileSystem(
            endpoint_override=endpoint.removeprefix("http://"), scheme="http"
        )
        photos = ray.data.read_images(
            f"{bucket}/{prefix}", filesystem=files, mode="RGB", include_paths=True
        )
        better = photos.map_batches(
            RayEnlarger,
            batch_size=RAY_BATCH,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=1,
            num_gpus=self.gpus,
        )
        written = better.map(RayWriter(order["target"]))
        times = list(written.iter_rows())
        began_s = min(row["began_s"] for row in times)
        return {"objects": len(times), "seconds": max(row["ended_s"] for row in times) - began_s}


class RayEnlarger:
    def __init__(self) -> None:
        import torch  # noqa: PLC0415

        torch.set_num_threads(os.cpu_count() or 1)
        self.network = Eager()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        began_s = time.time()
        better = [self.network.enlarge(pixels) for pixels in batch["image"]]
        return {"path": batch["path"], "image": better, "began_s": [began_s] * len(better)}


class RayWriter:
    def __init__(self, target: str) -> None:
        self.target = target

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import boto3  # noqa: PLC0415

        bucket, _, prefix = self.target.removeprefix("s3://").partition("/")
        key = f"{prefix}/{row['path'].rpartition('/')[2]}"
        boto3.client("s3").put_object(
            Bucket=bucket, Key=key, Body=jpeg(row["image"]), ContentType="image/jpeg"
        )
        return {"began_s": row["began_s"], "ended_s": time.time()}


class Eager:
    """The same network, as PyTorch runs it without anything set."""

    def __init__(self) -> None:
        import torch  # noqa: PLC0415

        from resnet_core.weights import load_weights  # noqa: PLC0415

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = load_weights(WEIGHTS).network.to(self.device).eval()
        self.enlarge(np.zeros((32, 32, 3), np.uint8))

    def enlarge(self, pixels: Pixels) -> Pixels:
        with self.torch.inference_mode():
            x = self.torch.from_numpy(np.array(pixels)).to(self.device)
            y = self.network(x.permute(2, 0, 1)[None].float() / 255)[0]
            return (y.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


class Loop:
    """One process that takes one photograph after another."""

    def __init__(self) -> None:
        import boto3  # noqa: PLC0415

        self.client = boto3.client("s3")
        self.network = Eager()

    def run(self, order: Order) -> Answer:
        bucket, _, prefix = order["source"].removeprefix("s3://").partition("/")
        target = order["target"].removeprefix(f"s3://{bucket}/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page["Contents"]]
        began_s = time.monotonic()
        for key in keys:
            data = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            better = jpeg(self.network.enlarge(pixels))
            name = f"{target}/{key.rpartition('/')[2]}"
            self.client.put_object(Bucket=bucket, Key=name, Body=better, ContentType="image/jpeg")
        return {"objects": len(keys), "seconds": time.monotonic() - began_s}


class Bare:
    """Resray's network alone, from memory to memory, at its best: batches share the threads."""

    def __init__(self, threads: int, overlap: int, batch_px: int) -> None:
        from resnet_core import Enhancer, load_weights  # noqa: PLC0415
        from resnet_core.cpu_threads import CpuThreads  # noqa: PLC0415

        cpu = CpuThreads(threads)
        self.enhancer = Enhancer(load_weights(WEIGHTS), batch_px=batch_px, cpu=cpu)
        self.enhancer.enhance_pixels(np.zeros((32, 32, 3), np.uint8))
        self.overlap = overlap

    def run(self, order: Order) -> Answer:
        store = plain_store(order["bucket"])
        found = [info["path"] for batch in obstore.list(store, order["prefix"]) for info in batch]
        images = [decode(bytes(obstore.get(store, path).bytes())) for path in found]
        began_s = time.monotonic()
        with ThreadPoolExecutor(self.overlap) as pool:
            for _ in pool.map(self.enhancer.enhance, images):
                pass
        return {"objects": len(images), "seconds": time.monotonic() - began_s}


@dataclass
class Rates:
    """Photographs a second of each, group by group."""

    of: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, group: Mapping[str, Sequence[Answer]]) -> None:
        """The turns of each in one group."""
        for name, answers in group.items():
            objects, seconds = (sum(each[of] for each in answers) for of in ("objects", "seconds"))
            self.of.setdefault(name, []).append(objects / seconds)
            print(f"{name}: {objects / seconds:.2f}/s", file=sys.stderr)


RIVALS = {
    "resray": "resray, ledger and all",
    "bare": "its network alone, in memory",
    "ray-example": "Ray Data as in its documentation",
    "loop": "a plain loop",
}


def measure(bucket: str, size: Size) -> list[Figure]:
    """Run all of them in turn on each of GROUPS parts; print the rates, and give the figures."""
    store = plain_store(bucket)
    for number, data in enumerate(photographs(size.all)):
        index, group = divmod(number, GROUPS)
        part = "first" if index < size.for_rivals else "rest"
        obstore.put(store, f"photographs-{group}/{part}/{number:04d}.jpg", data)
    rates = Rates()
    with Contestant("end_to_end", "ray") as engine, Contestant("end_to_end", "loop") as loop:
        pool = engine.ask(name="pool")
        alone = [f"--{name}={value}" for name, value in pool.items()]
        bare = Contestant("end_to_end", "bare", *alone, environment=WORKER_ENVIRONMENT)
        with bare:
            processes = {"resray": engine, "bare": bare, "ray-example": engine, "loop": loop}
            for group in range(GROUPS):
                answers: dict[str, list[Answer]] = {name: [] for name in RIVALS}
                whole = len(range(group, size.all, GROUPS))
                for name in TURNS:
                    is_rival = name in {"ray-example", "loop"}
                    prefix = f"photographs-{group}" + ("/first" if is_rival else "")
                    answer = processes[name].ask(
                        name=name,
                        bucket=bucket,
                        prefix=prefix,
                        source=f"s3://{bucket}/{prefix}",
                        target=f"s3://{bucket}/{name}-{group}",
                    )
                    asked = min(whole, size.for_rivals) if is_rival else whole
                    assert answer["objects"] == asked, f"{name}: {answer['objects']} of {asked}"
                    answers[name].append(answer)
                rates.add(answers)
    print(rate_table(rates, size))
    ours = rates.of["resray"]
    return [
        Figure(name="bulk_vs_bare", value=median_ratio(ours, rates.of["bare"]), aim=0.9),
        Figure(
            name="bulk_vs_ray_example", value=median_ratio(ours, rates.of["ray-example"]), aim=1.3
        ),
        Figure(name="bulk_vs_loop", value=median_ratio(ours, rates.of["loop"]), aim=1.5),
    ]


def rate_table(rates: Rates, size: Size) -> str:
    ours = rates.of["resray"]
    rows = [
        (
            RIVALS[name],
            f"{median(found):.2f}",
            f"{min(found):.2f} to {max(found):.2f}",
            f"{median_ratio(ours, found):.2f}",
        )
        for name, found in rates.of.items()
    ]
    title = (
        f"End to end: {size.all} photographs of about 512 x 512, {WEIGHTS}, in {GROUPS} groups,"
        f" the rivals on at most {size.for_rivals} of each"
    )
    return table(title, ("", "photographs/s", "range", "resray is x times"), rows)


def main() -> None:
    """A contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("ray", "bare", "loop"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--overlap", type=int, default=1)
    parser.add_argument("--batch_px", type=int, default=1)
    args = parser.parse_args()
    if args.role == "bare":
        answer_orders(Bare(args.threads, args.overlap, args.batch_px).run)
    elif args.role == "loop":
        answer_orders(Loop().run)
    else:
        with ray_session() as resources:
            answer_orders(lambda order: _with_ray(order, resources))


def _with_ray(order: Order, resources: Resources) -> Answer:
    if order["name"] == "ray-example":
        return RayExample(resources).run(order)
    ours = Resray(resources)
    if order["name"] == "resray":
        return ours.run(order)
    from pipelines.bulk import OVERLAP  # noqa: PLC0415
    from pipelines.enhance import CPU_BATCH_PX, GPU_BATCH_PX  # noqa: PLC0415

    return {
        "threads": ours.pool.threads,
        "overlap": OVERLAP,
        "batch_px": GPU_BATCH_PX if ours.pool.gpus else CPU_BATCH_PX,
    }


if __name__ == "__main__":
    main()
