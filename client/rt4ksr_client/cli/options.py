"""Options that several commands share: which server, which scale, how much to log."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from rt4ksr_client.cli.console import log_to_stderr
from rt4ksr_client.cli.security import security_options
from rt4ksr_client.cli.server import ServerChoice, StartPolicy
from rt4ksr_client.connection import (
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    Connection,
    TransportName,
    WireName,
)
from rt4ksr_client.contract import (
    DEFAULT_MODELS,
    DEFAULT_PICTURE_FORMAT,
    PICTURE_FORMATS,
    PictureFormat,
    Priority,
)
from rt4ksr_client.errors import Rt4ksrError
from rt4ksr_client.model_choice import AUTO
from rt4ksr_client.security import Security
from rt4ksr_client.upscaler import DEFAULT_SCALE

__all__ = [
    "SCALES",
    "overwrite_option",
    "scale_option",
    "server_options",
    "verbose_option",
    "verbosity",
]

SCALES = click.Choice([str(scale) for scale in sorted(DEFAULT_MODELS)])
VERBOSITY = "rt4ksr.verbosity"

Decorated = TypeVar("Decorated", bound=Callable[..., Any] | click.Command)


def server_options(function: Decorated) -> Decorated:
    """Add the options that choose the server; the function gets ``server: ServerChoice``."""

    @security_options
    @functools.wraps(function)
    def with_server(
        url: str | None,
        local: bool,
        model: str | None,
        transport: TransportName,
        wire: WireName,
        wire_format: PictureFormat,
        timeout_s: float,
        priority: Priority,
        security: Security,
        **rest: Any,
    ) -> Any:
        if local and url:
            raise click.UsageError("--local starts a server of its own: leave out --url")
        start: StartPolicy = "always" if local else "never" if url else "if_absent"
        try:
            connection = Connection(
                url or DEFAULT_URL,
                transport,
                wire,
                wire_format,
                timeout_s,
                security=security,
                priority=priority,
            )
        except ValueError as exc:
            raise Rt4ksrError(str(exc)) from exc
        named = None if model == AUTO else model
        return function(server=ServerChoice(connection, named, start), **rest)

    options = (
        click.option(
            "--url",
            metavar="HOST:PORT",
            help="Address of the server: its gRPC port, or http://HOST:PORT; with TLS, "
            "grpcs://HOST:PORT or https://HOST/PREFIX; several separated by commas.  "
            f"[default: {DEFAULT_URL}; if no server runs there, one is started for this "
            "call]",
        ),
        click.option(
            "--local",
            is_flag=True,
            help="Start a server for this call. Needs the server extra.",
        ),
        click.option(
            "--model",
            metavar="NAME",
            default=AUTO,
            show_default=True,
            help="Use the model NAME. auto chooses by --scale and, for each picture, by how it was "
            "compressed, among the models that the server has.",
        ),
        click.option(
            "--transport",
            type=click.Choice(get_args(TransportName)),
            default="auto",
            show_default=True,
            help="How requests reach the server. auto uses shared memory on the same machine, "
            "otherwise what --url says.",
        ),
        click.option(
            "--wire",
            type=click.Choice(get_args(WireName)),
            default="raw",
            show_default=True,
            help="Send frames as raw pixels (exact) or as encoded pictures, for links below about "
            "10 Gbit/s. auto measures the link and uses what is faster. The frames of a video are "
            "always sent raw.",
        ),
        click.option(
            "--wire-format",
            type=click.Choice(PICTURE_FORMATS),
            default=DEFAULT_PICTURE_FORMAT,
            show_default=True,
            help="Format of encoded frames. png is exact and slow.",
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(min=0, min_open=True),
            default=DEFAULT_TIMEOUT_S,
            show_default=True,
            metavar="SECONDS",
            help="Deadline per request, including retries.",
        ),
        click.option(
            "--priority",
            type=click.Choice(get_args(Priority)),
            default="normal",
            show_default=True,
            help="In the server's queue, everything of high priority goes first. A live stream "
            "always has it.",
        ),
    )
    decorated: Any = with_server
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def scale_option(function: Decorated) -> Decorated:
    """Add ``--scale``; the function gets ``scale: int | None``."""
    return click.option(
        "--scale",
        type=SCALES,
        callback=lambda context, option, value: None if value is None else int(value),
        help=f"Factor to upscale by.  [default: {DEFAULT_SCALE}, or the scale of --model]",
    )(function)


def overwrite_option(text: str) -> Callable[[Decorated], Decorated]:
    """Return what adds ``--overwrite`` with the help ``text``; the function gets ``overwrite``."""
    return click.option("--overwrite", is_flag=True, help=text)


def verbose_option(decorated: Decorated) -> Decorated:
    """Add ``-v``, which prints the log on stderr; see :func:`verbosity`. The function gets nothing.

    A command adds to what its group was given: ``rt4ksr -v upscale -v`` is ``-vv``.
    """

    def set_verbosity(context: click.Context, option: click.Parameter, count: int) -> None:
        context.meta[VERBOSITY] = context.meta.get(VERBOSITY, 0) + count
        if count:
            level = logging.INFO if verbosity(context) == 1 else logging.DEBUG
            context.with_resource(log_to_stderr(level))

    return click.option(
        "-v",
        "--verbose",
        count=True,
        show_default=False,
        expose_value=False,
        callback=set_verbosity,
        help="Print what happens on stderr: -v choices and retries, -vv every detail.",
    )(decorated)


def verbosity(context: click.Context) -> int:
    """Return how many times ``-v`` was given to a command and its groups."""
    count: int = context.meta.get(VERBOSITY, 0)
    return count
