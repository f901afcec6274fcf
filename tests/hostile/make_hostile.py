#!/usr/bin/env python3
"""Writes hostile and odd archives of images, and what should become of each.

    make_hostile.py OUT [--per-family N] [--only PATTERN]

OUT gets import/*.tar*, load/*.tar*, and expect.json: a list of
    {"file", "how": "import"|"load", "family", "name",
     "expect": "refuse"|"accept",
     "reason": part of the error's text or null,
     "layers": paths of the layers' archives (for tests of the worker alone) or absent,
     "check": {path: "absent" | "dir" | "file:content" | "link:target" | "fifo"}}
Paths of `check` are those inside the image. Every archive that leads outside leads to the canary CANARY, which must neither
be read, changed nor made. N (1 to 50) varies names, depths and spellings; the same N makes the same archives.

Bombs expect a limit of at most 256 MiB a layer (images.max_layer_bytes).
"""
import argparse
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys

CANARY = "/tmp/mayfly-hostile-canary"
BLOCK = 512
MIB = 1 << 20


# ── a raw writer: no library refuses anything here ──────────────────────────────────────────────────────────────────

def number(value, width):
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    data = (value & ((1 << (8 * (width - 1))) - 1)).to_bytes(width - 1, "big")
    return (b"\xff" if value < 0 else b"\x80") + data


def raw(s):
    return s if isinstance(s, bytes) else s.encode()


def header(name, kind, size, link="", mode=0o644, uid=0, gid=0, mtime=1000000000, dev=(0, 0), prefix=b"", gnu=False):
    h = bytearray(BLOCK)
    h[0:100] = raw(name)[:100].ljust(100, b"\0")
    h[100:108] = number(mode, 8)
    h[108:116] = number(uid, 8)
    h[116:124] = number(gid, 8)
    h[124:136] = number(size, 12)
    h[136:148] = number(mtime, 12)
    h[148:156] = b" " * 8
    h[156:157] = raw(kind)
    h[157:257] = raw(link)[:100].ljust(100, b"\0")
    h[257:265] = b"ustar  \0" if gnu else b"ustar\x0000"
    h[329:337] = number(dev[0], 8)
    h[337:345] = number(dev[1], 8)
    h[345:345 + len(prefix)] = prefix
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


def padded(data):
    return data + b"\0" * (-len(data) % BLOCK)


def pax(records):
    data = b""
    for key, value in records.items():
        body = b" " + raw(key) + b"=" + raw(value) + b"\n"
        n = len(body) + 1
        while len(str(n)) + len(body) != n:
            n = len(str(n)) + len(body)
        data += str(n).encode() + body
    return header("pax", "x", len(data)) + padded(data)


def entry(name, kind="0", data=b"", link="", records=None, **more):
    records = dict(records or {})
    data = raw(data)
    if len(raw(name)) > 100:
        records.setdefault("path", name)
    if len(raw(link)) > 100:
        records.setdefault("linkpath", link)
    return (pax(records) if records else b"") + header(name, kind, len(data), link, **more) + padded(data)


def tar(*entries):
    return b"".join(entries) + b"\0" * (2 * BLOCK)


def file(name, data="x", **more):
    return entry(name, "0", data, **more)


def directory(name, **more):
    return entry(name, "5", mode=more.pop("mode", 0o755), **more)


def symlink(name, target):
    return entry(name, "2", link=target, mode=0o777)


def hardlink(name, target):
    return entry(name, "1", link=target)


# ── families ────────────────────────────────────────────────────────────────────────────────────────────────────────

class Case:
    def __init__(self, name, layers, expect="accept", reason=None, check=None, archive=None, how=None, suffix=""):
        self.name, self.layers, self.expect, self.reason = name, layers, expect, reason
        self.check, self.archive, self.suffix = check or {}, archive, suffix
        self.how = how or ("import" if archive is None and len(layers) == 1 else "load")


FAMILIES = {}


def family(fn):
    FAMILIES[fn.__name__] = fn
    return fn


def up(i):
    return "../" * (1 + i % 12)


@family
def absolute_path(i):
    slashes = "/" * (1 + i % 5)
    yield Case(f"absolute-{i}", [tar(file(slashes + CANARY.lstrip("/") + f"/{i}", "in"))],
               check={CANARY + f"/{i}": "file:in"})


@family
def dot_dot(i):
    name = ["{u}x", "a/{u}../x", "./{u}{c}/x", "/{u}x", "a/b/../../../{u}x"][i % 5]
    yield Case(f"dotdot-{i}", [tar(file("fine"), file(name.format(u=up(i), c=CANARY[1:])))], "refuse",
               "leads out of the root")


