"""The load test against servers of known behaviour: are its figures right?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
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
from support.servers import RepositoryFactory, ServerFactory

PROGRAM = (sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "loadtest")
FRAME = ("--frame-size", "256x128")
FRAMES_PER_ANSWER = 512 * 256 / (3840 * 2160)
X2 = MODELS["rt4ksr_x2"]
CALIBRATED_MODEL = Path(__file__).parents[1] / "support" / "calibrated_model.py"


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """Each of ``instances`` waits ``delay_s``; every ``wrong_every``-th answer is wrong."""

    delay_s: float
    instances: int = 1
    wrong_every: int = 0


MODELS_OF_KNOWN_BEHAVIOUR = {
    "four_at_once": Behaviour(0.2, instances=4),
    "one_at_a_time": Behaviour(0.2),
    "another_one_at_a_time": Behaviour(0.2),
    "four_soon": Behaviour(0.05, instances=4),
    "wrong_now_and_then": Behaviour(0.01, wrong_every=100),
    "small_frames": Behaviour(0.01),
}


@pytest.fixture(scope="module")
def server(server_with: ServerFactory, nearest_repository: RepositoryFactory) -> Iterator[Any]:
    """A server of the models of known behaviour."""
    repository = nearest_repository([])
    for name, behaviour in MODELS_OF_KNOWN_BEHAVIOUR.items():
        config = nearest_config(dataclasses.replace(X2, name=name), max_batch_size=0)
        config.backend = "python"
        config.ClearField("dynamic_batching")
        for tensor in (config.input[0], config.output[0]):
            tensor.dims[:] = [-1, -1, -1, 3]
        config.instance_group[0].count = behaviour.instances
        config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
        config.parameters["delay_s"].string_value = str(behaviour.delay_s)
        config.parameters["wrong_every"].string_value = str(behaviour.wrong_every)
        if name == "small_frames":
            config.parameters["max_side_px"].string_value = "200"
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copy(CALIBRATED_MODEL, version / "model.py")
        (repository / name / "config.pbtxt").write_text(str(config))
    with server_with(repository) as running:
        yield running


class LoadTest:
    """A running ``rt4ksr loadtest``; killed at the end of its block if it runs until then."""

    def __init__(self, server: TritonServer, out: Path, model: str, words: Sequence[str]) -> None:
        metrics = f"http://{server.metrics_url}/metrics"
        known = ("--url", server.grpc_url, "--metrics-url", metrics, "--model", model)
        self._out = out
        self.output = ""
        self.process = subprocess.Popen(
            [*PROGRAM, *FRAME, *known, "--warm-up", "0", "--out", str(out), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )

    def __enter__(self) -> LoadTest:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def processes(self) -> list[psutil.Process]:
        """Its processes, the first of all first."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def interrupt(self) -> None:
        """Send Ctrl-C as a terminal does: to all processes."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> None:
        """Wait for its end."""
        if self.process.returncode is None:
            self.output, _ = self.process.communicate(timeout=120)

    def result(self, exit_code: int | None = 0) -> RunResult:
        """Wait for its end and read what it found."""
        self.wait()
        assert exit_code in (None, self.process.returncode), self.output
        return read_result(self._out)


def run_together(server: TritonServer, out: Path, *tests: tuple[str, ...]) -> list[LoadTest]:
    """Run load tests, each with the model that is named first, until the last one's end.

    Each starts when the one before has answers, because starting takes the processor's time.
    """
    with contextlib.ExitStack() as stack:
        started = []
        for model, *words in tests:
            test = stack.enter_context(LoadTest(server, out / model, model, words))
            started.append(test)
            assert becomes_true(partial(answered, server, model), timeout_s=60)
        for test in started:
            test.wait()
        return started


@dataclasses.dataclass(frozen=True)
class CalibratedRuns:
    """Runs with models that take their time."""

    closed: RunResult
    opened: RunResult
    flat: RunResult
    folder: Path


@pytest.fixture(scope="module")
def calibrated(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> CalibratedRuns:
    folder = tmp_path_factory.mktemp("calibrated")
    steady = ("--profile", "steady", "--duration")
    runs = run_together(
        server,
        folder,
        ("four_at_once", *steady, "10s", "--users", "4"),
        ("another_one_at_a_time", *steady, "4s", "--users", "2"),
        # 5 answers a second are possible, 10 requests a second are due: the n-th is due at
        # n * 100 ms and answered at n times what an answer takes, which is 200 ms and what the
        # machine adds.
        ("one_at_a_time", *steady, "4.5s", "--fps", "10"),
    )
    closed, flat, opened = (run.result() for run in runs)
    return CalibratedRuns(closed, opened, flat, folder)


def test_the_result_has_no_gpus_where_the_server_sees_none(calibrated: CalibratedRuns) -> None:
    assert calibrated.closed.machine.gpus == ()


def test_closed_loop_throughput_is_users_by_latency_and_the_server_counts_the_same(
    calibrated: CalibratedRuns,
) -> None:
    result = calibrated.closed

    # Little's law, which holds whatever a busy machine adds to the delay.
    answers_per_s = result.totals.goodput_fps / FRAMES_PER_ANSWER
    assert answers_per_s * result.latency.mean_ms / 1000 == pytest.approx(4, rel=0.05)
    assert 200 <= result.latency.p50_ms <= 1.05 * result.latency.mean_ms
    assert result.totals.failures == {}
    assert result.server is not None
    assert result.server.success_count == result.totals.right
    assert 200 <= result.server.infer_ms <= result.latency.mean_ms < 300
    assert (calibrated.folder / "four_at_once" / "report.html").is_file()
    assert (calibrated.folder / "four_at_once" / "report.md").is_file()


def test_open_loop_latency_grows_above_saturation_where_a_closed_loop_stays_flat(
    calibrated: CalibratedRuns,
) -> None:
    opened, closed = calibrated.opened, calibrated.flat

    assert opened.totals.right >= 35
    assert opened.server is not None
    assert opened.server.infer_ms >= 200
    expected_ms = opened.totals.right * (opened.server.infer_ms - 100)
    assert 0.8 * expected_ms <= opened.latency.max_ms <= 1.5 * expected_ms
    assert closed.latency.max_ms < opened.latency.max_ms / 2
    assert opened.totals.achieved_fps < 0.8 * opened.totals.offered_fps
    assert any("above saturation" in warning for warning in opened.warnings)
    first, *_, last = with_answers = [i for i in opened.intervals if i.goodput_fps]
    middle = next(i for i in reversed(with_answers) if i.start_s <= last.start_s / 2)
    assert last.p50_ms > 1.5 * middle.p50_ms > 1.5 * first.p50_ms


def test_wrong_pictures_are_failures_of_their_own_kind_and_several_processes_add_up(
    server: TritonServer, tmp_path: Path
) -> None:
    steady = ("--profile", "steady", "--users", "4", "--duration")
    checked = ("--check-share", "1", "--slo-error-share", "0.005")
    wrong_run, both_run = run_together(
        server,
        tmp_path,
        ("wrong_now_and_then", *steady, "4s", *checked),
        ("four_soon", *steady, "4s", "--processes", "2"),
    )
    wrong, both = wrong_run.result(exit_code=1), both_run.result()

    requests = wrong.totals.requests
    assert requests > 200
    assert wrong.totals.failures == {"wrong picture": requests // 100}
    verdict = next(v for v in wrong.verdicts if not v.passed)
    assert verdict.measured == pytest.approx(1.0 if verdict.unit == "%" else 0.01, rel=0.5)

    assert both.settings.workers == 2
    assert both.server is not None
    assert both.totals.right == both.server.success_count > 0
    assert both.totals.failures == {}


def test_a_run_survives_the_death_of_a_worker(server: TritonServer, tmp_path: Path) -> None:
    before = answered(server, "four_soon")
    words = ("--users", "4", "--profile", "steady", "--processes", "2", "--duration", "4s")
    with LoadTest(server, tmp_path / "out", "four_soon", words) as run:
        assert becomes_true(lambda: answered(server, "four_soon") > before + 50, timeout_s=60)
        children = run.processes()[1:]
        workers = [
            child for child in children if not child.children() and "locust" in child.cmdline()
        ]
        workers[-1].kill()
        result = run.result(exit_code=None)

    assert run.process.returncode in (0, 1)
    assert result.totals.right > 50
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]


def test_ctrl_c_ends_a_soak_with_its_report_and_leaves_nothing(
    server: TritonServer, tmp_path: Path
) -> None:
    before = answered(server, "four_soon")
    words = ("--profile", "soak", "--users", "4", "--transport", "shm")
    with LoadTest(server, tmp_path / "out", "four_soon", words) as run:
        assert becomes_true(lambda: answered(server, "four_soon") > before + 20, timeout_s=60)
        processes = run.processes()
        run.interrupt()
        result = run.result()

    assert result.totals.right > 20
    assert result.settings.profile == "soak"
    assert "report.html" in run.output
    names = [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("rt4ksr_")]
    assert not [name for name in names for owner in processes if f"_{owner.pid}_" in name]


def test_a_restarted_server_is_an_outage_of_the_time_it_was_gone(
    nearest_repository: RepositoryFactory, tmp_path: Path
) -> None:
    repository = nearest_repository([X2])
    with contextlib.ExitStack() as stack:
        with TritonServer(repository) as first:
            port = int(first.grpc_url.rpartition(":")[2])
            words = ("--profile", "soak", "--users", "2", "--transport", "grpc")
            run = stack.enter_context(LoadTest(first, tmp_path / "out", X2.name, words))
            assert becomes_true(lambda: answered(first) > 20, timeout_s=60)
            gone_s = time.time()
        with TritonServer(repository, grpc_port=port) as second:
            back_s = time.time()
            assert becomes_true(lambda: answered(second) > 20, timeout_s=60)
            time.sleep(1)  # so that a whole second of the restarted server is in the result
            run.interrupt()
            result = run.result(exit_code=1)

    # One of the two users may be answered while the other's connection is still being opened.
    first_outage, last_outage = result.outages[0], result.outages[-1]
    assert len(result.outages) <= 2
    gone_for_s = last_outage.start_s + last_outage.length_s - first_outage.start_s
    assert gone_for_s == pytest.approx(back_s - gone_s, abs=3)
    assert result.totals.failures["unreachable"] > 0
    assert result.intervals[-1].goodput_fps > 0 or result.intervals[-2].goodput_fps > 0


def test_a_missing_server_or_model_is_an_error_before_the_run(
    server: TritonServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cases = (
        ("127.0.0.1:9", "rt4ksr_x2", "no Triton server answers"),
        (server.grpc_url, "rt4ksr_x9", "does not serve rt4ksr_x9"),
    )
    started = [
        subprocess.Popen(
            [*PROGRAM, "--url", url, "--model", model, "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for url, model, _ in cases
    ]
    for process, (_, _, message) in zip(started, cases, strict=True):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert message in errors
        assert "Traceback" not in errors
    assert not out.exists()


def test_frames_larger_than_the_model_takes_are_rejected_before_the_run(
    server: TritonServer, tmp_path: Path
) -> None:
    with LoadTest(server, tmp_path / "out", "small_frames", []) as run:
        run.wait()
    assert run.process.returncode == 1
    assert "small_frames does not take frames of 256x128: a side must not exceed 200" in run.output
    assert "choose --tile-px" in run.output
    assert not (tmp_path / "out").exists()


@pytest.fixture
def web_page(server: TritonServer) -> Iterator[str]:
    """The address of Locust's web page, without a run yet."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, _, port = address.rpartition(":")
    locustfile = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
    words = ["-m", "locust", "-f", str(locustfile), "--web-host", host, "--web-port", port, *FRAME]
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL) as locust:
        try:
            assert becomes_true(lambda: "4k/series" in page(f"{address}/4k"), timeout_s=30)
            yield address
        finally:
            locust.send_signal(signal.SIGINT)
        assert locust.wait(30) == 0


