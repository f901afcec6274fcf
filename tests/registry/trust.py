"""Whom images must come from: signatures as cosign makes them, made here by openssl, and pinned digests."""

import base64
import contextlib
import json
import os
import subprocess
import tempfile
import threading

import mayfly
import registries

POOL = "10.239.0.0/16"
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


class Keys:
    """Pairs of keys as files; NAME.pub is what the daemon reads."""

    def __init__(self, directory):
        registries.need("openssl")
        self.dir = tempfile.mkdtemp(prefix="trust-keys-", dir=directory)
        os.chmod(self.dir, 0o755)
        for name, how in (("ec", ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]), ("other", ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
                          ("rsa", ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]), ("ed", ["ED25519"])):
            self.openssl("genpkey", "-quiet", "-algorithm", *how, "-out", self.path(name, "pem"))
            self.openssl("pkey", "-in", self.path(name, "pem"), "-pubout", "-out", self.path(name, "pub"))
            os.chmod(self.path(name, "pub"), 0o644)

    def path(self, name, kind):
        return os.path.join(self.dir, f"{name}.{kind}")

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def sign(self, name, payload):
        data, out = self.path("payload", "json"), self.path("payload", "sig")
        with open(data, "wb") as f:
            f.write(payload)
        if name == "ed":
            self.openssl("pkeyutl", "-sign", "-inkey", self.path(name, "pem"), "-rawin", "-in", data, "-out", out)
        else:
            self.openssl("dgst", "-sha256", "-sign", self.path(name, "pem"), "-out", out, data)
        with open(out, "rb") as f:
            return base64.b64encode(f.read()).decode()


def digest_of(data):
    return "sha256:" + mayfly.sha256(data)


def claim(repository, digest, **critical):
    """What cosign signs."""
    value = {"critical": {"identity": {"docker-reference": repository}, "image": {"docker-manifest-digest": digest},
                          "type": "cosign container image signature", **critical}, "optional": None}
    return json.dumps(value, separators=(",", ":")).encode()


class Signed:
    """A registry with one image and signatures of it."""

    def __init__(self, w, keys, seed, path="acme/app"):
        self.keys, self.path = keys, path
        self.blobs = registries.Blobs()
        self.noise = mayfly.Archive().file("seed", seed).bytes()
        self.image = self.blobs.image([w.system, self.noise])
        self.digest = self.blobs.add(self.image)
        self.referrers = {}  # digest: list of descriptors; None: the registry has no such API
        self.api = False
        self.fake = registries.Fake(self.blobs, {"1": self.image}, self.bend)
        self.name = f"{self.fake.host}/{path}"
        self.repository = self.name

    def bend(self, handler, kind, name):
        if kind != "referrers":
            return False
        if not self.api:
            handler.send(404, b"404 page not found", "text/plain")
        else:
            handler.send(200, self.list_of(name), INDEX)
        return True

    def list_of(self, digest):
        return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.referrers.get(digest, [])}).encode()

    def signature(self, payload, key="ec", base=None, blob=None, config="application/vnd.oci.image.config.v1+json", size=None):
        """The bytes of an artifact with one signature."""
        text = base if base is not None else self.keys.sign(key, payload)
        layer = self.blobs.descriptor(payload if blob is None else blob, LAYER)
        layer["size"] = size or layer["size"]
        layer["annotations"] = {"dev.cosignproject.cosign/signature": text}
        return json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": self.blobs.descriptor(b"{}", config),
                           "layers": [layer]}).encode()

    def tag(self, artifact, digest=None):
        self.fake.tags["sha256-" + (digest or self.digest)[7:] + ".sig"] = artifact

    def sign(self, key="ec", digest=None, repository=None):
        digest = digest or self.digest
        self.tag(self.signature(claim(repository or self.repository, digest), key), digest)

    def refer(self, key="ec", digest=None):
        digest = digest or self.digest
        artifact = self.signature(claim(self.repository, digest), key, config=ARTIFACT)
        entry = {**self.blobs.descriptor(artifact, OCI), "artifactType": ARTIFACT}
        self.referrers.setdefault(digest, []).append(entry)

    def downloads(self):
        return self.fake.count("GET", "/blobs/" + digest_of(self.noise))

    def close(self):
        self.fake.close()


