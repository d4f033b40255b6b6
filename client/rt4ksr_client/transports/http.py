"""HTTP: a pool of connections, one for each call under way."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from rt4ksr_client.call import Cancellation, Deadline
from rt4ksr_client.errors import InvalidRequestError, ServerError
from rt4ksr_client.transports.base import (
    NO_PARAMETERS,
    MessageTransport,
    Parameters,
    Question,
    Tensor,
)
from rt4ksr_client.transports.failures import error_for_http, error_for_os

__all__ = ["HttpTransport"]

_HEADER_LENGTH = "Inference-Header-Content-Length"
_CHUNK_BYTES = 4 << 20
_CONNECT_TIMEOUT_S = 5.0

_QUESTIONS = {
    Question.SERVER: ("GET", "/v2"),
    Question.INDEX: ("POST", "/v2/repository/index"),
    Question.CONFIG: ("GET", "/v2/models/{model}/config"),
    Question.STATISTICS: ("GET", "/v2/models/stats"),
    Question.MODEL_READY: ("GET", "/v2/models/{model}/ready"),
}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Request:
    verb: str
    path: str
    body: tuple[bytes | memoryview, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, connection: http.client.HTTPConnection) -> None:
        length = sum(memoryview(part).nbytes for part in self.body)
        headers = {**self.headers, "Content-Length": str(length)}
        connection.request(self.verb, self.path, iter(self.body), headers)


class HttpTransport(MessageTransport):
    """Frames as raw bytes behind a JSON header; ``address`` is ``host:port``.

    Over the standard library's client: it sends an array and receives into one without a copy of
    its own, keeps a deadline, and may be used by many threads, one connection each.
    """

    name = "http"
    reason = "asked for"

    def __init__(self, address: str) -> None:
        self.address = address
        self._idle: list[http.client.HTTPConnection] = []
        self._closed = False

    def exchange(
        self,
        model: str,
        tensor: Tensor,
        wanted: str,
        *,
        parameters: Parameters = NO_PARAMETERS,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Tensor:
        """See :class:`~rt4ksr_client.transports.base.MessageTransport`."""
        header = _inference_header(tensor, wanted, parameters)
        path = f"/v2/models/{quote(model, safe='')}/infer"
        request = _Request(
            "POST", path, (header, tensor.content), {_HEADER_LENGTH: str(len(header))}
        )
        try:
            return self._exchange(request, _read_tensor, Deadline(timeout_s), cancellation)
        except ServerError as exc:
            raise self._explained(exc, model) from exc

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        verb, path = _QUESTIONS[question]
        request = _Request(verb, path.format(model=quote(model, safe="")))
        try:
            answer = self._exchange(request, _read_json, Deadline(timeout_s), None)
        except InvalidRequestError:
            if question is Question.MODEL_READY:
                return {"ready": False}
            raise
        except ServerError as exc:
            about = "" if question is Question.MODEL_READY else model
            raise self._explained(exc, about) from exc
        return {"ready": True} if question is Question.MODEL_READY else answer

    def close(self) -> None:
        """Close the idle connections; one in use is closed by its call."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _exchange(
        self,
        request: _Request,
        read: Callable[[http.client.HTTPConnection, Deadline], Answer],
        deadline: Deadline,
        cancellation: Cancellation | None,
    ) -> Answer:
        connection = self._connection(deadline)
        with contextlib.ExitStack() as on_error:
            on_error.callback(connection.close)
            with (cancellation or Cancellation()).stopping(lambda: _shut_down(connection)):
                try:
                    connection.sock.settimeout(deadline.required_s())
                    request.send(connection)
                    answer = read(connection, deadline)
                except (OSError, http.client.HTTPException) as exc:
                    raise error_for_os(exc) from exc
            if not self._closed:
                on_error.pop_all()
                self._idle.append(connection)
        return answer

    def _connection(self, deadline: Deadline) -> http.client.HTTPConnection:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        timeout_s = min(_CONNECT_TIMEOUT_S, deadline.required_s())
        connection = http.client.HTTPConnection(self.address, timeout=timeout_s)
        try:
            connection.connect()
        except OSError as exc:
            raise error_for_os(ConnectionError(str(exc))) from exc
        return connection


def _shut_down(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _inference_header(tensor: Tensor, wanted: str, parameters: Parameters) -> bytes:
    sent = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": tensor.shape,
        "parameters": {"binary_data_size": len(tensor.content)},
    }
    output = {"name": wanted, "parameters": {"binary_data": True}}
    request = {"parameters": dict(parameters), "inputs": [sent], "outputs": [output]}
    return json.dumps(request).encode()


def _response(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    response = connection.getresponse()
    if response.status != http.client.OK:
        raise error_for_http(response.status, _said(response.read()))
    return response


def _said(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _read_json(connection: http.client.HTTPConnection, deadline: Deadline) -> Any:
    body = _response(connection).read()
    return json.loads(body) if body else {}


def _read_tensor(connection: http.client.HTTPConnection, deadline: Deadline) -> Tensor:
    response = _response(connection)
    try:
        header = json.loads(response.read(int(response.headers[_HEADER_LENGTH])))
        output = header["outputs"][0]
        shape = tuple(int(size) for size in output["shape"])
        content = np.empty(output["parameters"]["binary_data_size"], np.uint8).data
        tensor = Tensor(output["name"], output["datatype"], shape, content)
    except (TypeError, ValueError, KeyError, IndexError, MemoryError) as exc:
        raise ServerError(f"the server's response holds no picture: {exc!r}") from exc
    while content:
        connection.sock.settimeout(deadline.required_s())
        received = response.readinto(content[:_CHUNK_BYTES])
        if not received:
            raise http.client.IncompleteRead(b"", len(content))
        content = content[received:]
    return tensor
