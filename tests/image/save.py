#!/usr/bin/env python3
"""Archives of images, out and in, against the tools that people have: docker, skopeo, umoci, podman, buildah. As root.

    save.py             all
    save.py PATTERN     only groups whose names match
"""

import concurrent.futures
import contextlib
import hashlib
import http.client
import io
import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../lib"), HERE]
import mayfly  # noqa: E402
import rawtar  # noqa: E402

NAME, POOL = "mayfly-save", "10.198.0.0/16"
report = mayfly.Report()
SCRIPT = ["sh", "-c", "cat /etc/greeting; ls -l /bin/busybox | cut -c 1-10; sha256sum /noise | cut -c 1-16"]
MIB = 1 << 20


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise mayfly.Skip(f"{tool} is not installed")


def tool(*words, **more):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300, **more)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)[:200]}: {done.stdout.decode(errors='replace')[-500:]}")
    return done.stdout


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


# ── archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Archive:
    """What of an archive a loader looks at."""

    def __init__(self, data):
        self.data = data
        self.tar = tarfile.open(fileobj=io.BytesIO(data))
        self.names = self.tar.getnames()
        self.files = {m.name: m for m in self.tar.getmembers() if m.isfile()}

    def read(self, name):
        return self.tar.extractfile(self.files[name]).read()

    def json(self, name):
        return json.loads(self.read(name))

    def check(self):
        """Each blob is what its name says, nothing comes twice, and all that the index names is there."""
        equal(len(self.names), len(set(self.names)), "names that come twice")
        for name in self.files:
            if name.startswith("blobs/"):
                equal(hashlib.sha256(self.read(name)).hexdigest(), os.path.basename(name))
        equal(self.json("oci-layout"), {"imageLayoutVersion": "1.0.0"})
        index = self.json("index.json")
        equal((index["schemaVersion"], index["mediaType"]), (2, rawtar.OCI_INDEX))
        assert "blobs" in self.names and "blobs/sha256" in self.names, self.names
        wanted = set()
        for entry in index["manifests"]:
            manifest = self.json("blobs/" + entry["digest"].replace(":", "/"))
            wanted |= {entry["digest"], manifest["config"]["digest"], *[layer["digest"] for layer in manifest["layers"]]}
        equal({n for n in self.files if n.startswith("blobs/")}, {"blobs/" + d.replace(":", "/") for d in wanted})
        return self


def save(client, *refs, **params):
    query = urllib.parse.urlencode([("ref", r) for r in refs] + list(params.items()))
    return client.get("/v1/images/save?" + query)


def saved(client, *refs, **params):
    answer = save(client, *refs, **params)
    equal(answer.status, 200, answer)
    equal(answer.headers.get_content_type(), "application/x-tar")
    return answer.body


def load(client, data):
    answer = client.request("POST", "/v1/images/load", data, {"Content-Type": "application/x-tar"}, timeout=180)
    equal(answer.status, 201, answer)
    return answer.json()["images"]


def clear(client):
    for image in client.get("/v1/images").json()["images"]:
        client.request("DELETE", "/v1/images/" + image["digest"])


def image_of(client, ref):
    answer = client.get("/v1/images/" + urllib.parse.quote(ref, safe=""))
    equal(answer.status, 200, answer)
    return answer.json()


def facts(client, ref):
    """By what an image is known to be the same elsewhere."""
    image = image_of(client, ref)
    return image["config_digest"], image["layers"]


def output_of(client, ref):
    return client.run(ref, *SCRIPT, network="none")["out"].decode()


