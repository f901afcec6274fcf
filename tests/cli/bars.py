"""What the command draws on a terminal, looked at as a terminal shows it: bars in their rows, that nothing breaks, what is left in the
end. And where nothing may be drawn: a dumb terminal, one that is too narrow or becomes so, a pipe. The server is one of ours, which
goes on when the last step is to be seen."""

import fcntl
import http.server
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hostile import Server
from mayfly import SLOW, Report, program

MAYFLY = program("mayfly")
MB = 10**6
DIGESTS = [f"sha256:{i:02x}" + 62 * "0" for i in range(16)]


class Screen:
    """Rows of a terminal of so many columns, and of the sequences that Mayfly writes; every other one is an error."""

    PIECES = re.compile(r"\x1b\[K|\x1b\[(\d+)A|\r|\n|[^\x00-\x1f\x7f]")

    def __init__(self, columns):
        self.columns, self.rows, self.row, self.column, self.broken = columns, [""], 0, 0, False

    def write(self, text):
        at = 0
        while at < len(text):
            found = self.PIECES.match(text, at)
            assert found, f"no terminal of ours knows {text[at:at + 10]!r}"
            at = found.end()
            piece = found[0]
            if piece == "\r":
                self.column = 0
            elif piece == "\n":
                self.row, self.column = self.row + 1, 0
            elif piece == "\x1b[K":
                self.rows[self.row] = self.rows[self.row][:self.column]
            elif found[1]:
                assert int(found[1]) <= self.row, "it climbs above its rows"
                self.row -= int(found[1])
            else:
                if self.column == self.columns:
                    self.broken, self.row, self.column = True, self.row + 1, 0
                self.put(piece)
            while self.row >= len(self.rows):
                self.rows.append("")

    def put(self, letter):
        while self.row >= len(self.rows):
            self.rows.append("")
        line = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = line[:self.column] + letter + line[self.column + 1:]
        self.column += 1


