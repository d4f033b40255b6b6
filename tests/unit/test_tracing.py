"""The trace context that goes with requests."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from rt4ksr_client.call import Call, Cancellation
from rt4ksr_client.concurrency import in_order
from rt4ksr_client.tracing import trace_headers

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACER = TracerProvider().get_tracer(__name__)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACEPARENT", raising=False)
    monkeypatch.delenv("TRACESTATE", raising=False)


def traceparent(span: trace.Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_without_a_trace_nothing_is_sent() -> None:
    assert trace_headers() == {}


def test_the_current_span_is_sent_and_comes_before_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    with TRACER.start_as_current_span("caller") as span:
        assert trace_headers() == {"traceparent": traceparent(span)}


def test_the_variables_of_a_command_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    assert trace_headers() == {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}


@pytest.mark.parametrize("value", ["", "00-xyz", TRACEPARENT + "\n", TRACEPARENT.upper()])
def test_a_variable_that_is_no_trace_context_is_ignored(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TRACEPARENT", value)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    assert trace_headers() == {}


def test_work_in_other_threads_belongs_to_the_span_that_asked_for_it() -> None:
    def work(item: int, cancellation: Cancellation) -> str:
        return Call(1, cancellation).trace_headers["traceparent"]

    with TRACER.start_as_current_span("caller") as span:
        sent = set(in_order(work, range(4), 2))
    assert sent == {traceparent(span)}


def test_a_program_without_opentelemetry_does_not_load_it() -> None:
    program = (
        "import sys, rt4ksr_client.tracing as t; t.trace_headers(); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
