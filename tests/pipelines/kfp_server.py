"""A stand-in for the Kubeflow Pipelines service: an HTTP server that speaks the calls which kfp.Client 2.17 makes.

It was made from the v2beta1 API and from what the client sends, and it is not the service: no live cluster was used.
It keeps experiments, pipelines, versions, runs and recurring runs, and nothing ever runs. Like the service it parses
what is uploaded as pipeline and platform specs, takes no two pipelines or versions of one name, wants known ids, the
pipeline's parameters, and one to ten runs at a time. It is stricter in one thing: of cron expressions the service takes
those of five fields too, and misreads them. It can be told to refuse, to fail, to be silent, and to show a login page.
"""

from __future__ import annotations

import email
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

PAGE_SIZE = 2
"""At most; the service's is 200. So small that tests meet a second page."""


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass
class KfpServer:
    """The service's state, what it was asked, and how it is to misbehave."""

    url: str = ""
    experiments: dict[str, dict] = field(default_factory=dict)
    pipelines: dict[str, dict] = field(default_factory=dict)
    versions: dict[str, dict] = field(default_factory=dict)
    runs: dict[str, dict] = field(default_factory=dict)
    recurring_runs: dict[str, dict] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""
    token: str = ""
    """If set, the one that is let in."""
    multi_user: bool = False
    status: int = 0
    """If set, the error of every answer; `status_of` has errors of single calls, such as ``POST /runs``."""
    status_of: dict[str, int] = field(default_factory=dict)
    login_page: bool = False
    silent: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def changes(self) -> list[tuple[str, str]]:
        """The requests that were to change something."""
        return [(method, path) for method, path in self.asked if method != "GET"]

    def answer(self, method: str, path: str, query: dict[str, str], body, headers) -> dict:
        """What a call gives. Raises Refused."""
        self.asked.append((method, path))
        if status := self.status or self.status_of.get(f"{method} {path}"):
            raise Refused(status, f"told to answer {status}")
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            raise Refused(401, "Request header error: there is no user identity header")
        for pattern, call in _CALLS[method]:
            if found := re.fullmatch(pattern, path):
                return call(self, *found.groups(), **({"body": body} if method == "POST" else {}), query=query)
        raise Refused(404, "Not Found")

    def healthz(self, query) -> dict:
        return {"multi_user": self.multi_user}

    def create_experiment(self, query, body) -> dict:
        self._in_namespace(body.get("namespace"))
        return _add(
            self.experiments,
            "experiment_id",
            body | {"storage_state": "AVAILABLE"},
            unique=("display_name", "namespace"),
        )

    def list_experiments(self, query) -> dict:
        self._in_namespace(query.get("namespace"))
        return _page("experiments", self.experiments, query)

    def create_pipeline(self, query, body) -> dict:
        self._in_namespace(body.get("namespace"))
        if not body.get("display_name"):
            raise Refused(400, "pipeline's name cannot be empty")
        return _add(self.pipelines, "pipeline_id", body, unique=("display_name", "namespace"))

    def list_pipelines(self, query) -> dict:
        return _page("pipelines", self.pipelines, query)

    def upload_version(self, query, body) -> dict:
        pipeline = _get(self.pipelines, query["pipelineid"])
        content = {
            "pipeline_id": pipeline["pipeline_id"],
            "display_name": query["name"],
            "package": body,
            "pipeline_spec": parse_package(body),
            "description": query.get("description", ""),
        }
        return _add(self.versions, "pipeline_version_id", content, unique=("display_name", "pipeline_id"))

    def list_versions(self, pipeline_id, query) -> dict:
        _get(self.pipelines, pipeline_id)
        within = {id: version for id, version in self.versions.items() if version["pipeline_id"] == pipeline_id}
        return _page("pipeline_versions", within, query)

    def create_run(self, query, body) -> dict:
        return _add(self.runs, "run_id", self._checked(body) | {"state": "PENDING"})

    def create_recurring_run(self, query, body) -> dict:
        cron = body["trigger"]["cron_schedule"]["cron"]
        if len(cron.split()) != 6:
            raise Refused(400, f"Schedule cron is not a supported format. Error: found {len(cron.split())}: {cron}")
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise Refused(400, "The max concurrency of the recurring run is out of range. Support 1-10")
        made = self._checked(body) | {
            "max_concurrency": str(body["max_concurrency"]),
            "status": {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[body["mode"]],
        }
        return _add(self.recurring_runs, "recurring_run_id", made)

    def list_recurring_runs(self, query) -> dict:
        self._in_namespace(query.get("namespace"))
        return _page("recurringRuns", self.recurring_runs, query)

    def switch_recurring_run(self, id, verb, query, body) -> dict:
        _get(self.recurring_runs, id)["status"] = f"{verb.upper()}D"
        return {}

    def delete_recurring_run(self, id, query) -> dict:
        _get(self.recurring_runs, id)
        del self.recurring_runs[id]
        return {}

    def _checked(self, body: dict) -> dict:
        """A run or recurring run of an uploaded version, as the service checks it."""
        _get(self.experiments, body["experiment_id"])
        reference = body["pipeline_version_reference"]
        version = _get(self.versions, reference["pipeline_version_id"])
        if version["pipeline_id"] != reference["pipeline_id"]:
            raise Refused(400, "the version is not of this pipeline")
        given = body["runtime_config"].get("parameters", {})
        takes = version["pipeline_spec"].root.input_definitions.parameters
        for name, parameter in takes.items():
            if name not in given and not parameter.is_optional and not parameter.HasField("default_value"):
                raise Refused(
                    400, f"parameter {name} is not optional, yet has neither default value nor user provided value"
                )
        kinds = {
            1: "number_value",
            2: "number_value",
            3: "string_value",
            4: "bool_value",
            5: "list_value",
            6: "struct_value",
        }
        for name, value in given.items():
            if name not in takes:
                raise Refused(400, f"parameter {name} is not in the pipeline's input definitions")
            if json_format.ParseDict(value, Value()).WhichOneof("kind") != kinds[takes[name].parameter_type]:
                raise Refused(400, f"input parameter {name} is of another type")
        return body

    def _in_namespace(self, namespace: str | None) -> None:
        if self.multi_user and not namespace:
            raise Refused(400, "Invalid input error: a namespace is required in multi-user mode")


def parse_package(content: bytes) -> PipelineSpec:
    """The pipeline spec of a package, if all of it is in order."""
    documents = [document for document in yaml.safe_load_all(content) if document]
    try:
        spec = json_format.ParseDict(documents[0], PipelineSpec())
        platforms = [json_format.ParseDict(document, PlatformSpec()) for document in documents[1:]]
        executors = spec.deployment_spec["executors"]
        for platform in platforms:
            for name, config in platform.platforms["kubernetes"].deployment_spec.executors.items():
                json_format.ParseDict(json_format.MessageToDict(config), KubernetesExecutorConfig())
                if name not in executors:
                    raise Refused(400, f"no executor {name}")
    except (json_format.ParseError, IndexError, ValueError) as error:
        raise Refused(400, f"invalid v2 pipeline spec: {error}") from error
    if spec.schema_version != "2.1.0" or not re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", spec.pipeline_info.name):
        raise Refused(400, "invalid v2 pipeline spec: version or name")
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            if task.component_ref.name not in spec.components:
                raise Refused(400, f"no component {task.component_ref.name}")
        if component.executor_label and component.executor_label not in executors:
            raise Refused(400, f"no executor {component.executor_label}")
    return spec


def _get(things: dict[str, dict], id: str) -> dict:
    if id not in things:
        raise Refused(404, f"ResourceNotFoundError: {id} not found")
    return things[id]


def _add(things: dict[str, dict], id_field: str, thing: dict, unique: tuple[str, ...] = ()) -> dict:
    if unique and any(all(thing.get(name) == other.get(name) for name in unique) for other in things.values()):
        raise Refused(409, f"Already exist error: {thing['display_name']} already exists")
    thing = thing | {id_field: str(uuid.uuid4()), "created_at": "2026-01-01T00:00:00Z"}
    things[thing[id_field]] = thing
    return thing


def _page(field_name: str, things: dict[str, dict], query: dict[str, str]) -> dict:
    """One page of those that the filter and the namespace leave; the token is where the next one begins."""
    wanted = list(things.values())
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        if predicate["operation"] not in (1, "EQUALS"):
            raise Refused(400, f"no operation {predicate['operation']} here")
        wanted = [thing for thing in wanted if thing[predicate["key"]] == predicate["stringValue"]]
    if namespace := query.get("namespace"):
        wanted = [thing for thing in wanted if thing.get("namespace", namespace) == namespace]
    begin = int(query.get("page_token") or 0)
    end = begin + min(int(query.get("page_size") or PAGE_SIZE), PAGE_SIZE)
    page = {field_name: wanted[begin:end], "total_size": len(wanted)}
    return page | ({"next_page_token": str(end)} if end < len(wanted) else {})


_CALLS = {
    "GET": [
        ("/healthz", KfpServer.healthz),
        ("/experiments", KfpServer.list_experiments),
        ("/experiments/([^/]+)", lambda server, id, query: _get(server.experiments, id)),
        ("/pipelines", KfpServer.list_pipelines),
        ("/pipelines/([^/]+)/versions", KfpServer.list_versions),
        ("/pipelines/[^/]+/versions/([^/]+)", lambda server, id, query: _get(server.versions, id)),
        ("/runs/([^/]+)", lambda server, id, query: _get(server.runs, id)),
        ("/recurringruns", KfpServer.list_recurring_runs),
        ("/recurringruns/([^/]+)", lambda server, id, query: _get(server.recurring_runs, id)),
    ],
    "POST": [
        ("/experiments", KfpServer.create_experiment),
        ("/pipelines", KfpServer.create_pipeline),
        ("/pipelines/upload_version", KfpServer.upload_version),
        ("/runs", KfpServer.create_run),
        ("/recurringruns", KfpServer.create_recurring_run),
        ("/recurringruns/([^/:]+):(enable|disable)", KfpServer.switch_recurring_run),
    ],
    "DELETE": [("/recurringruns/([^/:]+)", KfpServer.delete_recurring_run)],
}


def _handler(server: KfpServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            while server.silent.is_set():
                time.sleep(0.05)
            if server.login_page:
                return self.send(200, "text/html", b"<html>Log in</html>")
            try:
                with server.lock:
                    answer = server.answer(
                        self.command, url.path.removeprefix("/apis/v2beta1"), query, self.parsed(body), self.headers
                    )
                status = 200
            except Refused as error:
                status = error.status
                upload = "/upload" in url.path  # the one call that is not translated from gRPC
                answer = {"error_message": str(error)} if upload else {"error": str(error), "message": str(error)}
            shown = {name: value for name, value in answer.items() if name not in ("package", "pipeline_spec")}
            self.send(status, "application/json", json.dumps(shown, default=_shown).encode())

        do_GET = do_POST = do_DELETE = do

        def parsed(self, body: bytes):
            kind = self.headers.get("Content-Type", "")
            if not kind.startswith("multipart/"):
                return json.loads(body or b"null")
            message = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
            [part] = message.get_payload()
            if part.get_param("name", header="Content-Disposition") != "uploadfile":
                raise Refused(400, "Failed to read pipeline from file")
            return part.get_payload(decode=True)

        def send(self, status: int, kind: str, content: bytes) -> None:
            with suppress(ConnectionError):  # of clients that have given up
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_) -> None:
            pass

    return Handler


def _shown(value):
    return json_format.MessageToDict(value) if isinstance(value, PipelineSpec) else value.decode()


@contextmanager
def serve() -> Iterator[KfpServer]:
    """A server at ``server.url``, on a port of its own, until the block ends."""
    server = KfpServer()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as http:
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.silent.clear()
            http.shutdown()
            thread.join()
