"""The others: each a context manager with run(); Skip where it is not on this machine."""

import json
import os
import shutil
import signal
import subprocess
import tempfile

import mayfly
from measure import Scope, machine


def need(name):
    path = shutil.which(name)
    if not path:
        raise mayfly.Skip(f"{name} is not installed")
    return path


class Peer:
    def __init__(self, bench):
        self.bench = bench
        self.scope = None

    def __enter__(self):
        try:
            self.setup()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.teardown()
        if self.scope:
            self.scope.close()
        self.scope = None

    def setup(self):
        pass

    def teardown(self):
        pass

    def exec(self, name, command, network, counts, flights=(1, 8)):
        """counts: tasks measured, and in a quick run."""
        count = counts[1] if self.bench.quick else counts[0]
        self.scope = self.scope or Scope(self.name)
        for flight in flights:
            arguments = ["exec", "-k", str(flight), "-n", str(count), "-w", str(max(1, count // 20)), "--", *command]
            self.bench.drive(name, arguments, flight, 1, network, scope=self.scope)


class Spawn(Peer):
    name = "spawn"

    def run(self):
        self.exec("posix_spawn, the floor", [os.path.join(self.bench.rootfs, "bin/busybox"), "true"], "host", (5000, 500))


class Bwrap(Peer):
    name = "bwrap"

    def setup(self):
        self.program = need("bwrap")

    def run(self):
        command = [self.program, "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", self.bench.rootfs, "/",
                   "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", "/bin/true"]
        self.exec("bwrap", command, "none", (1000, 100))


class Oci(Peer):
    """runc and crun: a bundle, one `run` a task."""

    def setup(self):
        self.program = need(self.name)
        self.bundle = os.path.join(self.bench.work, self.name)
        os.mkdir(self.bundle)
        subprocess.run([self.program, "spec"], cwd=self.bundle, check=True, stdout=subprocess.DEVNULL)
        path = os.path.join(self.bundle, "config.json")
        with open(path) as f:
            config = json.load(f)
        config["process"].update(terminal=False, args=["/bin/true"])
        config["root"] = {"path": self.bench.rootfs, "readonly": True}
        config["linux"].pop("cgroupsPath", None)
        with open(path, "w") as f:
            json.dump(config, f)
        self.base = [self.program, "--root", os.path.join(self.bench.work, self.name + "-state")]
        self.label = self.name

    def run(self):
        self.exec(self.label, [*self.base, "run", "--bundle", self.bundle, "mfbench-{}"], "none", (200, 20))


class Runc(Oci):
    name = "runc"


class Crun(Oci):
    name = "crun"

    def setup(self):
        super().setup()
        if self.first() == b"":
            return
        # crun refuses hybrid cgroups; some versions run without any.
        self.base.append("--cgroup-manager=disabled")
        self.label = "crun, without cgroups"
        why = self.first()
        if why:
            raise mayfly.Skip(why.decode().strip().splitlines()[-1])

    def first(self):
        done = subprocess.run([*self.base, "run", "--bundle", self.bundle, "mfbench-first"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        return done.stderr if done.returncode else b""


class Podman(Peer):
    """With a root of its own, so that nothing of the machine's podman is touched, and everything below our cgroup."""

    name = "podman"

    def setup(self):
        self.program = need("podman")
        self.root = os.path.join(self.bench.work, "podman")
        self.scope = Scope(self.name)
        # crun refuses hybrid cgroups, runc knows no --cgroups=disabled.
        v2 = machine()["cgroup"] == "v2"
        self.base = [self.program, "--root", self.root, "--runroot", self.root + "-run", "--tmpdir", self.root + "-tmp",
                     "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", need("crun" if v2 else "runc")]
        self.options = ["--cgroups", "disabled"] if v2 else ["--cgroups", "no-conmon", "--cgroup-parent",
                                                             "/" + self.scope.name + "/c"]
        subprocess.run([*self.base, "import", "-", "bench:1"], input=self.bench.rootfs_tar, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def run(self):
        # Its default limits lie above what a container that runs this benchmark may set.
        command = [*self.base, "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
                   *self.options, "bench:1", "true"]
        self.exec("podman run, none", command, "none", (30, 4), (1,))

    def teardown(self):
        if hasattr(self, "base"):
            for command in ("rm", "unmount"):
                subprocess.run([*self.base, command, "-fa"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            subprocess.run(["umount", os.path.join(self.root, "overlay")], stderr=subprocess.DEVNULL, check=False)


class Docker(Peer):
    """A dockerd of our own, in a mount and a network namespace of its own: its bridge and its rules are nobody else's."""

    name = "docker"
    namespaces = ("--mount", "--net")
    flags = ()

    def setup(self):
        dockerd = need("dockerd")
        self.docker = need("docker")
        self.dir = tempfile.mkdtemp(prefix="docker-", dir=self.bench.work)
        self.socket = os.path.join(self.dir, "s")
        self.scope = Scope(self.name)
        command = [dockerd, "--data-root", self.dir + "/data", "--exec-root", self.dir + "/exec", "--pidfile", self.dir + "/pid",
                   "--host", "unix://" + self.socket, "--cgroup-parent", "/" + self.scope.name + "/c", *self.flags]
        inside = "mount --make-rprivate / && mount -t tmpfs run /run && ip link set lo up && exec \"$@\""
        with open(self.dir + "/log", "wb") as log:
            self.process = subprocess.Popen(["unshare", *self.namespaces, "sh", "-c", inside, "sh", *command], stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                            preexec_fn=self.scope.enter)
        if not mayfly.wait_until(lambda: self.answers() or self.process.poll() is not None, 60, 0.2) or not self.answers():
            raise RuntimeError("dockerd does not start: " + mayfly.read(self.dir + "/log")[-600:])
        subprocess.run([self.docker, "-H", "unix://" + self.socket, "import", "-", "bench:1"], input=self.bench.rootfs_tar,
                       check=True, stdout=subprocess.DEVNULL)

    def answers(self):
        try:
            return mayfly.Client(self.socket, 5).get("/_ping").status == 200
        except OSError:
            return False

    def daemons(self):
        return [self.process.pid] + mayfly.descendants(self.process.pid)

    def run(self):
        self.bench.memory("docker, idle", self.daemons())
        base = [self.docker, "-H", "unix://" + self.socket, "run", "--rm"]
        self.exec("docker run, none", [*base, "--network", "none", "bench:1", "true"], "none", (30, 5), (1,))
        self.exec("docker run, bridge", [*base, "bench:1", "true"], "nat", (30, 5), (1,))
        for network, flight in (("none", 1), ("none", 8), ("bridge", 1), ("bridge", 8)):
            body = json.dumps({"Image": "bench:1", "Cmd": ["true"], "HostConfig": {"NetworkMode": network}})
            count = 5 if self.bench.quick else 40
            arguments = ["docker", "-s", self.socket, "-b", body, "-k", str(flight), "-n", str(max(count, flight)), "-w", "2"]
            self.bench.drive(f"Docker API, {network}", arguments, flight, 1, network, scope=self.scope)

    def teardown(self):
        process, self.process = getattr(self, "process", None), None
        if process is None:
            return
        known = [process.pid] + mayfly.descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in known:
            if mayfly.alive(pid):
                os.kill(pid, signal.SIGKILL)


ALL = (Docker, Podman, Runc, Crun, Bwrap, Spawn)
