"""Memory of a CPU in bfloat16, where a kernel is kept for each shape of a product: of shapes there are very many."""

import os
import subprocess
import sys

from unmask.models.memory import KERNEL_CACHES

MOST_MIB = 200  # with bounded caches 50 were seen, with those of 1024 kernels 660

# Products of as many lengths as the caches hold by default. Prints by how many MiB the memory has grown.
PROGRAM = """
import psutil, torch
from unmask.models.loading import load_model

load_model("llada-nano", device="cpu", dtype="bfloat16")
torch.set_num_threads(1)
weight = torch.zeros(192, 192, dtype=torch.bfloat16)
memory = psutil.Process().memory_info
before = memory().rss
for length in range(1, 1000):
    torch.nn.functional.linear(torch.zeros(length, 192, dtype=torch.bfloat16), weight)
print((memory().rss - before) >> 20)
"""


def test_kernels_of_shapes_that_are_gone_are_let_go() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in KERNEL_CACHES}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) < MOST_MIB
