"""JPEG on the GPU against Pillow on one core: what a codec stage with nvJPEG could take.

A 1080p photograph is decoded into GPU memory, and a 4K frame that lies there is encoded, by
NVIDIA's nvImageCodec; Pillow does the same in the host's memory. In process, without Triton. Not a
part of ``make bench``: it needs an NVIDIA GPU, PyTorch for CUDA, and
``pip install 'nvidia-nvimgcodec-cu13[nvjpeg]'``.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL
import torch.utils.dlpack
from nvidia import nvimgcodec
from PIL import Image

SOURCE = Path(__file__).parents[1] / "docs" / "pictures" / "nuthatch_1080p.jpg"
SAMPLINGS = {"4:4:4": "CSS_444", "4:2:0": "CSS_420"}
QUALITY = 95
RUNS = 30


def main() -> None:
    """Print medians, sizes and how far each JPEG is from what went into it."""
    print(
        f"{torch.cuda.get_device_name()}, nvImageCodec {nvimgcodec.__version__}, "
        f"Pillow {PIL.__version__}; median of {RUNS}"
    )
    data = SOURCE.read_bytes()
    small = np.asarray(Image.open(io.BytesIO(data)))
    large = np.asarray(Image.fromarray(small).resize((3840, 2160), Image.Resampling.BICUBIC))
    on_gpu = torch.from_numpy(large.copy()).cuda()

    decoder, encoder = nvimgcodec.Decoder(), nvimgcodec.Encoder()
    decoded = torch.utils.dlpack.from_dlpack(decoder.decode(data).to_dlpack()).cpu().numpy()
    print(f"decoders differ by at most {np.abs(decoded.astype(int) - small).max()} levels")
    report("decode 1080p, nvImageCodec", lambda: finished(decoder.decode(data)))
    report("decode 1080p, Pillow", lambda: np.asarray(Image.open(io.BytesIO(data))))
    for sampling, name in SAMPLINGS.items():
        wanted = nvimgcodec.EncodeParams(
            quality_type=nvimgcodec.QualityType.QUALITY,
            quality_value=QUALITY,
            chroma_subsampling=getattr(nvimgcodec.ChromaSubsampling, name),
        )

        def by_gpu(wanted: Any = wanted) -> bytes:
            return bytes(encoder.encode(nvimgcodec.as_image(on_gpu), "jpeg", params=wanted))

        def by_pillow(sampling: str = sampling) -> bytes:
            buffer = io.BytesIO()
            picture = Image.fromarray(large)
            picture.save(buffer, "JPEG", quality=QUALITY, subsampling=sampling)
            return buffer.getvalue()

        for codec, encode in (("nvImageCodec", by_gpu), ("Pillow", by_pillow)):
            report(f"encode 4K {sampling}, {codec}", encode)
            print(f"{'':36}{len(encode()) / 1e6:.2f} MB, {psnr_db(encode(), large):.1f} dB")
    pinned = torch.empty(on_gpu.shape, dtype=torch.uint8).pin_memory()
    report("4K frame, GPU to pinned host memory", lambda: finished(pinned.copy_(on_gpu)))


def finished(result: object) -> object:
    """Return ``result`` once the GPU is done."""
    torch.cuda.synchronize()
    return result


def report(what: str, work: Callable[[], object]) -> None:
    """Print what one call takes."""
    times_s = []
    for index in range(RUNS + 3):
        begin_s = time.perf_counter()
        work()
        if index >= 3:  # the first ones warm up
            times_s.append(time.perf_counter() - begin_s)
    print(f"{what:36}{median(times_s) * 1e3:8.2f} ms")


def psnr_db(jpeg: bytes, frame: np.ndarray[Any, Any]) -> float:
    """Return how near the JPEG is to the frame, all channels together."""
    found = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(float)
    return float(10 * np.log10(255**2 / ((found - frame) ** 2).mean()))


if __name__ == "__main__":
    main()
