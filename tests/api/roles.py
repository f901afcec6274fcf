#!/usr/bin/env python3
"""Who may do what: every role with every operation of the API, on objects of its own and on others', cell by cell, over TCP.

The table below is written from the documents, not from the code. 404 means that the object does not exist for the caller."""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import IMAGE, TcpInstance, WebSocket, mayfly  # noqa: E402

ROLES = ("admin", "deploy", "task", "read")
REQUEST = {"image": IMAGE, "cmd": ["echo", "x"], "network": "none"}
EMPTY_TAR = bytes(1024)

# operation: what is asked, {} is the id of an object; then the status for each role. "own" cells of roles that cannot make the
# object do not exist: None.
READS = {
    "get": ("GET", "/v1/tasks/{}", None),
    "wait": ("GET", "/v1/tasks/{}/wait?timeout=5", None),
    "stdout": ("GET", "/v1/tasks/{}/stdout", None),
    "stderr": ("GET", "/v1/tasks/{}/stderr", None),
    "logs": ("GET", "/v1/tasks/{}/logs?follow=1", None),
}
CONTROLS = {  # on a task that has ended: cancel changes nothing, a signal comes too late
    "cancel": ("POST", "/v1/tasks/{}/cancel", None, 200),
    "signal": ("POST", "/v1/tasks/{}/signal", {"signal": "SIGTERM"}, 409),
    "delete": ("DELETE", "/v1/tasks/{}", None, 204),
}
# No object of anybody's: one status for each role.
OTHERS = [
    ("GET", "/healthz", None, (200, 200, 200, 200)),
    ("GET", "/v1/version", None, (200, 200, 200, 200)),
    ("GET", "/v1/engines", None, (200, 200, 200, 200)),
    ("GET", "/v1/health", None, (200, 200, 200, 200)),
    ("GET", "/v1/openapi.json", None, (200, 200, 200, 200)),
    ("POST", "/v1/tasks", REQUEST, (201, 403, 201, 403)),
    ("GET", "/v1/tasks", None, (200, 403, 200, 200)),
    ("GET", "/v1/images", None, (200, 200, 200, 200)),
    ("GET", "/v1/images/" + IMAGE, None, (200, 200, 200, 200)),
    ("POST", "/v1/images/import?ref=empty:1", EMPTY_TAR, (201, 201, 403, 403)),
    ("DELETE", "/v1/images/empty:1", None, (200, 200, 403, 403)),
    ("POST", "/v1/images/tag?ref=" + IMAGE + "&name=" + IMAGE, None, (200, 200, 403, 403)),
    ("POST", "/v1/images/pin?pinned=false&ref=" + IMAGE, None, (200, 200, 403, 403)),
    ("POST", "/v1/images/prune", None, (200, 200, 403, 403)),
    ("POST", "/v1/images/verify", None, (200, 200, 403, 403)),
    ("POST", "/v1/images/load", b"no archive", (400, 400, 403, 403)),
    ("POST", "/v1/images/pull", {"image": IMAGE}, (200, 200, 403, 403)),  # there is no registry: what is present will do
    ("GET", "/v1/images/pulls", None, (200, 200, 200, 200)),
    ("GET", "/v1/images/save?ref=" + IMAGE, None, (200, 200, 200, 200)),
    ("GET", "/v1/registries", None, (200, 200, 200, 403)),
    ("POST", "/v1/registries/login", {"registry": "localhost:1", "username": "a", "password": "b"}, (403, 403, 403, 403)),  # no registry
    ("POST", "/v1/registries/logout", {"registry": "localhost:1"}, (404, 404, 404, 403)),
    ("GET", "/v1/keys", None, (200, 403, 403, 403)),
    ("POST", "/v1/keys", {"role": "read"}, (201, 403, 403, 403)),
    ("GET", "/v1/keys/{key}", None, (200, 403, 403, 403)),
    ("DELETE", "/v1/keys/{key}", None, (204, 403, 403, 403)),
]

report = mayfly.Report()


def ask(client, method, path, body):
    headers = {"Content-Type": "application/x-tar"} if isinstance(body, bytes) else {}
    return client.request(method, path, body, headers)


def cell(name, answer, expected):
    good = answer.status == expected
    if good and expected >= 400:
        problem = answer.json()
        good = problem["status"] == expected and problem["type"].startswith("urn:mayfly:problem:")
    report.check(name, good, f"expected {expected}: {answer}")


def run(client):
    answer = client.request("POST", "/v1/tasks", REQUEST)
    assert answer.status == 201, answer
    return answer.json()["id"]


def status_of(role, is_own, is_read, good):
    if role == "admin" or (role == "read" and is_read) or (role == "task" and is_own):
        return good
    return 404 if role == "task" else 403


def task_cells(clients, owners):
    """owners: who made the object; the admin by the unix socket owns the others' ones."""
    for role in ROLES:
        for is_own in (True, False):
            if is_own and role not in owners:
                continue
            maker = owners[role] if is_own else owners["other"]
            whose = "own" if is_own else "other's"
            for name, (method, path, body) in READS.items():
                expected = status_of(role, is_own, True, 200)
                cell(f"{role}: {name} {whose} task", ask(clients[role], method, path.format(run(maker)), body), expected)
            for name, (method, path, body, good) in CONTROLS.items():
                expected = status_of(role, is_own, False, good)
                cell(f"{role}: {name} {whose} task", ask(clients[role], method, path.format(run(maker)), body), expected)


