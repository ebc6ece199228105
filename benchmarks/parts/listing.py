"""Very many small objects through the real run, with a network that changes nothing."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import obstore
from PIL import Image

from cluster.connect import ray_session
from parts.contestant import Answer, Contestant, Order, answer_orders
from parts.figures import Figure, median_ratio, table
from parts.job import Job, fused_stage, peak_memory_bytes
from parts.local_store import plain_store
from pipelines.bulk import Pool
from pipelines.enhance import MEMORY_PX
from pipelines.enhance_object import ObjectStages, PixelBudget
from resnet_core.enhancer import Enhanced
from resnet_core.images import Image as Decoded

ROUNDS = 5
OBJECT_BYTES = 2_000
FOLDER_OBJECTS = 1_000
FILLING_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of objects."""

    large: int
    small: int
    """For the memory."""
    first: int
    """For the time to the first output."""


FULL = Sizes(large=200_000, small=20_000, first=1_000)
QUICK = Sizes(large=3_000, small=300, first=300)


class Identity:
    """A network that changes nothing."""

    def enhance_measured(self, image: Decoded) -> Enhanced:
        return Enhanced(image=image, change_levels=0.0, network_s=0.0)


@dataclass(frozen=True, kw_only=True)
class IdentityWorker:
    """What `Worker` is to a real network."""

    stages: ObjectStages

    def whole(self) -> Any:
        memory = PixelBudget(MEMORY_PX)
        networks = {self.stages.settings.weights_sha256: Identity()}
        return lambda work: self.stages.whole(work, networks, memory)


def small_photograph() -> bytes:
    """A JPEG of about OBJECT_BYTES."""
    waves = np.add.outer(np.arange(64) ** 2, np.arange(64) * 7) % 256
    buffer = io.BytesIO()
    Image.fromarray(waves.astype(np.uint8)).convert("RGB").save(buffer, "JPEG", quality=30)
    data = buffer.getvalue()
    missing = OBJECT_BYTES - len(data) - 4
    if missing < 0:
        return data
    # A comment behind the start of the image brings it to its size.
    comment = b"\xff\xfe" + (missing + 2).to_bytes(2, "big") + bytes(missing)
    return data[:2] + comment + data[2:]


def fill(bucket: str, count: int) -> None:
    """`count` objects under `objects-<count>/`, a thousand in each folder."""
    store, data = plain_store(bucket), small_photograph()

    def put(number: int) -> None:
        folder, place = divmod(number, FOLDER_OBJECTS)
        obstore.put(
            store, f"objects-{count}/{folder:04d}/{place:04d}.jpg", data, use_multipart=False
        )

    with ThreadPoolExecutor(FILLING_THREADS) as pool:
        for _ in pool.map(put, range(count)):
            pass


def measure(bucket: str, *, sizes: Sizes) -> list[Figure]:
    """Run with few objects, with many, again, and to the first output of each."""
    began_s = time.monotonic()
    for count in sorted({sizes.large, sizes.small, sizes.first}):
        fill(bucket, count)
    filled_s = time.monotonic() - began_s
    with Contestant("listing") as driver:
        few = driver.ask(bucket=bucket, count=sizes.small, target="few")
    firsts: dict[int, list[float]] = {sizes.first: [], sizes.large: []}
    with Contestant("listing") as driver:
        many = driver.ask(bucket=bucket, count=sizes.large, target="many")
        again = driver.ask(bucket=bucket, count=sizes.large, target="many")
        for number in range(ROUNDS):
            for count, found in firsts.items():
                target = f"first-{count}-{number}"
                answer = driver.ask(bucket=bucket, count=count, target=target, only_first=True)
                found.append(answer["to_first_s"])
    assert (few["objects"], many["objects"], again["objects"]) == (sizes.small, sizes.large, 0)
    print(_run_table(sizes, few, many, again, filled_s))
    print(
        table(
            f"Time to the first output, {ROUNDS} times each in turn",
            ("objects", "seconds", "range"),
            [
                (f"{count:,}", f"{np.median(found):.2f}", f"{min(found):.2f} to {max(found):.2f}")
                for count, found in firsts.items()
            ],
        )
    )
    return [
        Figure(
            name="driver_memory_growth",
            value=many["peak_bytes"] / few["peak_bytes"],
            aim=1.15,
            at_least=False,
        ),
        Figure(
            name="first_output_growth",
            value=median_ratio(firsts[sizes.large], firsts[sizes.first]),
            aim=1.5,
            at_least=False,
        ),
        Figure(
            name="rerun_share",
            value=again["seconds"] / many["seconds"],
            aim=0.05,
            at_least=False,
        ),
    ]


def _run_table(sizes: Sizes, few: Answer, many: Answer, again: Answer, filled_s: float) -> str:
    rows = [
        (name, f"{answer['seconds']:.1f}", rate, f"{answer['peak_bytes'] / 2**20:.0f}")
        for name, answer, rate in (
            (f"{sizes.small:,}", few, f"{sizes.small / few['seconds']:,.0f}"),
            (f"{sizes.large:,}", many, f"{sizes.large / many['seconds']:,.0f}"),
            (f"{sizes.large:,} again", again, f"{sizes.large / again['seconds']:,.0f}"),
        )
    ]
    title = f"Objects of {OBJECT_BYTES:,} bytes, nothing to compute (written in {filled_s:.0f} s)"
    header = ("objects", "seconds", "objects/s", "driver's peak MiB")
    return table(title, header, rows)


def main() -> None:
    """A driver."""
    with ray_session() as resources:
        # On CPUs, also where there are GPUs: nothing is computed.
        pool = Pool.of(replace(resources, gpus=0.0))

        def handle(order: Order) -> Answer:
            bucket = order["bucket"]
            source = f"s3://{bucket}/objects-{order['count']}"
            job = Job.between(source, f"s3://{bucket}/{order['target']}")
            stage = fused_stage(job.stages, IdentityWorker(stages=job.stages).whole)
            timing = job.run([stage], pool, only_first=order.get("only_first", False))
            assert timing.summary.failed == 0, timing.summary.failures
            return {
                "objects": timing.summary.ok,
                "seconds": timing.duration_s,
                "to_first_s": timing.to_first_s,
                "peak_bytes": peak_memory_bytes(),
            }

        answer_orders(handle)


if __name__ == "__main__":
    main()
