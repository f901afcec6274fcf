#!/usr/bin/env python3
"""`kill -9` of each of our processes while tasks run: what survives what, as the design's table promises.

    tests/kill/kill.py [--long] [daemon] [launcher] [standstill] [netd] [supervisor]
"""

import concurrent.futures
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.dont_write_bytecode = True

import mayfly  # noqa: E402

# Of this run alone: another may go on beside it, in another root or another process namespace, too.
RUN = secrets.token_hex(3)
NAME = "mfk" + RUN
POOL = f"10.{96 + int(RUN, 16) % 32}.0.0/16"
PREFIX = f"mfkey-{RUN}-"
LONG = "--long" in sys.argv or bool(os.environ.get("MAYFLY_LONG"))
ROUNDS = {"daemon": (5, 100), "launcher": (3, 20), "netd": (3, 20), "supervisor": (1, 5)}
IN_FLIGHT = 8
BULK = 10 * 1024 * 1024
HISTORY = (max(ROUNDS["daemon"]) + 1) * IN_FLIGHT * BULK  # nothing of a run is forgotten before it is looked for
# Half of the tasks write 10 MB, in pieces, so that the kill comes while they do; the last line of stderr is its hash.
WRITER = """
cat /proc/sys/kernel/random/uuid >&2
head -c 7864320 /dev/urandom | base64 -w 0 >/tmp/bulk
sha256sum </tmp/bulk >&2
for i in 0 1 2 3 4 5 6 7 8 9; do dd if=/tmp/bulk bs=1M skip=$i count=1 2>/dev/null; sleep 0.03; done
"""
SLEEPER = "cat /proc/sys/kernel/random/uuid >&2; sleep 0.$((RANDOM % 6 + 1)); echo done"

report = mayfly.Report("kill: ")


def rounds(what):
    return ROUNDS[what][1 if LONG else 0]


class Watcher(threading.Thread):
    """Counts how often each task ran, from the host: the distinct pid 1s whose command line names its key."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen = {}
        self.stopped = threading.Event()

    def run(self):
        known = {}
        while not self.stopped.is_set():
            now = {}
            for pid in mayfly.all_pids():
                fields = None
                if pid in known:
                    now[pid] = known[pid]
                    continue
                line = mayfly.read(f"/proc/{pid}/cmdline")
                if PREFIX in line and "NSpid" in (status := mayfly.read(f"/proc/{pid}/status")):
                    inner = next(x for x in status.splitlines() if x.startswith("NSpid")).split()[-1]
                    fields = mayfly.stat_fields(pid)
                    if inner == "1" and fields:
                        key = line[line.index(PREFIX):].split("\0")[0]
                        self.seen.setdefault(key, set()).add((pid, fields[19]))
                # What is not a task's yet may become one by exec, so only old processes are remembered.
                if fields or "mayfly" not in line:
                    now[pid] = True
            known = now if len(now) < 4000 else {}
            # A fork of the launcher has its command line until it executes the task.
            known = {p: v for p, v in known.items() if mayfly.read(f"/proc/{p}/cmdline")}
            time.sleep(0.01)

    def stop(self):
        self.stopped.set()
        self.join()


def request(key, writes, image="kill:1"):
    return {"image": image, "cmd": ["sh", "-c", WRITER if writes else SLEEPER, key], "network": "none",
            "limits": {"output": "16m", "timeout": "120s", "memory": "64m", "disk": "64m", "shm": "1m"}}


def post_quietly(instance, key, writes):
    """The first try: the daemon may die under it."""
    try:
        return instance.client.post(request(key, writes), key)
    except OSError:
        return None
    except Exception:  # noqa: BLE001: an answer that was cut short
        return None


def containers(instance):
    """What lives in containers of this instance: all below the launcher."""
    launcher = instance.pids().get("mayfly-launcher")
    return [p for p in mayfly.descendants(launcher) if mayfly.alive(p) and mayfly.exe_name(p) not in mayfly.PROGRAMS] \
        if launcher else []


def kill_and_wait(instance, name):
    old = instance.pid(name)
    os.kill(old, signal.SIGKILL)
    new = mayfly.wait_until(lambda: (p := instance.pids().get(name)) and p != old and p, 30)
    assert new, f"no new {name}: {instance.log_tail()}"
    instance.wait_ready()
    return new


def check_result(answer, key, writes, status=201):
    """The task's id and uuid, after its output is compared with the hash that it told."""
    assert answer.status == status, f"{key}: {answer}"
    task = mayfly.decode(answer.json())
    assert (task["status"], task["exit_code"]) == ("exited", 0), f"{key}: {task['status']} {task['exit_code']} {task['reason']}"
    lines = task["err"].decode().split()
    if writes:
        assert len(task["out"]) == BULK, f"{key}: {len(task['out'])} bytes"
        assert mayfly.sha256(task["out"]) == lines[1], f"{key}: the output is not what was written"
    else:
        assert task["out"] == b"done\n", task["out"]
    return task["id"], lines[0]


