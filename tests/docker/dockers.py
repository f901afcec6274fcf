"""A Docker daemon, a Podman service, and the engine between them and us: private, and gone with the test, whatever becomes of it."""

import base64
import contextlib
import http.client
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
sys.path.insert(0, os.path.join(top, "tests/lib"))
import mayfly  # noqa: E402

IMAGE = "conformance:1"
CHANGES = ('CMD ["/bin/helper", "exit", "42"]', "ENV FROM_IMAGE=yes", "ENV OVERRIDDEN=no")
# Where Docker, Podman and their networks write whatever they are told.
HIDDEN = ("/run", "/var/lib/cni", "/var/lib/containers", "/var/lib/docker")
build = os.environ.get("MAYFLY_BUILD", os.path.join(top, "build"))


def enter():
    """Goes on in namespaces of its own: with its end all processes, mounts and links end. Answers a directory of its own."""
    if not os.environ.get("MAYFLY_DOCKER_TEST"):
        if os.geteuid() or not shutil.which("dockerd"):
            print("skip - docker: needs root and Debian's docker.io")
            sys.exit(0)
        directory = tempfile.mkdtemp(prefix="mayfly-dockers.")
        name = "mfd" + directory[-6:].lower().replace("_", "x")
        status = 1
        made = [d for d in HIDDEN if not os.path.isdir(d)]
        for d in made:
            os.mkdir(d)
        try:
            status = subprocess.call(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c",
                                      '"$@"; exit $?', "init", sys.executable, *sys.argv], env={**os.environ, "MAYFLY_DOCKER_TEST": directory, "MAYFLY_DOCKER_NAME": name})
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            for d in made:
                with contextlib.suppress(OSError):
                    os.rmdir(d)
            # Podman's parent is of a name of its own: only what is empty goes.
            cgroups = [d for d, _, _ in os.walk("/sys/fs/cgroup", topdown=False) if f"/{name}" in d or "/libpod_parent" in d]
            for d in cgroups:
                with contextlib.suppress(OSError):
                    os.rmdir(d)
        left = [d for d in cgroups if os.path.isdir(d) and f"/{name}" in d]
        left += [line for line in mayfly.read("/proc/self/mountinfo").splitlines() if directory in line]
        if left:
            print(f"not ok - nothing is left of Docker: {left[:5]}")
        sys.exit(1 if left else status)
    for d in HIDDEN:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", d], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return os.environ["MAYFLY_DOCKER_TEST"], os.environ["MAYFLY_DOCKER_NAME"]


def image_tar(directory):
    """busybox and the helper of the conformance suite."""
    path = os.path.join(directory, "image.tar")
    if not os.path.exists(path):
        archive = mayfly.busybox()
        archive.copy("bin/helper", os.path.join(build, "tests/conformance/conformance-helper"))
        with open(path, "wb") as f:
            f.write(archive.bytes())
    return path


def records(directory):
    """What the driver has written down of containers, without the node's number."""
    return [name for name in os.listdir(os.path.join(directory, "records")) if not name.startswith(".")]


class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path, timeout=60):
        super().__init__("docker", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Engine:
    """What answers on a socket of Docker's."""

    socket = None
    process = None

    def call(self, method, path, body=None, timeout=60, headers=None):
        connection = UnixHTTP(self.socket, timeout)
        headers = {"Content-Type": "application/json", **(headers or {})}
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(data)
        return answer.status, data

    def answers(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/version", timeout=2)[0] == 200
        return False

    def wait(self):
        if not mayfly.wait_until(self.answers, 60, 0.05):
            raise RuntimeError("it does not answer: " + mayfly.read(self.log)[-800:])

    def runs(self, container):
        return self.call("GET", f"/v1.41/containers/{container}/json")[1].get("State", {}).get("Running")

    def containers(self):
        return [c["Names"][0].lstrip("/") for c in self.call("GET", "/v1.41/containers/json?all=true")[1]]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)


class Docker(Engine):
    def __init__(self, directory, name, *flags):
        self.dir = os.path.join(directory, "docker")
        self.name, self.flags = name, flags
        self.socket = os.path.join(directory, "docker.sock")
        self.host = "unix://" + self.socket
        self.log = os.path.join(directory, "docker.log")
        os.makedirs(self.dir, exist_ok=True)

    def start(self):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.dir, "pid"))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["dockerd", "--data-root", self.dir + "/data", "--exec-root", self.dir + "/exec", "--pidfile", self.dir + "/pid", "-H",
                 self.host, "--iptables=false", "--ip6tables=false", "--ip-masq=false", f"--cgroup-parent=/{self.name}", "--exec-opt",
                 "native.cgroupdriver=cgroupfs", *self.flags], stdout=log, stderr=log)
        self.wait()
        return self

    def bring(self, _directory, archive, ref, *changes):
        """A root file system, with changes as in a Dockerfile."""
        repository, tag = ref.rsplit(":", 1)
        query = "".join("&changes=" + urllib.parse.quote(change, safe="") for change in changes)
        status, answer = self.call("POST", f"/v1.41/images/create?fromSrc=-&repo={repository}&tag={tag}{query}", archive)
        assert status == 200, answer

    def image(self, directory):
        with open(image_tar(directory), "rb") as f:
            self.bring(directory, f.read(), IMAGE, *CHANGES)