class Terminal:
    """A command on a terminal, and all that it has written there."""

    def __init__(self, words, host, columns, cwd, term="xterm", stdout=None):
        self.out, self.seen = b"", threading.Condition()
        self.fd, slave = pty.openpty()
        self.resize(columns)
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST  # what is written is what comes
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        env = {"PATH": "/usr/bin:/bin", "MAYFLY_HOST": host, "HOME": cwd, "TERM": term}
        self.process = subprocess.Popen([MAYFLY, *words], env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout or slave, stderr=slave)
        os.close(slave)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def resize(self, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def read(self):
        while True:
            try:
                piece = os.read(self.fd, 65536)
            except OSError:
                piece = b""
            with self.seen:
                self.out += piece
                self.seen.notify_all()
            if not piece:
                return

    def wait_for(self, text, after=0):
        """Until that text is there; where it ends."""
        end = time.monotonic() + 30 * SLOW
        with self.seen:
            while text not in self.out[after:]:
                assert time.monotonic() < end and self.seen.wait(1) is not None, (text, self.out[-300:])
            return self.out.index(text, after) + len(text)

    def end(self):
        status = self.process.wait(60 * SLOW)
        self.reader.join()
        os.close(self.fd)
        return status, self.out.decode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Runs the present script: what it yields is an event or a document."""

    protocol_version = "HTTP/1.1"
    script = None

    def log_message(self, *args):
        pass

    def answer(self):
        kind, steps = Handler.script
        if self.command == "POST" and int(self.headers.get("Content-Length") or 0):
            self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        for step in steps():
            self.wfile.write(step if isinstance(step, bytes) else f"data: {json.dumps(step)}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True

    do_GET = do_POST = answer


def layer(n, state, done, size=MB, **more):
    return {"digest": DIGESTS[n], "state": state, "done": done, "size": size, **more}


def pulling(*layers, state="pulling"):
    return {"state": state, "done": sum(a["done"] for a in layers), "total": sum(a["size"] for a in layers), "layers": list(layers)}


READY = {"ref": "docker.io/library/x:1", "digest": DIGESTS[0], "pulled": True}


class Unseen:
    """In the place of a terminal on which nothing is to be seen."""

    def wait_for(self, _text, _after=0):
        return 0


def unseen(steps):
    return lambda _terminal: steps(Unseen)


class Stage:
    def __init__(self, report, host, cwd):
        self.report, self.host, self.cwd = report, host, cwd
        self.terminal = None

    def play(self, words, steps, columns=100, kind="text/event-stream", **more):
        """steps is called with a function that answers this terminal, once the command has asked."""
        begun = threading.Event()

        def terminal():
            begun.wait(60)
            return self.terminal

        Handler.script = kind, lambda: steps(terminal)
        self.terminal = Terminal(words.split(), self.host, columns, self.cwd, **more)
        begun.set()
        return self.terminal.end()


def screen_of(out, columns):
    screen = Screen(columns)
    screen.write(out)
    return screen


def shown(screen):
    return [row.rstrip() for row in screen.rows if row.strip()]


def pull_steps(terminal):
    yield pulling(layer(0, "waiting", 0), layer(1, "downloading", MB // 2), layer(2, "downloaded", MB, was_here=True))
    at = terminal().wait_for(b"total")
    yield pulling(layer(0, "downloading", MB // 4), layer(1, "unpacking", MB), layer(2, "ready", MB, was_here=True))
    terminal().wait_for(b"total", at)
    yield pulling(layer(0, "ready", MB), layer(1, "ready", MB), layer(2, "ready", MB, was_here=True), state="installing")
    yield READY


def check_pull(stage, report):
    with report.case("bars: a pull has a row for each layer and a total, and they stay in their rows"):
        status, out = stage.play("pull x", pull_steps)
        screen = screen_of(out, 100)
        rows = shown(screen)
        assert status == 0 and not screen.broken, (status, rows)
        assert len(rows) == 5 and rows[4] == "pulled docker.io/library/x:1", rows
        for n, row in enumerate(rows[:3]):
            assert row.startswith(DIGESTS[n][7:19] + "  [" + 30 * "=" + "]"), row
            assert row.endswith("ready"), row
        assert rows[3].startswith("total         [" + 30 * "=" + "]") and rows[3].endswith("installing"), rows[3]
        assert out.count("\x1b[4A") == 2 and out.count("A") == 2, out
    with report.case("bars: half of a layer is half a bar"):
        first = out[:out.index("\x1b[4A")]
        assert re.search(r"010000000000  \[={15}> {14}\] +500kB / 1MB +downloading", first), first
        assert re.search(r"020000000000  \[={30}\] +1MB / 1MB +present", first), first
    with report.case("bars: of many layers some have rows, the total has all"):
        def many(terminal):
            for done in (0, MB):
                yield pulling(*[layer(n, "downloading", done) for n in range(16)])
            yield READY
        status, out = stage.play("pull x", many)
        rows = shown(screen_of(out, 100))
        assert status == 0 and len(rows) == 14 and rows[12].startswith("total") and "16MB / 16MB" in rows[12], rows


def check_narrow(stage, report):
    with report.case("bars: 80 columns are enough"):
        status, out = stage.play("pull x", pull_steps, columns=80)
        screen = screen_of(out, 80)
        assert status == 0 and not screen.broken and len(shown(screen)) == 5, shown(screen)
    with report.case("bars: none where a line would break"):
        def steps(_terminal):
            yield pulling(layer(0, "waiting", 0))
            yield pulling(layer(0, "downloading", 5))
            yield pulling(layer(0, "ready", MB), state="installing")
            yield READY
        status, out = stage.play("pull x", steps, columns=79)
        assert status == 0 and "\x1b" not in out and "\r" not in out, out
        name = DIGESTS[0][7:19]
        assert out == f"{name}: downloading (1MB)\n{name}: ready (1MB)\ninstalling\n{DIGESTS[0]}: ready\npulled docker.io/library/x:1\n", out
    with report.case("bars: none any more once the terminal has become narrow"):
        def shrinks(terminal):
            yield pulling(layer(0, "downloading", MB // 2))
            terminal().wait_for(b"total")
            terminal().resize(60)
            yield pulling(layer(0, "unpacking", MB))
            terminal().wait_for(b": unpacking")
            yield pulling(layer(0, "ready", MB), state="installing")
            yield READY
        status, out = stage.play("pull x", shrinks)
        assert status == 0 and out.count("total") == 1 and "A" not in out, out
        assert out.endswith("installing\npulled docker.io/library/x:1\n"), out
    with report.case("bars: again once it is wide, below what was written meanwhile"):
        def grows(terminal):
            yield pulling(layer(0, "downloading", MB // 2))
            at = terminal().wait_for(b"total")
            terminal().resize(60)
            yield pulling(layer(0, "unpacking", MB))
            at = terminal().wait_for(b": unpacking", at)
            terminal().resize(100)
            yield pulling(layer(0, "unpacking", MB))
            terminal().wait_for(b"total", at)
            yield READY
        status, out = stage.play("pull x", grows)
        rows = shown(screen_of(out, 100))
        assert status == 0 and [r.split()[0] for r in rows] == [DIGESTS[0][7:19], "total", DIGESTS[0][7:19] + ":", DIGESTS[0][7:19],
                                                               "total", "pulled"], rows
    with report.case("bars: none on a dumb terminal, with -q, with --json"):
        for words, term in (("pull x", "dumb"), ("pull -q x", "xterm"), ("pull --json x", "xterm")):
            status, out = stage.play(words, unseen(pull_steps), term=term)
            assert status == 0 and "\x1b" not in out and "[=" not in out, (words, out)
        assert json.loads(out)["digest"] == DIGESTS[0], out


def check_lines(stage, report):
    """One line that is written over, and nothing of it in the end."""
    def verify(terminal):
        yield {"done": 1, "total": 3, "bytes": 5 * MB}
        terminal().wait_for(b"1 of 3")
        yield {"done": 2, "total": 3, "bytes": 7 * MB}
        yield {"ok": True, "faults": [], "repairs": [], "unchecked": [], "blobs": 3, "layers": 1, "trees": 1, "bytes": 7 * MB}

    def load(_terminal):
        yield json.dumps({"images": [{"names": ["docker.io/library/x:1"], "digest": DIGESTS[0]}]}).encode()

    def save(terminal):
        yield MB * b"x"
        terminal().wait_for(b"B/s")
        yield MB * b"x"

    with open(f"{stage.cwd}/archive", "wb") as f:
        f.write(8 * MB * b"x")
    for words, steps, kind, once, last in (("images --verify", verify, "text/event-stream", "checking: 1 of 3, 5MB read", "all is well"),
                                           ("load archive", load, "application/json", "sent at", "loaded docker.io/library/x:1"),
                                           ("save -o saved x", save, "application/x-tar", "B/s", "")):
        with report.case(f"bars: {words} has a line, which is gone in the end"):
            status, out = stage.play(words, steps, kind=kind)
            rows = shown(screen_of(out, 100))
            assert status == 0 and "\r\x1b[K" in out and once in out, (status, out)
            assert once not in "".join(rows) and "".join(rows).endswith(last), rows
        with report.case(f"bars: {words}: none on a dumb terminal"):
            status, out = stage.play(words, unseen(steps), kind=kind, term="dumb")
            assert status == 0 and "\x1b" not in out and "\r" not in out and once not in out, out


def main():
    report = Report()
    with tempfile.TemporaryDirectory() as cwd:
        with Server(f"{cwd}/sock", Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stage = Stage(report, f"unix://{cwd}/sock", cwd)
            check_pull(stage, report)
            check_narrow(stage, report)
            check_lines(stage, report)
            server.shutdown()
    report.exit()


main()
