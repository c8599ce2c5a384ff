"""Ray Serve with replicas of the embedded model, as `serve run` starts it: streams, leavers, a killed replica."""

import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.live import PATIENCE, named_events, wait_for
from tests.process import answers, free_port
from tests.sizes import ROOT
from tests.test_docker import DOCKER, VARIABLES
from tests.test_split import followers
from unmask import LLM

REPLICAS = 2
CLIENTS = 6
START = 5  # times PATIENCE: Ray and three replicas import torch on what may be two cores
QUESTION = {
    "messages": [{"role": "user", "content": "Tom has 1 pears. Tom gets 8 more. How many pears does Tom have?"}]
}
LONG = {"prompt": "Tom", "max_tokens": 200, "block_length": 200, "stream": True}
CANCELLED = re.compile(r'_total\{[^}]*"(cancelled|abort)"[^}]*\} [1-9]')
CONFIG = DOCKER / "ray.yaml"
SPLIT = {"UNMASK_TENSOR_PARALLEL": "2", "UNMASK_DTYPE": "float32"}
ATTEMPTS = 2  # Ray gives its own proxy one minute to start, which may be too short while other tests start
END = 60  # seconds until what Ray leaves behind is killed

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Cluster:
    """Ray Serve, and the process that has started it."""

    url: str
    process: psutil.Process

    def replicas(self, application: str = "unmask") -> list[psutil.Process]:
        name = f"ServeReplica:{application}:"
        return [each for each in self.process.children(recursive=True) if name in title(each)]


@dataclass(frozen=True)
class Outcome:
    """What came of one request: its text, or None if it failed."""

    began: float
    ended: float
    text: str | None


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def application(config: dict[str, Any]) -> dict[str, Any]:
    (only,) = config["applications"]
    return dict(only)


def deployment(config: dict[str, Any]) -> dict[str, Any]:
    (only,) = application(config)["deployments"]
    return dict(only)