def test_the_web_page_starts_a_run_and_shows_its_4k_figures(
    web_page: str, server: TritonServer
) -> None:
    assert "rt4ksr" in page(web_page)  # the tab
    assert json.loads(page(f"{web_page}/4k/series"))["seconds"] == []
    form = f"user_count=2&spawn_rate=2&host={server.grpc_url}&transport=grpc&model=four_soon"

    # A value that only the form can have is rejected, and the next run starts all the same.
    assert json.loads(page(f"{web_page}/swarm", f"{form}&warm_up=soon".encode()))["success"]
    assert becomes_true(lambda: "--warm-up soon: expected seconds" in page(f"{web_page}/logs"))
    assert becomes_true(lambda: state(web_page) == "stopped")
    assert json.loads(page(f"{web_page}/swarm", f"{form}&warm_up=0".encode()))["success"]
    assert becomes_true(lambda: live(web_page)["goodput"] > 0, timeout_s=20)

    row, series = live(web_page), json.loads(page(f"{web_page}/4k/series"))
    assert row["failed"] == 0
    assert 0 < row["p50"] <= row["p99"]
    assert sum(series["goodput"]) > 0
    assert len(series["goodput"]) == len(series["seconds"]) == len(series["p99"])
    if shutil.which("chromium"):  # the charts are drawn in the browser
        assert drawn_by_chromium(f"http://{web_page}/4k").count('<path d="M') == 4


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


def state(address: str) -> str:
    return str(json.loads(page(f"{address}/stats/requests"))["state"])


def live(address: str) -> dict[str, Any]:
    stats = json.loads(page(f"{address}/stats/requests"))
    row: dict[str, Any] = stats["extended_stats"][0]["data"][0]
    return row


def answered(server: TritonServer, model: str = X2.name) -> int:
    """How many requests a model has answered."""
    url = f"http://{server.http_url}/v2/models/{model}/stats"
    with urllib.request.urlopen(url, timeout=5) as answer:
        statistics = json.load(answer)["model_stats"][0]
    return int(statistics["inference_stats"]["success"]["count"])
