"""`make demo-s3`: from one bucket into another, twice, on a store that runs here meanwhile.

python -m parts.demo_s3 FOLDER

The report comes to FOLDER/report.html.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from parts.local_store import ROOT, local_bucket, plain_store
from pipelines.enhance import REPORT_KEY

TARGET = "better"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    with local_bucket() as bucket:
        store = plain_store(bucket)
        photographs = [path for path in (ROOT / "examples").iterdir() if path.suffix != ".md"]
        for path in sorted(photographs):
            store.put(f"photographs/{path.name}", path)
        print(f"== {len(photographs)} photographs of examples/ are in s3://{bucket}/photographs")
        _enhance(bucket)
        print("== The same command again: nothing is done twice")
        _enhance(bucket)
        folder.mkdir(parents=True, exist_ok=True)
        report = folder / "report.html"
        report.write_bytes(store.get(f"{TARGET}/{REPORT_KEY}").bytes().to_bytes())
    print(f"== Before and after, under sliders: {report.resolve()}")


def _enhance(bucket: str) -> None:
    """The command as a user gives it."""
    command = ["enhance", f"s3://{bucket}/photographs", f"s3://{bucket}/{TARGET}"]
    print(f"$ resray {' '.join(command)}", flush=True)
    status = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pipelines.cli", *command], cwd=ROOT, check=False
    ).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
