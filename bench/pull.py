"""Pulls side by side: one large layer and many small ones, gzip and zstd, from docker-registry on loopback.

Each contender brings the same image from nothing to a root file system, in rounds that take turns, each time with an empty
store. Nothing is deleted until the end: ext4 makes files slowly where others were deleted within the last minute or two. What they
make durable on the way is their own affair; before each pull the machine has written all that waits.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import mayfly
import peers
import pull_images
from measure import Scope, cpu_of
from pull_images import MB

sys.path.append(os.path.join(mayfly.ROOT, "tests", "registry"))
import registries  # noqa: E402

SHAPES = {"large": (1, 300 * MB), "small": (30, 10 * MB), "fresh": (4, 25 * MB)}
QUICK_SHAPES = {"large": (1, 100 * MB), "small": (30, 4 * MB), "fresh": (4, 25 * MB)}
NAMES = {"large": "one large layer", "small": "30 small layers", "fresh": "100 MB, to the first task"}
MEASURED = [(shape, compression) for shape in ("large", "small") for compression in pull_images.COMPRESSIONS]
ROUNDS = 3
SPACE = 30 * 1000 * MB  # on /tmp
SAMPLE_S = 0.01
FASTER = 1.5
ABOVE_IDLE_MB = 64 * 1.048576


def call(command, scope):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          preexec_fn=scope.enter if scope else None, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}…: {done.stdout.decode(errors='replace').strip()[-300:]}")


class Ours:
    name = "mayfly"

    def __init__(self, _):
        self.instances = []

    def start(self):
        mayfly.program("mayflyd")
        return self

    def fresh(self):
        if self.instances:
            self.instance.stop()
        self.instances.append(mayfly.Instance("mfpull", "10.144.0.0/16", registries__enabled="true"))
        self.instance.start()

    @property
    def instance(self):
        return self.instances[-1]

    def close(self):
        for instance in self.instances:
            instance.close()

    def pids(self):
        return [self.instance.process.pid] + mayfly.descendants(self.instance.process.pid)

    def cpu(self):
        """The command that waits is a child of ours."""
        return cpu_of(self.pids()) + os.times().children_user + os.times().children_system

    def command(self, *arguments):
        return [mayfly.program("mayfly"), "--host", "unix://" + self.instance.socket, *arguments]

    def pull(self, ref):
        call(self.command("pull", "-q", ref), None)

    def first_task(self, ref):
        call(self.command("run", "--network", "none", ref, "true"), None)


class Skopeo:
    """umoci knows no zstd: there each layer is unpacked by the programs that do."""

    name = "skopeo and umoci"

    def __init__(self, bench):
        self.bench = bench
        self.scope = None

    def start(self):
        registries.need("skopeo", "umoci", "zstd", "tar")
        self.scope = Scope("skopeo")
        return self

    def fresh(self):
        self.dir = tempfile.mkdtemp(prefix="skopeo-", dir=self.bench.work)

    def close(self):
        if self.scope:
            self.scope.close()

    def cpu(self):
        return self.scope.cpu()

    def pull(self, ref):
        layout = os.path.join(self.dir, "layout")
        call(["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "docker://" + ref, f"oci:{layout}:1"],
             self.scope)
        if ref.endswith("gzip"):
            call(["umoci", "unpack", "--image", layout + ":1", os.path.join(self.dir, "bundle")], self.scope)
            return
        root = os.path.join(self.dir, "root")
        os.mkdir(root)
        for layer in peers_layers(layout):
            call(["tar", "--zstd", "-xpf", layer, "-C", root], self.scope)


def peers_layers(layout):
    def blob(digest):
        return os.path.join(layout, "blobs", *digest.split(":"))

    def parse(path):
        return mayfly.json.loads(mayfly.read(path))

    manifest = parse(blob(parse(os.path.join(layout, "index.json"))["manifests"][0]["digest"]))
    return [blob(layer["digest"]) for layer in manifest["layers"]]


class Docker(peers.Docker):
    """In the host's network, where the registry is, but without a bridge and rules."""

    name = "docker pull"
    namespaces = ("--mount",)
    flags = ("--bridge", "none", "--iptables=false", "--ip-forward=false")

    def start(self):
        registries.need("dockerd", "docker")
        mayfly.need_no_docker0()
        return self

    def fresh(self):
        self.__exit__()
        self.__enter__()

    def close(self):
        self.__exit__()

    def cpu(self):
        return self.scope.cpu()

    def command(self, *arguments):
        return [self.docker, "-H", "unix://" + self.socket, *arguments]

    def pull(self, ref):
        call(self.command("pull", "-q", ref), self.scope)

    def first_task(self, ref):
        call(self.command("run", "--rm", "--network", "none", ref, "true"), self.scope)


def pss_of(pids):
    """MB of memory; what several share is divided among them. A process that has gone counts for nothing."""
    total = 0
    for pid in pids:
        for line in mayfly.read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total * 1024 / MB


class Peak(threading.Thread):
    """The most that all processes of ours together hold while the block runs."""

    def __init__(self, ours):
        super().__init__(daemon=True)
        self.ours, self.ended = ours, threading.Event()
        self.idle = pss_of(ours.pids())
        self.peak, self.samples = self.idle, 0

    def run(self):
        while not self.ended.is_set():
            self.peak = max(self.peak, pss_of(self.ours.pids()))
            self.samples += 1
            self.ended.wait(SAMPLE_S)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


