"""What an attacker can send to the image endpoint of a server with the flags of the container."""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from rt4ksr_client.contract import MAX_PICTURE_BYTES
from rt4ksr_server import TritonServer
from support.fuzzing import mutated, resident_bytes, sent_by_the_thousand
from support.image_endpoint import ENDPOINT, encoded, opened, posted, upscaled

pytestmark = pytest.mark.server

FUZZED = 1200  # over each of gRPC and HTTP
NOISE = Image.fromarray(
    np.random.default_rng(3).integers(0, 256, (24, 32, 4), dtype=np.uint8), "RGBA"
)
RGB = NOISE.convert("RGB")
JPEG = encoded(RGB, "JPEG")
ZIP = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)


@pytest.fixture(autouse=True)
def still_right(production: TritonServer) -> Iterator[None]:
    """Whatever a test did, the server answers the next one as it should."""
    yield
    (data,) = upscaled(production, encoded(RGB, "PNG"), format="png")
    np.testing.assert_array_equal(
        np.asarray(opened(data)), np.asarray(RGB).repeat(2, 0).repeat(2, 1)
    )


def png_that_claims(width_px: int, height_px: int) -> bytes:
    small = encoded(Image.new("L", (8, 8)), "PNG")
    header = b"IHDR" + struct.pack(">II", width_px, height_px) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


