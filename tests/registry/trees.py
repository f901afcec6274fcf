#!/usr/bin/env python3
"""Trees of images that were pulled from Debian's docker-registry, against umoci's unpack of the same images: names, modes, owners,
times, links, attributes, contents; device nodes and trusted.* aside. As root.

    trees.py             every image of the corpora (MAYFLY_CORPORA), and made ones: real files, random layers, odd attributes
    trees.py PATTERN     only those whose labels match
"""

import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../lib"), os.path.join(HERE, "../hostile"), HERE]
import make_hostile as made  # noqa: E402
import mayfly  # noqa: E402
import registries  # noqa: E402
import worker  # noqa: E402

NAME, POOL = "mayfly-trees", "10.197.0.0/16"
SIDE_BY_SIDE = 4
LEAST = 30
CORPORA = os.path.join(os.environ.get("MAYFLY_CORPORA", os.path.join(mayfly.ROOT, "../shared/corpora")), "oci")
# Of the corpora, what nobody can unpack: what was said of it, and what that means. Whatever else cannot be compared is a fault.
CANNOT = (
    (r"not in the corpus", "its manifest or blobs are not in the corpus"),
    (r"create gzip reader: gzip: invalid header", "its layers are no archives"),
    (r"verified reader (size|digest) mismatch", "its configuration is another than the manifest says"),
    (r"helm\.config", "a chart"),
    (r"only 0 manifest items|manifest\.json.*not found|no such file.*manifest\.json|file does not exist", "it has no manifest.json, or none in it"),
    (r"this host is linux/", "it is for another machine, and umoci does not ask"),
)
report = mayfly.Report()


class Cannot(Exception):
    """There is no such image, at least to a tool: why."""

    def known(self):
        return next((meaning for said, meaning in CANNOT if re.search(said, str(self))), None)


def tool(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=120)
    if done.returncode:
        raise Cannot(" ".join(done.stdout.decode(errors="replace").split())[-200:])
    return done.stdout


# ── a tree as lines ──────────────────────────────────────────────────────────────────────────────────────────────────


def attributes(path, base):
    """Extended attributes; the root id in capabilities, which those of a user namespace carry, is taken off."""
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(("trusted.", "user.umoci")):
            continue
        value = os.getxattr(path, name, follow_symlinks=False)
        if name == "security.capability" and len(value) == 24 and struct.unpack("<I", value[20:])[0] == base:
            value = struct.pack("<I", struct.unpack("<I", value[:4])[0] & 0x00ffffff | 0x02000000) + value[4:20]
        found[name] = value
    return sorted(found.items())


def describe(root, base, untimed):
    """{path: what it is}. untimed: directories that nobody tells the time of."""
    found, links = {}, {}
    for at, dirs, files in os.walk(root):
        for name in dirs + files + ([""] if at == root else []):
            full = os.path.join(at, name) if name else at
            st = os.lstat(full)
            rel = os.path.relpath(full, root)
            if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
                continue
            line = [oct(st.st_mode), st.st_uid - base, st.st_gid - base, attributes(full, base)]
            if stat.S_ISREG(st.st_mode):
                with open(full, "rb") as f:
                    line.append(hashlib.sha256(f.read()).hexdigest())
            if stat.S_ISLNK(st.st_mode):
                line.append(os.readlink(full))
            if not stat.S_ISDIR(st.st_mode):
                links.setdefault((st.st_dev, st.st_ino), []).append(rel)
            if rel not in untimed:
                line.append(st.st_mtime_ns)
            found[rel] = line
    for names in links.values():
        for rel in names:
            found[rel].append(sorted(names))
    return found


def made_on_the_way(root, began):
    """Directories that umoci made where a layer only implied them, or put something into by way of a link: their time is now."""
    found = set()
    for at, dirs, _ in os.walk(root):
        for name in [*dirs, "."]:
            st = os.lstat(os.path.join(at, name))
            if stat.S_ISDIR(st.st_mode) and began <= st.st_mtime_ns <= time.time_ns():
                found.add(os.path.relpath(os.path.join(at, name), root))
    return found


# ── where images come from ───────────────────────────────────────────────────────────────────────────────────────────


def manifests(base, index):
    """The image manifests that an index leads to."""
    for m in index.get("manifests") or []:
        path = os.path.join(base, "blobs", *m["digest"].split(":", 1))
        try:
            with open(path, encoding="utf-8") as f:
                inner = json.load(f)
        except (OSError, ValueError):
            yield m, None
            continue
        if "manifests" in inner:
            yield from manifests(base, inner)
        else:
            yield m, inner


