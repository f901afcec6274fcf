#!/usr/bin/env python3
"""What the API tells of a task while it runs and after: wait, raw output, events, signals, the WebSocket. Over TCP with a key."""
import base64
import datetime
import hashlib
import http.client
import json
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import IMAGE, TcpInstance, WebSocket, equal, mayfly, run_all  # noqa: E402

instance = None
client = None
tests = []


def test(function):
    tests.append(function)
    return function


def start(script, **members):
    """A task that nobody waits for: its path."""
    answer = client.request("POST", "/v1/tasks", {"image": IMAGE, "network": "none", "cmd": ["sh", "-c", script],
                                                  "wait": False, **members})
    equal(answer.status, 202)
    return "/v1/tasks/" + answer.json()["id"]


def until(path, *states):
    found = mayfly.wait_until(lambda: client.get(path).json()["status"] in states)
    assert found, client.get(path)


def events(path, headers=None, on_event=None):
    """All events of a stream: [(id, event, data)]."""
    connection = http.client.HTTPConnection(client.host, client.port, timeout=30 * mayfly.SLOW)
    connection.request("GET", path, headers={**client.authorization(), **(headers or {})})
    answer = connection.getresponse()
    equal((answer.status, answer.headers["Content-Type"]), (200, "text/event-stream"))
    found, event = [], {}
    for line in answer:
        line = line.decode().rstrip("\n")
        if not line and "data" in event:
            found.append((event.get("id"), event["event"], json.loads(event["data"])))
            event = {}
            if on_event and on_event(found[-1]):
                break
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value
    connection.close()
    return found


def text_of(found, stream):
    parts = [d for _, event, d in found if event == stream]
    for before, after in zip(parts, parts[1:]):
        size = len(decoded(before))
        equal(after["offset"], before["offset"] + size)
    return b"".join(decoded(d) for d in parts)


def decoded(data):
    return base64.b64decode(data["data"]) if data["encoding"] == "base64" else data["data"].encode()


@test
def wait_with_and_without_an_end():
    path = start("sleep 1; echo done")
    early = client.get(path + "/wait?timeout=100ms")
    equal(early.status, 202)
    assert early.json()["status"] in ("queued", "pulling", "running")
    late = client.get(path + "/wait")
    equal((late.status, late.json()["stdout"]), (200, "done\n"))
    equal(client.get(path + "/wait?timeout=0").status, 200)
    equal(client.get(path + "/wait?timeout=soon").status, 400)
    equal(client.get("/v1/tasks/00000000000000000000000000/wait").status, 404)


@test
def who_waits_and_leaves_ends_nothing():
    path = start("sleep 2; echo alive")
    try:
        client.request("GET", path + "/wait", timeout=0.3)
    except OSError:
        pass
    equal(client.get(path + "/wait?timeout=20").json()["stdout"], "alive\n")


@test
def raw_output():
    path = start("head -c 300000 /dev/urandom >/tmp/f; cat /tmp/f; sha256sum </tmp/f >&2")
    client.get(path + "/wait?timeout=20")
    whole = client.get(path + "/stdout")
    equal((whole.status, whole.headers["Content-Type"], whole.headers["Accept-Ranges"]),
          (200, "application/octet-stream", "bytes"))
    equal(hashlib.sha256(whole.body).hexdigest(), client.get(path + "/stderr").body.split()[0].decode())
    part = client.request("GET", path + "/stdout", headers={"Range": "bytes=100-199"})
    equal((part.status, part.body, part.headers["Content-Range"]), (206, whole.body[100:200], "bytes 100-199/300000"))
    last = client.request("GET", path + "/stdout", headers={"Range": "bytes=-5"})
    equal((last.status, last.body), (206, whole.body[-5:]))
    beyond = client.request("GET", path + "/stdout", headers={"Range": "bytes=300000-"})
    equal((beyond.status, beyond.headers["Content-Range"]), (416, "bytes */300000"))
    several = client.request("GET", path + "/stdout", headers={"Range": "bytes=0-1,5-6"})
    equal((several.status, len(several.body)), (200, 300000))
    equal(client.get(path + "/stdout?offset=299990").body, whole.body[299990:])
    equal(client.get(path + "/stdout?tail=7").body, whole.body[-7:])
    equal(client.get(path + "/stdout?offset=10&tail=0").body, b"")
    equal(client.get(path + "/stdout?offset=x").status, 400)
    head = client.request("HEAD", path + "/stdout")
    equal((head.status, head.headers["Content-Length"], head.body), (200, "300000", b""))


