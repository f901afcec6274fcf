#!/usr/bin/env python3
"""Records the picture of the README, by tools/record, and looks whether it shows what it has to.

    tests/picture/run.py [--update]      writes docs/images/terminal.svg
"""
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), os.path.join(HERE, "..", "..", "bench")]
import mayfly  # noqa: E402
import peers  # noqa: E402

TITLE = "A terminal: Mayfly runs 1,000 fresh containers while Docker runs a few; then mayflyd is killed while a task prints, " \
        "and not a line is lost"
PICTURE = os.path.join(mayfly.ROOT, "docs/images/terminal.svg")


def record(instance, docker, directory, out):
    env = {**os.environ, "PATH": os.path.dirname(mayfly.program("mayfly")) + ":" + os.environ["PATH"], "PICTURE": HERE,
           "MAYFLY_HOST": "unix://" + instance.socket, "MAYFLY_SOCKET": instance.socket, "DOCKER_SOCKET": docker.socket,
           "MAYFLYD": str(instance.pid("mayflyd"))}
    text = os.path.join(directory, "text")
    command = [mayfly.ROOT + "/tools/record", "--title", TITLE, "--text", text, "--out", out, "bash", HERE + "/scene.sh"]
    subprocess.run(command, env=env, check=True, timeout=300 * mayfly.SLOW)
    return mayfly.read(text)


@contextlib.contextmanager
def started(docker):
    try:
        docker.__enter__()
    except RuntimeError as e:
        raise mayfly.Skip(e) from e
    with contextlib.ExitStack() as stack:
        stack.push(docker)
        yield docker


def check(report, text, update):
    counts = {name: int(n.replace(",", "")) for name, n in re.findall(r"(mayfly|docker) .*? ([\d,]+) containers .* s$", text,
                                                                      re.MULTILINE)}
    report.check("1,000 containers by Mayfly", counts.get("mayfly") == 1000, text)
    report.check("some by Docker, and fewer", 0 < counts.get("docker", 0) < 1000, text)
    report.check("the daemon is killed", "\nmayflyd is killed\n" in text, text)
    killed = text.find("\nmayflyd is killed\n")
    lines = [text.find(f"\nline {n}\n") for n in range(1, 9)]
    report.check("every line is there", all(at >= 0 for at in lines), text)
    if update:  # when what comes is up to the machine; the picture is not taken anew where it came too late
        report.check("before and after", lines[0] < killed < lines[7], text)
    report.check("the task ends well", re.search(r"mayfly wait \$id\n.*?0$", text, re.MULTILINE | re.DOTALL), text)


def main():
    report = mayfly.Report("picture: ")
    mayfly.exclusive("picture")
    with tempfile.TemporaryDirectory(prefix="mayfly-picture-") as directory:
        bench = types.SimpleNamespace(work=directory, rootfs_tar=mayfly.busybox().bytes())
        update, out = "--update" in sys.argv[1:], os.path.join(directory, "terminal.svg")
        try:
            with mayfly.Instance("mfpicture", "10.221.0.0/16") as instance, started(peers.Docker(bench)) as docker:
                instance.load(bench.rootfs_tar, "busybox:demo")
                check(report, record(instance, docker, directory, out), update)
        except mayfly.Skip as e:
            report.skip("the recording", e)
        if update and not report.failed and os.path.exists(out):
            shutil.copy(out, PICTURE)
    report.exit()


if __name__ == "__main__":
    main()
