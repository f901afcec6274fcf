"""What the suites of the API share: an instance that listens on TCP, keys, a WebSocket. A client of the tests' own, standard
library only."""
import base64
import os
import socket
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import dockerd  # noqa: E402
import mayfly  # noqa: E402

IMAGE = "busybox:demo"


class TcpInstance(mayfly.Instance):
    """With the image IMAGE, and a port of its own on loopback."""

    def __init__(self, name, pool, engine=None, **config):
        mayfly.exclusive(name)
        self.port = mayfly.free_port()
        self.engine = engine or dockerd.Native()
        super().__init__(name, pool, listen=f"tcp://127.0.0.1:{self.port}", **self.engine.config, **config)

    def start(self):
        fresh = not os.path.exists(self.data_dir)
        super().start()
        if fresh:
            archive = subprocess.run([mayfly.ROOT + "/tools/busybox-image.sh"], stdout=subprocess.PIPE, check=True).stdout
            self.engine.load(self, archive, IMAGE)
        return self

    def make_key(self, role, **members):
        answer = self.client.request("POST", "/v1/keys", {"role": role, **members})
        assert answer.status == 201, answer
        return answer.json()["key"]

    def net_client(self, role="task", **members):
        return mayfly.NetClient(self.port, self.make_key(role, **members))


def equal(got, want):
    assert got == want, f"got {got!r}, expected {want!r}"


def run_all(tests, prefix=""):
    """Runs them; those that are named on the command line, if any are."""
    report = mayfly.Report(prefix)
    for function in tests:
        if len(sys.argv) > 1 and function.__name__ not in sys.argv[1:]:
            continue
        with report.case(function.__name__):
            function()
    return report


class WebSocket:
    """RFC 6455, as much of it as a test needs."""

    def __init__(self, client, path, timeout=30):
        self.sock = socket.create_connection((client.host, client.port), timeout * mayfly.SLOW)
        self.data = b""
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)).decode()]
        lines += [f"{name}: {value}" for name, value in client.authorization().items()]
        self.sock.sendall("\r\n".join(lines + ["", ""]).encode())
        while b"\r\n\r\n" not in self.data:
            self.fill()
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        self.status = int(head.split()[1])

    def fill(self):
        more = self.sock.recv(65536)
        if not more:
            raise EOFError("the connection was closed")
        self.data += more

    def take(self, n):
        while len(self.data) < n:
            self.fill()
        taken, self.data = self.data[:n], self.data[n:]
        return taken

    def send(self, data):
        """Text as str, binary as bytes."""
        opcode, payload = (1, data.encode()) if isinstance(data, str) else (2, data)
        self.frame(opcode, payload)

    def frame(self, opcode, payload):
        n = len(payload)
        head = bytes([0x80 | opcode])
        head += bytes([0x80 | n]) if n < 126 else struct.pack(">BH", 0xfe, n) if n < 65536 else struct.pack(">BQ", 0xff, n)
        mask = os.urandom(4)
        masked = (int.from_bytes(payload, "big") ^
                  int.from_bytes((mask * (n // 4 + 1))[:n], "big")).to_bytes(n, "big") if n else b""
        self.sock.sendall(head + mask + masked)

    def receive(self):
        """(kind, payload): "text", "binary", "close" with its code. Pings are answered."""
        kinds = {1: "text", 2: "binary", 8: "close"}
        whole, kind = b"", None
        while True:
            first, second = self.take(2)
            n = second & 0x7f
            if n >= 126:
                n = int.from_bytes(self.take(2 if n == 126 else 8), "big")
            payload = self.take(n)
            if first & 0xf == 9:
                self.frame(10, payload)
                continue
            if first & 0xf in kinds:
                kind = kinds[first & 0xf]
            whole += payload
            if kind == "close":
                return kind, int.from_bytes(whole[:2], "big") if whole else 1005
            if first & 0x80 and first & 0xf != 10:
                return kind, whole

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
