"""Where headers may be sent: where Locust was started with them for, whatever its web page says."""

from __future__ import annotations

from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.options import LoadOptions

__all__ = ["check_destination"]


def check_destination(options: LoadOptions, given: LoadOptions) -> None:
    """Reject a run with ``options`` that sends headers to another host than ``given`` names.

    Whoever may use the web page could otherwise have them, or a file, sent to a host of theirs. A
    worker compares with its own command line, too: it has headers of its own environment.

    Raises:
        LoadTestError: another host, or other files.

    """
    security = options.connection.security
    if security != given.connection.security:
        raise LoadTestError(
            "other files for TLS or headers than this process was started with: start Locust's "
            "master and workers anew, all with these"
        )
    if security.request_headers() and options.url != given.url:
        raise LoadTestError(
            f"the headers are for {given.url}: start Locust with --host {options.url} to send them "
            "there"
        )
