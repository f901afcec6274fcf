#!/usr/bin/env python3
"""What goes wrong between the engine and Docker: each call of a container's life spoilt in each way, a Docker that is killed, one
that hangs; each task has to end with a reason, and nothing of ours may be left.

    tests/docker/faults.py [--long] [--only output|spoilt_calls|spoilt_whole|killed]"""

import os
import re
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dockers  # noqa: E402
import mayfly  # noqa: E402

# Each call of a container's life, by what it looks like; `{}` is the container's name.
CALLS = {
    "create": r"POST /v1\.\d+/containers/create\?name={}$",
    "ask": r"HEAD /v1\.\d+/containers/{}/archive",
    "fill": r"PUT /v1\.\d+/containers/{}/archive",
    "attach": r"POST /v1\.\d+/containers/{}/attach",
    "start": r"POST /v1\.\d+/containers/{}/start",
    "wait": r"POST /v1\.\d+/containers/{}/wait",
    "kill": r"POST /v1\.\d+/containers/{}/kill",
    "inspect": r"GET /v1\.\d+/containers/{}/json",
    "delete": r"DELETE /v1\.\d+/containers/{}\?",
}
FAULTS = ("cut", "lose", "late", "truncate", "nonsense", "refuse", "hang")
ENDS = {"exited", "signaled", "not_found", "not_executable", "start_error", "lost"}
# These come once, and are asked again: nothing is lost by them.
HARMLESS = {("wait", "cut"), ("wait", "lose"), ("wait", "truncate"), ("wait", "nonsense"), ("wait", "refuse")} | \
           {("delete", f) for f in FAULTS} | {(c, "late") for c in CALLS}


class Spoil:
    """A task named CALL0FAULT has that call spoilt so: once, but a hang each time but for deletes."""

    def __init__(self, name):
        self.name, self.done, self.lock = name, set(), threading.Lock()

    def __call__(self, request):
        line = request.line()
        found = re.search(re.escape(self.name) + r"-([a-z]+)0([a-z]+)", line)
        if not found or found.group(1) not in CALLS:
            return None
        call, fault = found.groups()
        if not re.match(CALLS[call].format(re.escape(found.group(0))), line):
            return None
        with self.lock:
            if found.group(0) in self.done and not (fault == "hang" and call != "delete"):
                return None
            self.done.add(found.group(0))
        return fault


def spoilt_calls(report, directory, name, docker, long):
    inner = os.path.join(directory, "spoilt")
    os.mkdir(inner)
    proxy = dockers.Proxy(inner, docker.socket, Spoil(name))
    drive = dockers.Drive(inner, name, proxy.host, "--lost", 4, "--timeout", 8)
    before = drive.rss()
    faults = FAULTS if long else [f for f in FAULTS if f != "hang"]
    for fault in faults:
        if fault == "hang":
            drive.quit()
            drive = dockers.Drive(inner, name, proxy.host, "--lost", 4, "--timeout", 4)
        with report.case(f"each call of the life, {fault}"):
            for call in CALLS:
                task = f"{call}0{fault}"
                if call in ("kill", "inspect"):
                    drive.run(task, "/bin/sh", "-c", "echo out; sleep 600")
                elif call in ("ask", "fill"):
                    drive.run(task, "/bin/sh", "-c", "cat /new/file; exit 4", file={"/new/file": "out\n"})
                else:
                    drive.run(task, "/bin/sh", "-c", "echo out; exit 4")
            for call in ("kill", "inspect"):
                task = f"{call}0{fault}"
                mayfly.wait_until(lambda t=task: drive_has(docker, f"{name}-{t}"), 20)
                time.sleep(0.3)
                drive.say("signal", id=task, signo=9)
            for call in CALLS:
                task = f"{call}0{fault}"
                e = drive.end(task, 90)
                assert e.get("end") in ENDS or e.get("r", 0) < 0, e
                if (call, fault) in HARMLESS and call not in ("kill", "inspect"):
                    assert (e.get("end"), e.get("code")) == ("exited", 4), (task, e)
                    assert drive.stdout(task) == b"out\n", (task, drive.stdout(task))
                # To an archive Docker answers with nothing: a lie is not seen.
                if e.get("end") == "exited" and (call, fault) != ("fill", "nonsense"):
                    assert e["code"] == 4 and drive.stdout(task) == b"out\n", (task, e, drive.stdout(task))
                if e.get("end") in ("start_error", "lost"):
                    assert e["text"], e
            assert mayfly.wait_until(lambda: not docker.containers(), 60), docker.containers()
    with report.case("each call was spoilt in each way"):
        hit = {(fault, re.search(r"-([a-z]+)0", line).group(1)) for fault, line in proxy.spoilt}
        missing = {(f, c) for f in faults for c in CALLS} - hit
        # One whose kill never arrived has not ended, and is not looked at.
        assert missing <= {(f, "inspect") for f in FAULTS}, missing
    with report.case("memory stays bounded, no record is left"):
        assert drive.rss() < before + 16 * 1024, (before, drive.rss())
        assert dockers.records(inner) == [], dockers.records(inner)
        drive.quit()
    proxy.close()


