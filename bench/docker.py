#!/usr/bin/env python3
"""Bare calls of Docker's API beside the driver (tests/docker/drive.c), with and without containers made ahead; and which calls a
task makes.

    bench/docker.py [--quick] [--pairs N] [--rounds N] [--tasks N]

At 1 in flight each pass of one loop runs a task by bare calls, one by the driver, and one by the driver with containers made
ahead, in turns of all orders, so that what slows the machine slows all three; the figures are the median of the differences
within a pass and its 95 % interval, by order statistics. At 8 in flight rounds of each follow one another. The bare calls are
what a task needs at least (create, attach, start, wait, and delete when its time is taken), for the very container that the
driver makes. --quick takes a tenth of it."""

import argparse
import itertools
import json
import math
import os
import queue
import re
import socket
import statistics
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/docker"))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dockers  # noqa: E402
import mayfly  # noqa: E402

OVERHEAD_MS = 5
BARE, DRIVER, WARM = "bare API", "driver", "driver, prewarm 8"


class Wire:
    """HTTP with as little work as it can be: Python's own client takes longer than some of Docker's answers."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.data = b""

    def close(self):
        self.socket.close()

    def more(self):
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionResetError("Docker closed the connection")
        self.data += piece

    def call(self, method, path, body=b"", upgrade=False):
        kind = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else "Content-Type: application/json\r\n"
        self.socket.sendall(f"{method} /v1.41{path} HTTP/1.1\r\nHost: docker\r\n{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while b"\r\n\r\n" not in self.data:
            self.more()
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        status = int(head[9:12])
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
        if status in (101, 204, 304):
            answer = b""
        elif length:
            while len(self.data) < int(length.group(1)):
                self.more()
            answer, self.data = self.data[:int(length.group(1))], self.data[int(length.group(1)):]
        else:
            while not self.data.endswith(b"0\r\n\r\n"):
                self.more()
            answer, self.data = self.data, b""
        assert status < 300, (method, path, status, answer)
        return answer


def bare_task(docker, wire, name, body):
    """From the request to the exit code, deleted afterwards, as the driver does; seconds."""
    begin = time.monotonic()
    wire.call("POST", f"/containers/create?name={name}", body)
    attached = Wire(docker.socket)
    attached.call("POST", f"/containers/{name}/attach?stream=true&stdout=true&stderr=true", upgrade=True)
    wire.call("POST", f"/containers/{name}/start")
    while attached.socket.recv(65536):
        pass
    attached.close()
    wire.call("POST", f"/containers/{name}/wait")
    end = time.monotonic()
    wire.call("DELETE", f"/containers/{name}?force=true&v=true")
    return end - begin


class Bare:
    """The bare calls, told from each other by their names."""

    def __init__(self, docker, name, body):
        self.docker, self.name, self.body = docker, name, body
        self.wire, self.n = Wire(docker.socket), itertools.count()

    def one(self):
        return bare_task(self.docker, self.wire, f"{self.name}-bare{next(self.n)}", self.body)

    def many(self, flight, n):
        times, todo = [], queue.Queue()
        for _ in range(n):
            todo.put(f"{self.name}-bare{next(self.n)}")

        def work():
            wire = Wire(self.docker.socket)
            while True:
                try:
                    times.append(bare_task(self.docker, wire, todo.get_nowait(), self.body))
                except queue.Empty:
                    wire.close()
                    return

        begin = time.monotonic()
        workers = [threading.Thread(target=work) for _ in range(flight)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        return times, n / (time.monotonic() - begin)


class Driven:
    """By the driver, whose own clock tells the time from create() to the end."""

    def __init__(self, docker, directory, name, *flags, host=None):
        os.mkdir(directory)
        self.docker, self.name = docker, name
        self.drive = dockers.Drive(directory, name, host or docker.host, *flags)
        self.n = itertools.count()

    def start(self):
        self.drive.run(f"t{next(self.n)}", "/bin/true", discard=True)

    def end(self):
        while True:
            event = self.drive.events.get(timeout=60)
            if "ended" in event or "failed" in event:
                assert event.get("end") == "exited", event
                return event["ns"] / 1e9

    def one(self):
        """The next one's turn comes when this one is deleted: nothing of it falls into another's time."""
        self.start()
        took = self.end()
        self.quiet()
        return took

    def quiet(self):
        """Until Docker has deleted it, and made the next one ahead."""
        prefix, before = f"/{self.name}-", None
        for _ in range(200):
            answer = self.docker.call("GET", "/v1.41/containers/json?all=true")[1]
            mine = sorted((c["Names"][0], c["State"]) for c in answer if c["Names"][0].startswith(prefix))
            if mine == before and all(state == "created" for _, state in mine):
                return
            before = mine
            time.sleep(0.005)

    def many(self, flight, n):
        times, started = [], 0
        begin = time.monotonic()
        while len(times) < n:
            while started < n and started - len(times) < flight:
                self.start()
                started += 1
            times.append(self.end())
        return times, n / (time.monotonic() - begin)

    def cpu(self, n):
        """Milliseconds a task, as the scheduler counts: ticks are too coarse."""
        before = self.busy_ns()
        self.many(1, n)
        return (self.busy_ns() - before) / 1e6 / n

    def busy_ns(self):
        tasks = f"/proc/{self.drive.process.pid}/task"
        return sum(int(mayfly.read(f"{tasks}/{thread}/schedstat").split()[0]) for thread in os.listdir(tasks))


def interval(values, chance=0.95):
    """Lower and upper bound of the median, by the binomial distribution of how many lie below it."""
    values, n = sorted(values), len(values)
    below, tail = 0, 0.0
    while below < n // 2:
        tail += math.comb(n, below) / 2 ** n
        if tail > (1 - chance) / 2:
            break
        below += 1
    return values[max(below - 1, 0)], values[min(n - below, n - 1)]


def difference(what, values):
    low, high = interval(values)
    print(f"{what}: {1000 * statistics.median(values):+.2f} ms (95 %: {1000 * low:+.2f} to {1000 * high:+.2f}; {len(values)} pairs)")
    return 1000 * low, 1000 * high


def shape(request):
    """A call without what is one container's."""
    path = re.sub(r"^/v1\.\d+", "", request.target.partition("?")[0])
    return request.method + " " + re.sub(r"/(containers|exec)/[^/]*-[^/]+", r"/\1/NAME", re.sub(r"^/images/.*/json", "/images/REF/json", path))


