"""Ways in which a registry may misbehave. Each: the tag `bad` of a registry whose answers are bent; what must come of it is a
typed error (or an image, where the fault can be mended), soon, no wrong blob, and no token told to anybody else."""

import contextlib
import hashlib
import json
import os
import random
import socket
import struct
import subprocess
import threading
import time

import mayfly
import registries

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CANARY = ("canary", "c4n4ry-s3cr3t")
LIMIT = 60


class Case:
    """A registry with one image, `bad`, whose layer and manifest the case may bend."""

    def __init__(self, system, name):
        self.blobs = registries.Blobs()
        self.layer = mayfly.Archive().file("noise", random.Random(name).randbytes(600_000)).bytes()
        self.manifest = self.blobs.image([system, self.layer])
        self.tags = {"bad": self.manifest}
        self.digest = "sha256:" + hashlib.sha256(self.layer).hexdigest()
        self.bend = None
        self.fine = False          # the pull ends well in spite of it
        self.statuses = None       # those that are right; None: any error of 400 and more
        self.elsewhere = None      # a second server that may learn nothing
        self.raw = None            # in place of a registry: a function of a connected socket
        self.times = 0
        self.auth = None

    def layer_bend(self, function):
        self.bend = lambda h, kind, name: bool(name == self.digest and function(h) is not False)

    def manifest_bend(self, function):
        self.bend = lambda h, kind, name: bool(kind == "manifests" and name == "bad" and function(h) is not False)

    def edit(self, **changes):
        m = json.loads(self.manifest)
        m.update(changes)
        self.tags["bad"] = json.dumps(m).encode()

    def edit_layer(self, **changes):
        m = json.loads(self.manifest)
        m["layers"][1].update(changes)
        self.tags["bad"] = json.dumps(m).encode()


CASES = []


def case(name):
    def add(make):
        CASES.append((name, make))
        return make
    return add


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────

for part in (0, 1, 300_000, -1):
    @case(f"a layer always cut at {part}")
    def _(c, part=part):
        c.layer_bend(lambda h: h.blob(c.layer, part))
        c.fine = True if part == 300_000 else None if part == -1 else False


@case("a layer cut once is gone on with")
def _(c):
    def bend(h):
        c.times += 1
        if c.times > 1:
            return False
        h.blob(c.layer, 100_000)
    c.layer_bend(bend)
    c.fine = True


@case("a layer reset once is gone on with")
def _(c):
    def bend(h):
        c.times += 1
        if c.times > 1:
            return False
        h.send_response(200)
        h.send_header("Content-Length", str(len(c.layer)))
        h.end_headers()
        h.wfile.write(c.layer[:70_000])
        h.wfile.flush()
        reset(h.connection)
    c.layer_bend(bend)
    c.fine = True


@case("ranges are not known: the whole again")
def _(c):
    def bend(h):
        c.times += 1
        if c.times == 1:
            h.blob(c.layer, 100_000)
        else:
            h.send(200, c.layer)
    c.layer_bend(bend)
    c.fine = True


@case("another range than was asked for")
def _(c):
    def bend(h):
        c.times += 1
        if c.times == 1:
            h.blob(c.layer, 100_000)
        else:
            h.send(206, c.layer[5:], Content_Range=f"bytes 5-{len(c.layer) - 1}/{len(c.layer)}")
    c.layer_bend(bend)


@case("a range without saying which")
def _(c):
    def bend(h):
        c.times += 1
        h.blob(c.layer, 100_000) if c.times == 1 else h.send(206, c.layer[100_000:])
    c.layer_bend(bend)


@case("416 for a range")
def _(c):
    def bend(h):
        c.times += 1
        h.blob(c.layer, 100_000) if c.times == 1 else h.send(416)
    c.layer_bend(bend)


@case("a layer that changes between two tries")
def _(c):
    def bend(h):
        c.times += 1
        h.blob(c.layer, 100_000) if c.times == 1 else h.blob(bytes(len(c.layer)))
    c.layer_bend(bend)


@case("a layer with more bytes than it has")
def _(c):
    c.layer_bend(lambda h: h.send(200, c.layer + b"more"))


