"""`resray train`: a recipe and photographs in, a weights file out, through Ray Train.

The run itself is `training_run`; here stand the command, the record of what the output folder is
for, and the weights file. The same command with the same --output goes on where it stopped.
"""

import argparse
import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import ray
from PIL import Image as PillowImage

from cluster.connect import Resources, ray_session
from pipelines.argument_types import duration_s, positive, worker_range
from pipelines.checkpoints import Row, best_checkpoint
from pipelines.data_engine import quieten
from pipelines.machine import machine_name
from pipelines.page_images import pair_view
from pipelines.patch_stream import Makers
from pipelines.photographs import PreparedData, prepare
from pipelines.recipes import RECIPES, build_recipe, describe_fields, field_values
from pipelines.report import ReportPair, WeightsCard
from pipelines.stopping import StopRules
from pipelines.storage import Source, Store, open_source, open_store
from pipelines.training_report import TrainingReport, render_training_report
from pipelines.training_run import TrainingJob, fit, measure
from resnet_core.degradation import describe
from resnet_core.errors import ConfigError, DataError
from resnet_core.levels import Levels
from resnet_core.training import Trainer, TrainingRecipe
from resnet_core.weights import (
    Weights,
    WeightsMetadata,
    load_weights,
    parse_weights,
    serialize_weights,
)

RUN_FILE = "run.json"
REPORT_FILE = "report.html"
SHOWN_PAIRS = 12
PAIR_BYTES = 200_000
"""Of one pair on the page."""
PATCH_PX = 192
MOST_MAKERS = 16
"""Of the examples of one GPU."""
CPUS_A_MAKER = 8
"""Where the network computes on CPUs: making `photo-x2` takes a tenth of its time."""
URL_TIMEOUT_S = 60.0

DESCRIPTION = """\
Trains a residual network on photographs and writes one .safetensors file.

DIR is a folder or s3://BUCKET/PREFIX. Photographs are cut into patches once; each step degrades
patches on the fly as the recipe says, from its seed. Every `validate_every` steps the averaged
weights are measured on photographs that are held out, and a checkpoint is written. The same command
with the same --output goes on where the run stopped, whatever stopped it. The weights are those of
the best validation."""

