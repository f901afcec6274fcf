#!/usr/bin/env python3
"""mayfly-worker against hostile layers and against umoci, without the daemon. Needs root.

    worker.py [--per-family N] [--images N]     MAYFLY_BUILD: where mayfly-worker is; MAYFLY_LONG: more images

The worker runs here without its confinement: what holds here holds by the worker's own care, and the launcher's confinement comes
on top. Around the directory of each layer lies a tree of what the layers aim at; every name, attribute, time and byte of it is
compared after each of them, and what of the host they aim at after each family.
"""
import argparse
import fcntl
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_hostile  # noqa: E402

BUILD = os.environ.get("MAYFLY_BUILD", "build")
WORKER = os.path.join(BUILD, "mayfly-worker")
MAX_BYTES, MAX_ENTRIES = 256 << 20, 100000


HOST = ("/", "/etc", "/root", "/bin", "/tmp")


def run(args, fds):
    """fds: what the worker shall have, by number. Its exit code; 128 + n where a signal ended it."""
    aside = {n: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 300) for n, fd in fds.items()}
    actions = [(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in range(3)]
    actions += [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in aside.items()]
    try:
        pid = os.posix_spawn(WORKER, [WORKER, *args], {}, file_actions=actions)
    finally:
        for fd in aside.values():
            os.close(fd)
    signal.alarm(300)   # ends this script: a layer that hangs the worker is a fault
    status = os.waitpid(pid, 0)[1]
    signal.alarm(0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def work(args, fds):
    report = os.memfd_create("report")
    try:
        code = run(args, {**fds, 5: report})
        text = os.pread(report, 1 << 26, 0)
    finally:
        os.close(report)
    return code, json.loads(text) if text else {}


def unpack(blob, to):
    os.makedirs(to)
    a, d = os.open(blob, os.O_RDONLY), os.open(to, os.O_RDONLY)
    try:
        return work(["unpack", str(MAX_BYTES), str(MAX_ENTRIES)], {3: a, 6: d})
    finally:
        os.close(a)
        os.close(d)


def merge(layers, to):
    os.makedirs(to)
    fds = [os.open(to, os.O_RDONLY)] + [os.open(layer, os.O_RDONLY) for layer in layers]
    try:
        return work(["merge", str(len(layers))], {6 + i: fd for i, fd in enumerate(fds)})
    finally:
        for fd in fds:
            os.close(fd)


def apply(blobs, work_dir):
    """Unpacks and merges; the exit code, the report that said so, the root."""
    layers = []
    for i, blob in enumerate(blobs):
        layers.append(f"{work_dir}/layer{i}")
        code, report = unpack(blob, layers[-1])
        if code:
            return code, report, None
    code, report = merge(layers, f"{work_dir}/tree")
    return code, report, f"{work_dir}/tree/root"


def what(root, path):
    """What lies at path in the root, no link followed on the way."""
    at = root
    for part in [p for p in path.split("/") if p]:
        if os.path.islink(at):
            return "absent"
        at = os.path.join(at, part)
    try:
        st = os.lstat(at)
    except OSError:
        return "absent"
    if stat.S_ISLNK(st.st_mode):
        return "link:" + os.readlink(at)
    if stat.S_ISDIR(st.st_mode):
        return "dir"
    if stat.S_ISFIFO(st.st_mode):
        return "fifo"
    with open(at, errors="replace") as f:
        return "file:" + f.read(1000)


def snapshot(path, leave_out=()):
    """A hash over all of a tree: names, attributes, times of change, links and contents."""
    h = hashlib.sha256()
    for base, dirs, files in os.walk(path):
        dirs[:] = sorted(d for d in dirs if os.path.join(base, d) not in leave_out)
        for name in ["", *dirs, *sorted(files)]:
            full = os.path.join(base, name) if name else base
            st = os.lstat(full)
            # The directory in which the layers' own come and go is left out, but for what is in it.
            times = (st.st_mtime_ns, st.st_ctime_ns, st.st_nlink) if full not in (os.path.dirname(x) for x in leave_out) else ()
            h.update(repr((full, st.st_mode, st.st_uid, st.st_gid, st.st_ino, st.st_rdev, *times)).encode())
            if stat.S_ISLNK(st.st_mode):
                h.update(os.readlink(full).encode())
            elif stat.S_ISREG(st.st_mode):
                with open(full, "rb") as f:
                    h.update(f.read())
    return h.hexdigest()


def host():
    """Of the host: the files of accounts, and what is in the directories that layers aim at, but for others' temporary files."""
    known = {}
    for path in ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/bin/sh"):
        if os.path.exists(path):
            with open(path, "rb") as f:
                known[path] = (hashlib.sha256(f.read()).hexdigest(), os.stat(path).st_mode, os.stat(path).st_nlink)
    for path in HOST:
        known[path] = sorted(n for n in os.listdir(path) if path != "/tmp" or n in ("x", "planted", "secret"))
    return known


def surroundings(top):
    """The way down to the layers, and at each level of it what a layer that gets out might meet: the directory for layers."""
    at = top
    for level in ("around", "data", "store", "layers"):
        at = f"{at}/{level}"
        os.makedirs(at + "/etc")
        os.makedirs(at + make_hostile.CANARY)
        for name in ("secret", "x", "y", "fine", "etc/passwd", "etc/shadow", make_hostile.CANARY[1:] + "/secret"):
            with open(f"{at}/{name}", "w") as f:
                f.write(level)
        os.symlink("secret", at + "/link")
        os.mkfifo(at + "/pipe")
    return at


def describe(root, times):
    """One line for each file: what two unpackers must agree on."""
    lines = {}
    inodes = {}
    for base, dirs, files in os.walk(root):
        for name in dirs + files + ([""] if base == root else []):
            path = os.path.join(base, name) if name else base
            st = os.lstat(path)
            rel = os.path.relpath(path, root)
            kind = stat.S_IFMT(st.st_mode)
            line = [oct(st.st_mode), st.st_uid, st.st_gid]
            if kind == stat.S_IFREG:
                with open(path, "rb") as f:
                    line += [st.st_size, hashlib.sha256(f.read()).hexdigest()]
                inodes.setdefault((st.st_dev, st.st_ino), []).append(rel)
            if kind == stat.S_IFLNK:
                line.append(os.readlink(path))
            if times and kind in (stat.S_IFREG, stat.S_IFLNK):
                line.append(int(st.st_mtime))
            attributes = sorted((a, os.getxattr(path, a, follow_symlinks=False))
                                for a in os.listxattr(path, follow_symlinks=False) if not a.startswith("user.umoci"))
            lines[rel] = line + attributes
    return lines


def check_case(out, case, work_dir):
    code, report, root = apply([os.path.join(out, p) for p in case["layers"]], work_dir)
    error = report.get("error", "")
    if case["expect"] == "refuse":
        if code == 0:
            return "was accepted"
        if code != 1:
            return f"ended with {code}: {error}"
        if case["reason"] and case["reason"] not in error:
            return f"was refused for another reason: {error}"
        return None
    if code != 0:
        return f"was refused: {error}"
    for path, wanted in case["check"].items():
        found = what(root, path)
        if found != wanted:
            return f"{path!r} is {found!r}, not {wanted!r}"
    return None


def hostile(tmp, per_family):
    canary = make_hostile.CANARY
    shutil.rmtree(canary, ignore_errors=True)
    os.makedirs(canary)
    with open(canary + "/secret", "w") as f:
        f.write("secret")
    out = tmp + "/archives"
    expect = make_hostile.make(out, per_family)
    layers = surroundings(tmp)
    work_dir = layers + "/0"

    def around():
        return snapshot(tmp + "/around", {work_dir}), snapshot(canary)
    before, host_before = around(), host()
    bad = families = cases = 0
    for family in make_hostile.FAMILIES:
        faults, n = [], 0
        for case in (c for c in expect if c["family"] == family and "layers" in c):
            os.makedirs(work_dir)
            fault = check_case(out, case, work_dir)
            if around() != before:
                fault = "wrote outside of its directory"
                before = around()
            if fault:
                faults.append(f"{case['name']}: {fault}")
            shutil.rmtree(work_dir)
            n += 1
        if n == 0:
            continue
        if host() != host_before:
            faults.append("changed the host")
        bad += bool(faults)
        families, cases = families + 1, cases + n
        print(f"not ok - hostile {family}: {'; '.join(faults[:5])}" if faults else f"ok - hostile {family} ({n})")
    shutil.rmtree(canary)
    enough = families >= 20 and (cases >= 1000 or per_family < 50)
    print(f"{'ok' if enough else 'not ok'} - hostile layers: {cases} of {families} families")
    return bad + (not enough)


def layouts(tmp, corpora):
    """Every whole image of the corpora as a layout of its own: (label, layout); its name is "it"."""
    found = []
    for base, dirs, files in sorted(os.walk(corpora + "/oci")):
        if "index.json" in files and "oci-layout" in files:
            with open(base + "/index.json") as f:
                for m in json.load(f).get("manifests", []):
                    found.append((base, m))
    for n, (base, m) in enumerate(found):
        to = f"{tmp}/layout{n}"
        shutil.copytree(base, to)
        m["annotations"] = {"org.opencontainers.image.ref.name": "it"}
        with open(to + "/index.json", "w") as f:
            json.dump({"schemaVersion": 2, "manifests": [m]}, f)
        yield f"{os.path.relpath(base, corpora)}:{m['digest'][7:19]}", to
    for base, dirs, files in sorted(os.walk(corpora + "/oci")):
        for name in sorted(files):
            to = f"{tmp}/layout-{name}"
            if name.endswith(".tar") and not os.path.exists(to) and shutil.which("skopeo") and subprocess.run(
                    ["skopeo", "copy", "-q", f"docker-archive:{base}/{name}", f"oci:{to}:it"],
                    capture_output=True).returncode == 0:
                yield os.path.relpath(f"{base}/{name}", corpora), to


def layers_of(layout):
    """The blobs of the layers; None if the layout lacks something."""
    def blob(digest):
        return os.path.join(layout, "blobs", *digest.split(":", 1))
    try:
        with open(layout + "/index.json") as f:
            m = json.load(f)["manifests"][0]
        with open(blob(m["digest"])) as f:
            manifest = json.load(f)
        layers = [blob(layer["digest"]) for layer in manifest["layers"]]
        return layers if all(os.path.exists(p) for p in layers + [blob(manifest["config"]["digest"])]) else None
    except (OSError, KeyError, ValueError):
        return None


def make_layout(tmp):
    """A layout of our own with what base images have: layers that replace, remove and link."""
    m = make_hostile
    layers = [
        m.tar(m.directory("./"), m.directory("bin/"), m.file("bin/su", "su", mode=0o4755), m.symlink("sh", "bin/su"),
              m.directory("etc/"), m.file("etc/passwd", "root:x:0:0::/root:/bin/sh\n", mode=0o600), m.directory("a/"),
              m.directory("a/b/", mode=0o1777, uid=5, gid=6), m.file("a/b/c", "c", uid=65535), m.file("a/gone", "g"),
              m.hardlink("bin/link", "bin/su"), m.directory("o/"), m.file("o/1", "1"), m.file("o/2", "2")),
        m.tar(m.directory("a/"), m.file("a/.wh.gone"), m.directory("o/"), m.file("o/.wh..wh..opq"), m.file("o/3", "3"),
              m.file("sh", "now a file"), m.directory("bin/"), m.file("bin/new", "new",
                                                                      records={"SCHILY.xattr.user.k": "v"})),
        m.tar(m.file(".wh.etc"), m.directory("etc/"), m.file("etc/group", "g"), m.hardlink("a2", "etc/group")),
    ]
    return write_layout(tmp + "/own", layers)


def write_layout(to, layers):
    """Layers as an OCI layout whose only image is named "it"."""
    m = make_hostile
    os.makedirs(to + "/blobs/sha256")

    def put(data):
        with open(f"{to}/blobs/sha256/{m.sha(data)}", "wb") as f:
            f.write(data)
    config = m.config_of(layers)
    manifest = json.dumps({"schemaVersion": 2, "mediaType": m.MANIFEST, "config": m.descriptor(m.CONFIG, config),
                           "layers": [m.descriptor(m.LAYER, d) for d in layers]}).encode()
    for data in [*layers, config, manifest]:
        put(data)
    with open(to + "/index.json", "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [m.descriptor(
            m.MANIFEST, manifest, annotations={"org.opencontainers.image.ref.name": "it"})]}, f)
    with open(to + "/oci-layout", "w") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')
    return to


