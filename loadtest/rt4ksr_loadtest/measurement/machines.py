"""The two machines of a load test: what the server reports while the load runs, and facts about
the generator's machine and the server.
"""

from __future__ import annotations

import dataclasses
import logging
import platform
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.errors import ServerError
from rt4ksr_client.status import ServerStatus, read_status
from rt4ksr_client.transports import open_transport
from rt4ksr_loadtest.measurement.timeline import ServerSecond
from rt4ksr_loadtest.options import LoadOptions
from rt4ksr_loadtest.result import Machine

__all__ = ["STAGES", "ServerMonitor", "machine_facts", "read_server_status"]

STAGES: Final = ("queue", "compute_input", "compute_infer", "compute_output")
PACKAGES: Final = ("rt4ksr-triton", "locust", "gevent", "tritonclient", "grpcio", "numpy")
METRICS_PORT: Final = 8002
MONITOR_TIMEOUT_S: Final = 2.0
FIRST_READING_TIMEOUT_S: Final = 10.0
"""A later reading may be missed. Without the first, answers would be missing from the counts."""

STATUS_TIMEOUT_S: Final = 5.0
SAMPLE: Final = re.compile(r"^(\w+)(?:{(.*)})? (-?[\d.]+(?:[eE][-+]?\d+)?)$", re.MULTILINE)
"""A line of Prometheus's text format: name, labels, value."""

GPU_UUID: Final = re.compile(r'gpu_uuid="([^"]*)"')

logger = logging.getLogger(__name__)


class ServerMonitor:
    """Reads the server's statistics, metrics and processes, in the process that adds up the run.

    Args:
        options: of the run. Of several servers, the first is monitored.

    """

    def __init__(self, options: LoadOptions) -> None:
        self._models = tuple(options.shares)
        connection = first_server(options.connection)
        (endpoint,) = connection.endpoints
        self._port = endpoint.port
        self._security = connection.security
        self.on_this_host = endpoint.is_loopback
        """Whether the server's address is this machine's loopback."""
        self._transport = open_transport(connection)
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._metrics_url = options.metrics_url or f"http://{host}:{METRICS_PORT}/metrics"
        self._metrics_answered: bool | None = None
        self.gpus: tuple[str, ...] | None = None
        """Memory and UUID of each GPU that the metrics tell of; None if there are no metrics."""
        self._process: psutil.Process | None = None
        self._cpu_at_s: tuple[float, float] | None = None
        self._was_read = False
        self._last: dict[str, int] | None = None

    def read(self) -> ServerSecond:
        """Return what changed since the last call; nothing if the server does not answer."""
        seen = ServerSecond(counts=self._count_growth())
        self.read_metrics(seen)
        if self.on_this_host:
            self._read_process(seen)
        return seen

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _count_growth(self) -> dict[str, int]:
        timeout_s = MONITOR_TIMEOUT_S if self._was_read else FIRST_READING_TIMEOUT_S
        self._was_read = True
        try:
            rows = self._transport.model_statistics(Call(timeout_s))
        except ServerError as exc:
            logger.debug("statistics not read: %s", exc)
            return {}
        now = _counts(row for row in rows if row["name"] in self._models)
        last, self._last = self._last, now
        if last is None:
            return {}
        if now["success"] < last["success"]:
            logger.warning("the server was restarted: its statistics began again")
            return now
        return {name: now[name] - last[name] for name in now}

    def read_metrics(self, seen: ServerSecond) -> None:
        """Put what the server's metrics say into ``seen`` and :attr:`gpus`."""
        if self._metrics_answered is False:
            return
        try:
            # Without the headers: they are for the server, not for who collects its metrics.
            is_tls = self._metrics_url.startswith("https:")
            context = self._security.tls_context() if is_tls else None
            with urllib.request.urlopen(  # noqa: S310 - the user's
                self._metrics_url, timeout=MONITOR_TIMEOUT_S, context=context
            ) as answer:
                text = answer.read().decode()
        except (OSError, ValueError) as exc:
            if self._metrics_answered is None:
                logger.info("no metrics at %s: %s", self._metrics_url, exc)
                self._metrics_answered = False
            return
        self._metrics_answered = True
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for name, labels, value in SAMPLE.findall(text):
            values[name][labels] = float(value)
        pending = values["nv_inference_pending_request_count"].values()
        seen.pending_max = int(sum(pending)) if pending else None
        memory_bytes = values["nv_gpu_memory_total_bytes"]
        self.gpus = tuple(
            f"{size_bytes / 2**30:.1f} GiB ({', '.join(GPU_UUID.findall(labels))})"
            for labels, size_bytes in sorted(memory_bytes.items())
        )
        if shares := values["nv_gpu_utilization"].values():
            seen.gpu_share_sum, seen.gpu_readings = sum(shares) / len(shares), 1
            seen.gpu_power_w_sum = sum(values["nv_gpu_power_usage"].values())
            seen.gpu_memory_bytes_max = int(sum(values["nv_gpu_memory_used_bytes"].values()))

    def _read_process(self, seen: ServerSecond) -> None:
        try:
            server = self._process or _listening_process(self._port)
            if server is None:
                return
            family = [server, *server.children(recursive=True)]
            times = [process.cpu_times() for process in family]
            used_s = sum(t.user + t.system for t in times)
            seen.memory_bytes_max = sum(process.memory_info().rss for process in family)
        except psutil.Error:
            self._process = self._cpu_at_s = None
            return
        now_s = time.monotonic()
        if self._cpu_at_s is not None and now_s > self._cpu_at_s[0]:
            cores = max(0.0, used_s - self._cpu_at_s[1]) / (now_s - self._cpu_at_s[0])
            seen.cpu_cores_sum, seen.cpu_readings = cores, 1
        self._process, self._cpu_at_s = server, (now_s, used_s)


