#!/usr/bin/env python3
"""What one key and one address may take: requests, connections, tasks, memory; how failed authentications are slowed down; what a
proxy may tell; what is read again on SIGHUP; what goes over TLS. A few instances, each with narrow limits."""
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import IMAGE, TcpInstance, equal, mayfly, run_all  # noqa: E402

instance = None
tests = []
BASE = {"image": IMAGE, "network": "none", "cmd": ["true"]}


def test(function):
    tests.append(function)
    return function


def problem(answer, status, reason):
    equal((answer.status, answer.json()["type"]), (status, "urn:mayfly:problem:" + reason))
    if status in (429, 503):
        assert int(answer.headers["Retry-After"]) >= 1, answer.headers
    return answer


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@test
def rate_of_a_key():
    slow = instance.net_client("read", limits={"rate": 0.5, "burst": 3})
    other = instance.net_client("read")
    statuses = [slow.get("/v1/version").status for _ in range(8)]
    assert statuses.count(200) in (3, 4, 5) and statuses[:3] == [200] * 3 and statuses[-1] == 429, statuses
    wait = int(problem(slow.get("/v1/version"), 429, "rate_limited").headers["Retry-After"])
    assert 1 <= wait <= 2, wait
    equal(other.get("/v1/version").status, 200)
    assert mayfly.wait_until(lambda: slow.get("/v1/version").status == 200, 20, 0.5)


@test
def connections_of_a_key():
    few = instance.net_client("task", limits={"max_connections": 2})
    paths = [few.request("POST", "/v1/tasks", {**BASE, "cmd": ["sleep", "30"], "wait": False}).headers["Location"]
             for _ in range(2)]
    threads = [threading.Thread(target=few.get, args=(p + "/wait",)) for p in paths]
    for thread in threads:
        thread.start()
    assert mayfly.wait_until(lambda: few.get("/v1/version").status == 429)
    problem(few.get("/v1/version"), 429, "rate_limited")
    for path in paths:
        instance.client.request("POST", path + "/cancel")
    for thread in threads:
        thread.join()
    equal(few.get("/v1/version").status, 200)


@test
def tasks_of_a_key():
    few = instance.net_client("task", limits={"max_running": 1, "max_queued": 2})
    other = instance.net_client("task")
    made = [few.request("POST", "/v1/tasks", {**BASE, "cmd": ["sleep", "30"], "wait": False}) for _ in range(6)]
    equal([a.status for a in made], [202] * 3 + [429] * 3)
    problem(made[-1], 429, "queue_full")
    equal(len(few.get("/v1/tasks?status=running").json()["tasks"]), 1)
    equal(other.request("POST", "/v1/tasks", {**BASE, "cmd": ["true"]}).status, 201)
    for answer in made[:3]:
        few.request("POST", answer.headers["Location"] + "/cancel")


@test
def maxima_of_a_key():
    most = {"memory": "64m", "disk": "1m", "shm": "1m", "output": "10k", "cpus": 0.5, "pids": 20, "timeout": "5s",
            "queue_timeout": "10s", "cpu_time": "2s"}
    bound = instance.net_client("task", limits=most, images=["docker.io/library/busybox:*"], networks=["none"],
                                engines=["native"])
    t = bound.request("POST", "/v1/tasks", {**BASE, "cmd": ["true"]})
    equal(t.status, 201)
    got = t.json()["limits"]
    equal([got[n] for n in ("memory", "disk", "shm", "output", "cpus", "pids", "timeout", "queue_timeout", "cpu_time")],
          [64 << 20, 1 << 20, 1 << 20, 10 << 10, 0.5, 20, 5, 10, 2])
    above = {"memory": "65m", "disk": "2m", "shm": "2m", "output": "11k", "cpus": 0.6, "pids": 21, "timeout": "6s",
             "queue_timeout": "11s", "cpu_time": "3s"}
    for name, value in above.items():
        answer = problem(bound.request("POST", "/v1/tasks", {**BASE, "limits": {name: value}}), 403, "not_allowed")
        equal([e["pointer"] for e in answer.json()["errors"]], ["/limits/" + name])
        equal(bound.request("POST", "/v1/tasks", {**BASE, "cmd": ["true"], "limits": {name: most[name]}}).status, 201)
    answer = problem(bound.request("POST", "/v1/tasks", {**BASE, "limits": above, "network": "nat"}), 403, "not_allowed")
    equal(len(answer.json()["errors"]), len(above) + 1)
    problem(bound.request("POST", "/v1/tasks", {**BASE, "image": "quay.io/x/busybox:1"}), 403, "not_allowed")
    problem(bound.request("POST", "/v1/tasks", {**BASE, "network": "nat"}), 403, "not_allowed")


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────