def random_layers(seed):
    """One to five layers that add, replace, remove and link what the ones before them have, also by ways that lead through
    symbolic links of lower layers, as `lib/foo` over `lib -> usr/lib` does."""
    rng, m = random.Random(seed), make_hostile
    there = {"": "dir"}     # what the image has after the layers so far

    def drop(path):
        for p in [p for p in there if p == path or p.startswith(path + "/")]:
            del there[p]

    layers, ways = [], {}
    for number in range(rng.randint(1, 5)):
        entries, touched, lower = [], {""}, dict(there)

        def parents(path):
            """The directories above a path, as docker writes them into each layer."""
            parts = path.split("/")[:-1]
            for k in range(1, len(parts) + 1):
                d = "/".join(parts[:k])
                if d not in touched:
                    touched.add(d)
                    entries.append(m.directory(d + "/", mode=rng.choice([0o755, 0o700, 0o1777]), uid=rng.randint(0, 99)))

        for _ in range(rng.randint(1, 25)):
            dirs = [p for p, kind in there.items() if kind == "dir"]
            parent = rng.choice(dirs)
            path = (parent + "/" if parent else "") + rng.choice("abcdefgh") + rng.choice(["", "\u00fc", " x"])
            kind = rng.choice(["file", "file", "file", "dir", "link", "hard", "fifo", "gone", "opaque"])
            if path in touched or any(t.startswith(path + "/") for t in touched):
                continue
            if kind == "gone":
                if path in lower:
                    parents(path)
                    touched.add(path)
                    entries.append(m.file(os.path.join(os.path.dirname(path), ".wh." + os.path.basename(path)), ""))
                    drop(path)
                continue
            if kind == "opaque":
                if there.get(path) == "dir" and path in lower:
                    parents(path)
                    touched.add(path)
                    entries.append(m.directory(path + "/"))
                    entries.append(m.file(path + "/.wh..wh..opq", ""))
                    drop(path)
                    there[path] = "dir"
                continue
            own = [p for p in touched if there.get(p) == "file"]
            if kind == "hard" and not own:
                continue
            parents(path)
            touched.add(path)
            if kind != "dir" or there.get(path) != "dir":
                drop(path)
            there[path] = {"hard": "file"}.get(kind, kind)
            more = {"mode": rng.choice([0o644, 0o600, 0o4755, 0o2711]), "uid": rng.choice([0, 1000, 65535]),
                    "gid": rng.choice([0, 5]), "mtime": rng.randint(0, 2 ** 31)}
            if kind == "file":
                entries.append(m.file(path, rng.randbytes(rng.choice([0, 1, 511, 512, 5000])), **more))
            elif kind == "dir":
                entries.append(m.directory(path + "/", **more))
            elif kind == "link":
                entries.append(m.symlink(path, rng.choice(["a", "../b", "/c/d", "\u00fc"])))
            elif kind == "hard":
                entries.append(m.hardlink(path, rng.choice(sorted(own))))
            elif kind == "fifo":
                entries.append(m.entry(path, "6", **more))
        for link, target in sorted(ways.items()):
            # Implied, as docker writes a layer whose parent lies below; now and then more than one level.
            name = rng.choice(["new", "sub/new", "sub/b/new"]) + str(number)
            entries.append(m.file(f"{link}/{name}", f"by {link} {number}", mode=rng.choice([0o644, 0o755]), uid=rng.randint(0, 9)))
            if rng.random() < 0.3 and number > 1:
                entries.append(m.file(f"{link}/.wh.own", ""))
        if number == 0:
            for link in rng.sample(["lib", "bin", "sbin", "var/run", "l/l"], rng.randint(0, 4)):
                target = rng.choice(["usr/lib", "/usr/lib", "usr/../usr/lib", "usr/lib/deep/x"])
                if "/" in link and not target.startswith("/"):
                    target = "../" + target
                ways[link] = target
                entries.append(m.symlink(link, target))
            if ways:
                entries += [m.directory("usr/"), m.directory("usr/lib/", mode=0o2755, gid=3), m.file("usr/lib/own", "own"),
                            m.directory("usr/lib/deep/"), m.directory("usr/lib/deep/x/")]
        layers.append(m.tar(*entries))
    return layers


