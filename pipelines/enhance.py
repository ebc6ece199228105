"""`resray enhance SRC DST`: every image of a folder or bucket made better, into another one.

The command: check, list, enhance through `bulk`, record, show, report. What happens to one object
is in `enhance_object`, what is to be done in `selection` and `worklist`, and Ray in `bulk`.
"""

import argparse
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from pipelines.argument_types import add_network_arguments, amount, positive, seconds, worker_range
from pipelines.auto import AUTO, CANDIDATES, Candidate, together
from pipelines.enhance_object import ObjectStages, RunSettings, Worker, core_settings, naming
from pipelines.ledger import LEDGER_PREFIX, LedgerRow, LedgerWriter, list_parts
from pipelines.progress import Clock, ProgressLine, Snapshot
from pipelines.quantities import format_bytes, format_count, format_duration, format_figure
from pipelines.report import Estimate, WeightsCard, render_enhance_report
from pipelines.selection import Selection
from pipelines.storage import (
    RESERVED,
    RETRY_FOR_S,
    Source,
    Store,
    open_source,
    open_target,
)
from pipelines.summary import RunSummary, Whole
from resnet_core.errors import ConfigError, DataError
from resnet_core.guard import Guard
from resnet_core.images import FORMATS, METADATA_POLICIES, output_format
from resnet_core.weights import Weights, load_weights, weights_path

if TYPE_CHECKING:
    from pipelines.bulk import BulkRun, Pool, Stage, Totals

REPORT_KEY = f"{RESERVED}/report.html"
SAMPLE_PREFIX = f"{RESERVED}/sample"
SAMPLE_REPORT_KEY = f"{RESERVED}/sample.html"
SHOWN_FAILURES = 20
MEMORY_PX = 32_000_000
"""Source pixels that one worker has in hand at once, unless a single image has more."""
GPU_BATCH_PX = 2_000_000
CPU_BATCH_PX = 1
"""Batches gain nothing on CPUs; one window at a time, while other objects are read and written."""

DESCRIPTION = """\
Enhance every image under SRC and write the results under DST, with the same names.

SRC and DST are folders or S3 prefixes (s3://bucket/prefix), in any combination. With
--root, SRC is a list of keys. Formats, colour profiles, EXIF, XMP and an object's own
metadata stay. SRC is only read. An object is written whole or not at all, and nothing
outside DST is written. What is no image, or a broken one, is reported with the reason,
and the rest is done.
"""

