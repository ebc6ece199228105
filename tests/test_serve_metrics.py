"""What Prometheus is told of a request and of a batch; that it arrives is a replicas' test."""

from typing import Any

import pytest

from pipelines import serve_metrics
from pipelines.request_record import RequestRecord
from pipelines.serve_metrics import IngressMetrics, NetworkMetrics
from resnet_core.enhancer import Batch

UNITS = ("_total", "_seconds", "_requests", "_pixels", "_windows", "_bytes")


class Told:
    """Stands for Ray's classes, and keeps what they are told."""

    def __init__(self) -> None:
        self.values: list[tuple[str, float, dict[str, str]]] = []
        self.names: list[str] = []

    def metric(self, name: str, *_declared: Any) -> Any:
        self.names.append(name)
        told = self

        class Metric:
            def record(self, value: float = 1, tags: dict[str, str] | None = None) -> None:
                told.values.append((name, value, tags or {}))

            inc = observe = set = record

        return Metric()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found = Told()
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(serve_metrics, kind, found.metric)
    return found


def record(**values: Any) -> RequestRecord:
    return RequestRecord(request_id="1", method="POST", path="/v1/enhance", **values)


def test_names_end_in_units(told: Told) -> None:
    IngressMetrics()
    NetworkMetrics()
    assert len(set(told.names)) == len(told.names)
    assert all(name.startswith("resray_") and name.endswith(UNITS) for name in told.names)


def test_an_image_is_counted_by_status_stage_and_side(told: Told) -> None:
    good = record(status=200, weights="small", source_pixels=10, output_pixels=40)
    good.stage_s["network"] = 0.5
    IngressMetrics().observe(good)
    assert ("resray_requests_total", 1, {"status": "200", "problem": ""}) in told.values
    assert ("resray_stage_seconds", 0.5, {"stage": "network"}) in told.values
    sides = [value for name, value, _ in told.values if name == "resray_pixels_total"]
    assert sides == [10, 40]


def test_a_problem_has_no_pixels_and_a_page_no_stages(told: Told) -> None:
    metrics = IngressMetrics()
    metrics.observe(record(status=415, problem="unsupported-image"))
    metrics.observe(RequestRecord(request_id="2", method="GET", path="/", status=200))
    assert [name for name, _, _ in told.values] == [
        "resray_requests_total",
        "resray_request_seconds",
        "resray_requests_total",
    ]


def test_what_is_in_hand_and_a_batch_are_told(told: Told) -> None:
    IngressMetrics().show_in_hand(3, 99)
    NetworkMetrics().observe(Batch(windows=2, pixels=50, seconds=0.25))
    assert [value for _, value, _ in told.values] == [3, 99, 2, 50, 0.25]
