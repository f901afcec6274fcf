#!/usr/bin/env python3
"""Layers that are unpacked while they still come, and what must not come of that, on an instance of its own. As root.

    feed.py             all
    feed.py PATTERN     only cases whose names match
"""

import concurrent.futures
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../lib"), HERE]
sys.dont_write_bytecode = True
import mayfly  # noqa: E402
import registries  # noqa: E402

SIZE = 20 << 20
PIECE = 64 << 10
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

report = mayfly.Report("registry/feed: ")


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


def zstd(data):
    return subprocess.run(["zstd", "-q", "-1"], input=data, stdout=subprocess.PIPE, check=True).stdout


class Layer:
    """A large one of noise, as an image of one registry whose bytes a case can bend."""

    def __init__(self, world, name, compress=lambda x: gzip.compress(x, 1), kind="gzip"):
        self.world = world
        self.noise = random.Random(name).randbytes(SIZE)
        self.plain = mayfly.Archive().file("noise", self.noise).bytes()
        self.packed = compress(self.plain)
        blobs = registries.Blobs()
        manifest = json.loads(blobs.image([world.system, self.plain]))
        manifest["layers"][1] = blobs.descriptor(self.packed, "application/vnd.oci.image.layer.v1.tar+" + kind)
        self.digest = manifest["layers"][1]["digest"]
        self.diff_id = mayfly.sha256(self.plain)
        self.send = None
        self.asked = 0
        self.fake = registries.Fake(blobs, {"1": json.dumps(manifest).encode()}, self.bend)
        self.ref = f"{self.fake.host}/feed/{name}:1"

    def bend(self, handler, kind, name):
        if name != self.digest or not self.send:
            return False
        self.asked += 1
        return self.send(handler) is not False

    def head(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.packed)))
        handler.end_headers()

    def unpacked(self):
        return os.path.isdir(os.path.join(self.world.instance.data_dir, "store/layers", self.diff_id))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.fake.close()


class World:
    def __init__(self):
        self.system = mayfly.busybox().bytes()
        self.instance = mayfly.Instance("mayfly-feed", "10.147.0.0/16", registries__enabled="true", registries__stall="60s",
                                        registries__retries="2")

    def pull(self, layer, policy="always"):
        return self.instance.client.request("POST", "/v1/images/pull", {"image": layer.ref, "pull": policy}, timeout=120)

    def check(self, layer):
        """The image holds what was pushed."""
        task = self.instance.client.run(layer.ref, "sha256sum", "/noise", network="none")
        assert task["out"].startswith(mayfly.sha256(layer.noise).encode()), task

    def workers(self, kinds=("plain", "unpack")):
        """Those at work on layers; "plain": on compressed ones."""
        found = []
        for pid in mayfly.descendants(self.instance.process.pid):
            words = mayfly.read(f"/proc/{pid}/cmdline").split("\0")
            if words[0] == "mayfly-worker" and words[1] in kinds:
                found.append(pid)
        return found


CASES = []


def case(name):
    def add(run):
        CASES.append((name, run))
        return run
    return add


def while_it_comes(w, layer, at_end=lambda: None):
    """Sends three quarters at once, and the rest little by little; whether workers were at work before the last bytes."""
    seen = []

    def send(handler):
        layer.head(handler)
        at = len(layer.packed) * 3 // 4
        handler.wfile.write(layer.packed[:at])
        for begin in range(at, len(layer.packed) - PIECE, PIECE):
            handler.wfile.write(layer.packed[begin:begin + PIECE])
            seen.extend(w.workers(("plain",)))
            time.sleep(0.01)
        at_end()
        handler.wfile.write(layer.packed[begin + PIECE:])
    layer.send = send
    return seen


for name, compress in (("gzip", lambda x: gzip.compress(x, 1)), ("zstd", zstd)):
    @case(f"a layer is unpacked while it comes: {name}")
    def _(w, name=name, compress=compress):
        if not shutil.which(name):
            raise mayfly.Skip(f"no {name} here")
        with Layer(w, name, compress, name) as layer:
            seen = while_it_comes(w, layer)
            answer = w.pull(layer)
            equal(answer.status, 200, answer)
            assert len(set(seen)) == 1, f"workers before the end: {set(seen)}"
            w.check(layer)


