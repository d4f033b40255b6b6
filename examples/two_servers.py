"""Upscale NumPy frames on two servers at once.

python examples/two_servers.py frames.npy frames_x2.npy gpu-a:8001,gpu-b:8001

``frames.npy`` holds uint8 (N, H, W, 3), RGB. Both files are memory-mapped, so N may be large.
"""

import sys

import numpy as np

from rt4ksr_client import Rt4ksrError, Upscaler

IN_FLIGHT = 8  # about four for each server


def main(source: str, target: str, urls: str) -> None:
    """Upscale every frame of ``source`` by 2 into ``target``."""
    frames = np.load(source, mmap_mode="r")
    count, height, width, channels = frames.shape
    upscaled = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.uint8, shape=(count, 2 * height, 2 * width, channels)
    )
    # Frames go to the server with the fewest in flight; a server that fails is left out for a
    # while, and its frames are sent to the other one. Results come in order.
    with Upscaler(urls, scale=2) as upscaler:
        for index, large in enumerate(upscaler.map(frames, in_flight=IN_FLIGHT)):
            upscaled[index] = large
    upscaled.flush()
    print(f"{target}: {count} frames of {2 * width}x{2 * height}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Rt4ksrError as exc:
        sys.exit(f"error: {exc}")
