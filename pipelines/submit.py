"""`resray submit -- COMMAND...`: a command of resray as a job on a Ray cluster, through Ray Jobs.

The code travels with the job: the three packages as they are imported here, so that an installed
resray and a checkout are the same, and the cluster needs only what they import.
"""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from cluster.jobs import POLL_S, Jobs, JobState
from pipelines import cli
from pipelines.argument_types import duration_s, positive
from pipelines.submitted import CPUS, WITHIN_S
from resnet_core.errors import ConfigError, DataError, did_you_mean

PACKAGES = ("resnet_core", "pipelines", "cluster")
ACTIONS = ("logs", "status", "stop")
STOP_WITHIN_S = 60.0
STOPPED = 130

DESCRIPTION = """\
Run a command of resray as a job on a Ray cluster, follow what it prints, end with its status.

The code goes with the job, and the machines need what it imports (cluster/Dockerfile). Folders
and files in the command are the cluster's: give s3:// addresses. Credentials are those that the
machines have. The job goes on when this command is stopped."""

EPILOG = """\
jobs that were submitted
  resray submit logs ID     follow it from its beginning; the exit status is the job's
  resray submit status ID   how it is now
  resray submit stop ID     end it; the same command, submitted again, goes on

tokens
  A cluster that was started with RAY_AUTH_MODE=token takes jobs from those who have its token:
  RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH, in the environment here as on its machines.

exit status
  the job's; 1 where it doesn't begin; 130 where it was stopped, or following it was

examples
  resray submit --address http://127.0.0.1:8265 -- enhance s3://shop/photos s3://shop/large
  resray submit --gpus 4 --within 20min -- enhance s3://shop/photos s3://shop/large --workers 4..32
  resray submit --no-wait --gpus 2 -- train sr-x2 --data s3://shop/photos \\
    --output s3://shop/runs/x2 --num-workers 2..8 --use-gpu
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resray submit`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words",
        nargs="+",
        metavar="COMMAND",
        help="after --, a command of resray with its options; or logs, status or stop with an ID",
    )
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, or port 8265 of this"
        " machine)",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="print the job's ID and leave it to itself"
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable for the job, as here or as given; Ray keeps it readable: no secrets",
    )
    wait = parser.add_argument_group("what must be free before the command begins")
    wait.add_argument(
        "--cpus", type=positive, default=CPUS, metavar="N", help=f"CPUs (default: {CPUS})"
    )
    wait.add_argument("--gpus", type=positive, default=0, metavar="N", help="GPUs (default: none)")
    wait.add_argument(
        "--within",
        type=duration_s,
        default=WITHIN_S,
        metavar="TIME",
        help="else the job gives up, and says what is missing (default: 15min)",
    )


def run(args: argparse.Namespace) -> int:
    """Submit, or look at what was; the exit status. ResrayError for what the user can mend."""
    if args.words[0] in ACTIONS:
        return _look(args)
    command = job_command(args)
    environment = job_environment(args.env)
    jobs = Jobs(args.address)
    with packed_code() as folder:
        job = jobs.submit(command, folder=folder, environment=environment)
    if args.no_wait:
        print(job)
        print(_advice(job, jobs.url), file=sys.stderr)
        return 0
    print(f"job {job} at {jobs.url}", file=sys.stderr)
    return _follow(jobs, job)


def job_command(args: argparse.Namespace) -> str:
    """What the cluster's shell is told. ConfigError, or wrong usage, of the command in it."""
    words: Sequence[str] = args.words
    known = cli.COMMANDS.keys() - {"submit"}
    if words[0] not in known:
        raise ConfigError(
            f"{words[0]}: expected a command of resray; {did_you_mean(words[0], known)}"
        )
    cli.build_parser(words[0]).parse_args(words)
    needs = ["--cpus", str(args.cpus), "--gpus", str(args.gpus), "--within", f"{args.within:g}"]
    return shlex.join(["python", "-m", "pipelines.submitted", *needs, "--", *words])


def job_environment(given: Sequence[str]) -> dict[str, str]:
    """The variables of a job. ConfigError for one that isn't set here."""
    found = {"PYTHONUNBUFFERED": "1"}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: not set here; expected NAME=VALUE, or one that is")
        found[name] = value if equals else os.environ[name]
    return found


@contextmanager
def packed_code() -> Generator[Path]:
    """A folder with the code, and its version where Python looks for it."""
    here = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="resray-") as name:
        folder = Path(name)
        for package in PACKAGES:
            shutil.copytree(
                here / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        number = version("resray")
        metadata = folder / f"resray-{number}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: resray\nVersion: {number}\n")
        yield folder


def _look(args: argparse.Namespace) -> int:
    if len(args.words) != 2:
        raise ConfigError(f"{args.words[0]}: expected the ID of one job behind it")
    action, job = args.words
    jobs = Jobs(args.address)
    if action == "logs":
        return _follow(jobs, job)
    state = _stop(jobs, job) if action == "stop" else jobs.state(job)
    print(f"{job}: {state.status.lower()}: {state.command}")
    return _exit_status(state) if action == "status" and state.has_ended else 0


def _stop(jobs: Jobs, job: str) -> JobState:
    jobs.stop(job)
    end_s = time.monotonic() + STOP_WITHIN_S
    while not (state := jobs.state(job)).has_ended:
        if time.monotonic() > end_s:
            raise DataError(f"{job}: still {state.status} after {STOP_WITHIN_S:g} s; try again")
        time.sleep(POLL_S)
    return state


def _follow(jobs: Jobs, job: str) -> int:
    try:
        state = jobs.follow(job, _write)
    except KeyboardInterrupt:
        print(f"\nresray: job {job} goes on; {_advice(job, jobs.url)}", file=sys.stderr)
        return STOPPED
    status = _exit_status(state)
    if state.status != "SUCCEEDED":
        print(
            f"resray: job {job} {state.status.lower()}, exit status {status}: {state.message}",
            file=sys.stderr,
        )
    return status


def _exit_status(state: JobState) -> int:
    if state.status == "STOPPED":
        return STOPPED
    if state.status == "SUCCEEDED":
        return 0
    return state.exit_status or 1


def _advice(job: str, url: str) -> str:
    return (
        f"follow it with `resray submit logs {job} --address {url}`, end it with"
        f" `resray submit stop {job} --address {url}`"
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
