"""See run_docs.sh. Prints one line `ok - …` or `not ok - …` for each block."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import mayfly  # noqa: E402

FILES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", *sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
TIMEOUT = 120

# Commands of ```console blocks, and what runs them.
ELSEWHERE = {
    "sudo ./tools/demo.sh": "tests/demo.sh",
    "sudo ./tools/test.sh": "it runs this",
    "sudo ./tools/setup.sh build": "tools/test.sh",
    "sudo ./tools/setup.sh build demo": "tools/demo.sh",
    "./tools/busybox-image.sh | sudo mayfly import - busybox:demo": "start() below, and tools/demo.sh",
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
    "mayfly --host https://machine:6293 --pin sha256//HASH ps": "tests/cli/remote.sh",
    "docker save busybox:1.36 | mayfly load": "tests/image/save.py, group docker",
    "mayfly save busybox:demo | docker load": "tests/image/save.py, group docker",
    "mayfly save -o demo.tar busybox:demo": "tests/image/save.py, group command",
    "skopeo copy docker-archive:demo.tar:busybox:demo docker://registry.example/busybox:demo": "tests/image/save.py, group skopeo",
    "skopeo copy oci-archive:demo.tar:demo docker://registry.example/busybox:demo": "tests/image/save.py, group skopeo",
    "podman load -i demo.tar": "tests/image/save.py, group podman",
    "docker export some-container | mayfly import - mine:1 --change 'CMD [\"sh\"]'": "docs/first-task.md, with tar",
    "sudo mayfly serve": "tools/test.sh starts the instance so",
    "sudo mayfly serve --engine docker --docker-host unix:///var/run/docker.sock": "tests/api/engines.py, with a Docker of its own",
    "systemctl edit podman.socket": "a file of the machine's",
    "install -D -m 644 contrib/systemd/mayflyd-docker-only.conf /etc/systemd/system/mayflyd.service.d/docker.conf": "tests/docker/units.sh",
    "systemctl mask mayfly-launcher.service mayfly-netd.service mayfly-dns.service": "a file of the machine's",
}

# What the documents show, and what takes its place: addresses that the machine may use for something else.
SOCKET = "/run/mayfly/mayfly.sock"
ADDRESS = "127.0.0.1:6293"
PORTS = ("8443", "8444", "8445")

# Commands that a machine may lack, and where Debian has them.
NEEDS = (("go run", "go", "golang-go"), ("node ", "node", "nodejs"), ("cc ", "cc", "gcc"), ("haproxy ", "haproxy", "haproxy"),
         ("nginx ", "nginx", "nginx-light"), ("openssl ", "openssl", "openssl"), ("-lcurl", "curl-config", "libcurl4-openssl-dev"))

# The first line of a block that is a file: its name, as a comment of its language.
FILE_NAME = re.compile(r"^(?:#|//|/\*|;)\s*([\w.-]+\.(?:py|mjs|go|c|cfg|conf|yaml))\b")
FILES_OF = ("python", "js", "go", "c", "haproxy", "nginx", "yaml")


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


def python_with_modules(directory):
    """A directory for the PATH where python3 is one that has the modules that programs use; Debian's, if the first lacks some."""
    for modules in ("requests, websocket", "requests"):
        for python in (shutil.which("python3"), "/usr/bin/python3"):
            if python and subprocess.run([python, "-c", "import " + modules], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                bin_directory = os.path.join(directory, "bin")
                os.mkdir(bin_directory)
                os.symlink(python, os.path.join(bin_directory, "python3"))
                return bin_directory + ":"
    return ""


def environment(directory, path=""):
    env = dict(os.environ, HOME=directory, LC_ALL="C.UTF-8", GO111MODULE="off")
    env["PATH"] = f"{path}{mayfly.BUILD}:{os.path.dirname(mayfly.program('mayfly'))}:{env['PATH']}"
    return env


def matches(expected, output):
    pattern = "\n".join(re.escape(line).replace("…", ".*") for line in expected)
    return re.fullmatch(pattern, output.rstrip("\n")) is not None


class Session:
    """The blocks of one file, in order: they share a directory, and what they export."""

    def __init__(self, directory, env, replace):
        self.directory, self.env, self.replace = directory, env, replace
        self.exports = os.path.join(directory, ".exports")
        self.unused = {}

    def text(self, block):
        text = "\n".join(block.text) + "\n"
        for shown, real in self.replace:
            text = text.replace(shown, real)
        return text

    def save(self, block, name):
        with open(os.path.join(self.directory, name), "w") as f:
            f.write(self.text(block))
        self.unused[name] = block

    def lacks(self, text):
        """Why the block cannot run here, or None."""
        for name in re.findall(r"python3 ([\w.]+\.py)", text):
            program = "\n".join(self.unused[name].text) if name in self.unused else ""
            for module in ("requests", "websocket"):
                if re.search(rf"^import {module}$", program, re.MULTILINE) and subprocess.run(
                        ["python3", "-c", "import " + module], env=self.env, stderr=subprocess.DEVNULL, check=False).returncode:
                    return f"python3-{module} is not installed"
        return next((f"{package} is not installed" for words, program, package in NEEDS
                     if words in text and not shutil.which(program, path=self.env["PATH"])), None)

    def run(self, block):
        """None, or what is wrong."""
        text = self.text(block)
        self.unused = {name: b for name, b in self.unused.items() if name not in text}
        if block.kind == "python":
            text = f"exec python3 - <<'PYTHON_ENDS'\n{text}PYTHON_ENDS\n"
        text = f"[ ! -f {self.exports} ] || . {self.exports}; trap 'export -p >{self.exports}' EXIT\n" + text
        try:
            done = subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", text], cwd=self.directory, env=self.env,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=TIMEOUT * mayfly.SLOW, check=False)
        except subprocess.TimeoutExpired:
            return f"took longer than {TIMEOUT} s"
        output = done.stdout.decode("utf-8", "replace")
        for shown, real in self.replace:
            output = output.replace(real, shown)
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


def anchors(file):
    """Those of the headings, as web pages of Git make them."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"```.*?```", "", (ROOT / file).read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def check_links(file):
    """Links within the project lead to files and headings that are there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / file).read_text()):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = os.path.normpath(os.path.join(os.path.dirname(file), path)) if path else file
        if not (ROOT / target).exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return "broken: " + ", ".join(broken) if broken else None


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


