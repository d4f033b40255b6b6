"""Upscale a video file, or a webcam until Ctrl-C, with OpenCV.

python examples/video_opencv.py talk.mp4 talk_x2.mp4 [HOST:PORT]
python examples/video_opencv.py 0 webcam_x2.mp4

OpenCV drops the sound and the time stamps of the frames; ``rt4ksr video`` keeps both.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import cv2
from numpy.typing import NDArray

from rt4ksr_client import Rt4ksrError, Upscaler


def read_frames(capture: cv2.VideoCapture) -> Iterator[NDArray[Any]]:
    """Yield frames as the network expects them: uint8 (H, W, 3), RGB."""
    while True:
        more, frame = capture.read()
        if not more:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def main(source: str, target: str, url: str = "127.0.0.1:8001") -> None:
    """Upscale ``source``, a file or the number of a camera, by 2 into ``target``."""
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not capture.isOpened():
        sys.exit(f"error: {source}: not a video or camera that OpenCV can open")
    fps = capture.get(cv2.CAP_PROP_FPS) or 25
    writer = None
    # OpenCV gives RGB. For files, rt4ksr video is better and faster: it keeps 4:2:0 as it is.
    with Upscaler(url, scale=2) as upscaler, suppress(KeyboardInterrupt):
        # map() sends the next frames while the loop writes one.
        for large in upscaler.map(read_frames(capture), in_flight=4):
            if writer is None:
                size = (large.shape[1], large.shape[0])
                writer = cv2.VideoWriter(target, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
            writer.write(cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    capture.release()
    if writer is not None:
        writer.release()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Rt4ksrError as exc:
        sys.exit(f"error: {exc}")
