"""What Prometheus is told, through Ray's own exporter; every name ends in its unit.

Ray adds `ray_` in front of each name, and the tags of the replica.
"""

from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from pipelines.request_record import RequestRecord
from resnet_core.enhancer import Batch

SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
WINDOWS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
PIXELS = [1e3, 1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8]
ENHANCE = "/v1/enhance"


def _tags(*names: str) -> Any:
    """Ray declares a tuple of one."""
    return names


class IngressMetrics:
    """Of one ingress replica."""

    def __init__(self) -> None:
        self._requests = Counter(
            "resray_requests_total",
            "Requests by status and kind of problem",
            _tags("status", "problem"),
        )
        self._request_s = Histogram(
            "resray_request_seconds", "Of requests for images, whole", SECONDS, _tags("status")
        )
        self._stage_s = Histogram(
            "resray_stage_seconds", "Of requests for images, by stage", SECONDS, _tags("stage")
        )
        self._pixels = Counter(
            "resray_pixels_total",
            "Of images, by side and weights",
            _tags("side", "weights"),
        )
        self._bytes = Counter("resray_bytes_total", "Of images, by side", _tags("side"))
        self._in_hand = Gauge("resray_in_hand_requests", "Read, waiting or in work")
        self._in_hand_pixels = Gauge("resray_in_hand_pixels", "Of the images waiting or in work")

    def observe(self, record: RequestRecord) -> None:
        """Count one request after its end."""
        status = str(record.status)
        self._requests.inc(tags={"status": status, "problem": record.problem or ""})
        if record.path != ENHANCE:
            return
        self._request_s.observe(record.total_s, tags={"status": status})
        for stage, seconds in record.stage_s.items():
            self._stage_s.observe(seconds, tags={"stage": stage})
        if record.output_pixels:
            weights = record.weights or ""
            for side, pixels, size in (
                ("source", record.source_pixels, record.source_bytes),
                ("output", record.output_pixels, record.output_bytes),
            ):
                self._pixels.inc(pixels, tags={"side": side, "weights": weights})
                self._bytes.inc(size, tags={"side": side})

    def show_in_hand(self, requests: int, pixels: int) -> None:
        """What admission counts now."""
        self._in_hand.set(requests)
        self._in_hand_pixels.set(pixels)


class NetworkMetrics:
    """Of one network replica."""

    def __init__(self) -> None:
        self._windows = Histogram("resray_batch_windows", "In one batch", WINDOWS)
        self._pixels = Histogram("resray_batch_pixels", "Of the input, in one batch", PIXELS)
        self._seconds = Histogram("resray_batch_seconds", "That one batch took", SECONDS)

    def observe(self, batch: Batch) -> None:
        """Count one batch after it ran."""
        self._windows.observe(batch.windows)
        self._pixels.observe(batch.pixels)
        self._seconds.observe(batch.seconds)
