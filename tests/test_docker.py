"""The compose file: what it mounts, what it opens, and that Docker's client understands it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker/compose.yaml"


@pytest.fixture
def services() -> dict:
    return YAML(typ="safe", pure=True).load(FILE.read_text("utf-8"))["services"]


def test_every_port_is_bound_to_this_machine_only(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_data_is_mounted_for_reading_only(services):
    for service in services.values():
        (data,) = [v for v in service["volumes"] if v.startswith("${DATA_DIR:-../data}")]
        assert data.endswith(":ro")


def test_the_parameter_file_is_a_knob_with_the_default_file_behind_it(services):
    (mount,) = [v for v in services["workbench"]["volumes"] if "CONFIG_FILE" in v]
    default, inside, _ = mount.removeprefix("${CONFIG_FILE:-").replace("}", "").split(":")
    assert (FILE.parent / default).resolve() == ROOT / "parameters/default.yaml"
    assert services["workbench"]["command"][-1] == Path(inside).name


def test_without_a_profile_only_the_batch_service_starts(services):
    assert [name for name, service in services.items() if "profiles" not in service] == [
        "workbench"
    ]


def test_the_gpu_image_takes_a_lock_that_exists(services):
    assert (ROOT / services["gpu"]["build"]["args"]["LOCK"]).exists()


def test_what_the_image_copies_is_there():
    lines = (ROOT / "docker/Dockerfile").read_text("utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
def test_the_client_of_docker_reads_the_file():
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("no docker compose here")
    command = [docker, "compose", "-f", str(FILE), "--profile", "*", "config", "--quiet"]
    subprocess.run(command, check=True)
