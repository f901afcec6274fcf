#!/usr/bin/env python3
"""What runs out: disk, descriptors, memory, connections, room in the queue, patience. Errors are clean, the others are served
meanwhile, and all recovers without a restart.

    tests/faults/faults.py [--long] [disk] [full_queue] [full_results] [descriptors] [memory] [slow] [queue] [hangups]
"""

import base64
import concurrent.futures
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
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

LONG = "--long" in sys.argv or bool(os.environ.get("MAYFLY_LONG"))
IMAGE = "faults:1"
SMALL = {"memory": "32m", "disk": "1m", "shm": "1m", "timeout": "120s", "queue_timeout": "300s"}
QUEUED = 1000
QUEUE_MEMORY = 60 << 20
SLOW_CONNECTIONS = 4000
HANGUPS = 500

report = mayfly.Report("faults: ")


def instance(what, **config):
    name = f"mff{what}{os.getpid() % 10000}"
    return mayfly.Instance(name, f"10.{160 + os.getpid() % 32}.0.0/16", **config)


def ready_instance(what, **config):
    i = instance(what, **config)
    try:
        i.start()
        i.load(mayfly.busybox().bytes(), IMAGE)
    except BaseException:
        i.close()
        raise
    return i


def body(*cmd, **members):
    return {"image": IMAGE, "cmd": list(cmd), "network": "none", "limits": dict(SMALL), **members}


def clean(answer):
    """An error that says what is wrong, or that it worked."""
    if answer.status >= 400:
        problem = answer.json()
        assert problem["type"].startswith("urn:mayfly:problem:") and problem["status"] == answer.status and problem["detail"], answer
        assert answer.status != 500 or problem["detail"] != "Internal Server Error", answer
        assert " INTO " not in problem["detail"] and "COMMIT" not in problem["detail"], answer  # no words of the database's
    return answer.status


def succeeds(i, text="works"):
    """One task of each way, to the end."""
    task = i.client.run(IMAGE, "echo", text, network="none", limits=SMALL)
    assert task["out"] == text.encode() + b"\n", task
    answer = i.client.post(body("echo", text, wait=False))
    assert answer.status == 202, answer
    ended = i.client.request("GET", f"/v1/tasks/{answer.json()['id']}/wait?timeout=60s")
    assert ended.status == 200 and ended.json()["stdout"] == text + "\n", ended


def finish(i, daemon=None):
    """The same daemon to the end, nothing beyond what it says, an orderly stop."""
    assert daemon is None or i.pid("mayflyd") == daemon, f"mayflyd died: {i.log_tail()}"
    found = consistent.faults(i.name, i.data_dir, i.run_dir)
    assert not found, "; ".join(found)
    assert i.stop(), i.log_tail()


def rss(i):
    """Of all our processes, in bytes."""
    pids = set(i.pids().values()) | set(p for p in mayfly.descendants(i.process.pid) if mayfly.exe_name(p) in mayfly.PROGRAMS)
    return sum(int(line.split()[1]) << 10 for pid in pids for line in mayfly.read(f"/proc/{pid}/status").splitlines()
               if line.startswith("VmRSS:"))


def in_parallel(n, function):
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        return [f.result() for f in [pool.submit(function, k) for k in range(n)]]


@contextlib.contextmanager
def on_a_disk(what, megabytes, **config):
    """An instance whose data are on a small disk of their own, and that disk."""
    i = instance(what, **config)
    disk = None
    try:
        disk = Disk(os.path.join(i.dir, "disk"), megabytes)
        i.data_dir = os.path.join(disk.point, "data")
        i.start()
        i.load(mayfly.busybox().bytes(), IMAGE)
        yield i, disk
    finally:
        i.stop()
        if disk:
            disk.close()
        i.close()