def progressive_with_scans(count: int) -> bytes:
    data = encoded(Image.new("L", (3840, 3840)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


BAD = {
    "empty": (b"", "an empty file"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "none of jpeg, png, webp"),
    "gif": (encoded(RGB, "GIF"), "none of jpeg, png, webp"),
    "tiff": (encoded(RGB, "TIFF"), "none of jpeg, png, webp"),
    "pdf": (b"%PDF-1.7\n", "none of jpeg, png, webp"),
    "html": (b"<script>alert(1)</script>", "none of jpeg, png, webp"),
    "magic only": (b"\xff\xd8\xff\xd9", "cannot be read|not a picture|none of"),
    "jpeg cut off": (JPEG[: len(JPEG) // 2], "is truncated"),
    "png cut off": (encoded(RGB, "PNG")[:-20], "is truncated"),
    "webp cut off": (encoded(RGB, "WEBP")[:-9], "is truncated"),
    "jpeg cut off and closed": (JPEG[:400] + b"\xff\xd9", "cannot be read"),
    "jpeg and zip": (JPEG + ZIP, "has trailing data"),
    "png and zip": (encoded(RGB, "PNG") + ZIP, "has trailing data"),
    "webp and zip": (encoded(RGB, "WEBP") + ZIP, "has trailing data"),
    "jpeg and php": (JPEG + b"<?php phpinfo();", "has trailing data"),
    "gif that says it is a jpeg": (b"GIF89a" + JPEG, "none of jpeg, png, webp"),
    "png bomb": (encoded(Image.new("1", (12000, 12000)), "PNG"), "rejected as too large"),
    "just too large": (encoded(Image.new("1", (3842, 3840)), "PNG"), "rejected as too large"),
    "png that claims": (png_that_claims(60000, 60000), "rejected as too large"),
    "png without a pixel": (png_that_claims(0, 8), "cannot be read|not a picture|no pixels"),
    "jpeg of many scans": (progressive_with_scans(2000), "more than 100 scans"),
    "too many bytes": (JPEG + bytes(MAX_PICTURE_BYTES), "at most 33554432 per picture"),
    "32 bits": (encoded(Image.new("I", (4, 4)), "TIFF"), "none of"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_upscaled_gets_a_clear_error_over_grpc(
    production: TritonServer, name: str
) -> None:
    data, reason = BAD[name]

    with pytest.raises(InferenceServerException, match=reason) as refused:
        upscaled(production, data)

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_upscaled_gets_a_clear_error_over_http(
    production: TritonServer, name: str
) -> None:
    data, reason = BAD[name]

    status, text = posted(production, data)

    assert status == 400
    assert re.search(reason, text.decode())


def test_a_bad_picture_beside_a_good_one_is_named(production: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match="picture 2 of 2: none of"):
        upscaled(production, JPEG, b"<svg/>")


@pytest.mark.parametrize("name", ["png bomb", "png that claims", "jpeg of many scans"])
def test_a_decompression_bomb_costs_little_memory(production: TritonServer, name: str) -> None:
    data, _ = BAD[name]
    posted(production, data)
    before = resident_bytes(production)

    for _ in range(20):
        posted(production, data)

    assert resident_bytes(production) - before < 16 * 2**20


@pytest.mark.parametrize("trailer", [bytes(64), b"\n", JPEG, b"MotionPhoto_Data....SEFT"], ids=str)
def test_what_phones_append_to_a_jpeg_is_accepted(production: TritonServer, trailer: bytes) -> None:
    assert upscaled(production, JPEG + trailer) == upscaled(production, JPEG)


def test_a_motion_photo_is_accepted(production: TritonServer) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf Camera:MotionPhoto="1"/></x:xmpmeta>'
    photo = encoded(RGB, "JPEG", xmp=xmp)

    (data,) = upscaled(production, photo + b"\0\0\0\x18ftypmp42" + bytes(100))

    assert opened(data).size == (64, 48)


def sidecar(**changed: object) -> bytes:
    told: dict[str, object] = {
        "width_px": 4,
        "height_px": 4,
        "gray": False,
        "alpha": None,
        "info": {},
    }
    return json.dumps(told | changed).encode()


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"[]",
        b"null",
        b"[" * 100_000,
        sidecar(width_px=-4),
        sidecar(width_px=5),
        sidecar(width_px="much"),
        sidecar(alpha="AAAA"),
        sidecar(alpha=7),
        sidecar(info={"exif": "%%%"}),
        sidecar(info={"exif": 1}),
        sidecar(info={"quality": "AAAA"}),
        sidecar(info={"dpi": ["a", "b"]}),
        sidecar(info=[1]),
    ],
    ids=lambda told: repr(told[:40]),
)
def test_a_forged_sidecar_is_rejected(production: TritonServer, told: bytes) -> None:
    frames = triton_grpc.InferInput("upscaled", [1, 8, 8, 3], "UINT8")
    frames.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.uint8))
    beside = triton_grpc.InferInput("sidecar", [1, 1], "BYTES")
    beside.set_data_from_numpy(np.array([[told]], dtype=np.object_))
    with (
        triton_grpc.InferenceServerClient(production.grpc_url) as client,
        pytest.raises(InferenceServerException) as refused,
    ):
        client.infer("rt4ksr_encode", [frames, beside], client_timeout=20)

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def originals() -> list[bytes]:
    exif = Image.Exif()
    exif[0x013B] = "Somebody"
    exif[0x0112] = 6
    return [
        encoded(RGB, "JPEG", exif=exif, icc_profile=b"profile" * 9),
        encoded(RGB, "JPEG", progressive=True),
        encoded(NOISE, "PNG", exif=exif),
        encoded(RGB.convert("P"), "PNG"),
        encoded(NOISE, "WEBP", exif=exif),
        encoded(RGB, "WEBP", lossless=True),
    ]


def closed(data: bytes) -> bytes:
    """Give a broken file the end that is looked for first, so that decoders get to see it."""
    if data.startswith(b"RIFF"):
        return b"RIFF" + struct.pack("<I", len(data) - 8) + data[8:]
    return data + (b"\xff\xd9" if data.startswith(b"\xff") else b"IEND\xaeB`\x82")


def broken(seed: int, count: int) -> Iterator[bytes]:
    rng, whole = random.Random(seed), originals()
    for index in range(count):
        data = mutated(rng.choice(whole), rng)
        yield closed(data) if index % 2 else data


def over_grpc(server: TritonServer, seed: int, count: int) -> int:
    """Send broken files; return how many were taken for pictures."""
    taken = 0
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        for data in broken(seed, count):
            tensor = triton_grpc.InferInput("picture", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[data]], dtype=np.object_))
            try:
                client.infer(ENDPOINT, [tensor], client_timeout=30)
                taken += 1
            except InferenceServerException as refused:
                assert refused.status() == "StatusCode.INVALID_ARGUMENT", refused
    return taken


def over_http(server: TritonServer, seed: int, count: int) -> int:
    """Send broken files; return how many were taken for pictures."""
    taken = 0
    for data in broken(seed, count):
        status, text = posted(server, data)
        assert status in (200, 400), text
        taken += status == 200
    return taken


@pytest.mark.parametrize("way", [over_grpc, over_http])
def test_the_server_survives_thousands_of_broken_files(
    way: Callable[[TritonServer, int, int], int],
    production: TritonServer,
    broken_inputs: Callable[[int], int],
) -> None:
    total = broken_inputs(FUZZED)

    taken = sent_by_the_thousand(way, production, total)

    assert 0 < taken < total
