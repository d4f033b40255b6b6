"""Options that several commands share: which server, which scale."""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import click
from rich.console import Console
from rich.progress import Progress

from rt4ksr_client.cli.server import Models, local_server
from rt4ksr_client.connection import DEFAULT_TIMEOUT_S, DEFAULT_URL, TransportName, WireName
from rt4ksr_client.contract import (
    DEFAULT_MODELS,
    DEFAULT_PICTURE_FORMAT,
    PICTURE_FORMATS,
    Content,
    PictureFormat,
    image_endpoint,
    models_for,
)
from rt4ksr_client.errors import ModelNotReadyError, Rt4ksrError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.upscaler import DEFAULT_SCALE, Upscaler

__all__ = ["SCALES", "ServerChoice", "print_json", "progress_bar", "scale_option", "server_options"]

SCALES = click.Choice([str(scale) for scale in sorted(DEFAULT_MODELS)])

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ServerChoice:
    """What the options of :func:`server_options` say."""

    url: str
    local: bool
    transport: TransportName
    timeout_s: float
    model: str | None
    wire: WireName = "raw"
    wire_format: PictureFormat = DEFAULT_PICTURE_FORMAT

    @contextmanager
    def address(self, *models: str) -> Iterator[str]:
        """Yield the server's address; with ``--local`` one runs ``models`` during the block."""
        if not self.local:
            yield self.url
            return
        endpoints = [image_endpoint(name) for name in models if self.wire != "raw"]
        with local_server(models=[*models, *endpoints]) as url:
            yield url

    @contextmanager
    def upscaler(self, scale: int | None, content: Content = "any") -> Iterator[Upscaler]:
        """Yield an upscaler on that server; a scale of None is the model's, or the default.

        If no model was asked for, it is that for ``content``, where the server has it.
        """
        default = DEFAULT_MODELS[scale or DEFAULT_SCALE].name
        suited = self.model or models_for(content)[scale or DEFAULT_SCALE].name
        with self.address(suited, *([] if self.model else [default])) as url:
            with self._opened(url, scale, suited) as upscaler:
                if self.model or suited == default or _is_served(upscaler):
                    yield upscaler
                    return
            with self._opened(url, scale, default) as upscaler:
                yield upscaler

    @contextmanager
    def observer(self) -> Iterator[Upscaler]:
        """Yield an upscaler to ask the server things; with ``--local`` it runs every model."""
        name = self.model or DEFAULT_MODELS[DEFAULT_SCALE].name
        with self.address() as url, self._opened(url, None, name) as upscaler:
            yield upscaler

    @contextmanager
    def models(self, scale: int | None, *, any_scale: bool) -> Iterator[Models]:
        """Yield the model that was asked for; if none was and ``any_scale``, every scale's."""
        if self.model:
            names = [self.model]
        elif any_scale and scale is None:
            names = [DEFAULT_MODELS[one].name for one in sorted(DEFAULT_MODELS)]
        else:
            names = [DEFAULT_MODELS[scale or DEFAULT_SCALE].name]
        with self.address(*names) as url, ExitStack() as stack:
            yield Models([stack.enter_context(self._opened(url, scale, name)) for name in names])

    def _opened(self, url: str, scale: int | None, model: str) -> Upscaler:
        try:
            return Upscaler(
                url,
                scale=scale,
                model=model,
                transport=self.transport,
                wire=self.wire,
                wire_format=self.wire_format,
                timeout_s=self.timeout_s,
            )
        except ValueError as exc:
            raise Rt4ksrError(str(exc)) from exc


def _is_served(upscaler: Upscaler) -> bool:
    try:
        return bool(upscaler.served_model)
    except ModelNotReadyError:
        return False


def server_options(command: Command) -> Command:
    """Add the options; the command gets ``server: ServerChoice``."""

    @functools.wraps(command)
    def wrapped(
        url: str,
        local: bool,
        transport: TransportName,
        timeout_s: float,
        model: str | None,
        wire: WireName,
        wire_format: PictureFormat,
        **rest: Any,
    ) -> Any:
        choice = ServerChoice(url, local, transport, timeout_s, model, wire, wire_format)
        return command(server=choice, **rest)

    options = (
        click.option("--url", default=DEFAULT_URL, show_default=True, help="The server's address."),
        click.option(
            "--local", is_flag=True, help="Start a server for this call; needs the server extra."
        ),
        click.option(
            "--transport",
            type=click.Choice(get_args(TransportName)),
            default="auto",
            show_default=True,
        ),
        click.option(
            "--wire",
            type=click.Choice(get_args(WireName)),
            default="raw",
            show_default=True,
            help="How frames travel: as they are (exact), or encoded, for links of less than about "
            "10 Gbit/s. auto measures the link and takes what is faster.",
        ),
        click.option(
            "--wire-format",
            type=click.Choice(PICTURE_FORMATS),
            default=DEFAULT_PICTURE_FORMAT,
            show_default=True,
            help="Of encoded frames; png is exact, and slow.",
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(min=0, min_open=True),
            default=DEFAULT_TIMEOUT_S,
            show_default=True,
            help="Seconds to wait for an answer of the server.",
        ),
        click.option("--model", help="A model by name, instead of this project's for the scale."),
    )
    return functools.reduce(lambda function, option: option(function), reversed(options), wrapped)  # type: ignore[return-value]


def scale_option(command: Command) -> Command:
    """Add ``--scale``; the command gets ``scale: int | None``."""
    return click.option(
        "--scale",
        type=SCALES,
        callback=lambda context, option, value: None if value is None else int(value),
        help=f"Default: {DEFAULT_SCALE}, or that of --model.",
    )(command)


def progress_bar(*columns: Any, wanted: bool = True) -> Progress:
    """Return a progress bar on stderr, which draws nothing where nobody looks."""
    visible = wanted and sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True), disable=not visible, transient=True)


def print_json(row: dict[str, Any]) -> None:
    """Print one line for machines; file names that are no text are kept by escapes."""
    click.echo(json.dumps(row, ensure_ascii=True))


def say_warnings() -> None:
    """Print our own warnings on stderr, once each; leave out those of libraries."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, PictureWarning):
            click.echo(f"rt4ksr: warning: {shown(str(message))}", err=True)

    warnings.simplefilter("ignore")
    warnings.simplefilter("always", PictureWarning)
    warnings.showwarning = show  # type: ignore[assignment,unused-ignore]


def shown(text: str | os.PathLike[str]) -> str:
    """Return ``text`` without the bytes that a terminal cannot show."""
    printable = os.fsdecode(text).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in printable)
