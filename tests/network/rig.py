"""A network of its own for tests that change one: a namespace in which Mayfly, Docker and resolvers run as on a host, and a
second one behind it that plays the outside world. Nothing of the machine changes.

    tasks ── "host": the namespace of this process ── up0 ── "world": PUBLIC serves HTTP
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from dockerd import mounts_below  # noqa: E402
from mayfly import Instance, busybox, cgroup_pids, read, wait_until  # noqa: E402

PUBLIC = "203.0.113.7"
UPLINK = "198.51.100.2"
POOL = "10.219.0.0/16"
FORWARDER = "10.219.0.1"
NAME = "mfnet" + str(os.getpid() % 10000)


def run_inside(case):
    """Runs one case of this script in a network and a mount namespace of its own; its exit code."""
    return subprocess.run(["unshare", "--net", "--mount", sys.executable, sys.argv[0], case], check=False,
                          env={**os.environ, "MAYFLY_NETWORK_INSIDE": "1"}).returncode


def is_inside():
    return "MAYFLY_NETWORK_INSIDE" in os.environ


def sh(text, check=True, timeout=60):
    done = subprocess.run(["sh", "-ec", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"{text}: exit code {done.returncode}: {done.stdout.decode()[-800:]}")
    return done.stdout.decode() if check else done.returncode


class Rig:
    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.dir = tempfile.mkdtemp(prefix=NAME + "-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.stack.callback(self.remove)
        self.resolvers_made, self.running = 0, []
        self.resolv = os.path.join(self.dir, "resolv.conf")

    def remove(self):
        for point in mounts_below(self.dir):  # dockerd binds its data to itself
            sh(f"umount -l {point}", False)
        sh(f"rm -rf {self.dir}")

    def __enter__(self):
        try:
            sh("ip link set lo up; echo 0 >/proc/sys/net/ipv4/ip_forward")
            world = self.spawn(["unshare", "--net", "sleep", "3600"])
            host = os.readlink("/proc/self/ns/net")
            wait_until(lambda: os.readlink(f"/proc/{world.pid}/ns/net") != host)
            self.world = f"nsenter -t {world.pid} -n "
            sh(f"ip link add up0 type veth peer name w0 netns {world.pid}; ip addr add {UPLINK}/24 dev up0\n"
               f"ip link set up0 up; {self.world} ip link set lo up; {self.world} ip addr add {PUBLIC}/32 dev lo\n"
               f"{self.world} ip addr add 198.51.100.1/24 dev w0; {self.world} ip link set w0 up\n"
               "ip route add default via 198.51.100.1")
            os.mkdir(self.dir + "/www")
            with open(self.dir + "/www/index.html", "w", encoding="utf-8") as f:
                f.write("the outside world\n")
            self.spawn([*self.world.split(), sys.executable, "-m", "http.server", "-d", self.dir + "/www", "--bind",
                        PUBLIC, "8080"])
            assert wait_until(lambda: sh(f"curl -fs -m 2 http://{PUBLIC}:8080/", check=False) == 0), "no outside world"
            self.resolvers("nameserver 192.0.2.53\n")
            # A private copy, so that what follows a link or replaces the file stays in here.
            sh("touch /etc/resolv.conf; mount --make-rprivate /; "
               f"mount --bind {self.resolv} /etc/resolv.conf")
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def spawn(self, argv, **how):
        log = open(os.path.join(self.dir, "log"), "ab")  # noqa: SIM115
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **how)
        log.close()
        self.stack.callback(end, process)
        return process

    def resolvers(self, text):
        with open(self.resolv, "w", encoding="utf-8") as f:
            f.write(text)

    def instance(self):
        return Mayfly(NAME, POOL)


def fetch(address):
    """For busybox, whose static wget looks for libraries that an image of its own does not have."""
    return f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 8080"


def end(process, how=signal.SIGTERM):
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Mayfly(Instance):
    def start(self):
        super().start()
        self.load(busybox().bytes(), "busybox:net")
        return self

    def task(self, script, network="nat"):
        return self.client.run("busybox:net", "sh", "-c", script, network=network, limits={"timeout": "60s"})

    def reaches(self, address, network="nat"):
        """Whether the HTTP server at its port 8080 answers."""
        return b"200 OK" in self.task(fetch(address), network)["out"]

    @contextlib.contextmanager
    def inside(self, network="nat"):
        """A prefix for commands that enters the network of a task, while that sleeps."""
        known = cgroup_pids(self.name)
        answer = self.client.request("POST", "/v1/tasks", {"image": "busybox:net", "cmd": ["sleep", "300"], "network": network,
                                                           "wait": False})
        assert answer.status == 202, answer

        def sleeper():
            return [p for p in cgroup_pids(self.name) - known if read(f"/proc/{p}/cmdline") == "sleep\0" "300\0"]
        pids = wait_until(sleeper)
        assert pids, "no task runs"
        try:
            yield f"nsenter -t {pids[0]} -n "
        finally:
            self.client.request("POST", f"/v1/tasks/{answer.json()['id']}/cancel")

    def says(self, text, seconds=30):
        return wait_until(lambda: text in read(self.log), seconds, 0.1)


def pause(seconds):
    time.sleep(seconds)