@family
def dot_dot_inside(i):
    yield Case(f"inside-{i}", [tar(directory("a/"), file("a/" * (1 + i % 3) + "../" * (1 + i % 3) + f"f{i}", "in"))],
               check={f"f{i}": "file:in"})


@family
def symlink_out(i):
    target = [CANARY, up(i) * 3 + CANARY[1:], "/proc/self/root" + CANARY, "/proc/1/cwd" + CANARY][i % 4]
    yield Case(f"symlink-out-{i}", [tar(symlink("d", target), file(f"d/file{i}", "in"), symlink("d/link", "/etc/passwd"),
                                        directory("d/dir/"), hardlink("d/hard", f"d/file{i}"))],
               check={"d": "link:" + target})


@family
def symlink_chain(i):
    links = [symlink(f"l{k}", f"l{k + 1}") for k in range(i % 20)]
    yield Case(f"chain-{i}", [tar(*links, symlink(f"l{i % 20}", "/../" + up(i) + CANARY[1:]), file("l0/x", "in"))])


@family
def symlink_loop(i):
    n = 1 + i % 10
    links = [symlink(f"l{k}", f"l{(k + 1) % n}") for k in range(n)]
    yield Case(f"loop-{i}", [tar(*links, file("l0/x"))], "refuse", "no directory")


@family
def symlink_named_dot(i):
    name = [".", "./", "/", "./.", "a/.."][i % 5]
    yield Case(f"dot-{i}", [tar(directory("a/"), symlink(name, CANARY), file("x"))], "refuse", "root")


@family
def hardlink_out(i):
    target = [up(i) + "etc/shadow", CANARY + "/secret", "/etc/shadow", "a/../" + up(i) + CANARY[1:]][i % 4]
    reason = "leads out of the root" if "../" in target else "no file of any layer"
    yield Case(f"hardlink-out-{i}", [tar(file("fine"), hardlink("h", target))], "refuse", reason)


@family
def hardlink_to_symlink(i):
    target = [CANARY + "/secret", up(i) + "etc/shadow"][i % 2]
    yield Case(f"hard-sym-{i}", [tar(symlink("s", target), hardlink("h", "s"))], check={"h": "link:" + target})


@family
def hardlink_through_symlink(i):
    target = [CANARY, up(i) * 4 + CANARY[1:]][i % 2]
    yield Case(f"hard-through-{i}", [tar(symlink("d", target), hardlink("h", "d/secret"))], "refuse",
               "no file of any layer")


@family
def device(i):
    kind = "34"[i % 2]
    yield Case(f"device-{i}", [tar(entry(f"dev/d{i}", kind, dev=(8, 0)), entry("null", "3", dev=(1, 3)),
                                   entry("pipe", "6"), file("dev/ok", "in"))],
               check={f"dev/d{i}": "absent", "null": "absent", "pipe": "fifo", "dev/ok": "file:in"})


@family
def overlay_whiteout_device(i):
    """A 0:0 device is what overlayfs takes for a whiteout: no layer may carry one."""
    yield Case(f"whdev-{i}", [tar(file(f"f{i}", "in")), tar(entry(f"f{i}", "3", dev=(0, 0)))],
               check={f"f{i}": "file:in"})


