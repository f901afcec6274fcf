#!/usr/bin/env python3
"""`kill -9` of mayflyd at random points under a mixed load, at each write to its databases, and a power cut: nothing that was
accepted is lost, nothing runs twice, nothing is left over, and it serves again in time.

    tests/kill/points.py [--long] [random] [writes] [recovery] [power]

Seed of the random points: MAYFLY_SEED; it is printed.
"""

import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.path.insert(0, os.path.join(HERE, "..", "network"))
sys.dont_write_bytecode = True

import consistent  # noqa: E402
import load  # noqa: E402
import mayfly  # noqa: E402
from disk import Disk  # noqa: E402
import rig as network  # noqa: E402

LONG = "--long" in sys.argv or bool(os.environ.get("MAYFLY_LONG"))
READY = 5  # seconds after its death in which the next one answers
POINTS = 200 if LONG else 40
CUTS = 20 if LONG else 3
PORT = 8081
IMAGE = "kill:1"
SEED = int(os.environ.get("MAYFLY_SEED", random.randrange(1 << 30)))

report = mayfly.Report("kill: ")


class Witness:
    def __init__(self, rig):
        self.path = os.path.join(rig.dir, "witness")
        rig.spawn([*rig.world.split(), sys.executable, os.path.join(HERE, "load.py"), "--witness", network.PUBLIC, str(PORT),
                   self.path])
        assert mayfly.wait_until(lambda: os.path.exists(self.path)), "the witness does not come up"

    def load(self, instance, prefix, **how):
        return load.Load(instance.client, IMAGE, network.PUBLIC, PORT, prefix, **how)

    def judge(self, running, instance):
        """Ends the load, and looks at everything."""
        running.stop()
        faults, kinds = running.check(self.path)
        faults += consistent.faults(instance.name, instance.data_dir, instance.run_dir)
        assert not faults, f"{len(faults)} faults; {'; '.join(faults[:8])}; the log: {instance.log_tail(600)}"
        return kinds


def next_daemon(instance, old):
    """Waits for it to answer; seconds."""
    start = time.monotonic()
    while True:
        if instance.ready():
            new = instance.pids().get("mayflyd")
            if new and new != old:
                return time.monotonic() - start
        assert time.monotonic() - start < 60 * mayfly.SLOW, f"no next mayflyd: {instance.log_tail()}"
        assert instance.process.poll() is None, f"the supervisor ended: {instance.log_tail()}"
        time.sleep(0.005)


def told(times):
    times = sorted(times)
    return f"ready after {times[len(times) // 2]:.2f} s, at most {times[-1]:.2f}"


def check_times(times):
    assert times and max(times) <= READY * mayfly.SLOW, f"not ready within {READY} s: {told(times)}"


