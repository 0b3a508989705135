"""What the tests of the NBD client share."""

from __future__ import annotations

import itertools
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wavelift.base.run import CancelFlag
from wavelift.transfer.nbd.client import NbdClient
from wavelift.transfer.nbd.connection import Patience
from wavelift.transfer.nbd.link import NbdAddress

QUICK = Patience(attempts=4, pause=0.001)


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """Short: a Unix socket's path has 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="wl-nbd-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def client() -> Iterator[Callable[..., NbdClient]]:
    """Clients that are closed at the end."""
    made: list[NbdClient] = []

    def make(address: str | NbdAddress, **options: Any) -> NbdClient:
        where = address if isinstance(address, NbdAddress) else NbdAddress(unix=address)
        options = {"cancel": CancelFlag(), "timeout": 60.0, "patience": QUICK, **options}
        made.append(NbdClient(where, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def unused_tcp_port() -> int:
    """Another process may be quicker to take it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that repeat with no period of a power of two."""
    unit = bytes((index * index * seed + index) % 251 for index in range(251 * 3 + seed))
    return bytes(itertools.islice(itertools.cycle(unit), size))


def read_all(source: NbdClient) -> bytes:
    content = bytearray(source.size)
    source.read_into(0, memoryview(content))
    return bytes(content)
