"""Reports of every kind, and what a browser would see of their pages."""

import io
import math
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from pipelines.page_images import pair_view
from pipelines.report import (
    ConditionResult,
    Counts,
    CropStrip,
    EnhanceReport,
    Estimate,
    EvaluateReport,
    FailedObject,
    FailureKind,
    Histogram,
    ImageRow,
    MethodRow,
    PairGroup,
    ReportPair,
    SlowObject,
    StageTimes,
    SuspectObject,
    Timeline,
    WeightsCard,
)
from pipelines.training_report import TrainingReport

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>&{{ 7 * 7 }}'
WHEN = datetime(2026, 5, 4, 10, 30, tzinfo=UTC)
VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """What a browser would see: the tags, their attributes, the text; tags must nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def encoded(size: tuple[int, int], seed: int = 0, kind: str = "PNG") -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def stage(name: str, total_s: float) -> StageTimes:
    edges = tuple(2.0**power for power in range(-10, 11))
    times = Histogram(title=name, unit="s", edges=edges, counts=(0,) * 9 + (3, 5) + (0,) * 9)
    return StageTimes(name=name, total_s=total_s, times=times)


def enhance_report(name: str = "cat.jpg") -> EnhanceReport:
    return EnhanceReport(
        title=f"Enhanced {name}",
        source=f"in/{name}",
        destination=f"out/{name}",
        started_at=WHEN,
        duration_s=75.0,
        counts=Counts(ok=1204, suspect=2, failed=3, skipped=20, done_before=77),
        weights=WeightsCard(name=name, sha256="ab" * 32, task="sr-x2", scale=2, licence=name),
        settings=(("strength", "1.0"), (name, name)),
        machine=name,
        bytes_in=1_000_000,
        bytes_out=2_500_000,
        megapixels_out=812.0,
        stages=(stage("decode", 2.0), stage(name, 6.0)),
        whole_objects=stage("whole object", 8.0),
        timeline=Timeline(
            edges_s=(0.0, 32.0, 64.0, 75.0),
            objects=(500, 600, 104),
            megapixels=(300.0, 412.0, 100.0),
            failed=(0, 3, 0),
        ),
        histograms=(
            Histogram(title=name, unit=name, edges=(0, 1, math.inf), counts=(3, 4), note=name),
        ),
        pair_groups=(
            PairGroup(
                title=f"Most changed {name}",
                pairs=(
                    ReportPair(
                        key=name,
                        view=pair_view(encoded((20, 12)), encoded((40, 24)), budget_bytes=100_000),
                        before_label=name,
                        after_label=name,
                        caption=name,
                        gain_db=3.21,
                        change_levels=1.84,
                    ),
                ),
            ),
        ),
        pairs_left_out=(f"2 very large results {name}",),
        slowest=(SlowObject(key=name, seconds=9.0, width=40, height=24),),
        suspect=(SuspectObject(key=name, deviation=1.5, reason=name),),
        failed=(FailedObject(key=name, reason=name),),
        failure_kinds=(FailureKind(example=name, count=2),),
        estimate=Estimate(
            objects=5_000_000,
            sample_objects=20,
            duration_s=7200,
            bytes_out=10**12,
            machine_hours=2.0,
            machines=1,
            relative_error=0.125,
        ),
    )


def evaluate_report(name: str = "cat.png") -> EvaluateReport:
    methods = (
        MethodRow(
            name="bicubic",
            is_weights=False,
            psnr_db=30.0,
            ssim=0.9,
            ms_per_megapixel=5.0,
            gain_db=0.0,
        ),
        MethodRow(
            name=name,
            is_weights=True,
            psnr_db=33.5,
            ssim=0.95,
            ms_per_megapixel=300.0,
            gain_db=3.5,
            deviation=0.37,
            sha256="cd" * 32,
        ),
    )
    result = ConditionResult(
        label=f"bicubic x2 {name}",
        psnr_name="PSNR-Y",
        ssim_name="SSIM-Y",
        methods=methods,
        images=(ImageRow(key=name, psnr_db=(30.0, 33.5), ssim=(0.9, 0.95)),),
        strips=(CropStrip(key=name, crops=((name, 33.5, encoded((8, 8), kind="WEBP")),)),),
    )
    return EvaluateReport(
        title=name,
        folder=name,
        num_images=1,
        created_at=WHEN,
        machine=name,
        command=name,
        conventions=(name,),
        conditions=(result,),
        weights=(WeightsCard(name=name, sha256="cd" * 32, task="sr-x2", scale=2),),
    )


def training_report(name: str = "cat.jpg", *, rows: int = 20) -> TrainingReport:
    """PSNR grows by 0.1 dB each time; the base is at 33.7 dB."""
    history = [
        {
            "step": 1000.0 * number,
            "loss": 0.02 / number,
            "psnr_y_db": 34.7 + 0.1 * number,
            "ssim_y": 0.92 + 0.0001 * number,
            "learning_rate": 1e-3 * (1 - number / rows),
            "step_s": 0.36,
            "data_wait_share": 0.02,
            "checkpoint_stall_share": 0.005,
            "starts": 1.0 + (number > 5) + (number > 7),
        }
        for number in range(1, rows + 1)
    ]
    view = pair_view(encoded((20, 12)), encoded((40, 24)), budget_bytes=100_000)
    return TrainingReport(
        card=WeightsCard(name=name, sha256="ab" * 32, task="sr-x2", scale=2, licence=name),
        recipe=(("batch_size", "16"), (name, name)),
        data=name,
        ended=name,
        steps=60_000,
        history=history,
        base_psnr_y_db=33.7,
        base_ssim_y=0.9,
        pairs=(ReportPair(key=name, view=view, after_label=name, gain_db=-0.5),),
        best_step=1000 * rows,
        started_at=WHEN,
        finished_at=WHEN + timedelta(hours=2, minutes=5),
        machine=name,
        revision=name,
    )
