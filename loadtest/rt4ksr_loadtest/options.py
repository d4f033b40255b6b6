"""What can be asked for, as Locust options: on the command line, and in the web page's form."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from rt4ksr_client.connection import TransportName
from rt4ksr_client.contract import DEFAULT_MODELS, MODELS
from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.gates import Objectives, load_objectives

__all__ = ["ARRIVALS", "PROFILES", "LoadOptions", "add_options", "read_options"]

PROFILES: Final = ("smoke", "steady", "ramp", "spike", "soak", "saturate")
ARRIVALS: Final = ("constant", "poisson")


@dataclass(frozen=True)
class LoadOptions:
    """One run's options, checked. ``shares``: model name to its share of the requests.

    ``rate_fps`` (of all ``users`` together) makes the loop an open one. ``warm_up_s`` is left out
    of every figure. ``tile_px``: None sends whole frames. ``check_share``: of the answers, whose
    every pixel is compared; shape and the stamp are looked at in all of them.
    """

    url: str
    transport: TransportName
    shares: dict[str, float]
    users: int
    rate_fps: float | None
    arrivals: str
    profile: str | None
    duration_s: float | None
    step_s: float
    warm_up_s: float
    frames: Path | None
    frame_px: tuple[int, int] | None
    tile_px: int | None
    check_share: float
    timeout_s: float
    metrics_url: str | None
    objectives: Objectives
    out: Path | None

    @property
    def is_open(self) -> bool:
        """Whether requests are due at times fixed ahead."""
        return self.rate_fps is not None

    @property
    def rate_fps_per_user(self) -> float:
        """Of one user of the open loop: a stream of its own."""
        return (self.rate_fps or 0.0) / self.users


def add_options(parser: Any) -> None:
    """Add them to Locust's parser (an ``argparse`` one that knows the web page too)."""
    add = parser.add_argument
    add("--scale", default="2", help="2, 3, or a weighted mix such as 2:3,3:1.")
    add("--model", default="", help="A model by name, instead of this project's for the scale.")
    add("--transport", default="auto", choices=get_args(TransportName), help="The way to it.")
    add("--frames", default="", help="Folder of pictures, a picture or a video. Default: made up.")
    add("--frame-size", default="", help="Of made-up frames: WIDTHxHEIGHT. Default: the model's.")
    add("--tile-px", type=int, default=0, help="Send squares of this side instead of frames.")
    add("--fps", type=float, default=0.0, help="Open loop: frames a second of all users together.")
    add("--arrivals", default="constant", choices=ARRIVALS, help="Of the open loop.")
    # Locust has a --profile of its own, which is something else.
    add(
        "--load-profile",
        default="",
        choices=("", *PROFILES),
        help="Course of the load over time, instead of --users for --run-time.",
        include_in_web_ui=False,
    )
    add("--duration", type=_seconds, default=0.0, help="Of a profile, e.g. 90 or 120s or 10m.")
    add("--step", type=_seconds, default=10.0, help="Length of a step of ramp and saturate.")
    add("--warm-up", type=_seconds, default=5.0, help="Left out of every figure.")
    add("--check-share", type=float, default=0.1, help="Answers compared pixel by pixel, 0 to 1.")
    add("--request-timeout", type=_seconds, default=60.0, help="Deadline of a request.")
    add("--metrics-url", default="", help="Triton's metrics. Default: port 8002 of the host.")
    add("--slo", default="", help="TOML file with objectives: p99_ms, goodput_fps, error_share.")
    add("--slo-p99-ms", type=float, default=0.0, help="Objective: 99 % of answers within this.")
    add("--slo-goodput-fps", type=float, default=0.0, help="Objective: at least this many frames.")
    add("--slo-error-share", type=float, default=-1.0, help="Objective: at most this, 0 to 1.")
    add("--out", default="", help="Folder for result.json, report.html and report.md.")


def read_options(parsed: Any, host: str | None) -> LoadOptions:
    """Check what Locust parsed.

    Raises:
        LoadTestError: an option that makes no sense.

    """
    users = parsed.num_users or 1
    try:
        options = LoadOptions(
            url=host or "127.0.0.1:8001",
            transport=parsed.transport,
            shares={parsed.model: 1.0} if parsed.model else _shares(parsed.scale),
            users=users,
            rate_fps=_positive(parsed.fps),
            arrivals=parsed.arrivals,
            profile=parsed.load_profile or None,
            duration_s=_positive(parsed.duration),
            step_s=parsed.step,
            warm_up_s=parsed.warm_up,
            frames=Path(parsed.frames) if parsed.frames else None,
            frame_px=_size(parsed.frame_size),
            tile_px=parsed.tile_px or None,
            check_share=parsed.check_share,
            timeout_s=parsed.request_timeout,
            metrics_url=parsed.metrics_url or None,
            objectives=load_objectives(
                Path(parsed.slo) if parsed.slo else None,
                p99_ms=_positive(parsed.slo_p99_ms),
                goodput_fps=_positive(parsed.slo_goodput_fps),
                error_share=None if parsed.slo_error_share < 0 else parsed.slo_error_share,
            ),
            out=Path(parsed.out) if parsed.out else None,
        )
    except ValueError as exc:
        raise LoadTestError(str(exc)) from exc
    _check(options)
    return options


def _check(options: LoadOptions) -> None:
    if not 0 <= options.check_share <= 1:
        raise LoadTestError(f"--check-share must be within 0..1, got {options.check_share}")
    if options.tile_px is not None and (options.tile_px < 128 or options.tile_px % 2):
        raise LoadTestError(f"--tile-px must be even and at least 128, got {options.tile_px}")
    if options.timeout_s <= 0 or options.step_s <= 0:
        raise LoadTestError("--request-timeout and --step must be positive")


def _positive(value: float) -> float | None:
    """Return None for 0, which stands for an option not given."""
    if value < 0 or not math.isfinite(value):
        raise ValueError(f"{value} must be a positive number")
    return value or None


def _shares(scales: str) -> dict[str, float]:
    """Read ``2`` or ``2:3,3:1``."""
    weights: dict[str, float] = {}
    for part in scales.split(","):
        scale, _, weight = part.strip().partition(":")
        try:
            weights[DEFAULT_MODELS[int(scale)].name] = float(weight or 1)
        except (KeyError, ValueError):
            known = ", ".join(map(str, sorted(DEFAULT_MODELS)))
            raise LoadTestError(
                f"--scale {scales!r}: give {known}, or a mix like 2:3,3:1"
            ) from None
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < math.inf:
        raise LoadTestError(f"--scale {scales!r}: weights must be positive")
    return {name: weight / total for name, weight in weights.items() if weight}


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, _, height = text.lower().partition("x")
    try:
        size = int(width), int(height)
    except ValueError:
        raise ValueError(f"--frame-size {text!r}: expected WIDTHxHEIGHT") from None
    if min(size) < 128 or any(side % 2 for side in size):
        raise ValueError(f"--frame-size {text!r}: sides must be even and at least 128")
    return size


def _seconds(text: str | float) -> float:
    """Read ``90``, ``90s``, ``10m`` or ``1h``."""
    text = str(text).strip()
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        value = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, e.g. 90, 120s, 10m or 1h")
    return value


def nominal_size_px(model: str) -> tuple[int, int]:
    """Width and height of the frames that ``model`` is made for; 1080p for one not of ours."""
    spec = MODELS.get(model)
    return (1920, 1080) if spec is None else (spec.input_width_px, spec.input_height_px)
