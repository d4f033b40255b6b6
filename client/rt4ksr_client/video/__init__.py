"""Video files: decoded, upscaled and encoded at the same time. Needs the ``video`` extra (PyAV)."""

from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.pipeline import Progress, upscale_video

__all__ = ["Progress", "VideoOptions", "upscale_video"]