def one_daemon_round(instance, n, expected):
    keys = [(f"{PREFIX}{n}-{i}", i % 2 == 0) for i in range(IN_FLIGHT)]
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
        first = [pool.submit(post_quietly, instance, key, writes) for key, writes in keys]
        time.sleep(random.uniform(0.02, 0.9))
        kill_and_wait(instance, "mayflyd")
        for f in first:
            f.result()
        # Each is asked for twice at once: whichever way the next daemon knows it, the answers must be the same task.
        again = {key: [pool.submit(instance.client.post, request(key, writes), key) for _ in range(2)] for key, writes in keys}
        for key, writes in keys:
            found = {check_result(f.result(), key, writes) for f in again[key]}
            found.add(check_result(instance.client.post(request(key, writes), key), key, writes))
            assert len(found) == 1, f"{key} ran more than once: {found}"
            expected[key] = found.pop()


def list_tasks(instance):
    tasks, cursor = [], None
    while True:
        answer = instance.client.get("/v1/tasks?limit=500" + (f"&cursor={cursor}" if cursor else "")).json()
        tasks += answer["tasks"]
        cursor = answer.get("next_cursor")
        if not cursor:
            return tasks


def test_daemon(instance):
    expected = {}
    earlier = {t["id"] for t in list_tasks(instance)}
    watcher = Watcher()
    watcher.start()
    n = rounds("daemon")
    with report.case(f"mayflyd, {n} times with {IN_FLIGHT} tasks in flight: each result found, exact"):
        for i in range(n):
            one_daemon_round(instance, i, expected)
    watcher.stop()
    with report.case("mayflyd: no task ran twice"):
        assert expected, "no result"
        twice = {k: v for k, v in watcher.seen.items() if len(v) > 1}
        assert not twice, twice
        ids = [t["id"] for t in list_tasks(instance) if t["id"] not in earlier]
        assert len(ids) == len(set(ids)), "an id is listed twice"
        found = {task for task, _ in expected.values()}
        assert found == set(ids), f"missing: {found - set(ids)}, beyond: {set(ids) - found}"
        assert len({uuid for _, uuid in expected.values()}) == len(expected), "a uuid came twice"
    with report.case("mayflyd: the watcher saw the tasks"):
        assert len(watcher.seen) >= len(expected) // 2, f"{len(watcher.seen)} of {len(expected)}"
    with report.case("mayflyd: no container is left over"):
        assert mayfly.wait_until(lambda: not containers(instance), 10), containers(instance)
    with report.case(f"mayflyd: all {len(expected)} results are found by id, exact"):
        for key, (task, uuid) in expected.items():
            answer = instance.client.get("/v1/tasks/" + task)
            assert check_result(answer, key, int(key.split("-")[-1]) % 2 == 0, 200) == (task, uuid), key


def sleeping(instance, program, key, network="none"):
    """Starts a task that sleeps; its thread's result is the answer, or None where the connection broke."""
    result = {}

    def run():
        body = {"image": "kill:1", "cmd": [*program, key], "network": network,
                "limits": {"timeout": "120s", "memory": "32m", "disk": "1m", "shm": "1m"}}
        try:
            result["answer"] = instance.client.post(body, key)
        except OSError as e:
            result["answer"] = e
    thread = threading.Thread(target=run)
    thread.start()
    return thread, result


def named(key):
    return [p for p in mayfly.all_pids() if key in mayfly.read(f"/proc/{p}/cmdline") and mayfly.alive(p)
            and p != os.getpid()]


def test_launcher(instance):
    n = rounds("launcher")
    for i in range(n):
        with report.case(f"launcher, {i + 1} of {n}: its containers end, the next one serves"):
            prefix = f"{PREFIX}l{i}-"
            programs = [["sh", "-c", "sleep 100; true"], ["/clear"], ["sh", "-c", "setsid sh -c 'sleep 100; true' $0 & sleep 100"]]
            threads = [sleeping(instance, p, prefix + str(k)) for k, p in enumerate(programs)]
            assert mayfly.wait_until(lambda: all(named(prefix + str(k)) for k in range(len(programs))), 20), "they do not start"
            victims = containers(instance)
            assert victims
            daemon = instance.pid("mayflyd")
            kill_and_wait(instance, "mayfly-launcher")
            for thread, _ in threads:
                thread.join(30 * mayfly.SLOW)
            for _, result in threads:
                answer = result.get("answer")
                assert isinstance(answer, mayfly.Response), f"no answer: {answer!r}"
                task = answer.json()
                assert (task["status"], task["reason"]) == ("failed", "node_lost"), answer
            assert mayfly.wait_until(lambda: not any(mayfly.alive(p) for p in victims), 20), "a container lives on"
            assert not named(prefix), named(prefix)
            task = instance.client.run("kill:1", "echo", "again", network="none")
            assert task["out"] == b"again\n", task
            assert instance.pids()["mayflyd"] == daemon, "mayflyd did not outlive the launcher"


