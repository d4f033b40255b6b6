"""``rt4ksr live``: upscale a stream, as it comes."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, get_args

import click

from rt4ksr_client.cli.console import print_json, show_picture_warnings
from rt4ksr_client.cli.options import overwrite_option, scale_option, server_options
from rt4ksr_client.cli.server import ServerChoice
from rt4ksr_client.cli.targets import check_target
from rt4ksr_client.cli.video import FrameRate, standard_stream
from rt4ksr_client.contract import models_for
from rt4ksr_client.errors import MissingExtraError, VideoError
from rt4ksr_client.live import LiveOptions, LiveStatistics, Snapshot, upscale_live
from rt4ksr_client.live.options import DEFAULT_LATENCY_S, LIVE_CODECS
from rt4ksr_client.live.sink import format_of
from rt4ksr_client.live.source import is_network
from rt4ksr_client.upscaler import DEFAULT_SCALE
from rt4ksr_client.video.options import AudioChoice

__all__ = ["live"]

STREAM = "-"


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time such as ``300ms`` or ``0.5s``; a bare number is seconds."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([\d.]+)\s*(ms|s|)", str(value).strip())
        try:
            return float(found[1]) / (1000 if found[2] == "ms" else 1)  # type: ignore[index]
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no time: try 300ms or 0.5s", param, ctx)


class Bitrate(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Bits per second, such as ``20M`` or ``800k``."""

    name = "bitrate"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return bits per second."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no bitrate: try 20M or 800k", param, ctx)
        return round(float(found[1]) * {"": 1, "k": 1000, "m": 1_000_000}[found[2].lower()])


