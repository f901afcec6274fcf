#!/usr/bin/env python3
"""Pulls from registries, well-behaved and not, on an instance of its own. As root.

    run.py             all
    run.py PATTERN     only groups whose names match
"""

import concurrent.futures
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../lib"), HERE]
import mayfly  # noqa: E402
import credentials  # noqa: E402
import misbehaviour  # noqa: E402
import outcomes  # noqa: E402
import registries  # noqa: E402
import roads  # noqa: E402
import takeover  # noqa: E402
import trust  # noqa: E402

report = mayfly.Report()
POOL = "10.233.0.0/16"


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


def pull(client, image, auth=None, policy="always", timeout=90):
    body = {"image": image, "pull": policy}
    if auth:
        body["registry_auth"] = {"username": auth[0], "password": auth[1]}
    return client.request("POST", "/v1/images/pull", body, timeout=timeout)


def run(client, image, *cmd, auth=None, **members):
    request = {"image": image, "cmd": list(cmd) or ["true"], "network": "none", **members}
    if auth:
        request["registry_auth"] = {"username": auth[0], "password": auth[1]}
    return client.post(request)


def remove(client, image):
    client.request("DELETE", "/v1/images/" + image)


def make_layout(directory):
    """An OCI layout by umoci: busybox, and a second layer of noise."""
    registries.need("umoci", "skopeo")
    layout, root, noise = (os.path.join(directory, n) for n in ("layout", "root", "noise"))
    os.mkdir(root)
    with open(os.path.join(directory, "root.tar"), "wb") as f:
        f.write(mayfly.busybox().bytes())
    with open(noise, "wb") as f:
        f.write(random.Random(5).randbytes(4 << 20))
    for command in (f"tar xf root.tar -C {root}", f"umoci init --layout {layout}", f"umoci new --image {layout}:1",
                    f"umoci insert --image {layout}:1 {root} /", f"umoci insert --image {layout}:1 {noise} /noise"):
        subprocess.run(command.split(), cwd=directory, check=True, stdout=subprocess.DEVNULL)
    return layout


def layers_of(layout):
    with open(os.path.join(layout, "index.json"), encoding="utf-8") as f:
        digest = json.load(f)["manifests"][0]["digest"]
    with open(os.path.join(layout, "blobs", *digest.split(":")), encoding="utf-8") as f:
        manifest = json.load(f)
    return [manifest["config"]["digest"]] + [layer["digest"] for layer in manifest["layers"]]


# ── Debian's registry ────────────────────────────────────────────────────────────────────────────────────────────────


