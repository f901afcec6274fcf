#!/usr/bin/env python3
"""A registry on loopback with one image, whose python3 is a script that shows its arguments. Prints the image's name and serves
until it is killed."""

import os
import signal
import sys

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"), os.path.dirname(os.path.abspath(__file__))]
import mayfly  # noqa: E402
import registries  # noqa: E402

SCRIPT = "#!/bin/sh\nshift\necho python ran \"$*\"\n"


def main():
    root = mayfly.busybox().file("bin/python3", SCRIPT, 0o755)
    blobs = registries.Blobs()

    def bend(handler, kind, name):
        return handler.path == "/v2/" and (handler.send(200, b"{}", "application/json") or True)
    fake = registries.Fake(blobs, {"3": blobs.image([root.bytes()])}, bend)
    print(f"{fake.host}/python:3", flush=True)
    signal.pause()


main()