@test
def raw_output_of_a_running_task():
    path = start("echo now; sleep 20")
    assert mayfly.wait_until(lambda: client.get(path + "/stdout").body == b"now\n")
    client.request("POST", path + "/cancel")


@test
def events_as_they_come():
    path = start("for i in 1 2 3; do echo out$i; echo err$i >&2; sleep 0.2; done; exit 4")
    live = []
    found = events(path + "/logs?follow=1", on_event=lambda e: live.append((time.monotonic(), e)))
    equal((text_of(found, "stdout"), text_of(found, "stderr")), (b"out1\nout2\nout3\n", b"err1\nerr2\nerr3\n"))
    equal((found[-1][1], found[-1][2]["status"], found[-1][2]["exit_code"]), ("end", "exited", 4))
    assert len(found) > 5, found
    assert live[-1][0] - live[0][0] > 0.2, "they came at once"
    after = events(path + "/logs")
    equal((text_of(after, "stdout"), after[-1][2]["exit_code"]), (b"out1\nout2\nout3\n", 4))
    only = events(path + "/logs?stream=stderr")
    equal((text_of(only, "stdout"), text_of(only, "stderr")), (b"", b"err1\nerr2\nerr3\n"))
    equal(text_of(events(path + "/logs?tail=5&stream=stdout"), "stdout"), b"out3\n")


def ms_of(time_text):
    return int(datetime.datetime.strptime(time_text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc).timestamp() * 1000)


@test
def events_have_times():
    """What was told live is told afterwards, by the record, and by a daemon that took the task over."""
    path = start("for i in 1 2 3; do echo out$i; sleep 1; done; sleep 0.5; echo end")
    live = events(path + "/logs?follow=1")
    times = [ms_of(d["time"]) for _, event, d in live if event == "stdout"]
    equal((len(times), times), (4, sorted(times)))
    assert all(900 <= b - a < 1000 * 10 * mayfly.SLOW for a, b in zip(times[:3], times[1:3])), times
    made = ms_of(client.get(path).json()["created_at"])
    assert 0 <= times[0] - made < 10000 * mayfly.SLOW, (made, times)
    stored = lambda: instance.client.request("GET", path).json()["status"] == "exited"  # noqa: E731
    assert mayfly.wait_until(stored)
    time.sleep(0.3)  # in history

    def texts(query):
        return text_of(events(path + "/logs" + query), "stdout")
    after = events(path + "/logs")
    equal([(d["time"], d["data"]) for _, event, d in after if event == "stdout"],
          [(d["time"], d["data"]) for _, event, d in live if event == "stdout"])
    second, third = (next(d["time"] for _, event, d in live if d.get("data") == f"out{n}\n") for n in (2, 3))
    equal(texts("?since=" + second), b"out2\nout3\nend\n")
    equal(texts("?until=" + second), b"out1\nout2\n")
    equal(texts(f"?since={second}&until={third}"), b"out2\nout3\n")
    equal(texts("?since=2100-01-01T00:00:00Z"), b"")
    equal(texts("?until=1"), b"")
    equal(texts(f"?since={second}&tail=8"), b"ut3\nend\n")
    for bad in ("since=yesterday", "until=x"):
        equal(client.get(path + "/logs?" + bad).status, 400)