def live_cells(clients, owners):
    """On a task that runs: who may not control it leaves it running."""
    for role in ROLES:
        for is_own in (True, False):
            if is_own and role not in owners:
                continue
            maker = owners[role] if is_own else owners["other"]
            held = maker.request("POST", "/v1/tasks", {**REQUEST, "cmd": ["sleep", "60"], "wait": False}).json()["id"]
            mayfly.wait_until(lambda: maker.get(f"/v1/tasks/{held}").json()["status"] == "running")
            allowed = status_of(role, is_own, False, 202) == 202
            clients[role].request("DELETE", f"/v1/tasks/{held}")
            cell(f"{role}: cancel {'own' if is_own else 'others'} live task",
                 clients[role].request("POST", f"/v1/tasks/{held}/cancel"), status_of(role, is_own, False, 202))
            ended = mayfly.wait_until(lambda: maker.get(f"/v1/tasks/{held}").json()["status"] != "running",
                                      10 if allowed else 0.3)
            report.check(f"{role}: and it {'ends' if allowed else 'runs on'}", bool(ended) == allowed)
            maker.request("POST", f"/v1/tasks/{held}/cancel")


def list_cells(clients, owners):
    mine, others = run(owners["task"]), run(owners["other"])
    for role, sees in (("admin", {mine, others}), ("read", {mine, others}), ("task", {mine})):
        ids = {t["id"] for t in clients[role].get("/v1/tasks?limit=1000").json()["tasks"]}
        report.check(f"{role}: lists what it may see", sees <= ids and (role != "task" or others not in ids))


def key_cells(instance):
    """An idempotency key is its owner's: another's with the same words is another."""
    one, two = instance.net_client("task"), instance.net_client("task")
    first, second = (c.post(REQUEST, key="same-words").json()["id"] for c in (one, two))
    report.check("task: idempotency keys are per key", first != second and one.post(REQUEST, key="same-words").json()["id"] == first)


def stream_cells(clients):
    for role, expected in zip(ROLES, (101, 403, 101, 403)):
        with WebSocket(clients[role], "/v1/tasks/stream") as ws:
            report.check(f"{role}: stream", ws.status == expected, ws.status)


def other_cells(instance, clients):
    for method, path, body, statuses in OTHERS:
        for role, expected in zip(ROLES, statuses):
            if path == "/v1/images/empty:1" and expected == 200:
                instance.client.load(EMPTY_TAR, "empty:1")
            real = path.replace("{key}", instance.make_key("read").split(":")[0])
            cell(f"{role}: {method} {path}", ask(clients[role], method, real, body), expected)


def anonymous_cells(instance):
    nobody = mayfly.NetClient(instance.port)
    forged = mayfly.NetClient(instance.port, "000000000000:" + "x" * 43)
    id = run(instance.client)
    rows = [(m, p.format(id), b) for m, p, b in READS.values()] + [(m, p.format(id), b) for m, p, b, _ in CONTROLS.values()]
    rows += [(m, p.replace("{key}", "x"), b) for m, p, b, _ in OTHERS] + [("GET", "/nothing", None), ("PUT", "/v1/tasks", None)]
    for method, path, body in rows:
        expected = 200 if path == "/healthz" else 401
        cell(f"nobody: {method} {path.replace(id, '{}')}", ask(nobody, method, path, body), expected)
    cell("forged: GET /v1/version", forged.get("/v1/version"), 401)


def revoked_cells(instance):
    key = instance.make_key("task")
    client = mayfly.NetClient(instance.port, key)
    held = client.request("POST", "/v1/tasks", {**REQUEST, "wait": False})
    with WebSocket(client, "/v1/tasks/stream") as ws:
        ws.send(json.dumps({**REQUEST, "cmd": ["sleep", "60"]}))
        kind, _ = ws.receive()
        answer = instance.client.request("DELETE", "/v1/keys/" + key.split(":")[0])
        report.check("a key is revoked", (held.status, kind, answer.status) == (202, "text", 204), (held, kind, answer))
        cell("revoked: GET /v1/version", client.get("/v1/version"), 401)
        report.check("revoked: its stream is closed", ws.receive() == ("close", 1008))
    short = instance.net_client("read", expires_in="1s")
    cell("a key before it expires", short.get("/v1/version"), 200)
    report.check("expired: 401", mayfly.wait_until(lambda: short.get("/v1/version").status == 401, 10))


def main():
    with TcpInstance("mfapiroles", "10.233.0.0/16") as instance:
        clients = {role: instance.net_client(role) for role in ROLES}
        owners = {"admin": clients["admin"], "task": clients["task"], "other": instance.net_client("task")}
        for part in (lambda: task_cells(clients, owners), lambda: live_cells(clients, owners),
                     lambda: list_cells(clients, owners), lambda: key_cells(instance), lambda: stream_cells(clients),
                     lambda: other_cells(instance, clients), lambda: anonymous_cells(instance),
                     lambda: revoked_cells(instance)):
            part()
    report.exit()


if __name__ == "__main__":
    main()