def against_umoci(tmp, corpora, n_random):
    bad = compared = 0
    if not shutil.which("umoci"):
        print("skip - layers as umoci unpacks them: there is no umoci")
        return 0
    benign = 0
    made = ((f"random {seed}", write_layout(f"{tmp}/random{seed}", random_layers(seed))) for seed in range(n_random))
    for what_, layout in itertools.chain([("own", make_layout(tmp))], layouts(tmp, corpora), made):
        layers = layers_of(layout)
        if layers is None:
            continue
        label = f"layers as umoci unpacks them: {what_}"
        bundle = f"{tmp}/bundle{compared}"
        p = subprocess.run(["umoci", "unpack", "--image", f"{layout}:it", bundle], capture_output=True,
                           text=True)
        if p.returncode:
            continue
        compared += 1
        benign += len(layers)
        os.makedirs(f"{tmp}/mine{compared}")
        code, report, root = apply(layers, f"{tmp}/mine{compared}")
        if code:
            bad += 1
            print(f"not ok - {label}: {report.get('error')}")
            continue
        ours, theirs = describe(root, True), describe(bundle + "/rootfs", True)
        differing = sorted(p for p in set(ours) | set(theirs) if ours.get(p) != theirs.get(p) and p != ".")
        if differing:
            bad += 1
            p = differing[0]
            print(f"not ok - {label}: {len(differing)} differ: {p}: {ours.get(p)} {theirs.get(p)}")
        else:
            print(f"ok - {label} ({len(ours)} files)")
        shutil.rmtree(bundle)
        shutil.rmtree(f"{tmp}/mine{compared}")
    if benign < 100:
        bad += 1
        print(f"not ok - layers as umoci unpacks them: only {benign} layers could be compared")
    return bad


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--per-family", type=int, default=50)
    p.add_argument("--images", type=int, default=100 if os.environ.get("MAYFLY_LONG") else 30)
    a = p.parse_args()
    if os.geteuid() != 0 or not os.access(WORKER, os.X_OK):
        print(f"skip - hostile layers: needs root and {WORKER}")
        return 0
    tmp = tempfile.mkdtemp(prefix="mayfly-hostile-", dir=quick_directory())
    try:
        bad = hostile(tmp, a.per_family)
        bad += against_umoci(tmp, os.environ.get("MAYFLY_CORPORA", "../shared/corpora"), a.images)
    finally:
        shutil.rmtree(tmp)
    return 1 if bad else 0


def quick_directory():
    """In memory, where nothing is waited for: the worker writes all to disk before it ends. None: it knows no user attributes."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as f:
        try:
            os.setxattr(f.name, "user.x", b"")
        except OSError:
            return None
    return "/dev/shm"


if __name__ == "__main__":
    sys.exit(main())