@contextlib.contextmanager
def instance(w, keys, **config):
    i = mayfly.Instance("mf-trust", POOL, registries__enabled="true", registries__retries="1", registries__stall="2s",
                        trust__keys=keys.dir, **config)
    with i:
        yield i


def run(client, image, **members):
    return client.post({"image": image, "cmd": ["true"], "network": "none", **members})


def refused(answer, *words):
    problem = answer.json()
    equal((answer.status, problem.get("type")), (403, "urn:mayfly:problem:image_untrusted"), answer)
    for word in words:
        assert word in problem["detail"], (word, problem["detail"])


def signatures(w, report):
    keys = Keys(w.dir)
    world = [Signed(w, keys, f"one {i}") for i in range(4)]
    try:
        names = ",".join(f"{s.fake.host}/acme/*={key}" for s, key in zip(world, ("ec", "rsa", "ed", "ec")))
        with instance(w, keys, trust__signed=names) as i:
            for s, key in zip(world, ("ec", "rsa", "ed")):
                one_key(i.client, report, s, key)
            lies(i.client, report, world[3], keys)
            if i.pid("mayflyd"):
                report.ok("trust: the daemon is the same")
    finally:
        for s in world:
            s.close()


def one_key(client, report, s, key):
    image = f"{s.name}:1"
    with report.case(f"trust: {key}: without a signature it is refused, and nothing is downloaded"):
        answer = run(client, image)
        refused(answer, s.fake.host, key, s.digest)
        equal(client.get("/v1/tasks/" + answer.json()["task_id"]).json()["reason"], "image_untrusted")
        equal(s.downloads(), 0)
        refused(client.request("POST", "/v1/images/pull", {"image": image}), key)
        equal(client.get("/v1/images/" + image).status, 404)
    with report.case(f"trust: {key}: with a signature it runs"):
        s.sign(key)
        equal(run(client, image).status, 201)
        equal(run(client, f"{s.name}@{s.digest}", pull="always").status, 201)
    with report.case(f"trust: {key}: what is known to be good is not asked for again"):
        before = s.fake.count("GET", ".sig")
        equal(run(client, image).status, 201)
        equal(s.fake.count("GET", ".sig"), before)