def test_standstill(instance):
    with report.case("a launcher that stands still does not use up a task's time"):
        launcher = instance.pid("mayfly-launcher")
        body = {"image": "kill:1", "cmd": ["sh", "-c", "echo here; sleep 100"], "network": "none", "limits": {"timeout": "300ms"}}
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            os.kill(launcher, signal.SIGSTOP)
            try:
                answer = pool.submit(instance.client.post, body)
                time.sleep(1)
            finally:
                os.kill(launcher, signal.SIGCONT)
            task = mayfly.decode(answer.result().json())
        assert (task["status"], task["reason"], task["out"]) == ("killed", "timeout", b"here\n"), task
        assert task["timings"]["run_ms"] >= 300, task["timings"]


def test_netd(instance):
    n = rounds("netd")
    for i in range(n):
        with report.case(f"netd, {i + 1} of {n}: tasks go on, new ones get networks"):
            key = f"{PREFIX}n{i}"
            script = ["sh", "-c", "sleep 1.5; ip -4 -o addr show | wc -l"]
            threads = [sleeping(instance, script, f"{key}-{k}", "nat") for k in range(3)]
            assert mayfly.wait_until(lambda: len(named(key)) >= 3, 20), "they do not start"
            kill_and_wait(instance, "mayfly-netd")
            task = instance.client.run("kill:1", "sh", "-c", "ip -4 -o addr show | wc -l", network="nat")
            assert task["out"] == b"2\n", task
            for thread, result in threads:
                thread.join(30 * mayfly.SLOW)
                task = mayfly.decode(result["answer"].json())
                assert (task["status"], task["exit_code"], task["out"]) == ("exited", 0, b"2\n"), task
            table = subprocess.run(["nft", "list", "table", "inet", NAME], stdout=subprocess.DEVNULL, check=False)
            assert table.returncode == 0, "the rules are gone"


def test_supervisor(instance):
    n = rounds("supervisor")
    for i in range(n):
        with report.case(f"supervisor, {i + 1} of {n}: all end, a new start serves"):
            kept = instance.client.post({"image": "kill:1", "cmd": ["echo", "kept"], "network": "none"}, f"kept-{i}").json()["id"]
            key = f"{PREFIX}s{i}"
            threads = [sleeping(instance, p, f"{key}-{k}") for k, p in enumerate([["sh", "-c", "sleep 100; true"], ["/clear"]])]
            assert mayfly.wait_until(lambda: all(named(f"{key}-{k}") for k in range(2)), 20), "they do not start"
            ours = list(instance.pids().values()) + containers(instance)
            assert len(ours) >= 6, ours
            os.kill(instance.process.pid, signal.SIGKILL)
            instance.process.wait()
            for thread, _ in threads:
                thread.join(30 * mayfly.SLOW)
            assert mayfly.wait_until(lambda: not [p for p in ours if mayfly.alive(p)], 20), \
                [(p, mayfly.exe_name(p)) for p in ours if mayfly.alive(p)]
            instance.start()
            task = instance.client.run("kill:1", "echo", "new", network="none")
            assert task["out"] == b"new\n", task
            answer = instance.client.get("/v1/tasks/" + kept)
            assert answer.status == 200 and answer.json()["stdout"] == "kept\n", answer
            assert not named(key), "a container of before lives"
            # What ran is known to have been lost, or was never told of; it did not run again.
            for k in range(2):
                states = [t for t in list_tasks(instance) if t["status"] in ("running", "queued", "pulling")]
                assert not states, states


TESTS = {"daemon": test_daemon, "launcher": test_launcher, "standstill": test_standstill, "netd": test_netd,
         "supervisor": test_supervisor}


def main():
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")] or list(TESTS)
    if os.geteuid() != 0:
        report.skip("all", "needs root")
        return
    before = f"/tmp/{NAME}-{os.getpid()}.before"
    check = os.path.join(HERE, "..", "leftover", "check.py")
    subprocess.run([check, "--save", before], check=True, stdout=subprocess.DEVNULL)
    instance = mayfly.Instance(NAME, POOL, history__max_bytes=HISTORY)
    try:
        clear = os.path.join(mayfly.BUILD, "tests", "clear")
        if not os.path.exists(clear):
            clear = mayfly.compile_c(os.path.join(HERE, "clear.c"), os.path.join(instance.dir, "clear"), "-static",
                                     "-Wno-unused-result")
        with instance:
            instance.load(mayfly.busybox().copy("clear", clear).bytes(), "kill:1")
            for name in wanted:
                try:
                    TESTS[name](instance)
                except Exception as e:  # noqa: BLE001: the other tests still run
                    report.not_ok(name, f"{type(e).__name__}: {e}")
            with report.case("the instance stops in order"):
                assert instance.stop(), instance.log_tail()
        with report.case("nothing is left over"):
            found = subprocess.run([check, "--compare", before, "--mine", NAME, "--dir", instance.dir], stdout=subprocess.PIPE,
                                   check=False)
            assert found.returncode == 0, found.stdout.decode()
    finally:
        os.unlink(before)


main()
report.exit()
