"""Encoded pictures in, encoded pictures out, through a real tritonserver."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, JpegImagePlugin
from tritonclient.utils import InferenceServerException

from rt4ksr_client import Upscaler, files
from rt4ksr_client.connection import TransportName, WireName
from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import ServerError
from rt4ksr_server import TritonServer
from support.image_endpoint import ENDPOINT, answered, encoded, opened, posted, upscaled
from support.nearest_models import add_endpoints
from support.servers import RepositoryFactory, ServerFactory

pytestmark = pytest.mark.server

MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "palette with transparency", "CMYK")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def client(endpoint_server: TritonServer) -> Iterator[Upscaler]:
    """The client, whose raw frames the endpoint's answers are held against."""
    with Upscaler(endpoint_server.grpc_url, scale=2, timeout_s=30) as upscaler:
        yield upscaler


def picture(mode: str = "RGB", size: tuple[int, int] = (31, 22)) -> Image.Image:
    """Noise, with a transparent corner where the mode has transparency."""
    values = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    values[:, :, 3] |= 1
    values[:7, :9, 3] = 0
    rgba = Image.fromarray(values)
    if mode == "palette with transparency":
        palette = rgba.convert("RGB").convert("P")
        palette.info["transparency"] = 3
        return palette
    return rgba if mode == "RGBA" else rgba.convert("RGB" if mode == "CMYK" else mode).convert(mode)


def as_the_client_does(client: Upscaler, data: bytes, format_name: str) -> bytes:
    return files.encode(client.upscale(files.decode(io.BytesIO(data), "x")), format_name)


@pytest.mark.filterwarnings("ignore::rt4ksr_client.pictures.PictureWarning")
@pytest.mark.parametrize("answer", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("mode", MODES)
def test_the_answer_is_byte_for_byte_what_the_client_would_have_written(
    endpoint_server: TritonServer, client: Upscaler, mode: str, answer: str
) -> None:
    sent = encoded(picture(mode), "JPEG" if mode == "CMYK" else "PNG")

    (data,) = upscaled(endpoint_server, sent, format=answer)

    assert data == as_the_client_does(client, sent, answer.upper())


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_every_format_is_read(endpoint_server: TritonServer, format_name: str) -> None:
    sent = encoded(picture(), format_name)

    (data,) = upscaled(endpoint_server, sent, format="png")

    small = np.asarray(opened(sent))
    np.testing.assert_array_equal(np.asarray(opened(data)), small.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("sampling", ["4:2:0", "4:4:4"])
def test_a_jpeg_keeps_its_chroma_resolution(
    endpoint_server: TritonServer, client: Upscaler, sampling: str
) -> None:
    sent = encoded(picture(), "JPEG", subsampling=sampling)

    (data,) = upscaled(endpoint_server, sent)

    found = JpegImagePlugin.get_sampling(Image.open(io.BytesIO(data)))
    assert ("4:4:4", "4:2:2", "4:2:0")[found] == sampling
    assert data == as_the_client_does(client, sent, "JPEG")


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 7), (64, 48), (33, 17)], ids=str)
def test_odd_sizes_come_back_twice_as_large(
    endpoint_server: TritonServer, size: tuple[int, int]
) -> None:
    small = picture(size=size)

    (data,) = upscaled(endpoint_server, encoded(small, "PNG"), format="png")

    large = np.asarray(small).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(np.asarray(opened(data)), large)