def local_config(port: int) -> dict[str, Any]:
    """The shipped configuration, with the embedded model on the CPU and always two replicas.

    At /split is a second application: one replica over two ranks.
    """
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    application(config)["runtime_env"]["env_vars"] |= {"UNMASK_MODEL": "llada-nano", "UNMASK_DEVICE": "cpu"}
    deployment(config)["autoscaling_config"]["min_replicas"] = REPLICAS
    deployment(config)["ray_actor_options"] |= {"num_gpus": 0, "num_cpus": 0.1}
    split = copy.deepcopy(config)
    application(split)["runtime_env"]["env_vars"] |= SPLIT
    deployment(split)["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    config["applications"].append({**application(split), "name": "split", "route_prefix": "/split"})
    return config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder, port = tmp_path_factory.mktemp("ray"), free_port()
    url = f"http://127.0.0.1:{port}"
    (folder / "ray.yaml").write_text(yaml.safe_dump(local_config(port)))
    both = (url, f"{url}/split")
    for _ in range(ATTEMPTS):
        with started(folder / "ray.yaml", folder / "log") as process:
            wait_for(lambda: all(map(answers, both)) or process.poll() is not None, START * PATIENCE)
            if process.poll() is None:
                yield Cluster(url, psutil.Process(process.pid))
                return
    pytest.fail((folder / "log").read_text())


@contextmanager
def started(config: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`serve run`; afterwards every process is gone that came from it."""
    command = [str(Path(sys.executable).parent / "serve"), "run", "--address", "local"]
    command += ["--working-dir", str(DOCKER), str(config)]
    temporary = tempfile.mkdtemp(prefix="ray")  # short: the paths of Ray's sockets have few characters to spare
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_TMPDIR": temporary, "RAY_USAGE_STATS_ENABLED": "0"}
    ours["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = str(PATIENCE)  # by itself Ray gives up after 15 seconds in all
    with (
        log.open("w") as out,
        subprocess.Popen(command, env={**os.environ, **ours}, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield process
        finally:
            descendants = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()  # SIGINT is ignored by what a shell has started in the background
            _, alive = psutil.wait_procs(descendants, timeout=END)
            process.kill()
            for each in alive:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            shutil.rmtree(temporary, ignore_errors=True)


def ask(url: str, stream: bool) -> Outcome:
    """One request. It may fail, but not hang."""
    began, text = time.monotonic(), None
    try:
        with httpx.stream("POST", f"{url}/generate", json={**QUESTION, "stream": stream}, timeout=PATIENCE) as response:
            if stream and response.is_success:
                text = dict(named_events(response)).get("done", {}).get("text")
            elif not stream:
                response.read()
                text = response.json()["text"] if response.is_success else None
    except httpx.TimeoutException:
        raise
    except httpx.TransportError:
        pass
    return Outcome(began, time.monotonic(), text)


def test_settings_of_replicas_are_those_of_the_server() -> None:
    variables = set(application(yaml.safe_load(CONFIG.read_text()))["runtime_env"]["env_vars"])
    assert "UNMASK_MODEL" in variables
    assert variables <= VARIABLES


def test_replica_has_the_next_batch_at_hand() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    rows = int(application(config)["runtime_env"]["env_vars"]["UNMASK_MAX_ROWS"])
    assert deployment(config)["autoscaling_config"]["target_ongoing_requests"] == rows
    assert deployment(config)["max_ongoing_requests"] == 2 * rows


def test_every_event_comes(cluster: Cluster) -> None:
    with httpx.stream("POST", f"{cluster.url}/generate", json=LONG, timeout=PATIENCE) as response:
        events = list(named_events(response))
    steps = [data for name, data in events if name == "step"]
    last, done = events[-1]
    assert last == "done"
    assert len(steps) == done["diffusion"]["steps"]


def test_client_that_leaves_frees_its_row(cluster: Cluster) -> None:
    """So events come as they are made: it has left when all have been."""
    with httpx.stream("POST", f"{cluster.url}/generate", json=LONG, timeout=PATIENCE) as response:
        events = named_events(response)
        assert "step" in (name for name, _ in events)
    metrics = f"{cluster.url}/metrics"  # of whichever replica answers
    wait_for(lambda: CANCELLED.search(httpx.get(metrics, timeout=PATIENCE).text) is not None)


def test_service_goes_on_when_a_replica_is_killed(cluster: Cluster) -> None:
    right = ask(cluster.url, stream=False).text
    assert right is not None
    enough, outcomes = threading.Event(), list[Outcome]()

    def client(number: int) -> None:
        while not enough.is_set():
            outcomes.append(ask(cluster.url, stream=number % 2 == 0))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            wait_for(lambda: len(cluster.replicas()) == REPLICAS)
            time.sleep(2)
            before = cluster.replicas()
            killed = time.monotonic()
            before[0].kill()
            wait_for(lambda: before[0] not in (replicas := cluster.replicas()) and len(replicas) == REPLICAS)
            (replacement,) = set(cluster.replicas()) - set(before)
            replacement.suspend()  # so that the other one is alone for as long as is looked
            alone = time.monotonic()
            wait_for(lambda: any(alone < outcome.began and outcome.text == right for outcome in [*outcomes]))
            replaced = time.monotonic()
            replacement.resume()
        finally:
            enough.set()
        for each in clients:
            each.result()

    failed = [outcome for outcome in outcomes if outcome.text is None]
    assert {outcome.text for outcome in outcomes} <= {right, None}
    assert len(failed) <= CLIENTS
    assert all(killed < outcome.ended and outcome.began < replaced for outcome in failed)
    assert [o for o in outcomes if killed < o.began and o.ended < replaced and o.text == right]


def test_a_replica_over_two_ranks_answers_and_leaves_no_rank(cluster: Cluster) -> None:
    """The last test, as Ray starts such a replica anew."""
    url = f"{cluster.url}/split"
    (right,) = LLM(device="cpu", dtype="float32").chat(QUESTION["messages"], progress=False)
    assert ask(url, stream=False).text == ask(url, stream=True).text == right.text
    (replica,) = cluster.replicas("split")
    (other,) = followers(replica.pid)
    replica.kill()
    wait_for(lambda: not other.is_running() or other.status() == psutil.STATUS_ZOMBIE)