def certificates(directory):
    """An authority, and certificates of 127.0.0.1 and of a client: {name: path}. And a client's that nobody signed."""
    paths = {name: os.path.join(directory, name) for name in ("ca", "ca.key", "server", "server.key", "client", "client.key", "other",
                                                               "other.key")}

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name + ".key", "-out", name,
                "-days", "2", "-subj", "/CN=" + name)
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth"),
                            ("client", "extendedKeyUsage=clientAuth")):
        with open(os.path.join(directory, "ext"), "w", encoding="ascii") as f:
            f.write(extension + "\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name + ".key", "-out", "csr", "-subj",
                "/CN=" + name)
        openssl("x509", "-req", "-in", "csr", "-CA", "ca", "-CAkey", "ca.key", "-CAcreateserial", "-out", name, "-days", "2", "-extfile",
                "ext")
    return paths


class Podman(Engine):
    def __init__(self, directory, _name):
        if not shutil.which("podman"):
            raise mayfly.Skip("no podman here")
        self.dir = os.path.join(directory, "podman")
        self.socket = os.path.join(directory, "podman.sock")
        self.host = "unix://" + self.socket
        self.log = os.path.join(directory, "podman.log")
        os.makedirs(self.dir, exist_ok=True)
        self.conf = os.path.join(self.dir, "containers.conf")
        # crun refuses hybrid cgroups, and Podman's default limits are above what a container of CI may have.
        with open(self.conf, "w", encoding="ascii") as f:
            f.write('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\nruntime = "runc"\n')

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["podman", "--root", self.dir + "/root", "--runroot", self.dir + "/run", "--tmpdir", self.dir + "/tmp", "--cgroup-manager",
                 "cgroupfs", "--events-backend", "file", "system", "service", "-t", "0", self.host], stdout=log, stderr=log,
                env={**os.environ, "CONTAINERS_CONF": self.conf})
        self.wait()
        return self

    def bring(self, directory, archive, ref, *changes):
        path = os.path.join(directory, "bring.tar")
        with open(path, "wb") as f:
            f.write(archive)
        done = subprocess.run(["podman", "--root", self.dir + "/root", "--runroot", self.dir + "/run", "--tmpdir", self.dir + "/tmp",
                               "import", "-q", *(x for change in changes for x in ("-c", change)), path, "docker.io/library/" + ref],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              env={**os.environ, "CONTAINERS_CONF": self.conf})
        os.unlink(path)
        assert done.returncode == 0, done.stdout

    def image(self, directory):
        with open(image_tar(directory), "rb") as f:
            self.bring(directory, f.read(), IMAGE, *CHANGES)


