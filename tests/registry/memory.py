#!/usr/bin/env python3
"""What all processes together hold while an image of many large layers is pulled, on an instance of its own. As root.

    memory.py
"""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../lib"), HERE]
sys.dont_write_bytecode = True
import mayfly  # noqa: E402
import registries  # noqa: E402

ABOVE_IDLE = 64 << 20
LAYERS = 12
SIZE = 12 << 20
SAMPLE_S = 0.01

report = mayfly.Report("registry/memory: ")


def pss(pids):
    """Bytes; what several share is divided among them."""
    return sum(int(line.split()[1]) << 10 for pid in pids for line in mayfly.read(f"/proc/{pid}/smaps_rollup").splitlines()
               if line.startswith("Pss:"))


class Peak(threading.Thread):
    def __init__(self, instance):
        super().__init__(daemon=True)
        self.root, self.ended = instance.process.pid, threading.Event()
        self.idle = self.peak = self.hold()
        self.workers = 0

    def hold(self):
        return pss([self.root] + mayfly.descendants(self.root))

    def run(self):
        while not self.ended.wait(SAMPLE_S):
            self.workers += any(mayfly.exe_name(p) == "mayfly-worker" for p in mayfly.descendants(self.root))
            self.peak = max(self.peak, self.hold())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


def layers():
    for i in range(LAYERS):
        noise = random.Random(i)
        a = mayfly.busybox() if i == 0 else mayfly.Archive()
        for k in range(SIZE >> 20):
            # Half of it compresses.
            a.file(f"layer{i}-{k}", noise.randbytes(1 << 19) + bytes(1 << 19))
        yield a.bytes()


def zstd(data):
    # 8 MiB of window, what `zstd -19` takes.
    return subprocess.run(["zstd", "-q", "-3", "--zstd=wlog=23"], input=data, stdout=subprocess.PIPE, check=True).stdout


def image(blobs, compress, kind):
    plain = list(layers())
    packed = [blobs.descriptor(compress(x), "application/vnd.oci.image.layer.v1.tar+" + kind) for x in plain]
    return json.dumps({**json.loads(blobs.image(plain)), "layers": packed}).encode()


def pull(instance, ref):
    answer = instance.client.request("POST", "/v1/images/pull", {"image": ref}, timeout=300)
    assert answer.status == 200, answer


def main():
    if os.geteuid() != 0:
        report.skip("all", "it starts containers: run it as root")
        return
    mayfly.exclusive("registry-memory")
    blobs, tags = registries.Blobs(), {}
    tags["gzip"] = image(blobs, lambda x: gzip.compress(x, 1), "gzip")
    if shutil.which("zstd"):
        tags["zstd"] = image(blobs, zstd, "zstd")
    fake = registries.Fake(blobs, tags)
    with mayfly.Instance("mayfly-pullmem", "10.146.0.0/16", registries__enabled="true") as instance:
        for tag in ("gzip", "zstd"):
            with report.case(f"{LAYERS} layers of {SIZE >> 20} MiB, {tag}: at most {ABOVE_IDLE >> 20} MiB above idle"):
                if tag not in tags:
                    raise mayfly.Skip("no zstd here")
                with Peak(instance) as peak:
                    pull(instance, f"{fake.host}/big/layers:{tag}")
                above = peak.peak - peak.idle
                assert peak.workers > 0, "no worker was seen at work"
                assert above <= ABOVE_IDLE, f"{above / (1 << 20):.1f} MiB above {peak.idle / (1 << 20):.1f}"
                task = instance.client.run(f"{fake.host}/big/layers:{tag}", "sh", "-c", "ls / | grep -c layer", network="none")
                assert task["out"].strip() == str(LAYERS * (SIZE >> 20)).encode(), task
    fake.close()


main()
report.exit()