def lies(client, report, s, keys):
    good = claim(s.repository, s.digest)
    other = digest_of(b"another")
    by_ec = keys.sign("ec", good)
    tampered = good.replace(b'"optional":null', b'"optional":{}')
    rows = {
        "a payload that was changed": (s.signature(tampered, base=by_ec), "another key, or"),
        "a payload that is not the blob it is called": (s.signature(good, blob=tampered, base=by_ec), "another key, or"),
        "another key": (s.signature(good, "other"), "another key, or"),
        "the signature of another image": (s.signature(claim(s.repository, other)), "another image"),
        "another repository": (s.signature(claim(s.fake.host + "/acme/other", s.digest)), "another repository"),
        "the repository of another registry": (s.signature(claim("docker.io/acme/app", s.digest)), "another repository"),
        "another tag": (s.signature(claim(s.repository + ":2", s.digest)), "another repository or tag"),
        "no repository": (s.signature(claim("", s.digest)), "another repository"),
        "another kind of claim": (s.signature(claim(s.repository, s.digest, type="atomic container signature")), "cannot be read"),
        "no claim": (s.signature(b"[]"), "cannot be read"),
        "an empty signature": (s.signature(good, base=""), "cannot be read"),
        "a signature that is no base64": (s.signature(good, base="!!!!"), "another key, or"),
        "a signature of 1 MiB": (s.signature(good, base="A" * (1 << 20)), "cannot be read"),
        "a payload of 1 MiB": (s.signature(good + b" " * (1 << 20)), "cannot be read"),
        "a payload of another size": (s.signature(good, size=5), "cannot be read"),
        "an artifact without layers": (json.dumps({"schemaVersion": 2, "config": {}}).encode(), "cannot be read"),
        "an artifact whose layers are none": (b'{"schemaVersion":2,"layers":5}', "cannot be read"),
        "10,000 signatures by others": (json.dumps({"schemaVersion": 2, "layers": json.loads(s.signature(good, "other"))["layers"] * 10000})
                                        .encode(), "of 32 there"),
    }
    for name, (artifact, words) in rows.items():
        with report.case(f"trust: refused: {name}"):
            s.tag(artifact)
            refused(run(client, f"{s.name}:1"), words)
            equal(s.downloads(), 0)
    with report.case("trust: refused: a payload whose bytes are others than its digest says"):
        s.sign()
        layer = json.loads(s.fake.tags["sha256-" + s.digest[7:] + ".sig"])["layers"][0]["digest"]
        s.blobs.blobs[layer], kept = b"x" * len(s.blobs.blobs[layer]), s.blobs.blobs[layer]
        refused(run(client, f"{s.name}:1"), "cannot be read")
        s.blobs.blobs[layer] = kept
    with report.case("trust: a signature's tag that leads to another image's"):
        second = s.blobs.image([s.noise])
        s.fake.tags["2"] = second
        s.tag(s.fake.tags["sha256-" + s.digest[7:] + ".sig"], digest_of(second))
        refused(run(client, f"{s.name}:2"), "another image")
    with report.case("trust: one good signature among others is enough"):
        artifact = json.loads(s.signature(good, "other"))
        artifact["layers"] += json.loads(s.signature(good))["layers"]
        s.tag(json.dumps(artifact).encode())
        equal(run(client, f"{s.name}:1").status, 201)


def places(w, report):
    """Where signatures are, and of what."""
    keys = Keys(w.dir)
    world = [Signed(w, keys, f"two {i}") for i in range(5)]
    api, fallback, index, child, crowd = world
    api.api = True
    try:
        with instance(w, keys, trust__signed="*=ec") as i:
            with report.case("trust: by the referrers API"):
                refused(run(i.client, api.name + ":1"), "there is none of " + api.digest)
                api.refer("other")
                refused(run(i.client, api.name + ":1"), "another key")
                api.refer()
                equal(run(i.client, api.name + ":1").status, 201)
            with report.case("trust: by the tag in place of the referrers API"):
                fallback.refer()
                fallback.fake.tags["sha256-" + fallback.digest[7:]] = fallback.list_of(fallback.digest)
                equal(run(i.client, fallback.name + ":1").status, 201)
            for s, what in ((index, "index"), (child, "manifest")):
                with report.case(f"trust: the {what} is signed, of an image for several platforms"):
                    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine)
                    entry = {**s.blobs.descriptor(s.image, OCI), "platform": {"os": "linux", "architecture": machine}}
                    top = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
                    s.fake.tags["multi"] = top
                    refused(run(i.client, s.name + ":multi"), digest_of(top), s.digest)
                    s.sign(digest=digest_of(top) if s is index else None)
                    equal(run(i.client, s.name + ":multi").status, 201)
            with report.case("trust: 20 tasks at once ask once"):
                crowd.sign()
                answers = [None] * 20

                def one(n):
                    answers[n] = run(i.client, crowd.name + ":1").status
                threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join()
                equal(answers, [201] * 20)
                equal((crowd.fake.count("GET", ".sig"), crowd.downloads()), (1, 1))
            with report.case("trust: what was imported has no signature, under no name"):
                i.load(w.system, api.name + ":imported")
                digest = i.client.get(f"/v1/images/{api.name}:imported").json()["digest"]
                for name in (api.name + ":imported", digest, digest[7:19], f"{api.name}@{digest}"):
                    refused(run(i.client, name, pull="never"), "there is none")
            with report.case("trust: health's own image is part of Mayfly"):
                equal(i.client.get("/v1/health?full=1").status, 200)
        with instance(w, keys, trust__signed="*=reject,docker.io/library/*=accept") as i:
            with report.case("trust: reject and accept"):
                i.load(w.system, "fine:1")
                equal(run(i.client, "fine:1").status, 201)
                refused(run(i.client, api.name + ":1"), "rejects *")
                equal(i.client.get("/v1/images/pulls").json()["pulls"], [])
    finally:
        for s in world:
            s.close()


