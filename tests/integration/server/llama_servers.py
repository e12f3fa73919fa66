"""Starting llama-servers, and what they say of what they did."""

import re
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from json import loads
from pathlib import Path

from helpers import wait_until

from langgraph_kvfork.engine.default_model import smollm2_path

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "build" / "stock" / "bin" / "llama-server"


class LlamaServer:
    """A llama-server with SmolLM2, while its block runs."""

    def __init__(self, layout, *arguments, slots=8, n_ctx=8192, key=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = key
        self._command = [
            *(str(PROGRAM), "--model", smollm2_path(), "--alias", "smollm2"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--no-ui", "--metrics", "--slots"),
            *("--parallel", str(slots), "--ctx-size", str(n_ctx), "--threads", "2"),
            "--kv-unified" if layout == "unified" else "--no-kv-unified",
            *(("--api-key", key) if key else ()),
            *arguments,
        ]

    def __enter__(self):
        assert PROGRAM.exists(), "run `make stock`"
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        wait_until(self._is_healthy, 60)
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        self._process.kill()
        self._process.wait()

    def _is_healthy(self):
        assert self._process.poll() is None
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except OSError:
            return False

    def get(self, path):
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    @property
    def computed(self):
        """How many tokens of prompts it has computed so far."""
        found = re.search(
            r"^llamacpp:prompt_tokens_total (\d+)", self.get("/metrics"), re.MULTILINE
        )
        return int(found[1])

    @property
    def running(self):
        """How many requests it runs now."""
        return sum(slot["is_processing"] for slot in loads(self.get("/slots")))

    def erase(self):
        """Empty all slots, so that the next fan-out is a cold one."""
        for slot in range(len(loads(self.get("/slots")))):
            request = urllib.request.Request(
                f"{self.url}/slots/{slot}?action=erase", data=b"{}", method="POST"
            )
            urllib.request.urlopen(request, timeout=30).close()


@contextmanager
def misbehaving(answer):
    """Run a server that does with each connection what a function of its socket and request does.

    Yields:
        Its address.
    """
    import threading

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        ends = threading.Event()

        def serve_one(connection):
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    request += piece
                head, _, body = request.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                while length and len(body) < int(length[1]):
                    body += connection.recv(65536)
                answer(connection, head.decode(), body.decode())

        def serve():
            while not ends.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ends.set()
            listening.shutdown(socket.SHUT_RDWR)
    time.sleep(0)


def response(status, body, *headers, content_type="application/json"):
    """Return a whole response, as bytes; the connection ends with it."""
    data = body.encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(data)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data
