"""A server that speaks just enough HTTP/2 to answer every request with one status, as nginx does, and no gRPC."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RST, _SETTINGS, _PING = 1, 3, 4, 6


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _answer(connection: socket.socket, headers: bytes) -> None:
    with connection, connection.makefile("rb") as stream:
        stream.read(len(_PREFACE))
        connection.sendall(_frame(_SETTINGS, 0, 0))
        while len(head := stream.read(9)) == 9:
            length, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            number, payload = int.from_bytes(head[5:]), stream.read(length)
            if kind == _SETTINGS and not flags:
                connection.sendall(_frame(_SETTINGS, 1, 0))
            elif kind == _PING and not flags:
                connection.sendall(_frame(_PING, 1, 0, payload))
            elif kind == _HEADERS:
                connection.sendall(_frame(_HEADERS, 5, number, headers) + _frame(_RST, 0, number, bytes(4)))


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """Answer with a status while the block lasts; yield HOST:PORT."""
    headers = b"\x08\x03" + str(status).encode()  # literal, the name from the static table
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=_suppressed, args=(connection, headers), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def _suppressed(connection: socket.socket, headers: bytes) -> None:
    with contextlib.suppress(OSError):
        _answer(connection, headers)
