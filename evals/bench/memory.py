"""The most memory that was held since the last reset."""

import resource
import sys
from pathlib import Path

import torch

RESIDENT = "5"  # resets the peak of the resident set: proc(5), /proc/pid/clear_refs


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far. Where the system cannot, the peak on a CPU counts from the start of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (clear := Path("/proc/self/clear_refs")).exists():
        clear.write_text(RESIDENT)


def peak_bytes(device: torch.device) -> int:
    """On CUDA what torch has allocated there; on a CPU the resident set of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
