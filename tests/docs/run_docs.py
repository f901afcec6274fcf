"""See run_docs.sh. Prints one line `ok - …` or `not ok - …` for each block."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", *sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
TIMEOUT = 120

# Commands of ```console blocks, and what runs them.
ELSEWHERE = {
    "sudo ./tools/demo.sh": "tests/demo.sh",
    "sudo ./tools/test.sh": "it runs this",
    "sudo ./tools/setup.sh build": "tools/test.sh",
    "sudo ./tools/setup.sh test": "tools/test.sh",
    "make": "tools/test.sh",
    "make test": "tools/test.sh",
    "make lint": "tools/test.sh",
    "make fuzz": "make release-check",
    "make asan": "make release-check",
    "make bench": "make release-check",
    "make coverage": "make release-check",
    "make release-check": "a release",
    "sudo make install": "tests/vm",
    "MAYFLY_HOST=ssh://user@machine mayfly ps": "tests/cli/remote.sh",
    "MAYFLY_KEY_FILE=~/.mayfly-key mayfly --host https://machine:6293 --pin sha256//HASH ps": "tests/cli/remote.sh",
    "sudo mayfly serve": "tools/test.sh starts the instance so",
}

SOCKET = "/run/mayfly/mayfly.sock"


class Block:
    def __init__(self, file, line, kind):
        self.file, self.line, self.kind = file, line, kind
        self.text = []
        self.expected = None

    def name(self):
        first = next((t for t in self.text if t.strip() and not t.startswith("#")), "")
        return f"{self.file}:{self.line}: {first[:60]}"


def blocks(file):
    """The fenced blocks of a file; a ```text block that follows another closely is what that one must write."""
    found, open_block, closed_at = [], None, -10
    for number, line in enumerate((ROOT / file).read_text().splitlines(), 1):
        fence = re.match(r"^```(\w*)\s*$", line)
        if not fence:
            if open_block:
                open_block.text.append(line)
            continue
        if open_block:
            previous = found[-1] if found else None
            if open_block.kind == "text" and previous and open_block.line - closed_at <= 2:
                previous.expected = open_block.text
            elif open_block.kind != "text":
                found.append(open_block)
                closed_at = number
            open_block = None
        else:
            open_block = Block(file, number, fence.group(1))
    if open_block:
        raise SystemExit(f"{file}:{open_block.line}: a block that does not end")
    return found


def environment(directory):
    env = dict(os.environ, HOME=directory, LC_ALL="C.UTF-8")
    build = env.get("MAYFLY_BUILD")
    if build:
        env["PATH"] = build + ":" + env["PATH"]
    return env


def matches(expected, output):
    pattern = "\n".join(re.escape(line).replace("…", ".*") for line in expected)
    return re.fullmatch(pattern, output.rstrip("\n")) is not None


def run(block, directory, socket):
    text = "\n".join(block.text).replace(SOCKET, socket) + "\n"
    command = ["bash", "-eu", "-o", "pipefail", "-c", text] if block.kind == "sh" else ["python3", "-c", text]
    try:
        done = subprocess.run(command, cwd=directory, env=environment(directory), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"took longer than {TIMEOUT} s"
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        return f"exit code {done.returncode}:\n{output}"
    if block.expected is not None and not matches(block.expected, output):
        return "wrote something else:\n" + output + "\ninstead of:\n" + "\n".join(block.expected)
    return None


def check_console(block):
    for line in block.text:
        command = re.sub(r"\s+#.*", "", line).strip()
        if command and not command.startswith("#") and command not in ELSEWHERE:
            return f"no test runs '{command}'"
    return None


def check_keys():
    """Every key of the configuration stands in its document with its default."""
    text = subprocess.run(["mayfly", "serve", "--help"], env=environment("/"), stdout=subprocess.PIPE, check=True).stdout
    table = (ROOT / "docs/configuration.md").read_text().replace("`", "")
    keys = re.findall(r"^  --(\S+) +.* \(default: (.*)\)$", text.decode(), re.MULTILINE)
    keys = [(key, default) for key, default in keys if key != "config"]
    missing = [f"{key} ({default})" for key, default in keys if f"| {key} | {default} |" not in table]
    if not keys:
        return "mayfly serve --help lists no key"
    return "not in the table: " + ", ".join(missing) if missing else None


def report(name, fault):
    if not fault:
        print(f"ok - {name}")
    else:
        print(f"not ok - {name}")
        print("\n".join("# " + line for line in fault.splitlines()))
    sys.stdout.flush()
    return bool(fault)


def main():
    host = os.environ.get("MAYFLY_HOST", "unix://" + SOCKET)
    socket = host.removeprefix("unix://")
    failed = 0
    for file in FILES:
        if not (ROOT / file).exists():
            continue
        with tempfile.TemporaryDirectory(prefix="mayfly-docs-") as directory:
            for block in blocks(file):
                if block.kind in ("sh", "python"):
                    fault = run(block, directory, socket)
                elif block.kind == "console":
                    fault = check_console(block)
                else:
                    continue
                failed += report(block.name(), fault)
    failed += report("docs/configuration.md has every key", check_keys())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
