"""Firecracker's HTTP API over its UNIX socket, by httpx. A hostile answer is bounded in size and in time."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import time
from typing import TYPE_CHECKING, Any

from vmthaw._extras import need
from vmthaw.errors import VmthawTimeoutError
from vmthaw.firecracker._errors import ApiRefusedError, FirecrackerError
from vmthaw.firecracker._requests import ApiRequest

if TYPE_CHECKING:
    import httpx

_ANSWER_BYTES = 1 << 20
_MESSAGE_CHARACTERS = 2000


class ConnectionLostError(FirecrackerError):
    """The connection failed: the process has died, or does not listen."""


def check_extra() -> None:
    """Raises MissingExtraError before anything is started."""
    need("httpx", "firecracker")


def answers(path: str) -> bool:
    """Whether somebody listens on a UNIX socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return False
    return True


def _timed_out(request: ApiRequest, timeout: float) -> VmthawTimeoutError:
    return VmthawTimeoutError(errno.ETIMEDOUT, f"Firecracker did not answer {request} within {timeout:g} s")


def _check_size(request: ApiRequest, size: int) -> None:
    if size > _ANSWER_BYTES:
        raise FirecrackerError(f"the answer to {request} is larger than {_ANSWER_BYTES} bytes")


def _result(request: ApiRequest, status: int, data: bytes) -> dict[str, Any]:
    if status == 204:
        return {}
    try:
        body = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        body = None
    if 200 <= status < 300:
        if not isinstance(body, dict):
            raise FirecrackerError(f"the answer to {request} ({status}) is no JSON object")
        return body
    message = body.get("fault_message") if isinstance(body, dict) else None
    text = message if isinstance(message, str) else data.decode("utf-8", "replace")
    raise ApiRefusedError(request.method, request.path, status, " ".join(text.split())[:_MESSAGE_CHARACTERS])


class ApiClient:
    """For threads. Raises ApiRefusedError, VmthawTimeoutError, ConnectionLostError."""

    def __init__(self, path: str) -> None:
        self._errors = module = need("httpx", "firecracker")
        self._client: httpx.Client = module.Client(
            transport=module.HTTPTransport(uds=path), base_url="http://localhost", trust_env=False
        )

    def request(self, request: ApiRequest, timeout: float) -> dict[str, Any]:
        """The answer's JSON object; empty for 204."""
        deadline = time.monotonic() + timeout
        data = bytearray()
        try:
            with self._client.stream(request.method, request.path, json=request.body, timeout=timeout) as response:
                for chunk in response.iter_raw():
                    data += chunk
                    _check_size(request, len(data))
                    if time.monotonic() > deadline:
                        raise _timed_out(request, timeout)
                return _result(request, response.status_code, bytes(data))
        except self._errors.TimeoutException as error:
            raise _timed_out(request, timeout) from error
        except self._errors.TransportError as error:
            raise ConnectionLostError(f"{request}: the connection to Firecracker's API failed: {error}") from error

    def close(self) -> None:
        """Idempotent."""
        self._client.close()


class AsyncApiClient:
    """The same for asyncio."""

    def __init__(self, path: str) -> None:
        self._errors = module = need("httpx", "firecracker")
        self._client: httpx.AsyncClient = module.AsyncClient(
            transport=module.AsyncHTTPTransport(uds=path), base_url="http://localhost", trust_env=False
        )

    async def request(self, request: ApiRequest, timeout: float) -> dict[str, Any]:
        """See `ApiClient.request`."""
        data = bytearray()
        try:
            async with (
                asyncio.timeout(timeout),
                self._client.stream(request.method, request.path, json=request.body, timeout=None) as response,
            ):
                async for chunk in response.aiter_raw():
                    data += chunk
                    _check_size(request, len(data))
                return _result(request, response.status_code, bytes(data))
        except TimeoutError as error:
            raise _timed_out(request, timeout) from error
        except self._errors.TransportError as error:
            raise ConnectionLostError(f"{request}: the connection to Firecracker's API failed: {error}") from error

    async def close(self) -> None:
        """Idempotent."""
        await self._client.aclose()