@case("a layer without end, of no said length")
def _(c):
    def bend(h):
        h.send_response(200)
        h.send_header("Connection", "close")
        h.end_headers()
        h.close_connection = True
        for _ in range(2000):
            h.wfile.write(bytes(65536))
    c.layer_bend(bend)


@case("a layer in chunks is fine")
def _(c):
    def bend(h):
        h.send_response(200)
        h.send_header("Transfer-Encoding", "chunked")
        h.end_headers()
        for at in range(0, len(c.layer), 9999):
            piece = c.layer[at:at + 9999]
            h.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        h.wfile.write(b"0\r\n\r\n")
    c.layer_bend(bend)
    c.fine = True


@case("chunks that are none")
def _(c):
    def bend(h):
        h.send_response(200)
        h.send_header("Transfer-Encoding", "chunked")
        h.end_headers()
        h.wfile.write(b"zz\r\nhello\r\n")
        h.close_connection = True
    c.layer_bend(bend)


for name, change in (("one byte is another", lambda x: b"\1" + x[1:]), ("zeros", lambda x: bytes(len(x))), ("empty", lambda x: b""),
                     ("JSON of an error", lambda x: b'{"errors":[]}'), ("a page", lambda x: b"<html>captive portal</html>")):
    @case(f"a layer's bytes are wrong: {name}")
    def _(c, change=change):
        c.layer_bend(lambda h: h.send(200, change(c.layer)))


for name, value in (("short", "5"), ("long", "99999999"), ("negative", "-1"), ("no number", "many"), ("huge", "9" * 30)):
    @case(f"a Content-Length that is {name}")
    def _(c, value=value):
        def bend(h):
            h.send(200, c.layer, Content_Length=value)
            h.close_connection = True
        c.layer_bend(bend)
        c.fine = None if value.startswith("9999999999") else False  # whoever takes it for none gets what is right


@case("two Content-Lengths")
def _(c):
    def bend(h):
        h.send_response(200)
        h.send_header("Content-Length", str(len(c.layer)))
        h.send_header("Content-Length", "10")
        h.end_headers()
        h.wfile.write(c.layer)
        h.close_connection = True
    c.layer_bend(bend)
    c.fine = None


@case("a layer that stalls")
def _(c):
    def bend(h):
        h.send_response(200)
        h.send_header("Content-Length", str(len(c.layer)))
        h.end_headers()
        h.wfile.write(c.layer[:5000])
        time.sleep(25)
        h.close_connection = True
    c.layer_bend(bend)


@case("a layer that drips")
def _(c):
    def bend(h):
        h.send_response(200)
        h.send_header("Content-Length", str(len(c.layer)))
        h.end_headers()
        for _ in range(60):
            h.wfile.write(b"x")
            time.sleep(0.4)
        h.close_connection = True
    c.layer_bend(bend)


# ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────────

for name, body in (("empty", b""), ("no JSON", b"hello"), ("an array", b"[]"), ("deep", b"[" * 5000), ("NUL", b"\0" * 100),
                   ("bad UTF-8", b'{"schemaVersion":2,"a":"\xff"}'), ("twice the same", b'{"schemaVersion":2,"schemaVersion":1}'),
                   ("schema 1", b'{"schemaVersion":1}'), ("schema 3", b'{"schemaVersion":3}'), ("null", b"null")):
    @case(f"a manifest that is {name}")
    def _(c, body=body):
        c.manifest_bend(lambda h: h.send(200, body, OCI))


@case("a manifest that drips")
def _(c):
    def bend(h):
        h.send_response(200)
        h.send_header("Content-Type", OCI)
        h.send_header("Content-Length", "1000")
        h.end_headers()
        for _ in range(100):
            h.wfile.write(b"      ")
            time.sleep(0.5)
        h.close_connection = True
    c.manifest_bend(bend)


@case("a manifest of 8 MiB")
def _(c):
    c.manifest_bend(lambda h: h.send(200, b" " * (8 << 20), OCI))


@case("a manifest without end")
def _(c):
    def bend(h):
        h.send_response(200)
        h.send_header("Content-Type", OCI)
        h.send_header("Connection", "close")
        h.end_headers()
        h.close_connection = True
        for _ in range(4000):
            h.wfile.write(b" " * 65536)
    c.manifest_bend(bend)


