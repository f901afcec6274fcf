#!/usr/bin/env python3
"""Runs `true` in fresh containers, one after the other, by the API: a number of them by Mayfly, then by Docker for as long.

    race.py COUNT         the sockets are in MAYFLY_SOCKET and DOCKER_SOCKET
"""
import http.client
import json
import os
import socket
import sys
import time

BAR = 32
BLOCKS = " ▏▎▍▌▋▊▉█"


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None, want=(200, 201, 204)):
        self.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = self.getresponse()
        text = answer.read()
        if answer.status not in want:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text.startswith(b"{") else text


def by_mayfly(connection):
    task = connection.ask("POST", "/v1/tasks", {"image": "busybox:demo", "cmd": ["true"], "network": "none"}, (201,))
    assert task["exit_code"] == 0, task


def by_docker(connection):
    made = connection.ask("POST", "/containers/create", {"Image": "bench:1", "Cmd": ["true"],
                                                         "HostConfig": {"NetworkMode": "none"}})
    path = "/containers/" + made["Id"]
    connection.ask("POST", path + "/start", {})
    assert connection.ask("POST", path + "/wait")["StatusCode"] == 0
    connection.ask("GET", path + "/logs?stdout=1&stderr=1")
    connection.ask("DELETE", path)


def show(name, colour, part, n, seconds, end=""):
    eighths = max(1 if n else 0, round(part * BAR * 8))
    bar = "█" * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")
    sys.stdout.write(f"\r  {name}  \x1b[{colour}m{bar:<{BAR}}\x1b[0m \x1b[1m{n:>6,}\x1b[0m containers  {seconds:5.2f} s{end}")
    sys.stdout.flush()


def race(name, colour, socket_path, one, going_on, total):
    connection = Connection(socket_path)
    one(connection)  # the first one is slower everywhere
    begun, shown, n = time.monotonic(), 0.0, 0
    while going_on(n, time.monotonic() - begun):
        one(connection)
        n += 1
        now = time.monotonic() - begun
        if now - shown > 0.06:
            show(name, colour, n / total, n, now)
            shown = now
    seconds = time.monotonic() - begun
    show(name, colour, n / total, n, seconds, "\n")
    return n, seconds


def main():
    total = int(sys.argv[1])
    _, seconds = race("mayfly", 32, os.environ["MAYFLY_SOCKET"], by_mayfly, lambda n, _: n < total, total)
    race("docker", 34, os.environ["DOCKER_SOCKET"], by_docker, lambda _, gone: gone < seconds, total)


if __name__ == "__main__":
    main()
