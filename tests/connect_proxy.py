"""An HTTP proxy that makes tunnels, for what must go through one."""

from __future__ import annotations

import socket
import threading


class ConnectProxy:
    """A CONNECT proxy on loopback, without a login of its own; ``heads`` are the requests as they came."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.heads: list[bytes] = []
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._ends.append(client)
            thread = threading.Thread(target=self._tunnel, args=(client,))
            thread.start()
            self._threads.append(thread)

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                if not (data := client.recv(65536)):
                    return
                head += data
            self.heads.append(head)
            host, port = head.split()[1].decode().rsplit(":", 1)
            upstream = socket.create_connection((host, int(port)), timeout=5)
            self._ends.append(upstream)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        except OSError:
            _cut(client)
            return
        back = threading.Thread(target=self._pump, args=(upstream, client))
        back.start()
        self._pump(client, upstream)
        back.join()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            _cut(source)
            _cut(sink)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in self._ends:
            _cut(end)
        for thread in self._threads:
            thread.join()
        for end in (self._socket, *self._ends):
            end.close()


def _cut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # cut already