def through(address):
    return {"X-Forwarded-For": address}


@test
def rate_of_an_address():
    key = instance.net_client("read")
    kept = key.connect(30)

    def asked(address):
        kept.request("GET", "/v1/version", headers=key.authorization() | through(address))
        answer = kept.getresponse()
        answer.read()
        return answer.status

    # On one connection, as an emulated machine makes no 20 a second.
    statuses = [asked("198.51.100.1") for _ in range(200)]
    assert 429 in statuses and statuses[:40] == [200] * 40, statuses
    equal(asked("198.51.100.2"), 200)
    # One who has a /64 has one address of it.
    statuses = [asked(f"2001:db8::{i:x}") for i in range(1, 201)]
    assert 429 in statuses, statuses
    equal(asked("2001:db8:0:1::1"), 200)
    kept.close()


@test
def failed_authentications_are_slowed_down():
    good = instance.net_client("read")
    wrong = mayfly.NetClient(instance.port, good.key[:-1] + ("a" if good.key[-1] != "a" else "b"))

    def fail(address):
        begun = time.monotonic()
        answer = wrong.request("GET", "/v1/version", headers=through(address))
        return answer.status, time.monotonic() - begun

    first = [fail("198.51.100.9") for _ in range(9)]
    equal({status for status, _ in first}, {401})
    assert first[-1][1] > 0.3 > min(t for _, t in first[:5]), first
    held = [threading.Thread(target=fail, args=("198.51.100.9",)) for _ in range(3)]
    for thread in held:
        thread.start()
    begun = time.monotonic()
    equal(good.request("GET", "/v1/version", headers=through("198.51.100.9")).status, 200)
    equal(fail("198.51.100.10")[0], 401)
    waited = time.monotonic() - begun
    alive = sum(thread.is_alive() for thread in held)
    assert alive == 3, f"a good key and another address wait as long as the failures: {waited}"
    for thread in held:
        thread.join()