@case("a manifest that is an index, too")
def _(c):
    c.edit(manifests=[])


@case("a manifest whose type is another in the header")
def _(c):
    c.manifest_bend(lambda h: h.send(200, c.manifest, INDEX))


@case("a manifest of an unknown type")
def _(c):
    c.edit(mediaType="application/vnd.example")


@case("a manifest whose Docker-Content-Digest is another's")
def _(c):
    c.manifest_bend(lambda h: h.send(200, c.manifest, OCI, Docker_Content_Digest="sha256:" + "1" * 64))


@case("10,000 layers")
def _(c):
    m = json.loads(c.manifest)
    c.edit(layers=m["layers"] * 5000)


@case("no layers, no configuration")
def _(c):
    c.edit(layers=[], config={})


for name, changes in (("type is unknown", {"mediaType": "application/x-unknown"}), ("size is 0", {"size": 0}),
                      ("size is negative", {"size": -1}), ("size is huge", {"size": 1 << 60}), ("size is short", {"size": 1000}),
                      ("size is long", {"size": 10_000_000}), ("size is text", {"size": "5"}),
                      ("digest climbs", {"digest": "sha256:../../../../etc/passwd"}), ("digest is short", {"digest": "sha256:12"}),
                      ("digest is unknown", {"digest": "sha256:" + "0" * 64}), ("digest is md5", {"digest": "md5:" + "0" * 32}),
                      ("type is foreign", {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                                           "urls": ["http://169.254.169.254/"]})):
    @case(f"a layer whose {name}")
    def _(c, changes=changes):
        c.edit_layer(**changes)


@case("two layers for one diff_id")
def _(c):
    m = json.loads(c.manifest)
    c.edit(layers=m["layers"] + m["layers"][1:])


@case("layers that are swapped")
def _(c):
    m = json.loads(c.manifest)
    c.edit(layers=m["layers"][::-1])


@case("a configuration that is none")
def _(c):
    c.edit(config=c.blobs.descriptor(b"nothing", "application/vnd.oci.image.config.v1+json"))


@case("a configuration of 20 MiB")
def _(c):
    c.edit(config=c.blobs.descriptor(b" " * (20 << 20), "application/vnd.oci.image.config.v1+json"))


@case("an index that names an index")
def _(c):
    inner = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine)
    entry = {**c.blobs.descriptor(inner, INDEX), "platform": {"os": "linux", "architecture": machine}}
    c.tags["bad"] = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()


@case("an index that calls an index a manifest")
def _(c):
    inner = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    c.tags["bad"] = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [c.blobs.descriptor(inner, OCI)]}).encode()


@case("an index of 5,000 entries")
def _(c):
    entry = c.blobs.descriptor(c.manifest, OCI)
    c.tags["bad"] = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] * 5000}).encode()


@case("an index whose manifest has another size")
def _(c):
    entry = {**c.blobs.descriptor(c.manifest, OCI), "size": 5}
    c.tags["bad"] = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()


@case("a bomb: 10 GiB of zeros in a small layer")
def _(c):
    import gzip
    # 64 MiB of zeros, again and again: gzip members in a row are one stream.
    member = gzip.compress(bytes(64 << 20), 9)
    bomb = member * 160
    c.edit_layer(**c.blobs.descriptor(bomb, "application/vnd.oci.image.layer.v1.tar+gzip"))


@case("a bomb: 8 GiB of zeros in a layer of zstd")
def _(c):
    registries.need("zstd")
    # A frame of 64 MiB of zeros, again and again: frames in a row are one stream.
    frame = subprocess.run(["zstd", "-q", "-c"], input=bytes(64 << 20), stdout=subprocess.PIPE, check=True).stdout
    c.edit_layer(**c.blobs.descriptor(frame * 128, "application/vnd.oci.image.layer.v1.tar+zstd"))


# ── statuses and headers ─────────────────────────────────────────────────────────────────────────────────────────────

for status in (400, 402, 403, 404, 405, 406, 418, 500, 501, 502, 503, 504, 599, 204, 304):
    @case(f"a layer is answered with {status}")
    def _(c, status=status):
        c.layer_bend(lambda h: h.send(status))


