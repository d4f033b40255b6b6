"""HTTP servers on a socket that do what real ones and proxies do at the worst moment."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

__all__ = ["Peer", "ScriptedServer", "error_response", "response_of", "split_response"]


class Peer:
    """One connection of a client, as its server sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._stream = sock.makefile("rb")

    def read_request(self) -> tuple[str, bytes] | None:
        """Return the request line and the body; None where the client closed."""
        line = self._stream.readline()
        if not line:
            return None
        length = 0
        while (header := self._stream.readline()) not in (b"\r\n", b""):
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return line.decode().strip(), self._stream.read(length)

    def send(self, content: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(content)

    def close(self) -> None:
        """Close in an orderly way."""
        self._stream.close()
        self.sock.close()

    def reset(self) -> None:
        """Close with a TCP reset, as a process that is killed does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class ScriptedServer:
    """Runs ``script`` in a thread for every connection, with the connection's number from 0."""

    def __init__(self, script: Callable[[int, Peer], object]) -> None:
        self._script = script
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._peers: list[Peer] = []
        self.requests: list[str] = []
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """How many have been accepted."""
        return len(self._peers)

    def stop(self) -> None:
        """Stop listening and close every connection."""
        self._listening.close()
        for peer in self._peers:
            peer.sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            peer = Peer(sock)
            self._peers.append(peer)
            threading.Thread(
                target=self._serve, args=(len(self._peers) - 1, peer), daemon=True
            ).start()

    def _serve(self, number: int, peer: Peer) -> None:
        try:
            self._script(number, peer)
        except (OSError, ValueError):
            return


def response_of(arrays: dict[str, NDArray[Any]], *headers: str) -> bytes:
    """Return an inference response of Triton's with these uint8 or uint16 outputs."""
    outputs = [
        {
            "name": name,
            "datatype": array.dtype.name.upper(),
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    header = json.dumps({"model_name": "m", "outputs": outputs}).encode()
    body = header + b"".join(array.tobytes() for array in arrays.values())
    lines = [
        "HTTP/1.1 200 OK",
        f"Inference-Header-Content-Length: {len(header)}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def split_response(response: bytes, sizes: Sequence[int]) -> bytes:
    """Return ``response`` in chunks of these sizes, in turn."""
    head, _, body = response.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    chunks: list[bytes] = []
    at = 0
    while body[at:]:
        chunk = body[at : at + sizes[len(chunks) % len(sizes)]]
        chunks.append(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        at += len(chunk)
    head = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"])
    return head + b"\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"


def error_response(status: int, text: str) -> bytes:
    """Return an error as Triton sends it."""
    body = json.dumps({"error": text}).encode()
    return f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
