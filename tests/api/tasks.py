#!/usr/bin/env python3
"""POST /v1/tasks over TCP with a key, row by row of the API's tables: every member and every outcome that this version has,
and what it refuses. Written as a client would: HTTP and JSON, nothing of Mayfly's own code."""
import base64
import functools
import hashlib
import io
import json
import os
import signal
import socket
import sys
import tarfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import IMAGE, TcpInstance, dockerd, equal, mayfly, run_all  # noqa: E402

instance = None
client = None
engine = None  # of /v1/engines
tests = []


def test(function):
    tests.append(function)
    return function


def needs(*features):
    """What an engine lacks is a listed skip (docs/engines.md). "native": how the native engine is built is looked at."""
    def decorate(function):
        @functools.wraps(function)
        def run():
            for feature in features:
                if engine["name"] != "native" and (feature == "native" or not engine["features"][feature]):
                    raise mayfly.Skip(f"engine {engine['name']} lacks {feature}" if feature != "native" else
                                      "of the native engine")
            function()
        return run
    return decorate


def client_features(of):
    return of.client.get("/v1/engines").json()["engines"][0]


def task(expect=201, headers=None, **members):
    members.setdefault("image", IMAGE)
    members.setdefault("network", "none")
    answer = client.request("POST", "/v1/tasks", members, headers)
    assert answer.status == expect, f"expected {expect}: {answer}"
    return answer.json()


def sh(script, **members):
    return task(cmd=["sh", "-c", script], **members)


def problem(reason, expect, **members):
    answer = task(expect=expect, **members)
    assert answer["type"] == f"urn:mayfly:problem:{reason}", answer
    assert answer["status"] == expect and answer["title"] and answer["request_id"], answer
    return answer


@test
def answer_has_every_member():
    t = sh("echo hello; echo oops >&2")
    equal(sorted(t), sorted([
        "id", "status", "exit_code", "signal", "reason", "stdout", "stderr", "stdout_encoding", "stderr_encoding",
        "stdout_bytes", "stderr_bytes", "truncated", "outputs", "usage", "timings", "created_at", "started_at",
        "finished_at", "image", "engine", "limits", "labels", "attempts"]))
    equal((t["status"], t["exit_code"], t["signal"], t["reason"]), ("exited", 0, None, None))
    equal((t["stdout"], t["stderr"], t["stdout_bytes"], t["stderr_bytes"]), ("hello\n", "oops\n", 6, 5))
    equal((t["stdout_encoding"], t["truncated"], t["engine"]), ("utf-8", False, engine["name"]))
    equal(t["image"]["ref"], "docker.io/library/busybox:demo")
    assert t["image"]["digest"].startswith("sha256:")
    for name, feature in (("wall_ms", None), ("cpu_ms", "cpu_usage"), ("memory_peak", "memory_peak")):
        if feature and not engine["features"][feature]:
            equal(t["usage"][name], None)
        else:
            assert t["usage"][name] > 0, t["usage"]
    for name in ("queued_ms", "pull_ms", "start_ms", "run_ms"):
        assert t["timings"][name] >= 0, t["timings"]
    assert t["created_at"] <= t["started_at"] <= t["finished_at"]
    equal(t["limits"]["memory"], 512 << 20)


@test
def exit_codes():
    for code in (1, 2, 125, 126, 127, 128, 137, 139, 143, 255):
        t = sh(f"exit {code}")
        equal((t["status"], t["exit_code"], t["signal"], t["reason"]), ("exited", code, None, None))


