"""What a server that lies can do to whoever asks it by the command: nothing. Every text that this one answers steers a terminal,
forges lines, or runs a program where a shell takes it for more than a word."""

import http.server
import json
import os
import pty
import re
import socketserver
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from mayfly import Report, program

MAYFLY = program("mayfly")
EVIL = "e\x1b]0;t\x07\x9b31m\r\u202e\x7f\x08$(touch pwned)`touch pwned`\nmayfly: all is well"
WORD = "x$(touch${IFS}pwned)"  # which a shell would take for a word of its line
HUGE = 2**63 - 1
TASK = {"id": EVIL, "status": "exited", "exit_code": HUGE, "reason": EVIL, "detail": EVIL, "created_at": EVIL, "started_at": EVIL,
        "image": {"ref": EVIL, "digest": EVIL}, "labels": {EVIL: EVIL}, "stdout": "", "stderr": "", "truncated": True}
OUTPUTS = {"id": "01aaaaaaaaaaaaaaaaaaaaaaaa", "status": "exited", "exit_code": 0, "signal": None, "reason": None, "stdout": "", "stderr": "",
           "stdout_encoding": "utf-8", "stderr_encoding": "utf-8", "stdout_bytes": 0, "stderr_bytes": 0, "truncated": False,
           "outputs": [{"path": "/x/.profile", "type": "file", "mode": "0644", "content": "pwned", "encoding": "utf-8"}],
           "usage": {"wall_ms": 1, "cpu_ms": 1, "memory_peak": None}, "timings": {"queued_ms": 0, "pull_ms": 0, "start_ms": 0, "run_ms": 1},
           "created_at": "2026-01-01T00:00:00.000Z", "started_at": "2026-01-01T00:00:00.000Z", "finished_at": "2026-01-01T00:00:00.001Z",
           "image": {"ref": "docker.io/library/x:latest", "digest": "sha256:" + 64 * "0"}, "engine": "native", "limits": {}, "labels": {}}
IMAGE = {"digest": EVIL, "names": [EVIL, WORD, 5, None], "created": EVIL, "size": -1, "source": EVIL, "last_used_at": EVIL, "broken": False,
         "pinned": EVIL, "architecture": EVIL, "blobs": [{"digest": EVIL, "size": HUGE}],
         "config": {"history": [{"created": EVIL, "created_by": EVIL, "comment": EVIL}]}}
LAYER = {"digest": EVIL, "state": EVIL, "done": HUGE, "size": -HUGE, "was_here": True}
ENGINE = {"name": EVIL, "status": EVIL, "default": True, "product": EVIL, "version": EVIL, "api": EVIL, "detail": EVIL, "notice": EVIL,
          "lacks": [{"feature": EVIL}], "findings": [EVIL, 5]}
KEY = {"id": EVIL, "name": EVIL, "role": EVIL, "created_at": EVIL, "last_used_at": EVIL, "expires_at": EVIL, "secret": EVIL}
FAULT = {"kind": EVIL, "name": EVIL, "detail": EVIL, "images": [EVIL, 5], "repaired": True}
PROBLEM = {"type": EVIL, "title": EVIL, "status": 400, "detail": EVIL, "errors": [{"pointer": EVIL, "detail": EVIL}, 5]}