class Images:
    """Images with shared layers, of each compression."""

    def __init__(self):
        base = mayfly.busybox().file("etc/greeting", "base\n").bytes()
        noise = rawtar.tar(rawtar.file("noise", random.Random(7).randbytes(3 * MIB)))
        hello = rawtar.tar(rawtar.file("etc/greeting", b"hello\n"), rawtar.entry("etc/.wh.group"), rawtar.file("noise", b"no\n"))
        self.archive = {
            "plain": self.make([base, noise], ["save/plain:1", "save/plain:2"]),
            "gzip": self.make([base, noise, hello], ["save/gzip:1"], rawtar.gz, "+gzip"),
            "zstd": self.make([base, hello], ["registry.example:5000/save/zstd:1"], rawtar.zstd_frame, "+zstd"),
        }
        self.names = {"plain": "save/plain:1", "gzip": "save/gzip:1", "zstd": "registry.example:5000/save/zstd:1"}

    def make(self, layers, names, pack=None, suffix=""):
        layout = rawtar.Layout()
        conf = rawtar.config(layers, process={"Cmd": ["sh"], "Env": ["PATH=/bin"]}, created="2026-01-02T03:04:05Z")
        manifest = {"schemaVersion": 2, "mediaType": rawtar.OCI_MANIFEST, "annotations": {"org.example": "kept"},
                    "config": layout.blob(conf, rawtar.OCI_CONFIG),
                    "layers": [layout.blob(pack(x) if pack else x, rawtar.OCI_LAYER + suffix) for x in layers]}
        d = layout.blob(manifest, rawtar.OCI_MANIFEST)
        return layout.raw({"schemaVersion": 2, "manifests": [
            {**d, "annotations": {"org.opencontainers.image.ref.name": "docker.io/" + n if "." not in n else n}} for n in names]})

    def load(self, client, *which):
        for name in which or self.archive:
            load(client, self.archive[name])


# ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────────────


def form(w):
    c = w.client
    w.images.load(c)
    names = w.images.names
    with report.case("form: docker's and OCI's in one, blobs once, each as it was stored"):
        a = Archive(saved(c, names["plain"], names["gzip"])).check()
        entries = a.json("manifest.json")
        equal([e["RepoTags"] for e in entries], [["save/plain:1"], ["save/gzip:1"]])
        for name in [entries[0]["Config"], *entries[0]["Layers"], *entries[1]["Layers"]]:
            assert name in a.files, name
        equal({m.mtime for m in a.tar.getmembers()} | {m.uid for m in a.tar.getmembers()}, {0})
        equal(a.json("repositories").keys(), {"save/plain", "save/gzip"})
        kept = [json.loads(a.read(n)).get("annotations") for n in a.files if n.startswith("blobs/") and a.files[n].size < 2000
                and b"schemaVersion" in a.read(n)]
        equal(kept, [{"org.example": "kept"}] * 2)
    with report.case("form: --format oci is a layout alone"):
        a = Archive(saved(c, names["gzip"], format="oci")).check()
        assert "manifest.json" not in a.files and "repositories" not in a.files, a.names
    with report.case("form: a name without a tag is all of its tags, a digest has none"):
        a = Archive(saved(c, "save/plain")).check()
        equal(a.json("manifest.json")[0]["RepoTags"], ["save/plain:1", "save/plain:2"])
        a = Archive(saved(c, image_of(c, names["plain"])["digest"])).check()
        equal(a.json("manifest.json")[0]["RepoTags"], None)
        assert "annotations" not in a.json("index.json")["manifests"][0], a.json("index.json")
    with report.case("form: always the same bytes, of another store, too"):
        first = saved(c, *names.values())
        equal(saved(c, *names.values()), first)
        digests = {n: image_of(c, n)["digest"] for n in names.values()}
        clear(c)
        load(c, first)
        equal({n: image_of(c, n)["digest"] for n in names.values()}, digests)
        equal(hashlib.sha256(saved(c, *names.values())).hexdigest(), hashlib.sha256(first).hexdigest())
    with report.case("form: several images, packed by gzip and by zstd, are loaded again"):
        for pack in (rawtar.gz, rawtar.zstd_frame):
            clear(c)
            equal(len(load(c, pack(first))), 3)
            equal(output_of(c, names["zstd"]).splitlines()[0], "hello")
    with report.case("form: what manifest.json says otherwise than index.json is loaded as manifest.json says"):
        clear(c)
        a, parts = Archive(first), []
        for member in a.tar.getmembers():
            data = a.read(member.name) if member.isfile() else b""
            if member.name == "manifest.json":
                entries = a.json("manifest.json")
                entries[0]["Layers"], entries[0]["Config"] = entries[1]["Layers"], entries[1]["Config"]
                data = json.dumps(entries[:1]).encode()
            parts.append(rawtar.file(member.name, data) if member.isfile() else rawtar.directory(member.name))
        equal([i["names"] for i in load(c, rawtar.tar(*parts))], [["docker.io/save/plain:1"]])
        equal(output_of(c, "save/plain:1").splitlines()[0], "hello")