def first_server(connection: Connection) -> Connection:
    """Return the way to ask the first server of ``connection``, without shared memory."""
    url = connection.url.split(",")[0].strip()
    protocol: TransportName = "http" if url.startswith(("http://", "https://")) else "grpc"
    return dataclasses.replace(connection, url=url, transport=protocol)


def read_server_status(options: LoadOptions) -> ServerStatus:
    """Ask the first server what it is and which models it serves.

    Raises:
        ServerError: no answer.

    """
    with open_transport(first_server(options.connection)) as transport:
        return read_status(transport, Call(STATUS_TIMEOUT_S))


def machine_facts(options: LoadOptions, monitor: ServerMonitor) -> Machine:
    """Return facts about the generator's machine and the server; fewer if the server is gone.

    ``monitor`` has read the server's metrics, and may be closed.
    """
    version, weights, formats = "not known", {}, {}
    try:
        server = read_server_status(options)
    except ServerError as exc:
        logger.debug("server status not read: %s", exc)
    else:
        version = server.version  # its name is a new one at each start
        served = [model.served for model in server.models if model.name in options.shares]
        weights = {model.name: model.weights_sha256 for model in served if model is not None}
        formats = {model.name: model.frame_format for model in served if model is not None}
    return Machine(
        generator_cpu=cpu_name(),
        generator_cores=psutil.cpu_count() or 1,
        generator_memory_bytes=psutil.virtual_memory().total,
        generator_system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in PACKAGES},
        server_version=version,
        server_on_this_host=monitor.on_this_host,
        model_weights_sha256=weights,
        gpus=monitor.gpus,
        model_frame_formats=formats,
    )


def cpu_name() -> str:
    """Return the model of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _counts(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    counts = dict.fromkeys(("success", "fail", "executions", "batched", *STAGES), 0)
    for row in rows:
        stats = row["inference_stats"]
        counts["success"] += int(stats["success"]["count"])
        counts["fail"] += int(stats["fail"]["count"])
        counts["executions"] += int(row["execution_count"])
        counts["batched"] += int(row["inference_count"])
        for stage in STAGES:
            counts[stage] += int(stats[stage]["ns"])
    return counts


def _listening_process(port: int) -> psutil.Process | None:
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return psutil.Process(connection.pid) if connection.pid else None
    return None
