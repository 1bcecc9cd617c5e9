"""`S3Server`: versitygw over a folder, which can be killed, frozen and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.eventually import eventually

ACCESS_KEY = "vmthaw"
SECRET_KEY = "of-the-tests-alone"
BUCKET = "snapshots"


class S3Server:
    """Serves `directory` on a port of this host from the start on; there is one bucket, ``snapshots``."""

    def __init__(self, program: Path, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.bucket(BUCKET)
        (directory / "attributes").mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What a client's environment says of this server, or of a link to it."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def store(self, environment: Mapping[str, str] | None = None) -> Any:
        """An obstore store of the bucket, past whatever the environment says."""
        from obstore.store import S3Store

        found = environment or self.environment()
        return S3Store(
            BUCKET,
            endpoint=found["AWS_ENDPOINT_URL"],
            access_key_id=found["AWS_ACCESS_KEY_ID"],
            secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
            region=found["AWS_REGION"],
            client_options={"allow_http": True},
        )

    def put(self, key: str, data: bytes) -> str:
        """Stores an object and gives its address."""
        import obstore

        obstore.put(self.store(), key, data)
        return f"s3://{BUCKET}/{key}"

    def bucket(self, name: str) -> Path:
        """The folder that is the bucket."""
        path = self._directory / "buckets" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def start(self) -> None:
        """Starts the server, on the same port as before, and waits until it takes connections."""
        log = self._directory / "log"
        with log.open("ab") as output:
            self._process = process = subprocess.Popen(
                [
                    self._program, "--port", f"127.0.0.1:{self.port}", "--keep-alive", "--quiet",
                    "posix", "--sidecar", self._directory / "attributes", self._directory / "buckets",
                ],
                env={**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )  # fmt: skip

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"versitygw ended with status {process.returncode}: {log.read_text()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        eventually(answers, 20)

    def kill(self) -> None:
        """As a host that loses its power; connections end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """It takes connections and answers nothing, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
