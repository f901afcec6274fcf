"""A mixed load whose every task tells a witness when it starts, and the comparison of what clients were told with what the
witness heard. The witness is a server outside, reached over the tasks' network, so that nothing of ours counts for itself.

    load.py --witness ADDRESS PORT FILE      the server: a line of FILE for each that came
"""

import os
import random
import socketserver
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.dont_write_bytecode = True

import mayfly  # noqa: E402

# Nothing is done before the witness has answered: exit code 99 is a network that does not work.
TASK = """
u=$(cat /proc/sys/kernel/random/uuid)
[ "$(echo "$0 $u" | nc -w 30 %s %d)" = heard ] || exit 99
sleep $1
echo $u
"""
AFTER = 60  # seconds that a result may take, once the daemon is left alone


class Heard(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline()
        os.write(self.server.log, line)
        self.wfile.write(b"heard\n")


def serve_witness(address, port, path):
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.daemon_threads = True
    socketserver.ThreadingTCPServer.request_queue_size = 256
    with socketserver.ThreadingTCPServer((address, port), Heard) as server:
        server.log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        server.serve_forever()


def witnessed(path):
    """{name: [uuid of each run]}"""
    runs = {}
    for line in mayfly.read(path).splitlines():
        name, uuid = line.split()
        runs.setdefault(name, []).append(uuid)
    return runs


class Load:
    """Threads that send requests of four kinds until stop(): synchronous or accepted (`wait: false`), with an idempotency key
    or without. Whoever has a key asks again with it until there is an answer."""

    KINDS = ("sync-key", "sync-key", "accepted-key", "accepted-key", "accepted", "sync")

    def __init__(self, client, image, address, port, prefix, threads=6, secrets=None):
        self.client, self.image, self.prefix = client, image, prefix
        self.script = TASK % (address, port)
        self.secrets = secrets
        self.told = {}  # name: (kind, id or None, the answer's task or None)
        self.broken = 0
        self.faults = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.count = 0
        self.threads = [threading.Thread(target=self.one_client, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def request(self, name, kind):
        body = {"image": self.image, "cmd": ["sh", "-c", self.script, name, str(random.choice((0, 0, 0.05, 0.2)))],
                "network": "nat", "on_disconnect": "detach",
                "limits": {"timeout": "120s", "queue_timeout": "120s", "memory": "32m", "disk": "1m", "shm": "1m"}}
        if kind.startswith("accepted"):
            body["wait"] = False
        if self.secrets:
            body["secrets"] = self.secrets
        return body

    def one_client(self):
        while not self.stopping.is_set():
            with self.lock:
                self.count += 1
                name = f"{self.prefix}-{self.count}"
            kind = random.choice(self.KINDS)
            try:
                self.one_task(name, kind)
            except Exception as e:  # noqa: BLE001: whatever it is, it is told
                self.faults.append(f"{name} {kind}: {type(e).__name__}: {e}")

    def one_task(self, name, kind):
        body, key = self.request(name, kind), name if kind.endswith("key") else None
        end = time.monotonic() + AFTER * mayfly.SLOW
        self.told[name] = (kind, None, None)
        while True:
            answer = None
            try:
                answer = self.client.post(body, key)
            except Exception:  # noqa: BLE001: refused, cut off in its middle: the daemon died
                self.broken += 1
            if answer is not None and answer.status in (201, 202):
                task = answer.json()
                self.told[name] = (kind, task["id"], task if answer.status == 201 else None)
                return
            if answer is not None and answer.status not in (429, 503):
                raise AssertionError(f"answered {answer}")
            if not key:
                return
            if time.monotonic() > end:
                raise AssertionError(f"no answer after {AFTER} s: {answer}")
            time.sleep(0.02)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def check(self, path):
        """What is wrong, and how many there were of each kind. Nobody sends anything any more."""
        faults, kinds = list(self.faults), {}
        for name, (kind, task_id, task) in self.told.items():
            if task_id and not task:
                task = self.result(task_id, faults, name)
            kinds.setdefault(kind, []).append((name, task))
        runs = witnessed(path)
        for kind, tasks in kinds.items():
            for name, task in tasks:
                heard = runs.get(name, [])
                if len(heard) > 1:
                    faults.append(f"{name} {kind} ran {len(heard)} times")
                elif task and (task["status"], task["exit_code"]) != ("exited", 0):
                    faults.append(f"{name} {kind}: {task['status']} {task['exit_code']} {task['reason']}, runs: {len(heard)}")
                elif task and [task["stdout"].strip()] != heard:
                    faults.append(f"{name} {kind}: answered {task['stdout']!r}, the witness heard {heard}")
        return faults, {kind: len(tasks) for kind, tasks in kinds.items()}

    def result(self, task_id, faults, name):
        """Of an accepted task."""
        answer = self.client.request("GET", f"/v1/tasks/{task_id}/wait?timeout=60s")
        if answer.status != 200:
            faults.append(f"{name} was accepted as {task_id} and is not there: {answer}")
            return None
        return answer.json()


if __name__ == "__main__":
    if sys.argv[1:2] != ["--witness"]:
        sys.exit(__doc__)
    serve_witness(sys.argv[2], int(sys.argv[3]), sys.argv[4])