def later(w, report):
    """A policy that comes when the image is here already; mirrors; restarts."""
    keys = Keys(w.dir)
    s, mirrored = Signed(w, keys, "three"), Signed(w, keys, "four")
    origin = registries.Fake(registries.Blobs(), {})
    mirrored.repository = origin.host + "/acme/app"
    image, away = s.name + ":1", mirrored.repository + ":1"
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine)
    entry = {**s.blobs.descriptor(s.image, OCI), "platform": {"os": "linux", "architecture": machine}}
    top = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    s.fake.tags["multi"] = top
    mirror = f"{origin.host}=http://{mirrored.fake.host}"
    try:
        i = mayfly.Instance("mf-trust", POOL, registries__enabled="true", registries__retries="0", registries__stall="2s",
                            registries__mirrors=mirror, trust__keys=keys.dir)
        with i:
            with report.case("trust: without a policy all is taken"):
                equal([run(i.client, n).status for n in (image, away, s.name + ":multi")], [201] * 3)
            restart(i, trust__signed=f"{s.fake.host}/acme/*=ec,{origin.host}/*=ec")
            digests = [i.client.get("/v1/images/" + n).json()["digest"] for n in (image, away)]
            with report.case("trust: a policy that comes later holds for what is here, by each of its names"):
                for n in (image, away, s.name + ":multi", digests[0], digests[0][7:19], f"{s.name}@{digests[0]}"):
                    refused(run(i.client, n))
                    refused(run(i.client, n, pull="never"))
            with report.case("trust: an image here whose index is signed"):
                s.sign(digest=digest_of(top))
                equal(run(i.client, s.name + ":multi").status, 201)
            with report.case("trust: what a mirror has is signed for its registry's name"):
                mirrored.sign(repository=mirrored.name)
                refused(run(i.client, away), "another repository")
                mirrored.sign()
                equal(run(i.client, away).status, 201)
            with report.case("trust: where the registry cannot say, that is the error"):
                kept, s.fake.bend = s.fake.bend, lambda h, kind, name: h.send(500) or True
                answer = run(i.client, image)
                equal((answer.status, answer.json()["type"]), (502, "urn:mayfly:problem:registry_error"), answer)
                s.fake.bend = kept
            with report.case("trust: what was good is so after a restart, without a question"):
                s.sign()
                equal(run(i.client, image).status, 201)
                mayfly.wait_until(lambda: image in mayfly.read(os.path.join(i.data_dir, "state/images/trust.json")))
                s.fake.bend = lambda h, kind, name: h.send(500) or True
                restart(i)
                equal(run(i.client, image).status, 201)
                s.fake.bend = kept
            with report.case("trust: another key under the same name is another policy"):
                os.rename(keys.path("ec", "pub"), keys.path("ec", "kept"))
                os.rename(keys.path("other", "pub"), keys.path("ec", "pub"))
                restart(i)
                refused(run(i.client, image), "another key")
                s.sign("other")
                equal(run(i.client, image).status, 201)
            with report.case("trust: a key that is not there trusts nothing, and the daemon serves"):
                os.unlink(keys.path("ec", "pub"))
                restart(i)
                refused(run(i.client, image), "cannot be read")
                assert "trust: key ec" in mayfly.read(i.log), "nothing is logged"
            with report.case("trust: a damaged memory is none"):
                os.rename(keys.path("ec", "kept"), keys.path("ec", "pub"))
                with open(os.path.join(i.data_dir, "state/images/trust.json"), "wb") as f:
                    f.write(b'{"policy":')
                s.sign()
                restart(i)
                equal(run(i.client, image).status, 201)
    finally:
        s.close()
        mirrored.close()
        origin.close()


