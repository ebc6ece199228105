"""Wait for what a job needs, as long as may be. The autoscaler, if there is one, hears of it."""

import time
from collections.abc import Callable, Mapping

from resnet_core.errors import DataError

LOOK_EVERY_S = 1.0


def wait_for_resources(
    *, cpus: int, gpus: int, within_s: float, tell: Callable[[str], None]
) -> None:
    """Return once a connected Ray has so many free. DataError, with what is missing, if it hasn't.

    They are asked for as a placement group, which goes with this process, whatever ends it; a call
    of `request_resources` would keep machines for ever.
    """
    from ray.util.placement_group import (  # noqa: PLC0415
        placement_group,
        remove_placement_group,
    )

    wanted = {"CPU": cpus, "GPU": gpus}
    bundles = [{kind: 1.0} for kind, count in wanted.items() for _ in range(count)]
    if not bundles:
        return
    end_s, told = time.monotonic() + within_s, ""
    group = placement_group(bundles)
    try:
        while not group.wait(LOOK_EVERY_S):
            missing = what_is_missing(wanted)
            if time.monotonic() > end_s:
                raise DataError(
                    f"gave up after {within_s:g} s (--within): {missing}; add machines or ask for"
                    " fewer"
                )
            if missing != told:
                tell(f"waiting for machines: {missing}")
                told = missing
    finally:
        remove_placement_group(group)


def what_is_missing(wanted: Mapping[str, float]) -> str:
    """Of resources by kind, in words; of a connected Ray."""
    import ray  # noqa: PLC0415

    there, free = ray.cluster_resources(), ray.available_resources()
    return ", ".join(
        f"{count:g} {kind}s asked for, {there.get(kind, 0):g} there, {free.get(kind, 0):g} free"
        for kind, count in wanted.items()
        if count
    )