def open_registry(w):
    r = w.registry("open")
    r.push(w.layout + ":1", "team/app:1")
    image = f"{r.host}/team/app:1"
    with report.case("open: a task pulls what it needs"):
        answer = run(w.client, image, "sh", "-c", "wc -c </noise")
        equal(answer.status, 201, answer)
        task = answer.json()
        equal(task["stdout"].strip(), str(4 << 20))
        assert task["timings"]["pull_ms"] > 0 and task["image"]["ref"] == image, task
    with report.case("open: what is present is not asked for"):
        before = r.log()
        equal(run(w.client, image).status, 201)
        equal(r.log(), before)
    with report.case("open: always looks, and downloads nothing that is there"):
        answer = pull(w.client, image)
        equal((answer.status, answer.json()["pulled"]), (200, False), answer)
    with report.case("open: a digest"):
        digest = pull(w.client, image).json()["digest"]
        answer = run(w.client, f"{r.host}/team/app@{digest}")
        equal(answer.status, 201, answer)
    with report.case("open: unknown tag and repository are 404"):
        for name in ("team/app:2", "team/none:1", "team/app@sha256:" + "0" * 64):
            answer = run(w.client, f"{r.host}/{name}")
            equal(answer.status, 404, answer)
            assert r.host in answer.json()["detail"], answer
    with report.case("open: never is 404 without a question"):
        equal(run(w.client, f"{r.host}/team/other:1", pull="never").status, 404)
    with report.case("open: a tag that moved"):
        subprocess.run(["umoci", "config", "--image", w.layout + ":1", "--tag", "moved", "--config.env", "MOVED=1"], check=True)
        r.push(w.layout + ":moved", "team/app:1")
        equal(run(w.client, image, "sh", "-c", "echo $MOVED").json()["stdout"], "\n")
        equal(run(w.client, image, "sh", "-c", "echo $MOVED", pull="always").json()["stdout"], "1\n")
    with report.case("events: progress, then done"):
        remove(w.client, image)
        remove(w.client, f"{r.host}/team/app@{digest}")
        answer = w.client.request("POST", "/v1/images/pull", {"image": image}, {"Accept": "text/event-stream"})
        events = re.findall(r"event: (\w+)\ndata: (.*)\n\n", answer.body.decode())
        equal(events[-1][0], "done", answer)
        assert any(name == "progress" and json.loads(data)["layers"] for name, data in events), answer
    with report.case("the command shows a line a step, and the digest with -q"):
        remove(w.client, image)
        remove(w.client, f"{r.host}/team/app@{digest}")
        done = w.instance.cli("pull", image)
        equal(done.returncode, 0, done.stderr)
        assert b"pulled " + image.encode() in done.stdout and b"ready" in done.stderr, done
        equal(w.instance.cli("pull", "-q", image).stdout.decode()[:7], "sha256:")
        failed = w.instance.cli("pull", f"{r.host}/team/none:1")
        assert failed.returncode == 1 and b"team/none" in failed.stderr, failed
    with report.case("the last name gone, all of it is gone"):
        for n in w.client.get("/v1/images").json()["images"]:
            for name in n["names"]:
                remove(w.client, name)
        blobs = os.listdir(os.path.join(w.instance.data_dir, "state/images/blobs/sha256"))
        assert len(blobs) == 3, blobs  # the built-in image's
        equal(os.listdir(os.path.join(w.instance.data_dir, "state/images/partial")), [])
    with report.case("50 tasks at once: one download of each blob"):
        before = {digest: r.gets("/blobs/" + digest) for digest in layers_of(w.layout)}
        manifests, answers = r.gets("/manifests/"), [None] * 50

        def one(i):
            answers[i] = run(w.client, image)
        threads = [threading.Thread(target=one, args=(i,)) for i in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal([a.status for a in answers], [201] * 50)
        r.stop()
        counts = [r.gets("/blobs/" + digest) - n for digest, n in before.items()]
        equal((counts[1:], r.gets("/manifests/") - manifests), ([1, 1], 1))
    with report.case("an unreachable registry is 502, named"):
        answer = run(w.client, f"{r.host}/team/app:77")
        equal(answer.status, 502, answer)
        assert r.host in answer.json()["detail"], answer
        answer = run(w.client, "no-such-host.invalid/a:1")
        equal((answer.status, answer.json()["type"]), (502, "urn:mayfly:problem:registry_error"), answer)
    with report.case("mayfly.internal is no registry"):
        equal(run(w.client, "mayfly.internal/other:1").status, 404)


def htpasswd(w):
    registries.need("htpasswd")
    path = os.path.join(w.dir, "users")
    subprocess.run(["htpasswd", "-Bbc", path, "ann", "secret"], check=True, stderr=subprocess.DEVNULL)
    r = w.registry("htpasswd", auth=f"auth:\n  htpasswd: {{realm: here, path: {path}}}\n")
    r.push(w.layout + ":1", "own/app:1", "--dest-creds", "ann:secret")
    image = f"{r.host}/own/app:1"
    first, second = (mayfly.NetClient(w.port, w.instance.key("task")) for _ in range(2))
    with report.case("htpasswd: without and with wrong credentials 403"):
        equal(run(first, image).status, 403)
        equal(run(first, image, auth=("ann", "wrong")).status, 403)
    with report.case("htpasswd: with credentials"):
        equal(run(first, image, auth=("ann", "secret")).status, 201)
        equal(run(first, image).status, 201)
    with report.case("htpasswd: another key sees nothing of it"):
        digest = w.client.get("/v1/images/" + image).json()["digest"]
        for name in (image, digest, digest[7:19]):
            answer = run(second, name)
            assert answer.status in (403, 404), (name, answer)
        equal(run(second, image, pull="never").status, 403)
        equal(second.get("/v1/images/" + image).status, 404)
        equal([n for i in second.get("/v1/images").json()["images"] for n in i["names"] if r.host in n], [])
    with report.case("htpasswd: another key with credentials downloads nothing again"):
        before = r.gets("/blobs/")
        equal(run(second, image, auth=("ann", "secret")).status, 201)
        equal(r.gets("/blobs/"), before)
    with report.case("htpasswd: what is closed stays so across a restart"):
        third = mayfly.NetClient(w.port, w.instance.key("task"))
        w.instance.stop()
        w.instance.start()
        equal(run(third, image).status, 403)
    with report.case("htpasswd: a proof holds while the registry is down"):
        r.stop()
        time.sleep(3.5)  # the fresh ones have lapsed
        equal(run(first, image).status, 201)
        equal(run(third, image).status, 502)
    with report.case("htpasswd: credentials are nowhere in the log"):
        assert "secret" not in mayfly.read(w.instance.log), "the password is there"


def tls(w):
    registries.need("openssl")
    cert, key = os.path.join(w.dir, "cert.pem"), os.path.join(w.dir, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj",
                    "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, stderr=subprocess.DEVNULL)
    r = w.registry("tls", tls=(cert, key))
    r.push(w.layout + ":1", "app:1")
    with report.case("TLS: an unknown CA is refused"):
        answer = run(w.client, f"{r.host}/app:1")
        equal(answer.status, 502, answer)
    with report.case("TLS: its own CA"):
        where = os.path.join(w.certs, r.host)
        os.makedirs(where)
        shutil.copy(cert, os.path.join(where, "ca.crt"))
        os.chmod(os.path.join(where, "ca.crt"), 0o644)
        equal(run(w.client, f"{r.host}/app:1").status, 201)


# ── tokens, cuts, deaths: a registry of a few lines ──────────────────────────────────────────────────────────────────


class Tokens:
    """Bearer tokens for one user, which lapse."""

    def __init__(self, expires=300):
        self.issued, self.expires, self.asked, self.busy = set(), expires, [], None

    def bend(self, handler, kind, name):
        host = handler.headers["Host"]
        if handler.path.startswith("/token"):
            self.asked.append((handler.path, handler.headers.get("Authorization")))
            if self.busy:
                handler.send(429, b"{}", "application/json", Retry_After=self.busy)
                return True
            if handler.headers.get("Authorization") != registries.basic("ann", "secret"):
                handler.send(401, b"{}", "application/json")
                return True
            token = f"token-{len(self.issued)}-{random.random()}"
            self.issued.add(token)
            handler.send(200, json.dumps({"token": token, "expires_in": self.expires}).encode(), "application/json")
            return True
        if handler.headers.get("Authorization", "").removeprefix("Bearer ") in self.issued:
            return False
        handler.send(401, b"{}", "application/json",
                     WWW_Authenticate=f'Bearer realm="http://{host}/token",service="a service",scope="repository:x:pull"')
        return True


def tokens(w):
    blobs, tags = w.small_image()
    t = Tokens()
    fake = registries.Fake(blobs, tags, t.bend)
    image = f"{fake.host}/own/app:1"
    with report.case("tokens: none for nobody, none for a wrong password"):
        equal(run(w.client, image).status, 403)
        equal(run(w.client, image, auth=("ann", "wrong")).status, 403)
    with report.case("tokens: one serves the whole pull, with our scope"):
        t.asked.clear()
        answer = run(w.client, image, auth=("ann", "secret"))
        equal(answer.status, 201, answer)
        equal(len(t.asked), 1)
        equal(registries.query_of(t.asked[0][0]), {"service": "a service", "scope": "repository:own/app:pull"})
    with report.case("tokens: one that was revoked is asked for anew"):
        t.issued.clear()
        equal(pull(w.client, image, ("ann", "secret")).status, 200)
        equal(len(t.asked), 2)
    with report.case("tokens: a server of them that is busy says until when"):
        t.busy = "99"
        answer = pull(w.client, f"{fake.host}/own/other:1", ("ann", "secret"))
        equal((answer.status, answer.headers["Retry-After"], len(t.asked)), (503, "99", 3), answer)
    fake.close()


def platforms(w):
    blobs, _ = w.small_image()
    image = blobs.image([w.system])
    other = blobs.image([w.system], architecture="s390x")
    oci = "application/vnd.oci.image.manifest.v1+json"
    machine = json.loads(blobs.blobs[json.loads(image)["config"]["digest"]])["architecture"]

    def entry(body, architecture, **more):
        return {**blobs.descriptor(body, oci), "platform": {"os": "linux", "architecture": architecture}, **more}
    attestation = entry(b'{"a":1}', "unknown", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    attestation["platform"]["os"] = "unknown"

    def index(*entries):
        return json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                           "manifests": list(entries)}).encode()
    chart = blobs.image([w.system], config=blobs.descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json"))
    fake = registries.Fake(blobs, {"multi": index(attestation, entry(other, "s390x"), entry(image, machine)),
                                   "other": index(entry(other, "s390x")), "wrong": other, "chart": chart,
                                   "old": b'{"schemaVersion":1,"fsLayers":[]}'})
    with report.case("platform: ours is chosen out of an index, never an attestation"):
        answer = run(w.client, f"{fake.host}/p:multi")
        equal(answer.status, 201, answer)
        equal(pull(w.client, f"{fake.host}/p:multi").json()["pulled"], False)
    with report.case("platform: a digest of the index is a name, too"):
        digest = "sha256:" + mayfly.sha256(fake.tags["multi"])
        blobs.blobs[digest] = fake.tags["multi"]
        equal(run(w.client, f"{fake.host}/p@{digest}").status, 201)
        equal(run(w.client, f"{fake.host}/p@{digest}", pull="never").status, 201)
    for tag, words in (("other", "linux/s390x"), ("wrong", "s390x"), ("chart", "helm"), ("old", "schema version 1")):
        with report.case(f"unsupported, and said so: {tag}"):
            answer = pull(w.client, f"{fake.host}/p:{tag}")
            equal((answer.status, answer.json()["type"]), (422, "urn:mayfly:problem:image_unsupported"), answer)
            assert words in answer.json()["detail"], answer
    fake.close()


def mirrors(w):
    blobs, tags = w.small_image()
    with report.case("mirrors: in their order, then the registry"):
        requests = w.mirror.requests
        del requests[:]
        w.mirror.blobs, w.mirror.tags = blobs, tags
        equal(run(w.client, "mirrored.invalid/some/app:1", auth=("ann", "canary")).status, 201)
        assert ("GET", "/prefix/v2/some/app/manifests/1") in requests, requests
        equal(w.mirror.authorizations, [])
        equal(run(w.client, "mirrored.invalid/some/app:2").status, 502)


def cuts(w):
    noise = random.Random(7).randbytes(3 << 20)
    layer = mayfly.Archive().file("noise", noise).bytes()
    blobs = registries.Blobs()
    tags = {"1": blobs.image([w.system, layer])}
    digest = "sha256:" + mayfly.sha256(layer)
    state = {"left": 20, "sent": 0}

    def bend(handler, kind, name):
        if name != digest or state["left"] == 0:
            return False
        state["left"] -= 1
        handler.blob(layer, random.randrange(1, 300000))
        return True
    fake = registries.Fake(blobs, tags, bend)
    with report.case("cut at 20 points: it goes on where it was"):
        for _ in range(5):  # pieces that are too small to count as progress end a pull
            answer = run(w.client, f"{fake.host}/cut:1", "sha256sum", "/noise")
            if answer.status != 502:
                break
        equal(answer.status, 201, answer)
        assert answer.json()["stdout"].startswith(mayfly.sha256(noise)), answer
    fake.close()


def deaths(w):
    """The daemon is killed while a slow layer comes; the next pull downloads what was not on disk."""
    times = 3 if not os.environ.get("MAYFLY_LONG") else 50
    noise = random.Random(9).randbytes((8 if times == 3 else 128) << 20)  # it is not to come whole before the last death
    layer = mayfly.Archive().file("noise", noise).bytes()
    blobs = registries.Blobs()
    tags = {"1": blobs.image([w.system, layer])}
    digest = "sha256:" + mayfly.sha256(layer)
    sent = [0]

    def bend(handler, kind, name):
        if name != digest:
            return False
        wanted = handler.headers.get("Range")
        begin = int(wanted[6:].split("-")[0]) if wanted else 0
        handler.send_response(206 if wanted else 200)
        handler.send_header("Content-Length", str(len(layer) - begin))
        if wanted:
            handler.send_header("Content-Range", f"bytes {begin}-{len(layer) - 1}/{len(layer)}")
        handler.end_headers()
        for at in range(begin, len(layer), 65536):
            piece = layer[at:at + 65536]
            handler.wfile.write(piece)
            sent[0] += len(piece)
            time.sleep(0.01)
        return True
    fake = registries.Fake(blobs, tags, bend)
    partial = os.path.join(w.instance.data_dir, "state/images/partial", f"{digest[7:]}.{len(layer)}")
    good = True
    with report.case(f"the daemon killed {times} times during pulls"):
        for i in range(times):
            thread = threading.Thread(target=lambda: ignore(lambda: pull(w.client, f"{fake.host}/death:1")))
            thread.start()
            mayfly.wait_until(lambda: os.path.exists(partial), 20)
            time.sleep(random.random() * 0.4)
            os.kill(w.instance.pid("mayflyd"), signal.SIGKILL)
            thread.join()
            w.instance.wait_ready()
            have = os.path.getsize(partial)
            good &= i == 0 or have > 0
        sent[0] = 0
        answer = run(w.client, f"{fake.host}/death:1", "sha256sum", "/noise")
        equal(answer.status, 201, answer)
        assert answer.json()["stdout"].startswith(mayfly.sha256(noise)), answer
        assert good and sent[0] <= len(layer) - have, (good, sent[0], have)
    fake.close()


def ignore(call):
    try:
        call()
    except Exception:  # noqa: BLE001: the connection dies with the daemon
        pass


def cancels(w):
    slow = mayfly.Archive().file("slow", random.Random(11).randbytes(1 << 20)).bytes()
    blobs = registries.Blobs()
    tags = {"1": blobs.image([w.system, slow])}
    gone = threading.Event()
    layer = "sha256:" + mayfly.sha256(slow)

    def bend(handler, kind, name):
        if name != layer:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(slow)))
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(bytes(500))
                time.sleep(0.1)
        except OSError:
            gone.set()
        return True
    fake = registries.Fake(blobs, tags, bend)
    with report.case("a pull ends with the last who wants it"):
        answer = run(w.client, f"{fake.host}/slow:1", wait=False)
        equal(answer.status, 202, answer)
        task = answer.json()["id"]
        assert mayfly.wait_until(lambda: fake.count("GET", layer), 20), fake.requests
        shown = w.client.get("/v1/images/pulls").json()["pulls"]
        equal([p["image"] for p in shown], [f"{fake.host}/slow:1"])
        equal(w.client.get("/v1/tasks/" + task).json()["status"], "pulling")
        w.client.request("POST", f"/v1/tasks/{task}/cancel")
        equal(w.client.get(f"/v1/tasks/{task}/wait?timeout=20").json()["status"], "killed")
        assert gone.wait(20), "the download goes on"
        equal(w.client.get("/v1/images/pulls").json()["pulls"], [])
    fake.close()


