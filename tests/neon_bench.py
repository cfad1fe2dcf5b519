"""What the tests of Neon's adapter share: pauses that take no time, a management key in a file, a rude server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rotator.clock import NeonClock
from rotator.fields import SecretRef
from rotator.neon import Neon
from rotator.rate import RateLimit

Behaviour = Callable[[socket.socket], None]


class PushedTime(threading.Event):
    """Real time, and besides pushed on by whoever waits for it; also the event that stops the service."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def __call__(self) -> float:
        return time.monotonic() + sum(self.waited)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited.append(timeout)
        return self.is_set()


@dataclass
class Bench:
    """Neon's adapter, and what it was built from."""

    neon: Neon
    clock: NeonClock
    rate: RateLimit
    time: PushedTime
    key_file: Path


def a_bench(
    url: str, folder: Path, key: str, *, timeout: tuple[float, float] = (5, 5), per_minute: int = 6000
) -> Bench:
    """An adapter whose management key is in a file."""
    key_file = folder / "neon-key"
    key_file.write_text(key + "\n")
    time_ = PushedTime()
    clock = NeonClock(time_)
    rate = RateLimit(per_minute, time_, time_)
    return Bench(Neon(url, a_reference(key_file), clock, rate, time_, timeout), clock, rate, time_, key_file)


def a_reference(path: Path) -> SecretRef:
    return SecretRef.model_validate({"file": str(path)})


class RudeServer:
    """A TCP server that reads each request whole and then behaves as it was told."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.address}/api/v2"

    def __enter__(self) -> Self:
        self._start(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            head, _, body = request.partition(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
            while len(body) < length:
                body += connection.recv(65536)
            self.requests.append(head + b"\r\n\r\n" + body)
            self.behaviour(connection)


def says(body: bytes, status: str = "200 OK", *headers: str) -> Behaviour:
    """A well-formed answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return lambda connection: connection.sendall("\r\n".join(lines).encode() + body)


def sends(raw: bytes) -> Behaviour:
    """These bytes, and then the end of the connection."""
    return lambda connection: connection.sendall(raw)


def drips(raw: bytes, piece: bytes = b" ", every: float = 0.05) -> Behaviour:
    """These bytes, and then for ever a little more, always in time for the next read."""

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(raw)
        while True:
            time.sleep(every)
            connection.sendall(piece)

    return behaviour


def resets(raw: bytes = b"") -> Behaviour:
    """These bytes, and then a TCP reset."""

    def behaviour(connection: socket.socket) -> None:
        if raw:
            connection.sendall(raw)
            time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behaviour


def pours(megabytes: int) -> Behaviour:
    """A list that is far too long."""

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
        for _ in range(megabytes):
            connection.sendall(b" " * 2**20)

    return behaviour
