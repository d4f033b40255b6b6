"""Frames a second of a screen recording: computing what has changed against every frame whole.

The recording is made here: slides of 1920x1080 with a pointer that moves half of the time, H.264.
Each way goes from file to file (decoder, network, encoder) through a real server on this machine,
in turns, counted from the first frame on. Some results are compared with those of whole frames.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from rt4ksr_client import Upscaler
from rt4ksr_client.frames import Yuv420
from rt4ksr_client.video import Progress, VideoOptions, upscale_video
from rt4ksr_client.video.decoding import Faults
from rt4ksr_client.video.pipeline import upscaled_frames
from rt4ksr_client.video.planes import from_video_frame
from rt4ksr_client.video.source import VideoSource
from rt4ksr_client.video.unchanged import Plan, Savings, UnchangedParts
from rt4ksr_server import TritonServer

ROOT = Path(__file__).parents[1]
MODEL = "rt4ksr_x2_video"
SIZE = 1920, 1080
RATE = 25
SLIDES = 3
SLIDE_FRAMES = 4 * RATE
POINTER = [(0, 0), (0, 32), (8, 25), (13, 37), (18, 35), (13, 23), (24, 23)]
TEXT = "Attention weighs every value by how well its key fits the query"


class EveryFrame(UnchangedParts):
    """Compares no frame with the one before."""

    def plan(self, image: Yuv420) -> Plan:
        """Plan ``image`` whole."""
        self.forget()
        return super().plan(image)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--frames", type=int, default=10, help="frames in a round that computes every frame"
    )
    parser.add_argument("--keep", type=Path, help="keep the recording at this path")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        TritonServer(ROOT / "model_repository", models=[MODEL]) as server,
        Upscaler(server.grpc_url, model=MODEL) as upscaler,
    ):
        recording = arguments.keep or Path(folder) / "recording.mp4"
        record(recording)
        table = Table(title=f"{MODEL}, {upscaler.transport_name}, frames/s", title_justify="left")
        for name in ("every frame", "what has changed", "times", "computed", "frames"):
            table.add_column(name, justify="right")
        for _ in range(arguments.rounds):
            with patch("rt4ksr_client.video.pipeline.UnchangedParts", EveryFrame):
                every, _ = frames_a_second(recording, upscaler, arguments.frames)
            changed, progress = frames_a_second(recording, upscaler, None)
            savings = progress.savings
            table.add_row(
                f"{every:.2f}",
                f"{changed:.2f}",
                f"{changed / every:.1f}",
                f"{savings.computed_share:.1%}",
                f"{savings.whole_frames} whole, {savings.partly_computed_frames} in part, "
                f"{savings.unchanged_frames} unchanged",
            )
        console = Console(width=110)
        console.print(table)
        console.print(difference(recording, upscaler))


def record(path: Path) -> None:
    """Write slides with a moving pointer."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in pictures():
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def pictures() -> Iterator[Image.Image]:
    """Draw the frames."""
    with Image.open(ROOT / "docs" / "pictures" / "nuthatch_720p.jpg") as photograph:
        figure = photograph.resize((640, 360))
    for number in range(SLIDES):
        slide = Image.new("RGB", SIZE, (250, 250, 246))
        draw = ImageDraw.Draw(slide)
        draw.rectangle((0, 0, SIZE[0], 130), fill=(30, 60, 110 + 40 * number))
        draw.text((80, 35), f"Part {number + 1}", (255, 255, 255), ImageFont.load_default(60))
        for line in range(9):
            words = TEXT[5 * ((line + number) % 4) :]
            draw.text((120, 220 + 85 * line), words, (40, 40, 40), ImageFont.load_default(36))
        slide.paste(figure, (1180, 300 + 60 * number))
        for index in range(SLIDE_FRAMES):
            moved = min(index, SLIDE_FRAMES // 2)
            x, y = 300 + 23 * moved, 300 + int(250 * np.sin(moved / 9))
            frame = slide.copy()
            ImageDraw.Draw(frame).polygon(
                [(x + right, y + down) for right, down in POINTER], (0, 0, 0), (255, 255, 255)
            )
            yield frame


def frames_a_second(
    recording: Path, upscaler: Upscaler, frames: int | None
) -> tuple[float, Progress]:
    """Upscale the recording, or the first ``frames`` of it, into a file."""
    options = VideoOptions(preset="ultrafast", frames=frames, segment_frames=10_000)
    times_s = []

    def note(progress: Progress) -> None:
        if progress.done:
            times_s.append(perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "large.mkv"
        progress = upscale_video(recording, target, upscaler, options, on_progress=note)
    return (len(times_s) - 1) / (times_s[-1] - times_s[0]), progress


def difference(recording: Path, upscaler: Upscaler) -> str:
    """Compare one frame a second with what the network makes of it in one piece."""
    options = VideoOptions()
    source = VideoSource.probe(recording, options)
    frames = source.frames(options, None, Faults(), source.clock())
    largest, equal, count = 0, 0, 0
    with av.open(str(recording)) as container:
        upscaled = upscaled_frames(frames, source, upscaler, Savings())
        pairs = zip(container.decode(video=0), upscaled, strict=True)
        for index, (frame, (_, image)) in enumerate(pairs):
            if index % RATE != RATE - 1:
                continue
            whole = upscaler.upscale(from_video_frame(frame))
            for plane, expected in ((image.luma, whole.luma), (image.chroma, whole.chroma)):
                levels = np.abs(plane.astype(int) - expected)
                largest = max(largest, int(levels.max()))
                equal, count = equal + int((levels == 0).sum()), count + levels.size
    return f"against whole frames: at most {largest} levels off, {equal / count:.4%} equal"


if __name__ == "__main__":
    main()
