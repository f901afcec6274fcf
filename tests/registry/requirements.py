#!/usr/bin/env python3
"""What the specifications of images and registries demand of a client and of a runtime, each with the test that shows it, or with
the reason for which it does not bind us: requirements.tsv against oci/*-requirements.json of the corpora. And the tests of those
that no other test shows. As root.

    requirements.py [LOGS]      LOGS: the suites' outputs of this run, in which the tests must be told as passed

A line of the table: specification, file:line, tests. Tests stand between " + ": `SUITE: the beginning of its name` or
`unit PROGRAM FUNCTION`; in their place `- reason`.
"""

import contextlib
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../lib"), os.path.join(HERE, "../image"), HERE]
import mayfly  # noqa: E402
import rawtar  # noqa: E402
import registries  # noqa: E402

NAME, POOL = "mayfly-reqs", "10.196.0.0/16"
CORPORA = os.path.join(os.environ.get("MAYFLY_CORPORA", os.path.join(mayfly.ROOT, "../shared/corpora")), "oci")
BINDING = ("MUST", "MUST NOT", "REQUIRED", "SHALL", "SHALL NOT")
# Where a suite's tests are written, for a run without its output.
SOURCES = {"registry": "tests/registry", "registry/trees": "tests/registry/trees.py", "requirements": "tests/registry/requirements.py",
           "images": "tests/image", "images/save": "tests/image/save.py", "images/worker": "tests/hostile",
           "registry/trust": "tests/registry/trust.py"}


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


# ── what no other suite shows ────────────────────────────────────────────────────────────────────────────────────────


class World:
    def __init__(self, instance):
        self.instance, self.client, self.n = instance, instance.client, 0
        self.base = mayfly.busybox().bytes()

    def pull(self, blobs, manifest, bend=None):
        """Of a registry that has it as tag 1: the answer and the image's name."""
        fake = registries.Fake(blobs, {"1": manifest}, bend)
        try:
            self.n += 1
            image = f"{fake.host}/spec/{self.n}:1"
            return self.client.request("POST", "/v1/images/pull", {"image": image}, timeout=90), image
        finally:
            fake.close()

    def runs(self, blobs, manifest, bend=None):
        answer, image = self.pull(blobs, manifest, bend)
        equal(answer.status, 200, answer)
        equal(self.client.run(image, "echo", "up", network="none", pull="never")["out"], b"up\n")
        return image

    def load(self, data):
        return self.client.request("POST", "/v1/images/load", data, {"Content-Type": "application/x-tar"})


def index_of(blobs, *entries):
    return json.dumps({"schemaVersion": 2, "mediaType": rawtar.OCI_INDEX, "manifests": list(entries)}).encode()


def entry(blobs, manifest, media=rawtar.OCI_MANIFEST, arch=rawtar.ARCH):
    return {**blobs.descriptor(manifest, media), "platform": {"os": "linux", "architecture": arch}}


def with_config(blobs, layers, **changes):
    """An image whose configuration differs from what is usual."""
    manifest = json.loads(blobs.image(layers))
    config = {**json.loads(blobs.blobs[manifest["config"]["digest"]]), **changes}
    manifest["config"] = blobs.descriptor(json.dumps(config).encode(), rawtar.OCI_CONFIG)
    return json.dumps(manifest).encode()


def registry_cases(w):
    def warn(handler, _kind, _name):
        end = handler.end_headers
        handler.end_headers = lambda: (handler.send_header("Warning", '299 - "this registry ends tomorrow"'), end())
        return False

    with report.case("spec: warnings of a registry change nothing"):
        blobs = registries.Blobs()
        w.runs(blobs, blobs.image([w.base]), warn)
    for what, status, body, kind in (("a page", 404, b"<html>no</html>", "text/html"), ("nothing", 404, b"", "text/plain"),
                                     ("other JSON", 404, b'{"errors": {"code": 7}}', "application/json"),
                                     ("an unknown code", 404, b'{"errors":[{"code":"OURS_ALONE"}]}', "application/json"),
                                     ("a page", 403, b"<html>no</html>", "text/html")):
        with report.case(f"spec: {status} with {what} is understood"):
            blobs = registries.Blobs()
            answer, image = w.pull(blobs, blobs.image([w.base]), lambda h, k, n, a=(status, body, kind): k == "manifests" and (h.send(*a), True)[1])
            equal(answer.status, status, answer)
            assert image.split("/")[0] in answer.json()["detail"], answer


