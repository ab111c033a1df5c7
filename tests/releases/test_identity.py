"""Who acts is who the server says, whatever the surroundings of the client say."""

import base64
import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_releases import LENIENT, NAME

from fastprune.errors import InputError, Refused
from fastprune.releases import identity, promotion
from fastprune.tracking import mlflow_store


@contextmanager
def current_user(answer):
    """A server that has MLflow's call for the current user alone; ``answer`` maps a user to status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            told = self.headers.get("Authorization", "").removeprefix("Basic ")
            status, body = answer(base64.b64decode(told).decode().partition(":")[0])
            self.send_response(status if self.path == "/api/2.0/mlflow/users/current" else 500)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def basic_auth(user):
    if user not in ("ann", "bob"):
        return 401, "You are not authenticated."
    return 200, json.dumps({"user": {"id": 1, "username": user, "is_admin": False}, "is_basic_auth": True})


def test_the_surroundings_do_not_say_who_promotes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("LOGNAME", "USER", "MLFLOW_TRACKING_USER"):
        monkeypatch.setenv(name, "zoe")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with current_user(basic_auth) as uri:
        assert identity.actor(uri) == identity.Actor("bob", True)
        with pytest.raises(Refused, match="knows you as bob, not as ann"):
            promotion.promote(uri, NAME, "1", LENIENT, why="as somebody else", by="ann")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "eve")
        with pytest.raises(Refused, match="does not know you"):
            identity.actor(uri)
    # A server that authenticates nobody says nothing of the name that the requests carry.
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    for answer in ((404, "no such page"), (200, "<html>a page of a proxy</html>"), (200, "[]")):
        with current_user(lambda user, answer=answer: answer) as uri:
            assert identity.actor(uri) == identity.Actor("zoe", False)
            assert identity.actor(uri, by="cy") == identity.Actor("cy", False)


def test_credentials_in_mlflows_own_file_are_those_of_the_requests(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    (tmp_path / ".mlflow").mkdir()
    told = "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = secret\n"
    (tmp_path / ".mlflow" / "credentials").write_text(told)
    with current_user(basic_auth) as uri:
        assert identity.actor(uri) == identity.Actor("ann", True)


def test_a_user_without_a_name_acts_by_number(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert mlflow_store.user("sqlite:///mlflow.db") == f"uid {os.getuid()}"


def test_a_name_in_more_than_a_line_is_refused():
    with pytest.raises(InputError, match="who acts .--by.*cannot be printed"):
        identity.actor("sqlite:///mlflow.db", by="ann\n  9  forged")