# ── disk ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_disk():
    with on_a_disk("d", 48) as (i, disk):
        daemon = i.pid("mayflyd")
        sync_ids, accepted = [], []
        with report.case("disk full: synchronous tasks are served, what must be on disk is refused"):
            filler = disk.fill()
            statuses = {}
            for n in range(20):
                answer = i.client.post(body("echo", str(n)))
                assert answer.status == 201 and answer.json()["stdout"] == f"{n}\n", answer
                sync_ids.append(answer.json()["id"])
                answer = i.client.post(body("echo", str(n), wait=False, stdin="x" * 100000))
                statuses[clean(answer)] = statuses.get(answer.status, 0) + 1
                if answer.status == 202:
                    accepted.append((answer.json()["id"], f"{n}\n"))
            assert max(statuses) >= 500, f"the disk is not full: {statuses}"
            answer = i.client.load(mayfly.busybox().file("more", os.urandom(4 << 20)).bytes(), "more:1")
            assert clean(answer) >= 500, answer
            for path in ("/healthz", "/v1/tasks", "/v1/images", "/v1/version"):
                assert i.client.get(path).status == 200, path
            print(f"faults: disk full: accepted tasks: {statuses}; import: {answer.status} {answer.json()['detail']}")
        with report.case("disk full: with room again all goes on, and nothing is lost"):
            os.unlink(filler)
            succeeds(i)
            i.load(mayfly.busybox().file("more", os.urandom(1 << 20)).bytes(), "more:1")
            missing = sync_ids
            for _ in range(100):
                missing = [t for t in missing if i.client.get("/v1/tasks/" + t).status != 200]
                if not missing:
                    break
                time.sleep(0.1)
            assert not missing, f"{len(missing)} of {len(sync_ids)} results are lost"
            for task, out in accepted:
                answer = i.client.request("GET", f"/v1/tasks/{task}/wait?timeout=60s")
                assert answer.status == 200 and answer.json()["stdout"] == out, answer
            found = consistent.faults(i.name, i.data_dir, i.run_dir)
            assert not found, "; ".join(found)
            assert i.pid("mayflyd") == daemon, i.log_tail()
        with report.case("disk full: a daemon that dies meanwhile is back when there is room"):
            filler = disk.fill()
            os.kill(daemon, signal.SIGKILL)
            time.sleep(1)
            os.unlink(filler)
            i.wait_ready()
            succeeds(i)
            finish(i)


def test_full_queue():
    """Requests until the disk is full to the last page: the turn of those that were accepted comes while nothing can be
    written."""
    with on_a_disk("w", 48, tasks__max_running=2, log_level="warn") as (i, disk):
        with report.case("disk full: what was accepted before waits for room"):
            accepted, status = {}, 202
            while status == 202 and len(accepted) < 2000:
                if len(accepted) == 12:
                    filler = disk.fill()
                out = str(len(accepted))
                answer = i.client.post(body("sh", "-c", f"sleep 0.7; echo {out}", wait=False))
                status = clean(answer)
                if status == 202:
                    accepted[answer.json()["id"]] = out + "\n"
            assert status == 507 and len(accepted) >= 12, f"{len(accepted)} accepted, then {answer}"
            time.sleep(2)
            states = count([i.client.get("/v1/tasks/" + t).json()["status"] for t in accepted])
            os.unlink(filler)
            print(f"faults: disk full: {len(accepted)} accepted until the last page, two seconds later: {states}")
            for task, out in accepted.items():
                answer = i.client.request("GET", f"/v1/tasks/{task}/wait?timeout=60s")
                assert answer.status == 200 and answer.json()["stdout"] == out, answer
            finish(i)


def test_full_results():
    """More results than may wait with their containers: what was answered is found later, and when too much waits nothing new is
    taken."""
    with on_a_disk("r", 96, tasks__max_running=2, history__max_waiting="8m", log_level="warn") as (i, disk):
        answered = {}
        with report.case("disk full: results that were answered are kept, as far as there is room for them"):
            filler = disk.fill()
            for n in range(20):
                answer = i.client.post(body("echo", str(n)))
                assert answer.status == 201, answer
                answered[answer.json()["id"]] = f"{n}\n"
            big = "dd if=/dev/zero bs=64k count=16 2>/dev/null | tr '\\0' x"
            for n in range(40):
                answer = i.client.post(body("sh", "-c", big, limits={**SMALL, "output": "1m"}))
                if clean(answer) != 201:
                    break
                answered[answer.json()["id"]] = "x" * (1 << 20)
            assert answer.status == 503 and answer.json()["type"].endswith(":results_waiting"), answer
            assert int(answer.headers["Retry-After"]) > 0 and 6 <= len(answered) - 20 <= 12, len(answered)
            assert i.client.get("/healthz").status == 200
            print(f"faults: disk full: {len(answered)} results wait, then: {answer.json()['detail']}")
        with report.case("disk full: with room again all of them are stored"):
            os.unlink(filler)
            assert mayfly.wait_until(lambda: attempt(i, body("true")) == 201, 20), "no task after that"
            time.sleep(3)  # one more try to store each
            os.kill(i.pid("mayflyd"), signal.SIGKILL)
            i.wait_ready()
            for task, out in answered.items():
                answer = i.client.get("/v1/tasks/" + task)
                assert answer.status == 200 and answer.json()["stdout"] == out, answer
            finish(i)


