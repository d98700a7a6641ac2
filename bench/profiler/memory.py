"""The most memory that this process has had."""

import re
import resource
from pathlib import Path

import torch


def peak() -> dict[str, int]:
    """Bytes: resident, and on a GPU allocated and reserved by torch."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage's number starts at that of the process that started this one
        resident = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    else:
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if not torch.cuda.is_available():
        return {"resident": resident}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"resident": resident, "allocated": allocated, "reserved": reserved}
