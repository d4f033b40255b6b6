"""A real tritonserver with the flags of the container."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rt4ksr_client import Upscaler
from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection
from rt4ksr_client.status import read_status
from rt4ksr_client.transports import open_transport
from rt4ksr_server import TritonServer
from support.entrypoint import KEY
from support.monitoring import selectors

pytestmark = pytest.mark.server

# There where Triton sees a GPU: docs/user_guide/metrics.md of triton-inference-server/server.
GPU_METRICS = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
NEWER_METRICS = {"nv_inference_first_response_histogram_ms_bucket"}  # for such models: from 26.02
PROMETHEUS_LABELS = {"job", "instance", "namespace", "pod"}  # what it adds when it scrapes

UnaryCall = Callable[..., Any]


@pytest.fixture(scope="module")
def call(production: TritonServer) -> Iterator[UnaryCall]:
    """UnaryCall a method of Triton's gRPC service: ``call("ModelMetadata", name="rt4ksr_x2")``."""
    with grpc.insecure_channel(production.grpc_url) as channel:

        def unary(method: str, key: str | None = None, **fields: Any) -> Any:
            return channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                getattr(service_pb2, f"{method}Request").SerializeToString,
                getattr(service_pb2, f"{method}Response").FromString,
            )(
                getattr(service_pb2, f"{method}Request")(**fields),
                metadata=[("triton-grpc-protocol-admin-key", key)] if key else None,
                timeout=10,
            )

        yield unary


@pytest.mark.parametrize(
    "method", ["RepositoryIndex", "LogSettings", "TraceSetting", "SystemSharedMemoryStatus"]
)
def test_an_admin_call_needs_the_key(call: UnaryCall, method: str) -> None:
    for key in (None, "0" * 32):
        with pytest.raises(grpc.RpcError, match="restricted"):
            call(method, key=key)
    call(method, key=KEY)


def test_an_admin_call_over_http_needs_the_key(production: TritonServer) -> None:
    request = urllib.request.Request(f"http://{production.http_url}/v2/logging")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    request.add_header("admin-key", KEY)
    with urllib.request.urlopen(request) as response:
        assert response.status == 200


def test_models_cannot_be_changed_even_with_the_key(call: UnaryCall) -> None:
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        with pytest.raises(grpc.RpcError, match="not allowed"):
            call(method, key=KEY, model_name="rt4ksr_x2")


def test_the_probes_of_kubernetes_are_answered(production: TritonServer) -> None:
    with grpc.insecure_channel(production.grpc_url) as channel:
        answer = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
    assert answer == b"\x08\x01"  # HealthCheckResponse with status SERVING


def test_a_client_with_default_options_uses_grpc(production: TritonServer) -> None:
    frame = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    with Upscaler(production.grpc_url, scale=2, timeout_s=20) as upscaler:
        large = upscaler.upscale(frame)
        assert upscaler.transport_name == "grpc"
    np.testing.assert_array_equal(large, frame.repeat(2, axis=0).repeat(2, axis=1))


def test_the_status_of_a_server_with_a_restricted_index(production: TritonServer) -> None:
    with open_transport(Connection(production.grpc_url, "grpc")) as transport:
        status = read_status(transport, Call(20))
    assert {model.name: model.kind for model in status.models} == {
        "rt4ksr_x2": "network",
        "rt4ksr_x3": "network",
        "rt4ksr_x2_image": "endpoint",
        "rt4ksr_decode": "stage",
        "rt4ksr_encode": "stage",
    }
    assert all(model.ready for model in status.models)


def test_every_metric_in_dashboards_and_rules_exists_with_its_labels(
    production: TritonServer,
) -> None:
    with Upscaler(production.grpc_url, scale=2, timeout_s=20) as upscaler:
        upscaler.upscale(np.zeros((2, 2, 3), np.uint8))
    with urllib.request.urlopen(f"http://{production.metrics_url}/metrics") as response:
        text = response.read().decode()
    labels: dict[str, set[str]] = {}
    for name, chosen_by in re.findall(r"^(\w+)(?:{(.*)})? ", text, re.M):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', chosen_by))
    for where, name, asked in selectors():
        if name in GPU_METRICS | NEWER_METRICS or name == "up" or name.startswith("rt4ksr:"):
            continue
        assert name in labels, where
        assert asked <= labels[name] | PROMETHEUS_LABELS, where