@case("503 once")
def _(c):
    def bend(h):
        c.times += 1
        return h.send(503) if c.times == 1 else False
    c.layer_bend(bend)
    c.fine = True


@case("429 with Retry-After once is waited for")
def _(c):
    def bend(h):
        c.times += 1
        return h.send(429, Retry_After="1") if c.times == 1 else False
    c.manifest_bend(bend)
    c.fine = True


@case("429 for an hour is told at once, as 503 with Retry-After")
def _(c):
    c.manifest_bend(lambda h: h.send(429, Retry_After="3600"))
    c.statuses = (503,)


@case("headers without end")
def _(c):
    def bend(h):
        h.send_response(200)
        for i in range(20000):
            h.wfile.write(b"X-%d: %s\r\n" % (i, b"y" * 100))
        h.close_connection = True
    c.manifest_bend(bend)


# ── who is who ───────────────────────────────────────────────────────────────────────────────────────────────────────


@case("401 for ever")
def _(c):
    c.bend = lambda h, kind, name: h.send(401, WWW_Authenticate="Basic realm=x") or True
    c.auth = CANARY
    c.statuses = (403,)


@case("401 without a challenge")
def _(c):
    c.bend = lambda h, kind, name: h.send(401) or True
    c.auth = CANARY
    c.statuses = (403,)


@case("401 with a challenge that is none")
def _(c):
    c.bend = lambda h, kind, name: h.send(401, WWW_Authenticate='Bearer realm="x') or True
    c.auth = CANARY
    c.statuses = (403,)


@case("a token, and 401 all the same")
def _(c):
    def bend(h, kind, name):
        if h.path.startswith("/t"):
            h.send(200, b'{"token":"abc"}', "application/json")
        else:
            h.send(401, WWW_Authenticate=f'Bearer realm="http://{h.headers["Host"]}/t"')
        return True
    c.bend = bend
    c.auth = CANARY
    c.statuses = (403,)


for name, body in (("no JSON", b"x"), ("empty", b"{}"), ("with a line break", b'{"token":"a\\r\\nX-Evil: 1"}'), ("a number", b'{"token":5}'),
                   ("of 1 MiB", b'{"token":"' + b"a" * (1 << 20) + b'"}')):
    @case(f"a token that is {name}")
    def _(c, body=body):
        def bend(h, kind, token):
            if h.path.startswith("/t"):
                h.send(200, body, "application/json")
            else:
                h.send(401, WWW_Authenticate=f'Bearer realm="http://{h.headers["Host"]}/t"')
            return True
        c.bend = bend


@case("a realm elsewhere learns nothing")
def _(c):
    c.elsewhere = registries.Fake(c.blobs, c.tags, address="127.0.0.2")
    c.bend = lambda h, kind, name: h.send(401, WWW_Authenticate=f'Bearer realm="http://{c.elsewhere.host}/token"') or True
    c.auth = CANARY


for realm in ("file:///etc/passwd", "http://169.254.169.254/latest", "ftp://127.0.0.1/", "http://user:pw@127.0.0.1/", "//", "", "http://",
              "http://0x7f000001/", "https://2130706433/", "gopher://x"):
    @case(f"a realm of {realm or 'nothing'}")
    def _(c, realm=realm):
        c.bend = lambda h, kind, name: h.send(401, WWW_Authenticate=f'Bearer realm="{realm}"') or True
        c.auth = CANARY


def wants_basic(c, then):
    def bend(h, kind, name):
        if not h.headers.get("Authorization"):
            h.send(401, WWW_Authenticate="Basic realm=x")
            return True
        return then(h, kind, name)
    c.bend = bend
    c.auth = CANARY


@case("a layer elsewhere is fetched without credentials")
def _(c):
    c.elsewhere = registries.Fake(c.blobs, c.tags, address="127.0.0.2")
    wants_basic(c, lambda h, kind, name: name == c.digest and (h.send(307, Location=f"http://{c.elsewhere.host}/v2/x/blobs/{name}") or True))
    c.fine = True


