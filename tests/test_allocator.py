"""Memory that is freed is kept for the next layer."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from resnet_core.allocator import keep_freed_memory
if sys.argv[1:] == ["keep"]:
    keep_freed_memory()
def use():
    np.empty(64 << 20, np.uint8).fill(1)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_a_large_block_is_not_mapped_again() -> None:
    environment = {"MALLOC_ARENA_MAX": "2"}
    found = [
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, *words],
                env=variables,
                capture_output=True,
                check=True,
            ).stdout
        )
        for words, variables in (([], {}), (["keep"], {}), (["keep"], environment))
    ]
    usual, kept, left_alone = found
    assert kept < 10 < min(usual, left_alone), "the user's own settings stay"
