"""The options of a load test: one table for ``rt4ksr loadtest``, Locust's command line and its
web form.

Each field of :class:`LoadOptions` with an :func:`option` is a row of :data:`OPTIONS`, from which
all three are made. To add an option, add a field.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final, get_args

from rt4ksr_client.cli.security import FILE_OPTIONS, read_security
from rt4ksr_client.connection import DEFAULT_URL, Connection, TransportName
from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.objectives import Objectives, load_objectives
from rt4ksr_loadtest.option_values import (
    frame_side,
    frame_size,
    model_shares,
    positive,
    positive_seconds,
    scale_shares,
    seconds,
    share,
)

__all__ = [
    "ARRIVALS",
    "OPTIONS",
    "PROFILES",
    "LoadOptions",
    "Option",
    "add_arguments",
    "option",
    "read_options",
]

PROFILES: Final = ("smoke", "steady", "ramp", "spike", "soak", "saturate")
ARRIVALS: Final = ("constant", "poisson")


@dataclass(frozen=True)
class Option:
    """An option, as a user sees it.

    Args:
        flag: as typed, e.g. ``--frame-size``.
        parse: turns the text a user gave into a value; raises ValueError for text it rejects.
        help: one or two sentences for the help and the form; no percent sign, which argparse
            would interpret.
        default: as text; empty means "not given", and the value is then None.
        metavar: name or unit of the value in the help, e.g. ``PX``.
        choices: the only texts allowed; empty if there are too many to list.
        locust_flag: the flag under Locust where Locust has another option called ``flag``.
        in_form: whether Locust's web form has it.
        env_var: environment variable that it may be given in, too.

    """

    flag: str
    parse: Callable[[str], Any]
    help: str
    default: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    locust_flag: str = ""
    in_form: bool = True
    env_var: str = ""

    @property
    def name(self) -> str:
        """The name that command lines and the form keep its value under."""
        return (self.locust_flag or self.flag).removeprefix("--").replace("-", "_")

    def read(self, text: str) -> Any:
        """Return the value of ``text``; None if it is empty.

        Raises:
            LoadTestError: the text is not a valid value.

        """
        if not text:
            return None
        try:
            return self.parse(text)
        except ValueError as exc:
            raise LoadTestError(f"{self.flag} {text}: {exc}") from exc


def option(
    flag: str,
    parse: Callable[[str], Any],
    help: str,  # noqa: A002 - as click and argparse call it
    **row: Any,
) -> dict[str, Option]:
    """Return the metadata of a field whose value comes from an :class:`Option`."""
    return {"option": Option(flag, parse, help, **row)}


def file_option(flag: str) -> dict[str, Option]:
    """Return the metadata of a field for one of :data:`FILE_OPTIONS`.

    The form has none: they are files of the machines that generate the load.
    """
    variable, text = FILE_OPTIONS[flag]
    return option(flag, Path, text, metavar="FILE", env_var=variable, in_form=False)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options of one run. ``users`` is the number of concurrent users, Locust's own option.

    Raises:
        LoadTestError: options that exclude each other, or objectives that cannot be read.

    """

    url: str
    users: int
    scale: dict[str, float] = field(
        metadata=option(
            "--scale",
            scale_shares,
            "Scale to upscale by: 2, 3, or a weighted mix such as 2:3,3:1.",
            default="2",
            metavar="SCALES",
        )
    )
    model: dict[str, float] | None = field(
        metadata=option(
            "--model",
            model_shares,
            "Use the model NAME instead of the default for --scale, or a weighted mix such as "
            "rt4ksr_x2:3,rt4ksr_x2_video:1. Models of 4:2:0 video get frames in 4:2:0.",
            metavar="NAMES",
        )
    )
    transport: TransportName = field(
        metadata=option(
            "--transport",
            str,
            "How requests reach the server. auto uses shared memory on the same machine, otherwise "
            "what the address says.",
            default="auto",
            choices=get_args(TransportName),
        )
    )
    frames: Path | None = field(
        metadata=option(
            "--frames",
            Path,
            "Send frames of a picture, a video or a folder of pictures. Default: generated frames.",
            metavar="PATH",
        )
    )
    frame_px: tuple[int, int] | None = field(
        metadata=option(
            "--frame-size",
            frame_size,
            "Size of generated frames. Default: the size the model is made for.",
            metavar="WxH",
        )
    )
    tile_px: int | None = field(
        metadata=option(
            "--tile-px",
            frame_side,
            "Send square tiles of this side instead of whole frames.",
            metavar="PX",
        )
    )
    rate_fps: float | None = field(
        metadata=option(
            "--fps",
            positive,
            "Open loop: frames per second of all users together. Default: closed loop.",
            metavar="FPS",
        )
    )
    arrivals: str = field(
        metadata=option(
            "--arrivals",
            str,
            "Open loop: frames are due at equal intervals (constant) or at random (poisson).",
            default="constant",
            choices=ARRIVALS,
        )
    )
    profile: str | None = field(
        metadata=option(
            "--profile",
            str,
            "Load over time: smoke (10 s), steady (60 s), ramp, spike, soak (10 min), or saturate: "
            "more and more users until throughput stops rising or the latency objective is missed.",
            choices=PROFILES,
            locust_flag="--load-profile",  # Locust's --profile is something else
            in_form=False,
        )
    )
    duration_s: float | None = field(
        metadata=option(
            "--duration",
            positive_seconds,
            "Duration of the profile, e.g. 90, 120s or 10m. Default: the profile's own.",
            metavar="TIME",
        )
    )
    step_s: float = field(
        metadata=option(
            "--step",
            positive_seconds,
            "Duration of each step of ramp and saturate.",
            default="10s",
            metavar="TIME",
        )
    )
    warm_up_s: float = field(
        metadata=option(
            "--warm-up",
            seconds,
            "Duration of the warm-up, which no figure includes.",
            default="5s",
            metavar="TIME",
        )
    )
    check_share: float = field(
        metadata=option(
            "--check-share",
            share,
            "Share of the answers, 0 to 1, to compare pixel by pixel. Shape and stamp are always "
            "checked.",
            default="0.1",
            metavar="SHARE",
        )
    )
    timeout_s: float = field(
        metadata=option(
            "--request-timeout",
            positive_seconds,
            "Deadline per request.",
            default="60s",
            metavar="TIME",
        )
    )
    ca_file: Path | None = field(metadata=file_option("--ca-file"))
    cert_file: Path | None = field(metadata=file_option("--cert-file"))
    key_file: Path | None = field(metadata=file_option("--key-file"))
    header_file: Path | None = field(metadata=file_option("--header-file"))
    metrics_url: str | None = field(
        metadata=option(
            "--metrics-url",
            str,
            "Address of Triton's metrics. Default: port 8002 of the server.",
            metavar="URL",
        )
    )
    slo: Path | None = field(
        metadata=option(
            "--slo",
            Path,
            "TOML file with objectives: p99_ms, goodput_fps, error_share.",
            metavar="FILE",
        )
    )
    slo_p99_ms: float | None = field(
        metadata=option(
            "--slo-p99-ms", positive, "Objective: p99 latency at most this.", metavar="MS"
        )
    )
    slo_goodput_fps: float | None = field(
        metadata=option(
            "--slo-goodput-fps",
            positive,
            "Objective: at least this many correct 4K frames per second.",
            metavar="FPS",
        )
    )
    slo_error_share: float | None = field(
        metadata=option(
            "--slo-error-share",
            share,
            "Objective: at most this share of the requests fails, 0 to 1.",
            metavar="SHARE",
        )
    )
    out: Path | None = field(
        metadata=option(
            "--out", Path, "Folder for result.json, report.html and report.md.", metavar="FOLDER"
        )
    )

    def __post_init__(self) -> None:
        """Fail now, not after the run."""
        _ = self.connection, self.objectives

    @cached_property
    def connection(self) -> Connection:
        """The way to the server or servers; headers come from the environment and a file."""
        try:
            security = read_security(
                ca_file=self.ca_file,
                cert_file=self.cert_file,
                key_file=self.key_file,
                header_file=self.header_file,
            )
            return Connection(self.url, self.transport, timeout_s=self.timeout_s, security=security)
        except ValueError as exc:
            raise LoadTestError(str(exc)) from exc

    @cached_property
    def objectives(self) -> Objectives:
        """Those of the file, overridden by those given one by one."""
        return load_objectives(
            self.slo,
            p99_ms=self.slo_p99_ms,
            goodput_fps=self.slo_goodput_fps,
            error_share=self.slo_error_share,
        )

    @property
    def shares(self) -> Mapping[str, float]:
        """Model name to its share of the requests; the shares sum to 1."""
        return self.model or self.scale

    @property
    def is_open(self) -> bool:
        """Whether the loop is open: requests are due at times fixed ahead."""
        return self.rate_fps is not None

    @property
    def rate_fps_per_user(self) -> float:
        """Rate of one user of the open loop."""
        return (self.rate_fps or 0.0) / self.users


BY_FIELD: Final[dict[str, Option]] = {
    each.name: each.metadata["option"] for each in fields(LoadOptions) if each.metadata
}
OPTIONS: Final = tuple(BY_FIELD.values())


def add_arguments(parser: Any) -> None:
    """Add :data:`OPTIONS` to Locust's parser, an argparse one from which the form is made too.

    Values stay text until :func:`read_options`, because Locust keeps the type of the default when
    it takes a value from the form.
    """
    for row in OPTIONS:
        default = os.environ.get(row.env_var, row.default)
        arguments: dict[str, Any] = {"default": default, "help": row.help}
        if row.choices:
            arguments["choices"] = row.choices if row.default else ("", *row.choices)
        else:
            arguments["metavar"] = row.metavar
        parser.add_argument(row.locust_flag or row.flag, include_in_web_ui=row.in_form, **arguments)


def read_options(parsed: Any, host: str | None) -> LoadOptions:
    """Read what Locust parsed from its command line or the form.

    Raises:
        LoadTestError: an option has no valid value.

    """
    values = {field: row.read(getattr(parsed, row.name)) for field, row in BY_FIELD.items()}
    return LoadOptions(url=host or DEFAULT_URL, users=parsed.num_users or 1, **values)
