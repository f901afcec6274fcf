#!/usr/bin/env python3
"""Requests as clients send them: curl, Python's requests, Node's fetch, Go's net/http, libcurl; pipelining, HTTP/1.0 and IPv6;
HAProxy and nginx in front, plain, by TLS, and with PROXY headers. What is not installed is skipped.

    tests/clients/run.py [NAME…]    only those: curl requests node go libcurl raw haproxy nginx
"""
import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "api"))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import mayfly  # noqa: E402
from common import IMAGE, TcpInstance, equal  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
STRANGER = "127.0.0.9"  # an address of this host that is no trusted proxy
report = mayfly.Report("clients: ")


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return True
    except OSError:
        return False


def need(program, package):
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if not found:
        raise mayfly.Skip(f"{package} is not installed")
    return found


def task(*cmd, **more):
    return json.dumps({"image": IMAGE, "cmd": list(cmd), "network": "none", **more})


class Place:
    """The instance and what is in front of it."""

    def __init__(self, instance, directory):
        self.instance, self.directory = instance, directory
        self.plain = f"http://127.0.0.1:{instance.port}"
        self.tls = f"https://127.0.0.1:{instance.tls_port}"
        self.key = instance.make_key("task")
        self.ca = os.path.join(instance.data_dir, "state/tls/cert.pem")
        self.front = {}

    def environment(self):
        more = {"URL": self.plain, "KEY": self.key, "TLS_URL": self.tls, "CA": self.ca, "GO111MODULE": "off",
                "GOFLAGS": "", "NODE_EXTRA_CA_CERTS": self.ca, "HOME": self.directory}
        return {**os.environ, **more, **self.front}

    def from_address(self, mark):
        """Whom the log names as the client of the request with that id."""
        log = self.instance.log
        lines = mayfly.wait_until(lambda: [x for x in mayfly.read(log).splitlines() if f"id={mark} " in x], 10)
        assert lines, f"the log has no {mark}"
        return lines[0].split(" from=")[1].split()[0]


def mark():
    return f"clients-{time.time_ns()}"


def program(name, command, place):
    """A client that prints lines of its own."""
    done = subprocess.run(command, cwd=place.directory, env=place.environment(), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300 * mayfly.SLOW, check=False)
    text = done.stdout.decode(errors="replace")
    for line in text.splitlines():
        print(line.replace("ok - ", "ok - clients: ", 1) if line.startswith(("ok - ", "not ok - ")) else line, flush=True)
    report.failed += text.count("\nnot ok - ") + text.startswith("not ok - ")
    if done.returncode and "not ok - " not in text:
        report.not_ok(name, f"status {done.returncode}: {text[-600:]}")


