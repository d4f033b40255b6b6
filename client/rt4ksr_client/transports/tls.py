"""What is wrong where no TLS connection comes about, and what to do."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import ServerError, TlsError

__all__ = ["diagnose", "tls_error"]

_TIMEOUT_S: Final = 2.0
_QUESTION: Final = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

_EXPIRED, _NOT_YET_VALID, _WRONG_NAME, _WRONG_IP = 10, 9, 62, 64
"""OpenSSL's X509_V_ERR codes."""

_GIVE_CERTIFICATE: Final = "give one with cert_file and key_file (--cert-file, --key-file)"
_USE_TRUSTED: Final = "use a valid one of a CA that the server trusts"


def tls_error(exc: OSError, endpoint: Endpoint) -> TlsError:
    """Return the error for what :mod:`ssl` raised in a handshake with ``endpoint``."""
    reason = getattr(exc, "reason", None) or str(exc)
    own = endpoint.security.cert_file
    plain = "http" if endpoint.transport == "http" else "grpc"

    def has(*parts: str) -> bool:
        return any(part in reason for part in parts)

    if isinstance(exc, ssl.SSLCertVerificationError):
        what = _certificate_fault(exc)
    elif has("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH"):
        what = f"this port does not speak TLS: use {plain}://, or the port that does"
    elif "ALERT" in reason and not own and has("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"):
        what = f"the server asks for a client certificate: {_GIVE_CERTIFICATE}"
    elif "ALERT" in reason and own and has("UNKNOWN_CA", "CERTIFICATE", "DECRYPT", "DENIED"):
        what = f"the server rejects the client certificate {own} ({reason}): {_USE_TRUSTED}"
    elif isinstance(exc, (TimeoutError, ConnectionError)) or "EOF" in reason:
        what = f"the server does not answer a TLS handshake: without TLS, use {plain}://"
    else:
        what = f"TLS failed: {reason}"
    return TlsError(f"{endpoint}: {what}")


def diagnose(endpoint: Endpoint, call: Call, *, http2: bool) -> ServerError | None:
    """Try TLS with a server that gave no answer; return what is wrong, or None if nothing is.

    Sends no header of the user's and, without TLS, nothing but a handshake.

    Raises:
        DeadlineExceededError: the deadline of the call that failed has passed.

    """
    url = f"{'grpcs' if http2 else 'https'}://{endpoint.address}"
    speaks_tls = TlsError(f"{endpoint}: this port speaks TLS: use {url}")
    begun = False
    try:
        with _connect(endpoint, "h2" if http2 else "http/1.1", call) as sock:
            begun = True
            if not endpoint.is_tls:
                return speaks_tls
            confirmed = sock.selected_alpn_protocol() is not None
            if not confirmed and (fault := _other_protocol(endpoint, call, http2=http2)):
                return fault
            if not http2:
                sock.sendall(_QUESTION)
            if sock.recv(1):
                return None
    except TimeoutError:
        return None
    except OSError as exc:
        if not endpoint.is_tls:
            return speaks_tls if "ALERT" in str(getattr(exc, "reason", "")) else None
        if isinstance(exc, ssl.SSLError) and not (begun and isinstance(exc, ssl.SSLEOFError)):
            return tls_error(exc, endpoint)
        if not begun:
            return None
    # In TLS 1.3, a server that misses the client's certificate says so only after the handshake,
    # or hangs up.
    own = endpoint.security.cert_file
    if own is None:
        what = f"ask for a client certificate: {_GIVE_CERTIFICATE}"
    else:
        what = f"reject the client certificate {own}: {_USE_TRUSTED}"
    return TlsError(
        f"{endpoint}: the server hangs up after TLS's handshake, as some do that {what}"
    )


def _other_protocol(endpoint: Endpoint, call: Call, *, http2: bool) -> ServerError | None:
    """Return the error for a server that does not confirm the protocol; None if it need not."""
    if http2:  # gRPC insists on it
        return TlsError(
            f"{endpoint}: this port speaks HTTPS, not gRPC: use https://, or the port that speaks "
            "gRPC"
        )
    with _connect(endpoint, "h2", call) as sock:
        if sock.selected_alpn_protocol() is None:
            return None
    return TlsError(
        f"{endpoint}: this port speaks gRPC, not HTTP: use grpcs://{endpoint.address}, or the port "
        "that speaks HTTPS"
    )


def _connect(endpoint: Endpoint, protocol: str, call: Call) -> ssl.SSLSocket:
    """Return a connection with TLS, on which ``protocol`` was offered."""
    name = endpoint.host
    if endpoint.is_tls:
        context = endpoint.security.tls_context()
        if protocol == "h2":  # gRPC checks the certificate for the name that it asks for
            name = endpoint.security.request_headers().get("host", name).partition(":")[0]
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    timeout_s = min(_TIMEOUT_S, call.required_s(str(endpoint)))
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except OSError:
        plain.close()
        raise


def _certificate_fault(exc: ssl.SSLCertVerificationError) -> str:
    if exc.verify_code == _EXPIRED:
        return "the server's certificate, or its CA's, has expired: it has to be renewed"
    if exc.verify_code == _NOT_YET_VALID:
        return "the server's certificate is not valid yet: compare the clocks of both machines"
    if exc.verify_code in (_WRONG_NAME, _WRONG_IP):
        return f"{exc.verify_message.rstrip('.')}: use the name that the certificate is for"
    return (
        f"the server's certificate is not trusted ({exc.verify_message}): give its CA's "
        "certificate with ca_file (--ca-file)"
    )
