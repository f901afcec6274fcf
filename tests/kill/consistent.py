#!/usr/bin/env python3
"""Compares what an instance says (its API, its databases) with what is there: processes, cgroups, mounts, namespaces, links,
rules, the store. For an instance without live tasks; prints each difference, exit 1 if there is any.

    consistent.py --name NAME --data DIR --run DIR [--wait SECONDS]
"""

import argparse
import ctypes
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.path.insert(0, os.path.join(HERE, "..", "leftover"))
sys.dont_write_bytecode = True

import mayfly  # noqa: E402

CLONE_NEWNET = 0x40000000
MOST_SLOTS = 512  # leaves that a launcher keeps: those made ahead, and those that are used again; `ids.slots`


def link_prefix(name):
    """As tests/leftover/check.py, which is a program, tells."""
    with open(os.path.join(HERE, "..", "leftover", "check.py"), encoding="utf-8") as f:
        text = f.read()
    scope = {}
    exec(text[text.index("def link_prefix"):text.index("def processes")], scope)  # noqa: S102: our own file
    return scope["link_prefix"](name)


class Database:
    """A look at a database that a daemon has open: nothing is written, no file is made."""

    def __init__(self, path):
        self.connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)

    def rows(self, sql):
        return self.connection.execute(sql).fetchall()

    def column(self, sql):
        return [row[0] for row in self.rows(sql)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


def all_tasks(client):
    tasks, cursor = [], None
    while True:
        answer = client.get("/v1/tasks?limit=500" + (f"&cursor={cursor}" if cursor else ""))
        if answer.status != 200:
            raise AssertionError(f"list: {answer}")
        tasks += answer.json()["tasks"]
        cursor = answer.json().get("next_cursor")
        if not cursor:
            return tasks


class Check:
    def __init__(self, name, data_dir, run_dir):
        self.name, self.data, self.run = name, data_dir, run_dir
        self.client = mayfly.Client(os.path.join(run_dir, "mayfly.sock"))
        self.faults = []
        self.ours = {}
        for pid in mayfly.all_pids():
            program = mayfly.exe_name(pid)
            if program in mayfly.PROGRAMS and mayfly.alive(pid) and self.is_mine(pid):
                self.ours.setdefault(program, []).append(pid)

    def is_mine(self, pid):
        """By the run directory in its arguments, or by its parent's."""
        while pid > 1:
            if self.run in mayfly.read(f"/proc/{pid}/cmdline").split("\0"):
                return True
            fields = mayfly.stat_fields(pid)
            pid = int(fields[1]) if fields else 0
        return False

    def fault(self, text):
        self.faults.append(text)

    def same(self, what, got, want):
        got, want = set(got), set(want)
        if got - want:
            self.fault(f"{what}: too many: {sorted(got - want, key=str)[:5]} ({len(got - want)})")
        if want - got:
            self.fault(f"{what}: missing: {sorted(want - got, key=str)[:5]} ({len(want - got)})")

    # ── the databases ──

    def databases(self):
        tasks = all_tasks(self.client)
        live = [t["id"] for t in tasks if t["status"] in ("queued", "pulling", "running")]
        if live:
            self.fault(f"tasks live: {live[:5]} ({len(live)})")
        with Database(f"{self.data}/state/state.db") as state:
            self.same("state.db", state.column("PRAGMA integrity_check"), ["ok"])
        with Database(f"{self.data}/state/history.db") as history:
            self.same("history.db", history.column("PRAGMA integrity_check"), ["ok"])
            ids = history.column("SELECT id FROM tasks")
            self.same("tasks of the API and of history", [t["id"] for t in tasks], ids)
            self.same("requests of tasks that have ended", history.column("SELECT id FROM requests"), [])
            self.same("keys without a task", history.column("SELECT task FROM keys WHERE task NOT IN (SELECT id FROM tasks)"), [])
            self.same("labels without a task", history.column("SELECT task FROM labels WHERE task NOT IN (SELECT id FROM tasks)"),
                      [])
            self.same("totals", history.rows("SELECT tasks, bytes FROM totals"),
                      history.rows("SELECT count(*), coalesce(sum(bytes), 0) FROM tasks"))

    # ── containers ──

    def processes(self):
        known = [pid for pids in self.ours.values() for pid in pids]
        for program in ("mayfly-supervisor", "mayflyd", "mayfly-netd", "mayfly-dns"):
            n = len(self.ours.get(program, []))
            if n != 1:
                self.fault(f"{n} processes {program}")
        launchers = self.ours.get("mayfly-launcher", [])
        # The launcher, its janitor, and children that are being made.
        if not launchers or len(launchers) > 4:
            self.fault(f"{len(launchers)} launchers")
        strangers = [pid for pid in mayfly.cgroup_pids(self.name) if pid not in known]
        if strangers:
            self.fault(f"processes in containers: {[(p, mayfly.read(f'/proc/{p}/cmdline')) for p in strangers[:5]]}")
        for supervisor in self.ours.get("mayfly-supervisor", []):
            dead = [p for p in mayfly.descendants(supervisor) if (mayfly.stat_fields(p) or "?")[0] == "Z"]
            if dead:
                self.fault(f"zombies: {dead[:5]}")

    def cgroups(self):
        for top in mayfly.cgroup_dirs(self.name):
            leaves = [d for d in next(os.walk(os.path.join(top, "containers")), ("", [], []))[1]]
            if len(leaves) > MOST_SLOTS:
                self.fault(f"{len(leaves)} leaves in {top}/containers")
            workers = [p for d, _, _ in os.walk(os.path.join(top, "workers"))
                       for p in mayfly.read(os.path.join(d, "cgroup.procs")).split()]
            if workers:
                self.fault(f"workers at work: {workers}")

    def mounts(self):
        """Of the host none, of the launcher its root alone; the mount namespaces of containers are gone."""
        for line in mayfly.read("/proc/self/mountinfo").splitlines():
            where = line.split()[4]
            if where.startswith((self.data + "/", self.run + "/")):
                self.fault(f"mounted: {where}")
        host = os.readlink("/proc/self/ns/mnt")
        for pid in self.ours.get("mayfly-launcher", []):
            n = len(mayfly.read(f"/proc/{pid}/mountinfo").splitlines())
            if os.readlink(f"/proc/{pid}/ns/mnt") != host and n > 2:
                self.fault(f"the launcher {pid} sees {n} mounts")

    def held(self):
        """Network namespaces that our processes hold by descriptor: {inode: path of one}."""
        host = os.readlink("/proc/self/ns/net")
        found = {}
        for pid in [p for pids in self.ours.values() for p in pids]:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{fd}"
                try:
                    target = os.readlink(path)
                except OSError:
                    continue
                if re.fullmatch(r"net:\[\d+\]", target) and target != host:
                    found[target] = path
        return found

    def network(self):
        """Each link has a namespace that somebody of ours holds, each wired namespace a link."""
        links = [link["ifname"] for link in json.loads(subprocess.run(["ip", "-j", "link"], stdout=subprocess.PIPE,
                                                                      check=True).stdout)]
        links = [n for n in links if re.fullmatch(re.escape(link_prefix(self.name)) + r"[ni]\d+", n)]
        wired = count_wired(self.held().values())
        if wired != len(links):
            self.fault(f"{len(links)} links, {wired} wired namespaces")
        if subprocess.run(["nft", "list", "table", "inet", self.name], stdout=subprocess.DEVNULL, check=False).returncode:
            self.fault("the rules are not there")

    # ── the store ──

    def store(self):
        store = os.path.join(self.data, "store")
        for d in ("tmp", "trash"):
            if os.listdir(os.path.join(store, d)):
                self.fault(f"store/{d} holds {os.listdir(os.path.join(store, d))[:3]}")
        images = os.path.join(self.data, "state", "images")
        with open(os.path.join(images, "index.json"), encoding="utf-8") as f:
            manifests = [m["digest"] for m in json.load(f)["manifests"]]
        blobs, layers = set(), set()
        for digest in manifests:
            blobs.add(digest)
            manifest = self.blob(images, digest)
            blobs.add(manifest["config"]["digest"])
            blobs.update(layer["digest"] for layer in manifest["layers"])
            layers.update(self.blob(images, manifest["config"]["digest"])["rootfs"]["diff_ids"])
        self.same("blobs", os.listdir(os.path.join(images, "blobs", "sha256")), [b.removeprefix("sha256:") for b in blobs])
        self.same("layers", os.listdir(os.path.join(store, "layers")), [d.removeprefix("sha256:") for d in layers])
        if len(os.listdir(os.path.join(store, "trees"))) > len(set(manifests)):
            self.fault("more trees than images")

    @staticmethod
    def blob(images, digest):
        with open(os.path.join(images, "blobs", *digest.split(":")), encoding="utf-8") as f:
            return json.load(f)

    def all(self):
        for look in (self.databases, self.processes, self.cgroups, self.mounts, self.network, self.store):
            try:
                look()
            except (OSError, sqlite3.Error, AssertionError) as e:
                self.fault(f"{look.__name__}: {type(e).__name__}: {e}")
        return self.faults


def count_wired(paths):
    """In a child, as only the calling thread would move."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        n = 0
        for path in paths:
            try:
                fd = os.open(path, os.O_RDONLY)
            except OSError:
                continue
            if ctypes.CDLL(None).setns(fd, CLONE_NEWNET) == 0:
                n += any(name != "lo" for _, name in socket.if_nameindex())
            os.close(fd)
        os.write(writer, str(n).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return int(text)


def faults(name, data_dir, run_dir, seconds=20):
    """What differs still after that time: workers, namespaces and memory go a moment after their tasks."""
    end = time.monotonic() + seconds * mayfly.SLOW
    while True:
        found = Check(name, data_dir, run_dir).all()
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--name", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--wait", type=float, default=20)
    a = parser.parse_args()
    found = faults(a.name, a.data, a.run, a.wait)
    for text in found:
        print(f"not ok - consistent: {text}")
    if not found:
        print("ok - consistent: the databases, the API and the machine agree")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