def restart(i, **config):
    i.stop()
    i.config.update(config)
    i.start()


def pins(w, report):
    keys = Keys(w.dir)
    s = Signed(w, keys, "five")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine)
    entry = {**s.blobs.descriptor(s.image, OCI), "platform": {"os": "linux", "architecture": machine}}
    top = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    s.blobs.add(top)
    s.fake.tags["multi"] = top
    moved = s.blobs.image([s.noise])
    s.fake.tags["free"] = moved
    wrong = digest_of(b"x")
    pinned = f"{s.name}:1={s.digest},{s.name}:multi={digest_of(top)},{s.name}:bad={wrong}"
    try:
        with instance(w, keys, trust__pinned=pinned, trust__signed=f"{s.name}=ec") as i:
            with report.case("pins: the digest it is pinned to, without a signature"):
                equal(run(i.client, s.name + ":1").status, 201)
            with report.case("pins: the index it is pinned to"):
                equal(run(i.client, s.name + ":multi").status, 201)
            with report.case("pins: another digest is refused, and both are named"):
                s.fake.tags["bad"] = s.image
                refused(run(i.client, s.name + ":bad"), wrong, s.digest)
            with report.case("pins: another tag is under the rules"):
                refused(run(i.client, s.name + ":free"), "ec")
            with report.case("pins: a tag that moved"):
                s.fake.tags["1"] = moved
                equal(run(i.client, s.name + ":1").status, 201)
                refused(run(i.client, s.name + ":1", pull="always"), digest_of(moved), s.digest)
            with report.case("pins: an index here is found again after a restart"):
                path = os.path.join(i.data_dir, "state/images/trust.json")
                i.stop()
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                i.start()
                equal(run(i.client, s.name + ":multi").status, 201)
                restart(i, registries__enabled="false")
                equal(run(i.client, s.name + ":multi").status, 201)
    finally:
        s.close()


def real(w, report):
    """A signature that Debian's registry keeps, put there as cosign does: blobs, then the tag."""
    r = w.registry("signed")
    r.push(w.layout + ":1", "team/app:1")
    keys = Keys(w.dir)
    image = f"{r.host}/team/app:1"
    with instance(w, keys, trust__signed=f"{r.host}/team/*=ec") as i:
        with report.case("trust: Debian's registry, signed and not"):
            refused(run(i.client, image), "there is none of")
            digest = registry_request(r, "HEAD", "/v2/team/app/manifests/1", headers={"Accept": OCI}).headers["Docker-Content-Digest"]
            payload = claim(f"{r.host}/team/app", digest)
            for blob in (payload, b"{}"):
                where = registry_request(r, "POST", "/v2/team/app/blobs/uploads/").headers["Location"]
                where = where.partition(r.host)[2] or where
                registry_request(r, "PUT", where + "&digest=" + digest_of(blob), blob, {"Content-Type": "application/octet-stream"})
            artifact = {"schemaVersion": 2, "mediaType": OCI,
                        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2},
                        "layers": [{"mediaType": LAYER, "digest": digest_of(payload), "size": len(payload),
                                    "annotations": {"dev.cosignproject.cosign/signature": keys.sign("ec", payload)}}]}
            registry_request(r, "PUT", f"/v2/team/app/manifests/sha256-{digest[7:]}.sig", json.dumps(artifact).encode(),
                             {"Content-Type": OCI})
            equal(run(i.client, image).status, 201)


def registry_request(r, method, path, body=None, headers=None):
    answer = mayfly.NetClient(r.port).request(method, path, body, headers)
    assert answer.status < 300, (method, path, answer)
    return answer


GROUPS = [signatures, places, later, pins, real]