def refused(w):
    c = w.client
    w.images.load(c, "plain")
    for what, path, status in (("no image", "?ref=save/absent", 404), ("one of two is not there", "?ref=save/plain:1&ref=absent:1", 404),
                               ("no reference", "?ref=UPPER", 400), ("nothing named", "", 400), ("unknown form", "?ref=save/plain:1&format=x", 400),
                               ("what is part of Mayfly", "?ref=mayfly.internal/health:1", 403), ("a parameter too many", "?ref=save/plain:1&x=1", 400),
                               ("more than 256", "?" + "&".join(["ref=save/plain:1"] * 257), 400)):
        with report.case(f"refused: {what}"):
            answer = c.get("/v1/images/save" + path)
            equal(answer.status, status, answer)
    with report.case("refused: nothing but the head to HEAD"):
        answer = c.request("HEAD", "/v1/images/save?ref=save/plain:1")
        equal((answer.status, answer.body), (200, b""))
    with report.case("refused: to a key what it may not use"):
        port = w.port
        key = w.instance.key("task", "--image", "docker.io/other/*")
        equal(save(mayfly.NetClient(port, key), "save/plain:1").status, 404)
        equal(save(mayfly.NetClient(port, key), image_of(c, "save/plain:1")["digest"]).status, 404)
        for allowed in (w.instance.key("task", "--image", "docker.io/save/*"), w.instance.key("read"), w.instance.key("deploy")):
            Archive(saved(mayfly.NetClient(port, allowed), "save/plain")).check()


# ── while it goes out ────────────────────────────────────────────────────────────────────────────────────────────────


