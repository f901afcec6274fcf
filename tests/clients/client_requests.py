"""Python's requests, urllib and websocket-client, as programs use them. URL, KEY, WS_URL (by FRONT), TLS_URL and CA by
the environment; ONLY names a part of the tests."""
import base64
import concurrent.futures
import json
import os
import sys
import time
import urllib.error
import urllib.request

import requests

URL, KEY, ONLY, FRONT = (os.environ.get(name, "") for name in ("URL", "KEY", "ONLY", "FRONT"))
failed = 0


def test(function):
    global failed
    name = function.__doc__ or function.__name__
    if ONLY and ONLY not in name:
        return
    try:
        function()
        print(f"ok - python: {name}", flush=True)
    except Exception as e:  # noqa: BLE001: whatever it is, the test failed
        failed = 1
        print(f"not ok - python: {name}: {type(e).__name__} {' '.join(str(e).split())}", flush=True)


def equal(got, want):
    assert got == want, f"got {got!r}, expected {want!r}"


def task(*cmd, **more):
    return {"image": "busybox:demo", "cmd": list(cmd), "network": "none", **more}


session = requests.Session()
session.auth = tuple(KEY.split(":"))


@test
def a_task():
    """requests: a task"""
    answer = session.post(URL + "/v1/tasks", json=task("echo", "grüße"), timeout=60)
    equal((answer.status_code, answer.json()["stdout"], answer.headers["Content-Type"]), (201, "grüße\n", "application/json"))


@test
def threads():
    """requests: 40 tasks by 10 threads with one session"""
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = pool.map(lambda n: session.post(URL + "/v1/tasks", json=task("echo", str(n)), timeout=60), range(40))
        equal([a.json()["stdout"] for a in answers], [f"{n}\n" for n in range(40)])


@test
def generator():
    """requests: a body that is a generator (chunked)"""
    text = json.dumps(task("wc", "-c", stdin="x" * 200000)).encode()
    pieces = (text[at:at + 10000] for at in range(0, len(text), 10000))
    answer = session.post(URL + "/v1/tasks", data=pieces, headers={"Content-Type": "application/json"}, timeout=60)
    equal((answer.status_code, answer.json()["stdout"]), (201, "200000\n"))


@test
def stream():
    """requests: events as they come"""
    begun = session.post(URL + "/v1/tasks", json=task("sh", "-c", "echo one; sleep 1; echo two", wait=False), timeout=60).json()
    with session.get(f"{URL}/v1/tasks/{begun['id']}/logs?follow=1", stream=True, timeout=60) as answer:
        lines = list(answer.iter_lines(decode_unicode=True))
    assert any("one" in x for x in lines) and any("two" in x for x in lines) and "event: end" in lines, lines


@test
def timeout():
    """requests: a client's timeout cancels its task"""
    label = f"python-{time.time_ns()}"
    try:
        session.post(URL + "/v1/tasks", json=task("sleep", "60", labels={"test": label}), timeout=1)
        raise AssertionError("it was answered")
    except requests.exceptions.ReadTimeout:
        pass
    for _ in range(600):
        found = session.get(URL + "/v1/tasks", params={"label": "test=" + label}, timeout=60).json()["tasks"]
        if found and found[0]["reason"] == "cancelled":
            return
        time.sleep(0.05)
    raise AssertionError(found)


@test
def upload():
    """requests: a problem is JSON, too"""
    answer = session.post(URL + "/v1/images/import?ref=x:1", data=b"x" * 100000, timeout=60)
    equal((answer.status_code, answer.json()["type"]), (403, "urn:mayfly:problem:forbidden"))


@test
def tls():
    """requests: TLS"""
    answer = session.post(os.environ["TLS_URL"] + "/v1/tasks", json=task("echo", "tls"), verify=os.environ["CA"], timeout=60)
    equal(answer.json()["stdout"], "tls\n")


@test
def urllib_request():
    """urllib"""
    r = urllib.request.Request(URL + "/v1/tasks", json.dumps(task("echo", "x")).encode(), {
        "Content-Type": "application/json", "Authorization": "Basic " + base64.b64encode(KEY.encode()).decode()})
    with urllib.request.urlopen(r, timeout=60) as answer:
        equal((answer.status, json.load(answer)["stdout"]), (201, "x\n"))
    try:
        urllib.request.urlopen(URL + "/v1/tasks", timeout=60)
        raise AssertionError("no key was needed")
    except urllib.error.HTTPError as e:
        equal((e.code, e.headers["WWW-Authenticate"][:5]), (401, "Basic"))


def through_a_proxy():
    ws = websocket.create_connection(os.environ["WS_URL"] + "/v1/tasks/stream", timeout=60,
                                     header=["Authorization: Bearer " + KEY])
    ws.send(json.dumps(task("cat")))
    ws.send_binary(b"\0through the proxy\n")
    ws.send(json.dumps({"type": "stdin_end"}))
    out, result = b"", None
    while result is None:
        opcode, data = ws.recv_data()
        if opcode == websocket.ABNF.OPCODE_BINARY and data[:1] == b"\1":
            out += data[1:]
        elif opcode == websocket.ABNF.OPCODE_TEXT and json.loads(data).get("type") != "started":
            result = json.loads(data)
    ws.close()
    equal((out, result.get("task", result)["exit_code"]), (b"through the proxy\n", 0))


if os.environ.get("WS_URL"):
    try:
        import websocket
    except ImportError:
        print(f"skip - python: websocket-client through {FRONT}: python3-websocket is not installed")
    else:
        through_a_proxy.__doc__ = "websocket-client through " + FRONT
        test(through_a_proxy)
sys.exit(failed)
