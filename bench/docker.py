#!/usr/bin/env python3
"""Bare calls of Docker's API beside the driver (tests/docker/drive.c), in turns, at 1 and 8 in flight, with and without containers
made ahead; and how many calls each task costs.

    bench/docker.py [--rounds N] [--tasks N]

The bare calls are what a task needs at least: create, attach, start, wait, delete, on connections that are kept. Prints a table;
the driver's own overhead is what the two medians at 1 in flight differ by, and its CPU, which a busy machine does not change."""

import argparse
import json
import os
import queue
import socket
import statistics
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/docker"))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dockers  # noqa: E402
import measure  # noqa: E402

OVERHEAD_MS = 5


def bare_task(docker, connection, name, digest):
    """From the request to the end of the output and the exit code, deleted afterwards, as the driver does; seconds."""

    def call(method, path, body=None):
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status < 300, (path, data)
        return data

    body = {"Image": digest, "Cmd": ["/bin/true"], "AttachStdout": True, "AttachStderr": True, "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {"NetworkMode": "none", "Memory": 128 << 20, "MemorySwap": 128 << 20, "NanoCpus": 10**9, "PidsLimit": 128,
                           "ShmSize": 16 << 20, "IpcMode": "private", "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"],
                           "LogConfig": {"Type": "local", "Config": {"max-size": "4194304", "max-file": "1", "compress": "false"}}}}
    begin = time.monotonic()
    call("POST", f"/v1.41/containers/create?name={name}", body)
    with socket.socket(socket.AF_UNIX) as attached:
        attached.connect(docker.socket)
        attached.sendall(f"POST /v1.41/containers/{name}/attach?stream=true&stdout=true&stderr=true HTTP/1.1\r\nHost: docker\r\n"
                         "Content-Length: 0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        attached.recv(4096)
        call("POST", f"/v1.41/containers/{name}/start")
        while attached.recv(65536):
            pass
    call("POST", f"/v1.41/containers/{name}/wait")
    end = time.monotonic()
    call("DELETE", f"/v1.41/containers/{name}?force=true&v=true")
    return end - begin


def bare(docker, name, digest, flight, n):
    times, todo = [], queue.Queue()
    for i in range(n):
        todo.put(f"{name}-bare{i}")

    def work():
        connection = dockers.UnixHTTP(docker.socket)
        while True:
            try:
                task = todo.get_nowait()
            except queue.Empty:
                return
            times.append(bare_task(docker, connection, task, digest))

    begin = time.monotonic()
    workers = [threading.Thread(target=work) for _ in range(flight)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return times, n / (time.monotonic() - begin)


def driven(drive, flight, n):
    """The driver's own clock: from create() to the end."""
    times, started = [], 0
    begin = time.monotonic()
    mark = f"{time.monotonic_ns():x}"
    while len(times) < n:
        while started < n and started - len(times) < flight:
            drive.run(f"{mark}x{started}", "/bin/true")
            started += 1
        event = drive.events.get(timeout=60)
        if "ended" in event or "failed" in event:
            assert event.get("end") == "exited", event
            times.append(event["ns"] / 1e9)
    return times, n / (time.monotonic() - begin)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=20)
    a = parser.parse_args()
    directory, name = dockers.enter()
    docker = dockers.Docker(directory, name).start()
    docker.image(directory)
    digest = docker.call("GET", "/v1.41/images/conformance:1/json")[1]["Id"]
    drives = {}
    for what, flags in (("driver", ()), ("driver, prewarm 8", ("--prewarm", 8))):
        inner = os.path.join(directory, what.replace(" ", ""))
        os.mkdir(inner)
        drives[what] = dockers.Drive(inner, name + str(len(drives)), docker.host, *flags)
    figures = {}
    for flight in (1, 8):
        bare(docker, name, digest, flight, 2)
        for drive in drives.values():
            driven(drive, flight, 4)
        for _ in range(a.rounds):
            for what in ("bare API", *drives):
                if what == "bare API":
                    times, rate = bare(docker, name, digest, flight, a.tasks)
                else:
                    times, rate = driven(drives[what], flight, a.tasks)
                t, r = figures.setdefault((flight, what), ([], []))
                t.extend(times)
                r.append(rate)
    print("| | in flight | p50 ms | p90 ms | tasks/s |\n|---|---|---|---|---|")
    for (flight, what), (times, rates) in figures.items():
        tenths = statistics.quantiles(times, n=10)
        print(f"| {what} | {flight} | {1000 * statistics.median(times):.1f} | {1000 * tenths[8]:.1f} | {statistics.median(rates):.1f} |")
    over = 1000 * (statistics.median(figures[1, "driver"][0]) - statistics.median(figures[1, "bare API"][0]))
    gain = 1000 * (statistics.median(figures[1, "driver"][0]) - statistics.median(figures[1, "driver, prewarm 8"][0]))
    drive = drives["driver"]
    busy = measure.cpu_of([drive.process.pid])
    driven(drive, 1, 2 * a.tasks)
    busy = 1000 * (measure.cpu_of([drive.process.pid]) - busy) / (2 * a.tasks)
    print(f"\nCPU of the driver: {busy:.2f} ms a task, all that it can add by itself (goal: at most {OVERHEAD_MS})")
    print(f"overhead of the driver at 1 in flight: {over:.1f} ms of p50; gain by prewarm: {gain:.1f} ms")
    inner = os.path.join(directory, "count")
    os.mkdir(inner)
    proxy = dockers.Proxy(inner, docker.socket)
    drive = dockers.Drive(inner, name + "c", proxy.host)
    driven(drive, 1, 1)
    before = len(proxy.requests)
    driven(drive, 1, 5)
    time.sleep(1)
    calls = [r.line() for r in proxy.requests[before:] if "/version" not in r.target]
    print(f"calls for a task: {len(calls) / 5:.1f} (an image's description, create, attach, start, wait, delete)")
    for d in (*drives.values(), drive):
        d.quit()
    docker.stop()


main()
