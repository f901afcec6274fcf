"""A dockerd of a test's own: its data, its socket, its control group, and a network namespace that ends with it. Needs
Debian's docker.io. Leaves nothing: what it mounted lies below its directory."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import mayfly

DOCKER = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"


def available():
    return shutil.which("dockerd") is not None


def mounts_below(directory):
    """Mount points below a directory, the innermost first."""
    points = [line.split()[4] for line in mayfly.read("/proc/self/mountinfo").splitlines()]
    return sorted((p for p in points if p.startswith(directory + "/")), reverse=True)


class Dockerd:
    """Use as a context manager. group: who may use its socket. network: "own", which reaches nothing outside, with a bridge for
    containers; "host", to reach registries of the test's, with none."""

    def __init__(self, name, group="mayfly", network="own"):
        self.name, self.group, self.network = name, group, network
        self.dir = tempfile.mkdtemp(prefix=f"{name}-docker-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.socket = os.path.join(self.dir, "docker.sock")
        self.host = "unix://" + self.socket
        self.log = os.path.join(self.dir, "log")
        self.process = None

    def start(self):
        arguments = ["unshare", "--net"] if self.network == "own" else []
        arguments += ["dockerd", "--data-root", f"{self.dir}/data", "--exec-root", f"{self.dir}/exec",
                     "--pidfile", f"{self.dir}/pid", "-H", self.host, "--group", self.group, "--iptables=false",
                     "--ip6tables=false", "--ip-masq=false", f"--cgroup-parent=/{self.name}-docker",
                      "--exec-opt", "native.cgroupdriver=cgroupfs"]
        arguments += [] if self.network == "own" else ["--bridge=none"]
        with contextlib.suppress(OSError):
            os.unlink(f"{self.dir}/pid")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)

        def state():
            if self.process.poll() is not None:
                return "ended"
            return "ready" if self.docker("version", check=False).returncode == 0 else None
        if mayfly.wait_until(state, 60, 0.1) != "ready":
            raise RuntimeError(f"dockerd does not serve; its log ends: {mayfly.read(self.log)[-1500:]}")
        return self

    def docker(self, *arguments, stdin=None, check=True):
        return subprocess.run([DOCKER, "-H", self.host, *arguments], input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=check)

    def load(self, archive, ref):
        """A root file system."""
        self.docker("import", "-", ref, stdin=archive)

    def containers(self):
        return self.docker("ps", "-aq").stdout.decode().split()

    def images(self):
        out = self.docker("images", "--format", "{{json .}}").stdout.decode()
        return [json.loads(line) for line in out.splitlines()]

    def stop(self, kill=False):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self.process.wait(60 * mayfly.SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def left(self):
        """Processes whose command lines name our directory: shims and containerd end a moment after dockerd."""
        needle = self.dir.encode()
        found = []
        for pid in mayfly.all_pids():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if needle in f.read() and pid != os.getpid():
                        found.append(pid)
        return found

    def close(self):
        self.stop()
        if not mayfly.wait_until(lambda: not self.left(), 5):
            for pid in self.left():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        for point in mounts_below(self.dir):
            subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)
        for top in mayfly.cgroup_dirs(f"{self.name}-docker"):
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()


class Native:
    """What a suite asks of either engine."""

    name, config = "native", {}

    def load(self, instance, archive, ref):
        instance.load(archive, ref)


class OverDocker:
    name = "docker"

    def __init__(self, docker):
        self.docker = docker
        self.config = {"engine": "docker", "docker-host": docker.host}

    def load(self, _instance, archive, ref):
        self.docker.load(archive, ref)


@contextlib.contextmanager
def engine_asked(name):
    """The engine that `--engine NAME` on the command line says, which is taken out of it: native, or docker with a dockerd of
    its own."""
    chosen = "native"
    if "--engine" in sys.argv:
        at = sys.argv.index("--engine")
        chosen = sys.argv[at + 1]
        del sys.argv[at:at + 2]
    if chosen == "native":
        yield Native()
    else:
        with Dockerd(name) as docker:
            yield OverDocker(docker)
