"""Upscale a folder with asyncio: python examples/folder_asyncio.py album/ album_x2/ [HOST:PORT]."""

import asyncio
import sys
from pathlib import Path

from rt4ksr_client import AsyncUpscaler, Rt4ksrError
from rt4ksr_client.files import open_picture, save_picture

IN_FLIGHT = 4  # pictures in memory at a time; from 3 on the server is never idle


async def main(source: str, target: str, url: str = "127.0.0.1:8001") -> None:
    """Upscale every .jpg and .png in ``source`` into a .jpg in ``target``."""
    paths = sorted(path for path in Path(source).iterdir() if path.suffix in {".jpg", ".png"})
    Path(target).mkdir(exist_ok=True)
    slots = asyncio.Semaphore(IN_FLIGHT)

    async with AsyncUpscaler(url, scale=2) as upscaler:

        async def upscale(path: Path) -> None:
            async with slots:
                try:
                    picture = await asyncio.to_thread(open_picture, path)
                    large = await upscaler.upscale(picture)
                    await asyncio.to_thread(save_picture, large, Path(target, f"{path.stem}.jpg"))
                except Rt4ksrError as exc:  # one broken file does not stop the others
                    print(f"error: {exc}", file=sys.stderr)

        await asyncio.gather(*map(upscale, paths))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
