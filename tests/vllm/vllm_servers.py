"""Starting vLLM and a router, and what they say of what they did."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

from helpers import wait_until

BUILD = Path(__file__).parents[2] / "build" / "vllm"
BLOCK = 32
"""Tokens of a block, of which vLLM's cache is made."""

N_CTX = 4096


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Process:
    """A server while its block runs; what it writes goes to a file beside its programs."""

    def __init__(self, name, *arguments, flags=("--host", "--port"), **env):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        where = (flags[0], "127.0.0.1", flags[1], str(self.port))
        self._command = [str(BUILD / "bin" / name), *arguments, *where]
        self._log = BUILD / f"{name}-{self.port}.log"
        self._env = env

    def __enter__(self):
        self._process = self._started(self._command)
        try:
            wait_until(self._is_healthy, 300)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._end(self._process)

    def _started(self, command):
        with self._log.open("a") as log:
            return subprocess.Popen(
                command,
                env={
                    **os.environ,
                    "HF_HUB_OFFLINE": "1",
                    "OMP_WAIT_POLICY": "passive",
                    **self._env,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,  # what it starts can be ended with it
            )

    def _end(self, process):
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _is_healthy(self):
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        try:
            self.get("/health")
        except OSError:
            return False
        return True

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()


class Vllm(Process):
    """A vLLM with a tiny model, on this machine's processor."""

    def __init__(self, *arguments):
        super().__init__(
            *("vllm", "serve", str(BUILD / "tiny"), "--served-model-name", "tiny"),
            *("--enforce-eager", "--dtype", "float32"),
            *("--block-size", str(BLOCK), "--max-model-len", str(N_CTX)),
            # random weights would fill an object with blanks, and never end it
            "--structured-outputs-config",
            '{"backend": "xgrammar", "disable_any_whitespace": true}',
            *arguments,
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_CPU_OMP_THREADS_BIND=f"0-{(os.cpu_count() or 1) - 1}",
            VLLM_CPU_CI_ENV="1",
            VLLM_NO_USAGE_STATS="1",
        )

    def counted(self, name):
        """Return the value of a counter or gauge."""
        found = re.findall(rf"^vllm:{name}\{{.*\}} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(int(float(value)) for value in found)

    @property
    def asked(self):
        """How many tokens of prompts it has looked up in its cache."""
        return self.counted("prefix_cache_queries_total")

    @property
    def hits(self):
        """How many of them were there."""
        return self.counted("prefix_cache_hits_total")

    @property
    def running(self):
        """How many requests it has now."""
        return self.counted("num_requests_running") + self.counted("num_requests_waiting")


class Router(Process):
    """A vllm-router before some servers: requests with one X-Session-ID go to one of them."""

    def __init__(self, *servers, policy="consistent_hash"):
        super().__init__(
            "vllm-router",
            *("--worker-urls", *(server.url for server in servers), "--policy", policy),
            *("--prometheus-port", str(free_port())),
        )


class Dynamo(Process):
    """Dynamo's frontend, and behind it a mocker that simulates an SGLang."""

    def __init__(self, folder):
        planes = [
            *("--discovery-backend", "file", "--request-plane", "tcp", "--event-plane", "zmq")
        ]
        super().__init__(
            *("python", "-m", "dynamo.frontend", "--router-mode", "kv", *planes),
            flags=("--http-host", "--http-port"),
            DYN_FILE_KV=str(folder),
        )
        self._mocker_command = [
            *(str(BUILD / "bin" / "python"), "-m", "dynamo.mocker", *planes),
            *("--model-path", str(BUILD / "tiny"), "--model-name", "tiny"),
            *("--engine-type", "sglang"),
        ]

    def __enter__(self):
        self._mocker = self._started(self._mocker_command)
        return super().__enter__()

    def __exit__(self, *_):
        super().__exit__()
        self._end(self._mocker)

    def _is_healthy(self):
        return super()._is_healthy() and '"tiny"' in self.get("/v1/models")
