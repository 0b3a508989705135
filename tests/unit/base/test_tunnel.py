"""What a proxy answers becomes an error that names the way out, and never a password."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.errors import ProxyLoginError, SpecError, UnreachableError
from wavelift.base.tunnel import Proxy, ProxyRefused, offered_logins, open_tunnel, proxy_error

Answer = Callable[[bytes], Proxy]


@pytest.fixture
def answers() -> Iterator[Answer]:
    """A proxy that gives every request the same bytes, and closes."""
    ends: list[Callable[[], None]] = []

    def serve(said: bytes) -> Proxy:
        server = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(said)

        thread = threading.Thread(target=run)
        thread.start()

        def end() -> None:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()

        ends.append(end)
        return Proxy("127.0.0.1", server.getsockname()[1], "me", "geheim-wort")

    yield serve
    for end in ends:
        end()


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", ProxyLoginError, "refuses this user"),
        (b"HTTP/1.0 407\r\n\r\n", ProxyLoginError, "refuses this user"),
        (b"HTTP/1.1 407 No\r\nproxy-authenticate:NTLM\r\n\r\n", ProxyLoginError, "offers only NTLM as login"),
        (
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
            ProxyLoginError,
            "offers only Negotiate (Kerberos), NTLM",
        ),
        (
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: basic realm=x\r\n\r\n",
            ProxyLoginError,
            "refuses this user",
        ),
        (b"HTTP/1.1 403 Forbidden\x1b[2J\r\n\r\n", UnreachableError, "403 Forbidden"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", UnreachableError, "502 Bad Gateway"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", UnreachableError, "not HTTP"),
        (b"\r\n\r\n", UnreachableError, "not HTTP"),
    ],
)
def test_sms_15_an_answer_of_a_proxy(answers: Answer, said: bytes, kind: type[Exception], words: str) -> None:
    proxy = answers(said)
    with pytest.raises(ProxyRefused) as caught:
        open_tunnel(proxy, "vc.example", 443, timeout=20)
    told = proxy_error(caught.value, where="the connection")
    assert type(told) is kind
    assert words in told.what
    assert proxy.url in told.what
    assert "the connection" in told.next_step
    assert "\x1b" not in str(told)
    for text in (str(told), repr(told), str(caught.value), repr(proxy)):
        assert "geheim-wort" not in text


def test_a_proxy_that_hangs_up_or_never_ends_its_head(answers: Answer) -> None:
    with pytest.raises(OSError, match="closed the connection before it answered"):
        open_tunnel(answers(b"HTTP/1.1 200 OK\r\n"), "vc.example", 443, timeout=20)
    endless = answers(b"HTTP/1.1 407 No\r\n" + b"X: y\r\n" * 20_000)
    with pytest.raises(ProxyRefused):
        open_tunnel(endless, "vc.example", 443, timeout=20)


def test_sms_15_ways_to_log_in_are_asked_for_without_a_password(answers: Answer) -> None:
    refuses = answers(b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\n\r\n")
    assert offered_logins(refuses, "x", 443, timeout=20) == ("NTLM",)
    assert offered_logins(answers(b"HTTP/1.1 200 OK\r\n\r\n"), "x", 443, timeout=20) == ()
    assert offered_logins(Proxy("127.0.0.1", 9), "x", 443, timeout=20) == ()


@given(user=st.text(min_size=1, max_size=20), password=st.text(max_size=20), port=st.integers(1, 65535))
def test_sms_15_a_login_survives_its_url(user: str, password: str, port: int) -> None:
    try:
        made = Proxy("proxy.example", port).logged_in(user, password)
        url = made.login_url
    except UnicodeEncodeError:  # half of a surrogate pair
        return
    assert Proxy.parse(url) == made
    assert url.count("@") == 1
    assert Proxy.parse(made.url) == Proxy("proxy.example", port)


@pytest.mark.parametrize("text", ["", "https://proxy", "http://", "http://proxy:x", "http://me:geheim-wort@[::1"])
def test_what_is_no_address_of_a_proxy_is_not_quoted(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        Proxy.parse(text)
    assert "geheim-wort" not in str(caught.value)
