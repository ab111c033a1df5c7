"""Faults between a client and a real server: a proxy that makes them, and the table of what came of each.

A test marks itself ``faults``, sets a fault with :meth:`Proxy.harm`, and tells what came of it with :func:`told`.
``make test-faults`` runs these tests with the deadlines that users have (``LONG``); ``make test`` with short ones.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

LONG = os.environ.get("FASTPRUNE_FAULTS") == "long"
"""Whether the deadlines are those that users have."""

_OF_THE_CONNECTION = {"connection", "expect", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Answer:
    """What a server answers; the body is empty for HEAD, whatever its headers say."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Exchange(BaseHTTPRequestHandler):
    """One request of the client: a fault looks at ``command`` (GET, PUT ...) and ``path``, and does as it likes."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def setup(self) -> None:
        super().setup()
        self.proxy.connections.add(self.connection)

    def finish(self) -> None:
        self.proxy.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def forward(self) -> Answer:
        """What the real server answers to the request, which it gets as it is."""
        server = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OF_THE_CONNECTION:
                    server.putheader(name, value)
            if self.body or "Content-Length" in self.headers:
                server.putheader("Content-Length", str(len(self.body)))
            server.endheaders(self.body or None)
            answer = server.getresponse()
            kept = [pair for pair in answer.getheaders() if pair[0].lower() not in _OF_THE_CONNECTION]
            body = answer.read()
            length = (answer.getheader("Content-Length") or "0") if self.command == "HEAD" else str(len(body))
            if answer.status not in (204, 304):
                kept.append(("Content-Length", length))
            return Answer(answer.status, tuple(kept), body)
        finally:
            server.close()

    def send(self, answer: Answer, *, bytes_per_second: float = 0, slow_head: bool = False) -> None:
        """Answer the client; with a rate the body (and on demand the head) goes out byte by byte."""
        lines = [f"HTTP/1.1 {answer.status} {http.client.responses.get(answer.status, '')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        fast, slow = (b"", head + answer.body) if slow_head else (head, answer.body)
        if not bytes_per_second:
            fast, slow = fast + slow, b""
        self.wfile.write(fast)
        for number in range(len(slow)):
            self.wfile.write(slow[number : number + 1])
            if self.proxy.healed.wait(1 / bytes_per_second):
                raise ConnectionAbortedError
        self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def _serve(self) -> None:
        self.body = self._body()
        try:
            self.proxy.fault_of(self)(self)
        except OSError:  # the client has gone, or the proxy was stopped
            self.hang_up()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(pieces)

    def log_message(self, *_) -> None:
        pass


Fault = Callable[[Exchange], None]


def passed(exchange: Exchange) -> None:
    """No fault."""
    exchange.send(exchange.forward())


def status(code: int) -> Fault:
    """The server never hears of it; the answer is this status without a body."""
    return lambda exchange: exchange.send(Answer(code, (("Content-Length", "0"),)))


def silent(exchange: Exchange) -> None:
    """The request is taken and never answered."""
    exchange.proxy.healed.wait()
    exchange.hang_up()


def lost(exchange: Exchange) -> None:
    """The server does what it was asked for, and its answer is lost."""
    exchange.forward()
    exchange.hang_up()


def trickle(bytes_per_second: float = 10, *, head: bool = False) -> Fault:
    """The right answer, some bytes a second: its body, or all of it."""
    return lambda exchange: exchange.send(exchange.forward(), bytes_per_second=bytes_per_second, slow_head=head)


def truncated(exchange: Exchange) -> None:
    """Half of the body, then the end of the connection."""
    answer = exchange.forward()
    exchange.send(replace(answer, body=answer.body[: len(answer.body) // 2]))
    exchange.hang_up()


def flipped(*, checksum: bool = False) -> Fault:
    """One bit of the body is another; the checksum of S3 stays with it or goes."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.forward()
        body = bytearray(answer.body)
        body[len(body) // 2] ^= 1
        headers = [pair for pair in answer.headers if checksum or not pair[0].lower().startswith("x-amz-checksum")]
        exchange.send(Answer(answer.status, tuple(headers), bytes(body)))

    return fault


def after(action: Callable[[], object]) -> Fault:
    """The server answers to the request only after something else was done there."""

    def fault(exchange: Exchange) -> None:
        action()
        passed(exchange)

    return fault


@dataclass
class Proxy:
    """A proxy before the server at ``upstream`` (host and port).

    Attributes
    ----------
    asked : list of tuple
        Method and path of every request.
    """

    upstream: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    connections: set = field(default_factory=set)
    healed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._port = 0
        self._lock = threading.Lock()
        self.heal()
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def harm(self, fault: Fault, *, method: str = "", path: str = "", times: float = float("inf")) -> None:
        """Let this fault meet the requests of a method whose path holds some text, so many times."""
        self.heal()
        self._fault, self._method, self._path, self._times, self.healed = fault, method, path, times, threading.Event()

    def heal(self) -> None:
        """No fault from here on; what still hangs or trickles is cut off."""
        self._fault, self._method, self._path, self._times = passed, "", "", float("inf")
        self.healed.set()

    def fault_of(self, exchange: Exchange) -> Fault:
        with self._lock:
            self.asked.append((exchange.command, exchange.path))
            met = self._method in ("", exchange.command) and self._path in exchange.path and self._times > 0
            self._times -= met
            return self._fault if met else passed

    def start(self) -> None:
        """Take connections, again at the same port."""
        handler = type("Handler", (Exchange,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.block_on_close = False
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and end those that there are."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(2)


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """A proxy before the server at a URL, until the end of the block."""
    made = Proxy(urlsplit(url).netloc)
    try:
        yield made
    finally:
        made.heal()
        made.stop()


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin


@pytest.fixture
def told(record_property) -> Callable[[str, str, str, float, str], None]:
    """Put a row into the table of faults: server, fault, what is promised, seconds, what came of it."""

    def tell(server: str, fault: str, promise: str, seconds: float, result: str) -> None:
        cells = (server, fault, promise, f"{seconds:.1f}", " ".join(result.split()).replace("|", "\\|"))
        record_property("fault", f"| {' | '.join(cells)} |")

    return tell


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [row for report in reports for name, row in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line("| server | fault | promise | s | result |\n|---|---|---|---|---|")
        terminalreporter.write_line("\n".join(sorted(rows)))