def manifest_cases(w):
    with report.case("spec: an artifactType, annotations and members that are not known"):
        blobs = registries.Blobs()
        w.runs(blobs, blobs.image([w.base], artifactType="application/vnd.example.thing+type", annotations={"a.b": "c"}, new={"x": [1]},
                                  subject={"mediaType": rawtar.OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 7}))
    with report.case("spec: a configuration with members of somebody else's"):
        blobs = registries.Blobs()
        w.runs(blobs, with_config(blobs, [w.base], theirs={"a": [1, {}]}, author="x"))
    with report.case("spec: a rootfs that is not of layers is an error"):
        blobs = registries.Blobs()
        plain = json.loads(blobs.blobs[json.loads(blobs.image([w.base]))["config"]["digest"]])
        answer, _ = w.pull(blobs, with_config(blobs, [w.base], rootfs={**plain["rootfs"], "type": "files"}))
        assert answer.status in (422, 502), answer
    layer = "application/vnd.oci.image.layer."
    docker = "application/vnd.docker.image.rootfs.diff.tar"
    for media, pack in ((layer + "v1.tar", bytes), (layer + "v1.tar+gzip", rawtar.gz), (layer + "v1.tar+zstd", rawtar.zstd_frame),
                        (layer + "nondistributable.v1.tar", bytes), (layer + "nondistributable.v1.tar+gzip", rawtar.gz),
                        (docker, bytes), (docker + ".gzip", rawtar.gz), (docker + ".zstd", rawtar.zstd_frame)):
        with report.case(f"spec: layers of {media}"):
            blobs = registries.Blobs()
            manifest = json.loads(blobs.image([w.base]))
            manifest["layers"] = [blobs.descriptor(pack(w.base), media)]
            w.runs(blobs, json.dumps(manifest).encode())
    for what, digest in (("sha512", "sha512:" + "0" * 128), ("blake3", "blake3:" + "0" * 64), ("upper case", "sha256:" + "A" * 64),
                         ("no algorithm", "0" * 64), ("a path", "sha256:../../etc/passwd")):
        with report.case(f"spec: a digest of {what} is refused"):
            blobs = registries.Blobs()
            manifest = json.loads(blobs.image([w.base]))
            manifest["layers"][0]["digest"] = digest
            answer, _ = w.pull(blobs, json.dumps(manifest).encode())
            assert answer.status in (422, 502), answer


def index_cases(w):
    with report.case("spec: an index with entries of unknown types"):
        blobs = registries.Blobs()
        manifest = blobs.image([w.base])
        w.runs(blobs, index_of(blobs, entry(blobs, b"?", "application/vnd.example.unknown+json"), entry(blobs, manifest),
                               entry(blobs, b"!", "application/vnd.example.more.v9")))
    with report.case("spec: an index in an index"):
        blobs = registries.Blobs()
        inner = index_of(blobs, entry(blobs, blobs.image([w.base])))
        answer, _ = w.pull(blobs, index_of(blobs, {**blobs.descriptor(inner, rawtar.OCI_INDEX)}))
        assert answer.status in (200, 422), answer
    for what, entries in (("without entries", lambda b: []), ("for another machine", lambda b: [entry(b, b.image([w.base], "s390x"), arch="s390x")])):
        with report.case(f"spec: an index {what} is no image here"):
            blobs = registries.Blobs()
            answer, _ = w.pull(blobs, index_of(blobs, *entries(blobs)))
            equal(answer.status, 422, answer)


def layout_cases(w):
    def layout(version=None, more=()):
        x = rawtar.Layout()
        if version is not None:
            x.entries[0] = rawtar.file("oci-layout", version)
        first = {**x.manifest([w.base]), "annotations": {"org.opencontainers.image.ref.name": "spec/layout:1"}}
        return x.raw({"schemaVersion": 2, "mediaType": rawtar.OCI_INDEX, "manifests": [*more, first]})

    with report.case("spec: a layout with entries of unknown types"):
        unknown = {"mediaType": "application/xml", "digest": "sha256:" + "1" * 64, "size": 7}
        answer = w.load(layout(more=[unknown]))
        equal(answer.status, 201, answer)
        equal(w.client.run("spec/layout:1", "echo", "up", network="none")["out"], b"up\n")
    for what, version in (("of a version to come", b'{"imageLayoutVersion":"2.0.0"}'), ("that does not say its version", b"{}"),
                          ("whose version is a number", b'{"imageLayoutVersion":1}'), ("whose oci-layout is no JSON", b"1.0.0"),
                          ("whose oci-layout is a list", b'["1.0.0"]')):
        with report.case(f"spec: a layout {what} is refused"):
            answer = w.load(layout(version))
            equal((answer.status, answer.json()["type"]), (400, "urn:mayfly:problem:bad_archive"), answer)
    with report.case("spec: what is imported says its machine, and is of layers"):
        answer = w.client.request("POST", "/v1/images/import?ref=spec/import:1", w.base, {"Content-Type": "application/x-tar"})
        equal(answer.status, 201, answer)
        config = w.client.get("/v1/images/spec%2Fimport:1").json()["config"]
        equal((config["architecture"], config["os"], config["rootfs"]), (rawtar.ARCH, "linux", {
            "type": "layers", "diff_ids": ["sha256:" + mayfly.sha256(w.base)]}))


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_table():
    rows = {}
    with open(os.path.join(HERE, "requirements.tsv"), encoding="utf-8") as f:
        for n, line in enumerate(f, 1):
            if not line.strip() or line.startswith("#"):
                continue
            spec, where, shown = line.rstrip("\n").split("\t")
            assert (spec, where) not in rows, f"line {n}: {spec} {where} stands twice"
            assert shown.strip(), f"line {n}: neither a test nor a reason"
            rows[spec, where] = shown
    return rows