def bad(w):
    pull(w.client, f"{w.mirror.host}/none:1")  # what is made once is made

    def one(row):
        with report.case("misbehaviour: " + row[0]):
            misbehaviour.check(w, *row, pull)
    # Side by side: most of their time is waiting.
    with mayfly.Memory(w.instance) as memory, concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, misbehaviour.CASES))
    with report.case(f"misbehaviour: at most 64 MiB above idle, in all {len(misbehaviour.CASES)} ways"):
        assert len(misbehaviour.CASES) >= 60 and 0 < memory.peak - memory.idle <= 64 << 20, (memory.idle, memory.peak)
        print(f"# {memory.idle >> 10} KiB idle, {memory.peak >> 10} KiB at most")
    with report.case("misbehaviour: nothing is left of it"):
        equal([n for i in w.client.get("/v1/images").json()["images"] for n in i["names"] if "/bad" in n], [])
        equal(w.instance.client.get("/healthz").status, 200)
        assert w.instance.pid("mayflyd") == w.daemon, "the daemon was another one"


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class World:
    """What the groups share."""

    def __init__(self, directory):
        self.dir = directory
        self.certs = os.path.join(directory, "certs")
        os.mkdir(self.certs)
        os.chmod(directory, 0o755)
        self.open = []
        self.layout = make_layout(directory)
        self.system = mayfly.busybox().bytes()
        self.mirror = registries.Fake(registries.Blobs(), {})
        self.port = mayfly.free_port()
        self.instance = mayfly.Instance(
            "mf-registry", POOL, registries__enabled="true", images__max_layer_bytes="1g", registries__certs=self.certs, registries__stall="2s",
            registries__retries="2", registries__wait_max="3s", registries__proof="3s", listen=f"tcp://127.0.0.1:{self.port}",
            registries__mirrors=f"mirrored.invalid=http://127.0.0.1:1,mirrored.invalid=http://{self.mirror.host}/prefix")
        self.client = self.instance.client

    def registry(self, name, **how):
        r = registries.Registry(self.dir, name, **how)
        self.open.append(r)
        return r.start()

    def small_image(self):
        blobs = registries.Blobs()
        return blobs, {"1": blobs.image([self.system])}

    def close(self):
        for r in self.open:
            r.stop()
        self.mirror.close()


def main():
    pattern = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    mayfly.exclusive("registry")
    groups = [open_registry, htpasswd, tls, tokens, platforms, mirrors, cuts, deaths, cancels, bad]
    groups += [functools.partial(group, report=report) for module in (outcomes, credentials, roads, takeover, trust) for group in module.GROUPS]
    directory = tempfile.mkdtemp(prefix="mf-registry-", dir="/tmp")
    world = None
    try:
        world = World(directory)
        with world.instance:
            for group in groups:
                name = getattr(group, "func", group).__name__
                if not pattern.search(name):
                    continue
                world.daemon = world.instance.pid("mayflyd")
                try:
                    group(world)
                except mayfly.Skip as e:
                    report.skip(name, e)
                except Exception as e:  # noqa: BLE001: one group's fault is not the others'
                    report.not_ok(name, f"{type(e).__name__}: {e}")
    except mayfly.Skip as e:
        report.skip("registry", e)
    finally:
        if world:
            world.close()
        shutil.rmtree(directory, ignore_errors=True)
    report.exit()


if __name__ == "__main__":
    main()