@test
@needs("signal_exact")
def died_by_signal():
    for number, name in ((6, "SIGABRT"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM")):
        t = sh(f"kill -{number} $$", init=True)
        equal((t["status"], t["exit_code"], t["signal"], t["reason"]), ("exited", 128 + number, name, "signal"))


@test
def command_not_found():
    for cmd in (["/no/such/program"], ["no-such-program"]):
        t = task(cmd=cmd)
        equal((t["status"], t["exit_code"], t["signal"], t["reason"]), ("failed", 127, None, "command_not_found"))


@test
def command_not_executable():
    t = task(cmd=["/etc/passwd"])
    equal((t["status"], t["exit_code"], t["signal"], t["reason"]), ("failed", 126, None, "command_not_executable"))
    t = task(cmd=["/etc"])
    equal((t["status"], t["exit_code"], t["reason"]), ("failed", 126, "command_not_executable"))


@test
def entrypoint_and_cmd():
    equal(task(entrypoint=["echo", "a"], cmd=["b", "c"])["stdout"], "a b c\n")
    equal(task(entrypoint=["echo", "alone"])["stdout"], "alone\n")


@test
def env_is_merged():
    t = sh("echo $A-$B-$PATH", env={"A": "1", "B": "two words"})
    equal(t["stdout"], "1-two words-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")


@test
def workdir_is_created():
    equal(sh("pwd", workdir="/made/for/this")["stdout"], "/made/for/this\n")


@test
def users():
    for user, want in (("", "0:0"), ("nobody", "65534:65534"), ("12", "12:0"), ("12:34", "12:34"),
                       ("nobody:root", "65534:0")):
        equal(sh("echo $(id -u):$(id -g)", user=user)["stdout"], want + "\n")


@test
def unknown_user_is_a_fault():
    if engine["name"] != "native":  # who does not read its images hears it when the container starts
        problem("start_error", 500, user="no-such-user", cmd=["true"])
        return
    answer = task(expect=400, user="no-such-user", cmd=["true"])
    assert answer["errors"][0]["pointer"] == "/user", answer


@test
def stdin_text_binary_and_none():
    equal(task(cmd=["cat"], stdin="words\n")["stdout"], "words\n")
    data = bytes(range(256)) * 1000
    t = task(cmd=["sha256sum"], stdin=base64.b64encode(data).decode(), stdin_encoding="base64")
    equal(t["stdout"].split()[0], hashlib.sha256(data).hexdigest())
    equal(task(cmd=["cat"])["stdout"], "")
    equal(sh("cat /dev/stdin", stdin="again", user="nobody")["stdout"], "again")


@test
def files_are_there():
    t = sh("cat a b/c /abs/d; stat -c '%a %u' b/c", workdir="/work", user="nobody", files=[
        {"path": "a", "content": "1"},
        {"path": "b/c", "content": base64.b64encode(b"2").decode(), "encoding": "base64", "mode": "0640"},
        {"path": "/abs/d", "content": "3"}])
    equal(t["stdout"], "123640 65534\n")


@test
def files_do_not_leave_the_root():
    t = sh("cat /escape; ls -d /escape", files=[{"path": "../../../../escape", "content": "inside\n"}])
    equal(t["stdout"], "inside\n/escape\n")
    assert not os.path.exists("/escape")


@test
def timeout_keeps_the_output():
    t = sh("echo before; sleep 30", limits={"timeout": 0.3})
    equal((t["status"], t["exit_code"], t["signal"], t["reason"], t["stdout"]),
          ("killed", 137, "SIGKILL", "timeout", "before\n"))


@test
def memory_limit():
    t = sh("dd if=/dev/zero of=/dev/null bs=200M count=1", limits={"memory": "16m", "disk": "1m", "shm": "1m"})
    equal((t["status"], t["exit_code"], t["signal"], t["reason"]), ("killed", 137, "SIGKILL", "oom"))


@test
@needs("disk_limit")
def disk_limit():
    t = sh("dd if=/dev/zero of=/f bs=1M count=50", limits={"disk": "4m"})
    equal((t["status"], t["reason"]), ("exited", "disk_limit"))
    assert t["exit_code"] > 0
    t = sh("dd if=/dev/zero of=/f bs=1M count=3", limits={"disk": "8m"})
    equal((t["status"], t["exit_code"], t["reason"]), ("exited", 0, None))


@test
def shm_limit():
    t = sh("dd if=/dev/zero of=/dev/shm/f bs=1M count=9; df -m /dev/shm | tail -n 1 | awk '{print $2}'",
           limits={"shm": "4m"})
    equal(t["stdout"], "4\n")


@test
def pids_limit():
    t = sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait", limits={"pids": 5})
    assert t["exit_code"] != 0 or "fork" in t["stderr"], t


@test
def cpus_limit():
    t = sh("cat /sys/fs/cgroup/cpu.max 2>/dev/null; nproc", limits={"cpus": 0.5})
    equal(t["limits"]["cpus"], 0.5)


@test
def output_is_truncated():
    t = sh("yes | head -c 100000; echo end >&2", limits={"output": 1000})
    equal((t["status"], t["exit_code"], t["truncated"], len(t["stdout"]), t["stdout_bytes"], t["stderr"]),
          ("exited", 0, True, 1000, 100000, "end\n"))


@test
def output_limit_kills():
    t = sh("yes", limits={"output": "64k"}, on_output_limit="kill")
    equal((t["status"], t["exit_code"], t["reason"], len(t["stdout"]), t["truncated"]),
          ("killed", 137, "output_limit", 65536, True))


@test
def encodings():
    t = sh("printf '\\377\\000'; echo text >&2")
    equal((t["stdout_encoding"], base64.b64decode(t["stdout"]), t["stderr_encoding"], t["stderr"]),
          ("base64", b"\xff\0", "utf-8", "text\n"))
    t = sh("printf 'a\\000b'")
    equal((t["stdout_encoding"], base64.b64decode(t["stdout"])), ("base64", b"a\0b"))
    t = sh("echo text", encoding="base64")
    equal((t["stdout_encoding"], base64.b64decode(t["stdout"])), ("base64", b"text\n"))


@test
def networks():
    equal(sh("ls /sys/class/net", network="none")["stdout"].split(), ["lo"])
    for mode in ("nat", "internet"):
        equal(sorted(sh("ls /sys/class/net", network=mode)["stdout"].split()), ["eth0", "lo"])
        assert "default via" in sh("ip route", network=mode)["stdout"]


@test
def hostname_hosts_and_resolver():
    t = sh("hostname; cat /etc/hostname; grep -c $(hostname) /etc/hosts; test -e /etc/resolv.conf; echo $?")
    lines = t["stdout"].split()
    hosts = "1" if engine["name"] == "native" else "0"  # Docker writes no line of its own without a network
    assert lines[0] == lines[1] and lines[2] == hosts and lines[3] == "0", lines


@test
def init_is_another_process():
    if engine["name"] == "native":
        equal(sh("echo $$", init=True)["stdout"], "2\n")
    else:
        assert int(sh("echo $$", init=True)["stdout"]) > 1
    equal(sh("echo $$")["stdout"], "1\n")
    equal(sh("(sleep 0.05 &); sleep 0.3; ps -o stat | grep -c Z", init=True)["stdout"], "0\n")


@test
def image_not_found():
    answer = problem("image_not_found", 404, image="no/such:image")
    assert answer["task_id"], answer
    kept = client.get(f"/v1/tasks/{answer['task_id']}").json()
    equal((kept["status"], kept["exit_code"], kept["reason"]), ("failed", None, "image_not_found"))


@test
def every_fault_is_listed():
    answer = task(expect=400, cmd="not an array", env=[], limits={"memory": -1, "nonsense": 1}, colour="red")
    pointers = {e["pointer"] for e in answer["errors"]}
    equal(pointers, {"/cmd", "/env", "/limits/memory", "/limits/nonsense", "/colour"})
    equal(answer["type"], "urn:mayfly:problem:bad_request")


@test
def get_and_list():
    t = sh("echo kept")
    equal(client.get(f"/v1/tasks/{t['id']}").json()["stdout"], "kept\n")
    page = client.get("/v1/tasks?limit=2").json()
    equal(len(page["tasks"]), 2)
    equal(page["tasks"][0]["id"], t["id"])
    assert "stdout" not in page["tasks"][0] and page["next_cursor"], page
    older = client.get(f"/v1/tasks?limit=2&cursor={page['next_cursor']}").json()
    assert t["id"] not in [x["id"] for x in older["tasks"]]
    equal(client.get("/v1/tasks/00000000000000000000000000").status, 404)


@test
def idempotency_key():
    key = {"Idempotency-Key": f"test-{time.time_ns()}"}
    first = sh("cat /proc/sys/kernel/random/uuid", headers=key)
    again = sh("cat /proc/sys/kernel/random/uuid", headers=key)
    equal((again["id"], again["stdout"]), (first["id"], first["stdout"]))
    answer = sh("echo another", headers=key, expect=422)
    equal(answer["type"], "urn:mayfly:problem:idempotency_mismatch")


@test
def idempotency_key_joins_a_live_task():
    key = {"Idempotency-Key": f"live-{time.time_ns()}"}
    answers = []

    def run():
        answers.append(client.request("POST", "/v1/tasks", {
            "image": IMAGE, "network": "none", "cmd": ["sh", "-c", "sleep 1; cat /proc/sys/kernel/random/uuid"]}, key))

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal({a.status for a in answers}, {201})
    equal(len({a.json()["stdout"] for a in answers}), 1)


@test
def hang_up_cancels():
    key = f"gone-{time.time_ns()}"
    body = json.dumps({"image": IMAGE, "network": "none", "cmd": ["sleep", "60"]}).encode()
    with socket.create_connection(("127.0.0.1", client.port)) as s:
        s.sendall(b"POST /v1/tasks HTTP/1.1\r\nHost: mayfly\r\nContent-Type: application/json\r\n"
                  b"Authorization: " + client.authorization()["Authorization"].encode() + b"\r\n"
                  b"Idempotency-Key: " + key.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.5)
    for _ in range(100):
        newest = client.get("/v1/tasks?limit=1").json()["tasks"][0]
        if newest["status"] == "killed":
            break
        time.sleep(0.1)
    equal((newest["status"], newest["reason"]), ("killed", "cancelled"))


@test
def health_and_version():
    for path in ("/healthz", "/v1/health", "/v1/health?full=1"):
        equal(client.get(path).status, 200)
    version = client.get("/v1/version")
    assert version.status == 200 and version.json()["version"] and version.headers["X-Request-Id"]
    equal(client.request("GET", "/v1/version", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"], "mine-1")


@test
def wrong_paths_and_methods():
    equal(client.get("/nothing").status, 404)
    answer = client.request("PUT", "/v1/tasks")
    equal(answer.status, 405)
    assert "POST" in answer.headers["Allow"] and "GET" in answer.headers["Allow"]
    equal(client.request("POST", "/v1/tasks", b"{}", {"Content-Type": "text/plain"}).status, 415)
    try:
        status = client.request("POST", "/v1/tasks", b"x" * (33 << 20), {"Content-Type": "application/json"}).status
    except OSError:  # closed while the body was still being sent
        status = 413
    equal(status, 413)


@test
def large_streams_are_exact():
    t = sh("head -c 3000000 /dev/urandom >/tmp/f; cat /tmp/f; sha256sum </tmp/f >&2", limits={"output": "4m"})
    equal(hashlib.sha256(base64.b64decode(t["stdout"])).hexdigest(), t["stderr"].split()[0])


def tar_of(**files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo("dir/" + name)
            info.size, info.mode = len(text), 0o640
            tar.addfile(info, io.BytesIO(text))
    return base64.b64encode(data.getvalue()).decode()


def wait_status(id, *wanted, seconds=30):
    def there():
        t = client.get(f"/v1/tasks/{id}").json()
        return t if t["status"] in wanted else None
    found = mayfly.wait_until(there, seconds, 0.02)
    assert found, client.get(f"/v1/tasks/{id}")
    return found


@test
def files_as_tar():
    t = sh("cat x/dir/a x/dir/b; stat -c %a x/dir/a", workdir="/w", user="nobody", files=[
        {"path": "x", "content": tar_of(a=b"1", b=b"2"), "encoding": "tar+base64"}])
    equal(t["stdout"], "12640\n")


@test
def outputs_come_back():
    t = sh("mkdir d; echo f >d/f; printf '\\377' >b; echo text >t; ln -s t l", workdir="/w",
           outputs=["t", "b", "d", "l", "/w/none"])
    found = {o["path"]: o for o in t["outputs"]}
    equal((found["t"]["type"], found["t"]["encoding"], found["t"]["content"]), ("file", "utf-8", "text\n"))
    equal(base64.b64decode(found["b"]["content"]), b"\xff")
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(found["d"]["content"]))) as tar:
        assert any(name.endswith("f") for name in tar.getnames()), tar.getnames()
    equal(found["/w/none"]["error"], "not_found")
    equal(client.get(f"/v1/tasks/{t['id']}").json()["outputs"], t["outputs"])


@test
@needs("secrets")
def secrets_are_files():
    t = sh("cat /run/secrets/TOKEN; env | grep -c hidden", secrets={"TOKEN": "hidden-value"})
    equal(t["stdout"], "hidden-value0\n")
    kept = client.get(f"/v1/tasks/{t['id']}")
    assert b"TOKEN" not in kept.body.replace(b'"stdout":"hidden-value0', b""), kept


@test
def labels_are_kept_and_found():
    mark = f"m{time.time_ns()}"
    t = sh("true", labels={"job": mark, "other": "x"})
    equal(t["labels"], {"job": mark, "other": "x"})
    listed = client.get(f"/v1/tasks?label=job={mark}").json()["tasks"]
    equal([x["id"] for x in listed], [t["id"]])
    equal(client.get(f"/v1/tasks?label=job={mark}&label=other=y").json()["tasks"], [])


@test
def pull_words():
    for word in ("missing", "never"):
        equal(sh("echo x", pull=word)["stdout"], "x\n")
    problem("image_not_found", 404, image="no/such:image", pull="never")
    answer = task(expect=400, pull="sometimes")
    equal(answer["errors"][0]["pointer"], "/pull")


@test
def engine_by_name():
    equal(sh("echo x", engine=engine["name"])["engine"], engine["name"])
    answer = task(expect=400, engine="steam", cmd=["true"])
    equal(answer["errors"][0]["pointer"], "/engine")


@test
def registry_auth_is_never_answered():
    t = sh("echo x", registry_auth={"username": "u", "password": "p4ss-never-shown"})
    assert b"p4ss-never-shown" not in client.get(f"/v1/tasks/{t['id']}").body
    answer = task(expect=400, registry_auth={"username": "u"})
    assert answer["errors"][0]["pointer"].startswith("/registry_auth"), answer


@test
def what_comes_later_is_refused():
    for member, value in (("tty", True), ("profile", "restricted"), ("priority", 1), ("callback_url", "http://x/")):
        answer = task(expect=400, **{member: value})
        equal([e["pointer"] for e in answer["errors"]], ["/" + member])


@test
@needs("cpu_usage")
def cpu_time_limit():
    t = sh("while :; do :; done", limits={"cpu_time": 0.3, "timeout": 20})
    equal((t["status"], t["exit_code"], t["signal"], t["reason"]), ("killed", 137, "SIGKILL", "cpu_time"))


@test
def queue_timeout():
    slow = instance.net_client("task", limits={"max_running": 1})
    held = slow.request("POST", "/v1/tasks", {"image": IMAGE, "cmd": ["sleep", "60"], "network": "none", "wait": False})
    equal(held.status, 202)
    mayfly.wait_until(lambda: slow.get("/v1/tasks?status=running").json()["tasks"])
    answer = slow.request("POST", "/v1/tasks", {"image": IMAGE, "cmd": ["true"], "network": "none",
                                                "limits": {"queue_timeout": "100ms"}})
    equal((answer.status, answer.json()["type"]), (503, "urn:mayfly:problem:queue_timeout"))
    kept = slow.get(f"/v1/tasks/{answer.json()['task_id']}").json()
    equal((kept["status"], kept["exit_code"], kept["reason"]), ("failed", None, "queue_timeout"))
    slow.request("POST", f"/v1/tasks/{held.json()['id']}/cancel")


@test
def wait_false_is_accepted():
    answer = client.request("POST", "/v1/tasks", {"image": IMAGE, "cmd": ["echo", "later"], "network": "none", "wait": False})
    t = answer.json()
    equal((answer.status, answer.headers["Location"]), (202, f"/v1/tasks/{t['id']}"))
    assert t["status"] in ("queued", "pulling", "running"), t
    equal(wait_status(t["id"], "exited")["stdout"], "later\n")


@test
def wait_for_a_while():
    answer = client.request("POST", "/v1/tasks", {"image": IMAGE, "cmd": ["sh", "-c", "sleep 1; echo done"],
                                                  "network": "none", "wait": "200ms"})
    equal(answer.status, 202)
    equal(wait_status(answer.json()["id"], "exited")["stdout"], "done\n")
    equal(sh("echo quick", wait="30s")["stdout"], "quick\n")


def post_and_leave(**members):
    """The client is gone before the task has ended; the task's id."""
    mark = f"left{time.time_ns()}"
    body = json.dumps({"image": IMAGE, "network": "none", "labels": {"mark": mark}, **members}).encode()
    with socket.create_connection(("127.0.0.1", client.port)) as s:
        s.sendall(b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: " +
                  client.authorization()["Authorization"].encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        found = mayfly.wait_until(
            lambda: [t for t in client.get(f"/v1/tasks?label=mark={mark}").json()["tasks"] if t["status"] == "running"])
    return found[0]["id"]


@test
def on_disconnect():
    gone = post_and_leave(cmd=["sleep", "60"])
    kept = post_and_leave(cmd=["sh", "-c", "sleep 1; echo alive"], on_disconnect="detach")
    equal(wait_status(gone, "killed")["reason"], "cancelled")
    equal(wait_status(kept, "exited")["stdout"], "alive\n")


@test
def cancel_with_grace():
    def run(grace):
        answer = client.request("POST", "/v1/tasks", {
            "image": IMAGE, "network": "none", "wait": False, "limits": {"grace": grace},
            "cmd": ["sh", "-c", "trap 'echo term; exit 3' TERM; echo up; while :; do sleep 0.05; done"]})
        path = f"/v1/tasks/{answer.json()['id']}"
        mayfly.wait_until(lambda: client.get(path + "/stdout").body == b"up\n")
        equal(client.request("POST", path + "/cancel").status, 202)
        t = wait_status(answer.json()["id"], "killed")
        equal(client.request("POST", path + "/cancel").status, 200)
        return t
    t = run("10s")
    equal((t["reason"], t["stdout"]), ("cancelled", "up\nterm\n"))
    t = run("0s")
    equal((t["reason"], t["exit_code"], t["signal"]), ("cancelled", 137, "SIGKILL"))


@test
def a_key_is_by_scheme_and_case():
    for scheme in ("Basic", "Bearer", "bearer"):
        text = base64.b64encode(client.key.encode()).decode() if scheme == "Basic" else client.key
        equal(mayfly.NetClient(client.port).request("GET", "/v1/version", headers={"Authorization": f"{scheme} {text}"}).status,
              200)
    answer = mayfly.NetClient(client.port).get("/v1/version")
    equal(answer.status, 401)
    equal([v.split()[0] for v in answer.headers.get_all("WWW-Authenticate")], ["Basic", "Bearer"])
    equal(answer.json()["type"], "urn:mayfly:problem:unauthorized")


@test
@needs("native")
def node_lost():
    kept = client.request("POST", "/v1/tasks", {"image": IMAGE, "cmd": ["sleep", "60"], "network": "none", "wait": False})
    again = client.request("POST", "/v1/tasks", {"image": IMAGE, "network": "none", "wait": False, "retries": 1,
                                                 "cmd": ["sh", "-c", "echo up; sleep 3; echo end"]})
    for answer in (kept, again):
        wait_status(answer.json()["id"], "running")
    os.kill(instance.pid("mayfly-launcher"), signal.SIGKILL)
    t = wait_status(kept.json()["id"], "failed")
    equal((t["exit_code"], t["signal"], t["reason"]), (None, None, "node_lost"))
    t = wait_status(again.json()["id"], "exited", seconds=60)
    equal((t["exit_code"], t["attempts"], t["stdout"]), (0, 2, "up\nend\n"))


def main():
    global instance, client, engine
    with dockerd.engine_asked("mfapitasks") as asked, TcpInstance("mfapitasks", "10.232.0.0/16", engine=asked) as instance:
        engine = client_features(instance)
        client = instance.net_client()
        report = run_all(tests, "" if engine["name"] == "native" else f"{engine['name']}: ")
    report.exit()


if __name__ == "__main__":
    main()
