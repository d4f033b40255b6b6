"""A server for the time of one call, and what it would serve.

The only place of the client that knows the server package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from rt4ksr_client.call import Cancellation
from rt4ksr_client.contract import Parameter
from rt4ksr_client.errors import MissingExtraError, ModelNotReadyError
from rt4ksr_client.upscaler import Upscaler

__all__ = ["Models", "local_server", "shipped_weights"]


@contextmanager
def local_server(model_repository: Path | None = None, models: Sequence[str] = ()) -> Iterator[str]:
    """Start a tritonserver on this host, yield its gRPC address, stop it.

    Args:
        model_repository: default: ``./model_repository``, else the one that came with the package.
        models: names of those to load, as far as the repository has them; default: all.

    Raises:
        MissingExtraError: the ``server`` extra is not installed.
        ServerStartError: it did not become ready.

    """
    try:
        from rt4ksr_server import TritonServer, default_repository
    except ModuleNotFoundError as exc:
        raise MissingExtraError(
            f"--local needs {exc.name}: pip install 'rt4ksr-triton[server]', "
            "or run without --local against a server"
        ) from exc
    repository = model_repository or default_repository()
    there = [name for name in models if (repository / name).is_dir()]
    with TritonServer(repository, models=there) as server:
        yield server.grpc_url


def shipped_weights() -> dict[str, str]:
    """Return the SHA-256 of the weights of each model that came with this package, by model."""
    from rt4ksr_server.options import shipped_repository

    configs = [
        text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        for path in sorted(shipped_repository().glob("*/config.pbtxt"))
    ]
    return {c.name: c.parameters[Parameter.WEIGHTS_SHA256].string_value for c in configs}


class Models:
    """Upscalers of different models, of which a picture takes those that suit it.

    Of several, those that the server does not have are done without. May be shared between
    threads.
    """

    def __init__(self, upscalers: Sequence[Upscaler]) -> None:
        self._upscalers = upscalers

    @cached_property
    def by_scale(self) -> Mapping[int, Upscaler]:
        """What the server has; asked once.

        Raises:
            ModelNotReadyError: none of them.
            ServerError: no answer.

        """
        found: dict[int, Upscaler] = {}
        for index, upscaler in enumerate(self._upscalers, start=1):
            try:
                found[upscaler.served_model.scale] = upscaler
            except ModelNotReadyError:
                if index == len(self._upscalers) and not found:
                    raise
        return found

    def name(self, scale: int) -> str:
        """Return what the server calls the model of ``scale``."""
        return self.by_scale[scale].served_model.name

    def upscale(
        self, image: Image.Image, scale: int, cancellation: Cancellation | None
    ) -> Image.Image:
        """Return ``image`` ``scale`` times as large; see :meth:`Upscaler.upscale`.

        Raises:
            CancelledError: ``cancellation`` ended it.

        """
        return self.by_scale[scale].upscale(image, cancellation=cancellation)
