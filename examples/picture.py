"""Upscale one picture: python examples/picture.py in.jpg out.png [HOST:PORT]."""

import sys

from rt4ksr_client import Rt4ksrError, Upscaler
from rt4ksr_client.files import open_picture, save_picture


def main(source: str, target: str, url: str = "127.0.0.1:8001") -> None:
    """Upscale ``source`` by 2 into ``target``, whose suffix chooses the format."""
    with Upscaler(url, scale=2) as upscaler:
        # Pillow's Image.open works, too; open_picture also turns the picture upright.
        large = upscaler.upscale(open_picture(source))
        save_picture(large, target)
        print(f"{target}: {large.width}x{large.height} by {upscaler.transport_name}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Rt4ksrError as exc:
        sys.exit(f"error: {exc}")