def corpus():
    """(label, a function that writes it as a layout with the image "it")."""
    seen = set()
    for base, _, files in sorted(os.walk(CORPORA)):
        label = os.path.relpath(base, CORPORA)
        if "index.json" in files:
            with open(base + "/index.json", encoding="utf-8") as f:
                index = json.load(f)
            for m, inner in manifests(base, index):
                if (m["digest"], base) not in seen:
                    seen.add((m["digest"], base))
                    yield f"{label}@{m['digest'][7:15]}", lambda to, base=base, m=m, inner=inner: from_layout(base, m, inner, to)
        if "version" in files and "manifest.json" in files or label.startswith("skopeo/uncompressed-image"):
            yield label, lambda to, base=base: tool("skopeo", "--insecure-policy", "copy", "-q", "dir:" + base, f"oci:{to}:it")
        for name in sorted(f for f in files if re.search(r"\.tar(\.\w+)?$", f)):
            path = os.path.join(base, name)
            for n in range(images_in(path)):
                yield f"{label}/{name}" + (f"@{n}" if n else ""), lambda to, path=path, n=n: tool(
                    "skopeo", "--insecure-policy", "copy", "-q", f"docker-archive:{path}:@{n}", f"oci:{to}:it")


def images_in(path):
    try:
        with tarfile.open(path) as tar:
            return max(1, len(json.load(tar.extractfile("manifest.json"))))
    except (tarfile.TarError, KeyError, ValueError, TypeError):
        return 1


def from_layout(base, m, inner, to):
    if inner is None:
        raise Cannot("the manifest is not in the corpus")
    lost = [d["digest"] for d in [inner["config"], *inner["layers"]]
            if not os.path.exists(os.path.join(base, "blobs", *d["digest"].split(":", 1)))]
    if lost:
        raise Cannot(f"{len(lost)} of its blobs are not in the corpus")
    os.makedirs(to)
    shutil.copytree(base + "/blobs", to + "/blobs")
    with open(to + "/oci-layout", "w", encoding="ascii") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')
    media = inner.get("mediaType") or "application/vnd.oci.image.manifest.v1+json"
    with open(to + "/index.json", "w", encoding="ascii") as f:
        json.dump({"schemaVersion": 2, "manifests": [{"mediaType": media, "digest": m["digest"], "size": m["size"], "annotations": {
            "org.opencontainers.image.ref.name": "it"}}]}, f)
    if "docker" in media:  # umoci knows OCI's only
        os.rename(to, to + "-docker")
        tool("skopeo", "--insecure-policy", "copy", "-q", "--format", "oci", f"oci:{to}-docker", f"oci:{to}:it")


def real_files():
    """What base images are made of, as GNU tar packs it: programs with set-user-ID bits and capabilities, links of all kinds."""
    there = [p for p in ("etc/alternatives", "etc/init.d", "etc/skel", "usr/bin/passwd", "usr/bin/mount", "usr/bin/su", "usr/bin/chage",
                         "usr/share/zoneinfo", "usr/share/perl5", "var/mail", "var/local", "usr/share/terminfo", "lib", "bin", "sbin")
             if os.path.lexists("/" + p)]
    tops = [p for p in there if "/" in p or os.path.islink("/" + p)]
    first = subprocess.run(["tar", "-C", "/", "--xattrs", "--format=pax", "-c", *tops], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           check=False).stdout
    second = made.tar(made.file("etc/skel/.wh..wh..opq", ""), made.file("etc/skel/new", "n"), made.file("lib/of-a-layer", "through a link"),
                      made.file("usr/share/.wh.perl5", ""), made.hardlink("usr/bin/hard", "usr/bin/passwd"))
    return [first, second]


CAPABILITY = struct.pack("<IIIII", 0x02000001, 0x2000, 0, 0, 0)


def odd_attributes():
    m = made
    attribute = {"SCHILY.xattr.user.note": "text", "SCHILY.xattr.security.capability": CAPABILITY}
    return [
        m.tar(m.directory("d/", mode=0o3775, uid=7, gid=8, mtime=1234567890), m.file("d/cap", "x", records=attribute, mode=0o755),
              m.file("d/time", "x", records={"mtime": "1500000000.123456789"}), m.file("d/old", "x", mtime=0),
              m.file("d/future", "x", mtime=2 ** 33), m.directory("d/e/", records={"SCHILY.xattr.user.dir": "y"}),
              m.file("d/\xfc\u20ac", "x", records={"path": "d/\xfc\u20ac"}), m.file(b"d/latin-\xfc", "x"), m.file("d/suid", "x", mode=0o6711),
              m.file("d/nobody", "x", uid=65534, gid=65534), m.file("d/last", "x", uid=65535, gid=65535), m.symlink("d/dangling", "/no/where"),
              m.entry("d/fifo", "6", mode=0o640), m.hardlink("d/hard", "d/cap"), m.hardlink("d/hard2", "d/hard"), m.file("d/empty", "")),
        m.tar(m.hardlink("lower", "d/suid"), m.file("d/.wh.old", ""), m.directory("d/e/", mode=0o700, mtime=99), m.file("d/e/f", "f")),
    ]


