#!/usr/bin/env python3
"""Each isolation test must fail on a build that is weak where it looks: applies each patch of weakened/ to a copy of the
tree, builds, and runs the test that the patch names.

    tests/isolation/run_weakened.py [--long] [PATCH…]      without --long or names, a sample of two

A patch begins with what is weak, "Test:" the tests of run.py, and "Fails:" what one of their failures must match.
"""

import contextlib
import glob
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.dont_write_bytecode = True

import mayfly  # noqa: E402

TARGETS = [p for p in mayfly.PROGRAMS] + ["mayfly"]
report = mayfly.Report("weakened: ")


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)


class Tree:
    """A copy of the sources with a build directory; patches come and go, so that little is compiled anew."""

    def __init__(self):
        self.top = tempfile.mkdtemp(prefix="mfweak-", dir="/tmp")
        os.chmod(self.top, 0o755)
        self.source = os.path.join(self.top, "source")
        self.build = os.path.join(self.top, "build")
        os.mkdir(self.source)
        names = ["src", "tools", "contrib", "web", "tests/fuzz", "meson.build", "meson_options.txt"]
        archive = run(["tar", "-C", mayfly.ROOT, "-cf", os.path.join(self.top, "source.tar"),
                       *[n for n in names if os.path.exists(os.path.join(mayfly.ROOT, n))]])
        assert archive.returncode == 0, archive.stdout
        run(["tar", "-C", self.source, "-xf", os.path.join(self.top, "source.tar")])
        # The tree's own warnings are for the tree: a weak build may leave something unused.
        setup = run(["meson", "setup", "-Dtests=false", "-Dwerror=false", self.build, self.source])
        assert setup.returncode == 0, setup.stdout.decode()[-2000:]

    @contextlib.contextmanager
    def patched(self, path):
        """Afterwards its files are as they were: a patch that found its place by fuzz may find another one in reverse."""
        names = [os.path.join(self.source, n) for n in re.findall(r"^\+\+\+ b/(\S+)", mayfly.read(path), re.MULTILINE)]
        before = {name: mayfly.read(name) for name in names}
        applied = run(["patch", "-p1", "-s", "-F3", "-i", path], cwd=self.source)
        try:
            assert applied.returncode == 0, f"the patch does not apply: {applied.stdout.decode()[-400:]}"
            yield
        finally:
            for name, text in before.items():
                with open(name, "w", encoding="utf-8") as f:
                    f.write(text)

    def make(self):
        return run(["ninja", "-C", self.build, *TARGETS])

    def close(self):
        shutil.rmtree(self.top, ignore_errors=True)


def header(path, key):
    for line in mayfly.read(path).splitlines():
        if line.startswith(key + ":"):
            return line.split(":", 1)[1].strip()
    raise AssertionError(f"{os.path.basename(path)} has no line '{key}:'")


def fails(tree, path):
    """The test on the weak build: its output, and whether it failed as it must."""
    environment = {**os.environ, "MAYFLY_BUILD": tree.build, "MAYFLY_ISOLATION_NAME": "mfweak", "MAYFLY_LONG": ""}
    done = run([sys.executable, os.path.join(HERE, "run.py"), *header(path, "Test").split()], env=environment, timeout=900)
    out = done.stdout.decode(errors="replace")
    bad = [line for line in out.splitlines() if line.startswith("not ok - ")]
    return out, [line for line in bad if re.search(header(path, "Fails"), line)]


def main():
    long = "--long" in sys.argv or bool(os.environ.get("MAYFLY_LONG"))
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")]
    patches = sorted(glob.glob(os.path.join(HERE, "weakened", "*.patch")))
    if wanted:
        patches = [p for p in patches if os.path.basename(p)[:-len(".patch")] in wanted]
    elif not long:
        patches = random.sample(patches, 2)
    for program in ("meson", "ninja", "patch", "gcc"):
        if not shutil.which(program):
            report.skip("all", f"{program} is not here")
            return
    if os.geteuid() != 0:
        report.skip("all", "needs root")
        return
    tree = Tree()
    try:
        for path in patches:
            name = os.path.basename(path)[:-len(".patch")]
            with report.case(f"{name}: {mayfly.read(path).splitlines()[0]}"):
                with tree.patched(path):
                    made = tree.make()
                    assert made.returncode == 0, f"it does not build: {made.stdout.decode()[-1500:]}"
                    out, bad = fails(tree, path)
                    assert bad, f"no test fails: {out[-1500:]}"
    finally:
        tree.close()


main()
report.exit()