def drive_has(docker, name):
    return docker.call("GET", f"/v1.41/containers/{name}/json")[1].get("State", {}).get("Running")


def spoilt_whole(report, directory, name, docker, long):
    """What belongs to no container: version, info, list, events, images."""
    for call, pattern in (("version", r"GET /version"), ("info", r".*/info$"), ("list", r".*/containers/json"), ("events", r".*/events"),
                          ("image", r".*/images/")):
        with report.case(f"{call}: each fault once, and then all is well"):
            for fault in ("cut", "truncate", "nonsense", "refuse", "late") if long else ("truncate", "refuse"):
                inner = os.path.join(directory, f"{call}{fault}")
                os.mkdir(inner)
                spoilt = []

                def spoil(request, spoilt=spoilt, fault=fault, pattern=pattern):
                    if spoilt or not re.match(pattern, request.line()):
                        return None
                    spoilt.append(1)
                    return fault

                proxy = dockers.Proxy(inner, docker.socket, spoil)
                drive = dockers.Drive(inner, name, proxy.host, "--lost", 4, "--timeout", 8)
                drive.run("first", "/bin/sh", "-c", "echo out")
                e = drive.end("first")
                assert e.get("end") == "exited" or call == "image" and e.get("r", 0) < 0, (fault, e)
                drive.run("second", "/bin/sh", "-c", "echo out")
                e = drive.end("second")
                assert e.get("end") == "exited" and drive.stdout("second") == b"out\n", (fault, e)
                assert spoilt, fault
                drive.quit()
                proxy.close()


def broken(drive):
    drive.seen = [e for e in drive.seen if "about" not in e]
    drive.say("check")
    return drive.until(lambda e: "about" in e)["check"] < 0