def generated():
    yield "real files", lambda to: worker.write_layout(to, real_files())
    yield "odd attributes", lambda to: worker.write_layout(to, odd_attributes())
    yield "layers of umoci", by_umoci
    for seed in range(100, 127):
        yield f"random {seed}", lambda to, seed=seed: worker.write_layout(to, worker.random_layers(seed))


def by_umoci(to):
    root = to + "-root"
    os.makedirs(root + "/a/b")
    for n in (0, 1, 511, 512, 513, 70000):
        with open(f"{root}/a/b/{n}", "wb") as f:
            f.write(bytes(n))
    os.chmod(root + "/a/b/1", 0o4755)
    tool("umoci", "init", "--layout", to)
    tool("umoci", "new", "--image", to + ":it")
    tool("umoci", "insert", "--image", to + ":it", root, "/x")
    tool("umoci", "insert", "--image", to + ":it", root + "/a/b/511", "/x/a/b/512")
    tool("umoci", "insert", "--image", to + ":it", "--whiteout", "/x/a/b/513")


# ── one image ────────────────────────────────────────────────────────────────────────────────────────────────────────


class World:
    def __init__(self, directory, instance, registry):
        self.dir, self.instance, self.registry = directory, instance, registry

    def tree_of(self, image):
        """The root of its tree in the launcher's store, and what owner 0 is there."""
        answer = self.instance.client.get("/v1/images/" + image.replace("/", "%2F"))
        assert answer.status == 200, answer
        name = hashlib.sha256("".join(d + "\n" for d in layers_in(answer.json())).encode()).hexdigest()
        root = f"{self.instance.data_dir}/store/trees/{name}"
        return root, os.lstat(root).st_uid // 65536 * 65536


def layers_in(image):
    return [x["diff_id"] if isinstance(x, dict) else x for x in image["layers"]]


def compare(w, n, label, write):
    """How many files were compared."""
    layout, bundle = f"{w.dir}/{n}", f"{w.dir}/{n}-bundle"
    write(layout)
    began = time.time_ns()
    tool("umoci", "unpack", "--image", layout + ":it", bundle)
    compression = ["--dest-compress-format", "zstd"] if n % 5 == 4 else []
    w.registry.push(layout + ":it", f"trees/{n}:1", *compression)
    image = f"{w.registry.host}/trees/{n}:1"
    answer = w.instance.client.request("POST", "/v1/images/pull", {"image": image}, timeout=90)
    if answer.status == 422:
        raise Cannot(answer.json()["detail"])
    assert answer.status == 200, f"not pulled: {answer}"
    root, base = w.tree_of(image)
    untimed = made_on_the_way(bundle + "/rootfs", began)
    here, there = describe(root, base, untimed), describe(bundle + "/rootfs", 0, untimed)
    if "." in untimed:  # umoci's own
        here.pop("."), there.pop(".")
    wrong = [f"{p!r}: here {here.get(p)}, umoci {there.get(p)}" for p in sorted(set(here) | set(there)) if here.get(p) != there.get(p)]
    assert not wrong, f"{len(wrong)} differ: " + "; ".join(wrong[:3])
    for path in (layout, bundle):
        shutil.rmtree(path, ignore_errors=True)
    return len(there)


def run(w, pattern):
    sources = [(f"corpora: {label}", write) for label, write in corpus()] if os.path.isdir(CORPORA) else []
    sources += list(generated())
    sources = [(n, *s) for n, s in enumerate(sources) if re.search(pattern, s[0])]
    compared = 0
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        jobs = [(label, pool.submit(compare, w, n, label, write)) for n, label, write in sources]
        for label, job in jobs:
            why = job.exception()
            meaning = why.known() if isinstance(why, Cannot) and label.startswith("corpora") else None
            with report.case(f"trees: {label}" + (f" cannot be compared: {meaning}" if meaning else "")):
                if not meaning:
                    job.result()
                    compared += 1
    return compared


def main():
    pattern = sys.argv[1] if len(sys.argv) > 1 else "."
    if os.geteuid() != 0 or not mayfly.users_exist() or not shutil.which("umoci") or not shutil.which("skopeo"):
        report.skip("trees", "needs root, the users mayfly and mayfly-net, umoci and skopeo")
        report.exit()
    mayfly.exclusive(NAME)
    directory = tempfile.mkdtemp(prefix="mayfly-trees-", dir="/var/tmp")
    registry = None
    try:
        registry = registries.Registry(directory, "registry").start()
        with mayfly.Instance(NAME, POOL, registries__enabled="true") as instance:
            compared = run(World(directory, instance, registry), pattern)
            report.check(f"trees: at least {LEAST} images were compared", compared >= LEAST or pattern != ".", f"only {compared}")
            with report.case("it stops in order"):
                assert instance.stop(), instance.log_tail()
    except mayfly.Skip as e:
        report.skip("trees", e)
    finally:
        if registry:
            registry.stop()
        shutil.rmtree(directory, ignore_errors=True)
    report.exit()


if __name__ == "__main__":
    main()
