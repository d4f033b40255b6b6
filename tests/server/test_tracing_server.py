"""Traces of a real tritonserver, as an OpenTelemetry collector receives them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from rt4ksr_client import AsyncUpscaler, Upscaler
from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import ServerError
from rt4ksr_server import TritonServer
from support.processes import becomes_true
from support.servers import RepositoryFactory

pytestmark = pytest.mark.server

FRAME = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
TRACER = TracerProvider().get_tracer(__name__)


class Collector(ThreadingHTTPServer):
    """Keeps the spans that are posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[dict[str, str]] = []


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in body["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                self.server.spans.extend(scope["spans"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def traced_server(
    nearest_repository: RepositoryFactory, collector: Collector
) -> Iterator[TritonServer]:
    """Exports every request at once."""
    repository = nearest_repository([MODELS["rt4ksr_x2"]])
    settings = (
        "mode=opentelemetry",
        f"opentelemetry,url=http://127.0.0.1:{collector.server_address[1]}/v1/traces",
        "opentelemetry,bsp_schedule_delay=300",
        "level=TIMESTAMPS",
        "rate=1",
    )
    flags = [f"--trace-config={setting}" for setting in settings]
    with TritonServer(repository, extra_args=flags) as server:
        yield server


def spans_below(collector: Collector, span: trace.Span) -> list[dict[str, str]]:
    """Return the spans of a trace that are children of ``span``."""
    context = span.get_span_context()
    expected = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return [s for s in collector.spans if (s["traceId"], s.get("parentSpanId")) == expected]


def test_the_spans_of_the_server_are_children_of_the_callers(
    traced_server: TritonServer, collector: Collector
) -> None:
    with Upscaler(traced_server.http_url, scale=2, transport="http", timeout_s=20) as upscaler:
        upscaler.upscale(FRAME)
        with TRACER.start_as_current_span("caller") as span:
            upscaler.upscale(FRAME)
        with TRACER.start_as_current_span("several") as several:
            assert len(list(upscaler.map([FRAME] * 3, in_flight=2))) == 3

    assert becomes_true(lambda: len(spans_below(collector, span)) == 1)
    assert becomes_true(lambda: len(spans_below(collector, several)) == 3)


def test_grpc_and_asynchronous_calls_carry_the_callers_span_too() -> None:
    received: list[str] = []

    class Recorder(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, call: Any) -> None:
            received.extend(v for k, v in call.invocation_metadata if k == "traceparent")

    async def ask(url: str) -> None:
        async with AsyncUpscaler(url, scale=2, timeout_s=20, transport="grpc") as upscaler:
            with pytest.raises(ServerError):
                await upscaler.upscale(FRAME)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Recorder()])
    url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with TRACER.start_as_current_span("caller") as span:
        asyncio.run(ask(url))
    server.stop(None).wait()

    assert f"{span.get_span_context().span_id:016x}" in received[0]
