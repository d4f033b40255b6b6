"""Videos with sound of known codecs whose clicks tell whether it is in step."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rt4ksr_client.video.containers import ffmpeg_url
from support.videos import av, plain

CLICKS_S = (0.5, 1.3)
LENGTH_S = 2
FPS = 5


def with_sound(
    path: Path,
    *codecs: str,
    rate: int = 48000,
    layout: str = "stereo",
    begin_s: float = 0,
    gap_s: tuple[float, float] = (0, 0),
) -> Path:
    """Write a video of two seconds with a stream of clicks by each of ``codecs``.

    The sound begins at ``begin_s`` and pauses in ``gap_s``; the clicks stay where they are.
    """
    with av.open(ffmpeg_url(path), "w") as output:
        video: Any = output.add_stream("mpeg4", rate=FPS)
        video.width, video.height = 64, 48
        sounds: list[Any] = []
        for codec in codecs:
            sound: Any = output.add_stream(codec, rate=rate)
            sound.layout, sound.bit_rate = layout, 128_000
            sounds.append(sound)
        for index in range(LENGTH_S * FPS):
            picture = av.VideoFrame.from_ndarray(plain(index, (64, 48)), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, FPS)
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        for sound in sounds:
            for frame in frames_with_clicks(rate, layout, begin_s, gap_s):
                output.mux(sound.encode(frame))
            output.mux(sound.encode(None))
    return path


def frames_with_clicks(
    rate: int, layout: str, begin_s: float, gap_s: tuple[float, float]
) -> list[Any]:
    channels = av.AudioLayout(layout).nb_channels
    wave = np.zeros((channels, LENGTH_S * rate), np.float32)
    for click_s in CLICKS_S:
        wave[:, round(click_s * rate) : round(click_s * rate) + 24] = 0.9
    frames = []
    for start in range(round(begin_s * rate), wave.shape[1] - 1023, 1024):
        if gap_s[0] <= start / rate < gap_s[1]:
            continue
        samples = np.ascontiguousarray(wave[:, start : start + 1024])
        frame: Any = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        frames.append(frame)
    return frames


def clicks_s(path: Path, stream: int = 0) -> list[float]:
    """When a player plays the clicks, in seconds after it shows the first frame."""
    with av.open(ffmpeg_url(path)) as container:
        first: Any = next(container.decode(video=0))
        shown_s = float(first.pts * first.time_base)
    found: list[float] = []
    with av.open(ffmpeg_url(path)) as container:
        resampler = av.AudioResampler("fltp")
        for frame in container.decode(audio=stream):
            for plain in resampler.resample(frame):
                level = np.abs(plain.to_ndarray()).max(axis=0)
                for place in np.flatnonzero(level > 0.3):
                    at_s = float(plain.pts * plain.time_base) + place / plain.sample_rate - shown_s
                    if not found or at_s - found[-1] > 0.1:
                        found.append(at_s)
    return found
