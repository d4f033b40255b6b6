"""The load test as Locust loads it: ``locust -f locustfile.py --host 127.0.0.1:8001``.

Locust's events start, feed and end a :class:`LoadRun`.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
import gevent
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from rt4ksr_client.errors import LoadTestError, Rt4ksrError
from rt4ksr_client.served_model import ServedModel
from rt4ksr_loadtest import web_ui as our_web_ui
from rt4ksr_loadtest.destination import check_destination
from rt4ksr_loadtest.load.frames import load_frames, request_size_px
from rt4ksr_loadtest.load.users import FrameUser
from rt4ksr_loadtest.measurement.machines import read_server_status
from rt4ksr_loadtest.options import LoadOptions, add_arguments, read_options
from rt4ksr_loadtest.report import run_summary, write_report
from rt4ksr_loadtest.result import RunResult, check_vacant, write_result
from rt4ksr_loadtest.run import (
    DRAIN,
    DRAINED,
    GRACE_S,
    LoadRun,
    all_runs,
    make_grpc_cooperative,
    run_of,
)

__all__ = ["FrameUser"]

MISSED = 1
"""Exit code if an objective is missed or, without objectives, a request failed."""

logger = logging.getLogger("rt4ksr_loadtest.locustfile")


def prepare(environment: Environment, runner: Any, web_ui: Any, **_: Any) -> None:
    """Check the options and that the server serves the models, before anything is started."""
    gevent.signal_handler(signal.SIGINT, interrupt)
    parsed: Any = environment.parsed_options
    try:
        options = read_options(parsed, environment.host)
        if parsed.headless and not isinstance(runner, WorkerRunner):
            for text in options.connection.unencrypted():
                click.echo(f"rt4ksr: warning: {text}", err=True)
            make_grpc_cooperative()
            check_sizes(options, served_models(options))
    except (Rt4ksrError, ValueError) as exc:
        click.echo(f"rt4ksr: error: {exc}", err=True)
        sys.exit(1)
    run = LoadRun(environment, options)
    if not environment.stop_timeout:
        environment.stop_timeout = options.timeout_s + GRACE_S
    if isinstance(runner, WorkerRunner):
        runner.register_message(DRAIN, drain_worker, concurrent=True)
        return
    if isinstance(runner, MasterRunner):
        runner.register_message(DRAINED, absorb_drained_worker)
    if options.profile is not None:
        run.follow_profile()
    if web_ui is not None:
        our_web_ui.extend(web_ui, run)


def begin(environment: Environment, **_: Any) -> None:
    """Begin the run with the options that the form may have changed."""
    run, runner = run_of(environment), environment.runner
    try:
        options = read_options(environment.parsed_options, environment.host)
        check_destination(options, run.given)
        if environment.web_ui is not None:
            make_grpc_cooperative()
            if options.out is not None:
                check_vacant(options.out)
            check_sizes(options, served_models(options))
    except Rt4ksrError as exc:
        logger.error("the run was not started: %s", exc)
        run.draining = True
        if runner is not None:
            gevent.spawn(runner.stop)
        return
    run.begin(options)
    if sys.stderr.isatty() and not run.is_worker and environment.web_ui is None:
        gevent.spawn(show_progress, run)


def report_to_master(client_id: str, data: dict[str, Any], **_: Any) -> None:
    """As a worker: send what was recorded since the last report."""
    for run in all_runs():
        data["rt4ksr"] = run.recorder.take()


def absorb_worker(client_id: str, data: dict[str, Any], **_: Any) -> None:
    """As the master: add what a worker recorded."""
    for run in all_runs():
        run.absorb(client_id, data.pop("rt4ksr", {}))


def drain_worker(environment: Environment, msg: Any, **_: Any) -> None:
    """As a worker: stop, and send the last seconds."""
    run = run_of(environment)
    run.drain()
    runner: Any = environment.runner
    runner.send_message(DRAINED, run.recorder.take())


def absorb_drained_worker(environment: Environment, msg: Any, **_: Any) -> None:
    """As the master: add the last seconds of a worker."""
    run_of(environment).worker_drained(msg.node_id, msg.data)


def drain(environment: Environment, **_: Any) -> None:
    """Send nothing more."""
    run_of(environment).drain()


def finish(environment: Environment, **_: Any) -> None:
    """Report the result, once, and set the exit code."""
    run = run_of(environment)
    result = run.finish()
    if result is None:
        return
    environment.process_exit_code = MISSED if is_missed(result) else 0
    page = None
    try:
        if run.options.out is not None:
            write_result(result, run.options.out / "result.json")
            page = write_report(result, run.options.out)
    except Rt4ksrError as exc:
        click.echo(f"rt4ksr: error: {exc}", err=True)
        environment.process_exit_code = MISSED
    click.echo(f"\n{run_summary(result)}")
    if page is not None:
        click.echo(f"report: {page}")


def is_missed(result: RunResult) -> bool:
    """Whether an objective was missed or, without objectives, a request failed."""
    if result.verdicts:
        return not result.passed
    return bool(result.totals.failures) or not result.totals.right


def interrupt() -> None:
    """Raise in Locust's main greenlet, which Ctrl-C does not reach while gRPC's code runs."""
    raise KeyboardInterrupt


def served_models(options: LoadOptions) -> list[ServedModel]:
    """Return every model of the run as the server describes it.

    Raises:
        ServerError: no answer.
        Rt4ksrError: a model is missing, or does not take frames.

    """
    ready = {model.name: model for model in read_server_status(options).models if model.ready}
    if missing := sorted(set(options.shares) - set(ready)):
        known = ", ".join(sorted(ready)) or "none"
        raise Rt4ksrError(f"{options.url} does not serve {', '.join(missing)} (it has: {known})")
    served = [model.served for name, model in ready.items() if name in options.shares]
    networks = [model for model in served if model is not None]
    if others := sorted(set(options.shares) - {model.name for model in networks}):
        raise Rt4ksrError(f"{', '.join(others)}: not a model that takes frames")
    return networks


def check_sizes(options: LoadOptions, models: Sequence[ServedModel]) -> None:
    """Check that every model of the run takes frames as large as those that it will get.

    Raises:
        LoadTestError: a model does not, or there are no frames.

    """
    for model in models:
        sizes_px = {request_size_px(options, model.name)}
        if options.frames is not None:
            loaded = load_frames(options.frames, options.tile_px, model)
            if options.tile_px is None:
                sizes_px = {frame.size_px for frame in loaded}
        for width_px, height_px in sorted(sizes_px):
            shapes = [tensor.shape(1, height_px, width_px) for tensor in model.inputs]
            if violation := model.violation(shapes):
                raise LoadTestError(
                    f"{model.name} does not take frames of {width_px}x{height_px}: {violation}: "
                    "choose --tile-px or another size of frames"
                )


def show_progress(run: LoadRun) -> None:
    """Keep one line on the terminal up to date."""
    started_s = time.time()
    while not run.draining:
        gevent.sleep(1)
        row, passed_s = our_web_ui.live_row(run), time.time() - started_s
        warm_up = " (warm-up)" if passed_s < run.options.warm_up_s else ""
        line = (
            f"{passed_s:5.0f} s{warm_up}: {row['goodput']} 4K frames/s, p50 {row['p50']} ms, "
            f"p99 {row['p99']} ms, {row['failed']} failures/s"
        )
        click.echo(f"\r{line:<78}", err=True, nl=False)
    click.echo("\nwaiting for the answers in flight ...", err=True)


events.init_command_line_parser.add_listener(add_arguments)
events.init.add_listener(prepare)
events.test_start.add_listener(begin)
events.report_to_master.add_listener(report_to_master)
events.worker_report.add_listener(absorb_worker)
events.test_stopping.add_listener(drain)
events.test_stop.add_listener(finish)
events.quitting.add_listener(finish)  # after Ctrl-C it comes before Locust stops the users