@family
def whiteout_through_symlink(i):
    target = [CANARY, up(i) * 4 + CANARY[1:]][i % 2]
    names = ["d/.wh.secret", "d/.wh..wh..opq"][i // 2 % 2]
    yield Case(f"whiteout-sym-{i}", [tar(symlink("d", target)), tar(file(names))], check={"d": "link:" + target})
    yield Case(f"whiteout-same-{i}", [tar(symlink("d", target), file(names), file("keep", "in"))],
               check={"keep": "file:in"})


@family
def whiteout_bad(i):
    name = [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh../x", ".wh.x/y"][i % 6]
    yield Case(f"whiteout-bad-{i}", [tar(file(name))], "refuse", "whiteout")


@family
def whiteout_everything(i):
    yield Case(f"whiteout-all-{i}", [tar(file("a/b/c", "1"), file("d", "2")), tar(file(".wh..wh..opq"), file("e", "3"))],
               check={"a": "absent", "d": "absent", "e": "file:3", ".wh..wh..opq": "absent"})


@family
def usr_merge(i):
    depth = "/".join(["x"] * (i % 4 + 1))
    target = ["usr/lib", "/usr/lib", "./usr/../usr/lib"][i % 3]
    yield Case(f"usr-merge-{i}", [tar(directory("usr/"), directory("usr/lib/"), file("usr/lib/old", "1"),
                                      symlink("lib", target)), tar(file(f"lib/{depth}/foo", "2"), file("lib/old", "3"))],
               check={"lib": "link:" + target, f"usr/lib/{depth}/foo": "file:2", "usr/lib/old": "file:3"})


@family
def mount_targets(i):
    target = [CANARY, "/", "../../../../..", "/proc/self/fd"][i % 4]
    names = ["proc", "sys", "dev", "etc/resolv.conf", "etc/hosts", "etc/hostname", "tmp", "run", "dev/shm"]
    yield Case(f"targets-{i}", [tar(file("bin/x", "in"), *[symlink(n, target) for n in names[i % 3:8]])],
               check={"bin/x": "file:in"})


@family
def identities(i):
    bad = [65536, 70000, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40, -1, -2 ** 31][i % 9]
    who = {"uid": bad} if i % 2 else {"gid": bad}
    yield Case(f"ids-{i}", [tar(file("f", **who))], "refuse", "owner")
    yield Case(f"ids-pax-{i}", [tar(file("f", records={"uid" if i % 2 else "gid": str(abs(bad))}))],
               "refuse" if abs(bad) > 65535 else "accept", "owner" if abs(bad) > 65535 else None)
    yield Case(f"ids-most-{i}", [tar(file("f", "in", uid=65535, gid=65535, mode=0o6755))], check={"f": "file:in"})


@family
def long_names(i):
    name = ["n" * (256 + i), "d/" * (300 + i) + "f", "a" * 200 + "/" + "b" * 250 + "/" + "/".join(["c" * 240] * 20)][i % 3]
    yield Case(f"long-{i}", [tar(file(name))], "refuse", None)
    yield Case(f"long-fine-{i}", [tar(file("n" * 255, "in"), file("d/" * 200 + "f", "in"))],
               check={"n" * 255: "file:in", "d/" * 200 + "f": "file:in"})


@family
def file_as_parent(i):
    below = "x/" * (i % 5) + "y"
    other = [file("f"), entry("f", "6")][i % 2]
    yield Case(f"parent-{i}", [tar(other, file("f/" + below))], "refuse", "no directory")


@family
def odd_names(i):
    name = ["\xfcml\xe4ut-\u20ac", b"latin-\xfc\xff", "new\nline", "tab\tquote\"back\\slash", " lead", "\x1b[31mred",
            "\u202eevil", "-rf", "*", "$(id)"][i % 10]
    yield Case(f"odd-{i}", [tar(file(name, "in"))],
               check={os.fsdecode(raw(name)): "file:in"})


@family
def attributes(i):
    records = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": CANARY,
               "SCHILY.xattr.user.note": "n" * (i % 100 + 1), "SCHILY.xattr.security.selinux": "x"}
    yield Case(f"xattr-{i}", [tar(directory("d/", records=records), file("d/f", "in", records=records))],
               check={"d/f": "file:in"})


@family
def truncated(i):
    data = tar(file("a", "x" * 5000), file("b", "y" * 5000))
    cut = [600, 3000, 5700, 6700, 100, 512 + 4980][i % 6] + i // 6
    yield Case(f"cut-{i}", [data[:cut]], "refuse", None)
    packed = gzip.compress(data, mtime=0)
    yield Case(f"cut-gzip-{i}", [packed[:len(packed) - 1 - i]], "refuse", None, suffix=".gz")
    yield Case(f"garbage-gzip-{i}", [packed + b"garbage" * (i + 1)], "refuse", "followed", suffix=".gz")


@family
def damaged(i):
    data = bytearray(tar(file("a", "x" * 5000), file("b", "y")))
    data[6000 + i] ^= 0x55
    good = bytearray(tar(file("a")))
    good[100 + i] ^= 0x41
    yield Case(f"damaged-{i}", [bytes(good)], "refuse", None)
    yield Case(f"not-tar-{i}", [hashlib.sha256(str(i).encode()).digest() * 64], "refuse", None)


@family
def sparse_giant(i):
    size = [1 << 40, (1 << 62) + i, 1 << 63 - 1][i % 3]
    h = bytearray(header("s", "S", BLOCK, gnu=True))
    h[386:398], h[398:410] = number(0, 12), number(BLOCK, 12)
    h[483:495] = number(size, 12)
    h[148:156] = b" " * 8
    h[148:156] = b"%06o\0 " % sum(h)
    yield Case(f"sparse-{i}", [tar(bytes(h) + b"x" * BLOCK)], "refuse", None)
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s",
               "GNU.sparse.realsize": str(size)}
    yield Case(f"sparse-pax-{i}", [tar(pax(records) + header("s", "0", BLOCK) + padded(b"1\n0\n0\n"))], "refuse", None)