class Drive:
    """tests/docker/drive.c, whose events are kept in order."""

    def __init__(self, directory, name, host, *flags, wait=True):
        self.dir, self.name = directory, name
        self.out = os.path.join(directory, "out")
        os.makedirs(self.out, exist_ok=True)
        self.arguments = [os.path.join(build, "tests/docker/docker-drive"), "--host", host, "--name", name, "--records",
                          os.path.join(directory, "records"), "--out", self.out, *map(str, flags)]
        self.log_path = os.path.join(directory, "drive.log")
        self.events, self.seen = queue.Queue(), []
        self.start()
        if wait:
            self.until(lambda e: e.get("done") == "list", 60)

    def start(self):
        log = open(self.log_path, "ab")  # noqa: SIM115
        self.process = subprocess.Popen(self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        threading.Thread(target=self.read, args=(self.process.stdout,), daemon=True).start()

    def read(self, stream):
        for line in stream:
            self.events.put(json.loads(line))
        self.events.put(None)

    def say(self, op, **members):
        self.process.stdin.write(json.dumps({"op": op, **members}).encode() + b"\n")
        self.process.stdin.flush()

    def run(self, name, *cmd, image=IMAGE, **members):
        self.say("run", id=name, image=image, cmd=list(cmd), **members)

    def until(self, good, seconds=60):
        """The first event, old or new, of which that is true."""
        end = time.monotonic() + seconds * mayfly.SLOW
        for event in self.seen:
            if good(event):
                return event
        while True:
            try:
                event = self.events.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"nothing came within {seconds} s; last: {self.seen[-3:]}") from None
            if event is None:
                raise RuntimeError("the driver has ended: " + mayfly.read(self.log_path)[-600:])
            self.seen.append(event)
            if good(event):
                return event

    def end(self, name, seconds=60):
        return self.until(lambda e: name in (e.get("ended"), e.get("failed")), seconds)

    def done(self, op, name="", seconds=60):
        event = self.until(lambda e: e.get("done") == op and e.get("id") == name, seconds)
        self.seen.remove(event)
        return event

    def stdout(self, name):
        with open(f"{self.out}/{name}.1", "rb") as f:
            return f.read()

    def stderr(self, name):
        with open(f"{self.out}/{name}.2", "rb") as f:
            return f.read()

    def rss(self):
        """Kilobytes."""
        return int(re.search(r"VmRSS:\s+(\d+)", mayfly.read(f"/proc/{self.process.pid}/status")).group(1))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def quit(self):
        with contextlib.suppress(OSError):
            self.say("quit")
        status = self.process.wait(60)
        if status:
            raise RuntimeError(f"the driver ended with {status}: " + mayfly.read(self.log_path)[-600:])


# ── the proxy ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Request:
    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body

    def line(self):
        return f"{self.method} {self.target}"


class Proxy:
    """Between the engine and Docker, a connection for each request: records them, and spoils answers as `fault` says, which is
    called with the request and answers None, or one of: cut (Docker hears nothing), lose (its answer gets lost), late, truncate,
    nonsense, refuse (500), hang."""

    def __init__(self, directory, upstream, fault=None, keep=False):
        self.path = os.path.join(directory, "proxy.sock")
        self.host = "unix://" + self.path
        self.upstream, self.fault = upstream, fault
        self.requests, self.keep = [], keep
        self.spoilt = []
        self.server = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.server.bind(self.path)
        self.server.listen(256)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError), client:
            request, rest = self.read_request(client)
            if not request:
                return
            self.requests.append(request if self.keep else Request(request.method, request.target, {}, b""))
            fault = self.fault(request) if self.fault else None
            if fault:
                self.spoilt.append((fault, request.line()))
            if fault == "cut":
                return
            if fault == "hang":
                time.sleep(3600)
            if fault == "refuse":
                client.sendall(b'HTTP/1.1 500 Internal Server Error\r\nContent-Length: 28\r\nConnection: close\r\n\r\n'
                               b'{"message":"spoilt on demand"}'[:28])
                return
            if fault == "nonsense":
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\nConnection: close\r\n\r\n"
                               b"[\x00\xff{{nonsense")
                return
            if fault == "late":
                time.sleep(1.5)
            self.forward(client, request, rest, fault)

    @staticmethod
    def read_request(client):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = client.recv(65536)
            if not piece:
                return None, b""
            data += piece
        head, rest = data.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        if headers.get("transfer-encoding") == "chunked":
            raise OSError("no chunks are expected")
        while len(rest) < length:
            piece = client.recv(65536)
            if not piece:
                return None, b""
            rest += piece
        return Request(method, target, headers, rest[:length]), rest[length:]

    def forward(self, client, request, rest, fault):
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self.upstream)
            upgrade = "upgrade" in request.headers
            headers = {k: v for k, v in request.headers.items() if upgrade or k != "connection"}
            if not upgrade:
                headers["connection"] = "close"
            head = f"{request.method} {request.target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
            server.sendall(head.encode("latin-1") + b"\r\n" + request.body + rest)
            if fault == "lose":
                server.settimeout(20)
                with contextlib.suppress(OSError):
                    server.recv(65536)
                return
            if upgrade:
                threading.Thread(target=self.pump, args=(client, server, True), daemon=True).start()
            self.pump(server, client, upgrade, truncate=fault == "truncate")

    @staticmethod
    def pump(source, sink, half, truncate=False):
        data = b""
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if truncate:
                    data += piece
                    head, found, body = data.partition(b"\r\n\r\n")
                    if not found:
                        continue
                    sink.sendall(head + found + body[:max(1, len(body) // 2)] if body else head[:len(head) // 2])
                    time.sleep(0.1)
                    sink.shutdown(socket.SHUT_RDWR)
                    source.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            if half:
                sink.shutdown(socket.SHUT_WR)

    def close(self):
        self.server.close()


def credentials(user, password):
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def signal_group(process, number=signal.SIGKILL):
    os.kill(process.pid, number)