def calls_of(docker, directory, name, n):
    """{call: how often a task makes it}, and what a container is made of."""
    inner = os.path.join(directory, "proxied")
    os.mkdir(inner)
    proxy = dockers.Proxy(inner, docker.socket, keep=True)
    driven = Driven(docker, os.path.join(inner, "drive"), name, host=proxy.host)
    driven.many(1, 1)
    driven.quiet()
    before = len(proxy.requests)
    driven.many(1, n)
    driven.quiet()
    driven.drive.quit()
    counts, body = {}, None
    for request in proxy.requests[before:]:
        if "/version" in request.target:
            continue
        counts[shape(request)] = counts.get(shape(request), 0) + 1
        if "/containers/create" in request.target:
            body = json.loads(request.body)
    body["Labels"] = {}
    proxy.close()
    return {call: count / n for call, count in counts.items()}, json.dumps(body).encode()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth: too few to tell 5 ms")
    parser.add_argument("--pairs", type=int, help="passes at 1 in flight (400)")
    parser.add_argument("--rounds", type=int, help="at 8 in flight (5)")
    parser.add_argument("--tasks", type=int, help="in each round (48)")
    a = parser.parse_args()
    pairs, rounds, tasks = a.pairs or (40 if a.quick else 400), a.rounds or (1 if a.quick else 5), a.tasks or (24 if a.quick else 48)
    directory, name = dockers.enter()
    docker = dockers.Docker(directory, name).start()
    docker.image(directory)
    calls, body = calls_of(docker, directory, name + "c", 5)
    contenders = {BARE: Bare(docker, name, body), DRIVER: Driven(docker, os.path.join(directory, "driver"), name + "d"),
                  WARM: Driven(docker, os.path.join(directory, "warm"), name + "w", "--prewarm", 8)}
    table = {}
    for contender in contenders.values():
        for _ in range(3):
            contender.one()
    orders = list(itertools.permutations(contenders))
    passes = {what: [] for what in contenders}
    for i in range(pairs):
        for what in orders[i % len(orders)]:
            passes[what].append(contenders[what].one())
    for what, times in passes.items():
        table[1, what] = times, []
    for r in range(rounds):
        for what in orders[r % len(orders)]:
            times, rate = contenders[what].many(8, tasks)
            t, rates = table.setdefault((8, what), ([], []))
            t.extend(times)
            rates.append(rate)
    print("| | in flight | p50 ms | p90 ms | tasks/s |\n|---|---|---|---|---|")
    for (flight, what), (times, rates) in table.items():
        tenths = statistics.quantiles(times, n=10)
        rate = f"{statistics.median(rates):.1f}" if rates else ""
        print(f"| {what} | {flight} | {1000 * statistics.median(times):.1f} | {1000 * tenths[8]:.1f} | {rate} |")
    print()
    low, _ = difference("overhead of the driver at 1 in flight", [d - b for d, b in zip(passes[DRIVER], passes[BARE])])
    difference("with containers made ahead, beside the driver without", [w - d for w, d in zip(passes[WARM], passes[DRIVER])])
    print(f"CPU of the driver: {contenders[DRIVER].cpu(max(pairs // 4, 20)):.2f} ms a task")
    print("calls of a task: " + ", ".join(f"{call} {count:g}" for call, count in calls.items()))
    for what in (DRIVER, WARM):
        contenders[what].drive.quit()
    docker.stop()
    if low > OVERHEAD_MS:
        print(f"missed: at most {OVERHEAD_MS} ms")
        sys.exit(1)


main()
