"""Upscale a video with PyAV, in its own colours and bits: no frame is turned into RGB and back.

python examples/video_planes.py talk.mkv talk_x2.mkv [HOST:PORT]

``rt4ksr video`` does more: sound, subtitles, HDR10 metadata, and it can be resumed.
"""

import sys

import av

from rt4ksr_client import Rt4ksrError, Upscaler

TAGS = ("colorspace", "color_range", "color_primaries", "color_trc")


def main(source: str, target: str, url: str = "127.0.0.1:8001") -> None:
    """Upscale every frame of ``source`` by 2 into ``target``."""
    with av.open(source) as container, av.open(target, "w") as output:
        video = container.streams.video[0]
        bits = video.codec_context.format.components[0].bits
        model = "rt4ksr_x2_video" if bits == 8 else "rt4ksr_x2_video16"
        count, encoder = 0, None
        with Upscaler(url, model=model) as upscaler:
            for frame in upscaler.map(container.decode(video)):  # with its time and colour tags
                if encoder is None:
                    encoder = output.add_stream("libx264", rate=video.average_rate)
                    encoder.width, encoder.height = frame.width, frame.height
                    encoder.pix_fmt = frame.format.name
                    encoder.codec_context.time_base = video.time_base
                    for tag in TAGS:
                        setattr(encoder.codec_context, tag, getattr(frame, tag))
                output.mux(encoder.encode(frame))
                count += 1
        if encoder is not None:
            output.mux(encoder.encode(None))
    print(f"{target}: {count} frames")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Rt4ksrError, OSError) as exc:
        sys.exit(f"error: {exc}")
