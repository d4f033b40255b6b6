"""A TCP connection between two programs of this host that is as slow as one across the world."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType

_CHUNK_BYTES = 64 * 1024


class SlowLink:
    """Forwards connections to ``target``; answers pass at ``bytes_per_s``, requests at once."""

    def __init__(self, target: str, *, bytes_per_s: float) -> None:
        host, port = target.split(":")
        self._target = host, int(port)
        self._bytes_per_s = bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed_bytes = 0
        """Of answers."""

    def __enter__(self) -> SlowLink:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which ends the thread that accepts

    def _accept(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            requests = threading.Thread(target=self._pump, args=(client, server, False))
            requests.start()
            self._pump(server, client, True)
            requests.join()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                sink.sendall(data)
                if is_answer:
                    self.passed_bytes += len(data)
                    time.sleep(len(data) / self._bytes_per_s)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
