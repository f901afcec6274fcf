#!/usr/bin/env python3
"""Pulls through Docker: many tasks for an image that is absent are one pull, another client's is joined, credentials are asked for,
and what the registry says becomes a reason.

    tests/docker/pulls.py"""

import errno
import json
import os
import subprocess
import sys
import threading
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../registry"))
import dockers  # noqa: E402
import mayfly  # noqa: E402
import registries  # noqa: E402


def push(docker, directory, registry, repository, user=None, extra=0):
    """The helper's image with some bytes that no other has; Docker forgets it then."""
    archive = mayfly.busybox()
    archive.copy("bin/helper", os.path.join(dockers.build, "tests/conformance/conformance-helper"))
    if extra:
        archive.file("extra", os.urandom(extra))
    ref = f"{registry.host}/{repository}"
    headers = {"X-Registry-Auth": dockers.base64.urlsafe_b64encode(json.dumps(
        {"username": user[0], "password": user[1]} if user else {}).encode()).decode()}
    status, answer = docker.call("POST", f"/v1.41/images/create?fromSrc=-&repo={urllib.parse.quote(ref, safe='')}&tag=1", archive.bytes())
    assert status == 200, answer
    status, answer = docker.call("POST", f"/v1.41/images/{ref}/push?tag=1", headers=headers, timeout=120)
    text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    assert status == 200 and b"error" not in text, answer
    forget(docker, ref + ":1")
    return ref + ":1"


def forget(docker, ref):
    status, answer = docker.call("DELETE", f"/v1.41/images/{ref}?force=true")
    assert status == 200, answer


def pulls(log):
    """How often a manifest was fetched. Docker asks for each with HEAD and GET of the tag, then GET by digest."""
    return sum('"GET ' in line and "/manifests/1" in line or '"HEAD ' in line and "/manifests/1" in line for line in log.splitlines())


def main():
    directory, name = dockers.enter()
    report = mayfly.Report("docker/pulls: ")
    try:
        registries.need("docker-registry", "htpasswd")
    except mayfly.Skip as e:
        report.skip("all", e)
        report.exit()
    docker = dockers.Docker(directory, name).start()
    opened = registries.Registry(directory, "open").start()
    passwords = os.path.join(directory, "htpasswd")
    with open(passwords, "wb") as f:
        f.write(subprocess.run(["htpasswd", "-Bbn", "ann", "right"], stdout=subprocess.PIPE, check=True).stdout)
    closed = registries.Registry(directory, "closed", f"auth:\n  htpasswd: {{realm: here, path: {passwords}}}\n").start()
    proxy = dockers.Proxy(directory, docker.socket)
    drive = dockers.Drive(directory, name, proxy.host)

    with report.case("50 tasks for an image that is absent: one pull"):
        ref = push(docker, directory, opened, "one", extra=1 << 20)
        drive.run("base", "/bin/true", image=ref)
        assert drive.end("base").get("end") == "exited", drive.end("base")
        once = pulls(opened.log())
        forget(docker, ref)
        before, asked = pulls(opened.log()), len(proxy.requests)
        for i in range(50):
            drive.run(f"many{i}", "/bin/helper", "exit", str(i), image=ref)
        for i in range(50):
            e = drive.end(f"many{i}", 120)
            assert (e.get("end"), e.get("code")) == ("exited", i), e
        assert sum("/images/create" in r.target for r in proxy.requests[asked:]) == 1
        assert pulls(opened.log()) - before <= max(once, 1), (before, once, pulls(opened.log()))
    with report.case("a pull that another client has begun is joined"):
        ref = push(docker, directory, opened, "other", extra=24 << 20)
        path = "/v1.41/images/create?fromImage=" + urllib.parse.quote(ref.rsplit(":", 1)[0], safe="") + "&tag=1"
        other = threading.Thread(target=docker.call, args=("POST", path), kwargs={"timeout": 120})
        other.start()
        drive.run("joined", "/bin/helper", "exit", "9", image=ref)
        e = drive.end("joined", 120)
        other.join()
        assert (e.get("end"), e.get("code")) == ("exited", 9), e
        # What describes an image Docker fetches for each; its layers it fetches once.
        layers = [line for line in opened.log().splitlines() if '"GET /v2/other/blobs/' in line and int(line.split('" ')[1].split()[1]) > 1 << 20]
        assert len(layers) == 1, layers
    with report.case("what is not there is not found"):
        for i, ref in enumerate((f"{opened.host}/one:absent", f"{opened.host}/nowhere:1")):
            drive.run(f"absent{i}", "/bin/true", image=ref)
            e = drive.end(f"absent{i}")
            assert e.get("r") == -errno.ENOENT, e
    with report.case("a registry that cannot be reached"):
        drive.run("away", "/bin/true", image="127.0.0.1:1/x:1")
        e = drive.end("away")
        assert e.get("r") == -errno.EHOSTUNREACH, e
    with report.case("credentials: none, wrong ones, the right ones, and no mixing of two clients'"):
        ref = push(docker, directory, closed, "secret", user=("ann", "right"))
        drive.run("none", "/bin/true", image=ref)
        drive.run("wrong", "/bin/true", image=ref, username="ann", password="wrong")
        drive.run("right", "/bin/helper", "exit", "8", image=ref, username="ann", password="right")
        assert drive.end("none").get("r") == -errno.EACCES, drive.end("none")
        assert drive.end("wrong").get("r") == -errno.EACCES, drive.end("wrong")
        e = drive.end("right")
        assert (e.get("end"), e.get("code")) == ("exited", 8), e
        assert "right" not in mayfly.read(drive.log_path) and "wrong" not in mayfly.read(drive.log_path)
    with report.case("an image pulled always is asked for again"):
        ref = push(docker, directory, opened, "again")
        for i in range(2):
            before = pulls(opened.log())
            drive.run(f"again{i}", "/bin/true", image=ref, pull="always")
            assert drive.end(f"again{i}").get("end") == "exited", drive.end(f"again{i}")
            assert pulls(opened.log()) > before
    with report.case("nothing is left"):
        drive.quit()
        assert docker.containers() == [], docker.containers()
    opened.stop()
    closed.stop()
    docker.stop()
    report.exit()


main()
