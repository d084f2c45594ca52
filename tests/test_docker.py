"""The compose file: what it mounts, what it opens, and that Docker's client understands it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
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


def mount(service: dict, target: str) -> dict:
    (found,) = [one for one in service["volumes"] if one["target"] == f"/workbench/{target}"]
    return found


def test_data_are_mounted_for_reading_only_and_must_be_there(services):
    for service in services.values():
        data = mount(service, "data")
        assert data["source"] == "${DATA_DIR:-../data}" and data["read_only"]
        assert data["bind"] == {"create_host_path": False}


def test_the_parameter_file_is_a_knob_with_the_default_file_behind_it(services):
    found = mount(services["cpu"], "run.yaml")
    default = found["source"].removeprefix("${CONFIG_FILE:-").rstrip("}")
    assert (FILE.parent / default).resolve() == ROOT / "parameters/default.yaml"
    assert found["bind"] == {"create_host_path": False}


def test_a_profile_starts_one_service_and_cpu_is_the_one_without(services):
    assert {name: service["profiles"] for name, service in services.items()} == {
        "cpu": ["cpu"], "gpu": ["gpu"], "lab": ["lab"],
    }  # fmt: skip
    assert (FILE.parent / ".env").read_text("ascii") == "COMPOSE_PROFILES=cpu\n"


def test_notebooks_that_are_edited_in_lab_are_kept(services):
    for name in ("notebooks", "parameters"):
        assert (FILE.parent / mount(services["lab"], name)["source"]).resolve() == ROOT / name


@pytest.fixture
def entered(tmp_path):
    """Run entrypoint.sh as root would, with programs that say how they were called."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "run.yaml").write_text("{}")
    says = {"id": "echo 0", "chown": 'echo chown "$@"', "setpriv": 'echo setpriv "$@"',
            "stat": 'case "$*" in *outputs) echo "$OUTPUTS_OF";; *%u*) echo 1007;; *) echo 1008;; '
                    "esac"}  # fmt: skip
    (tmp_path / "bin").mkdir()
    for name, line in says.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)

    def enter(*command: str, outputs_of: str = "1007", config: str = "/home/me/my birds.v2.yaml"):
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        environment = {"PATH": path, "CONFIG_FILE": config, "OUTPUTS_OF": outputs_of}
        script = [FILE.parent / "entrypoint.sh", *command]
        return subprocess.run(
            script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    return enter


def test_a_run_is_named_after_the_parameter_file_and_works_as_its_owner(entered):
    as_owner = "setpriv --reuid=1007 --regid=1008 --clear-groups"
    assert entered() == [f"{as_owner} python -m workbench run run.yaml --run my birds.v2"]
    assert entered("jupyter", "lab") == [f"{as_owner} jupyter lab"]


def test_an_output_folder_that_docker_made_is_given_to_the_owner(entered):
    assert entered(outputs_of="0")[0] == "chown 1007:1008 outputs"


def test_the_gpu_image_takes_a_lock_that_exists(services):
    assert (ROOT / services["gpu"]["build"]["args"]["LOCK"]).exists()


def test_what_the_image_copies_is_there():
    lines = (ROOT / "docker/Dockerfile").read_text("utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert "docker/entrypoint.sh" in copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
def test_the_client_of_docker_reads_the_file():
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("no docker compose here")
    for profile in ([], ["--profile", "gpu"], ["--profile", "lab"]):
        command = [docker, "compose", "-f", str(FILE), *profile, "config", "--services"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout.split() == [profile[-1] if profile else "cpu"]


@pytest.mark.slow
def test_a_linter_has_nothing_to_say_about_the_dockerfile():
    if not (hadolint := shutil.which("hadolint")):
        pytest.skip("no hadolint here")
    ours = ["--ignore", "DL3008"]  # versions of Debian's compiler: it leaves the image again
    subprocess.run([hadolint, *ours, FILE.parent / "Dockerfile"], check=True)


def test_the_image_holds_the_licence_that_the_zip_takes_along():
    text = (ROOT / "docker/Dockerfile").read_text()
    assert any(line.startswith("COPY ") and " LICENSE " in line for line in text.splitlines())


@pytest.fixture
def machine(tmp_path) -> Callable[..., tuple[list[str], dict]]:
    """Run docker/machine.sh with a Python that tells what it is given."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$TF_CONFIG" "$@"\n')
    python.chmod(0o755)

    def run(*words: str, **environment: str) -> tuple[list[str], dict]:
        command = ["sh", str(ROOT / "docker/machine.sh"), *words]
        given = os.environ | {"PYTHON": str(python)} | environment
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
        configuration, *rest = done.stdout.splitlines()
        return rest, json.loads(configuration)

    return run


def test_a_machine_knows_its_place_among_the_others(machine):
    words, found = machine("p/mine.yaml", "--to", "03", HOSTS="a b:7000", INDEX="1", PORT="6000")
    assert found["cluster"] == {"worker": ["a:6000", "b:7000"]}
    assert found["task"] == {"type": "worker", "index": 1}
    assert words[:6] == ["-m", "workbench", "run", "p/mine.yaml", "--run", "mine_1"]
    assert words[-4:] == ["--set", "multi_gpu.strategy=multi_worker", "--to", "03"]


def test_the_pods_are_as_many_as_the_hosts_that_they_are_told():
    service, job = YAML(typ="safe", pure=True).load_all((ROOT / "docker/machines.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    hosts = container["env"][0]["value"].split()
    names = [f"{job['metadata']['name']}-{number}.{service['metadata']['name']}"
             for number in range(job["spec"]["completions"])]  # fmt: skip
    assert hosts == names and job["spec"]["parallelism"] == len(names)
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert "docker/machine.sh" in container["command"][-1]
    assert "docker/machine.sh" in (ROOT / "docker/Dockerfile").read_text()


def test_slurm_starts_one_machine_a_node():
    text = (ROOT / "docker/machines.slurm").read_text()
    assert subprocess.run(["sh", "-n", str(ROOT / "docker/machines.slurm")]).returncode == 0
    assert "--ntasks-per-node=1" in text and "INDEX=$SLURM_PROCID exec sh docker/machine.sh" in text