def test_random(instance, witness):
    times, kinds, broken, sick = [], {}, 0, []
    with report.case(f"mayflyd at {POINTS} random points of a mixed load: nothing lost, nothing twice, nothing left over"):
        for batch in range(POINTS // 20):
            running = witness.load(instance, f"r{batch}")
            for _ in range(20):
                time.sleep(random.uniform(0.0, 0.4))
                old = instance.pid("mayflyd")
                os.kill(old, signal.SIGKILL)
                times.append(next_daemon(instance, old))
                answer = instance.client.get("/v1/health")
                sick += [answer] if answer.status != 200 else []
            for kind, n in witness.judge(running, instance).items():
                kinds[kind] = kinds.get(kind, 0) + n
            broken += running.broken
    print(f"kill: {len(times)} kills, {broken} connections broken, tasks: {kinds}")
    with report.case("the first who asks for its health finds it well"):
        assert not sick, f"{len(sick)} of {len(times)}: {sick[0]}"
    with report.case(f"mayflyd serves again within {READY} s"):
        check_times(times)
        print(f"kill: {told(times)}")


class Strace:
    """Kills at the nth write to the databases, before it happens. `when` counts for each thread; one of them does all writes
    of history."""

    def __init__(self, instance, pids, n, log):
        self.log = log
        state = os.path.join(instance.data_dir, "state")
        paths = [f"{state}/{db}{end}" for db in ("history.db", "state.db") for end in ("", "-wal", "-journal")]
        command = ["strace", "-f", "-qq", "-o", log, "-e", "trace=pwrite64,ftruncate", "-e",
                   f"inject=pwrite64,ftruncate:signal=KILL:when={n}"]
        command += [x for path in paths for x in ("-P", path)] + [x for pid in pids for x in ("-p", str(pid))]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        traced = mayfly.wait_until(lambda: self.process.poll() is not None or all(
            re.search(rf"TracerPid:\t{self.process.pid}\n", mayfly.read(f"/proc/{pid}/task/{tid}/status"))
            for pid in pids if os.path.isdir(f"/proc/{pid}/task") for tid in os.listdir(f"/proc/{pid}/task")), 20)
        assert traced and self.process.poll() is None, f"strace: {self.process.stderr.read1().decode()}"

    def killed(self):
        return "killed by SIGKILL" in mayfly.read(self.log)

    def writes(self):
        return len(re.findall(r"(pwrite64|ftruncate)\(", mayfly.read(self.log)))

    def end(self):
        # Not SIGTERM: it would wait for threads that have died in its hands. The traced go on.
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


def one_write(instance, witness, n, log):
    """One round: a small load until the nth write; whether there was one, and the seconds until it served again."""
    old = instance.pid("mayflyd")
    strace = Strace(instance, [old], n, log)
    try:
        running = witness.load(instance, f"w{n}", threads=3)
        killed = mayfly.wait_until(lambda: strace.killed() or running.count > 12 + n, 30)
        running.stopping.set()
        died = mayfly.wait_until(lambda: not mayfly.alive(old), 10) if strace.killed() else False
    finally:
        strace.end()
    seconds = next_daemon(instance, old) if died else None
    witness.judge(running, instance)
    return bool(killed) and died, seconds


def test_writes(instance, witness):
    if not shutil.which("strace"):
        raise mayfly.Skip("strace is not here")
    # Twelve tasks make some two hundred writes; later ones are more of the same.
    which = range(1, 201) if LONG else sorted({1, 2, 3, *random.sample(range(4, 60), 5)})
    times = []
    with report.case(f"mayflyd at {len(which)} writes to its databases, before each: the same"):
        for n in which:
            died, seconds = one_write(instance, witness, n, os.path.join(instance.dir, "strace"))
            if died:
                times.append(seconds)
        assert len(times) >= len(which) * 9 // 10, f"only {len(times)} of {len(which)} died"
        check_times(times)
        print(f"kill: {len(times)} writes, {told(times)}")


def test_recovery(instance, witness):
    """The next daemon dies as well, at a write of its own start or of what it takes over; strace follows the supervisor."""
    if not shutil.which("strace"):
        raise mayfly.Skip("strace is not here")
    which = range(1, 41) if LONG else sorted({1, 2, *random.sample(range(3, 20), 2)})
    with report.case(f"mayflyd, killed, and the next at {len(which)} of its writes: the same"):
        for n in which:
            running = witness.load(instance, f"s{n}", threads=3)
            time.sleep(random.uniform(0.05, 0.3))
            old = instance.pid("mayflyd")
            strace = Strace(instance, [instance.process.pid], n, os.path.join(instance.dir, "strace"))
            try:
                os.kill(old, signal.SIGKILL)
                mayfly.wait_until(strace.killed, 5)
                running.stopping.set()
            finally:
                strace.end()
            next_daemon(instance, old)
            witness.judge(running, instance)


# ── the power cut ────────────────────────────────────────────────────────────────────────────────────────────────────


def name_is_free(name):
    """What was being made when all was stopped may take a moment to end."""
    for pid in mayfly.cgroup_pids(name):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    for directory in mayfly.cgroup_dirs(name):
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(fd)
    return True


def cut(instance, disk):
    """Everything stands still, the device's content is taken, everything dies, and only that content is there."""
    stopped = [instance.process.pid, *mayfly.descendants(instance.process.pid), *mayfly.cgroup_pids(instance.name)]
    for pid in stopped:
        try:
            os.kill(pid, signal.SIGSTOP)
        except OSError:
            pass
    disk.snapshot()
    instance.process.kill()
    instance.process.wait()
    for pid in stopped:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    assert mayfly.wait_until(lambda: not [p for p in stopped if mayfly.alive(p)], 20), "they do not die"
    assert mayfly.wait_until(lambda: name_is_free(instance.name), 20), "what holds the instance's name does not end"
    disk.revert()


def accept_many(instance, accepted, running):
    """Sends requests that nobody waits for until the machine goes; their ids, by name."""
    n = 0
    while running.is_set():
        n += 1
        name = f"{len(accepted)}-{n}-{time.monotonic_ns()}"
        body = {"image": IMAGE, "cmd": ["sh", "-c", "echo $0", name], "network": "none", "wait": False, "retries": n % 2,
                "limits": {"memory": "32m", "disk": "1m", "shm": "1m", "queue_timeout": "120s"}}
        try:
            answer = instance.client.post(body, name if n % 3 else None)
        except Exception:  # noqa: BLE001: the machine is off
            continue
        if answer.status == 202:
            accepted[answer.json()["id"]] = (name, body["retries"])


def test_power(rig):
    """Every `202` is there afterwards: ended as it should, or lost in the middle and told so."""
    disk = Disk(os.path.join(rig.dir, "disk"), 192)
    instance = mayfly.Instance(network.NAME + "p", network.POOL)
    instance.data_dir = os.path.join(disk.point, "data")
    accepted, lost, outcomes = {}, [], {}
    try:
        with report.case(f"power cut, {CUTS} times: every 202 is there afterwards"):
            instance.start()
            instance.load(mayfly.busybox().bytes(), IMAGE)
            os.sync()
            for _ in range(CUTS):
                running = threading.Event()
                running.set()
                clients = [threading.Thread(target=accept_many, args=(instance, accepted, running)) for _ in range(4)]
                for client in clients:
                    client.start()
                time.sleep(random.uniform(0.3, 1.2))
                cut(instance, disk)
                running.clear()
                for client in clients:
                    client.join()
                instance.start()
                for task_id, (name, retries) in accepted.items():
                    answer = instance.client.request("GET", f"/v1/tasks/{task_id}/wait?timeout=60s")
                    if answer.status != 200:
                        lost.append(task_id)
                        continue
                    task = answer.json()
                    outcome = task["status"] if task["status"] == "exited" else task["reason"]
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
                    good = task["stdout"] == name + "\n" if outcome == "exited" else outcome == "node_lost" and not retries
                    assert good, f"{task_id}: {answer}"
                assert not lost, f"{len(lost)} of {len(accepted)} lost: {lost[:5]}"
                assert accepted, "nothing was accepted"
                found = consistent.faults(instance.name, instance.data_dir, instance.run_dir)
                assert not found, "; ".join(found)
            print(f"kill: {len(accepted)} accepted over {CUTS} power cuts, looked at {sum(outcomes.values())} times: {outcomes}")
    finally:
        instance.close()
        disk.close()


TESTS = {"random": test_random, "writes": test_writes, "recovery": test_recovery}


def inside(wanted):
    random.seed(SEED)
    with network.Rig() as rig:
        if set(wanted) & set(TESTS):
            instance = mayfly.Instance(network.NAME + "k", network.POOL, log_level="warn")
            with instance:
                instance.load(mayfly.busybox().bytes(), IMAGE)
                witness = Witness(rig)
                for name in wanted:
                    if name in TESTS:
                        try:
                            TESTS[name](instance, witness)
                        except mayfly.Skip as e:
                            report.skip(name, e)
                with report.case("after all that it stops in order"):
                    assert instance.stop(), instance.log_tail()
        if "power" in wanted:
            try:
                test_power(rig)
            except mayfly.Skip as e:
                report.skip("power", e)


def main():
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")] or [*TESTS, "power"]
    if os.geteuid() != 0:
        report.skip("all", "needs root")
        return
    if not network.is_inside():
        print(f"kill: MAYFLY_SEED={SEED}", flush=True)
        os.environ["MAYFLY_SEED"] = str(SEED)
        done = subprocess.run(["unshare", "--net", "--mount", sys.executable, *sys.argv], check=False,
                              env={**os.environ, "MAYFLY_NETWORK_INSIDE": "1"})
        sys.exit(done.returncode)
    inside(wanted)


main()
report.exit()
