"""Options for TLS and request headers, which every command that talks to a server has."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from rt4ksr_client.errors import Rt4ksrError
from rt4ksr_client.security import Security, parse_headers

__all__ = ["FILE_OPTIONS", "HEADERS_VARIABLE", "header_option", "read_security", "security_options"]

HEADERS_VARIABLE: Final = "RT4KSR_HEADERS"

FILE_OPTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "--ca-file": (
        "RT4KSR_CA_FILE",
        "PEM file with the CA certificates to trust for https:// and grpcs://. Default: the "
        "system's.",
    ),
    "--cert-file": (
        "RT4KSR_CERT_FILE",
        "PEM file with the client certificate, for servers that ask for one.",
    ),
    "--key-file": ("RT4KSR_KEY_FILE", "PEM file with its key. Default: in --cert-file."),
    "--header-file": (
        "RT4KSR_HEADER_FILE",
        "File with a line 'NAME: VALUE' for each header to send, such as authorization. Read again "
        "for every request.",
    ),
}
"""Option to its environment variable and its help."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any] | click.Command)


def header_option(function: Decorated) -> Decorated:
    """Add ``--header``; the function gets ``headers``, a tuple of texts."""
    return click.option(
        "--header",
        "headers",
        multiple=True,
        metavar="'NAME: VALUE'",
        help="Send this header, as gRPC metadata too; may be given several times. Not for secrets: "
        "other users of this machine see command lines. For those, use --header-file, or the "
        f"environment variable {HEADERS_VARIABLE} with one header a line.",
    )(function)


def security_options(function: Decorated) -> Decorated:
    """Add the options; the function gets ``security: Security``."""

    @functools.wraps(function)
    def with_security(headers: tuple[str, ...], **rest: Any) -> Any:
        files = {name: rest.pop(name) for name in map(parameter_name, FILE_OPTIONS)}
        try:
            security = read_security(headers, **files)
        except ValueError as exc:
            raise Rt4ksrError(str(exc)) from exc
        return function(security=security, **rest)

    decorated: Any = header_option(with_security)
    for flag, (variable, text) in reversed(list(FILE_OPTIONS.items())):
        decorated = click.option(
            flag, metavar="FILE", envvar=variable, show_envvar=True, help=text
        )(decorated)
    return decorated  # type: ignore[no-any-return]


def read_security(
    headers: tuple[str, ...] = (), **files: str | os.PathLike[str] | None
) -> Security:
    """Return the settings of the options and of :data:`HEADERS_VARIABLE`.

    Raises:
        ValueError: a file or a header that cannot be used.

    """
    lines = os.environ.get(HEADERS_VARIABLE, "").splitlines()
    given = parse_headers(lines, HEADERS_VARIABLE) | parse_headers(headers, "--header")
    return Security(headers=given, **files)


def parameter_name(flag: str) -> str:
    """Return the name of the parameter of an option."""
    return flag.removeprefix("--").replace("-", "_")
