"""Calls to the image endpoint with NVIDIA's client and with plain HTTP: none of ours."""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
from PIL import Image

from rt4ksr_server import TritonServer

ENDPOINT = "rt4ksr_x2_image"
TIMEOUT_S = 60.0


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """A file of ``image``."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def upscaled(
    server: TritonServer, *pictures: bytes, model: str = ENDPOINT, **parameters: Any
) -> list[bytes]:
    """Send one request over gRPC; its parameters are the keywords."""
    tensor = triton_grpc.InferInput("picture", [len(pictures), 1], "BYTES")
    array = np.empty((len(pictures), 1), dtype=np.object_)
    array[:, 0] = pictures
    tensor.set_data_from_numpy(array)
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        result = client.infer(model, [tensor], parameters=parameters, client_timeout=TIMEOUT_S)
    answers: Sequence[bytes] = result.as_numpy("upscaled_picture").reshape(-1).tolist()
    return list(answers)


def posted(
    server: TritonServer, body: bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """POST a file as the whole body; return the status and the answer's file, or error text."""
    connection = http.client.HTTPConnection(server.http_url, timeout=TIMEOUT_S)
    try:
        sent = {"Inference-Header-Content-Length": "0", **(headers or {})}
        connection.request("POST", f"/v2/models/{ENDPOINT}/infer", body, sent)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            return answer.status, str(json.loads(content)["error"]).encode()
        header = int(answer.headers["Inference-Header-Content-Length"])
        return answer.status, content[header + 4 :]  # the length of a BYTES element has 4 bytes
    finally:
        connection.close()


def answered(server: TritonServer, model: str) -> int:
    """How many requests ``model`` has answered so far.

    Triton counts a request a little after it has sent the answer. This waits until the count stands
    still; a test that expects a request to be counted waits until it is.
    """
    counts = [-1]
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        while len(counts) < 3 or counts[-1] != counts[-2]:
            (stats,) = client.get_inference_statistics(model).model_stats
            counts.append(stats.inference_stats.success.count)
            time.sleep(0.1)
    return counts[-1]
