"""What the server says about itself while the load runs."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import psutil

from rt4ksr_client.errors import ServerError
from rt4ksr_client.transports import Question
from rt4ksr_loadtest.machine import open_control
from rt4ksr_loadtest.options import LoadOptions

__all__ = ["Probe", "ServerSecond"]

METRICS_PORT: Final = 8002
TIMEOUT_S: Final = 2.0
STAGES: Final = ("queue", "compute_input", "compute_infer", "compute_output")
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


@dataclass
class ServerSecond:
    """What the server did between two looks at it, and its state at the second one.

    ``counts``: growth of ``success``, ``fail``, ``executions``, ``batched`` and of each stage's
    nanoseconds, over the models under test. None: it does not tell.
    """

    counts: dict[str, int] = field(default_factory=dict)
    pending: int | None = None
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    gpu_share: float | None = None


class Probe:
    """Looks at the server once a second, from the process that collects.

    Args:
        options: of the run; ``url`` may name several servers, of which the first is looked at.

    """

    def __init__(self, options: LoadOptions) -> None:
        self._models = tuple(options.shares)
        first = options.url.split(",")[0].strip()
        self._host, _, port = first.rpartition("://")[2].rpartition(":")
        self._port = int(port)
        self._transport = open_control(first)
        self._metrics_url = options.metrics_url or f"http://{self._host}:{METRICS_PORT}/metrics"
        self._metrics_work = True
        self._process: psutil.Process | None = None
        self._cpu: tuple[float, float] | None = None
        self._last: dict[str, int] | None = None
        self.seconds: dict[int, ServerSecond] = {}

    @property
    def on_this_host(self) -> bool:
        """Whether the server's address is this host's loopback."""
        return self._host in LOOPBACK

    def look(self) -> None:
        """Note what changed since the last look; a server that is gone changes nothing."""
        seen = self.seconds.setdefault(int(time.time()), ServerSecond())
        for name, growth in self._growth().items():
            seen.counts[name] = seen.counts.get(name, 0) + growth
        self._read_metrics(seen)
        if self.on_this_host:
            self._read_process(seen)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _growth(self) -> dict[str, int]:
        try:
            answer = self._transport.ask(Question.STATISTICS, timeout_s=TIMEOUT_S)
        except ServerError:
            return {}
        now = _counts(row for row in answer["model_stats"] if row["name"] in self._models)
        last, self._last = self._last, now
        if last is None:
            return {}
        # A restarted server counts from 0 again.
        restarted = now["success"] < last["success"]
        return now if restarted else {name: now[name] - last[name] for name in now}

    def _read_metrics(self, seen: ServerSecond) -> None:
        if not self._metrics_work:
            return
        try:
            with urllib.request.urlopen(self._metrics_url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the user's
                text = answer.read().decode()
        except (OSError, ValueError):
            self._metrics_work = bool(self.seconds) and len(self.seconds) > 1
            return
        rows = [line.rsplit(" ", 1) for line in text.splitlines() if line[:1] not in ("#", "")]
        values = [(name, float(value)) for name, value in rows]
        pending = [v for n, v in values if n.startswith("nv_inference_pending_request_count")]
        gpus = [v for n, v in values if n.startswith("nv_gpu_utilization")]
        seen.pending = int(sum(pending)) if pending else None
        seen.gpu_share = sum(gpus) / len(gpus) if gpus else None

    def _read_process(self, seen: ServerSecond) -> None:
        try:
            server = self._process or _listening_at(self._port)
            if server is None:
                return
            family = [server, *server.children(recursive=True)]
            times = [p.cpu_times() for p in family]
            used_s = sum(t.user + t.system for t in times)
            seen.memory_bytes = sum(p.memory_info().rss for p in family)
        except psutil.Error:
            self._process = self._cpu = None
            return
        now_s = time.monotonic()
        if self._cpu is not None and now_s > self._cpu[0]:
            seen.cpu_cores = max(0.0, used_s - self._cpu[1]) / (now_s - self._cpu[0])
        self._process, self._cpu = server, (now_s, used_s)


def _counts(rows: Iterable[dict[str, object]]) -> dict[str, int]:
    counts = dict.fromkeys(("success", "fail", "executions", "batched", *STAGES), 0)
    for row in rows:
        stats: dict[str, dict[str, str]] = row["inference_stats"]  # type: ignore[assignment]
        counts["success"] += int(stats["success"]["count"])
        counts["fail"] += int(stats["fail"]["count"])
        counts["executions"] += int(str(row["execution_count"]))
        counts["batched"] += int(str(row["inference_count"]))
        for stage in STAGES:
            counts[stage] += int(stats[stage]["ns"])
    return counts


def _listening_at(port: int) -> psutil.Process | None:
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return psutil.Process(connection.pid) if connection.pid else None
    return None
