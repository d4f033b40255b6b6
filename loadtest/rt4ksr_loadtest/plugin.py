"""Ties a load test to Locust's events; what a locustfile has to import besides the users."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import click
import gevent
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from rt4ksr_client.errors import Rt4ksrError
from rt4ksr_loadtest import run as runs
from rt4ksr_loadtest import web
from rt4ksr_loadtest.machine import server_facts
from rt4ksr_loadtest.options import LoadOptions, add_options, read_options
from rt4ksr_loadtest.profiles import Course
from rt4ksr_loadtest.report import run_summary, write_report
from rt4ksr_loadtest.result import RunResult, write_result
from rt4ksr_loadtest.run import LoadRun, run_of, set_run
from rt4ksr_loadtest.shapes import ProfileShape

__all__ = ["connect"]

MISSED = 1
"""Exit code when an objective is missed, or a request failed where none was given."""


def connect() -> None:
    """Have Locust's events start, feed and end a load test; for a locustfile to call."""
    events.init_command_line_parser.add_listener(_on_parser)
    events.init.add_listener(_on_init)
    events.test_start.add_listener(_on_start)
    events.report_to_master.add_listener(_on_report)
    events.worker_report.add_listener(_on_worker_report)
    events.test_stopping.add_listener(_on_stopping)
    events.test_stop.add_listener(_on_stop)
    events.quitting.add_listener(_on_quitting)


def _on_parser(parser: Any, **_: Any) -> None:
    add_options(parser)


def _on_init(environment: Environment, runner: Any, web_ui: Any, **_: Any) -> None:
    gevent.signal_handler(signal.SIGINT, _interrupt)
    options = _options_or_exit(environment)
    run = LoadRun(environment, options)
    set_run(environment, run)
    if not environment.stop_timeout:
        environment.stop_timeout = options.timeout_s + runs.GRACE_S
    if isinstance(runner, WorkerRunner):
        runner.register_message(runs.DRAIN, _on_drain, concurrent=True)
        return
    if isinstance(runner, MasterRunner):
        runner.register_message(runs.DRAINED, _on_drained)
    if options.profile is not None:
        run.course = Course(
            options, lambda level: run.collected.step(level, run.start_s), run.level_ended
        )
        environment.shape_class = ProfileShape(run.course)
    if web_ui is not None:
        web.extend(web_ui, run)


def _on_start(environment: Environment, **_: Any) -> None:
    run = run_of(environment)
    run.begin(read_options(environment.parsed_options, environment.host))
    if sys.stderr.isatty() and not run.is_worker and environment.web_ui is None:
        gevent.spawn(_show_progress, run)


def _show_progress(run: LoadRun) -> None:
    """Keep one line on the terminal up to date."""
    while not run.draining:
        gevent.sleep(1)
        row, passed_s = web.live_row(run), time.time() - run.start_s
        warm_up = " (warm-up)" if passed_s < run.options.warm_up_s else ""
        line = (
            f"{passed_s:5.0f} s{warm_up}: {row['goodput']} 4K frames/s, p50 {row['p50']} ms, "
            f"p99 {row['p99']} ms, {row['failed']} failures/s"
        )
        click.echo(f"\r{line:<78}", err=True, nl=False)
    click.echo("\nwaiting for the answers under way ...", err=True)


def _on_report(client_id: str, data: dict[str, Any], **_: Any) -> None:
    for run in runs.all_runs():
        data["rt4ksr"] = run.recorder.take()


def _on_worker_report(client_id: str, data: dict[str, Any], **_: Any) -> None:
    for run in runs.all_runs():
        run.absorb(client_id, data.pop("rt4ksr", {}))


def _on_drain(environment: Environment, msg: Any, **_: Any) -> None:
    """As a worker: stop, and send what is left."""
    run = run_of(environment)
    run.drain()
    runner: Any = environment.runner
    runner.send_message(runs.DRAINED, run.recorder.take())


def _on_drained(environment: Environment, msg: Any, **_: Any) -> None:
    run_of(environment).worker_drained(msg.node_id, msg.data)


def _on_stopping(environment: Environment, **_: Any) -> None:
    run_of(environment).drain()


def _on_stop(environment: Environment, **_: Any) -> None:
    _finish(environment)


def _on_quitting(environment: Environment, **_: Any) -> None:
    # After Ctrl-C this comes before Locust stops the users.
    _finish(environment)


def _finish(environment: Environment) -> None:
    run = run_of(environment)
    result = run.finish()
    if result is None:
        return
    environment.process_exit_code = MISSED if _missed(result) else 0
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


def _missed(result: RunResult) -> bool:
    if result.verdicts:
        return not result.passed
    return bool(result.totals.failures) or not result.totals.right


def _interrupt() -> None:
    """Reach Locust's main greenlet, as Ctrl-C does not when it comes while gRPC's code runs."""
    raise KeyboardInterrupt


def _options_or_exit(environment: Environment) -> LoadOptions:
    """Check the options, and that a server answers, before anything is started."""
    try:
        options = read_options(environment.parsed_options, environment.host)
        parsed: Any = environment.parsed_options
        if parsed.headless and not isinstance(environment.runner, WorkerRunner):
            runs.cooperative_grpc()
            _check_models(options)
    except (Rt4ksrError, ValueError) as exc:
        click.echo(f"rt4ksr: error: {exc}", err=True)
        sys.exit(1)
    return options


def _check_models(options: LoadOptions) -> None:
    served = {model.name for model in server_facts(options).models if model.ready}
    if missing := sorted(set(options.shares) - served):
        known = ", ".join(sorted(served)) or "none"
        raise Rt4ksrError(f"{options.url} does not serve {', '.join(missing)} (it has: {known})")
