#!/usr/bin/env python3
"""GET /docs in a browser: the page shows every operation, needs nothing from elsewhere, and reports no fault."""
import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "api"))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import common  # noqa: E402
import mayfly  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Front:
    """Adds the key to each request on the way, as a browser does after its user has given it, and keeps what was asked for."""

    def __init__(self, port, key):
        self.port, self.asked = port, []
        self.header = b"Authorization: Basic " + base64.b64encode(key.encode()) + b"\r\nConnection: close\r\n"
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            threading.Thread(target=self.relay, args=(self.listener.accept()[0],), daemon=True).start()

    def relay(self, client):
        head = b""
        with client:
            while b"\r\n\r\n" not in head:
                more = client.recv(65536)
                if not more:
                    return
                head += more
            line, rest = head.split(b"\r\n", 1)
            self.asked.append(line.decode())
            rest = re.sub(rb"(?im)^Connection:[^\r]*\r\n", b"", rest)
            with socket.create_connection(("127.0.0.1", self.port)) as server:
                server.sendall(line + b"\r\n" + self.header + rest)
                while more := server.recv(65536):
                    client.sendall(more)


def render(front, directory):
    """The page after its scripts ran, and what they said to the console. No name resolves but the address itself."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
               "--enable-logging=stderr", "--v=0", "--user-data-dir=" + directory, "--virtual-time-budget=15000",
               "--dump-dom", f"http://127.0.0.1:{front.listener.getsockname()[1]}/docs"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          timeout=120 * mayfly.SLOW, env={**os.environ, "HOME": directory})
    if b"swagger" not in done.stdout:
        raise AssertionError(f"no page: {done.returncode}: {done.stderr[-600:]!r}")
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if ":CONSOLE" in line]
    return done.stdout.decode(), said


def main():
    report = mayfly.Report("openapi: ")
    if BROWSER is None:
        report.skip("the page in a browser", "chromium is not installed")
        report.exit()
    with common.TcpInstance("mfpage", "10.216.64.0/18") as instance, tempfile.TemporaryDirectory() as directory:
        front = Front(instance.port, instance.make_key("read"))
        document = instance.client.get("/v1/openapi.json").json()
        page, said = render(front, directory)
        for path, item in document["paths"].items():
            for operation in item.values():
                shown = f'-{operation["operationId"]}"' in page
                report.check(f"the page shows {operation['operationId']}", shown, f"{path} is not on it")
        report.check("the console is silent", not said, said)
        ours = ("GET /docs", "GET /v1/openapi.json")
        report.check("nothing else is asked for", all(a.startswith(ours) for a in front.asked), front.asked)
        elsewhere = re.findall(r'(?:src=|<link[^>]*href=)"(?:https?:)?//[^"]*', page)
        report.check("nothing of the page is elsewhere", not elsewhere, elsewhere)
    report.exit()


if __name__ == "__main__":
    main()
