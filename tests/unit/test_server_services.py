"""Ports, addresses and readiness of a server that nobody has started."""

from __future__ import annotations

import socket

import pytest

from rt4ksr_client.errors import ServerStartError
from rt4ksr_server.services import (
    SERVICES,
    Services,
    address_flag,
    is_free,
    numeric_address,
)


@pytest.mark.parametrize(
    ("host", "client_host"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("box", "box")],
)
def test_a_client_on_this_machine_gets_an_address_it_can_use(host: str, client_host: str) -> None:
    assert Services(host, {"grpc": 8001}).url("grpc") == f"{client_host}:8001"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::", "::"),
        ("localhost", "127.0.0.1"),
    ],
)
def test_a_host_becomes_the_numeric_address_that_tritonserver_binds(
    host: str, address: str
) -> None:
    assert numeric_address(host) == address


def test_a_name_with_addresses_of_both_kinds_is_bound_by_its_first_ipv4_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def entry(family: socket.AddressFamily, address: str) -> tuple[object, ...]:
        return family, socket.SOCK_STREAM, 6, "", (address, 0)

    found = [
        entry(socket.AF_INET6, "2001:db8::1"),
        entry(socket.AF_INET, "192.0.2.7"),
        entry(socket.AF_INET, "192.0.2.8"),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert numeric_address("box") == "192.0.2.7"
    del found[1:]
    assert numeric_address("box") == "2001:db8::1"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (
            "no-such-host.invalid",
            r"host 'no-such-host\.invalid': .*: name an address of this machine",
        ),
        ("[::1", r"host '\[::1'"),
        ("a" * 300, "name an address of this machine"),
        ("fe80::1%lo", "cannot bind a link-local address"),
    ],
    ids=["unknown", "half a bracket", "too long", "link-local"],
)
def test_a_host_that_cannot_be_bound_is_an_error_that_says_what_can(host: str, reason: str) -> None:
    with pytest.raises(ServerStartError, match=reason):
        numeric_address(host)


def test_each_service_has_its_own_spelling_of_an_ipv6_address() -> None:
    assert [address_flag(service, "::1") for service in SERVICES] == [
        "--grpc-address=[::1]",
        "--http-address=ipv6:::1",
        "--metrics-address=ipv6:::1",
    ]


def test_free_ports_are_distinct_and_can_be_bound() -> None:
    services = Services.on_free_ports("127.0.0.1", dict.fromkeys(SERVICES, 0))
    ports = services.ports
    assert list(ports) == list(SERVICES)
    assert len(set(ports.values())) == 3
    assert all(is_free("127.0.0.1", port) for port in ports.values())
    assert not services.lost_ports(dict.fromkeys(SERVICES, 0))


def test_a_port_that_cannot_be_bound_is_named_with_its_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        with pytest.raises(ServerStartError, match=f"grpc on port {port}.*already in use"):
            Services.on_free_ports("127.0.0.1", {"grpc": port})
    with pytest.raises(ServerStartError, match="http on port 70000"):
        Services.on_free_ports("127.0.0.1", {"http": 70000})
    with pytest.raises(ServerStartError, match=r"port 0 of no-such-host\.invalid"):
        Services.on_free_ports("no-such-host.invalid", {"http": 0})


def test_two_services_cannot_share_a_port() -> None:
    port = Services.on_free_ports("127.0.0.1", {"grpc": 0}).ports["grpc"]
    with pytest.raises(ServerStartError, match="already in use"):
        Services.on_free_ports("127.0.0.1", {"grpc": port, "http": port})


def test_nothing_at_a_port_is_not_ready() -> None:
    for service in ("grpc", "http"):
        services = Services.on_free_ports("127.0.0.1", {service: 0})
        assert not services.are_ready("name")


def test_a_free_port_that_another_program_takes_is_lost() -> None:
    services = Services.on_free_ports("127.0.0.1", {"grpc": 0})
    with socket.create_server(("127.0.0.1", services.ports["grpc"])):
        assert services.lost_ports({"grpc": 0})
        assert not services.lost_ports(services.ports)  # nobody chose it: it was asked for
