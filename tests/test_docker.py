"""What of the container can be checked without an engine: its files exist, and mean what the server means."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
import yaml

from tests.live import PATIENCE, Live, live
from tests.process import free_port
from tests.sizes import ROOMS, ROOT
from tests.synthetic import synthetic_llada
from unmask.cli import COMMANDS
from unmask.server.settings import ServeSettings
from unmask.settings import ENV_PREFIX

DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
VARIABLES = {f"{ENV_PREFIX}{name.upper()}" for name in ServeSettings.model_fields}
SHUTDOWN_SECONDS = ServeSettings.model_fields["shutdown_seconds"].default

Instructions = list[tuple[str, str]]


def parse_dockerfile(text: str) -> Instructions:
    """(instruction, the rest of it) in order; continued lines are joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


INSTRUCTIONS = parse_dockerfile((DOCKER / "Dockerfile").read_text())
LAST = max(index for index, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM")


def of_image(name: str) -> str:
    """The one instruction of a kind in the last stage, of which the image is made."""
    (rest,) = (rest for instruction, rest in INSTRUCTIONS[LAST:] if instruction == name)
    return rest


def image_variables() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(of_image("ENV")))


def health_check() -> list[str]:
    """The command of the image's health check, with this Python."""
    command: list[str] = json.loads(re.search(r"\[.*\]", of_image("HEALTHCHECK"))[0])  # type: ignore[index]
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


def in_context() -> set[str]:
    """What .dockerignore lets through: it ignores all and then names what not to ignore."""
    first, *lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text)[1])  # type: ignore[index]


def own_variables(environment: list[str]) -> set[str]:
    names = {entry.partition("=")[0] for entry in environment}
    return {name for name in names if name.startswith(ENV_PREFIX)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("docker") / "tiny")) as server:
        yield server


def test_dockerfile_copies_what_the_context_has() -> None:
    copied = [rest.split()[:-1] for name, rest in INSTRUCTIONS if name == "COPY" and "--from" not in rest]
    sources = {source for sources in copied for source in sources} - {"."}
    assert sources
    assert sources <= in_context()


def test_context_is_what_the_package_is_made_of() -> None:
    assert all((ROOT / path).exists() for path in in_context())
    package = {*ROOMS, "src", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    assert package == {path for path in in_context() if not path.startswith(("docker/", "constraints"))}


def test_image_requires_what_the_package_requires() -> None:
    command = [sys.executable, "docker/requirements.py", "plot"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["plot"]]


def test_image_runs_the_server_itself() -> None:
    """In the exec form, so that no shell stands between a signal and Python."""
    program, command = json.loads(of_image("ENTRYPOINT"))
    assert program in PROJECT["scripts"]
    assert command in COMMANDS
    assert json.loads(of_image("CMD")) == []
    assert of_image("STOPSIGNAL") == "SIGTERM"


def test_image_runs_as_nobody_in_particular() -> None:
    user, group = of_image("USER").split(":")
    assert int(user) > 0
    assert group == "0"


def test_image_listens_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {name: value for name, value in image_variables().items() if name.startswith(ENV_PREFIX)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = ServeSettings()
    assert (settings.host, str(settings.port)) == ("0.0.0.0", of_image("EXPOSE"))
    assert settings.model == "llada-nano"


def test_caches_of_the_image_are_on_its_volume() -> None:
    caches = {name: value for name, value in image_variables().items() if name.endswith(("_CACHE_DIR", "HF_HOME"))}
    assert len(caches) == 3
    assert all(value.startswith(of_image("VOLUME")) for value in caches.values())


@pytest.mark.parametrize("serving", [True, False])
def test_health_check_of_the_image_asks_the_server(serving: bool, tiny: Live) -> None:
    port = tiny.http.base_url.port if serving else free_port()
    environment = {**os.environ, "UNMASK_PORT": str(port)}
    done = subprocess.run(health_check(), check=False, env=environment, timeout=PATIENCE, stderr=subprocess.DEVNULL)
    assert (done.returncode == 0) is serving


def test_compose_builds_the_image() -> None:
    arguments = {rest.partition("=")[0] for name, rest in INSTRUCTIONS if name == "ARG"}
    for service in COMPOSE["services"].values():
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).samefile(DOCKER / "Dockerfile")
        assert set(build.get("args", {})) <= arguments


def test_compose_serves_as_the_image_does() -> None:
    volumes = {f"{name}:{of_image('VOLUME')}" for name in COMPOSE["volumes"]}
    for service in COMPOSE["services"].values():
        assert [port.rpartition(":")[2] for port in service["ports"]] == [of_image("EXPOSE")]
        assert set(service["volumes"]) == volumes
        assert seconds(service["stop_grace_period"]) > SHUTDOWN_SECONDS
        assert own_variables(service["environment"]) <= VARIABLES


def test_compose_gives_the_gpu_to_the_one_that_wants_it() -> None:
    (device,) = COMPOSE["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in COMPOSE["services"]["cpu"]
