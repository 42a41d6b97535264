"""What ``set_up_cpu`` does to the process: threads, and memory that is kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from seqkit.training.device import set_up_cpu

assert set_up_cpu(1) == torch.get_num_threads() == 1

def work():
    for _ in range(20):
        torch.ones(4_000_000).sum()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

work()
before = faults()
work()
print(faults() - before)
"""
PAGES = 16_000_000 // 4096


def page_faults(**env: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env={**kept, **env})
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_freed_memory_is_kept_unless_the_user_says_otherwise() -> None:
    assert page_faults() < PAGES
    # Twenty arrays of new pages each.
    assert page_faults(MALLOC_MMAP_THRESHOLD_="131072") > 10 * PAGES