class Slow:
    """A client that reads when it is told to."""

    def __init__(self, path, query):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(path)
        self.sock.sendall(f"GET /v1/images/save?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        self.answer = http.client.HTTPResponse(self.sock)
        self.answer.begin()

    def read(self, n=None):
        return self.answer.read(n)

    def close(self):
        self.sock.close()
        self.answer.close()


def memory(pid, member):
    """VmRSS, or VmHWM: the most since forget_peak()."""
    return int(re.search(rf"^{member}:\s*(\d+)", mayfly.read(f"/proc/{pid}/status"), re.M)[1]) * 1024


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as f:
        f.write("5")


def side_by_side(w, k, rounds):
    """One client among several: loads, saves, removes. What went wrong."""
    rng, c = random.Random(k), w.client
    base = mayfly.busybox().bytes()
    for n in range(rounds):
        layers = [base] + [rawtar.tar(rawtar.file(f"f{k}", rng.randbytes(rng.choice([10, 300000])))) for _ in range(2)]
        tag = f"save/side{k}:{n % 2}"
        load(c, rawtar.saved(layers, tags=[tag]))
        Archive(saved(c, tag)).check()
        if rng.random() < 0.7:
            answer = c.request("DELETE", "/v1/images/" + urllib.parse.quote(tag, safe=""))
            equal(answer.status, 200, answer)


def meanwhile(w):
    c = w.client
    blobs = os.path.join(w.instance.data_dir, "state/images/blobs/sha256")
    big = rawtar.tar(rawtar.file("noise", random.Random(8).randbytes(1 * MIB) * 96))
    before = set(os.listdir(blobs))
    load(c, rawtar.saved([mayfly.busybox().bytes(), big], tags=["save/big:1"]))
    whole = saved(c, "save/big:1")
    with report.case("meanwhile: an image that is removed goes out whole, and then is gone"):
        slow = Slow(w.instance.socket, "ref=save/big:1")
        data = slow.read(MIB)
        equal(c.request("DELETE", "/v1/images/save%2Fbig:1").status, 200)
        equal(save(c, "save/big:1").status, 404)
        time.sleep(0.3)
        data += slow.read()
        slow.close()
        equal(hashlib.sha256(data).hexdigest(), hashlib.sha256(whole).hexdigest())
        # What was held goes with the next collection.
        load(c, w.images.archive["plain"])
        clear(c)
        assert mayfly.wait_until(lambda: set(os.listdir(blobs)) <= before), "blobs stay behind"
    pid = w.instance.pid("mayflyd")
    with report.case("meanwhile: an archive of 100 MB costs less than 16 MiB where it is loaded"):
        idle = memory(pid, "VmRSS")
        forget_peak(pid)
        load(c, whole)
        assert memory(pid, "VmHWM") < idle + 16 * MIB, f"{memory(pid, 'VmHWM') - idle} bytes more"
    with report.case("meanwhile: slow readers of 100 MB cost less than 16 MiB in all"):
        idle = memory(pid, "VmRSS")
        forget_peak(pid)
        readers = [Slow(w.instance.socket, "ref=save/big:1") for _ in range(16)]
        for reader in readers:
            reader.read(MIB)
        time.sleep(0.5)
        assert memory(pid, "VmHWM") < idle + 16 * MIB, f"{memory(pid, 'VmHWM') - idle} bytes more"
    with report.case("meanwhile: one more than may be at once is told to come again"):
        answer = save(c, "save/big:1")
        equal((answer.status, answer.json()["type"]), (503, "urn:mayfly:problem:busy"), answer)
    with report.case("meanwhile: clients that go leave nothing"):
        for reader in readers:
            reader.close()
        assert mayfly.wait_until(lambda: save(c, "save/big:1").status == 200), "still busy"
        deleted = f"{blobs}/"

        def held():
            fds = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
            return [f for f in fds if f.startswith(deleted)]
        assert mayfly.wait_until(lambda: not held()), held()
    with report.case("meanwhile: four clients load, save and remove side by side"):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for job in [pool.submit(side_by_side, w, k, 5) for k in range(4)]:
                job.result()
    with report.case("meanwhile: a damaged blob ends the archive, and the command leaves no file"):
        layer = max(os.listdir(blobs), key=lambda n: os.path.getsize(f"{blobs}/{n}"))
        with open(f"{blobs}/{layer}", "r+b") as f:
            f.seek(50 * MIB)
            f.write(b"damaged")
        with contextlib.suppress(http.client.IncompleteRead):
            data = save(c, "save/big:1").body
            raise AssertionError(f"{len(data)} bytes came as if they were all")
        out = os.path.join(w.dir, "damaged.tar")
        done = w.instance.cli("save", "-o", out, "save/big:1")
        assert done.returncode == 1 and done.stderr, done
        equal([n for n in os.listdir(w.dir) if n.startswith("damaged")], [])
        assert "is damaged" in w.instance.log_tail(), "the log does not say why"


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def command(w):
    w.images.load(w.client)
    out = os.path.join(w.dir, "out.tar")
    env = {**os.environ, "MAYFLY_HOST": "unix://" + w.instance.socket}
    with report.case("command: save to a file and to stdout, load -q"):
        equal(w.instance.cli("save", "-o", out, "save/plain:1", "save/gzip:1").returncode, 0)
        with open(out, "rb") as f:
            equal(w.instance.cli("save", "save/plain:1", "save/gzip:1").stdout, f.read())
        equal(os.stat(out).st_mode & 0o777, 0o666 & ~(umask := os.umask(0)))
        os.umask(umask)
        clear(w.client)
        done = w.instance.cli("load", "-q", out)
        equal(done.stdout.decode().splitlines(), ["loaded docker.io/save/plain:1", "loaded docker.io/save/gzip:1"], done)
        equal(done.stderr, b"")
    with report.case("command: JSON tells file and size"):
        equal(json.loads(w.instance.cli("save", "--json", "-o", out, "save/gzip:1").stdout), {"file": out, "bytes": os.path.getsize(out)})
    with report.case("command: a failure leaves what was there"):
        with open(out, "rb") as f:
            before = f.read()
        done = w.instance.cli("save", "-o", out, "save/absent:1")
        assert done.returncode == 1 and b"save/absent" in done.stderr, done
        with open(out, "rb") as f:
            equal(f.read(), before)
    with report.case("command: a pipe is written itself"):
        fifo = os.path.join(w.dir, "fifo")
        os.mkfifo(fifo)
        reader = subprocess.Popen(["sha256sum", fifo], stdout=subprocess.PIPE)
        equal(w.instance.cli("save", "-o", fifo, "save/gzip:1").returncode, 0)
        equal(reader.communicate()[0].decode().split()[0], hashlib.sha256(before).hexdigest())
    with report.case("command: no archive on a terminal, progress there is"):
        master, slave = pty.openpty()
        done = subprocess.run([mayfly.program("mayfly"), "save", "save/gzip:1"], stdout=slave, stderr=subprocess.PIPE, env=env, check=False)
        assert done.returncode == 1 and b"terminal" in done.stderr, done
        subprocess.run([mayfly.program("mayfly"), "save", "-o", out, "save/gzip:1"], stderr=slave, env=env, check=True)
        assert b"/s" in os.read(master, 4096)
        for fd in (master, slave):
            os.close(fd)
    with report.case("command: interrupted, it leaves no file"):
        load(w.client, rawtar.saved([rawtar.tar(rawtar.file("noise", random.Random(8).randbytes(MIB) * 64))], tags=["save/wide:1"]))
        target = os.path.join(w.dir, "interrupted.tar")
        # The server is held, so that there is time.
        pid = w.instance.pid("mayflyd")
        os.kill(pid, signal.SIGSTOP)
        try:
            running = subprocess.Popen([mayfly.program("mayfly"), "save", "-o", target, "save/wide:1"], stderr=subprocess.PIPE, env=env)
            assert mayfly.wait_until(lambda: [n for n in os.listdir(w.dir) if n.startswith("interrupted")])
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=30)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert running.returncode != 0
        equal([n for n in os.listdir(w.dir) if n.startswith("interrupted")], [])


