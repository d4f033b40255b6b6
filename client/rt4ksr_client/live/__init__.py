"""Live: a stream in, its upscaled stream out, at its own rate whatever the server does.

Every frame has a due time, ``latency_s`` after it was decoded. What the server has not answered by
then is interpolated instead. Needs the ``live`` extra.

``source`` gives frames and sound, ``timeline`` their times in the output, ``admission`` decides
what is sent, ``stream`` runs it all, ``sink`` encodes and writes, ``statistics`` counts.
"""

from rt4ksr_client.live.options import LiveOptions
from rt4ksr_client.live.statistics import LiveStatistics, Snapshot
from rt4ksr_client.live.stream import upscale_live

__all__ = ["LiveOptions", "LiveStatistics", "Snapshot", "upscale_live"]