def stream(command, size):
    p = subprocess.run(f"head -c {size} /dev/zero | {command}", shell=True, check=True, stdout=subprocess.PIPE)
    return p.stdout


@family
def bombs(i):
    if i > 2:
        return
    size = 320 * MIB
    head = header("zeros", "0", size)
    if i == 0:
        yield Case("bomb-gzip", [gzip.compress(head, mtime=0) + stream("gzip -9n", size + 1024)], "refuse", None,
                   suffix=".gz")
    elif i == 1:
        small = subprocess.run(["zstd", "-q"], input=head, stdout=subprocess.PIPE, check=True).stdout
        yield Case("bomb-zstd", [small + stream("zstd -q -9", size + 1024)], "refuse", None, suffix=".zst")
    else:
        yield Case("bomb-tail", [gzip.compress(tar(file("f")), mtime=0) + stream("gzip -9n", size)], "refuse", None,
                   suffix=".gz")


# ── archives for load ───────────────────────────────────────────────────────────────────────────────────────────────

def sha(data):
    return hashlib.sha256(data).hexdigest()


def plain(data):
    if data[:2] != b"\x1f\x8b":
        return data
    return gzip.decompress(data)


def config_of(layers, **more):
    return json.dumps({"architecture": ARCH, "os": "linux", "config": {"Cmd": ["/x"]},
                       "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(plain(d)) for d in layers]},
                       **more}).encode()


def docker_save(layers, tag):
    """As `docker save` of today: manifest.json and an OCI layout."""
    config = config_of(layers)
    manifest = json.dumps([{"Config": "blobs/sha256/" + sha(config), "RepoTags": [tag],
                            "Layers": ["blobs/sha256/" + sha(d) for d in layers]}]).encode()
    return tar(*[file("blobs/sha256/" + sha(d), d) for d in layers], file("blobs/sha256/" + sha(config), config),
               file("manifest.json", manifest))


ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "amd64")
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def descriptor(media, data, **more):
    return {"mediaType": media, "digest": "sha256:" + sha(data), "size": len(data), **more}


def oci(layer, change=None):
    """An OCI layout whose parts `change` may spoil: called with a dict of the documents before they are written."""
    parts = {"config": json.loads(config_of([layer]))}
    config = json.dumps(parts["config"]).encode()
    parts["manifest"] = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config),
                         "layers": [descriptor(LAYER, layer)]}
    if change:
        change(parts)
    manifest = json.dumps(parts["manifest"]).encode()
    parts["index"] = {"schemaVersion": 2, "manifests": [
        descriptor(MANIFEST, manifest, annotations={"org.opencontainers.image.ref.name": "hostile/oci:1"})]}
    if "after" in parts:
        parts["after"](parts)
    return tar(file("oci-layout", '{"imageLayoutVersion":"1.0.0"}'), file("blobs/sha256/" + sha(layer), layer),
               file("blobs/sha256/" + sha(config), config), file("blobs/sha256/" + sha(manifest), manifest),
               file("index.json", json.dumps(parts["index"])))


def lies(i):
    layer = tar(file("x", f"layer {i}"))

    def set_in(*path):
        *way, last, value = path

        def change(parts):
            at = parts
            for p in way:
                at = at[p]
            at[last] = value
        return change

    def after(*path):
        return lambda parts: parts.update(after=set_in("index", "manifests", 0, *path))

    escape = "sha256:" + "../" * 21 + "x"
    return [
        ("layer-digest", set_in("manifest", "layers", 0, "digest", "sha256:" + "1" * 64)),
        ("layer-size", set_in("manifest", "layers", 0, "size", len(layer) + 1)),
        ("layer-size-negative", set_in("manifest", "layers", 0, "size", -1)),
        ("layer-path", set_in("manifest", "layers", 0, "digest", escape)),
        ("layer-media", set_in("manifest", "layers", 0, "mediaType", "application/vnd.in-toto+json")),
        ("config-digest", set_in("manifest", "config", "digest", "sha256:" + "2" * 64)),
        ("config-path", set_in("manifest", "config", "digest", "../../../../etc/passwd")),
        ("config-media", set_in("manifest", "config", "mediaType", "application/vnd.cncf.helm.config.v1+json")),
        ("ambiguous", set_in("manifest", "manifests", [])),
        ("schema-1", set_in("manifest", "schemaVersion", 1)),
        ("layers-missing", set_in("manifest", "layers", [])),
        ("layers-many", set_in("manifest", "layers", [descriptor(LAYER, layer)] * 500)),
        ("manifest-digest", after("digest", "sha256:" + "3" * 64)),
        ("manifest-path", after("digest", escape)),
        ("manifest-size", after("size", 1)),
        ("other-machine", after("platform", {"os": "linux", "architecture": "s390x"})),
        ("attestation", after("annotations", {"vnd.docker.reference.type": "attestation-manifest"})),
    ]