# ── descriptors, memory ──────────────────────────────────────────────────────────────────────────────────────────────


def set_limit(pid, what, value):
    """The soft one, as the process's own user: root may not everywhere."""
    ids = [line.split()[1] for line in mayfly.read(f"/proc/{pid}/status").splitlines() if line.startswith(("Uid:", "Gid:"))]
    subprocess.run(["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups", "prlimit", f"--pid={pid}",
                    f"--{what}={value}:"], check=True)


def limited(pid, what, value, function):
    """Runs function while the process has that limit."""
    label = {"nofile": "Max open files", "data": "Max data size"}[what]
    line = next(x for x in mayfly.read(f"/proc/{pid}/limits").splitlines() if x.startswith(label))
    before = line[len(label):].split()[0]
    set_limit(pid, what, value)
    try:
        function()
    finally:
        set_limit(pid, what, before)


def attempt(i, request, timeout=None):
    """Its status, or "refused" where the connection ended without an answer."""
    try:
        return clean(i.client.post(request, timeout=timeout))
    except TimeoutError:
        raise
    except OSError:
        return "refused"
    except Exception as e:  # noqa: BLE001: http.client's own
        if type(e).__name__ in ("RemoteDisconnected", "BadStatusLine", "IncompleteRead"):
            return "refused"
        raise


def sanitized(pid):
    """Its own memory is many times that of the program."""
    return "asan" in mayfly.read(f"/proc/{pid}/maps")


def count(values):
    return {v: values.count(v) for v in sorted(set(values), key=str)}


def test_descriptors():
    i = ready_instance("f")
    try:
        daemon = i.pid("mayflyd")

        def in_a_crowd(k):
            return attempt(i, body("sleep", "0.05", network=("none", "nat")[k % 2]), 60 * mayfly.SLOW)

        def silent():
            """A client that connects and says nothing."""
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.settimeout(60 * mayfly.SLOW)
            s.connect(i.socket)
            return s

        def few():
            print(f"faults: 64 descriptors: {len(os.listdir(f'/proc/{daemon}/fd'))} open when idle")
            for _ in range(3):
                got = count(in_parallel(48, in_a_crowd))
                print(f"faults: 64 descriptors: 48 at once: {got}")
                assert set(got) <= {201, 429, 503} and got.get(201, 0) >= 24, got
            crowd = [silent() for _ in range(100)]
            got = count([attempt(i, body("true", network=("none", "nat")[k % 2]), 60 * mayfly.SLOW) for k in range(10)])
            for s in crowd:
                s.close()
            assert got == {201: 10}, f"beside 100 silent clients: {got}"
            succeeds(i)
            for path in ("/healthz", "/v1/tasks", "/v1/images"):
                assert i.client.get(path).status == 200, path
        with report.case("64 descriptors: tasks run, whatever comes at once"):
            limited(daemon, "nofile", 64, few)
        with report.case("64 descriptors: recovery without a restart"):
            got = count(in_parallel(48, lambda k: attempt(i, body("true"))))
            assert got == {201: 48}, got
            succeeds(i)
            finish(i, daemon)
    finally:
        i.close()


