"""Video files: decoded, upscaled and encoded at the same time. Needs the ``video`` extra (PyAV)."""

from rt4ksr_client.video.input_stream import VideoInput
from rt4ksr_client.video.models import source_models
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.pipeline import Progress, upscale_video
from rt4ksr_client.video.streams import upscale_stream
from rt4ksr_client.video.unchanged import Savings

__all__ = [
    "Progress",
    "Savings",
    "VideoInput",
    "VideoOptions",
    "source_models",
    "upscale_stream",
    "upscale_video",
]