# ── skopeo, umoci ────────────────────────────────────────────────────────────────────────────────────────────────────


def skopeo_facts(source):
    conf = tool("skopeo", "inspect", "--config", "--raw", source)
    return "sha256:" + hashlib.sha256(conf).hexdigest(), json.loads(conf)["rootfs"]["diff_ids"]


def skopeo(w):
    need("skopeo", "umoci")
    c = w.client
    w.images.load(c)
    out = os.path.join(w.dir, "skopeo.tar")
    names = w.images.names
    for kind, name in names.items():
        with report.case(f"skopeo: reads our archive of {kind} layers in both forms, and copies it"):
            for form_name in ("docker", "oci"):
                with open(out, "wb") as f:
                    f.write(saved(c, name, format=form_name))
                sources = ["oci-archive:" + out] + (["docker-archive:" + out] if form_name == "docker" else [])
                for source in sources:
                    equal(skopeo_facts(source), facts(c, name), source)
                    copied = tempfile.mkdtemp(dir=w.dir)
                    # From one form to the other it writes a configuration of its own.
                    to = f"{source.split('-')[0]}-archive:{copied}/tar:it:1"
                    tool("skopeo", "--insecure-policy", "copy", "-q", source, to)
                    equal(skopeo_facts(to), facts(c, name), "copied of " + source)
                    tool("skopeo", "--insecure-policy", "copy", "-q", source, f"oci:{copied}/oci:it")
                    equal(skopeo_facts(f"oci:{copied}/oci:it")[1], facts(c, name)[1], "copied of " + source)
                    if kind != "zstd":  # which Debian's umoci does not know
                        tool("umoci", "unpack", "--image", copied + "/oci:it", copied + "/bundle")
                        with open(copied + "/bundle/rootfs/etc/greeting", encoding="ascii") as f:
                            equal(f.read(), output_of(c, name).splitlines(True)[0])
                    shutil.rmtree(copied)
    with report.case("skopeo: picks one of several by its name"):
        with open(out, "wb") as f:
            f.write(saved(c, *names.values()))
        for kind, name in names.items():
            equal(skopeo_facts(f"docker-archive:{out}:{name}"), facts(c, name))
            whole = name if "example" in name else "docker.io/" + name
            equal(skopeo_facts(f"oci-archive:{out}:{whole}"), facts(c, name))
    with report.case("skopeo: what it and umoci archive is loaded"):
        layout = os.path.join(w.dir, "umoci")
        root = os.path.join(w.dir, "umoci-root")
        os.makedirs(root + "/d")
        with open(root + "/d/odd", "w", encoding="ascii") as f:
            f.write("x" * 700)  # umoci pads neither this nor the archive
        tool("umoci", "init", "--layout", layout)
        tool("umoci", "new", "--image", layout + ":1")
        with open(os.path.join(w.dir, "root.tar"), "wb") as f:
            f.write(mayfly.busybox().file("etc/greeting", "umoci\n").file("noise", "n").bytes())
        tool("tar", "-C", root, "-xf", os.path.join(w.dir, "root.tar"))
        tool("umoci", "insert", "--image", layout + ":1", root, "/")
        tool("umoci", "insert", "--image", layout + ":1", root + "/d/odd", "/odd")
        for kind in ("oci-archive", "docker-archive"):
            clear(c)
            path = os.path.join(w.dir, kind + ".tar")
            tool("skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:1", f"{kind}:{path}:save/umoci:1")
            with open(path, "rb") as f:
                equal([i["names"] for i in load(c, f.read())], [["docker.io/save/umoci:1"]])
            equal(output_of(c, "save/umoci:1").splitlines()[0], "umoci")
            equal(c.run("save/umoci:1", "wc", "-c", "/odd", "/d/odd")["out"].split()[::2], [b"700", b"700", b"1400"])
        clear(c)
        load(c, subprocess.run(["tar", "-C", layout, "-c", "."], stdout=subprocess.PIPE, check=True).stdout)


