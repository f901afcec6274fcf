#!/usr/bin/env python3
"""The API of the Ephemeral Container Service, /v1.0 and /v1.1, through a TCP listener with a key, as its clients speak it:
HTTP and JSON, nothing of Mayfly's own code."""
import base64
import http.client
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import dockerd  # noqa: E402
import mayfly  # noqa: E402

VERSIONS = ("v1.0", "v1.1")
BODY_MAX = 5 * 1024
report = mayfly.Report("ecs: ")


class Ecs:
    def __init__(self, address, key):
        self.address = address
        self.authorization = "Basic " + base64.b64encode(key.encode()).decode() if key else None

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(*self.address, timeout=60 * mayfly.SLOW)
        headers = dict(headers or {})
        if self.authorization:
            headers.setdefault("Authorization", self.authorization)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return mayfly.Response(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)


def equal(got, want):
    assert got == want, f"got {got!r}, expected {want!r}"


def expect(answer, status):
    assert answer.status == status, f"expected {status}: {answer}"
    assert answer.headers.get_content_type() == "application/json", answer.headers
    assert "Server" not in answer.headers, answer.headers["Server"]
    return answer.json()


def body(version, cmd, image="busybox", tag="demo", **more):
    if version == "v1.0":
        return {"docker_image": image, "tag": tag, "cmd": cmd, **more}
    return {"docker_image": f"{image}:{tag}", "cmd": cmd, **more}


def run(ecs, version, cmd, path="tasks", **more):
    answer = expect(ecs.request("POST", f"/{version}/{path}", body(version, cmd, **more)), 201)
    equal(sorted(answer), ["exitCode", "stderr", "stdout"])
    return answer["exitCode"], base64.b64decode(answer["stdout"]), base64.b64decode(answer["stderr"])


def tasks(ecs, version):
    with report.case(f"{version}: a task answers exit code and both streams"):
        equal(run(ecs, version, ["sh", "-c", "printf 'a\\0\\377'; echo b >&2; exit 7"]), (7, b"a\0\xff", b"b\n"))
    with report.case(f"{version}: empty streams are empty text"):
        equal(run(ecs, version, ["true"]), (0, b"", b""))
    with report.case(f"{version}: 4 MB of output are whole"):
        code, out, _ = run(ecs, version, ["sh", "-c", "yes 0123456 | head -c 4000000"])
        equal((code, len(out), out[-8:]), (0, 4000000, b"0123456\n"))
    with report.case(f"{version}: death by a signal is 128 and its number"):
        equal(run(ecs, version, ["sh", "-c", "sh -c 'kill -9 $$'; exit $?"])[0], 137)
    with report.case(f"{version}: no such program is 127"):
        equal(run(ecs, version, ["no-such-program"])[0], 127)
    with report.case(f"{version}: a trailing slash and unknown parameters"):
        equal(run(ecs, version, ["true"], path="tasks/")[0], 0)
        equal(run(ecs, version, ["true"], path="tasks?color=blue&x")[0], 0)
    with report.case(f"{version}: a charset in the content type"):
        answer = ecs.request("POST", f"/{version}/tasks", body(version, ["true"]),
                             {"Content-Type": "application/json; charset=utf-8"})
        expect(answer, 201)
    with report.case(f"{version}: an image that does not exist is 404"):
        expect(ecs.request("POST", f"/{version}/tasks", body(version, ["true"], tag="none-such")), 404)
    with report.case(f"{version}: complete credentials are accepted"):
        creds = {"email": "a@example.org", "username": "a", "password": "b"}
        equal(run(ecs, version, ["true"], creds=creds)[0], 0)


def refused(ecs, version):
    good = body(version, ["true"])
    creds = {"email": "a@example.org", "username": "a", "password": "b"}
    bad = {
        "no body": b"",
        "no JSON": b"{",
        "an array": [],
        "no image": {k: v for k, v in good.items() if k != "docker_image"},
        "an image that is a number": {**good, "docker_image": 1},
        "an empty image": {**good, "docker_image": ""},
        "an image with blanks": {**good, "docker_image": "busy box" + (":demo" if version == "v1.1" else "")},
        "no cmd": {k: v for k, v in good.items() if k != "cmd"},
        "an empty cmd": {**good, "cmd": []},
        "a cmd of text": {**good, "cmd": "true"},
        "a cmd with a number": {**good, "cmd": ["true", 1]},
        "creds of text": {**good, "creds": "x"},
        "creds with more": {**good, "creds": {**creds, "token": "x"}},
    }
    for name in creds:
        bad[f"creds without {name}"] = {**good, "creds": {k: v for k, v in creds.items() if k != name}}
        bad[f"creds with an empty {name}"] = {**good, "creds": {**creds, name: ""}}
    if version == "v1.1":
        bad |= {"an image without a tag": {**good, "docker_image": "busybox"},
                "an image that ends in a colon": {**good, "docker_image": "busybox:"},
                "an image of a tag alone": {**good, "docker_image": ":demo"},
                "another member": {**good, "color": "blue"},
                "a tag apart": {**good, "tag": "demo"}}
    else:
        bad |= {"an image with a tag": {**good, "docker_image": "busybox:demo"},
                "no tag": {k: v for k, v in good.items() if k != "tag"},
                "an empty tag": {**good, "tag": ""},
                "a tag that is a number": {**good, "tag": 1}}
    for name, request in bad.items():
        with report.case(f"{version}: {name} is 400"):
            expect(ecs.request("POST", f"/{version}/tasks", request), 400)
    if version == "v1.0":
        with report.case(f"{version}: another member is tolerated"):
            expect(ecs.request("POST", f"/{version}/tasks", {**good, "color": "blue"}), 201)
    with report.case(f"{version}: a body of 5 KiB is read, of one byte more is 413"):
        text = json.dumps(good)
        expect(ecs.request("POST", f"/{version}/tasks", text + " " * (BODY_MAX - len(text))), 201)
        expect(ecs.request("POST", f"/{version}/tasks", text + " " * (BODY_MAX + 1 - len(text))), 413)
    with report.case(f"{version}: other methods and paths"):
        expect(ecs.request("PUT", f"/{version}/tasks", good), 405)
        expect(ecs.get(f"/{version}/nothing"), 404)