@test
def many_failures_at_once_are_refused():
    wrong = mayfly.NetClient(instance.port, "000000000000:" + "x" * 43)
    statuses = []

    def fail():
        statuses.append(wrong.request("GET", "/v1/version", headers=through("198.51.100.77")).status)

    threads = [threading.Thread(target=fail) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(set(statuses), {401, 429})
    equal(instance.net_client("read").request("GET", "/v1/version", headers=through("198.51.100.78")).status, 200)


@test
def only_a_trusted_proxy_is_believed():
    mark = f"xff-{time.time_ns()}"
    instance.net_client("read").request("GET", "/v1/version", headers={
        "X-Forwarded-For": "203.0.113.1, 198.51.100.5", "X-Request-Id": mark})
    line = mayfly.wait_until(lambda: [x for x in mayfly.read(instance.log).splitlines() if mark in x])
    assert "from=198.51.100.5 " in line[0], line


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@test
def bodies_together_are_bounded():
    client = instance.net_client("task")
    big = b'{"image":"' + b"x" * (20 << 20)
    held = []
    try:
        for _ in range(5):
            s = socket.create_connection(("127.0.0.1", instance.port))
            held.append(s)
            s.sendall(b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: " +
                      client.authorization()["Authorization"].encode() + b"\r\nContent-Length: %d\r\n\r\n" % (30 << 20))
            try:
                s.sendall(big)
            except OSError:
                pass
        answers = []
        for s in held:
            s.settimeout(1)
            try:
                answers.append(s.recv(65536))
            except TimeoutError:
                answers.append(b"")
            except OSError:
                answers.append(b"503")
        refused = [a for a in answers if b"503" in a[:20]]
        assert refused and len(refused) < 5, [a[:200] for a in answers]
        assert b"Retry-After" in refused[0] or refused[0] == b"503", refused[0]
    finally:
        for s in held:
            s.close()
    assert mayfly.wait_until(lambda: client.request("POST", "/v1/tasks", {**BASE, "cmd": ["true"]}).status == 201)


@test
def uploads_are_bounded():
    admin = instance.net_client("admin")
    held = []
    try:
        for _ in range(2):
            s = socket.create_connection(("127.0.0.1", instance.port))
            s.sendall(b"POST /v1/images/load HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nAuthorization: " +
                      admin.authorization()["Authorization"].encode() + b"\r\nContent-Length: 100000\r\n\r\n" + bytes(1000))
            held.append(s)
        assert mayfly.wait_until(lambda: admin.load(bytes(1024), "x:1").status == 503)
        problem(admin.load(bytes(1024), "x:1"), 503, "busy")
    finally:
        for s in held:
            s.close()
    assert mayfly.wait_until(lambda: admin.load(bytes(1024), "x:1").status == 201)
    problem(admin.load(bytes(3 << 20), "x:2"), 503, "busy")  # limits.upload_bytes


@test
def what_a_body_must_be():
    client = instance.net_client("task")
    with socket.create_connection(("127.0.0.1", instance.port)) as s:
        s.sendall(b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: " +
                  client.authorization()["Authorization"].encode() + b"\r\n\r\n")
        assert s.recv(65536).startswith(b"HTTP/1.1 411 "), "411"
    problem(client.request("POST", "/v1/tasks", b"{}", {"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    problem(client.request("POST", "/v1/tasks", b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"}), 415,
            "unsupported_media_type")
    problem(client.request("POST", "/v1/keys", b"{" + b" " * 70000 + b"}", {"Content-Type": "application/json"}), 403, "forbidden")
    problem(instance.net_client("admin").request("POST", "/v1/keys", b"{" + b" " * 70000 + b"}",
                                                 {"Content-Type": "application/json"}), 413, "payload_too_large")
    answer = client.request("PATCH", "/v1/tasks/x")
    equal((answer.status, sorted(answer.headers["Allow"].replace(" ", "").split(","))), (405, ["DELETE", "GET", "HEAD"]))


# ── log, TLS, reload ─────────────────────────────────────────────────────────────────────────────────────────────────


@test
def one_line_for_a_request_without_its_query():
    client = instance.net_client("read")
    mark = f"log-{time.time_ns()}"
    answer = client.request("GET", "/v1/tasks?label=secret=hunter2", headers={"X-Request-Id": mark})
    equal((answer.status, answer.headers["X-Request-Id"]), (200, mark))
    lines = mayfly.wait_until(lambda: [x for x in mayfly.read(instance.log).splitlines() if mark in x])
    equal(len(lines), 1)
    for part in (" 200 ", f"who=key:{client.key.split(':')[0]} ", "from=127.0.0.1 ", "GET /v1/tasks"):
        assert part in lines[0], lines
    log = mayfly.read(instance.log)
    assert "hunter2" not in log and client.key.split(":")[1] not in log
    bad = client.request("GET", "/v1/version", headers={"X-Request-Id": "bad id"})
    assert bad.headers["X-Request-Id"] != "bad id"


def certificate(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as s, context.wrap_socket(s, server_hostname="localhost") as tls:
        return tls.getpeercert(True), context


@test
def tls_and_reload():
    tls_port = mayfly.free_port()
    with TcpInstance("mfapitls", "10.236.0.0/16", network__stock=1) as tls:
        tls.stop()
        tls.config["listen"] += f",https://127.0.0.1:{tls_port}"
        settings = os.path.join(tls.dir, "mayfly.yaml")
        with open(settings, "w", encoding="utf-8") as f:
            f.write("log_level: info\n")
        tls.config["config"] = settings
        os.chmod(settings, 0o644)
        tls.start()
        first, context = certificate(tls_port)
        client = mayfly.NetClient(tls_port, tls.make_key("read"), tls=context)
        equal(client.get("/v1/version").status, 200)
        directory = os.path.join(tls.data_dir, "state", "tls")
        equal(sorted((n, oct(os.stat(os.path.join(directory, n)).st_mode & 0o777)) for n in os.listdir(directory)),
              [("cert.pem", "0o600"), ("key.pem", "0o600")])
        owner = os.stat(os.path.join(directory, "key.pem"))
        kept = client.connect(30)
        kept.request("GET", "/v1/version", headers=client.authorization())
        equal(kept.getresponse().read()[:1], b"{")
        os.system(f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=new "
                  f"-keyout {directory}/key.pem -out {directory}/cert.pem 2>/dev/null")
        for name in ("cert.pem", "key.pem"):
            os.chown(os.path.join(directory, name), owner.st_uid, owner.st_gid)
        with open(settings, "w", encoding="utf-8") as f:
            f.write("log_level: error\nlimits: {key_rate: 1, key_burst: 2}\n")
        os.kill(tls.process.pid, signal.SIGHUP)
        assert mayfly.wait_until(lambda: certificate(tls_port)[0] != first), "the certificate is the old one"
        kept.request("GET", "/v1/version", headers=client.authorization())
        equal(kept.getresponse().status, 200)
        kept.close()
        assert mayfly.wait_until(lambda: client.get("/v1/version").status == 429), "the rate is the old one"
        mark = f"quiet-{time.time_ns()}"
        client.request("GET", "/v1/version", headers={"X-Request-Id": mark})
        assert mark not in mayfly.read(tls.log)
        # A flag wins over the file, then as at the start.
        tls.stop()
        tls.config.update({"limits.key_rate": "1", "limits.key_burst": "1"})
        with open(settings, "w", encoding="utf-8") as f:
            f.write("limits: {key_rate: 1000, key_burst: 1000}\n")
        tls.start()
        os.kill(tls.process.pid, signal.SIGHUP)
        assert mayfly.wait_until(lambda: "configuration again" in mayfly.read(tls.log))
        time.sleep(0.3)
        assert 429 in [client.get("/v1/version").status for _ in range(5)], "the flags are forgotten"
        # What is wrong changes nothing.
        with open(settings, "w", encoding="utf-8") as f:
            f.write("log_level: loud\n")
        with open(os.path.join(directory, "cert.pem"), "w", encoding="utf-8") as f:
            f.write("nonsense")
        second = certificate(tls_port)[0]
        os.kill(tls.process.pid, signal.SIGHUP)
        time.sleep(0.3)
        equal(certificate(tls_port)[0], second)
        equal(tls.client.get("/healthz").status, 200)


@test
def a_restart_of_the_daemon_loses_no_connection():
    client = instance.net_client("read")
    failed, stop = [], threading.Event()

    def knock():
        while not stop.is_set():
            try:
                socket.create_connection(("127.0.0.1", instance.port), 20).close()
            except OSError as e:
                failed.append(e)

    thread = threading.Thread(target=knock)
    thread.start()
    for _ in range(2):
        before = instance.pid("mayflyd")
        os.kill(before, signal.SIGKILL)
        assert mayfly.wait_until(lambda: instance.pids().get("mayflyd", before) != before)
        instance.wait_ready()
    stop.set()
    thread.join()
    equal(failed, [])
    equal(client.get("/v1/version").status, 200)  # the keys are there again, too


def main():
    global instance
    config = {"limits__address_rate": 20, "limits__address_burst": 50, "trusted_proxies": "127.0.0.1",
              "limits__body_memory": "64m", "limits__uploads": 2, "limits__upload_bytes": "2m", "network__stock": 4}
    archive_free = dict(config)
    archive_free.pop("limits__upload_bytes")
    with TcpInstance("mfapilimits", "10.235.0.0/16", **archive_free) as instance:
        instance.stop()
        instance.config.update(config)
        instance.start()
        report = run_all(tests)
    report.exit()


if __name__ == "__main__":
    main()
