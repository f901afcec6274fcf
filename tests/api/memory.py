#!/usr/bin/env python3
"""What mayflyd and the launcher have in their memory when tasks with secrets have ended: none of them."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import mayfly  # noqa: E402

CANARY = "Zq9" + "CANARY"
KINDS = ("env", "stdin", "secret", "registry")
SIZES = (0, 30, 200, 700, 3000, 9000, 40000)


def places(pid, needle):
    """Where in the memory of a process the bytes are, with what is around them."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            fields = line.split()
            start, end = (int(x, 16) for x in fields[0].split("-"))
            if not fields[1].startswith("rw"):
                continue
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue
            at = data.find(needle)
            while at >= 0:
                found.append(data[max(0, at - 40):at + 40])
                at = data.find(needle, at + 1)
    return found


def task(kind, n, wait):
    value = f"{CANARY}{kind}" + "x" * n
    members = {
        "env": {"env": {"E": value}},
        "stdin": {"stdin": value},
        "secret": {"secrets": {"S": value}},
        "registry": {"registry_auth": {"username": "u", "password": value[:1000]}},
    }
    return {"image": "busybox:demo", "cmd": ["true"], "network": "none", "wait": wait, **members[kind]}


def run(instance, kind):
    for wait in (True, False):
        for n in SIZES:
            answer = instance.client.post(task(kind, n, wait))
            assert answer.status == (201 if wait else 202), answer
            path = "/v1/tasks/" + answer.json()["id"]
            assert mayfly.wait_until(lambda path=path: instance.client.get(path).json()["status"] == "exited")
    # What has just arrived is freed in a moment.
    left = {}
    for program in ("mayflyd", "mayfly-launcher"):
        pid = instance.pid(program)
        mayfly.wait_until(lambda pid=pid: not places(pid, (CANARY + kind).encode()), 5, 0.5)
        left[program] = places(pid, (CANARY + kind).encode())
    assert not any(left.values()), {p: (len(v), v[:2]) for p, v in left.items() if v}


def main():
    report = mayfly.Report("memory: ")
    mayfly.exclusive("memory")
    with mayfly.Instance("mfmemory", "10.233.0.0/16") as instance:
        if "asan" in mayfly.read(f"/proc/{instance.pid('mayflyd')}/maps"):
            report.skip("secrets", "the sanitizer keeps what is freed")
            report.exit()
        instance.load(mayfly.busybox().bytes(), "busybox:demo")
        for kind in KINDS:
            with report.case(f"nothing of {kind} is left"):
                run(instance, kind)
    report.exit()


if __name__ == "__main__":
    main()