@case("elsewhere, credentials are asked for")
def _(c):
    c.elsewhere = registries.Fake(c.blobs, c.tags, lambda h, kind, name: h.send(401, WWW_Authenticate="Basic realm=y") or True, address="127.0.0.2")
    wants_basic(c, lambda h, kind, name: name == c.digest and (h.send(307, Location=f"http://{c.elsewhere.host}/b/{name}") or True))


@case("redirects in a circle")
def _(c):
    c.layer_bend(lambda h: h.send(307, Location=h.path))


@case("redirects without end")
def _(c):
    c.bend = lambda h, kind, name: (kind == "blobs" or h.path.startswith("/r")) and (h.send(302, Location=f"/r{time.time_ns()}/x") or True)


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            return s.getsockname()[0]
        except OSError:
            return "127.0.0.1"


for where in ("file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://100.100.100.200/x", "ftp://127.0.0.1/x",
              "http://0.0.0.0/x", "http://[::ffff:169.254.169.254]/x", "http://2852039166/x", "http://user@127.0.0.1/x", "gopher://x/", "/\x01", "",
              "http://" + own_address() + ":22/x", "http://" + "a" * 9000 + "/"):
    @case(f"a redirect to {where[:40]!r}")
    def _(c, where=where):
        c.layer_bend(lambda h: h.send(307, Location=where))


@case("a redirect without Location")
def _(c):
    c.layer_bend(lambda h: h.send(307))


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@case("a connection that is reset")
def _(c):
    c.raw = reset


@case("a connection that is closed")
def _(c):
    c.raw = lambda s: s.close()


@case("garbage in place of HTTP")
def _(c):
    c.raw = lambda s: (s.recv(100), s.sendall(os.urandom(500)), s.close())


@case("garbage in place of TLS")
def _(c):
    c.raw = lambda s: (s.recv(100), s.sendall(b"\x16\x03\x03\x00\x05hello" * 50), s.close())


@case("a banner of SSH")
def _(c):
    c.raw = lambda s: (s.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), s.close())


@case("half a head")
def _(c):
    c.raw = lambda s: (s.recv(100), s.sendall(b"HTTP/1.1 200 OK\r\nContent-Le"), s.close())


@case("silence")
def _(c):
    c.raw = lambda s: time.sleep(20)


# ── the check ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Raw:
    """A server of connections, no matter what is said on them."""

    def __init__(self, function):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(16)
        self.host = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.function = function
        self.authorizations = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.one, args=(connection,), daemon=True).start()

    def one(self, connection):
        try:
            self.function(connection)
        except OSError:
            pass
        connection.close()

    def close(self):
        self.socket.close()


def check(w, name, make, pull):
    c = Case(w.system, name)
    make(c)
    server = Raw(c.raw) if c.raw else registries.Fake(c.blobs, c.tags, c.bend)
    image = f"{server.host}/some/bad:bad"
    begun = time.monotonic()
    try:
        answer = pull(w.client, image, c.auth)
    finally:
        server.close()
        if c.elsewhere:
            c.elsewhere.close()
    took = time.monotonic() - begun
    assert took < LIMIT * mayfly.SLOW, f"it took {took:.0f} s"
    if c.elsewhere:
        assert not c.elsewhere.authorizations, c.elsewhere.authorizations
    if c.fine is None:
        pass
    elif c.fine:
        assert answer.status == 200, answer
    else:
        problem = answer.json()
        assert answer.status in (c.statuses or (400, 403, 404, 422, 502, 503, 507)), answer
        assert server.host in problem["detail"], answer
        assert CANARY[1] not in answer.body.decode(errors="replace"), answer
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) > 0, answer.headers
    whole(w)
    if answer.status == 200:
        w.client.request("DELETE", "/v1/images/" + image)


def whole(w):
    """Every blob has the bytes that its name says."""
    top = os.path.join(w.instance.data_dir, "state/images/blobs/sha256")
    for entry in os.listdir(top):
        path = os.path.join(top, entry)
        with contextlib.suppress(FileNotFoundError):  # another case's image that goes
            if len(entry) != 64 or os.path.getsize(path) >= (8 << 20):
                continue
            with open(path, "rb") as f:
                assert hashlib.sha256(f.read()).hexdigest() == entry, f"blob {entry} is wrong"