def others(ecs, version, base):
    with report.case(f"{version}: _noop"):
        assert isinstance(expect(ecs.get(f"/{version}/_noop"), 200), dict)
        assert isinstance(expect(ecs.get(f"/{version}/_noop/"), 200), dict)
    with report.case(f"{version}: _version"):
        path = f"/{version}/_version?x=1"
        answer = expect(ecs.get(path), 200)
        equal(answer["links"]["self"]["href"], base + path)
        assert answer["version"]
    for path in ("_health", "_health?quick=true", "_health/?quick=false"):
        with report.case(f"{version}: {path}"):
            answer = expect(ecs.get(f"/{version}/{path}"), 200)
            equal((answer["status"], answer["links"]["self"]["href"]), ("green", f"{base}/{version}/{path}"))
            assert isinstance(answer["details"], dict), answer
    for value in ("", "yes", "TRUE", "1"):
        with report.case(f"{version}: _health?quick={value} is 400"):
            expect(ecs.get(f"/{version}/_health?quick={value}"), 400)


def authorisation(instance, address):
    for version in VERSIONS:
        for name, key in (("no key", None), ("a wrong secret", "x:y")):
            with report.case(f"{version}: {name} is 401"):
                answer = Ecs(address, key).get(f"/{version}/_noop")
                expect(answer, 401)
                assert answer.headers["WWW-Authenticate"].startswith("Basic"), answer.headers
    with report.case("a key that may only read runs nothing: 403"):
        reader = Ecs(address, instance.key("read"))
        expect(reader.request("POST", "/v1.1/tasks", body("v1.1", ["true"])), 403)


def time_limit(instance, address):
    with report.case("a task that outlasts its time ends as 201 with 137"):
        ecs = Ecs(address, instance.key("task", "--max-timeout", "1s"))
        equal(run(ecs, "v1.1", ["sh", "-c", "echo begun; sleep 600"]), (137, b"begun\n", b""))


def broken(instance, address):
    """An image whose layer is gone, with its blob: by the original's API, too, it is ours that something is wrong."""
    archive = mayfly.busybox().file("etc/broken", "x").bytes()
    instance.load(archive, "broken:1")
    about = instance.client.get("/v1/images/broken:1").json()
    for blob in about["blobs"]:
        os.unlink(os.path.join(instance.data_dir, "state/images/blobs/sha256", blob["digest"].split(":")[1]))
        shutil.rmtree(os.path.join(instance.data_dir, "store/layers", blob["diff_id"].split(":")[1]))
    assert not instance.client.request("POST", "/v1/images/verify?repair=true").json()["ok"]
    ecs = Ecs(address, instance.key("task"))
    by_digest = about["digest"].split(":")
    for version in VERSIONS:
        with report.case(f"{version}: an image that is damaged here is 500, and says why"):
            for name in (("broken", "1"), by_digest):
                answer = expect(ecs.request("POST", f"/{version}/tasks", body(version, ["true"], *name)), 500)
                equal(answer["reason"], "image_broken")
                assert "damaged" in answer["message"], answer
    instance.stop()
    os.unlink(os.path.join(instance.data_dir, "state/images/index.json"))  # whose it is was known there alone
    instance.start()
    assert mayfly.wait_until(lambda: instance.client.get("/v1/images/" + about["digest"]).json()["broken"], 20)
    for version in VERSIONS:
        with report.case(f"{version}: to who may not use it, it is one that does not exist"):
            answers = [expect(ecs.request("POST", f"/{version}/tasks", body(version, ["true"], *name)), 404)
                       for name in (by_digest, ("sha256", "0" * 64))]
            equal([a["reason"] for a in answers], 2 * ["image_not_found"])
            equal(answers[0]["message"].replace(by_digest[1], "0" * 64), answers[1]["message"])


def original_limits(address, key):
    with report.case("the original's limits: above 5 requests a second 503"):
        ecs = Ecs(address, key)
        statuses = [ecs.get("/v1.1/_noop").status for _ in range(40)]
        assert set(statuses) == {200, 503}, statuses


def main():
    mayfly.exclusive("ecs")
    if "docker" in sys.argv and not dockerd.available():
        report.skip("over Docker", "no dockerd here")
        report.exit()
    with dockerd.engine_asked("mfecs") as engine:
        if engine.name != "native":
            report.prefix = f"ecs, {engine.name}: "
        with mayfly.Instance("mfecs", "10.215.0.0/16", listen="tcp://127.0.0.1:16293", **engine.config) as instance:
            engine.load(instance, mayfly.busybox().bytes(), "busybox:demo")
            address = ("127.0.0.1", 16293)
            ecs = Ecs(address, instance.key("task"))
            for version in VERSIONS:
                tasks(ecs, version)
                refused(ecs, version)
                others(ecs, version, "http://127.0.0.1:16293")
            authorisation(instance, address)
            time_limit(instance, address)
            if engine.name == "native":
                broken(instance, address)
        if engine.name == "native":
            with mayfly.Instance("mfecs", "10.215.0.0/16", listen="tcp://127.0.0.1:16293",
                                 ecs__original_limits="true") as instance:
                original_limits(("127.0.0.1", 16293), instance.key("task"))
    report.exit()


if __name__ == "__main__":
    main()