# ── docker ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Docker:
    """A dockerd of its own, that touches no network."""

    def __init__(self, directory):
        need("dockerd", "docker")
        mayfly.need_no_docker0()
        self.dir = os.path.join(directory, "docker")
        os.mkdir(self.dir)
        self.host = f"unix://{self.dir}/sock"
        with open(self.dir + "/config.json", "w", encoding="ascii") as f:
            f.write("{}")
        self.log = open(self.dir + "/log", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            ["dockerd", "--data-root", self.dir + "/data", "--exec-root", self.dir + "/exec", "--pidfile", self.dir + "/pid", "--host",
             self.host, "--storage-driver", "vfs", "--cgroup-parent", f"/{NAME}-docker", "--config-file", self.dir + "/config.json",
             "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"], stdout=self.log, stderr=self.log)
        if not mayfly.wait_until(lambda: self.call("version", check=False).returncode == 0, 60, 0.2):
            log = mayfly.read(self.dir + "/log")[-300:]
            self.close()
            raise mayfly.Skip("dockerd does not start here: " + log)

    def call(self, *words, check=True, stdin=None):
        done = subprocess.run(["docker", "-H", self.host, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=300, check=False)
        assert done.returncode == 0 or not check, f"docker {' '.join(words)}: {done.stderr.decode()[-400:]}"
        return done

    def facts(self, ref):
        image = json.loads(self.call("image", "inspect", ref).stdout)[0]
        return image["Id"], image["RootFS"]["Layers"]

    def run(self, ref, *words):
        return self.call("run", "--rm", "--network", "none", ref, *words).stdout.decode()

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        for mount in [line.split()[1] for line in mayfly.read("/proc/mounts").splitlines() if self.dir in line]:
            subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
        for top in mayfly.cgroup_dirs(NAME + "-docker"):
            for path, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)