@test
def following_ends_at_its_time():
    path = start("while :; do echo tick; sleep 0.1; done")
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
    began = time.monotonic()
    found = events(path + "/logs?follow=1&until=" + until.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    equal((found[-1][1], found[-1][2]["status"]), ("end", "running"))
    assert b"tick" in text_of(found, "stdout") and time.monotonic() - began >= 0.9
    silent = start("sleep 60")
    equal([e[1] for e in events(silent + "/logs?follow=1&until=" + str(int(time.time()) + 1))], ["end"])
    for p in (path, silent):
        client.request("POST", p + "/cancel")


@test
def events_go_on_where_they_stopped():
    path = start("i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.02; done")
    first = events(path + "/logs?follow=1", on_event=lambda e: b"line 7\n" in decoded(e[2]))
    rest = events(path + "/logs?follow=1", headers={"Last-Event-ID": first[-1][0]})
    equal(text_of(first, "stdout") + text_of(rest, "stdout"), b"".join(b"line %d\n" % i for i in range(40)))
    equal(rest[-1][1], "end")
    ended = events(path + "/logs", headers={"Last-Event-ID": first[-1][0]})
    equal(text_of(ended, "stdout"), text_of(rest, "stdout"))


@test
def events_of_bytes_and_characters():
    path = start("printf 'a\\377b'; sleep 0.2; i=0; while [ $i -lt 5000 ]; do printf 'ä€😀'; i=$((i+1)); done",
                 limits={"output": "1m"})
    client.get(path + "/wait?timeout=20")
    found = events(path + "/logs")
    equal(text_of(found, "stdout"), b"a\xffb" + "ä€😀".encode() * 5000)


@test
def a_slow_follower_gets_all():
    path = start("head -c 900000 /dev/zero | tr '\\0' x; echo end")
    connection = http.client.HTTPConnection(client.host, client.port, timeout=30 * mayfly.SLOW)
    connection.request("GET", path + "/logs?follow=1&stream=stdout", headers=client.authorization())
    answer = connection.getresponse()
    t = client.get(path + "/wait?timeout=20").json()
    equal((t["status"], t["stdout_bytes"]), ("exited", 900004))  # nobody read, and nothing waited for that
    size = sum(len(json.loads(line[6:]).get("data", "")) for line in answer if line.startswith(b"data: "))
    equal(size, 900004)
    connection.close()


@test
def signals():
    path = start("trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    assert mayfly.wait_until(lambda: client.get(path + "/stdout").body == b"up\n")
    equal(client.request("POST", path + "/signal", {"signal": "SIGUSR1"}).status, 200)
    assert mayfly.wait_until(lambda: client.get(path + "/stdout").body == b"up\nusr1\n")
    for bad in ({}, {"signal": "SIGNONE"}, {"signal": 5.5}, {"signal": 0}, {"signal": "TERM", "now": True}):
        equal(client.request("POST", path + "/signal", bad).status, 400)
    equal(client.request("POST", path + "/signal", {"signal": "15"}).status, 200)
    t = client.get(path + "/wait?timeout=20").json()
    equal((t["exit_code"], t["stdout"]), (5, "up\nusr1\nterm\n"))
    answer = client.request("POST", path + "/signal", {"signal": "TERM"})
    equal((answer.status, answer.json()["type"]), (409, "urn:mayfly:problem:not_running"))


@test
def delete_when_ended():
    path = start("sleep 30")
    answer = client.request("DELETE", path)
    equal((answer.status, answer.json()["type"]), (409, "urn:mayfly:problem:running"))
    client.request("POST", path + "/cancel")
    until(path, "killed")
    equal(client.request("DELETE", path).status, 204)
    equal((client.get(path).status, client.request("DELETE", path).status), (404, 404))
    # At once after its answer, when its record may not be on disk yet.
    for _ in range(20):
        t = client.request("POST", "/v1/tasks", {"image": IMAGE, "network": "none", "cmd": ["true"]}).json()
        equal(client.request("DELETE", "/v1/tasks/" + t["id"]).status, 204)


@test
def list_filters_and_pages():
    mark = f"page{time.time_ns()}"
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ids = []
    for i in range(7):
        ids.append(client.request("POST", "/v1/tasks", {"image": IMAGE, "network": "none", "cmd": ["sh", "-c", f"exit {i % 2}"],
                                                        "labels": {"mark": mark}}).json()["id"])
    found, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/v1/tasks?label=mark={mark}&limit=3" + (f"&cursor={cursor}" if cursor else "")).json()
        assert len(page["tasks"]) <= 3
        found += [t["id"] for t in page["tasks"]]
        cursor = page["next_cursor"]
    equal(found, sorted(ids, reverse=True))
    equal(len(client.get(f"/v1/tasks?label=mark={mark}&status=exited&image={IMAGE}&since={before}").json()["tasks"]), 7)
    equal(client.get(f"/v1/tasks?label=mark={mark}&status=failed").json()["tasks"], [])
    equal(client.get(f"/v1/tasks?label=mark={mark}&until={before}").json()["tasks"], [])
    for bad in ("label=x", "colour=red", "limit=0", "status=dead"):
        equal(client.get("/v1/tasks?" + bad).status, 400)


# ── the WebSocket ────────────────────────────────────────────────────────────────────────────────────────────────────


def stream(script, **members):
    ws = WebSocket(client, "/v1/tasks/stream")
    equal(ws.status, 101)
    ws.send(json.dumps({"image": IMAGE, "network": "none", "cmd": ["sh", "-c", script], **members}))
    return ws


def finish(ws):
    """What comes up to the close: stdout, stderr, the result, the close's code."""
    out, result = {1: bytearray(), 2: bytearray()}, None
    while True:
        kind, payload = ws.receive()
        if kind == "close":
            ws.close()
            return bytes(out[1]), bytes(out[2]), result, payload
        if kind == "binary":
            out[payload[0]] += payload[1:]
        else:
            frame = json.loads(payload)
            if frame["type"] != "started":
                result = frame


@test
def stream_runs_live():
    ws = stream("echo hello; echo oops >&2; read line; echo got $line; cat; exit 6", outputs=["/etc/hostname"])
    kind, payload = ws.receive()
    equal((kind, json.loads(payload)["type"]), ("text", "started"))
    id = json.loads(payload)["id"]
    ws.send(b"\0first\n")
    ws.send(b"\0second ")
    ws.send(b"\0third")
    ws.send('{"type":"stdin_end"}')
    out, err, result, code = finish(ws)
    equal((out, err, code), (b"hello\ngot first\nsecond third", b"oops\n", 1000))
    t = result["task"]
    equal((result["type"], t["id"], t["exit_code"], t["stdout"], t["stdout_bytes"]), ("result", id, 6, "", 28))
    equal(t["outputs"][0]["path"], "/etc/hostname")
    equal(client.get("/v1/tasks/" + id).json()["stdout"], "hello\ngot first\nsecond third")


@test
def stream_of_much_in_both_directions():
    data = os.urandom(1 << 20)
    ws = stream("cat")

    def feed():
        for i in range(0, 3 << 20, 60000):
            ws.send(b"\0" + (data * 3)[i:i + 60000])
        ws.send('{"type":"stdin_end"}')

    thread = threading.Thread(target=feed)
    thread.start()
    out, _, result, _ = finish(ws)
    thread.join()
    equal(hashlib.sha256(out).hexdigest(), hashlib.sha256(data * 3).hexdigest())
    t = result["task"]
    equal((t["exit_code"], t["stdout_bytes"], t["truncated"]), (0, 3 << 20, True))


@test
def stream_waits_for_a_slow_reader():
    ws = stream("head -c 30000000 /dev/zero; echo over >&2")
    path = "/v1/tasks/" + json.loads(ws.receive()[1])["id"]
    equal(client.get(path + "/wait?timeout=2s").json()["status"], "running")  # it cannot get rid of it
    out, err, result, _ = finish(ws)
    equal((len(out), err, result["task"]["exit_code"]), (30000000, b"over\n", 0))


@test
def stream_signals_and_cancel():
    ws = stream("trap 'echo int; exit 9' INT; echo up; while :; do sleep 0.05; done")
    while ws.receive()[0] != "binary":
        pass
    ws.send('{"type":"signal","signal":"SIGINT"}')
    out, _, result, _ = finish(ws)
    equal((out, result["task"]["exit_code"]), (b"int\n", 9))
    ws = stream("echo up; sleep 60")
    while ws.receive()[0] != "binary":
        pass
    ws.send('{"type":"cancel"}')
    equal(finish(ws)[2]["task"]["reason"], "cancelled")


@test
def stream_that_is_left():
    for detach, state in ((False, "killed"), (True, "exited")):
        ws = stream("echo up; sleep 1; echo end", **({"on_disconnect": "detach"} if detach else {}))
        id = json.loads(ws.receive()[1])["id"]
        ws.close()
        until("/v1/tasks/" + id, state)
        equal(client.get("/v1/tasks/" + id).json()["stdout"].endswith("end\n"), detach)


@test
def stream_can_do_without_a_timeout():
    equal(finish(stream("true"))[2]["task"]["limits"]["timeout"], 60)
    equal(finish(stream("sleep 0.2", limits={"timeout": 0}))[2]["task"]["limits"]["timeout"], None)
    ws = stream("sleep 60", limits={"timeout": 0.3})
    equal(finish(ws)[2]["task"]["reason"], "timeout")


@test
def stream_problems():
    for first, status in (('{"image":"A"}', 400), ("no json", 400), (b"\0stdin first", 400), ('{"image":"b","tty":true}', 400)):
        ws = WebSocket(client, "/v1/tasks/stream")
        ws.send(first)
        frame = json.loads(ws.receive()[1])
        equal((frame["type"], frame["problem"]["status"]), ("problem", status))
        equal(ws.receive(), ("close", 1008))
        ws.close()
    ws = stream("true", image="no/such:image")
    equal(finish(ws)[2]["task"]["reason"], "image_not_found")
    for bad in ('{"type":"started","id":"x"}', "not json", b"\1output"):
        ws = stream("sleep 60")
        ws.receive()
        ws.send(bad)
        kind, payload = ws.receive()
        equal(json.loads(payload)["problem"]["status"], 400)
        ws.close()
    equal(client.get("/v1/tasks/stream").status, 426)


def large(n=5_000_000):
    return [{"path": "large", "content": "x" * n}]


@test
def stream_large_request():
    """A worker parses it: what comes behind it at once, in the same packets, waits for its turn."""
    for script, members, sent, expected in (
            ("wc -c <large; cat", {}, [b"\0hello ", b"\0there", '{"type":"stdin_end"}'], b"5000000\nhello there"),
            ("cat", {}, ['{"type":"stdin_end"}'], b"")):
        ws = stream(script, files=large(), **members)
        for frame in sent:
            ws.send(frame)
        out, _, result, code = finish(ws)
        equal((out, result["task"]["status"], code), (expected, "exited", 1000))
    ws = stream("sleep 60", files=large())
    ws.send('{"type":"cancel"}')
    equal(finish(ws)[2]["task"]["reason"], "cancelled")
    ws = stream("true", files=large(), no_such=1)
    equal(json.loads(ws.receive()[1])["problem"]["status"], 400)
    ws.close()
    for _ in range(5):  # who hangs up while it is parsed
        stream("sleep 60", files=large()).close()
    equal(client.get("/v1/version").status, 200)


@test
def stream_of_a_revoked_key():
    """Open before, and asked for afterwards: nothing runs, whatever bounds the key had."""
    key = instance.make_key("task", limits={"memory": "64m"})
    with WebSocket(mayfly.NetClient(instance.port, key), "/v1/tasks/stream") as ws:
        equal(instance.client.request("DELETE", "/v1/keys/" + key.split(":")[0]).status, 204)
        try:
            ws.send(json.dumps({"image": IMAGE, "cmd": ["true"], "network": "none"}))
            equal(ws.receive(), ("close", 1008))
        except OSError:
            pass
    late = instance.make_key("task", expires_in="2s")
    with WebSocket(mayfly.NetClient(instance.port, late), "/v1/tasks/stream") as ws:
        time.sleep(2.1)
        ws.send(json.dumps({"image": IMAGE, "cmd": ["true"], "network": "none"}))
        equal(json.loads(ws.receive()[1])["problem"]["status"], 401)


@test
def stream_of_a_key_that_expires():
    """What it runs ends with it, and so does what a key runs that is revoked meanwhile."""
    for revoked in (False, True):
        key = instance.make_key("task", **({} if revoked else {"expires_in": "2s"}))
        with WebSocket(mayfly.NetClient(instance.port, key), "/v1/tasks/stream") as ws:
            ws.send(json.dumps({"image": IMAGE, "cmd": ["sleep", "60"], "network": "none"}))
            id = json.loads(ws.receive()[1])["id"]
            if revoked:
                equal(instance.client.request("DELETE", "/v1/keys/" + key.split(":")[0]).status, 204)
            equal(ws.receive(), ("close", 1008))
            found = mayfly.wait_until(lambda: instance.client.get("/v1/tasks/" + id).json()["reason"] == "cancelled", 5)
            assert found, instance.client.get("/v1/tasks/" + id)


def main():
    global instance, client
    with TcpInstance("mfapilive", "10.234.0.0/16") as instance:
        client = instance.net_client()
        report = run_all(tests)
    report.exit()


if __name__ == "__main__":
    main()
