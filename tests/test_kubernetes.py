"""The Kubernetes manifests: valid by Kubernetes' own schemas, and of one mind with the image and the server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.live import Live, live
from tests.synthetic import synthetic_llada
from tests.test_docker import DOCKER, of_image
from unmask.arguments import parse_settings
from unmask.server.settings import ServeSettings

Manifest = dict[str, Any]

FOLDER = DOCKER / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
VERSIONS = ("1.29", kubernetes_validate.latest_version())


def manifest(kind: str) -> Manifest:
    """The one manifest of a kind."""
    (found,) = (each for file in FILES for each in documents(file) if each["kind"] == kind)
    return found


def documents(file: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(file.read_text()))


def pod() -> Manifest:
    template: Manifest = manifest("Deployment")["spec"]["template"]
    return template


def container() -> Manifest:
    (only,) = pod()["spec"]["containers"]
    return dict(only)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("kubernetes") / "tiny")) as server:
        yield server


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_manifest_is_valid(file: Path, version: str) -> None:
    for each in documents(file):
        kubernetes_validate.validate(each, version, strict=True)


def test_arguments_are_those_of_the_server() -> None:
    settings = parse_settings(ServeSettings, "unmask serve", container()["args"])
    assert settings.model == "GSAI-ML/LLaDA-8B-Instruct"


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probe_asks_what_the_server_answers(probe: str, tiny: Live) -> None:
    asked = container()[probe]["httpGet"]
    assert asked["port"] == "http"
    assert tiny.http.get(asked["path"]).status_code == 200
    assert asked["path"] == ("/health" if probe == "livenessProbe" else "/ready")


def test_ports_lead_to_the_server() -> None:
    assert container()["ports"] == [{"name": "http", "containerPort": int(of_image("EXPOSE"))}]
    (port,) = manifest("Service")["spec"]["ports"]
    assert port["targetPort"] == "http"


def test_service_leads_to_the_pods() -> None:
    labels = pod()["metadata"]["labels"]
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels


def test_grace_period_is_long_enough_to_drain() -> None:
    """Kubernetes counts it from before preStop."""
    command, wait = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    settings = parse_settings(ServeSettings, "unmask serve", container()["args"])
    assert pod()["spec"]["terminationGracePeriodSeconds"] > int(wait) + settings.shutdown_seconds


def test_service_of_our_name_sets_no_variable_of_ours() -> None:
    """Kubernetes would set UNMASK_PORT for a service called unmask."""
    assert pod()["spec"]["enableServiceLinks"] is False


def test_pod_runs_as_the_image_does() -> None:
    context = pod()["spec"]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == of_image("USER")


def test_cache_is_on_the_claimed_volume() -> None:
    (mount,) = container()["volumeMounts"]
    (volume,) = pod()["spec"]["volumes"]
    assert mount == {"name": volume["name"], "mountPath": of_image("VOLUME")}
    assert volume["persistentVolumeClaim"]["claimName"] == manifest("PersistentVolumeClaim")["metadata"]["name"]


def test_pod_gets_a_gpu() -> None:
    assert container()["resources"]["limits"] == {"nvidia.com/gpu": 1}