def docker(w):
    c = w.client
    try:
        d = Docker(w.dir)
    except mayfly.Skip as e:
        report.skip("docker", e)
        return
    try:
        docker_cases(w, c, d)
    finally:
        d.close()


def docker_cases(w, c, d):
    w.images.load(c)
    names = w.images.names
    ran = {kind: output_of(c, name) for kind, name in names.items()}
    loadable = ["plain", "gzip"]
    with report.case("docker: loads several images of ours at once, the same that they were here, and runs them alike"):
        d.call("load", stdin=saved(c, *[names[k] for k in loadable]))
        for kind in loadable:
            equal(d.facts(names[kind]), facts(c, names[kind]))
            equal(d.run(names[kind], *SCRIPT), ran[kind])
    with report.case("docker: layers of zstd are read from version 23 on, and not before"):
        done = d.call("load", stdin=saved(c, names["zstd"]), check=False)
        version = d.call("version", "--format", "{{.Server.Version}}").stdout.decode()
        equal(done.returncode == 0, int(version.split(".")[0]) >= 23, done)
        if done.returncode == 0:
            equal(d.facts(names["zstd"]), facts(c, names["zstd"]))
    with report.case("docker: an image without a name, by digest"):
        d.call("rmi", "-f", names["plain"])
        out = d.call("load", stdin=saved(c, image_of(c, names["plain"])["digest"])).stdout.decode()
        assert facts(c, names["plain"])[0] in out, out
        d.call("tag", facts(c, names["plain"])[0], names["plain"])
    with report.case("docker: what it saves is loaded, several at once, with layers that they share"):
        here = {k: facts(c, names[k]) for k in loadable}
        archive = d.call("save", *[names[k] for k in loadable]).stdout
        clear(c)
        equal(sorted(n for i in load(c, archive) for n in i["names"]), sorted("docker.io/" + names[k] for k in loadable))
        for kind in loadable:
            equal(facts(c, names[kind]), here[kind])
            equal(output_of(c, names[kind]), ran[kind])
    with report.case("docker: there and back, and there again"):
        archive = saved(c, *[names[k] for k in loadable])
        for kind in loadable:
            d.call("rmi", "-f", names[kind])
        d.call("load", stdin=archive)
        equal({k: d.facts(names[k]) for k in loadable}, here)
    with report.case("docker: what it built is loaded and run"):
        with open(os.path.join(d.dir, "Dockerfile"), "w", encoding="ascii") as f:
            f.write(f"FROM {names['plain']}\nENV A=1\nLABEL b=2\nRUN echo built >/etc/greeting && mkdir -m 1770 /srv && ln /noise /srv/noise\n"
                    "WORKDIR /srv\nUSER 7:8\nCMD [\"sh\", \"-c\", \"id -u; pwd; cat /etc/greeting; echo $A; stat -c %a /srv\"]\n")
        d.call("build", "--network", "none", "-q", "-t", "save/built:1", "-f", os.path.join(d.dir, "Dockerfile"), os.path.join(HERE))
        theirs = d.run("save/built:1")
        load(c, d.call("save", "save/built:1").stdout)
        equal(facts(c, "save/built:1"), d.facts("save/built:1"))
        task = mayfly.decode(c.post({"image": "save/built:1", "network": "none"}).json())
        equal(task["out"].decode(), theirs)


# ── podman, buildah ──────────────────────────────────────────────────────────────────────────────────────────────────