class Pull:
    name = "pull"

    def __init__(self, bench):
        self.bench = bench
        self.times = {}
        self.contenders = []
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            self.setup()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def setup(self):
        directory = os.path.join(self.bench.work, "pull")
        os.mkdir(directory)
        self.stack.callback(shutil.rmtree, directory, True)
        registries.need("docker-registry", "skopeo")
        if shutil.disk_usage(self.bench.work).free < SPACE:
            raise mayfly.Skip(f"it wants {SPACE // MB // 1000} GB on /tmp")
        self.images = pull_images.make(directory, QUICK_SHAPES if self.bench.quick else SHAPES)
        self.registry = registries.Registry(directory, "registry").start()
        self.stack.callback(self.registry.stop)
        for (shape, compression), image in self.images.items():
            self.registry.push(f"{image.directory}:{image.tag}", f"bench/{shape}:{compression}")
            shutil.rmtree(image.directory)
        for contender in (Ours, Skopeo, Docker):
            try:
                self.contenders.append(contender(self.bench).start())
                self.stack.callback(self.contenders[-1].close)
            except (mayfly.Skip, RuntimeError) as e:
                self.bench.skip(contender.name, str(e))

    def ref(self, shape, compression):
        return f"{self.registry.host}/bench/{shape}:{compression}"

    def once(self, contender, shape, compression, action):
        what = f"{contender.name}, {NAMES[shape]}, {compression}"
        if what in self.bench.skipped:
            return
        contender.fresh()
        os.sync()
        cpu, begin = contender.cpu(), time.monotonic()
        try:
            action(self.ref(shape, compression))
        except RuntimeError as e:
            self.bench.skip(what, str(e))
            return
        wall, cpu = time.monotonic() - begin, contender.cpu() - cpu
        self.times.setdefault((contender.name, shape, compression), []).append((wall, cpu))
        print(f"{what:50} {wall:7.2f} s {cpu:7.2f} s of CPU", flush=True)

    def run(self):
        for r in range(ROUNDS):
            for shape, compression in MEASURED:
                # Who comes first changes, so that nobody always follows the same.
                for i in range(len(self.contenders)):
                    c = self.contenders[(i + r) % len(self.contenders)]
                    self.once(c, shape, compression, c.pull)
            for c in self.contenders:
                if hasattr(c, "first_task"):
                    self.once(c, "fresh", "gzip", c.first_task)
        for (name, shape, compression), times in self.times.items():
            self.row(name, shape, compression, times)
        self.memory()

    def row(self, name, shape, compression, times):
        image = self.images[shape, compression]
        wall, cpu = (statistics.median(t[i] for t in times) for i in range(2))
        row = {"name": name, "shape": shape, "compression": compression, "packed_mb": image.packed / MB,
               "unpacked_mb": image.unpacked / MB, "entries": image.entries, "rounds": len(times), "wall_s": wall,
               "fastest_s": min(t[0] for t in times), "cpu_s": cpu, "packed_mb_s": image.packed / MB / wall,
               "unpacked_mb_s": image.unpacked / MB / wall}
        self.bench.pulls.append(row)

    def memory(self):
        """Apart from the rounds: looking takes time."""
        ours = next((c for c in self.contenders if c.name == "mayfly"), None)
        for shape, compression in MEASURED if ours else ():
            ours.fresh()
            with Peak(ours) as peak:
                ours.pull(self.ref(shape, compression))
            self.bench.pull_memory.append({"shape": shape, "compression": compression, "idle_mb": peak.idle,
                                           "peak_mb": peak.peak, "samples": peak.samples})


def goals(bench, goal):
    """`goal` as bench/run has it: text, value, limit, whether more is better."""
    for shape, compression in MEASURED:
        walls = {r["name"]: r["wall_s"] for r in bench.pulls if (r["shape"], r["compression"]) == (shape, compression)}
        ours, others = walls.pop("mayfly", None), list(walls.values())
        if ours and others:
            goal(f"pull, {NAMES[shape]}, {compression}: times faster than the fastest other, at least", min(others) / ours,
                 FASTER, True)
    for m in bench.pull_memory:
        goal(f"pull, {NAMES[m['shape']]}, {m['compression']}: peak memory above idle, MB, at most", m["peak_mb"] - m["idle_mb"],
             ABOVE_IDLE_MB)


def print_table(bench):
    if not bench.pulls:
        return
    print(f"\n{'pull':36} {'':>6} {'packed':>7} {'unpacked':>8} {'':>7} {'wall':>7} {'CPU':>7} {'packed':>8} {'unpacked':>9}")
    print(f"{'':36} {'':>6} {'MB':>7} {'MB':>8} {'files':>7} {'s':>7} {'s':>7} {'MB/s':>8} {'MB/s':>9}")
    for r in sorted(bench.pulls, key=lambda r: (r["shape"], r["compression"], r["name"])):
        print(f"{r['name'] + ', ' + NAMES[r['shape']]:36.36} {r['compression']:>6} {r['packed_mb']:>7.0f} {r['unpacked_mb']:>8.0f} "
              f"{r['entries']:>7} {r['wall_s']:>7.2f} {r['cpu_s']:>7.2f} {r['packed_mb_s']:>8.1f} {r['unpacked_mb_s']:>9.1f}")
    for m in bench.pull_memory:
        print(f"mayfly, {NAMES[m['shape']]}, {m['compression']}: {m['idle_mb']:.1f} MB idle, at most {m['peak_mb']:.1f} MB "
              f"({m['peak_mb'] - m['idle_mb']:+.1f})")