EPILOG = """\
resuming
  The same command goes on where a run stopped, however it stopped. What is recorded as
  done from the same source, weights and settings isn't done again; new and changed
  files are. Failed ones are tried again with --retry-failed.

object stores
  Credentials, region and endpoint come from the usual AWS_* variables and files
  (AWS_ENDPOINT_URL for other S3-compatible stores). What fails for a moment is tried
  again for --retry-for; a store that is gone, or refuses, ends the run.

lists of keys
  resray enhance keys.txt DST --root s3://bucket/photos takes the keys in keys.txt, one
  on a line, or in the column `key` of a Parquet file, as they lie under the root.

names
  With --format the extension changes too. If two sources then want one name (a.png and
  a.jpg with --format webp), the one that has the name itself gets it, else the first in
  order; the others fail. GIF, which can't hold the result, becomes PNG.

results beside the images
  DST/_resray/report.html   what was done, with before/after sliders
  DST/_resray/ledger/       one row for each object, in Parquet: ok, suspect (written, but
                            too far from its source), failed or skipped
  DST/_resray/sample/       the results of --sample, shown by DST/_resray/sample.html

exit status
  0  all is done        1  the run could not go on (one line says why)
  2  some images failed 130  stopped by Ctrl-C; the same command goes on

examples
  resray enhance photos better --sample 8
  resray enhance photos better
  resray enhance scans large --weights sr-x4 --format webp --quality 85
  resray enhance photos clean --weights auto
  resray enhance s3://shop/photos s3://shop-large/photos --workers 4..32 --address auto
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resray enhance`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "source", metavar="SRC", help="images: a folder, s3:// prefix, or a list (--root)"
    )
    parser.add_argument("target", metavar="DST", help="where results go: a folder or s3:// prefix")
    what = parser.add_argument_group("what is enhanced")
    what.add_argument(
        "--sample",
        type=positive,
        metavar="N",
        help="only N images spread evenly, into DST/_resray/sample/, with an estimate for all",
    )
    what.add_argument(
        "--root",
        metavar="URL",
        help="SRC is a list of keys under this folder or prefix (text, or Parquet)",
    )
    what.add_argument("--limit", type=positive, metavar="N", help="at most N images in this run")
    what.add_argument("--retry-failed", action="store_true", help="also those that failed before")
    what.add_argument(
        "--max-pixels",
        type=amount,
        default=RunSettings.max_pixels,
        metavar="N",
        help="refuse larger images (default: 100M)",
    )
    what.add_argument(
        "--max-bytes",
        type=amount,
        default=RunSettings.max_bytes,
        metavar="N",
        help="refuse larger files (default: 256Mi)",
    )
    how = parser.add_argument_group("how they are enhanced")
    how.add_argument(
        "--weights",
        default="sr-x2",
        metavar="NAME|PATH|auto",
        help="the network: a name from `resray weights list`, or a file of resray's, or one that"
        " spandrel knows; auto looks at each image and cleans it, at its size, with"
        f" {', '.join(CANDIDATES[:-1])} or {CANDIDATES[-1]}, or leaves it as it is"
        " (default: sr-x2)",
    )
    how.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="0 changes nothing but the size, 1 is as learned, more exaggerates (default: 1)",
    )
    written = [name.lower() for name, spec in FORMATS.items() if spec.writes]
    how.add_argument(
        "--format", metavar="NAME", help=f"of the results: {', '.join(written)} (default: same)"
    )
    how.add_argument(
        "--quality",
        type=int,
        metavar="N",
        help="in the format's own scale (default: JPEG 93, WebP 90, AVIF 85)",
    )
    how.add_argument(
        "--metadata",
        choices=METADATA_POLICIES,
        default="keep",
        help="keep EXIF and XMP, without the position, or not at all (default: keep)",
    )
    how.add_argument(
        "--guard",
        choices=get_args(Guard),
        default="mark",
        help="a result that is too far from its source is marked as suspect, or fails (default:"
        " mark)",
    )
    where = parser.add_argument_group("where it is computed")
    where.add_argument(
        "--workers",
        type=worker_range,
        metavar="N|MIN..MAX",
        help="processes with a network; between MIN and MAX, as the work asks (default: one for"
        " each GPU, else one for each machine with all its cores)",
    )
    where.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="a Ray cluster (default: RAY_ADDRESS, or this machine)",
    )
    where.add_argument(
        "--retry-for",
        type=seconds,
        default=RETRY_FOR_S,
        metavar="SECONDS",
        help="how long a request to a store is tried again (default: 180)",
    )
    add_network_arguments(where, tile_px=RunSettings.tile_px)
    where.add_argument(
        "-v", "--verbose", action="store_true", help="show Ray's log lines, and errors in full"
    )


def run(args: argparse.Namespace) -> int:
    """Enhance; the exit status. ResrayError for what the user can mend."""
    weights, settings = _settings(args)
    source = open_source(args.source, root=args.root, retry_for_s=args.retry_for)
    if args.root is None and next(iter(source.list_objects()), None) is None:
        raise _nothing(args.source)
    target = open_target(args.target, source, retry_for_s=args.retry_for)
    target.make_writable()
    target.remove_stale_temporaries()
    results = target.below(SAMPLE_PREFIX) if args.sample else target
    selection = Selection(
        source=source,
        target=target,
        naming=naming(settings.format),
        weights_sha256=settings.weights_sha256,
        settings_hash=settings.hash,
        parts=() if args.sample else tuple(list_parts(target)),
        retry_failed=args.retry_failed,
        sample=args.sample,
    )
    command = _Command(
        args=args,
        weights=weights,
        settings=settings,
        source=source,
        target=target,
        results=results,
        selection=selection,
    )
    return command.run()


def _names(weights: str) -> tuple[str, ...]:
    return CANDIDATES if weights == AUTO else (weights,)


def _settings(args: argparse.Namespace) -> tuple[tuple[Weights, ...], RunSettings]:
    """The weights that may run, and what decides a result."""
    if not math.isfinite(args.strength):
        raise ConfigError(f"--strength: expected a number, found {args.strength}")
    weights = tuple(map(load_weights, _names(args.weights)))
    candidates = tuple(
        Candidate(name=each.name, sha256=each.sha256, task=each.metadata.task) for each in weights
    )
    is_auto = args.weights == AUTO
    whole = together(candidates) if is_auto else candidates[0]
    settings = RunSettings(
        weights_name=whole.name,
        weights_sha256=whole.sha256,
        weights_task=whole.task,
        candidates=candidates if is_auto else (),
        strength=args.strength,
        format=None if args.format is None else output_format("PNG", args.format),
        quality=args.quality,
        metadata=args.metadata,
        precision=args.precision,
        tile_px=args.tile,
        guard=args.guard,
        max_pixels=args.max_pixels,
        max_bytes=args.max_bytes,
    )
    core_settings(settings)
    return weights, settings


def _nothing(text: str) -> DataError:
    return DataError(f"{text}: empty; there is nothing to enhance")


@dataclass(frozen=True, kw_only=True)
class _Command:
    """One run of the command, checked and ready."""

    args: argparse.Namespace
    weights: tuple[Weights, ...]
    """One, or those that `auto` chooses from."""
    settings: RunSettings
    source: Source
    target: Store
    results: Store
    selection: Selection

    @property
    def report_key(self) -> str:
        return SAMPLE_REPORT_KEY if self.args.sample else REPORT_KEY

    def run(self) -> int:
        # Ray is imported here, so that errors of usage come without waiting for it.
        import ray.exceptions  # noqa: PLC0415

        from cluster.connect import ray_session  # noqa: PLC0415
        from pipelines.bulk import BulkRun, Pool  # noqa: PLC0415

        began_s = time.monotonic()
        summary, clock = RunSummary(), Clock()
        print(
            f"Enhancing {self.args.source} into {self.results.url}"
            f" with {self.settings.weights_name} (x{self.weights[0].scale})",
            flush=True,
        )
        try:
            with ray_session(address=self.args.address, verbose=self.args.verbose) as resources:
                pool = Pool.of(resources, workers=self.args.workers)
                bulk = BulkRun(
                    list_works=self.selection,
                    stages=self._stages(pool),
                    pool=pool,
                    limit=self.args.limit,
                    verbose=self.args.verbose,
                )
                self._consume(bulk, summary, clock)
        except KeyboardInterrupt:
            print(
                f"resray: stopped; {format_count(summary.objects)} done and recorded,"
                " and the same command goes on",
                file=sys.stderr,
            )
            return 130
        except ray.exceptions.RayError as error:
            if self.args.verbose:
                raise
            raise DataError(_first_cause(error)) from error
        took_s = time.monotonic() - began_s
        return self._finish(bulk.totals, summary, clock, took_s, machines=resources.machines)

    def _stages(self, pool: "Pool") -> "list[Stage]":
        from pipelines.bulk import Stage  # noqa: PLC0415

        stages = ObjectStages(source=self.source, target=self.results, settings=self.settings)
        worker = Worker(
            stages=stages,
            weights=tuple(str(weights_path(name).resolve()) for name in _names(self.args.weights)),
            threads=pool.threads,
            batch_px=GPU_BATCH_PX if pool.gpus else CPU_BATCH_PX,
            memory_px=MEMORY_PX,
        )
        if not pool.apart:
            return [Stage(name="all", build=worker.whole, give_up=stages.failed, has_network=True)]
        return [
            Stage(name="read", build=worker.read, give_up=stages.failed, has_network=False),
            Stage(name="network", build=worker.improve, give_up=stages.failed, has_network=True),
            Stage(name="write", build=worker.write, give_up=stages.failed, has_network=False),
        ]

    def _consume(self, bulk: "BulkRun", summary: RunSummary, clock: Clock) -> None:
        """Take the rows as they come: into the ledger, the summary and the line."""

        def snapshot() -> Snapshot:
            complete = bulk.totals.complete
            return Snapshot(
                elapsed_s=clock.elapsed_s,
                finished=summary.objects,
                finished_bytes=summary.finished_bytes,
                failed=summary.failed,
                megapixels_out=summary.pixels_out / 1e6,
                total=bulk.totals.todo if complete else None,
                total_bytes=bulk.totals.todo_bytes if complete else None,
            )

        record = _recorder(None if self.args.sample else self.target)
        plain = True if self.args.verbose else None
        with record as write, ProgressLine(snapshot, sys.stderr, plain=plain):
            for row in bulk.rows():
                write(row)
                clock.note(row.total_s)
                summary.add(row)

    def _finish(
        self,
        totals: "Totals",
        summary: RunSummary,
        clock: Clock,
        duration_s: float,
        *,
        machines: int,
    ) -> int:
        if totals.objects == 0:
            raise _nothing(self.args.source)
        if not totals.complete:  # a limit was reached before all was counted
            totals = replace(totals, done=0, failed_before=0)
        found = summary.ok + summary.failed + totals.done + totals.failed_before
        if found == 0 and self.args.limit is None and self.args.sample is None:
            raise DataError(
                f"{self.args.source}: none of its {format_count(summary.skipped)} files is an"
                f" image; expected {', '.join(FORMATS)}"
            )
        estimate = self._estimate(summary, clock, machines)
        if summary.objects or self.target.info(self.report_key).problem is not None:
            self._write_report(summary, totals.done, clock.work_s, estimate)
        for line in closing_lines(
            summary,
            duration_s=duration_s,
            work_s=clock.work_s,
            done_before=totals.done,
            failed_before=totals.failed_before,
            not_reached=totals.todo - summary.objects if totals.complete else 0,
            estimate=estimate,
        ):
            print(line)
        print(f"report: {self.target.url_of(self.report_key)}")
        return 2 if summary.failed or totals.failed_before else 0

    def _estimate(self, summary: RunSummary, clock: Clock, machines: int) -> Estimate | None:
        if self.args.sample is None or clock.work_s == 0:
            return None
        objects = bytes_in = 0
        for info in self.source.list_objects():
            objects += info.problem is None
            bytes_in += info.bytes
        # How many objects were in work at once, as it came out.
        parallel = sum(summary.stage_s.values()) / clock.work_s
        whole = Whole(objects=objects, bytes=bytes_in)
        return summary.estimate(whole, parallel=parallel, machines=machines)

    def _write_report(
        self,
        summary: RunSummary,
        done_before: int,
        duration_s: float,
        estimate: Estimate | None,
    ) -> None:
        from pipelines.machine import machine_name  # noqa: PLC0415

        report = summary.report(
            source=self.source,
            target=self.results,
            weights=self._card(),
            settings=_shown_settings(self.settings),
            machine=machine_name(),
            duration_s=duration_s,
            done_before=done_before,
            estimate=estimate,
        )
        page = render_enhance_report(report)
        self.target.put(self.report_key, page.encode(), content_type="text/html; charset=utf-8")

    def _card(self) -> WeightsCard:
        first, *others = self.weights
        named = [f"{each.name} ({each.sha256[:12]})" for each in self.weights]
        return WeightsCard(
            name=self.settings.weights_name,
            sha256=self.settings.weights_sha256,
            task=f"for each image {', '.join(named)} or none" if others else first.metadata.task,
            scale=first.scale,
            parameters=None if others else first.network.num_parameters,
            licence="; ".join(dict.fromkeys(each.metadata.licence for each in self.weights)),
        )


@contextmanager
def _recorder(target: Store | None) -> Generator[Callable[[LedgerRow], None]]:
    """Where rows go: the ledger of a destination, or nowhere (a sample records nothing)."""
    if target is None:
        yield lambda _row: None
        return
    with LedgerWriter(target) as ledger:
        yield ledger.append


def closing_lines(
    summary: RunSummary,
    *,
    duration_s: float,
    work_s: float,
    done_before: int,
    failed_before: int,
    not_reached: int = 0,
    estimate: Estimate | None,
) -> Iterator[str]:
    """What is said at the end. `work_s` leaves out what Ray and the network took to start."""
    counts = [f"{format_count(summary.ok - summary.left_alone)} enhanced"]
    counts += [f"{format_count(summary.left_alone)} left alone"] if summary.left_alone else []
    counts += [f"{format_count(summary.suspect)} of them suspect"] if summary.suspect else []
    counts += [f"{format_count(summary.failed)} failed"] if summary.failed else []
    counts += [f"{format_count(summary.skipped)} skipped (no images)"] if summary.skipped else []
    counts += [f"{format_count(done_before)} done before"] if done_before else []
    speed = ""
    if summary.ok and work_s > 0:
        rate = format_figure(summary.pixels_out / 1e6 / work_s, 2)
        speed = f" ({rate} megapixels/s once started)"
    yield f"{', '.join(counts)} in {format_duration(duration_s)}{speed}"
    if summary.choices:
        yield f"  chosen: {summary.choices}"
    for suspect in summary.suspects:
        yield f"  suspect: {shown_key(suspect.key)}: {suspect.reason}"
    for failure in summary.failures[:SHOWN_FAILURES]:
        yield f"  failed: {shown_key(failure.key)}: {failure.reason}"
    if summary.failed > SHOWN_FAILURES:
        more = format_count(summary.failed - SHOWN_FAILURES)
        yield f"  and {more} more, with their reasons in {LEDGER_PREFIX}"
    if failed_before:
        yield f"{format_count(failed_before)} failed before: --retry-failed takes them up again"
    if not_reached > 0:
        yield (
            f"{format_count(not_reached)} more are there, as the source has changed meanwhile:"
            " the same command takes them up"
        )
    if estimate is not None:
        error = estimate.relative_error
        margin = f" (give or take {error:.0%})" if error is not None else ""
        yield (
            f"all {format_count(estimate.objects)} files would take about"
            f" {format_duration(estimate.duration_s)}{margin} on this machine,"
            f" and {format_bytes(estimate.bytes_out)}"
        )


def shown_key(key: str) -> str:
    """A key on one line: as it is, or quoted as a shell would need it."""
    return key if key.isprintable() else shlex.quote(key.encode("unicode_escape").decode())


def _shown_settings(settings: RunSettings) -> tuple[tuple[str, str], ...]:
    chosen = {
        "strength": f"{settings.strength:g}",
        "format": settings.format or "as the source",
        "quality": "the format's default" if settings.quality is None else str(settings.quality),
        "metadata": settings.metadata,
        "precision": settings.precision,
        "guard": settings.guard,
        "tile": f"{settings.tile_px} px",
    }
    return tuple(chosen.items())


def _first_cause(error: BaseException) -> str:
    """The innermost message of a failed run, on one line."""
    found = re.findall(r"^(?:\w+\.)*\w+(?:Error|Exception): (.+)$", str(error), re.MULTILINE)
    own = found[-1].strip() if found else str(error).strip().partition("\n")[0]
    return f"the run could not go on: {own} (-v shows all of it; the same command goes on)"
