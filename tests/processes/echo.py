"""A Neon that repeats secrets: it stands before the sandbox and spoils answers with what it has read.

Each spoilt answer holds the management key and every key that was created through it, in all spellings.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from canaries import spellings

Shape = Callable[[str], bytes]


def status_line(words: str) -> bytes:
    return f"HTTP/1.1 500 {words}\r\nX-Echo: {words}\r\nContent-Length: 0\r\n\r\n".encode()


def refusal(words: str) -> bytes:
    body = json.dumps({"message": words, "code": words, "request_id": words})
    return (
        f"HTTP/1.1 401 {words}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )


def page(words: str) -> bytes:
    body = f"<html><title>{words}</title><a href='/?{words}'>{words}</a></html>"
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def redirect(words: str) -> bytes:
    return (
        f"HTTP/1.1 307 {words}\r\nLocation: https://{words}@example.com/{words}\r\nContent-Length: 0\r\n\r\n".encode()
    )


def unreadable(words: str) -> bytes:
    return f"HTTP/1.1 502 Bad\r\n{words}\r\nRetry-After: {words}\r\n\r\n{words}".encode()


class Echo:
    """`spoil` says how the next calls of a method are answered; the effect takes place all the same."""

    def __init__(self, neon: str) -> None:
        target = urlsplit(neon)
        self.secrets: set[str] = set()
        self.spoilt: list[str] = []
        self._next: dict[str, list[Shape]] = {}
        self._lock = threading.Lock()
        echo = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                self.close_connection = True
                self.wfile.write(echo.answer(self.command, self.headers["Authorization"], answer, content))

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a service that was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{target.path}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def spoil(self, method: str, *shapes: Shape) -> None:
        with self._lock:
            self._next.setdefault(method, []).extend(shapes)

    def left(self) -> int:
        """How many spoilt answers nobody has asked for yet."""
        with self._lock:
            return sum(map(len, self._next.values()))

    def answer(self, method: str, authorization: str, answer: http.client.HTTPResponse, content: bytes) -> bytes:
        with self._lock:
            self.secrets.add(authorization.removeprefix("Bearer "))
            if method == "POST" and answer.status == 200:
                self.secrets.add(json.loads(content)["key"])
            if shapes := self._next.get(method):
                self.spoilt.append(method)
                return shapes.pop(0)(
                    " ".join(word for secret in self.secrets for word in spellings(secret)).replace("\n", "")
                )
        head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in answer.getheaders() if name != "Connection")
        return f"{head}Connection: close\r\n\r\n".encode() + content

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