def check_file(file, env, replace):
    """How many of its blocks fail."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="mayfly-docs-") as directory:
        session = Session(directory, environment(directory, env), replace)
        session.env.update(MAYFLY_HOST="unix://" + dict(replace)[SOCKET])
        for block in blocks(file):
            name = FILE_NAME.match(block.text[0]) if block.text and block.kind in FILES_OF else None
            lacks = session.lacks(session.text(block)) if block.kind == "sh" else None
            if name:
                session.save(block, name.group(1))
            elif lacks:
                print(f"skip - {block.name()}: {lacks}")
                session.unused.clear()
            elif block.kind in ("sh", "python"):
                failed += report(block.name(), session.run(block))
            elif block.kind == "console":
                failed += report(block.name(), check_console(block))
            elif block.kind in FILES_OF:
                failed += report(block.name(), "the block has no file name in its first line, so that nothing runs it")
        for name, block in session.unused.items():
            failed += report(block.name(), f"no command uses {name}")
    return failed


def start(instance):
    instance.load(subprocess.run([ROOT / "tools/busybox-image.sh"], stdout=subprocess.PIPE, check=True).stdout, "busybox:demo")


def main():
    """With the names of files: only those."""
    mayfly.exclusive("docs")
    port = mayfly.free_port()
    ports = [(":" + shown, f":{mayfly.free_port()}") for shown in PORTS]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="mayfly-docs-") as tools, \
            mayfly.Instance("mfdocs", "10.218.0.0/16", listen=f"tcp://127.0.0.1:{port}", trusted_proxies="127.0.0.1") as i:
        start(i)
        replace = [(SOCKET, i.socket), (ADDRESS, f"127.0.0.1:{port}"), *ports]
        for file in sys.argv[1:] or FILES:
            if (ROOT / file).exists():
                failed += report(f"{file}: links", check_links(file))
                failed += check_file(file, python_with_modules(tempfile.mkdtemp(dir=tools)), replace)
    failed += report("docs/configuration.md has every key", check_keys())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