@click.command()
@click.argument("source")
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    help="What FFmpeg writes to: rtmp://, rtsp://, udp://, tcp://, a playlist .m3u8, a "
    "file, or - for standard output.",
)
@click.option(
    "--format",
    "form",
    metavar="FORMAT",
    help="FFmpeg's name of the output's format.  [default: by the output; matroska for -]",
)
@scale_option
@click.option(
    "--latency",
    "latency_s",
    type=Duration(),
    default=DEFAULT_LATENCY_S,
    show_default="500ms",
    help="From a frame decoded to the same frame encoded. What the server has not answered by then "
    "is interpolated.",
)
@click.option(
    "--codec",
    type=click.Choice(list(LIVE_CODECS)),
    help="The encoder.  [default: libx264; libx265 for more than 8 bits]",
)
@click.option("--preset", help="Preset of the encoder.  [default: its fastest]")
@click.option(
    "--bitrate",
    "bitrate_bps",
    type=Bitrate(),
    help="Bits per second of the picture: 20M.  [default: 0.1 a pixel, 21M for 4K at 25 frames/s]",
)
@click.option(
    "--gop",
    "gop_s",
    type=Duration(),
    default=2.0,
    show_default="2s",
    help="Time between key frames, at which a receiver can start.",
)
@click.option(
    "--audio",
    type=click.Choice(get_args(AudioChoice)),
    default="copy",
    show_default=True,
    help="Copy the sound, encode it as AAC or Opus, or leave it out.",
)
@click.option("--deinterlace", is_flag=True, help="Deinterlace the source (bwdif).")
@click.option(
    "--fps",
    type=FrameRate(),
    metavar="RATE",
    help="Frame rate of a SOURCE whose frames have no times.",
)
@click.option(
    "--pace", "is_paced", is_flag=True, help="Read a file at its own rate, as if it were live."
)
@click.option(
    "--hold",
    "is_held",
    is_flag=True,
    help="Repeat the last frame while the source is gone. Without it, the output pauses.",
)
@click.option(
    "--input-option",
    "input_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of FFmpeg's for the source, such as fflags=nobuffer. May be given several "
    "times.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Serve metrics for Prometheus at this port of 127.0.0.1.",
)
@overwrite_option("Replace the output if it is a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON, a line a second.")
@server_options
def live(
    source: str,
    target: str,
    scale: int | None,
    metrics_port: int | None,
    overwrite: bool,
    as_json: bool,
    input_options: tuple[str, ...],
    server: ServerChoice,
    **choices: Any,
) -> None:
    """Upscale the stream SOURCE as it comes, at its own rate, whatever the server does.

    \b
    Examples:
      rt4ksr live rtsp://camera/stream -o rtmp://server/app
      rt4ksr live /dev/video0 -o - --format matroska | mpv -
      rt4ksr live udp://127.0.0.1:5000 -o udp://127.0.0.1:6000 --latency 300ms
      rt4ksr live talk.mp4 --pace -o out/stream.m3u8         a file as if it were live; HLS

    SOURCE is anything FFmpeg opens: rtsp://, rtmp://, udp://, tcp://, http://, a playlist,
    /dev/video0, - for standard input, or lavfi:testsrc for a test picture.

    Each frame goes out when its latency is over: by the network if the server has answered, else
    interpolated. Frames that cannot be answered in time are not sent. Source and output are opened
    again when they go away. Ctrl-C ends the output properly.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    show_picture_warnings()
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints errors only
    pairs = [option.partition("=") for option in input_options]
    if bad := [key for key, sign, _ in pairs if not sign]:
        raise click.UsageError(f"--input-option takes KEY=VALUE, got {bad[0]!r}")
    options = LiveOptions(**choices, input_options={key: value for key, _, value in pairs})
    format_of(target, options.form)
    if target != STREAM and not is_network(target):
        check_target(Path(target), overwrite=overwrite)
    connection = dataclasses.replace(server.connection, priority="high")
    server = dataclasses.replace(server, connection=connection)
    statistics, stopped = LiveStatistics(), threading.Event()
    with ExitStack() as stack:
        names = [models_for("video", bits)[scale or DEFAULT_SCALE].name for bits in (8, 16)]
        models = stack.enter_context(server.models(names, scale, "yuv420"))
        by_bits = {found.served_model.bits: found for found in models.served()}
        upscaler = by_bits.get(8) or by_bits[16]
        if metrics_port is not None:
            stack.enter_context(metrics_server(metrics_port, statistics))
        stack.enter_context(stopping_at_signals(stopped))
        show = stack.enter_context(status_line(as_json=as_json, to_stderr=target == STREAM))
        total = upscale_live(
            source,
            target,
            upscaler,
            options,
            deep=by_bits.get(16),
            source_file=standard_stream(0) if source == STREAM else None,
            target_file=standard_stream(1) if target == STREAM else None,
            stopped=stopped,
            statistics=statistics,
            on_status=show,
        )
    if as_json:
        print_json({"total": True, **total.as_dict()}, err=target == STREAM)
        return
    click.echo(
        f"{target}: {total.frames_in} frames in {total.seconds_s:.1f} s: {total.by_network} by the "
        f"network, {total.interpolated} interpolated, {total.held} repeated, {total.dropped} "
        f"dropped, {total.reconnects} reconnects",
        err=target == STREAM,
    )


@contextmanager
def stopping_at_signals(stopped: threading.Event) -> Iterator[None]:
    """Set ``stopped`` at the first SIGINT or SIGTERM; a second one ends the program."""
    before: dict[int, Any] = {}

    def stop(number: int, _: object) -> None:
        stopped.set()
        signal.signal(number, before[number])

    for one in (signal.SIGINT, signal.SIGTERM):
        before[one] = signal.signal(one, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def status_line(*, as_json: bool, to_stderr: bool) -> Iterator[Callable[[Snapshot], None]]:
    """Yield what shows a second's status: on one line of a terminal, or as a line of JSON."""
    if as_json:
        yield lambda snapshot: print_json(snapshot.as_dict(), err=to_stderr)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda snapshot: None
        return
    with Live(console=console, transient=True, auto_refresh=False) as line:
        yield lambda snapshot: line.update(str(snapshot), refresh=True)


@contextmanager
def metrics_server(port: int, statistics: LiveStatistics) -> Iterator[None]:
    """Serve ``statistics`` to Prometheus at 127.0.0.1 during the block.

    Raises:
        MissingExtraError: prometheus-client is not installed.
        VideoError: the port is in use.

    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server

        from rt4ksr_client.live.metrics import StreamCollector
    except ModuleNotFoundError as exc:
        raise MissingExtraError(
            "--metrics-port needs prometheus-client: pip install 'rt4ksr-triton[live]'"
        ) from exc
    registry = CollectorRegistry()
    registry.register(StreamCollector(statistics))
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as exc:
        raise VideoError(f"--metrics-port {port}: {exc.strerror}") from exc
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
