#!/usr/bin/env python3
"""The conformance suite over the Docker engine, with a Podman service in namespaces of its own, which ends with them. Called by
run.sh; needs Debian's podman. As over Docker, the tests of many containers make some only unless --long is given.

    tests/conformance/run.sh --engine podman [--long] [--only TEXT]"""

import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../docker"))
import dockers  # noqa: E402
import mayfly  # noqa: E402


def main():
    arguments = [a for a in sys.argv[1:] if a != "--long"]
    sample = "0" if "--long" in sys.argv or os.environ.get("MAYFLY_LONG") else "1"
    directory, name = dockers.enter()
    report = mayfly.Report("conformance/podman: ")
    try:
        podman = dockers.Podman(directory, name).start()
    except mayfly.Skip as e:
        report.skip("all", e)
        report.exit()
    podman.image(directory)
    state = os.path.join(directory, "state")
    os.mkdir(state)
    status = subprocess.call([os.path.join(dockers.build, "tests/conformance/conformance"), "--engine", "docker", "--docker-host",
                              podman.host, "--name", name, "--data", state, "--sample", sample, *arguments],
                             env={**os.environ, "MAYFLY_SLOW": os.environ.get("MAYFLY_SLOW", "5")})
    with report.case("no container and no record is left"):
        assert mayfly.wait_until(lambda: not podman.containers(), 10), podman.containers()
        left = [f for f in os.listdir(os.path.join(state, "docker")) if not f.startswith(".")]
        assert not left, left
    podman.stop()
    if report.failed or status:
        sys.stderr.write(mayfly.read(podman.log)[-2000:])
    sys.exit(1 if report.failed or status else 0)


main()
