"""Train a policy, use it from Python, and serve it. `python examples/train_and_serve_policy.py [FOLDER]`.

The budget is tiny, to show the way: two batches teach nothing. docs/policies.md says what a good policy takes.
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from unmask import LLM

UNMASK = [sys.executable, "-m", "unmask"]
MESSAGES = [
    {"role": "user", "content": "Ann has 5 coins. Ann finds 7 more. Ann loses 3. How many coins does Ann have?"}
]


def train(folder: Path) -> None:
    """One batch of supervised warm start, one of reinforcement learning; --problems 0 leaves out the card."""
    budget = {"imitation": 1, "batches": 1, "prompts": 2, "group": 2, "problems": 0}
    flags = [text for name, value in budget.items() for text in (f"--{name}", str(value))]
    subprocess.run([*UNMASK, "train-policy", "--out", str(folder), "--task", "word-problems", *flags], check=True)


def use(folder: Path) -> None:
    """The field `policy` takes a folder, or the name of a shipped policy."""
    llm = LLM()
    for policy in (str(folder), "any-speed"):
        (output,) = llm.chat(MESSAGES, policy=policy)
        print(f"policy {Path(policy).name}: {output.diffusion.forward_passes} forward passes, {output.text!r}")


def serve(folder: Path) -> None:
    """Requests may name only those folders that the server is started with."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([*UNMASK, "serve", "--port", str(port), "--allow-policy", str(folder)])
    try:
        while not is_ready(url):
            assert server.poll() is None, "the server has ended; its log says why"
            time.sleep(0.1)
        body = {"messages": MESSAGES, "policy": str(folder)}
        answer = httpx.post(f"{url}/generate", json=body, timeout=60).raise_for_status().json()
        print(f"served: {answer['diffusion']['forward_passes']} forward passes, {answer['text']!r}")
    finally:
        server.terminate()
        server.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


def main(folder: Path) -> None:
    train(folder)
    use(folder)
    serve(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