# ── curl ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def curl(place, *arguments, key=True, stdin=None):
    command = [need("curl", "curl"), "-sS", "--max-time", "60", "-H", "Content-Type: application/json", *arguments]
    if key:
        command += ["-u", place.key]
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise AssertionError(f"curl: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(), done.stderr.decode(errors="replace")


def out(answer):
    return json.loads(answer)["stdout"]


def test_curl(place):
    url = place.plain + "/v1/tasks"
    with report.case("curl: a task"):
        equal(out(curl(place, url, "-d", task("echo", "x"))[0]), "x\n")
    with report.case("curl: one connection for several requests"):
        got = curl(place, "-w", "|%{num_connects}|", url, "-d", task("true"), url, url)[0].split("|")[1::2]
        equal(got, ["1", "0", "0"])
    with report.case("curl: HTTP/1.0"):
        got = curl(place, "-0", "-i", url, "-d", task("echo", "x"))[0]
        assert "201" in got.split("\r\n")[0] and '"stdout":"x\\n"' in got and "chunked" not in got, got
    with report.case("curl: a chunked body"):
        got = curl(place, "-H", "Transfer-Encoding: chunked", "-d", "@-", url, stdin=task("wc", "-c", stdin="x" * 99999).encode())
        equal(out(got[0]), "99999\n")
    with report.case("curl: Expect: 100-continue"):
        body = task("wc", "-c", stdin="x" * (2 << 20)).encode()
        got = curl(place, "-v", "-H", "Expect: 100-continue", "-d", "@-", url, stdin=body)
        assert "HTTP/1.1 100 Continue" in got[1], got[1]
        equal(out(got[0]), f"{2 << 20}\n")
    with report.case("curl: Expect: 100-continue without a key is refused before the body"):
        body = b"x" * (1 << 20)
        got = curl(place, "-v", "-H", "Expect: 100-continue", "-d", "@-", url, key=False, stdin=body)
        assert "< HTTP/1.1 401" in got[1] and "100 Continue" not in got[1], got[1]
    with report.case("curl: HTTP/2 is asked for, HTTP/1.1 answers"):
        equal(out(curl(place, "--http2", url, "-d", task("echo", "x"))[0]), "x\n")
        equal(out(curl(place, "--http2", "--cacert", place.ca, place.tls + "/v1/tasks", "-d", task("echo", "x"))[0]), "x\n")
    with report.case("curl: HEAD; compressed answers are asked for, and plain ones come"):
        got = curl(place, "-I", place.plain + "/v1/version")[0]
        assert got.startswith("HTTP/1.1 200") and "Content-Length: " in got, got
        equal(json.loads(curl(place, "--compressed", place.plain + "/v1/version")[0])["name"], "mayfly")
    with report.case("curl: IPv6"):
        if not place.instance.ipv6_port:
            raise mayfly.Skip("no IPv6 on loopback here")
        request_id = mark()
        equal(out(curl(place, f"http://[::1]:{place.instance.ipv6_port}/v1/tasks", "-d", task("echo", "x"), "-H",
                       "X-Request-Id: " + request_id)[0]), "x\n")
        equal(place.from_address(request_id), "::1")
    with report.case("curl: a part of the output by Range"):
        id = json.loads(curl(place, url, "-d", task("echo", "0123456789"))[0])["id"]
        equal(curl(place, "-r", "2-4", f"{url}/{id}/stdout")[0], "234")
    with report.case("curl: 30 tasks in parallel"):
        each = []
        for n in range(30):
            each += (["--next"] if n else []) + ["-sS", "-u", place.key, "-H", "Content-Type: application/json", "-d",
                                                 task("echo", str(n)), url]
        done = subprocess.run([need("curl", "curl"), "-Z", *each], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              check=True)
        equal(done.stdout.count(b'"exit_code":0'), 30)


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_requests(place):
    for modules in ("requests, websocket", "requests"):
        for python in (sys.executable, "/usr/bin/python3"):
            if subprocess.run([python, "-c", "import " + modules], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                program("requests", [python, HERE + "/client_requests.py"], place)
                return
    report.skip("requests", "python3-requests is not installed")


def test_node(place):
    with contextlib.ExitStack() as stack:
        stack.enter_context(skips("node"))
        program("node", [need("node", "nodejs"), HERE + "/client.mjs"], place)


def test_go(place):
    with contextlib.ExitStack() as stack:
        stack.enter_context(skips("go"))
        program("go", [need("go", "golang-go"), "run", HERE + "/client.go"], place)


def test_libcurl(place):
    with contextlib.ExitStack() as stack:
        stack.enter_context(skips("libcurl"))
        need("curl-config", "libcurl4-openssl-dev")
        program("libcurl", [mayfly.compile_c(HERE + "/client.c", place.directory + "/client", "-Wl,--no-as-needed", "-lcurl")], place)


@contextlib.contextmanager
def skips(name):
    try:
        yield
    except mayfly.Skip as e:
        report.skip(name, e)


# ── what no client library shows ─────────────────────────────────────────────────────────────────────────────────────


def test_raw(place):
    key = "Authorization: Basic " + base64.b64encode(place.key.encode()).decode()

    def exchange(text, n):
        with socket.create_connection(("127.0.0.1", place.instance.port), 60) as s:
            s.sendall(text)
            stream = s.makefile("rb")
            answers = []
            for _ in range(n):
                status = int(stream.readline().split()[1])
                length = 0
                while (line := stream.readline().strip()):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                answers.append((status, stream.read(length)))
            return answers

    with report.case("pipelining: 20 requests at once are answered in order"):
        text = "".join(f"GET /v1/version HTTP/1.1\r\nHost: x\r\n{key}\r\nX-Request-Id: p{n}\r\n\r\n" for n in range(20))
        equal([status for status, _ in exchange(text.encode(), 20)], [200] * 20)
    with report.case("pipelining: tasks among them, with their bodies"):
        text = b""
        for n in range(6):
            body = task("sh", "-c", f"sleep 0.{5 - n}; echo {n}").encode()
            text += f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\n{key}\r\nContent-Type: application/json\r\n" \
                    f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            text += f"GET /v1/version HTTP/1.1\r\nHost: x\r\n{key}\r\n\r\n".encode()
        got = exchange(text, 12)
        equal([status for status, _ in got], [201, 200] * 6)
        equal([json.loads(body)["stdout"] for _, body in got[::2]], [f"{n}\n" for n in range(6)])
    with report.case("HTTP/1.0 without Host, with and without keep-alive"):
        equal(exchange(f"GET /v1/version HTTP/1.0\r\n{key}\r\n\r\n".encode(), 1)[0][0], 200)
        again = f"GET /v1/version HTTP/1.0\r\nConnection: keep-alive\r\n{key}\r\n\r\n".encode()
        equal([status for status, _ in exchange(again, 1)], [200])
    with report.case("a request of single bytes"):
        with socket.create_connection(("127.0.0.1", place.instance.port), 60) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            body = task("echo", "slow").encode()
            text = f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\n{key}\r\nContent-Type: application/json\r\n" \
                   f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
            for at in range(len(text)):
                s.sendall(text[at:at + 1])
            got = b""
            while more := s.recv(65536):
                got += more
            assert b" 201 " in got.split(b"\r\n")[0] and b'"stdout":"slow\\n"' in got, got


# ── in front ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def certificate(directory):
    """A file with a key and a certificate for 127.0.0.1, and the certificate alone."""
    both, cert = directory + "/front.pem", directory + "/front-cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=front", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", directory + "/front-key.pem",
                    "-out", cert], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    with open(both, "w", encoding="utf-8") as f:
        f.write(mayfly.read(cert) + mayfly.read(directory + "/front-key.pem"))
    return both, cert


@contextlib.contextmanager
def running(command, ports):
    """A proxy in the foreground, until its ports are open."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def open_ports():
        if process.poll() is not None:
            raise AssertionError(f"{command[0]} ended: {process.stdout.read().decode(errors='replace')[-800:]}")
        for port in ports:
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
            except OSError:
                return False
        return True

    try:
        assert mayfly.wait_until(open_ports), f"{command[0]} does not listen"
        yield
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def behind(place, name, port, cert, tls):
    """What has to hold through any proxy. The client comes from an address that is not trusted itself."""
    url = f"http{'s' if tls else ''}://127.0.0.1:{port}/v1/tasks"
    more = ["--interface", STRANGER, *(["--cacert", cert] if tls else [])]
    with report.case(f"{name}: a task, and who its client is"):
        request_id = mark()
        answer = curl(place, *more, url, "-d", task("echo", "x"), "-H", "X-Request-Id: " + request_id)[0]
        equal(out(answer), "x\n")
        equal(place.from_address(request_id), STRANGER)
    with report.case(f"{name}: a client that names another address is not believed"):
        request_id = mark()
        curl(place, *more, url, "-d", task("true"), "-H", "X-Request-Id: " + request_id, "-H", "X-Forwarded-For: 203.0.113.9")
        equal(place.from_address(request_id), STRANGER)
    with report.case(f"{name}: a chunked body, and one of 2 MiB after 100 Continue"):
        body = task("wc", "-c", stdin="x" * (2 << 20)).encode()
        answer = curl(place, *more, "-H", "Transfer-Encoding: chunked", "-d", "@-", url, stdin=body)[0]
        equal(out(answer), f"{2 << 20}\n")
        answer = curl(place, *more, "-H", "Expect: 100-continue", "-d", "@-", url, stdin=body)[0]
        equal(out(answer), f"{2 << 20}\n")
    with report.case(f"{name}: events come when they are written"):
        id = json.loads(curl(place, *more, url, "-d", task("sh", "-c", "echo one; sleep 30; echo two", wait=False))[0])["id"]
        command = ["curl", "-sN", "-u", place.key, *more, f"{url}/{id}/logs?follow=1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            got = b""
            while b"one" not in got:
                got += process.stdout.read1(1000)
            curl(place, *more, "-X", "POST", f"{url}/{id}/cancel")
            got += process.stdout.read()
        assert b"event: end" in got and b"two" not in got, got
    with report.case(f"{name}: HTTP/1.0, and connections that are kept"):
        equal(out(curl(place, *more, "-0", url, "-d", task("echo", "x"))[0]), "x\n")
        got = curl(place, *more, "-w", "|%{num_connects}|", url, "-d", task("true"), url, url)[0].split("|")[1::2]
        equal(got, ["1", "0", "0"])


HAPROXY = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 1m
    timeout server 10m
    timeout tunnel 1h
    option forwardfor
frontend plain
    bind 127.0.0.1:{plain}
    default_backend node
frontend tls
    bind 127.0.0.1:{tls} ssl crt {pem}
    default_backend node_tls
frontend proxy1
    mode tcp
    bind 127.0.0.1:{proxy1}
    default_backend node_proxy1
frontend proxy2
    mode tcp
    bind 127.0.0.1:{proxy2}
    default_backend node_proxy2
backend node
    http-reuse always
    server a 127.0.0.1:{node} check
backend node_tls
    server a 127.0.0.1:{node_tls} ssl verify required ca-file {ca}
backend node_proxy1
    mode tcp
    server a 127.0.0.1:{second} send-proxy
backend node_proxy2
    mode tcp
    server a 127.0.0.1:{second} send-proxy-v2
"""

NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/nginx-body;
    proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/nginx-f;
    uwsgi_temp_path {directory}/nginx-u;
    scgi_temp_path {directory}/nginx-s;
    upstream node {{ server 127.0.0.1:{node}; keepalive 16; }}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        client_max_body_size 32m;
        location / {{
            proxy_pass http://node;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 10m;
        }}
    }}
}}
"""


def test_haproxy(place):
    with skips("haproxy"):
        haproxy = need("haproxy", "haproxy")
        pem, cert = certificate(place.directory)
        ports = {name: mayfly.free_port() for name in ("plain", "tls", "proxy1", "proxy2")}
        with TcpInstance("mfclients2", "10.220.64.0/18", trusted_proxies="127.0.0.1", proxy_protocol="true") as second:
            config = place.directory + "/haproxy.cfg"
            with open(config, "w", encoding="utf-8") as f:
                f.write(HAPROXY.format(**ports, pem=pem, ca=place.ca, node=place.instance.port, second=second.port,
                                       node_tls=place.instance.tls_port))
            with running([haproxy, "-db", "-f", config], [ports["plain"], ports["tls"]]):
                behind(place, "haproxy", ports["plain"], cert, False)
                behind(place, "haproxy, TLS on both sides", ports["tls"], cert, True)
                place.front = {"FRONT": "HAProxy", "WS_URL": f"ws://127.0.0.1:{ports['plain']}"}
                test_requests(place)
                test_node(place)
                other = Place.__new__(Place)
                other.__dict__.update(place.__dict__, instance=second, key=second.make_key("task"))
                behind(other, "haproxy, PROXY version 1", ports["proxy1"], cert, False)
                behind(other, "haproxy, PROXY version 2", ports["proxy2"], cert, False)
            with report.case("PROXY: who is no trusted proxy begins without one"):
                equal(out(curl(other, "--interface", STRANGER, f"http://127.0.0.1:{second.port}/v1/tasks", "-d",
                               task("echo", "x"))[0]), "x\n")
            with report.case("PROXY: a trusted proxy without one is closed"):
                with socket.create_connection(("127.0.0.1", second.port), 30) as s:
                    s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    with contextlib.suppress(ConnectionResetError):
                        equal(s.recv(100), b"")


def test_nginx(place):
    with skips("nginx"):
        nginx = need("nginx", "nginx-light")
        pem, cert = certificate(place.directory)
        ports = {name: mayfly.free_port() for name in ("plain", "tls")}
        config = place.directory + "/nginx.conf"
        with open(config, "w", encoding="utf-8") as f:
            f.write(NGINX.format(**ports, pem=pem, node=place.instance.port, directory=place.directory))
        with running([nginx, "-p", place.directory, "-c", config], ports.values()):
            behind(place, "nginx", ports["plain"], cert, False)
            behind(place, "nginx, TLS", ports["tls"], cert, True)
            place.front = {"FRONT": "nginx", "WS_URL": f"ws://127.0.0.1:{ports['plain']}", "ONLY": "through nginx"}
            test_requests(place)
            test_node(place)


def main():
    tests = {"curl": test_curl, "requests": test_requests, "node": test_node, "go": test_go, "libcurl": test_libcurl,
             "raw": test_raw, "haproxy": test_haproxy, "nginx": test_nginx}
    chosen = sys.argv[1:] or [name for name in tests if name not in ("requests", "node") or not shutil.which("haproxy")]
    instance = TcpInstance("mfclients", "10.220.0.0/18", trusted_proxies="127.0.0.1")
    instance.tls_port, instance.ipv6_port = mayfly.free_port(), mayfly.free_port() if has_ipv6() else None
    instance.config["listen"] += f",https://127.0.0.1:{instance.tls_port}"
    if instance.ipv6_port:
        instance.config["listen"] += f",tcp://[::1]:{instance.ipv6_port}"
    with instance, tempfile.TemporaryDirectory(prefix="mayfly-clients-") as directory:
        os.chmod(directory, 0o755)
        place = Place(instance, directory)
        for name in chosen:
            tests[name](place)
    report.exit()


if __name__ == "__main__":
    main()
