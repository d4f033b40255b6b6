"""TLS files and headers: what is accepted, and that no secret is shown."""

from __future__ import annotations

import copy
import os
import pickle
import re
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from rt4ksr_client import AsyncUpscaler, Connection, Security, UnencryptedWarning, Upscaler
from rt4ksr_client.call import Call
from rt4ksr_client.errors import AccessDeniedError, ServerError
from rt4ksr_client.transports import open_transport
from support.tls import Authority

SECRET = "Bearer eyJhbGciOi"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


# Addresses


@pytest.mark.parametrize(
    ("url", "address", "transport", "is_tls", "path"),
    [
        ("https://host", "host:443", "http", True, ""),
        ("https://host:8443/", "host:8443", "http", True, ""),
        ("https://host/sr/", "host:443", "http", True, "/sr"),
        ("https://host/a/b%20c", "host:443", "http", True, "/a/b%20c"),
        ("https://[::1]/sr", "[::1]:443", "http", True, "/sr"),
        ("http://host", "host:80", "http", False, ""),
        ("http://host:8000/sr/", "host:8000", "http", False, "/sr"),
        ("grpcs://host", "host:443", "grpc", True, ""),
        ("grpcs://host:8001/", "host:8001", "grpc", True, ""),
        ("grpcs://localhost:8001", "localhost:8001", "auto", True, ""),
        ("grpcs://[::1]:8001", "[::1]:8001", "auto", True, ""),
        ("grpc://host:8001", "host:8001", "auto", False, ""),
    ],
)
def test_an_address_has_scheme_port_and_path(
    url: str, address: str, transport: str, is_tls: bool, path: str
) -> None:
    (endpoint,) = Connection(url).endpoints

    assert (endpoint.address, endpoint.transport) == (address, transport)
    assert (endpoint.is_tls, endpoint.path) == (is_tls, path)


@pytest.mark.parametrize(
    ("url", "settings", "reason"),
    [
        ("grpcs://host/sr", {}, "a path goes with http"),
        ("host:8001/sr", {}, "a path goes with http"),
        ("https://host:0/", {}, "expected an address like"),
        ("https://host:99999/", {}, "expected an address like"),
        ("https://[::1/", {}, "expected an address like"),
        ("https://ho st/", {}, "expected an address like"),
        ("https://host/\r\nevil: 1", {}, "expected an address like"),
        ("https:///sr", {}, "expected an address like"),
        ("https://host", {"transport": "grpc"}, "does not go with transport"),
        ("grpcs://host", {"transport": "http"}, "does not go with transport"),
        ("grpcs://host", {"transport": "shm"}, "needs a server on this host"),
        ("ftps://host", {}, "the scheme must be"),
    ],
)
def test_an_address_that_cannot_work_is_rejected(
    url: str, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Connection(url, **settings)


@pytest.mark.parametrize(
    "url", ["https://me:s3cret@host/", "a:1,https://me:s3,cret@host", "https://host/?key=s3cret"]
)
def test_a_secret_in_an_address_is_rejected_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"headers? instead") as rejected:
        Connection(url)

    assert "s3" not in str(rejected.value)


# Headers


def test_headers_come_from_arguments_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_bytes(b"# a comment\r\n\r\n Authorization :  Bearer a:b \r\nmodel-id: x\n")

    security = Security(headers={"Model-ID": "y", "Host": "sr.example"}, header_file=file)

    assert security.request_headers() == {
        "authorization": "Bearer a:b",
        "model-id": "x",
        "host": "sr.example",
    }
    assert security.secret_names == ["authorization"]