def podman(w):
    c = w.client
    w.images.load(c)
    names = w.images.names
    root = os.path.join(w.dir, "podman")
    policy = os.path.join(w.dir, "policy.json")
    with open(policy, "w", encoding="ascii") as f:
        f.write('{"default": [{"type": "insecureAcceptAnything"}]}')
    flags = ["--root", root, "--runroot", root + "-run", "--storage-driver", "vfs"]
    with report.case("podman: loads ours, the same that they were here"):
        need("podman")
        out = os.path.join(w.dir, "podman.tar")
        for form_name in ("docker", "oci"):
            with open(out, "wb") as f:
                f.write(saved(c, names["gzip"], format=form_name))
            tool("podman", *flags, "load", "-q", "--signature-policy", policy, "-i", out)
            image = json.loads(tool("podman", *flags, "image", "inspect", "--format", "json", names["gzip"]))[0]
            equal(("sha256:" + image["Id"], image["RootFS"]["Layers"]), facts(c, names["gzip"]), form_name)
            if form_name == "docker":
                tool("podman", *flags, "rmi", "-f", names["gzip"])
    for kind in ("docker-archive", "oci-archive"):
        with report.case(f"podman: what it saves as {kind} is loaded"):
            need("podman")
            here, ran = facts(c, names["gzip"]), output_of(c, names["gzip"])
            with open(out, "wb") as f:
                f.write(tool("podman", *flags, "save", "-q", "--format", kind, names["gzip"]))
            c.request("DELETE", "/v1/images/" + urllib.parse.quote(names["gzip"], safe=""))
            with open(out, "rb") as f:
                load(c, f.read())
            equal(facts(c, names["gzip"]), here)
            equal(output_of(c, names["gzip"]), ran)
    with report.case("podman: several images in one archive"):
        need("podman")
        tool("podman", *flags, "tag", names["gzip"], "save/other:2")
        with open(out, "wb") as f:
            f.write(tool("podman", *flags, "save", "-q", "--multi-image-archive", names["gzip"], "save/other:2"))
        with open(out, "rb") as f:
            found = sorted(n for i in load(c, f.read()) for n in i["names"])
        assert "docker.io/save/gzip:1" in found and any("save/other:2" in n for n in found), found
    with report.case("buildah: what it makes is loaded"):
        need("buildah")
        path = os.path.join(w.dir, "buildah.tar")
        with open(path, "wb") as f:
            f.write(saved(c, names["gzip"], format="docker"))
        tool("buildah", *flags, "--signature-policy", policy, "from", "--name", "save-work", f"docker-archive:{path}")
        os.unlink(path)
        tool("buildah", *flags, "config", "--env", "BUILT=1", "save-work")
        tool("buildah", *flags, "--signature-policy", policy, "commit", "-q", "save-work", f"oci-archive:{path}:save/buildah:1")
        with open(path, "rb") as f:
            load(c, f.read())
        equal(c.run("save/buildah:1", "sh", "-c", "echo $BUILT")["out"], b"1\n")


GROUPS = [form, refused, meanwhile, command, skopeo, docker, podman]


class World:
    pass


def main():
    pattern = sys.argv[1] if len(sys.argv) > 1 else "."
    if os.geteuid() != 0 or not mayfly.users_exist():
        report.skip("save", "needs root and the users mayfly and mayfly-net")
        report.exit()
    mayfly.exclusive(NAME)
    w = World()
    w.dir = tempfile.mkdtemp(prefix="mayfly-save-", dir="/var/tmp")
    try:
        w.port = mayfly.free_port()
        w.images = Images()
        with mayfly.Instance(NAME, POOL, listen=f"http://127.0.0.1:{w.port}") as w.instance:
            w.client = w.instance.client
            for group in GROUPS:
                if re.search(pattern, group.__name__):
                    try:
                        group(w)
                    except mayfly.Skip as e:
                        report.skip(group.__name__, e)
                    clear(w.client)
            with report.case("it stops in order"):
                assert w.instance.stop(), w.instance.log_tail()
    finally:
        shutil.rmtree(w.dir, ignore_errors=True)
    report.exit()


if __name__ == "__main__":
    main()
