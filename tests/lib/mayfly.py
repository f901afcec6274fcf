"""What the whole-program tests share: a client for the unix socket, instances of their own, archives, reports.

Tests that the runner starts find its instance by MAYFLY_HOST; those that kill or reconfigure make an Instance. Standard
library only.
"""

import base64
import contextlib
import fcntl
import grp
import hashlib
import http.client
import io
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("MAYFLY_BUILD", os.path.join(ROOT, "build")))
SLOW = float(os.environ.get("MAYFLY_SLOW", "1"))
# Who runs this by nohup or in the background of a script has them ignored, children inherit that, and ours keep to it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
PROGRAMS = ("mayfly-supervisor", "mayflyd", "mayfly-launcher", "mayfly-netd", "mayfly-dns", "mayfly-worker", "mayfly-init")


def program(name):
    """Path of one of our programs: in the build directory, or where it is installed."""
    places = [BUILD, os.path.join(BUILD, "../libexec/mayfly")]
    places += [p + "/libexec/mayfly" for p in ("/usr/local", "/usr")] + ["/usr/lib/mayfly", "/usr/local/bin", "/usr/bin"]
    for place in places:
        path = os.path.join(place, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return os.path.realpath(path)
    raise FileNotFoundError(f"{name}: not in {BUILD} and not installed")


# ── reports ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Report:
    """Prints one line per test, as the runner expects: ok, not ok, skip."""

    def __init__(self, prefix=""):
        self.prefix = prefix
        self.failed = 0
        self.passed = 0

    def ok(self, name):
        self.passed += 1
        print(f"ok - {self.prefix}{name}", flush=True)

    def not_ok(self, name, why):
        self.failed += 1
        print(f"not ok - {self.prefix}{name}: {' '.join(str(why).split())}", flush=True)

    def skip(self, name, reason):
        print(f"skip - {self.prefix}{name}: {reason}", flush=True)

    def check(self, name, good, why=""):
        if good:
            self.ok(name)
        else:
            self.not_ok(name, why or "it is not so")
        return good

    @contextlib.contextmanager
    def case(self, name):
        """An assertion or exception inside is the failure of this test, not of the script."""
        try:
            yield
        except Skip as e:
            self.skip(name, e)
        except Exception as e:  # noqa: BLE001: whatever a test raises is its failure
            self.not_ok(name, f"{type(e).__name__}: {e} (line {e.__traceback__.tb_next.tb_lineno})")
        else:
            self.ok(name)

    def exit(self):
        sys.exit(1 if self.failed else 0)


class Skip(Exception):
    pass


def need_no_docker0():
    """A dockerd without a bridge removes docker0 from its network when it starts, whosever that is."""
    if os.path.exists("/sys/class/net/docker0"):
        raise Skip("docker0 is there: another Docker without a bridge would remove it (stop yours, and `ip link del docker0`)")


# ── client ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Response:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


class Client:
    """One connection for each request: a daemon that is killed leaves no stale one behind."""

    def __init__(self, path, timeout=60):
        self.path = path
        self.timeout = timeout * SLOW

    def connect(self, timeout):
        return UnixConnection(self.path, timeout)

    def request(self, method, path, body=None, headers=None, timeout=None):
        connection = self.connect(timeout or self.timeout)
        try:
            headers = dict(headers or {})
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
                headers.setdefault("Content-Type", "application/json")
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def post(self, request, key=None, timeout=None):
        headers = {"Idempotency-Key": key} if key else {}
        return self.request("POST", "/v1/tasks", request, headers, timeout)

    def run(self, image, *cmd, key=None, **members):
        """Runs a task to its end and answers it as a dict; out and err hold the streams as bytes."""
        answer = self.post({"image": image, "cmd": list(cmd), **members}, key)
        if answer.status != 201:
            raise AssertionError(f"POST /v1/tasks: {answer}")
        return decode(answer.json())

    def get(self, path):
        return self.request("GET", path)

    def load(self, archive, ref):
        """Imports a root file system."""
        return self.request("POST", "/v1/images/import?ref=" + ref, archive, {"Content-Type": "application/x-tar"})


class NetClient(Client):
    """The API over TCP, with a key (`id:secret`) or without."""

    def __init__(self, port, key=None, timeout=60, scheme="Basic", host="127.0.0.1", tls=None):
        super().__init__(None, timeout)
        self.port, self.key, self.scheme, self.host, self.tls = port, key, scheme, host, tls

    def connect(self, timeout):
        if self.tls:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def authorization(self):
        if not self.key:
            return {}
        text = base64.b64encode(self.key.encode()).decode() if self.scheme == "Basic" else self.key
        return {"Authorization": f"{self.scheme} {text}"}

    def request(self, method, path, body=None, headers=None, timeout=None):
        return super().request(method, path, body, {**self.authorization(), **(headers or {})}, timeout)


def free_port():
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def decode(task):
    for stream, name in (("stdout", "out"), ("stderr", "err")):
        text = task.get(stream)
        if text is None:
            task[name] = None
        elif task.get(stream + "_encoding") == "base64":
            task[name] = base64.b64decode(text)
        else:
            task[name] = text.encode()
    return task


def runner_client():
    """The client of the runner's instance, or None outside of the runner."""
    host = os.environ.get("MAYFLY_HOST", "")
    return Client(host[len("unix://"):]) if host.startswith("unix://") else None


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(path, default=""):
    try:
        with open(path, "rb") as f:
            return f.read().decode(errors="replace")
    except OSError:
        return default


def stat_fields(pid):
    """/proc/PID/stat after the command's name: [state, ppid, …]; empty if it is gone."""
    text = read(f"/proc/{pid}/stat")
    return text[text.rindex(")") + 2:].split() if ")" in text else []


def all_pids():
    return [int(p) for p in os.listdir("/proc") if p.isdigit()]


def descendants(root):
    parents = {}
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields:
            parents.setdefault(int(fields[1]), []).append(pid)
    found, queue = [], [root]
    while queue:
        for child in parents.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def alive(pid):
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def exe_name(pid):
    """Name of the program; of one that runs from a sealed memfd, the memfd's."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).split(" ")[0].removeprefix("memfd:")
    except OSError:
        return ""


def wait_until(condition, seconds=30, step=0.02):
    """Polls; the last value. The bound only keeps a broken build from hanging; MAYFLY_SLOW is a factor for slow machines."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


def cgroup_dirs(name):
    """Every cgroup directory of that name, in each hierarchy."""
    found = []
    for top, dirs, _ in os.walk("/sys/fs/cgroup"):
        for d in list(dirs):
            if d == name:
                found.append(os.path.join(top, d))
                dirs.remove(d)
    return found


def cgroup_pids(name):
    """All processes in the cgroups of that name and below."""
    pids = set()
    for top in cgroup_dirs(name):
        for d, _, files in os.walk(top):
            if "cgroup.procs" in files:
                pids.update(int(p) for p in read(os.path.join(d, "cgroup.procs")).split())
    return pids


held_locks = []


def exclusive(name):
    """Waits until no other run of this test is on the machine: names and addresses are its own. Held until the process ends."""
    lock = open(f"/tmp/mayfly-{name}.lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    held_locks.append(lock)


# ── instances ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Instance:
    """A `mayfly serve` with directories, a name and a network of its own. Use as a context manager."""

    def __init__(self, name, pool, build=None, **config):
        self.name = name
        self.pool = pool
        self.build = build
        self.config = config
        self.dir = tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.run_dir = os.path.join(self.dir, "run")
        self.data_dir = os.path.join(self.dir, "data")
        self.log = os.path.join(self.dir, "log")
        self.socket = os.path.join(self.run_dir, "mayfly.sock")
        self.client = Client(self.socket)
        self.process = None

    def arguments(self):
        mayfly = os.path.join(self.build, "mayfly") if self.build else program("mayfly")
        # No test depends on what can be reached from here: those of registries bring one, and say so.
        config = {"data": self.data_dir, "run": self.run_dir, "name": self.name, "network.pool": self.pool,
                  "registries.enabled": "false"}
        config.update({k.replace("__", "."): v for k, v in self.config.items()})
        arguments = [mayfly, "serve"]
        for key, value in config.items():
            arguments += ["--" + key, str(value)]
        return arguments

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.arguments(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, env={**os.environ, "MAYFLY_HOST": ""})
        self.wait_ready()
        return self

    def ready(self):
        try:
            return self.client.request("GET", "/healthz", timeout=5 * SLOW).status == 200
        except OSError:
            return False

    def wait_ready(self, seconds=60):
        def state():
            return "ready" if self.ready() else "ended" if self.process.poll() is not None else None
        if wait_until(state, seconds, 0.05) != "ready":
            raise RuntimeError(f"mayfly serve does not serve; its log ends: {self.log_tail()}")

    def log_tail(self, n=1500):
        return read(self.log)[-n:]

    def pids(self):
        """{program: pid} of what the supervisor started, itself included."""
        found = {}
        for pid in [self.process.pid] + descendants(self.process.pid):
            name = exe_name(pid)
            if name in PROGRAMS and alive(pid):
                found.setdefault(name, pid)
        return found

    def pid(self, name):
        return wait_until(lambda: self.pids().get(name), 20)

    def cli(self, *arguments, stdin=None):
        mayfly = os.path.join(self.build, "mayfly") if self.build else program("mayfly")
        return subprocess.run([mayfly, *arguments], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env={**os.environ, "MAYFLY_HOST": "unix://" + self.socket}, check=False)

    def key(self, role, *flags):
        """A new key, `id:secret`."""
        made = self.cli("key", "create", "--role", role, *flags)
        if made.returncode:
            raise AssertionError(f"mayfly key create: {made.stderr.decode()}")
        return made.stdout.decode().strip()

    def load(self, archive, ref):
        answer = self.client.load(archive, ref)
        if answer.status not in (200, 201):
            raise AssertionError(f"import {ref}: {answer}")
        return answer

    def stop(self, seconds=60):
        """SIGTERM; true if all ended in order."""
        if self.process is None:
            return True
        known = [self.process.pid] + descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(seconds * SLOW)
            clean = self.process.returncode == 0
        except subprocess.TimeoutExpired:
            clean = False
            self.process.kill()
            self.process.wait()
        for pid in known:
            if alive(pid) and exe_name(pid) in PROGRAMS:
                clean = False
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self.process = None
        return clean

    def close(self):
        self.stop()
        report = re.search(r".*(Sanitizer|runtime error|Assertion).*", read(self.log))
        if report:
            print(f"not ok - {self.name}: a clean log: {report[0]}\n{self.log_tail(8000)}", flush=True)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()


def proportional(pid):
    """Bytes that a process holds: its share of each page (PSS); 0 where it is gone."""
    found = re.search(r"^Pss:\s+(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


class Memory:
    """What all processes of an instance hold, sampled from its idle state on."""

    def __init__(self, instance, step=0.05):
        self.instance, self.step, self.stop = instance, step, threading.Event()
        self.idle = self.peak = self.look()

    def look(self):
        root = self.instance.process.pid
        return sum(proportional(pid) for pid in [root] + descendants(root))

    def watch(self):
        while not self.stop.wait(self.step):
            self.peak = max(self.peak, self.look())

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def users_exist():
    try:
        pwd.getpwnam("mayfly"), pwd.getpwnam("mayfly-net"), pwd.getpwnam("mayfly-dns")
        return True
    except KeyError:
        return False


def mayfly_gid():
    return grp.getgrnam("mayfly").gr_gid


# ── archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Archive:
    """A root file system as a tar in memory."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)

    def _add(self, name, kind, mode, uid, gid, data=b"", target="", major=0, minor=0):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid = kind, mode, uid, gid
        info.size, info.linkname, info.mtime = len(data), target, 1700000000
        info.devmajor, info.devminor = major, minor
        self.tar.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)
        return self

    def dir(self, name, mode=0o755, uid=0, gid=0):
        return self._add(name, tarfile.DIRTYPE, mode, uid, gid)

    def file(self, name, data, mode=0o644, uid=0, gid=0):
        return self._add(name, tarfile.REGTYPE, mode, uid, gid, data if isinstance(data, bytes) else data.encode())

    def copy(self, name, path, mode=0o755):
        with open(path, "rb") as f:
            return self.file(name, f.read(), mode)

    def symlink(self, name, target):
        return self._add(name, tarfile.SYMTYPE, 0o777, 0, 0, target=target)

    def hardlink(self, name, target):
        return self._add(name, tarfile.LNKTYPE, 0o644, 0, 0, target=target)

    def device(self, name, kind, major, minor, mode=0o666):
        return self._add(name, tarfile.CHRTYPE if kind == "c" else tarfile.BLKTYPE, mode, 0, 0, major=major, minor=minor)

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


def busybox_path():
    path = shutil.which("busybox")
    if not path:
        raise Skip("no busybox here")
    return path


def busybox(links=True):
    """An archive with the machine's static busybox as /bin/busybox, its applets, passwd and group, to be added to."""
    a = Archive()
    path = busybox_path()
    a.dir("bin").dir("etc").dir("root", 0o700).dir("tmp", 0o1777).copy("bin/busybox", path)
    if links:
        for applet in subprocess.run([path, "--list"], stdout=subprocess.PIPE, check=True).stdout.decode().split():
            if applet != "busybox":
                a.symlink("bin/" + applet, "busybox")
    a.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    a.file("etc/group", "root:x:0:\nnogroup:x:65534:\n")
    return a


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def compile_c(sources, out, *flags):
    """Compiles a helper of the tests; Skip where there is no compiler (an installed system)."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise Skip("no C compiler here")
    sources = [sources] if isinstance(sources, str) else sources
    command = [compiler, "-std=gnu17", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", *flags, *sources, "-o", out]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout.decode()[-2000:])
    return out