@family
def lying_oci(i):
    all_lies = lies(i)
    name, change = all_lies[i % len(all_lies)]
    yield Case(f"oci-{name}-{i}", [], "refuse", None, archive=oci(tar(file("x", f"layer {i}")), change))


@family
def lying_docker(i):
    layer = tar(file("x", f"layer {i}"))
    config = config_of([layer])
    wrong = config_of([tar(file("other"))])

    def saved(config_name="c.json", data=config, layers=("l/layer.tar",), tags=("hostile/docker:1",), more=b""):
        manifest = json.dumps([{"Config": config_name, "RepoTags": list(tags), "Layers": list(layers)}])
        return tar(file("c.json", data), file("l/layer.tar", layer), more, file("manifest.json", manifest))

    kinds = [
        ("diff-id", saved(data=wrong)),
        ("config-out", saved(config_name="../../../../etc/passwd")),
        ("config-absolute", saved(config_name=CANARY + "/secret")),
        ("config-missing", saved(config_name="none.json")),
        ("config-name", tar(file("blobs/sha256/" + "1" * 64, config), file("l/layer.tar", layer), file(
            "manifest.json", json.dumps([{"Config": "blobs/sha256/" + "1" * 64, "Layers": ["l/layer.tar"]}])))),
        ("layer-out", saved(layers=["../../../../etc/passwd"])),
        ("layer-link", saved(layers=["evil"], more=symlink("evil", CANARY + "/secret"))),
        ("layer-link-up", saved(layers=["a/evil"], more=symlink("a/evil", "../../../../etc/passwd"))),
        ("layer-link-loop", saved(layers=["e1"], more=symlink("e1", "e2") + symlink("e2", "e1"))),
        ("layer-hard-out", saved(layers=["evil"], more=hardlink("evil", "etc/passwd"))),
        ("layer-count", saved(layers=["l/layer.tar", "l/layer.tar"])),
        ("tag", saved(tags=["../../x:y"])),
        ("no-image", tar(file("manifest.json", "[]"))),
        ("no-json", tar(file("manifest.json", "{"))),
        ("twice", tar(file("manifest.json", '[{"Config":"a","Config":"b","Layers":[]}]'))),
        ("deep", tar(file("manifest.json", "[" * 10000))),
        ("empty", tar(file("x"))),
        ("windows", saved(data=config_of([layer], os="windows"))),
    ]
    name, archive = kinds[i % len(kinds)]
    yield Case(f"docker-{name}-{i}", [], "refuse", None, archive=archive)


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

def write(out, family_name, case):
    if case.how == "import":
        path = f"import/{case.name}.tar{case.suffix}"
        data = case.layers[0]
    else:
        path = f"load/{case.name}.tar"
        data = case.archive or docker_save(case.layers, f"hostile/{case.name.lower()}:1")
    item = {"file": path, "how": case.how, "family": family_name, "name": case.name, "expect": case.expect,
            "reason": case.reason, "check": case.check}
    with open(os.path.join(out, path), "wb") as f:
        f.write(data)
    if case.layers:
        item["layers"] = []
        for k, layer in enumerate(case.layers):
            item["layers"].append(f"layers/{case.name}.{k}")
            with open(os.path.join(out, item["layers"][-1]), "wb") as f:
                f.write(layer)
    return item


def make(out, per_family, only=""):
    for name in "import", "load", "layers":
        os.makedirs(os.path.join(out, name), exist_ok=True)
    expect = []
    for name, fn in FAMILIES.items():
        if re.search(only, name):
            for i in range(per_family):
                expect += [write(out, name, case) for case in fn(i)]
    with open(os.path.join(out, "expect.json"), "w") as f:
        json.dump(expect, f, indent=1)
    return expect


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out")
    p.add_argument("--per-family", type=int, default=3)
    p.add_argument("--only", default="")
    a = p.parse_args()
    expect = make(a.out, a.per_family, a.only)
    print(f"{len(expect)} archives of {len(FAMILIES)} families in {a.out}")


if __name__ == "__main__":
    sys.exit(main())