def wanted():
    """{(specification, file:line): text} of what binds."""
    found = {}
    for spec in ("distribution-spec", "image-spec"):
        with open(f"{CORPORA}/{spec}-requirements.json", encoding="utf-8") as f:
            for r in json.load(f):
                if r["level"] in BINDING:
                    found[spec, f"{r['file']}:{r['line']}"] = r["text"]
    return found


class Passed:
    """The tests that passed: of suites as their output says, of units by running them."""

    def __init__(self, logs):
        self.logs, self.known = logs, {}

    def unit(self, program, function):
        if program not in self.known:
            path = os.path.join(mayfly.BUILD, "src/test_" + program)
            if not os.path.exists(path):
                raise mayfly.Skip(f"{path} is not built")
            done = subprocess.run([path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=mayfly.ROOT, timeout=300, check=False)
            self.known[program] = done.stdout.decode(errors="replace")
        return re.search(rf"^\[ +OK \] {re.escape(function)}$", self.known[program], re.M)

    def suite(self, name, test):
        path = os.path.join(self.logs or "", name.replace("/", "-"))
        if name == "requirements":
            return any(line.startswith(test) for line in report.names)
        if self.logs and os.path.exists(path):
            return any(line.startswith("ok - " + test) for line in mayfly.read(path).splitlines())
        top = os.path.join(mayfly.ROOT, SOURCES[name])
        files = [top] if os.path.isfile(top) else [os.path.join(top, n) for n in os.listdir(top) if n.endswith(".py")]
        # Without its output: what of the name does not vary stands in the source.
        words = re.sub(r" \d+$", "", test.rsplit(": ", 1)[-1])
        return any(words in mayfly.read(f) for f in files)

    def passed(self, test):
        if test.startswith("unit "):
            return self.unit(*test.split()[1:])
        suite, _, name = test.partition(": ")
        return self.suite(suite, name)


def check_table(logs):
    rows, binding, passed = read_table(), wanted(), Passed(logs)
    tests = sorted({t for shown in rows.values() if not shown.startswith("- ") for t in shown.split(" + ")})
    for spec in ("distribution-spec", "image-spec"):
        with report.case(f"table: each requirement of {spec} has a test or a reason"):
            here, there = {k for k in rows if k[0] == spec}, {k for k in binding if k[0] == spec}
            missing, unknown = sorted(there - here), sorted(here - there)
            assert not missing and not unknown, f"missing: {missing[:10]}, unknown: {unknown[:10]}"
    for test in tests:
        with report.case(f"table: {test}"):
            assert passed.passed(test), "there is no such test, or it did not pass"
    return rows


class Named(mayfly.Report):
    """Remembers what passed."""

    def __init__(self):
        super().__init__()
        self.names = []

    def ok(self, name):
        self.names.append(name)
        super().ok(name)


report = Named()


def main():
    logs = sys.argv[1] if len(sys.argv) > 1 else None
    if os.geteuid() != 0 or not mayfly.users_exist():
        report.skip("requirements", "needs root and the users mayfly and mayfly-net")
        report.exit()
    mayfly.exclusive(NAME)
    with contextlib.suppress(mayfly.Skip), mayfly.Instance(NAME, POOL, registries__enabled="true") as instance:
        w = World(instance)
        for group in (registry_cases, manifest_cases, index_cases, layout_cases):
            group(w)
        with report.case("it stops in order"):
            assert instance.stop(), instance.log_tail()
    if os.path.isdir(CORPORA):
        check_table(logs)
    else:
        report.skip("table", f"{CORPORA} is not here (MAYFLY_CORPORA)")
    report.exit()


if __name__ == "__main__":
    main()