def test_memory():
    i = ready_instance("m")
    try:
        daemon = i.pid("mayflyd")

        def little():
            big = "x" * (12 << 20)
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                crowd = [pool.submit(attempt, i, body("wc", "-c", stdin=big)) for _ in range(12)]
                others = [attempt(i, body("true")) for _ in range(10)]
                got = count([f.result() for f in crowd])
            print(f"faults: 64 MiB of memory: 12 bodies of 12 MiB: {got}, meanwhile small ones: {count(others)}")
            assert 201 in others, others
            assert set(got) <= {201, 413, 429, 500, 503, "refused"}, got
            assert mayfly.wait_until(lambda: attempt(i, body("true")) == 201, 20), "no task after that"
            succeeds(i)
        def long_answers():
            """Made in pieces, of what is kept anyway."""
            noise = body("head", "-c", "48m", "/dev/urandom", limits={**SMALL, "output": "64m"})
            answers = in_parallel(2, lambda k: i.client.post(noise).json())
            assert [(a["stdout_bytes"], a["stdout_encoding"], len(base64.b64decode(a["stdout"]))) for a in answers] == [
                (48 << 20, "base64", 48 << 20)] * 2
        if sanitized(daemon):
            raise mayfly.Skip("the sanitizer needs more")
        with report.case("64 MiB of memory: answers longer than that"):
            limited(daemon, "data", 64 << 20, long_answers)
            assert mayfly.wait_until(lambda: attempt(i, body("true")) == 201, 20), "no task after that"
        with report.case("64 MiB of memory: clean errors, the others are served"):
            limited(daemon, "data", 64 << 20, little)
        with report.case("64 MiB of memory: recovery without a restart"):
            assert attempt(i, body("wc", "-c", stdin="x" * (12 << 20))) == 201
            finish(i, daemon)
    finally:
        i.close()


# ── slow clients ─────────────────────────────────────────────────────────────────────────────────────────────────────


def many_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))


def connections_to(port):
    """Established ones that the server has."""
    return sum(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "01"
               for line in mayfly.read("/proc/net/tcp").splitlines()[1:])


def test_slow():
    if not shutil.which("slowhttptest"):
        raise mayfly.Skip("slowhttptest is not here")
    port = mayfly.free_port()
    i = ready_instance("s", listen=f"tcp://127.0.0.1:{port}", limits__connections=8192, limits__address_connections=0,
                       limits__key_connections=0, log_level="warn")
    try:
        daemon = i.pid("mayflyd")
        client = mayfly.NetClient(port, i.key("task"))
        seconds = int((30 if LONG else 10) * min(mayfly.SLOW, 6))  # so that an emulated machine takes them all
        # The head of the request is slowhttptest's own, but for what it accepts.
        reader = f"*/*\r\nAuthorization: Bearer {i.key('read')}"
        modes = {"headers": ["-H", "-i", "5"], "body": ["-B", "-i", "5", "-s", "8192"],
                 "read": ["-X", "-k", "5", "-w", "8", "-y", "16", "-z", "4", "-n", "5", "-m", reader]}
        for mode, flags in modes.items():
            with report.case(f"{SLOW_CONNECTIONS} connections, slow {mode}: the others are served"):
                target = f"http://127.0.0.1:{port}" + ("/v1/tasks" if mode == "body" else "/v1/openapi.json")
                attack = subprocess.Popen(["slowhttptest", "-c", str(SLOW_CONNECTIONS), "-r", str(SLOW_CONNECTIONS // 3), "-l",
                                           str(seconds), "-p", "30", "-u", target, *flags], stdin=subprocess.DEVNULL,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=many_files)
                most, served, refused = 0, [], 0
                try:
                    while attack.poll() is None:
                        open_now = connections_to(port)
                        most = max(most, open_now)
                        start = time.monotonic()
                        try:
                            answer = client.post(body("true"))
                            assert answer.status == 201, answer
                            served.append(time.monotonic() - start)
                        except OSError:
                            refused += 1
                        time.sleep(0.1)
                finally:
                    attack.kill()
                    attack.wait()
                served.sort()
                print(f"faults: slow {mode}: {most} connections, {len(served)} tasks served, p50 "
                      f"{served[len(served) // 2] * 1000:.1f} ms, refused {refused}, RSS {rss(i) >> 20} MiB")
                assert served and not refused, f"{refused} refused"
                assert most > SLOW_CONNECTIONS * 3 // 4 or mode == "read" or sanitized(daemon), f"only {most} connections"
                assert mayfly.wait_until(lambda: connections_to(port) < 50, 30), f"{connections_to(port)} connections stay"
        with report.case("slow connections: recovery without a restart"):
            succeeds(i)
            finish(i, daemon)
    finally:
        i.close()


# ── the queue ────────────────────────────────────────────────────────────────────────────────────────────────────────


def post_and_wait(i, request, results):
    try:
        results.append(i.client.post(request, timeout=300).status)
    except OSError as e:
        results.append(e)


def queued(i):
    tasks = consistent.all_tasks(i.client)
    return [t["id"] for t in tasks if t["status"] in ("queued", "pulling", "running")]


def test_queue():
    i = ready_instance("q", tasks__max_running=2, log_level="warn")
    try:
        daemon = i.pid("mayflyd")
        succeeds(i)
        time.sleep(1)
        idle = rss(i)
        results, waiting = [], []
        with report.case(f"{QUEUED} queued tasks take at most {QUEUE_MEMORY >> 20} MB"):
            for n in range(QUEUED):
                request = body("sleep", "600", env={"N": str(n)}, stdin="some input", labels={"n": str(n)})
                if n % 2:
                    thread = threading.Thread(target=post_and_wait, args=(i, request, results), daemon=True)
                    thread.start()
                    waiting.append(thread)
                else:
                    assert i.client.post({**request, "wait": False}).status == 202
            assert mayfly.wait_until(lambda: len(queued(i)) >= QUEUED, 60, 0.3), f"{len(queued(i))} queued; {count(results)}"
            above = rss(i) - idle
            print(f"faults: {QUEUED} queued tasks, half of them with a client that waits: {above / 1e6:.1f} MB above {idle / 1e6:.1f}")
            assert above <= QUEUE_MEMORY or sanitized(daemon), f"{above / 1e6:.1f} MB"
        with report.case("a long queue: health, lists and signals are served; it empties"):
            assert i.client.get("/v1/health").status == 200
            in_parallel(8, lambda k: [i.client.request("POST", f"/v1/tasks/{t}/cancel") for t in queued(i)[k::8]])
            assert mayfly.wait_until(lambda: not queued(i), 60, 0.3), len(queued(i))
            for thread in waiting:
                thread.join(60 * mayfly.SLOW)
            assert count(results) == {201: len(waiting)}, count(results)
            succeeds(i)
            finish(i, daemon)
    finally:
        i.close()


# ── clients that go ──────────────────────────────────────────────────────────────────────────────────────────────────


def hang_up(i, n):
    """At a point that n decides: after the head, in the middle of the body, while the task is queued or runs."""
    text = json.dumps(body("sleep", "600")).encode()
    head = f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60 * mayfly.SLOW)
        s.connect(i.socket)
        s.sendall((head, head + text[:20], head + text, head + text)[n % 4])
        time.sleep((0, 0, 0.05, 0.5)[n % 4])
        if n % 8 == 7:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def sockets(pid):
    found = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
        except OSError:
            pass
    return found


