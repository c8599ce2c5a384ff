"""Ray Serve with one replica whose model is split over two processes."""

from pathlib import Path

import psutil
import pytest
import yaml

from tests.live import PATIENCE, wait_for
from tests.process import answers, free_port
from tests.test_ray import QUESTION, START, Cluster, application, ask, deployment, local_config, started
from tests.test_split import followers
from unmask import LLM

pytestmark = pytest.mark.ray
SPLIT = {"UNMASK_TENSOR_PARALLEL": "2", "UNMASK_DTYPE": "float32"}


def test_a_replica_over_two_ranks_answers(tmp_path: Path) -> None:
    port = free_port()
    url, config = f"http://127.0.0.1:{port}", local_config(port)
    application(config)["runtime_env"]["env_vars"] |= SPLIT
    deployment(config)["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    (tmp_path / "ray.yaml").write_text(yaml.safe_dump(config))
    with started(tmp_path / "ray.yaml", tmp_path / "log") as process:
        wait_for(lambda: answers(url) or process.poll() is not None, START * PATIENCE)
        assert process.poll() is None, (tmp_path / "log").read_text()
        (right,) = LLM(device="cpu", dtype="float32").chat(QUESTION["messages"], progress=False)
        assert ask(url, stream=False).text == ask(url, stream=True).text == right.text
        (replica,) = Cluster(url, psutil.Process(process.pid)).replicas()
        (other,) = followers(replica.pid)
        replica.kill()
        wait_for(lambda: not other.is_running() or other.status() == psutil.STATUS_ZOMBIE, PATIENCE)
