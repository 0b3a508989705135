"""A proxy that never ends, drop by drop or in a flood; addresses whose password has odd characters."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.unit.base.test_tunnel import Answer, answers

from wavelift.base.errors import SpecError
from wavelift.base.tunnel import Proxy, ProxyRefused, open_tunnel

__all__ = ["answers"]


@pytest.fixture
def dripping() -> Iterator[Callable[[bytes], Proxy]]:
    """Sends a byte in each twentieth of a second, for ever."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    servers: list[socket.socket] = []

    def serve(said: bytes) -> Proxy:
        server = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            client, _ = server.accept()
            with client:
                try:
                    client.sendall(said)
                    while not over.wait(0.05):
                        client.sendall(b"x")
                except OSError:
                    return

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        servers.append(server)
        return Proxy("127.0.0.1", server.getsockname()[1])

    yield serve
    over.set()
    for thread in threads:
        thread.join()
    for server in servers:
        server.close()


def test_an_answer_that_comes_drop_by_drop_has_the_time_of_one_answer(dripping: Callable[[bytes], Proxy]) -> None:
    """A time-out for each byte would last for weeks."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        open_tunnel(dripping(b"HTTP/1.1 200 OK\r\nX: "), "vc.example", 443, timeout=1)
    assert time.monotonic() - began < 20


def test_a_success_whose_head_never_ends_is_no_tunnel(answers: Answer) -> None:
    """What follows would be taken for the other side's TLS."""
    endless = answers(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000)
    with pytest.raises(ProxyRefused, match="64 KiB"):
        open_tunnel(endless, "vc.example", 443, timeout=20)


def test_the_time_for_the_answer_does_not_stay_on_the_socket(answers: Answer) -> None:
    with open_tunnel(answers(b"HTTP/1.1 200 OK\r\n\r\n"), "vc.example", 443, timeout=20) as sock:
        assert sock.gettimeout() == 20


@pytest.mark.parametrize("password", ["12/geheim", "12?geheim", "12#geheim", "ge/he?im#", "//geheim"])
def test_a_bare_separator_in_a_password_makes_no_other_host(password: str) -> None:
    """``http://user:12#geheim@proxy:3128`` is the host ``user`` and the port 12 to a URL parser."""
    with pytest.raises(SpecError) as caught:
        Proxy.parse(f"http://user:{password}@proxy:3128")
    assert "geheim" not in str(caught.value)
    assert "%XX" in str(caught.value)


@pytest.mark.parametrize("password", ["a:b", "a@b", "a%40b", "a%b", "ä ö"])
def test_a_password_with_other_odd_characters_is_understood(password: str) -> None:
    known = Proxy.parse(f"http://user:{password}@proxy:3128/")
    assert (known.host, known.port, known.username) == ("proxy", 3128, "user")
    assert Proxy.parse(known.login_url) == known