def killed(report, directory, name, docker, _long):
    inner = os.path.join(directory, "killed")
    os.mkdir(inner)
    drive = dockers.Drive(inner, name, docker.host, "--lost", 60)
    with report.case("dockerd killed and started again with 20 tasks in flight"):
        tasks = [f"t{i}" for i in range(20)]
        for i, task in enumerate(tasks):
            drive.run(task, "/bin/sh", "-c", f"echo begun {i}; sleep {2 + i % 10}; echo done; exit {i}")
        time.sleep(4)
        docker.kill()
        # What ran goes on under its shim; without live-restore the next dockerd ends it.
        time.sleep(1)
        refused = f"refused{time.monotonic_ns()}"
        drive.run(refused, "/bin/true")
        e = drive.end(refused)
        assert e.get("r", 0) < 0 and "cannot be used" in e["text"], e
        drive.say("check")
        e = drive.until(lambda e: "about" in e)
        assert e["check"] < 0, e
        docker.start()
        ends = [drive.end(task, 120) for task in tasks]
        for i, e in enumerate(ends):
            assert e.get("end") in ("exited", "lost", "start_error", "signaled") or e.get("r", 0) < 0, e
            if e.get("end") == "exited":
                assert e["code"] == i and drive.stdout(f"t{i}") == f"begun {i}\ndone\n".encode(), (e, drive.stdout(f"t{i}"))
            if e.get("end") in ("lost", "start_error"):
                assert e["text"], e
        assert mayfly.wait_until(lambda: not docker.containers(), 60), docker.containers()
    with report.case("afterwards all is well"):
        assert mayfly.wait_until(lambda: not broken(drive), 60, 0.5)
        drive.run("well", "/bin/sh", "-c", "echo well")
        e = drive.end("well")
        assert e.get("end") == "exited" and drive.stdout("well") == b"well\n", e
    with report.case("a Docker that hangs opens the breaker, and closes it when it goes on"):
        drive.quit()
        drive = dockers.Drive(inner, name, docker.host, "--lost", 60, "--timeout", 3)
        docker.process.send_signal(signal.SIGSTOP)
        try:
            for i in range(3):
                drive.run(f"hang{i}", "/bin/true")
            for i in range(3):
                e = drive.end(f"hang{i}")
                assert e.get("r", 0) < 0 or e["end"] == "start_error", e
            assert mayfly.wait_until(lambda: broken(drive), 30, 0.5)
        finally:
            docker.process.send_signal(signal.SIGCONT)
        assert mayfly.wait_until(lambda: not broken(drive), 30, 0.5)
        drive.run("again", "/bin/true")
        assert drive.end("again").get("end") == "exited", drive.end("again")
        assert mayfly.wait_until(lambda: not docker.containers(), 60), docker.containers()
        drive.quit()


def output(report, directory, name, docker, long):
    inner = os.path.join(directory, "output")
    os.mkdir(inner)
    size, n = 1 << 20, 200 if long else 20
    wanted = [pattern(size, stream) for stream in (0, 1)]
    with report.case(f"{n} tasks of 1 MB on both streams: exact"):
        drive = dockers.Drive(inner, name, docker.host)
        for i in range(n):
            drive.run(f"o{i}", "/bin/helper", "both", str(size), output=size)
        for i in range(n):
            e = drive.end(f"o{i}", 300)
            assert e.get("end") == "exited" and e["code"] == 0, e
            assert mayfly.sha256(drive.stdout(f"o{i}")) == wanted[0], (i, e)
            assert mayfly.sha256(drive.stderr(f"o{i}")) == wanted[1], (i, e)
        drive.quit()
        assert docker.containers() == [], docker.containers()
    with report.case("cut off from the output in its midst: exact, from the log"):
        cut = []

        def lose(request):
            if request.method == "POST" and "/attach" in request.target:
                cut.append(request)
                return "truncate"
            return None

        os.mkdir(inner + "2")
        proxy = dockers.Proxy(inner + "2", docker.socket, lose)
        drive = dockers.Drive(inner + "2", name, proxy.host)
        for i in range(4):
            drive.run(f"o{i}", "/bin/helper", "both", str(size // 8), output=size)
        for i in range(4):
            e = drive.end(f"o{i}", 100)
            assert e.get("end") in ("exited", "start_error"), e
            if e["end"] == "exited":
                assert mayfly.sha256(drive.stdout(f"o{i}")) == pattern(size // 8, 0), (i, e)
                assert mayfly.sha256(drive.stderr(f"o{i}")) == pattern(size // 8, 1), (i, e)
        assert cut
        drive.quit()


def pattern(size, stream):
    """The hash of what tests/conformance/pattern.h makes."""
    out = bytearray()
    for block in range((size + 7) // 8):
        x = ((block + 1) * 0x9e3779b97f4a7c15 + stream) & 0xffffffffffffffff
        x ^= x >> 29
        out += x.to_bytes(8, "little")
    return mayfly.sha256(bytes(out[:size]))


def main():
    directory, name = dockers.enter()
    report = mayfly.Report("docker/faults: ")
    docker = dockers.Docker(directory, name).start()
    docker.image(directory)
    long = "--long" in sys.argv
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    for part in (output, spoilt_calls, spoilt_whole, killed):
        if only in part.__name__:
            part(report, directory, name, docker, long)
    docker.stop()
    report.exit()


main()