def test_the_other_scale_has_an_endpoint(endpoint_server: TritonServer) -> None:
    small = picture()

    (data,) = upscaled(
        endpoint_server, encoded(small, "PNG"), model="rt4ksr_x3_image", format="png"
    )

    large = np.asarray(small).repeat(3, 0).repeat(3, 1)
    np.testing.assert_array_equal(np.asarray(opened(data)), large)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied(
    endpoint_server: TritonServer, client: Upscaler, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    sent = encoded(picture(), "JPEG", quality=95, exif=exif)

    (data,) = upscaled(endpoint_server, sent, format="png")

    assert opened(data).size == ((44, 62) if orientation > 4 else (62, 44))
    assert opened(data).getexif().get(0x0112, 1) == 1
    assert data == as_the_client_does(client, sent, "PNG")


@pytest.mark.parametrize("answer", ["jpeg", "png", "webp"])
def test_colour_profile_exif_and_resolution_are_kept(
    endpoint_server: TritonServer, answer: str
) -> None:
    exif = Image.Exif()
    exif[0x013B] = "Somebody"
    sent = encoded(picture(), "JPEG", icc_profile=SRGB, exif=exif, dpi=(300, 300))

    (data,) = upscaled(endpoint_server, sent, format=answer)

    assert opened(data).info["icc_profile"] == SRGB
    assert opened(data).getexif()[0x013B] == "Somebody"


def test_the_default_answer_is_a_jpeg_of_quality_95(
    endpoint_server: TritonServer,
) -> None:
    sent = encoded(picture(), "PNG")

    (data,) = upscaled(endpoint_server, sent)
    (told,) = upscaled(endpoint_server, sent, format="jpeg", quality=95)

    assert opened(data).format == "JPEG"
    assert data == told


@pytest.mark.parametrize("answer", ["jpeg", "webp"])
def test_a_lower_quality_is_a_smaller_answer(endpoint_server: TritonServer, answer: str) -> None:
    sent = encoded(picture(size=(160, 120)), "PNG")

    sizes = [
        len(upscaled(endpoint_server, sent, format=answer, quality=quality)[0])
        for quality in (10, 50, 95)
    ]

    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("headers", "format_name"),
    [
        ({}, "JPEG"),
        ({"format": "png"}, "PNG"),
        ({"Format": "webp", "QUALITY": "40"}, "WEBP"),
        ({"format": "JPG"}, "JPEG"),
    ],
    ids=str,
)
def test_over_http_a_file_is_posted_as_it_is_and_headers_choose_the_encoding(
    endpoint_server: TritonServer, headers: dict[str, str], format_name: str
) -> None:
    status, data = posted(endpoint_server, encoded(picture(), "PNG"), headers)

    assert status == 200
    assert opened(data).format == format_name
    parameters = {name.lower(): value for name, value in headers.items()}
    assert [data] == upscaled(endpoint_server, encoded(picture(), "PNG"), **parameters)


@pytest.fixture(scope="module")
def server_without_headers(
    nearest_repository: RepositoryFactory, server_with: ServerFactory
) -> Iterator[TritonServer]:
    """A server that shows its models no header, as tritonserver does by default."""
    repository = nearest_repository(
        [MODELS["rt4ksr_x2"]], edit=lambda config: setattr(config, "max_batch_size", 2)
    )
    add_endpoints(repository, ["rt4ksr_x2"])
    with server_with(repository, extra_args=["--http-header-forward-pattern=^$"]) as server:
        yield server


@pytest.mark.parametrize("headers", [{"format": "png"}, {"Quality": "7"}, {}], ids=str)
def test_a_server_that_shows_no_header_rejects_what_it_may_have_been_asked_in_one(
    server_without_headers: TritonServer, headers: dict[str, str]
) -> None:
    before = answered(server_without_headers, "rt4ksr_x2")

    status, reason = posted(server_without_headers, encoded(picture(), "PNG"), headers)

    assert status == 400
    assert b"forwards no HTTP headers" in reason
    assert b"start it with --http-header-forward-pattern='(?i)^(format|quality)$'" in reason
    assert answered(server_without_headers, "rt4ksr_x2") == before


@pytest.mark.parametrize(
    ("parameters", "format_name"),
    [({"format": "png"}, "PNG"), ({"quality": 50}, "JPEG")],
    ids=str,
)
def test_a_server_that_shows_no_header_answers_request_parameters(
    server_without_headers: TritonServer, parameters: dict[str, Any], format_name: str
) -> None:
    (data,) = upscaled(server_without_headers, encoded(picture(), "PNG"), **parameters)
    assert opened(data).format == format_name


@pytest.mark.parametrize("transport", ["grpc", "http"])
@pytest.mark.parametrize("wire", ["encoded", "auto"])
def test_the_client_needs_no_headers(
    server_without_headers: TritonServer, transport: TransportName, wire: WireName
) -> None:
    url = (
        f"http://{server_without_headers.http_url}"
        if transport == "http"
        else server_without_headers.grpc_url
    )
    with Upscaler(url, transport=transport, wire=wire, wire_format="png", timeout_s=30) as client:
        large = np.asarray(client.upscale(picture()))
        assert wire == "auto" or client.wire_name == "encoded"
        assert "of this link" in client.wire_reason or wire == "encoded"
    np.testing.assert_array_equal(large, np.asarray(picture()).repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"format": "gif"}, "format must be one of jpeg, png, webp, got 'gif'"),
        ({"quality": 0}, "quality must be a whole number from 1 to 100, got 0"),
        ({"quality": 101}, "quality must be"),
        ({"quality": "high"}, "quality must be"),
        ({"quality": True}, "quality must be"),
    ],
    ids=str,
)
def test_an_encoding_that_cannot_be_had_is_rejected_before_the_network_runs(
    endpoint_server: TritonServer, parameters: dict[str, Any], reason: str
) -> None:
    before = answered(endpoint_server, "rt4ksr_x2")

    with pytest.raises(InferenceServerException, match=reason) as refused:
        upscaled(endpoint_server, encoded(picture(), "PNG"), **parameters)

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert answered(endpoint_server, "rt4ksr_x2") == before


