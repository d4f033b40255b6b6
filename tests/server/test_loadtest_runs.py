"""The load test against servers whose behaviour is known: does it tell the truth?"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tritonclient.grpc import model_config_pb2

from rt4ksr_client.contract import MODELS
from rt4ksr_loadtest.result import RunResult, read_result
from rt4ksr_server import TritonServer
from support.nearest_models import nearest_config
from support.processes import becomes_true

pytestmark = pytest.mark.server

PROGRAM = (sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "loadtest")
FRAME = ("--frame-size", "256x128")
FRAMES_PER_ANSWER = 512 * 256 / (3840 * 2160)
X2 = MODELS["rt4ksr_x2"]
CALIBRATED_MODEL = Path(__file__).parents[1] / "support" / "calibrated_model.py"

ServerFactory = Callable[..., AbstractContextManager[TritonServer]]


@pytest.fixture
def calibrated(nearest_repository: Callable[..., Path]) -> ServerFactory:
    """Servers that wait ``delay_s`` in each of ``instances``, and answer wrongly now and then."""

    @contextmanager
    def serve(
        *, delay_s: float = 0.0, instances: int = 1, wrong_every: int = 0, **ports: Any
    ) -> Iterator[TritonServer]:
        repository = nearest_repository([])
        config = nearest_config(X2, max_batch_size=0)
        config.backend = "python"
        config.ClearField("dynamic_batching")
        for tensor in (config.input[0], config.output[0]):
            tensor.dims[:] = [-1, -1, -1, 3]
        config.instance_group[0].count = instances
        config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
        config.parameters["delay_s"].string_value = str(delay_s)
        config.parameters["wrong_every"].string_value = str(wrong_every)
        version = repository / X2.name / "1"
        version.mkdir(parents=True)
        shutil.copy(CALIBRATED_MODEL, version / "model.py")
        (repository / X2.name / "config.pbtxt").write_text(str(config))
        with TritonServer(repository, **ports) as server:
            yield server

    return serve


def run(
    server: TritonServer, out: Path, *words: str, code: int | None = 0, warm_up: str = "0"
) -> RunResult:
    """Run ``rt4ksr loadtest`` to its end and read its result."""
    done = subprocess.run(
        [*command(server, out, warm_up), *words], capture_output=True, timeout=120
    )
    if code is not None:
        assert done.returncode == code, done.stderr.decode() + done.stdout.decode()
    return read_result(out)


def command(server: TritonServer, out: Path, warm_up: str = "0") -> list[str]:
    metrics = f"http://{server.metrics_url}/metrics"
    known = ["--url", server.grpc_url, "--metrics-url", metrics, "--out", str(out)]
    return [*PROGRAM, *FRAME, *known, "--warm-up", warm_up]


def test_closed_loop_throughput_is_users_by_latency_and_the_totals_are_the_servers(
    calibrated: ServerFactory, tmp_path: Path
) -> None:
    with calibrated(delay_s=0.2, instances=4) as server:
        result = run(server, tmp_path, "--users", "4", "--profile", "steady", "--duration", "10s")

    # Little's law, which holds whatever a busy machine adds to the delay.
    answers_per_s = result.totals.goodput_fps / FRAMES_PER_ANSWER
    assert answers_per_s * result.latency.mean_ms / 1000 == pytest.approx(4, rel=0.05)
    assert 200 <= result.latency.p50_ms <= 1.05 * result.latency.mean_ms
    assert result.totals.failures == {}
    assert result.server is not None
    assert result.server.success_count == result.totals.right
    assert 200 <= result.server.infer_ms <= result.latency.mean_ms < 300
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "report.md").is_file()


def test_open_loop_latency_grows_above_saturation_where_a_closed_loop_stays_flat(
    calibrated: ServerFactory, tmp_path: Path
) -> None:
    # 5 answers a second are possible, 10 requests a second are due: the n-th is due at n * 100 ms
    # and answered at n times what an answer takes, which is 200 ms and what the machine adds.
    steady = ("--profile", "steady", "--duration", "4s")
    with calibrated(delay_s=0.2) as server:
        opened = run(server, tmp_path / "open", *steady, "--fps", "10")
        closed = run(server, tmp_path / "closed", *steady, "--users", "2")

    assert opened.totals.right >= 35
    assert opened.server is not None
    assert opened.server.infer_ms >= 200
    expected_ms = opened.totals.right * (opened.server.infer_ms - 100)
    assert 0.8 * expected_ms <= opened.latency.max_ms <= 1.5 * expected_ms
    assert closed.latency.max_ms < opened.latency.max_ms / 2
    assert opened.totals.achieved_fps < 0.8 * opened.totals.offered_fps
    assert any("above saturation" in warning for warning in opened.warnings)
    growing = [i.p50_ms for i in opened.intervals if i.goodput_fps]
    assert growing[-1] > 1.5 * growing[len(growing) // 2] > 1.5 * growing[0]


def test_wrong_pictures_are_failures_of_their_own_kind(
    calibrated: ServerFactory, tmp_path: Path
) -> None:
    with calibrated(wrong_every=100) as server:
        words = ("--users", "2", "--duration", "5s", "--profile", "steady", "--check-share", "1")
        result = run(server, tmp_path, *words, "--slo-error-share", "0.005", code=1)

    requests = result.totals.requests
    assert requests > 200
    assert result.totals.failures == {"wrong picture": requests // 100}
    verdict = next(v for v in result.verdicts if not v.passed)
    assert verdict.measured == pytest.approx(1.0 if verdict.unit == "%" else 0.01, rel=0.5)


def test_several_processes_add_up_and_one_that_is_killed_is_said(
    calibrated: ServerFactory, tmp_path: Path
) -> None:
    words = ("--users", "4", "--profile", "steady", "--processes", "2")
    with calibrated(delay_s=0.05, instances=4) as server:
        result = run(server, tmp_path / "both", *words, "--duration", "4s")
        before = answered(server)
        started = subprocess.Popen(
            [*command(server, tmp_path / "one"), *words, "--duration", "6s"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert becomes_true(lambda: answered(server) > before + 50, timeout_s=60)
        children = psutil.Process(started.pid).children(recursive=True)
        workers = [
            child for child in children if child.children() == [] and "locust" in child.cmdline()
        ]
        workers[-1].kill()
        assert started.wait(60) in (0, 1)

    assert result.settings.workers == 2
    assert result.server is not None
    assert result.totals.right == result.server.success_count
    survived = read_result(tmp_path / "one")
    assert survived.totals.right > 50
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]


def test_ctrl_c_ends_a_soak_with_its_report_and_leaves_nothing(
    calibrated: ServerFactory, tmp_path: Path
) -> None:
    with calibrated(delay_s=0.05) as server:
        words = ("--profile", "soak", "--users", "2", "--transport", "shm")
        started = subprocess.Popen(
            [*command(server, tmp_path), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert becomes_true(lambda: answered(server) > 20, timeout_s=60)
        generator = psutil.Process(started.pid)
        processes = [generator, *generator.children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGINT)  # as a terminal does
        output, _ = started.communicate(timeout=30)

        assert started.returncode == 0, output.decode()
        assert not regions_of(processes)
    result = read_result(tmp_path)
    assert result.totals.right > 20
    assert result.settings.profile == "soak"
    assert "report.html" in output.decode()


def test_a_server_that_comes_back_is_an_outage_with_its_length(
    calibrated: ServerFactory, tmp_path: Path
) -> None:
    with calibrated() as server:
        port = int(server.grpc_url.rpartition(":")[2])
        words = ("--profile", "steady", "--duration", "14s", "--users", "2", "--transport", "grpc")
        started = subprocess.Popen(
            [*command(server, tmp_path), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert becomes_true(lambda: answered(server) > 20, timeout_s=60)
        gone_s = time.time()
    with calibrated(grpc_port=port):
        back_s = time.time()
        assert started.wait(60) == 1

    result = read_result(tmp_path)
    # One of the two users may be answered while the other's connection is still on its way.
    first, last = result.outages[0], result.outages[-1]
    assert len(result.outages) <= 2
    gone_for_s = last.start_s + last.length_s - first.start_s
    assert gone_for_s == pytest.approx(back_s - gone_s, abs=3)
    assert result.totals.failures["unreachable"] > 0
    assert result.intervals[-1].goodput_fps > 0 or result.intervals[-2].goodput_fps > 0


def test_no_server_and_a_model_that_is_not_served_are_said_at_once(
    nearest_server: TritonServer, tmp_path: Path
) -> None:
    for url, model, said in (
        ("127.0.0.1:9", "rt4ksr_x2", "no Triton server answers"),
        (nearest_server.grpc_url, "rt4ksr_x9", "does not serve rt4ksr_x9"),
    ):
        words = ["--url", url, "--model", model, "--out", str(tmp_path / "out")]
        done = subprocess.run([*PROGRAM, *words], capture_output=True, timeout=60, text=True)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_web_page_starts_a_run_and_shows_its_4k_figures(nearest_server: TritonServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, _, port = address.rpartition(":")
    locustfile = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
    words = ["-m", "locust", "-f", str(locustfile), "--web-host", host, "--web-port", port, *FRAME]
    form = f"user_count=2&spawn_rate=2&host={nearest_server.grpc_url}&transport=grpc&warm_up=0"
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL) as locust:
        try:
            assert becomes_true(lambda: "4k/series" in page(f"{address}/4k"), timeout_s=30)
            assert "rt4ksr" in page(address)  # the tab
            assert json.loads(page(f"{address}/swarm", form.encode()))["success"]
            assert becomes_true(lambda: live(address)["goodput"] > 0, timeout_s=20)
            row, series = live(address), json.loads(page(f"{address}/4k/series"))
            assert row["failed"] == 0
            assert 0 < row["p50"] <= row["p99"]
            assert sum(series["goodput"]) > 0
            assert len(series["goodput"]) == len(series["seconds"]) == len(series["p99"])
            if shutil.which("chromium"):  # the charts are drawn in the browser
                assert drawn_by_chromium(f"http://{address}/4k").count('<path d="M') == 4
        finally:
            locust.send_signal(signal.SIGINT)
        assert locust.wait(30) == 0


def page(address: str, form: bytes | None = None) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}", data=form, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def drawn_by_chromium(url: str) -> str:
    """The page as it is after its scripts ran for some seconds."""
    flags = ("--headless", "--no-sandbox", "--virtual-time-budget=4000", "--dump-dom")
    done = subprocess.run(["chromium", *flags, url], capture_output=True, timeout=60, text=True)
    return done.stdout


def live(address: str) -> dict[str, Any]:
    stats = json.loads(page(f"{address}/stats/requests"))
    row: dict[str, Any] = stats["extended_stats"][0]["data"][0]
    return row


def answered(server: TritonServer) -> int:
    """How many requests it has answered."""
    url = f"http://{server.http_url}/v2/models/{X2.name}/stats"
    with urllib.request.urlopen(url, timeout=5) as answer:
        statistics = json.load(answer)["model_stats"][0]
    return int(statistics["inference_stats"]["success"]["count"])


def regions_of(processes: Iterable[psutil.Process]) -> list[str]:
    """The shared memory that clients in ``processes`` left."""
    pids = {str(process.pid) for process in processes}
    return [path.name for path in Path("/dev/shm").iterdir() if pids & {*path.name.split("_")}]
