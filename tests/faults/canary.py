#!/usr/bin/env python3
"""Canaries in `secrets`, `registry_auth`, `env` and `stdin`, of tasks that are waited for and of accepted ones, with mayflyd killed
in between: nowhere on disk at any time, nowhere in logs, in arguments or environments of ours, in answers.

    tests/faults/canary.py
"""

import base64
import contextlib
import hashlib
import mmap
import os
import secrets
import signal
import sqlite3
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("lib", "kill"):
    sys.path.insert(0, os.path.join(HERE, "..", folder))
sys.dont_write_bytecode = True

import consistent  # noqa: E402
import mayfly  # noqa: E402
from disk import Disk  # noqa: E402

IMAGE = "canary:1"
PLACES = ("secret", "password", "env", "stdin")
# The task shows by hashes that it got them.
SCRIPT = """
sum() { sha256sum | cut -c1-64; }
sum </run/secrets/canary; printf %s "$CANARY" | sum; sum; sleep "$0"
"""

report = mayfly.Report("canary: ")


class Canaries:
    """One for each place and task, and how to recognise any of them: as it is, as base64 at each of its three alignments, in
    hexadecimal."""

    def __init__(self):
        self.patterns = {}

    def new(self, place):
        text = f"canary-{secrets.token_hex(20)}"
        raw = text.encode()
        self.patterns[raw] = place
        for i in range(3):
            coded = base64.b64encode(b"\0" * i + raw)
            # The first and last characters depend on the neighbours.
            self.patterns[coded[(i * 8 + 5) // 6:-4]] = f"{place}, base64"
        self.patterns[raw.hex().encode()] = f"{place}, hexadecimal"
        return text

    def found_in(self, data):
        return sorted({place for pattern, place in self.patterns.items() if data.find(pattern) >= 0})

    def found_in_file(self, path):
        try:
            size = os.stat(path).st_size
            if not size:
                return []
            with open(path, "rb") as f, contextlib.closing(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)) as view:
                return self.found_in(view)
        except (FileNotFoundError, ValueError):
            return []


class Poller(threading.Thread):
    """Reads arguments and environment of all processes of ours, again and again; the tasks' own are none of ours."""

    def __init__(self, canaries, instance):
        super().__init__(daemon=True)
        self.canaries, self.instance = canaries, instance
        self.found, self.rounds = [], 0
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.is_set():
            root = self.instance.process.pid
            for pid in [root, *mayfly.descendants(root)]:
                if mayfly.exe_name(pid) not in mayfly.PROGRAMS:
                    continue
                for name in ("cmdline", "environ"):
                    text = mayfly.read(f"/proc/{pid}/{name}").encode()
                    # It may have executed the task meanwhile.
                    if mayfly.exe_name(pid) in mayfly.PROGRAMS and "canary-" in text.decode():
                        self.found.append((mayfly.exe_name(pid), name, self.canaries.found_in(text)))
            self.rounds += 1
            time.sleep(0.005)


class Tasks:
    def __init__(self, canaries):
        self.canaries = canaries
        self.sums = {}

    def body(self, seconds, **members):
        values = {place: self.canaries.new(place) for place in PLACES}
        request = {"image": IMAGE, "cmd": ["sh", "-c", SCRIPT, str(seconds)], "network": "none",
                   "secrets": {"canary": values["secret"]}, "env": {"CANARY": values["env"]}, "stdin": values["stdin"],
                   "registry_auth": {"username": "someone", "password": values["password"]}, "pull": "missing",
                   "limits": {"memory": "32m", "disk": "1m", "shm": "1m", "timeout": "60s", "queue_timeout": "120s"}, **members}
        want = "".join(hashlib.sha256(values[p].encode()).hexdigest() + "\n" for p in ("secret", "env", "stdin"))
        return request, want

    def check(self, task, want):
        assert (task["status"], task["exit_code"]) == ("exited", 0), task
        assert task["stdout"] == want, f"the task did not get them: {task}"


def files_below(*tops):
    for top in tops:
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path


def on_disk(canaries, instance, disk):
    """Where one is: in a file of ours, the log, the whole device."""
    os.sync()
    found = {}
    for path in [*files_below(instance.data_dir, instance.run_dir), instance.log, disk.image]:
        places = canaries.found_in_file(path)
        if places:
            found[os.path.relpath(path, instance.dir)] = places
    return found


def sealed(instance):
    """The sealed requests that are on disk now."""
    with consistent.Database(f"{instance.data_dir}/state/history.db") as db:
        return [bytes(b) for b in db.column("SELECT sealed FROM requests WHERE length(sealed) > 0")]


def remains(blobs, instance):
    """Pieces of sealed requests in the files of the database."""
    found = set()
    for name in ("history.db", "history.db-wal"):
        path = os.path.join(instance.data_dir, "state", name)
        if os.path.exists(path):
            with open(path, "rb") as f:
                data = f.read()
            found.update(name for blob in blobs for i in range(0, len(blob) - 16, 64) if blob[i:i + 16] in data)
    return sorted(found)


def answers(instance, owner, other, ids):
    """Everything that can be asked for, by the owner, by another key, by root: (who, path, body)."""
    paths = ["/v1/tasks", "/v1/tasks?limit=1", "/v1/images", "/v1/health", "/v1/keys"]
    paths += [f"/v1/tasks/{t}{end}" for t in ids for end in ("", "/wait?timeout=1s", "/stdout", "/stderr", "/logs")]
    for who, client in (("owner", owner), ("other", other), ("root", instance.client)):
        for path in paths:
            yield who, path, client.get(path)


def kill_daemon(instance):
    os.kill(instance.pid("mayflyd"), signal.SIGKILL)
    time.sleep(0.1)
    instance.wait_ready()


def run_tasks(instance, owner, tasks, canaries, disk):
    """All ways that a request can take; the ids, and all sealed requests that were seen."""
    ids, blobs = [], []
    with report.case("tasks that are waited for, with and without a key"):
        for n in range(6):
            request, want = tasks.body(0)
            answer = owner.post(request, f"sync-{n}" if n % 2 else None)
            assert answer.status == 201, answer
            tasks.check(answer.json(), want)
            ids.append(answer.json()["id"])
    with report.case("accepted tasks, queued and running, with mayflyd killed in between"):
        accepted = []
        for n in range(12):
            request, want = tasks.body(1.5, wait=False, retries=n % 2)
            answer = owner.post(request, f"accepted-{n}" if n % 2 else None)
            assert answer.status == 202, answer
            accepted.append((answer.json()["id"], want))
        blobs += sealed(instance)
        assert len(blobs) >= 8, f"{len(blobs)} requests on disk"
        found = on_disk(canaries, instance, disk)
        assert not found, f"while they wait: {found}"
        for _ in range(3):
            kill_daemon(instance)
            blobs += sealed(instance)
            time.sleep(0.7)
        for task, want in accepted:
            answer = owner.request("GET", f"/v1/tasks/{task}/wait?timeout=60s")
            assert answer.status == 200, answer
            tasks.check(answer.json(), want)
            ids.append(task)
    with report.case("tasks that are cancelled, or dropped by their client, or not valid"):
        request, _ = tasks.body(60, wait=False)
        task = owner.post(request).json()["id"]
        blobs += sealed(instance)
        assert owner.request("POST", f"/v1/tasks/{task}/cancel").status in (200, 202)
        ids.append(task)
        with contextlib.suppress(OSError):
            owner.post(tasks.body(60)[0], timeout=0.5)
        for wrong in ({"network": "nowhere"}, {"image": "canary:absent", "pull": "never"}, {"secrets": {"": "x"}},
                      {"limits": {"memory": "none"}}):
            request, _ = tasks.body(0)
            request.update(wrong)
            answer = owner.post(request)
            assert 400 <= answer.status < 500, answer
            assert not canaries.found_in(answer.body), f"the problem tells it: {answer}"
    return ids, blobs


def test(instance, disk):
    canaries = Canaries()
    tasks = Tasks(canaries)
    owner = mayfly.NetClient(instance.port, instance.key("task"))
    other = mayfly.NetClient(instance.port, instance.key("task"))
    poller = Poller(canaries, instance)
    poller.start()
    ids, blobs = run_tasks(instance, owner, tasks, canaries, disk)
    poller.stopped.set()
    poller.join()
    with report.case("no process of ours shows one in its arguments or environment"):
        assert poller.rounds > 50, poller.rounds
        assert not poller.found, poller.found[:5]
    with report.case("no answer shows one, to nobody"):
        for who, path, answer in answers(instance, owner, other, ids):
            assert not canaries.found_in(answer.body), f"{path} to {who}: {answer}"
            if who == "other" and any(t in path for t in ids):
                assert answer.status == 404, f"{path} to another: {answer}"
    with report.case("the sealed requests are erased from the database's files"):
        assert mayfly.wait_until(lambda: not sealed(instance), 20), f"{len(sealed(instance))} requests are left"
        assert mayfly.wait_until(lambda: not remains(blobs, instance), 20, 0.2), remains(blobs, instance)
    with report.case("so they are where mayflyd dies right after the end of the last"):
        request, want = tasks.body(1, wait=False)
        task = owner.post(request).json()["id"]
        last = sealed(instance)
        answer = owner.request("GET", f"/v1/tasks/{task}/wait?timeout=60s")
        tasks.check(answer.json(), want)
        assert mayfly.wait_until(lambda: not sealed(instance), 20, 0.005) and last
        kill_daemon(instance)
        assert mayfly.wait_until(lambda: not remains(last, instance), 20, 0.2), remains(last, instance)
        blobs += last
    with report.case("nothing on disk: data, run, log, the whole device"):
        found = on_disk(canaries, instance, disk)
        assert not found, found
    with report.case("nothing on disk after an orderly stop either"):
        assert instance.stop(), instance.log_tail()
        found = on_disk(canaries, instance, disk)
        assert not found, found
        assert not remains(blobs, instance), remains(blobs, instance)
    print(f"canary: {len(canaries.patterns)} patterns, {len(ids)} tasks, {len(set(blobs))} sealed requests seen, "
          f"{poller.rounds} looks at processes")


def proof_of_the_search(instance, disk):
    """That the search finds what is there: the output of a task is kept, on disk and in answers."""
    with report.case("what a task prints is found by the same search"):
        canaries = Canaries()
        text = canaries.new("output")
        task = instance.client.run(IMAGE, "cat", stdin=text, network="none")
        assert canaries.found_in(instance.client.get("/v1/tasks/" + task["id"]).body) == ["output"]
        assert mayfly.wait_until(lambda: len(on_disk(canaries, instance, disk)) >= 2, 20, 0.5), on_disk(canaries, instance, disk)


def main():
    if os.geteuid() != 0:
        report.skip("all", "needs root")
        return
    port = mayfly.free_port()
    instance = mayfly.Instance(f"mfcan{os.getpid() % 10000}", f"10.{192 + os.getpid() % 32}.0.0/16", log_level="debug",
                               listen=f"tcp://127.0.0.1:{port}", tasks__max_running=4)
    instance.port = port
    disk = None
    try:
        disk = Disk(os.path.join(instance.dir, "disk"), 64)
        instance.data_dir = os.path.join(disk.point, "data")
        instance.start()
        instance.load(mayfly.busybox().bytes(), IMAGE)
        proof_of_the_search(instance, disk)
        test(instance, disk)
    except mayfly.Skip as e:
        report.skip("all", e)
    except (OSError, AssertionError, sqlite3.Error) as e:
        report.not_ok("all", f"{type(e).__name__}: {e}")
    finally:
        instance.stop()
        if disk:
            disk.close()
        instance.close()


main()
report.exit()
