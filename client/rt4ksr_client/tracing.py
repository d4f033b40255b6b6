"""The caller's W3C trace context, which goes with every request to the server.

A tritonserver that traces with OpenTelemetry makes its spans children of it. Source of names and
format: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Final

__all__ = ["trace_headers"]

NAMES: Final = ("traceparent", "tracestate")
TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_headers() -> Mapping[str, str]:
    """Return the headers ``traceparent`` and ``tracestate`` for a request that is made now.

    They are those of OpenTelemetry's current span if this program uses OpenTelemetry, otherwise of
    the variables ``TRACEPARENT`` and ``TRACESTATE``; empty if there are neither.
    """
    carrier: dict[str, str] = {}
    # Who has a current span has imported this.
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
    if not carrier and TRACEPARENT.fullmatch(os.environ.get("TRACEPARENT", "")):
        carrier = {name: os.environ.get(name.upper(), "") for name in NAMES}
    return {name: value for name, value in carrier.items() if value and value.isprintable()}