def drops(handler, data, release):
    """Never silent for long; what was sent."""
    at = 0
    while not release.wait(0.1):
        handler.wfile.write(data[at:at + 512])
        at += 512
    return at


for name, drip in (("stop coming", None), ("drip", drops)):
    @case(f"bytes that {name} hold no places")
    def _(w, name=name, drip=drip):
        release, stopped = threading.Event(), threading.Event()
        with Layer(w, "slow" + name[:1]) as layer, Layer(w, "beside" + name[:1]) as beside, \
                concurrent.futures.ThreadPoolExecutor(1) as pool:
            def send(handler):
                layer.head(handler)
                handler.wfile.write(layer.packed[:SIZE // 2])
                stopped.set()
                sent = drip(handler, layer.packed[SIZE // 2:], release) if drip else 0
                assert release.wait(120)
                handler.wfile.write(layer.packed[SIZE // 2 + sent:])
            layer.send = send
            pulling = pool.submit(w.pull, layer)
            try:
                assert stopped.wait(30) and mayfly.wait_until(lambda: w.workers(("plain",)), 10, 0.002), "it was not begun"
                assert mayfly.wait_until(lambda: not w.workers(), 10), "workers wait for what does not come"
                equal(w.pull(beside).status, 200)
                assert not pulling.done()
            finally:
                release.set()
            answer = pulling.result()
            equal((answer.status, layer.asked), (200, 1), answer)
            w.check(layer)
            w.check(beside)


@case("another blob that holds the very layer counts for nothing")
def _(w):
    with Layer(w, "another") as layer:
        # The system that made it (RFC 1952, section 2.3): what it holds is the same.
        other = layer.packed[:9] + b"\1" + layer.packed[10:]
        right, layer.packed = layer.packed, other
        equal(gzip.decompress(other), layer.plain)
        seen = while_it_comes(w, layer)
        answer = w.pull(layer)
        assert answer.status >= 400 and "digest mismatch" in answer.json()["detail"], answer
        assert seen, "it was not begun"
        assert not layer.unpacked(), "the layer was kept"
        layer.packed, layer.send = right, None
        equal(w.pull(layer).status, 200)
        w.check(layer)


@case("a layer that is not what the image says")
def _(w):
    with Layer(w, "liar") as layer:
        manifest = json.loads(layer.fake.tags["1"])
        config = json.loads(layer.fake.blobs.blobs[manifest["config"]["digest"]])
        config["rootfs"]["diff_ids"][1] = "sha256:" + "1" * 64
        manifest["config"] = layer.fake.blobs.descriptor(json.dumps(config).encode(), manifest["config"]["mediaType"])
        layer.fake.tags["1"] = json.dumps(manifest).encode()
        seen = while_it_comes(w, layer)
        answer = w.pull(layer)
        assert answer.status >= 400 and "diff_id" in answer.json()["detail"], answer
        assert seen and not layer.unpacked()


@case("workers that die meanwhile cost nothing but time")
def _(w):
    with Layer(w, "killed") as layer:
        killed = []

        def kill():
            for pid in w.workers():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        while_it_comes(w, layer, kill)
        answer = w.pull(layer)
        equal(answer.status, 200, answer)
        assert killed, "nobody was at work"
        w.check(layer)


@case("cut while it is unpacked, it goes on")
def _(w):
    with Layer(w, "cut") as layer:
        def send(handler):
            if layer.asked > 1:
                return False
            handler.blob(layer.packed, len(layer.packed) * 3 // 4)
        layer.send = send
        answer = w.pull(layer)
        equal((answer.status, layer.asked), (200, 2), answer)
        w.check(layer)


@case("two images of one layer, at once")
def _(w):
    with Layer(w, "shared") as layer, concurrent.futures.ThreadPoolExecutor(2) as pool:
        while_it_comes(w, layer)
        layer.fake.tags["2"] = layer.fake.tags["1"]
        refs = [layer.ref, layer.ref[:-1] + "2"]
        answers = list(pool.map(lambda ref: w.instance.client.request("POST", "/v1/images/pull", {"image": ref}, timeout=120), refs))
        equal(([a.status for a in answers], layer.asked), ([200, 200], 1), answers)
        w.check(layer)


@case("who leaves first leaves it to the other")
def _(w):
    with Layer(w, "inherited") as layer, concurrent.futures.ThreadPoolExecutor(1) as pool:
        state = {}

        def leave():
            w.instance.client.request("POST", f"/v1/tasks/{state['task']}/cancel")
        while_it_comes(w, layer, leave)
        layer.fake.tags["2"] = layer.fake.tags["1"]
        made = w.instance.client.request("POST", "/v1/tasks", {"image": layer.ref, "cmd": ["true"], "wait": False})
        equal(made.status, 202, made)
        state["task"] = made.json()["id"]
        assert mayfly.wait_until(lambda: layer.asked, 30)
        other = layer.ref[:-1] + "2"
        answer = pool.submit(w.instance.client.request, "POST", "/v1/images/pull", {"image": other}, timeout=120).result()
        equal((answer.status, layer.asked), (200, 1), answer)
        layer.ref = other
        w.check(layer)


@case("who wants it no more takes the workers along")
def _(w):
    with Layer(w, "left") as layer:
        gone, begun = threading.Event(), threading.Event()

        def send(handler):
            layer.head(handler)
            handler.wfile.write(layer.packed[:SIZE // 2])
            try:
                for at in range(SIZE // 2, len(layer.packed), 512):
                    handler.wfile.write(layer.packed[at:at + 512])
                    begun.set()
                    time.sleep(0.001)
            except OSError:
                gone.set()
        layer.send = send
        made = w.instance.client.request("POST", "/v1/tasks", {"image": layer.ref, "cmd": ["true"], "wait": False})
        equal(made.status, 202, made)
        assert begun.wait(30) and mayfly.wait_until(lambda: w.workers(("plain",)), 10, 0.002), "it was not begun"
        w.instance.client.request("POST", f"/v1/tasks/{made.json()['id']}/cancel")
        assert gone.wait(30), "the download goes on"
        assert mayfly.wait_until(lambda: not w.workers(), 10), "workers go on"
        assert not layer.unpacked()
        assert mayfly.wait_until(lambda: not os.listdir(os.path.join(w.instance.data_dir, "store/tmp")), 20), "something is left"
        layer.send = None
        answer = w.pull(layer)
        equal(answer.status, 200, answer)
        w.check(layer)


def stop_amid_it(w):
    """In order, and the next daemon goes on with what is here."""
    with Layer(w, "stopped") as layer, concurrent.futures.ThreadPoolExecutor(1) as pool:
        ended = []

        def send(handler):
            layer.head(handler)
            handler.wfile.write(layer.packed[:SIZE // 2])
            for at in range(SIZE // 2, len(layer.packed), PIECE):
                if ended:
                    return
                handler.wfile.write(layer.packed[at:at + PIECE])
                time.sleep(0.02)
        layer.send = send
        pulling = pool.submit(w.pull, layer)
        assert mayfly.wait_until(lambda: w.workers(("plain",)), 20, 0.002), "it was not begun"
        clean = w.instance.stop()
        ended.append(True)
        pulling.exception()
        w.instance.start()
        assert clean, "not all ended in order"
        layer.send = None
        answer = w.pull(layer)
        equal(answer.status, 200, answer)
        w.check(layer)


def main():
    pattern = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    if os.geteuid() != 0:
        report.skip("all", "it starts containers: run it as root")
        return
    mayfly.exclusive("registry-feed")
    w = World()
    with w.instance:
        daemon = w.instance.pid("mayflyd")
        for name, run in CASES:
            if pattern.search(name):
                with report.case(name):
                    run(w)
        report.check("the daemon is the one that was started", w.instance.pid("mayflyd") == daemon)
        with report.case("a stop amid it"):
            stop_amid_it(w)


main()
report.exit()