def test_a_header_file_is_read_again_for_every_request(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("authorization: first")
    security = Security(header_file=file)
    file.write_text("authorization: second")

    assert security.request_headers() == {"authorization": "second"}

    file.unlink()
    with pytest.raises(AccessDeniedError, match=f"header_file {file}: No such file"):
        security.request_headers()


def test_headers_from_a_pipe_are_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(pipe.write_text, f"authorization: {SECRET}")
        security = Security(header_file=pipe)

    assert security.request_headers() == {"authorization": SECRET}
    assert SECRET not in repr(security)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("", "x", "not the name of a header"),
        ("a b", "x", "not the name of a header"),
        (":authority", "x", "not the name of a header"),
        ("ümlaut", "x", "not the name of a header"),
        ("x\r\nevil", "x", "not the name of a header"),
        ("Content-Length", "x", "sets the header content-length"),
        ("Transfer-Encoding", "x", "sets the header transfer-encoding"),
        ("grpc-timeout", "1S", "sets the header grpc-timeout"),
        ("trace-bin", "x", "binary"),
        ("authorization", f"{SECRET}\r\nevil: 1", "characters"),
        ("authorization", f"{SECRET}é", "characters"),
    ],
)
def test_a_header_that_cannot_be_sent_is_rejected_without_its_value(
    name: str, value: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as rejected:
        Security(headers={name: value})

    assert SECRET not in "".join(traceback.format_exception(rejected.value))


@pytest.mark.parametrize(
    "headers", [SECRET, [SECRET], {"authorization": SECRET.encode()}, {1: "x"}]
)
def test_headers_of_another_type_are_rejected_without_their_value(headers: Any) -> None:
    with pytest.raises(ValueError, match="headers") as rejected:
        Security(headers=headers)
    assert SECRET not in str(rejected.value)
    with pytest.raises(ValueError, match="security must be a Security, not dict"):
        Connection(security={"headers": headers})  # type: ignore[arg-type]


@pytest.mark.parametrize("line", [SECRET, f"authorization: {SECRET}\x00", f"a b: {SECRET}"])
def test_a_line_that_is_no_header_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text(f"model-id: x\n{line}")

    with pytest.raises(ValueError, match=rf"header_file {file}, line 2: ") as rejected:
        Security(header_file=file)
    assert SECRET not in str(rejected.value)


def test_no_secret_is_shown_and_a_pickle_carries_it() -> None:
    security = Security(headers={"authorization": SECRET})
    connection = Connection("https://host", security=security)

    shown = [repr(one) for one in (security, connection, connection.endpoints)]
    shown.append(f"{security} {connection}")

    assert not any(SECRET in text or "eyJ" in text for text in shown)
    assert "authorization" in shown[0]
    assert pickle.loads(pickle.dumps(connection)) == copy.deepcopy(connection) == connection
    assert hash(connection) == hash(pickle.loads(pickle.dumps(connection)))
    with Upscaler.from_connection(connection) as upscaler:
        assert SECRET not in repr(vars(upscaler))
        copied = pickle.loads(pickle.dumps(upscaler))
        assert vars(copied)["_connection"] == connection
        copied.close()


def test_what_a_server_repeats_of_a_secret_is_hidden() -> None:
    security = Security(headers={"authorization": SECRET, "short": "of"})

    assert security.hide(f"invalid {SECRET} of you") == "invalid *** of you"
    assert security.hide("invalid eyJhbGciOi") == "invalid ***"


# Files


def encrypted(key_file: Path, to: Path) -> Path:
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    to.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    return to


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    text, own = tmp_path / "text", authority.client
    text.write_text("not PEM")
    locked = encrypted(own.key_file, tmp_path / "encrypted.pem")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ca_file": tmp_path / "no"}, f"ca_file {tmp_path}/no: No such file"),
        ({"ca_file": tmp_path}, f"ca_file {tmp_path}: Is a directory"),
        ({"ca_file": text}, f"ca_file {text}: no certificate in PEM form"),
        ({"key_file": own.key_file}, "key_file needs cert_file"),
        ({"cert_file": text, "key_file": own.key_file}, f"cert_file {text}, key_file .* PEM"),
        ({"cert_file": own.cert_file}, f"key_file {own.cert_file}: .* PEM"),
        ({"cert_file": own.cert_file, "key_file": text}, f"key_file {text}: .* PEM"),
        ({"cert_file": own.cert_file, "key_file": locked}, "not encrypted"),
        ({"cert_file": own.cert_file, "key_file": tmp_path / "no"}, "key_file .*no: No such"),
        (
            {"cert_file": own.cert_file, "key_file": authority.server.key_file},
            f"not the key of {own.cert_file}",
        ),
        ({"header_file": tmp_path / "no"}, "header_file .*no: No such file"),
    ]
    for files, reason in cases:
        with pytest.raises(ValueError, match=reason):
            Security(**files)


def test_certificate_and_key_may_be_in_one_file(authority: Authority, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(
        authority.client.cert_file.read_bytes() + authority.client.key_file.read_bytes()
    )

    security = Security(ca_file=str(authority.ca_file), cert_file=both)

    roots, key, chain = security.grpc_pem()
    assert key == chain == both.read_bytes()
    assert roots is not None
    assert roots.count(b"BEGIN CERTIFICATE") == 1


def test_grpc_trusts_the_cas_of_the_system(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")

    roots, key, chain = Security().grpc_pem()

    assert roots is not None
    assert roots.split() == authority.ca_file.read_bytes().split()
    assert key is chain is None


def test_a_file_that_is_gone_when_a_copy_is_opened_is_named(
    authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.ca_file.read_bytes())
    with Upscaler("https://host", security=Security(ca_file=file)) as upscaler:
        pickled = pickle.dumps(upscaler)
    file.unlink()

    with pytest.raises(ValueError, match=re.escape(f"ca_file {file}: No such file")):
        pickle.loads(pickled)


# Without encryption


@pytest.mark.parametrize("url", ["http://host:1", "host:1", "grpcs://a:1,host:1"])
def test_credentials_for_another_host_without_tls_raise_a_warning(url: str) -> None:
    security = Security(headers={"authorization": SECRET})

    with pytest.warns(UnencryptedWarning, match="host:1: .* authorization") as caught:
        Upscaler(url, transport="auto", security=security).close()
    assert SECRET not in str(caught[0].message)


def test_tls_files_for_an_address_without_tls_raise_a_warning(authority: Authority) -> None:
    with pytest.warns(UnencryptedWarning, match="not encrypted, although"):
        AsyncUpscaler("host:1", security=authority.trusted)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("https://host:1", {"authorization": SECRET}),
        ("grpcs://host:1", {"authorization": SECRET}),
        ("127.0.0.1:1", {"authorization": SECRET}),
        ("http://[::1]:1", {"authorization": SECRET}),
        ("http://host:1", {"host": "sr.example", "model-id": "x"}),
    ],
)
def test_nothing_is_warned_of_where_nothing_is_exposed(url: str, headers: dict[str, str]) -> None:
    Upscaler(url, security=Security(headers=headers)).close()


def test_a_transport_says_that_its_header_file_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("authorization: x")
    connection = Connection("http://127.0.0.1:9", security=Security(header_file=file))
    with open_transport(connection) as transport:
        file.unlink()
        with pytest.raises(ServerError, match="header_file"):
            transport.server_metadata(Call(1))