ANSWERS = {
    "/v1/tasks": {"tasks": [TASK, {"id": WORD}], "next_cursor": None},
    "/v1/images": {"images": [IMAGE]},
    "/v1/images/load": {"images": [IMAGE, 5]},
    "/v1/images/prune": {"images": [IMAGE], "bytes": -1, "kept": {"in_use": HUGE}},
    "/v1/registries": {"registries": [{"registry": EVIL, "username": EVIL, "created_at": EVIL}]},
    "/v1/registries/login": {"registry": EVIL, "username": EVIL},
    "/v1/engines": {"engines": [ENGINE]},
    "/v1/version": {"name": EVIL, EVIL: EVIL, "engines": [EVIL, 5]},
    "/v1/keys": {"keys": [KEY, {"id": WORD}]},
    "POST /v1/keys": KEY,
    "POST /v1/tasks": TASK,
}
EVENTS = {
    "/v1/images/pull": [{"layers": [LAYER] * 200, "done": -1, "total": HUGE, "state": EVIL}, {"layers": 5, "state": "installing"},
                        {"ref": EVIL, "digest": EVIL, "pulled": True}],
    "/v1/images/verify": [{"done": HUGE, "total": -1, "bytes": -1},
                          {"ok": False, "faults": [FAULT], "repairs": [EVIL, 5], "blobs": HUGE, "layers": -1, "trees": 0}],
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        if path in EVENTS:
            body = "".join(f"event: {EVIL.split()[0]}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n" for e in EVENTS[path]).encode()
            kind, status = "text/event-stream", 200
        else:
            found = ANSWERS.get(f"{self.command} {path}") or ANSWERS.get(path)
            if not found and self.command != "DELETE":
                found = TASK if path.startswith("/v1/tasks/") else IMAGE if path.startswith("/v1/images/") else None
            found = OUTPUTS if b'"outputs"' in asked else found
            status = 200 if found else 400
            body, kind = json.dumps(found or PROBLEM, ensure_ascii=False).encode(), "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        return super().get_request()[0], ("unix", 0)


# Nothing of C0 but ends of lines, no DEL, no C1, no mark that turns the direction; after a table's own colours were taken out.
BAD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

COMMANDS = """ps|ps -q|ps --json|images|images -q|images --no-trunc|images --json|images --filter reference=*|images --verify
images --verify --json|history x|history --no-trunc x|history --json x|inspect x|inspect --json x|prune|prune --yes|prune --json
login --list|login --list --json|login -u a --password-stdin r|logout r|logout --json r|engines|engines --json|version|version --json|key list
key list -a|key list -q|key list -a --json|key create|key create --json|key revoke x|pull x|pull -q x|pull --json x|load -|load --json -
tag a b|tag --json a b|pin x|pin --json x|rmi x|run -d x|run --json x|run --wait 1s x|wait x|wait --json x|stop x|stop -t 1 x|stop --json x
kill x|kill --json x"""


def run(words, host, cwd, **more):
    env = {"PATH": "/usr/bin:/bin", "MAYFLY_HOST": host, "HOME": cwd, "TERM": "xterm"}
    return subprocess.run([MAYFLY, *words], env=env, cwd=cwd, input=b"secret", timeout=60, check=False, capture_output=True, **more)


def on_terminal(words, host, cwd):
    """What it writes to a terminal of 100 columns."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execve("/bin/sh", ["sh", "-c", 'stty cols 100; exec "$@"', "-", MAYFLY, *words],
                  {"PATH": "/usr/bin:/bin", "MAYFLY_HOST": host, "HOME": cwd, "TERM": "xterm"})
    out = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:
            break
        if not piece:
            break
        out += piece
    os.waitpid(pid, 0)
    os.close(fd)
    return out


def is_harmless(out):
    text = out.decode("utf-8")  # what is none raises
    return not BAD.search(text) and "\nmayfly: all is well" not in text


def check_commands(report, host, cwd):
    for line in COMMANDS.replace("\n", "|").split("|"):
        got = run(line.split(), host, cwd)
        told = line == "tag a b" or got.stdout + got.stderr
        fell = got.returncode < 0 or b"Sanitizer" in got.stderr or b"runtime error" in got.stderr
        report.check(f"{line}: harmless", not fell and told and is_harmless(got.stdout) and is_harmless(got.stderr),
                     f"{got.returncode} {got.stdout[:300]} {got.stderr[:300]}")


def check_terminal(report, host, cwd):
    ours = re.compile("\x1b\\[([01]|1;3[13]|0)?m|\r\x1b\\[K|\x1b\\[[0-9]{1,2}A|\r\n")
    for line in ("ps", "images", "images --verify", "pull x", "load -"):
        out = on_terminal(line.split(), host, cwd).decode("utf-8")
        report.check(f"{line} on a terminal: harmless", out and not BAD.search(ours.sub("\n", out).replace("\r", "\n")), repr(out[:400]))


def check_others(report, host, cwd):
    for words in (["run", ""], ["stop", ""], ["key", "revoke", ""], ["inspect", ""], ["run", "e"]):
        got = run(["__complete", *words], host, cwd)
        report.check(f"completion of {' '.join(words).strip()}: no name of the server's", got.returncode == 0 and b"touch" not in got.stdout,
                     got.stdout[:300])
    os.mkdir(f"{cwd}/to")
    got = run(["run", "--json", "--output", "result:to", "x"], host, cwd)
    report.check("--output: named as was asked for", os.listdir(f"{cwd}/to") == ["result"], f"{os.listdir(cwd + '/to')} {got.stderr}")
    report.check("nothing was run", not os.path.exists(f"{cwd}/pwned"))


def main():
    report = Report()
    with tempfile.TemporaryDirectory() as cwd:
        with Server(f"{cwd}/sock", Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            host = f"unix://{cwd}/sock"
            check_commands(report, host, cwd)
            check_terminal(report, host, cwd)
            check_others(report, host, cwd)
            server.shutdown()
    sys.exit(report.failed > 0)


if __name__ == "__main__":
    main()
