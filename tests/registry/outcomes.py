"""How a task tells what its registry did to it: status, reason, Retry-After; and how far its pull is."""

import json
import os
import pty
import random
import select
import threading
import time

import mayfly
import registries


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


def task(client, image, **members):
    return client.post({"image": image, "cmd": ["true"], "network": "none", **members})


def reasons(w, report):
    blobs = registries.Blobs()
    layer = mayfly.Archive().file("noise", random.Random(3).randbytes(100_000)).bytes()
    good = blobs.image([w.system, layer])
    chart = blobs.image([w.system], config=blobs.descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json"))
    digest = "sha256:" + mayfly.sha256(layer)
    seen = []

    def bend(handler, kind, name):
        seen.append(name)
        tag = handler.path.rpartition("/")[2]
        if tag == "busy":
            handler.send(429, Retry_After="77")
        elif tag == "busier":
            handler.send(429)
        elif tag == "forbidden":
            handler.send(403)
        elif tag == "down":
            handler.send(500)
        elif name == digest:
            handler.send(200, bytes(len(layer)))
        else:
            return False
        return True
    fake = registries.Fake(blobs, {"good": good, "chart": chart}, bend)
    rows = [("busy", 503, "registry_busy"), ("busier", 503, "registry_busy"), ("forbidden", 403, "image_unauthorized"),
            ("down", 502, "registry_error"), ("none", 404, "image_not_found"), ("chart", 422, "image_unsupported"),
            ("good", 502, "image_invalid")]
    for tag, status, reason in rows:
        with report.case(f"a task: {tag} is {status} {reason}"):
            image = f"{fake.host}/some/app:{tag}"
            answer = task(w.client, image)
            problem = answer.json()
            equal((answer.status, problem["type"]), (status, "urn:mayfly:problem:" + reason), answer)
            assert fake.host in problem["detail"], problem
            kept = w.client.get("/v1/tasks/" + problem["task_id"]).json()
            equal((kept["status"], kept["reason"]), ("failed", reason))
            if status == 503:
                equal(answer.headers["Retry-After"], "77" if tag == "busy" else "30")
            if reason == "image_invalid":
                assert "layer 2 of 2, " + digest in problem["detail"], problem
    with report.case("a task: an idempotent one that met a busy registry is answered so again"):
        request = {"image": f"{fake.host}/some/app:busy", "cmd": ["true"]}
        first = w.client.post(request, key="busy-registry")
        mayfly.wait_until(lambda: w.client.get("/v1/tasks/" + first.json()["task_id"]).json()["status"] == "failed")
        again = w.client.post(request, key="busy-registry")
        equal((again.status, again.headers["Retry-After"] is not None), (503, True), again)
    with report.case("a task: retries count for a busy registry, too"):
        del seen[:]
        answer = task(w.client, f"{fake.host}/some/app:busier", retries=1, limits={"queue_timeout": "60s"})
        equal((answer.status, w.client.get("/v1/tasks/" + answer.json()["task_id"]).json()["attempts"]), (503, 2), answer)
    fake.close()


def slow_registry(w, seed, size=2 << 20, seconds=2.0):
    """A registry whose second layer takes its time."""
    layer = mayfly.Archive().file("slow", random.Random(seed).randbytes(size)).bytes()
    blobs = registries.Blobs()
    digest = "sha256:" + mayfly.sha256(layer)

    def bend(handler, kind, name):
        if name != digest or handler.command != "GET":
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(layer)))
        handler.end_headers()
        piece = len(layer) // 20 + 1
        for at in range(0, len(layer), piece):
            handler.wfile.write(layer[at:at + piece])
            time.sleep(seconds / 20)
        return True
    return registries.Fake(blobs, {"1": blobs.image([w.system, layer])}, bend)


def progress(w, report):
    fake = slow_registry(w, 31)
    with report.case("a task that pulls says how far it is"):
        answer = task(w.client, f"{fake.host}/slow:1", wait=False)
        equal(answer.status, 202, answer)
        where, seen = "/v1/tasks/" + answer.json()["id"], []

        def look():
            now = w.client.get(where).json()
            if now["status"] == "pulling" and "pull" in now:
                seen.append((now["pull"]["done"], now["pull"]["total"]))
            return now["status"] not in ("queued", "pulling")
        assert mayfly.wait_until(look, 60, 0.05), "it never ended"
        assert len({done for done, _ in seen}) > 2 and seen == sorted(seen), seen
        assert all(0 <= done <= total and total > (2 << 20) for done, total in seen), seen
        ended = w.client.get(where + "/wait?timeout=30").json()
        equal(ended["status"], "exited", ended)
        assert "pull" not in ended and ended["timings"]["pull_ms"] >= 1000, ended
    fake.close()
    fake = slow_registry(w, 32)
    with report.case("mayfly run shows a bar on a terminal, and takes it away"):
        code, shown = on_terminal(w, "run", "--network", "none", f"{fake.host}/slow:1", "echo", "it ran")
        equal(code, 0, shown)
        assert shown.count(b"pulling [") > 2 and b" / " in shown, shown
        assert shown.rindex(b"\x1b[K") < shown.rindex(b"it ran"), shown
    fake.close()
    fake = slow_registry(w, 33, seconds=0.6)
    with report.case("mayfly run shows none where stderr is no terminal"):
        done = w.instance.cli("run", "--network", "none", f"{fake.host}/slow:1", "echo", "it ran")
        equal((done.returncode, done.stdout, done.stderr), (0, b"it ran\n", b""))
    fake.close()


def on_terminal(w, *arguments):
    """The command with stdout and stderr on a terminal: its status, and what was written."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(MAYFLY_HOST="unix://" + w.instance.socket, TERM="xterm")
        program = mayfly.program("mayfly")
        os.execv(program, [program, *arguments])
    shown = b""
    end = time.monotonic() + 60 * mayfly.SLOW
    while time.monotonic() < end:
        if not select.select([fd], [], [], 1)[0]:
            continue
        try:
            piece = os.read(fd, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


GROUPS = [reasons, progress]