def test_hangups():
    i = ready_instance("h", tasks__max_running=16, log_level="warn")
    try:
        daemon = i.pid("mayflyd")
        succeeds(i)
        before = sockets(daemon)
        with report.case(f"{HANGUPS} clients that hang up: their tasks end, the others are served"):
            with concurrent.futures.ThreadPoolExecutor(64) as pool:
                gone = [pool.submit(hang_up, i, n) for n in range(HANGUPS)]
                got = count([attempt(i, body("true")) for _ in range(20)])
                for f in gone:
                    f.result()
            assert got == {201: 20}, got
            assert mayfly.wait_until(lambda: not queued(i), 60, 0.3), f"{len(queued(i))} tasks are left"
        with report.case("clients that hang up: nothing of them is left"):
            succeeds(i)
            assert mayfly.wait_until(lambda: sockets(daemon) <= before, 20), f"{sockets(daemon)} sockets, {before} before"
            finish(i, daemon)
    finally:
        i.close()


TESTS = {"disk": test_disk, "full_queue": test_full_queue, "full_results": test_full_results,
         "descriptors": test_descriptors, "memory": test_memory, "slow": test_slow, "queue": test_queue,
         "hangups": test_hangups}


def main():
    if os.geteuid() != 0:
        report.skip("all", "needs root")
        return
    for name in [a for a in sys.argv[1:] if not a.startswith("-")] or TESTS:
        start = time.monotonic()
        try:
            TESTS[name]()
        except mayfly.Skip as e:
            report.skip(name, e)
        except Exception as e:  # noqa: BLE001: the other tests still run
            report.not_ok(name, f"{type(e).__name__}: {e}")
        print(f"faults: {name}: {time.monotonic() - start:.1f} s", flush=True)


main()
report.exit()