EPILOG = f"""\
fields for --set, with the values of sr-x2
{describe_fields(RECIPES["sr-x2"]())}

examples
  resray train sr-x2 --data photographs
  resray train sr-x4 --data photographs --from sr-x2 --set steps=10000
  resray train sr-x2 --data photographs --target-psnr 33.5 --max-time 8h
  resray train sr-x2 --data s3://shop/photos --output s3://shop/runs/x2 --address auto \\
    --num-workers 2..8 --use-gpu

See how it goes with TensorBoard: tensorboard --logdir OUTPUT/tensorboard
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resray train`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--data", required=True, metavar="DIR", help="photographs")
    parser.add_argument(
        "--validation",
        metavar="DIR",
        help="photographs to measure on (default: every twentieth of --data, held out)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where checkpoints, logs and weights go, and beside it the patches; all machines must"
        " see it (default: runs/RECIPE)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a recipe's field"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="NAME|PATH|URL",
        help="start from these weights (the scale may differ, their network may be smaller)",
    )
    stop = parser.add_argument_group("when to stop, before the recipe's steps are done")
    stop.add_argument("--target-psnr", type=float, metavar="DB", help="PSNR-Y of a validation")
    stop.add_argument("--target-loss", type=float, metavar="L", help="mean loss between two")
    stop.add_argument("--max-steps", type=positive, metavar="N", help="the schedule stays as it is")
    stop.add_argument(
        "--max-time", type=duration_s, metavar="TIME", help="of this start: 90min, 8h, 2d"
    )
    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--num-workers",
        type=worker_range,
        default=(1, 1),
        metavar="N|MIN..MAX",
        help="as many as there is room for, between the bounds (default: 1)",
    )
    where.add_argument("--use-gpu", action="store_true", help="one GPU for each worker")
    where.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="a Ray cluster (default: RAY_ADDRESS, else this machine)",
    )
    where.add_argument("-v", "--verbose", action="store_true", help="show Ray's own messages")
    card = parser.add_argument_group("for the weights' metadata")
    card.add_argument("--data-note", metavar="TEXT", help="the data in words")
    card.add_argument("--licence", default="unstated", metavar="TEXT", help="of the weights")


def run(args: argparse.Namespace) -> int:
    """Trains as `args` say and prints what came out. Returns the exit status."""
    recipe = build_recipe(args.recipe, args.set)
    _check_recipe(recipe, args.num_workers[1])
    rules = StopRules(
        steps=recipe.steps,
        patience=recipe.patience,
        target_psnr_db=args.target_psnr,
        target_loss=args.target_loss,
        max_steps=args.max_steps,
        max_time_s=args.max_time,
    )
    start = _load_start(args.start) if args.start else None
    if start is not None:
        # Said now, not in a worker.
        fresh = Trainer(recipe).start_from(start.own_network)
        _tell(f"starting from {start.name}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
    beside, output = _places(args.output or f"runs/{recipe.name}")
    source = open_source(args.data)
    validation = open_source(args.validation) if args.validation else None
    output.make_writable()
    output.remove_stale_temporaries()
    try:
        with ray_session(address=args.address, verbose=args.verbose) as resources:
            check_resources(resources, num_workers=args.num_workers[0], use_gpu=args.use_gpu)
            if not args.verbose:
                quieten()
            wanted = _identity(recipe, source, validation, start)
            begun = _begun(output, wanted)
            data = prepare(
                source,
                validation,
                beside,
                patch_px=PATCH_PX,
                tell=_tell,
                begun=begun["data"] if begun else None,
            )
            begun = begun or _begin(output, wanted, data)
            _tell(
                f"{data.num_photographs} photographs, {data.num_patches} patches;"
                f" output in {output.url}"
            )
            job = make_job(
                recipe,
                data,
                output,
                rules,
                resources=resources,
                workers=args.num_workers,
                use_gpu=args.use_gpu,
                start=start,
            )
            last, ended = fit(job)
    except KeyboardInterrupt:
        print("resray: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    _tell(f"ended after step {last.step}: {ended}")
    best = best_checkpoint(output, last.history, _tell)
    trainer = Trainer(recipe)
    trainer.load_state(best.tensors)
    note = args.data_note or f"{data.num_photographs} photographs from {_name(source)}"
    metadata = describe_run(
        recipe, best.history, begun=begun, ended=ended, data_note=note, licence=args.licence
    )
    key = f"{recipe.name}.safetensors"
    weights, sha256 = serialize_weights(trainer.averaged(), metadata)
    output.put(key, weights)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in metadata.figures.items())
    _tell(f"{output.url_of(key)}  (sha256 {sha256[:12]}; step {best.step}; {figures})")
    page = _report(recipe, data, parse_weights(key, weights), last.history, best_step=best.step)
    output.put(REPORT_FILE, page.encode(), content_type="text/html; charset=utf-8")
    _tell(f"curves and pictures: {output.url_of(REPORT_FILE)}")
    return 0


def _report(
    recipe: TrainingRecipe,
    data: PreparedData,
    weights: Weights,
    history: Sequence[Row],
    *,
    best_step: int,
) -> str:
    """The page of the run, with the validation pictures measured once more."""
    measured = list(measure(weights.own_network, data.validation(), recipe))
    bases = [replace(each, output=each.base) for each in measured]
    metadata = weights.metadata
    return render_training_report(
        TrainingReport(
            card=WeightsCard(
                name=weights.name,
                sha256=weights.sha256,
                task=metadata.task,
                scale=weights.config.scale,
                parameters=weights.network.num_parameters,
                licence=metadata.licence,
            ),
            recipe=[(name, str(value)) for name, value in field_values(recipe)],
            data=metadata.data,
            ended=metadata.training["ended"],
            steps=recipe.steps,
            history=history,
            base_psnr_y_db=fmean(each.psnr_y_db for each in bases),
            base_ssim_y=fmean(each.ssim_y for each in bases),
            pairs=[
                ReportPair(
                    key=each.key,
                    view=pair_view(_png(each.base), _png(each.output), budget_bytes=PAIR_BYTES),
                    before_label="Bicubic" if weights.config.scale > 1 else "Input",
                    gain_db=each.psnr_y_db - base.psnr_y_db,
                )
                for each, base in zip(measured[:SHOWN_PAIRS], bases, strict=False)
            ],
            best_step=best_step,
            started_at=datetime.fromisoformat(metadata.created),
            finished_at=datetime.now(UTC),
            machine=machine_name(),
            revision=metadata.git_revision,
        )
    )


def _png(pixels: Levels) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def describe_run(
    recipe: TrainingRecipe,
    history: Sequence[Row],
    *,
    ended: str,
    begun: dict[str, Any],
    data_note: str,
    licence: str,
) -> WeightsMetadata:
    """The metadata of the weights that a run ends with; `begun` is what its start recorded."""
    last = history[-1]
    settings = asdict(recipe)
    for field in ("name", "degradation"):
        settings.pop(field)
    curve = [[row["step"], round(row["loss"], 6), round(row["psnr_y_db"], 3)] for row in history]
    return WeightsMetadata(
        task=recipe.degradation.name,
        degradation=recipe.degradation,
        data=data_note,
        licence=licence,
        git_revision=begun["revision"],
        created=begun["created"],
        training={**settings, "started from": begun["start"], "ended": ended, "curve": curve},
        figures={f"validation {name}": last[name] for name in ("psnr_y_db", "ssim_y")},
    )


def _check_recipe(recipe: TrainingRecipe, num_workers: int) -> None:
    target_px = recipe.input_px * recipe.degradation.scale
    if target_px > PATCH_PX:
        raise ConfigError(
            f"input_px is {recipe.input_px}: targets of {target_px} px don't fit in patches of "
            f"{PATCH_PX} px"
        )
    if num_workers > recipe.batch_size:
        raise ConfigError(
            f"--num-workers is {num_workers}: a batch has {recipe.batch_size} examples, and each"
            " worker needs one; --set batch_size="
        )
    if num_workers > 1 and recipe.network.kind == "residual-bn":
        raise ConfigError(
            "residual-bn trains on one worker only: the statistics of a batch are those of a "
            "worker's share, and the result would depend on the number of workers"
        )


def check_resources(resources: Resources, *, num_workers: int, use_gpu: bool) -> None:
    """Ray waits without end for what isn't there."""
    kind, have = ("GPU", resources.gpus) if use_gpu else ("CPU", resources.cpus)
    if num_workers > have:
        raise ConfigError(
            f"{num_workers} workers need {num_workers} {kind}s, and Ray has {have:g}; "
            f"change --num-workers" + (" or leave out --use-gpu" if use_gpu else "")
        )


