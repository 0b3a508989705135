"""Sockets: what both sides see of a connection that is broken off on purpose."""

from __future__ import annotations

import socket
import threading

import pytest

from wavelift.base.net import break_off

pytestmark = pytest.mark.unit

SENT_S = 30.0
"""The kernel's own way to find out takes more than a minute."""


def test_a_sender_that_met_a_full_window_is_told_at_once_that_nobody_reads_any_more() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    server.settimeout(SENT_S)
    ended: list[Exception] = []
    full = threading.Event()

    def send() -> None:
        server.setblocking(False)
        try:
            while True:
                server.send(bytes(1 << 20))
        except BlockingIOError:
            full.set()
        server.settimeout(SENT_S)
        try:
            while True:
                server.send(bytes(1 << 20))
        except OSError as error:
            ended.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    assert full.wait(SENT_S)
    break_off(client)
    while client.recv(1 << 20):
        """A reader takes what had come, so that nothing unread is left, which would be a reset by itself."""
    client.close()
    sender.join(2 * SENT_S)
    server.close()
    listener.close()
    assert [type(error) for error in ended] in ([ConnectionResetError], [BrokenPipeError])


def test_what_is_closed_already_may_be_broken_off() -> None:
    closed = socket.socket()
    closed.close()
    break_off(closed)
