"""HTTP: a JSON header, and raw tensors behind it."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import numpy as np

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import (
    InvalidRequestError,
    ServerError,
    ServerUnreachableError,
    TlsError,
)
from rt4ksr_client.transports.base import Route, Transport, explain
from rt4ksr_client.transports.http_pool import Exchange, HttpPool
from rt4ksr_client.transports.messages import InferRequest, InferResponse, Tensor
from rt4ksr_client.transports.status_codes import error_for_http
from rt4ksr_client.transports.tls import diagnose

__all__ = ["HttpTransport", "receive_response", "request_header"]

_HEADER_LENGTH: Final = "Inference-Header-Content-Length"
_LONGEST_ERROR_BYTES: Final = 1 << 16
_LONGEST_JSON_BYTES: Final = 64 << 20
_TITLE: Final = re.compile("<title>(.*?)</title>", re.DOTALL | re.IGNORECASE)
_TAG: Final = re.compile("<[^>]*>")

Answer = TypeVar("Answer")


class HttpTransport(Transport):
    """Tensors as raw bytes behind a JSON header."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = str(endpoint)
        self.route = Route("http", endpoint.reason)
        self._endpoint = endpoint
        self._answered = False
        self._pool = HttpPool(endpoint)

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        header = request_header(request)
        contents = [tensor.content for tensor in request.inputs]
        headers = {
            _HEADER_LENGTH: str(len(header)),
            "Content-Length": str(len(header) + sum(map(len, contents))),
        }
        path = f"{_model_path(request.model)}/infer"
        exchange = Exchange(call, "POST", path, [header, *contents], headers)
        return self._send(exchange, receive_response, request.model)

    def server_metadata(self, call: Call) -> dict[str, Any]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        metadata: dict[str, Any] = self._ask("/v2", call)
        return metadata

    def repository_index(self, call: Call) -> list[dict[str, Any]]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        models: list[dict[str, Any]] = self._ask("/v2/repository/index", call, method="POST")
        return models

    def model_config(self, model: str, call: Call) -> dict[str, Any]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        config: dict[str, Any] = self._ask(f"{_model_path(model)}/config", call, model=model)
        return config

    def model_statistics(self, call: Call, *, model: str = "") -> list[dict[str, Any]]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        path = _model_path(model) if model else "/v2/models"
        rows: list[dict[str, Any]] = self._ask(f"{path}/stats", call, model=model)["model_stats"]
        return rows

    def model_ready(self, model: str, call: Call) -> bool:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        try:
            self._ask(f"{_model_path(model)}/ready", call)
        except InvalidRequestError:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _ask(self, path: str, call: Call, *, method: str = "GET", model: str = "") -> Any:
        return self._send(Exchange(call, method, path), _receive_json, model)

    def _send(
        self, exchange: Exchange, receive: Callable[[Exchange], Answer], model: str
    ) -> Answer:
        """Send the request and return what ``receive`` reads from a response with status 200."""

        def receive_any(exchange: Exchange) -> Answer | ServerError:
            if exchange.status != http.client.OK:
                return self._receive_error(exchange, sent)
            self._answered = True
            return receive(exchange)

        exchange.path = self._endpoint.path + exchange.path
        sent = self._endpoint.security.request_headers()
        exchange.headers = {**exchange.call.trace_headers, **sent, **exchange.headers}
        try:
            answer = self._pool.send(exchange, receive_any)
        except TlsError:
            raise
        except ServerUnreachableError as exc:
            if exchange.sock is not None and (fault := self._fault(exchange.call)):
                raise fault from exc
            raise
        except ServerError as exc:
            raise explain(exc, self, model, exchange.call) from exc
        if isinstance(answer, ServerError):
            raise explain(answer, self, model, exchange.call)
        return answer

    def _receive_error(self, exchange: Exchange, sent: Collection[str]) -> ServerError:
        """Return the error for the status of the response, with the server's text."""
        body = exchange.read_rest(_LONGEST_ERROR_BYTES)
        try:
            text = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            # Not Triton's: a gateway's, and then often a page.
            if exchange.status == http.client.BAD_REQUEST and (fault := self._fault(exchange.call)):
                return fault
            page = body[:4096].decode(errors="replace")
            title = _TITLE.search(page)
            text = " ".join(_TAG.sub(" ", title[1] if title else page).split())[:200]
        location = exchange.started().headers.get("Location")
        if location is not None and 300 <= exchange.status < 400:
            target = urlsplit(location)._replace(query="", fragment="").geturl()
            text = f"it redirects to {target}: give the address that answers itself"
        text = self._endpoint.security.hide(text)
        if b"SSL certificate" in body:  # nginx's words, with status 400
            return TlsError(
                f"{self.address}: the client certificate is missing or rejected ({text}): give one "
                "with cert_file and key_file (--cert-file, --key-file)"
            )
        return error_for_http(exchange.status, text, sent)

    def _fault(self, call: Call) -> ServerError | None:
        """Return what keeps this client and the server from understanding each other, if known."""
        return None if self._answered else diagnose(self._endpoint, call, http2=False)


def _model_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def request_header(request: InferRequest) -> bytes:
    """Return the JSON that precedes the tensors of a request."""
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
            "parameters": {"binary_data_size": tensor.nbytes},
        }
        for tensor in request.inputs
    ]
    outputs = [
        {"name": output.name, "parameters": {"binary_data": True}} for output in request.outputs
    ]
    header = {"parameters": dict(request.parameters), "inputs": inputs, "outputs": outputs}
    return json.dumps(header).encode()


def receive_response(exchange: Exchange) -> InferResponse:
    """Read an inference response, its tensors straight into one buffer."""
    try:
        header = json.loads(exchange.read(int(exchange.started().headers[_HEADER_LENGTH])))
        facts = [
            (
                str(output["name"]),
                str(output["datatype"]),
                [int(size) for size in output["shape"]],
                int(output["parameters"]["binary_data_size"]),
            )
            for output in header["outputs"]
        ]
        sizes_bytes = [size_bytes for *_, size_bytes in facts]
        if min(sizes_bytes, default=0) < 0:
            raise ValueError(f"a negative size in {sizes_bytes}")
        buffer = np.empty(sum(sizes_bytes), np.uint8).data
    except (
        TypeError,
        ValueError,
        KeyError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as exc:
        raise ServerError(f"the server's response holds no tensors: {exc!r}") from exc
    exchange.read_into(buffer)
    outputs = []
    for name, datatype, shape, size_bytes in facts:
        outputs.append(Tensor.from_content(name, datatype, shape, buffer[:size_bytes]))
        buffer = buffer[size_bytes:]
    return InferResponse(outputs)


def _receive_json(exchange: Exchange) -> Any:
    body = exchange.read_rest(_LONGEST_JSON_BYTES)
    try:
        return json.loads(body) if body else {}
    except (ValueError, RecursionError) as exc:
        raise ServerError(f"the server's response is not JSON: {exc}") from exc