def _name(source: Source) -> str:
    """Of a folder or prefix."""
    return source.url.rstrip("/").rpartition("/")[2]


def _identity(
    recipe: TrainingRecipe, source: Source, validation: Source | None, start: Weights | None
) -> dict[str, Any]:
    """What makes a run this one. `steps`, `validate_every` and `patience` may differ: a run may be
    made longer."""
    settings = asdict(replace(recipe, steps=1, validate_every=1, patience=0))
    settings |= {"degradation": describe(recipe.degradation)}
    return {
        **json.loads(json.dumps(settings)),
        "photographs": source.url,
        "validation": validation.url if validation else "held out",
        "start": f"{start.name} ({start.sha256[:12]})" if start else "random weights",
    }


def _begin(output: Store, identity: dict[str, Any], data: PreparedData) -> dict[str, Any]:
    """Makes the output this run's own; what is recorded there."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**identity, "data": data.name, "revision": _revision(), "created": now}
    output.put(RUN_FILE, json.dumps(record, indent=1).encode())
    return record


def _begun(output: Store, identity: dict[str, Any]) -> dict[str, Any] | None:
    """What the first start of this run recorded in the output, if there was one.

    Raises ConfigError if it holds another run.
    """
    if output.info(RUN_FILE).problem is not None:
        return None
    try:
        found = json.loads(output.get(RUN_FILE).data)
    except ValueError as error:
        raise DataError(
            f"{output.url_of(RUN_FILE)}: damaged ({error}); choose another --output"
        ) from error
    changed = [name for name in identity if found.get(name) != identity[name]]
    if changed:
        raise ConfigError(
            f"{output.url} holds another run ({', '.join(changed)} differ); choose another --output"
        )
    return found


def threads_of(node_cpus: Sequence[int], workers: int) -> int:
    """The most threads for each of so many workers, of which none lies on two nodes; at least 1."""
    return max(
        (
            share
            for share in range(1, max(node_cpus) + 1)
            if sum(cpus // share for cpus in node_cpus) >= workers
        ),
        default=1,
    )


def make_job(
    recipe: TrainingRecipe,
    data: PreparedData,
    output: Store,
    rules: StopRules,
    *,
    resources: Resources,
    workers: tuple[int, int] = (1, 1),
    use_gpu: bool = False,
    start: Weights | None = None,
) -> TrainingJob:
    """The job with its share of a connected Ray's CPUs for the workers and for their data."""
    least, most = workers
    there = max(least, min(most, int(resources.gpus if use_gpu else resources.cpus)))
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if use_gpu:
        # Of the machines with GPUs, so that the others may go.
        share = min(int(node.get("CPU", 0) / node["GPU"]) for node in nodes if node.get("GPU"))
        makers = Makers(count=min(MOST_MAKERS, max(1, 2 * share - 1)), cpus_each=0.5)
    else:
        share = threads_of([int(node.get("CPU", 0)) for node in nodes], there)
        # They hold no CPU: one that waits for its own could wait without end.
        makers = Makers(count=max(1, share // CPUS_A_MAKER), cpus_each=0.0)
    return TrainingJob(
        recipe=recipe,
        data=data,
        output=output,
        rules=rules,
        workers=(least, most),
        threads=max(1, share),
        use_gpu=use_gpu,
        makers=makers,
        start=start and start.own_network,
    )


def _places(text: str) -> tuple[Store, Store]:
    """Where runs lie beside each other, and the output of this one."""
    place, _, name = text.rstrip("/").rpartition("/")
    if not name:
        raise ConfigError(f"{text}: expected the name of a folder that may be made")
    if place.endswith(":/"):
        raise ConfigError(f"{text}: a whole bucket; give a prefix in it: {text}/runs/x2")
    beside = open_store(place or ("/" if text.startswith("/") else "."))
    return beside, beside.below(name)


def _load_start(text: str) -> Weights:
    """Weights by name, path, or address (s3:// or https://)."""
    if "://" not in text:
        return load_weights(text)
    place, _, name = text.rpartition("/")
    if text.startswith("https://"):
        try:
            with urllib.request.urlopen(text, timeout=URL_TIMEOUT_S) as answer:  # noqa: S310
                data: bytes = answer.read()
        except OSError as error:
            raise DataError(f"{text}: can't be read ({error})") from error
    else:
        store = open_store(place)
        if problem := store.info(name).problem:
            raise DataError(f"{text}: {problem}")
        data = store.get(name).data
    return parse_weights(text, data)


def _revision() -> str:
    """The git revision of this code, with `+` where files were changed; else the version."""
    here = Path(__file__)
    try:
        # Installed code may lie in some other project's repository, which doesn't track it.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--abbrev=40", "--dirty=+", "--match=")
    except (OSError, subprocess.CalledProcessError):
        return f"resray {version('resray')}"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _tell(line: str) -> None:
    print(line, flush=True)
