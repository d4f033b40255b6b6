"""The image endpoint that chooses: one name, and each file goes to the model for it.

The default model answers with the nearest pixels, that for JPEGs with the inverse.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from rt4ksr_client.contract import MODELS, auto_endpoint
from rt4ksr_export.repository import auto_files, publish
from rt4ksr_server import TritonServer
from support.image_endpoint import encoded, opened, upscaled
from support.nearest_models import (
    add_endpoints,
    inverted_graph,
    nearest_config,
    nearest_graph,
    write_model,
)
from support.servers import ServerFactory

pytestmark = pytest.mark.server

ENDPOINT = auto_endpoint(2)


def repository_with(folder: Path, *models: str) -> Path:
    for name in models:
        spec = MODELS[name]
        graph = nearest_graph(spec) if spec.content == "any" else inverted_graph(spec)
        write_model(folder, nearest_config(spec, max_batch_size=2), graph)
    add_endpoints(folder, models)
    publish(auto_files(2), folder, ENDPOINT)
    return folder


@pytest.fixture(scope="module")
def server(
    server_with: ServerFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("repository")
    with server_with(repository_with(folder, "rt4ksr_x2", "rt4ksr_x2_jpeg")) as running:
        yield running


@pytest.fixture
def small(photograph: Path) -> Image.Image:
    """A photograph without the traces of its own file."""
    with Image.open(photograph) as file:
        image: Image.Image = file.convert("RGB")
    return image.resize((200, 112), Image.Resampling.BICUBIC)


def is_inverted(content: bytes, answer: bytes) -> bool:
    small, large = (np.asarray(opened(data).convert("RGB")) for data in (content, answer))
    nearest = small.repeat(2, axis=0).repeat(2, axis=1)
    inverted = np.array_equal(large, 255 - nearest)
    assert inverted or np.array_equal(large, nearest)
    return inverted


def test_each_file_goes_to_the_model_for_it(server: TritonServer, small: Image.Image) -> None:
    jpeg = encoded(small, "JPEG", quality=75)
    cases = [
        (encoded(small, "PNG"), False),
        (jpeg, True),
        (encoded(opened(jpeg), "PNG"), True),
        (encoded(small, "JPEG", quality=95, subsampling="4:4:4"), False),
        (encoded(small, "WEBP", quality=80), True),
        (encoded(small, "WEBP", lossless=True), False),
    ]
    for content, expected in cases:
        (answer,) = upscaled(server, content, model=ENDPOINT, format="png")
        assert opened(answer).format == "PNG"
        assert is_inverted(content, answer) == expected

    (first, _), (second, _) = cases[:2]
    answers = upscaled(server, first, second, model=ENDPOINT, format="png")
    assert [is_inverted(c, a) for c, a in zip((first, second), answers, strict=True)] == [
        False,
        True,
    ]


def test_the_answer_is_encoded_as_asked(server: TritonServer, small: Image.Image) -> None:
    sizes = {}
    for quality in (30, 90):
        content = encoded(small, "PNG")
        (answer,) = upscaled(server, content, model=ENDPOINT, format="webp", quality=quality)
        assert opened(answer).format == "WEBP"
        sizes[quality] = len(answer)
    assert sizes[30] < sizes[90]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "an empty file"), (b"GIF89a", "none of jpeg"), (b"\xff\xd8\xff\xe0", "truncated")],
)
def test_what_the_endpoints_reject_is_rejected(
    server: TritonServer, content: bytes, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        upscaled(server, content, model=ENDPOINT, format="png")


def test_models_that_the_server_lacks_are_skipped(
    server_with: ServerFactory, small: Image.Image, tmp_path: Path
) -> None:
    content = encoded(small, "JPEG", quality=75)

    with server_with(repository_with(tmp_path, "rt4ksr_x2")) as lacking:
        for _ in range(2):
            (answer,) = upscaled(lacking, content, model=ENDPOINT, format="png")
            assert not is_inverted(content, answer)