def test_one_request_may_carry_several_pictures_of_one_size(
    endpoint_server: TritonServer,
) -> None:
    pictures = [encoded(picture("RGBA"), "PNG"), encoded(picture("L"), "WEBP", lossless=True)]

    together = upscaled(endpoint_server, *pictures, format="png")

    alone = [upscaled(endpoint_server, one, format="png")[0] for one in pictures]
    assert together == alone


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([(8, 8), (8, 6)], "must have the same size, these are 8x6, 8x8"),
        ([(8, 8)] * 3, "batch-size must be <= 2"),
    ],
    ids=["two sizes", "three pictures"],
)
def test_pictures_of_different_sizes_in_one_request_are_rejected(
    endpoint_server: TritonServer, sizes: list[tuple[int, int]], reason: str
) -> None:
    pictures = [encoded(picture(size=size), "PNG") for size in sizes]

    with pytest.raises(InferenceServerException, match=reason):
        upscaled(endpoint_server, *pictures)


def test_a_panorama_that_its_format_cannot_hold_is_rejected_with_an_alternative(
    endpoint_server: TritonServer,
) -> None:
    wide = encoded(Image.new("RGB", (9000, 2)), "PNG")

    with pytest.raises(
        InferenceServerException,
        match=r"18000x4 exceeds WEBP's limit of 16383 pixels per side: .*png",
    ):
        upscaled(endpoint_server, wide, format="webp")

    assert opened(upscaled(endpoint_server, wide, format="png")[0]).size == (18000, 4)


def test_concurrent_requests_get_their_own_answers(endpoint_server: TritonServer) -> None:
    jobs = [(size, name) for size in range(20, 40) for name in ("png", "jpeg", "webp")]

    def work(job: tuple[int, str]) -> Image.Image:
        small = picture(size=(job[0], 10))
        return opened(upscaled(endpoint_server, encoded(small, "PNG"), format=job[1])[0])

    with ThreadPoolExecutor(8) as threads:
        for (size, name), large in zip(jobs, threads.map(work, jobs), strict=True):
            assert (large.size, large.format) == ((2 * size, 20), name.upper())


def test_loading_the_endpoint_alone_loads_its_parts(
    nearest_repository: RepositoryFactory, server_with: ServerFactory
) -> None:
    repository = nearest_repository(
        [MODELS["rt4ksr_x2"]], edit=lambda config: setattr(config, "max_batch_size", 2)
    )
    add_endpoints(repository, ["rt4ksr_x2"])

    with server_with(repository, models=[ENDPOINT]) as server:
        (data,) = upscaled(server, encoded(picture(), "PNG"), format="png")

    assert opened(data).size == (62, 44)


def test_the_client_explains_an_endpoint_that_is_used_as_a_model(
    endpoint_server: TritonServer,
) -> None:
    with (
        Upscaler(endpoint_server.grpc_url, model=ENDPOINT) as upscaler,
        pytest.raises(ServerError, match=r"takes encoded pictures.*wire='encoded'"),
    ):
        upscaler.upscale(picture())


@pytest.mark.parametrize("index", [0, 1], ids=["as it comes", "with headers"])
def test_the_command_in_the_documentation_makes_a_picture(
    endpoint_server: TritonServer, root: Path, photograph: Path, tmp_path: Path, index: int
) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (root / "docs" / "protocol.md").read_text(), re.S)
    (block,) = (block for block in blocks if "--data-binary" in block)
    line = [command for command in block.split("\n\n") if "--data-binary" in command][index]
    shutil.copy(photograph, tmp_path / "in.jpg")

    subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            line.replace("127.0.0.1:8000", endpoint_server.http_url),
        ],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )

    (made,) = (path for path in tmp_path.iterdir() if path.name != "in.jpg")
    large = opened(made.read_bytes())
    assert (large.size, large.format) == ((2560, 1440), ("JPEG", "WEBP")[index])
