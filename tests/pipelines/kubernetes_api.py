"""A stand-in for a Kubernetes cluster: it takes pods over HTTP and runs each one's command here, in no container.

What is asked of it is what Airflow's pod operator asks. It knows nothing of images, nodes and quotas: a pod gets its
environment, its secrets and nothing else, and ends as its command does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "pruning"


class Cluster:
    """Pods by name, as their clients see them; those that were deleted too."""

    def __init__(self, secrets: Mapping[str, Mapping[str, str]]):
        self.secrets, self.pods, self.logs, self.deleted = secrets, {}, {}, []

    def create(self, pod: dict) -> dict:
        """Run a pod to its end."""
        [container], name = pod["spec"]["containers"], pod["metadata"]["name"]
        python, *command = container["command"] + container["args"]
        assert python == "python"
        done = subprocess.run(
            [sys.executable, *command],
            env=self.environment(container),
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        now = datetime.now(UTC).isoformat()
        state = {
            "terminated": {
                "exitCode": done.returncode,
                "finishedAt": now,
                "reason": "Error" if done.returncode else "Completed",
            }
        }
        pod["metadata"] |= {"uid": name, "namespace": NAMESPACE, "creationTimestamp": now}
        pod["status"] = {
            "phase": "Failed" if done.returncode else "Succeeded",
            "conditions": [{"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }
        self.pods[name], self.logs[name] = (pod, "".join(f"{now} {line}\n" for line in done.stdout.splitlines()))
        return pod

    def environment(self, container: dict) -> dict[str, str]:
        """Of a container: what its spec says, with the secrets it names."""
        values = {}
        for variable in container["env"]:
            if source := variable.get("valueFrom"):
                reference = source["secretKeyRef"]
                values[variable["name"]] = self.secrets[reference["name"]][reference["key"]]
            else:
                values[variable["name"]] = variable.get("value", "")
        return values


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def do_GET(self):
        url = urlsplit(self.path)
        if name := re.fullmatch(rf"/api/v1/namespaces/{NAMESPACE}/pods/([\w.-]+)(/log)?", url.path):
            if name[1] not in self.cluster.pods:
                self.answer({"kind": "Status", "code": 404}, 404)
            elif name[2]:
                self.answer(self.cluster.logs[name[1]])
            else:
                self.answer(self.cluster.pods[name[1]])
        elif url.path == f"/api/v1/namespaces/{NAMESPACE}/pods":
            wanted = dict(
                pair.split("=", 1)
                for pair in parse_qs(url.query)["labelSelector"][0].split(",")
                if re.fullmatch(r"[\w./-]+=[\w.-]*", pair)
            )
            self.answer(
                {
                    "kind": "PodList",
                    "items": [
                        pod for pod in self.cluster.pods.values() if wanted.items() <= pod["metadata"]["labels"].items()
                    ],
                }
            )
        else:
            self.answer({"kind": "EventList", "items": []})

    def do_POST(self):
        self.answer(self.cluster.create(self.body()), 201)

    def do_PATCH(self):
        pod = self.cluster.pods[self.path.rsplit("/", 1)[1]]
        pod["metadata"]["labels"] |= self.body()["metadata"].get("labels", {})
        self.answer(pod)

    def do_DELETE(self):
        name = urlsplit(self.path).path.rsplit("/", 1)[1]
        self.cluster.deleted.append(self.cluster.pods.pop(name))
        self.answer({"kind": "Status", "status": "Success"})

    def body(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, content: dict | str, status: int = 200) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def cluster(kubeconfig: Path, secrets: Mapping[str, Mapping[str, str]]) -> Iterator[Cluster]:
    """A running stand-in, and the kubeconfig of its client."""
    handler = type("Handler", (_Handler,), {"cluster": Cluster(secrets)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "tester", "user": {}}],
                "contexts": [
                    {"name": "here", "context": {"cluster": "here", "user": "tester", "namespace": NAMESPACE}}
                ],
            }
        )
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler.cluster
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
