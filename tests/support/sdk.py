"""What tests of the SDK on the nearest-neighbour server have in common."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from rt4ksr_client.connection import TransportName
from rt4ksr_client.frames import Frame
from rt4ksr_server import TritonServer

TRANSPORTS: tuple[TransportName, ...] = ("grpc", "http", "shm")


def address(server: TritonServer, name: TransportName) -> str:
    return server.http_url if name == "http" else server.grpc_url


def noise(height: int, width: int, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def doubled(frame: Frame) -> Frame:
    return frame.repeat(2, axis=0).repeat(2, axis=1)


def registered(server: TritonServer) -> set[str]:
    with triton.InferenceServerClient(server.grpc_url) as client:
        return set(client.get_system_shared_memory_status().regions)


def our_names() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob(f"rt4ksr_client_*_{os.getpid()}_*")}
