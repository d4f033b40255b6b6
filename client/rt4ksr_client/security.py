"""TLS files and request headers: how a client trusts a server and identifies itself to it."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rt4ksr_client.errors import AccessDeniedError

__all__ = ["DEFAULT_SECURITY", "Security", "UnencryptedWarning", "parse_headers"]

_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_RESERVED: Final = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "inference-header-content-length",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_ROUTING: Final = frozenset(("host", "model-id", "mm-model-id", "user-agent", "x-request-id"))
_SHORTEST_SECRET: Final = 6


class UnencryptedWarning(UserWarning):
    """Credentials are sent to another host without encryption."""


@dataclass(frozen=True)
class Security:
    """TLS settings and request headers of a connection. Its ``repr`` shows no header's value.

    TLS is used with ``https://`` and ``grpcs://`` addresses. The server's certificate and name are
    always verified.

    Args:
        ca_file: PEM file with the CA certificates to trust. Default: the system's, or those of the
            file that the environment variable ``SSL_CERT_FILE`` names.
        cert_file: PEM file with the client's certificate and its chain, for mutual TLS.
        key_file: PEM file with the key of that certificate, not encrypted. Default: it is in
            ``cert_file``.
        headers: name to value; sent with every request, as HTTP headers or gRPC metadata. ``host``
            replaces the host of the address; over gRPC, the certificate is checked for it instead.
        header_file: a file with a line ``name: value`` for each further header. It is read again
            for every request, so that a token in it may be renewed; a pipe is read once.

    Raises:
        ValueError: a file that cannot be read or is not PEM, a key that does not fit its
            certificate, or a header that cannot be sent.

    """

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    header_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Reject what cannot work."""
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file, the certificate of that key")
        if not isinstance(self.headers, Mapping):
            raise ValueError(f"headers must map names to values, not {type(self.headers).__name__}")
        object.__setattr__(
            self, "headers", dict(_checked(*pair, "headers") for pair in self.headers.items())
        )
        headers = self._all_headers()
        if self.header_file is not None and not Path(self.header_file).is_file():
            # A pipe, such as bash's <(...), which can be read once.
            object.__setattr__(self, "headers", headers)
            object.__setattr__(self, "header_file", None)
        if self.ca_file is not None or self.cert_file is not None:
            self.tls_context()

    def __repr__(self) -> str:
        """Return the settings without the values of headers."""
        files = {name: getattr(self, name) for name in _FILES}
        given = [f"{name}={os.fspath(path)!r}" for name, path in files.items() if path is not None]
        if self.headers:
            given.append(f"headers={dict.fromkeys(self.headers, '***')}")
        return f"Security({', '.join(given)})"

    def request_headers(self) -> dict[str, str]:
        """Return the headers to send now, by their names in lower case.

        Raises:
            AccessDeniedError: ``header_file`` cannot be read any more.

        """
        try:
            return self._all_headers()
        except ValueError as exc:
            raise AccessDeniedError(str(exc)) from exc

    @property
    def secret_names(self) -> list[str]:
        """The names of the headers that may be secrets: all but a few that only route requests."""
        return sorted(self._all_headers().keys() - _ROUTING)

    def hide(self, text: str) -> str:
        """Return ``text``, from a server, without the values of headers that it may repeat."""
        headers = self.request_headers()
        values = [value for name, value in headers.items() if name not in _ROUTING]
        parts = {part for value in values for part in (value, *value.split())}
        for part in sorted(parts, key=len, reverse=True):
            if len(part) >= _SHORTEST_SECRET:
                text = text.replace(part, "***")
        return text

    def tls_context(self) -> ssl.SSLContext:
        """Return what connections are encrypted with.

        Raises:
            ValueError: a file that cannot be read or is not PEM, or a key that does not fit.

        """
        for name in ("ca_file", "cert_file", "key_file"):
            _read(name, getattr(self, name))
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError as exc:
            raise ValueError(f"ca_file {self.ca_file}: no certificate in PEM form") from exc
        if self.cert_file is None:
            return context
        key_file = self.cert_file if self.key_file is None else self.key_file
        try:
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.cert_file, key_file, password="")
        except ssl.SSLError as exc:
            if exc.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"key_file {key_file}: not the key of {self.cert_file}") from exc
            raise ValueError(
                f"cert_file {self.cert_file}, key_file {key_file}: expected a certificate and its "
                "key in PEM form, the key not encrypted ('openssl pkey' decrypts one)"
            ) from exc
        return context

    def grpc_pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return CA certificates, key and certificate chain as gRPC takes them.

        The same CAs as for HTTP, where gRPC by itself would trust a list of its own.
        """
        trusted = self.tls_context().get_ca_certs(binary_form=True)
        roots = "".join(map(ssl.DER_cert_to_PEM_cert, trusted)).encode() or None
        chain = _read("cert_file", self.cert_file)
        key = _read("key_file", self.key_file) or chain
        return roots, key, chain

    def _all_headers(self) -> dict[str, str]:
        if self.header_file is None:
            return {**self.headers}
        content = _read("header_file", self.header_file) or b""
        lines = content.decode("latin-1").splitlines()  # other characters are refused below
        return {**self.headers, **parse_headers(lines, f"header_file {self.header_file}")}


DEFAULT_SECURITY: Final = Security()
"""The system's CAs, no client certificate, no headers."""

_FILES: Final = ("ca_file", "cert_file", "key_file", "header_file")


def parse_headers(lines: Iterable[str], source: str) -> dict[str, str]:
    """Return the headers of lines ``name: value``, without empty lines and those that begin with #.

    Args:
        lines: may be secret, so errors show none.
        source: what errors call them.

    Raises:
        ValueError: a line of another form, or a header that cannot be sent.

    """
    headers = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"{source}, line {number}: expected NAME: VALUE")
        name, value = _checked(name, value, f"{source}, line {number}")
        headers[name] = value
    return headers


def _checked(name: str, value: str, source: str) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(value, str):
        raise ValueError(f"{source}: names and values must be str")
    name, value = name.strip().lower(), value.strip()
    if not _NAME.fullmatch(name):
        raise ValueError(f"{source}: not the name of a header")
    if name.endswith("-bin"):
        raise ValueError(f"{source}: gRPC takes {name} as binary, which is not supported")
    if name in _RESERVED or name.startswith("grpc-"):
        raise ValueError(f"{source}: the client itself sets the header {name}")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"{source}: the value of {name} has characters that headers cannot have")
    return name, value


def _read(name: str, path: str | os.PathLike[str] | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as exc:
        raise ValueError(f"{name} {path}: {exc.strerror}") from exc
