"""A stretch of the network that a test can cut: TCP from a port of its own to whatever port it is told.

`answers` is what the next connections are told instead of being carried, as by a proxy whose server is away; `asked` is
what they had said.
"""

import contextlib
import socket
import threading


class Relay:
    def __init__(self, target: int, port: int = 0):
        self.target = target
        self.answers: list[bytes] = []
        self.asked: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", port))
        self.port = self.listening.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listening.accept()
                if self.answers:
                    with near:
                        self.asked.append(near.recv(2**16))
                        near.sendall(self.answers.pop(0))
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                self.pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    def carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def disconnect_all(self) -> int:
        """Ends every connection, and says how many there were; new ones are carried."""
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def close(self) -> None:
        self.listening.close()
        self.disconnect_all()


@contextlib.contextmanager
def to(target: int, port: int = 0):
    relay = Relay(target, port)
    try:
        yield relay
    finally:
        relay.close()
