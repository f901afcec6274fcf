#!/usr/bin/env python3
"""Images by `import` and `load`, hostile and benign, on an instance of its own. As root.

    run.py                  a sample of each hostile family, all that is benign; with MAYFLY_LONG=1 all
    run.py PATTERN          only groups whose names match, whole: hostile/FAMILY, benign/GROUP
"""

import os
import re
import shutil
import sys
import tempfile
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../lib"), HERE]
import benign  # noqa: E402
import hostile  # noqa: E402
import hostile_load  # noqa: E402, F401: adds its families
import mayfly  # noqa: E402
import rawtar  # noqa: E402

APPLETS = ("sh", "cat", "ls", "find", "test", "stat", "grep", "head", "wc", "id", "cmp", "rm", "sleep", "sha256sum", "readlink")
SAMPLE = 16             # of a family
HOST_FILES = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/bin/busybox")


def small_system():
    """A tar, without its end: busybox, its applets, passwd and group."""
    with open(mayfly.busybox_path(), "rb") as f:
        busybox = f.read()
    d, s, f = rawtar.directory, rawtar.symlink, rawtar.file
    return b"".join([d("bin"), d("etc"), f("bin/busybox", busybox, mode=0o755), *[s("bin/" + a, "busybox") for a in APPLETS],
                     f("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n"), f("etc/group", b"root:x:0:\n")])


def snapshot(top):
    """Everything about a tree of the host but times of reading."""
    found = {}
    for path, dirs, files in os.walk(top):
        for name in [""] + dirs + files:
            full = os.path.join(path, name)
            st = os.lstat(full)
            data = b""
            if os.path.isfile(full) and not os.path.islink(full):
                with open(full, "rb") as f:
                    data = f.read()
            found[full] = (st.st_mode, st.st_uid, st.st_gid, st.st_ino, st.st_nlink, st.st_mtime_ns, st.st_ctime_ns, data)
    return found


class Host:
    """What of the host must stay as it is: a canary that the archives aim at, and what everybody aims at."""

    def __init__(self):
        self.token = os.urandom(16).hex()
        self.dir = tempfile.mkdtemp(prefix="mayfly-canary-", dir="/var/tmp")
        os.chmod(self.dir, 0o777)
        for name in ("secret", "config.json"):
            path = os.path.join(self.dir, name)
            with open(path, "w", encoding="ascii") as f:
                f.write(self.token + "\n")
            os.chmod(path, 0o666)
        self.before = self.look()

    def look(self):
        known = {}
        for path in HOST_FILES:
            if os.path.exists(path):
                with open(path, "rb") as f:
                    known[path] = mayfly.sha256(f.read())
        return known, sorted(os.listdir("/")), sorted(os.listdir("/etc")), sorted(os.listdir("/bin"))

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)


class Traces:
    """What an image leaves on disk."""

    def __init__(self, instance):
        data = instance.data_dir
        self.dirs = [f"{data}/store/{d}" for d in ("layers", "trees", "tmp", "trash")]
        self.dirs += [f"{data}/state/images/{d}" for d in ("blobs/sha256", "users", ".")]
        self.client = instance.client

    def look(self):
        # When images were last used is written now and then, and names only what there is.
        disk = {d: sorted(n for n in os.listdir(d) if n != "usage.json") for d in self.dirs if os.path.isdir(d)}
        images = [(i["digest"], sorted(i["names"])) for i in self.client.get("/v1/images").json()["images"]]
        return disk, sorted(images)

    def same(self, before, seconds=90):
        """Waits for what goes in the background; None, or what is there too much or too little."""
        after = []

        def settled():
            after[:] = [self.look()]
            return after[0] == before
        if mayfly.wait_until(settled, seconds):
            return None
        (disk, images), (disk_before, images_before) = after[0], before
        changed = {d: sorted(set(disk[d]) ^ set(disk_before.get(d, ()))) for d in disk if disk[d] != disk_before.get(d)}
        return f"left or lost: {changed or ''} {'images: %s' % images if images != images_before else ''}"[:600]


def send(client, case):
    path = "/v1/images/load" if case.kind == hostile.LOAD else "/v1/images/import?ref=hostile:import"
    try:
        return client.request("POST", path, case.data, {"Content-Type": "application/x-tar"}, timeout=180)
    except BrokenPipeError as e:
        raise AssertionError("the connection was closed before an answer") from e


def check_problem(answer, case):
    assert 400 <= answer.status < 500, f"not refused but failed: {answer}"
    assert answer.headers.get_content_type() == "application/problem+json", answer.headers.get_content_type()
    detail = answer.json().get("detail") or ""
    assert detail, f"without a reason: {answer}"
    assert detail.isprintable(), f"raw bytes in the reason: {detail!r}"
    assert re.search(case.match, detail, re.I), f"the reason is {detail!r}, not {case.match!r}"


def probe(client, case, image, host):
    script = ["exec 2>&1", case.script or ":", "echo; echo ===="]
    for path in case.paths:
        script += [f"cat '/{path}'", f"ls -la '/{path}/'"]
    script.append("find / -xdev -type f -size -64 ! -path '/bin/*' -exec cat {} +")
    answer = client.post({"image": image, "entrypoint": ["/bin/busybox"], "cmd": ["sh", "-c", "\n".join(script)], "user": "0",
                          "network": "none", "limits": {"timeout": "30s"}})
    if case.family == "load-configs" and answer.status != 201:
        return
    assert answer.status == 201, f"its task: {answer}"
    task = mayfly.decode(answer.json())
    out = task["out"].decode(errors="replace")
    assert host.token not in out, "the task read the host's secret"
    if case.want:
        assert re.search(case.want, out.split("\n====\n")[0], re.M), \
            f"its task printed {out[:300]!r}, {task['status']} {task['exit_code']} {task['reason']}, not {case.want!r}"


def run_case(instance, host, traces, case):
    client = instance.client
    canary, before = snapshot(host.dir), traces.look()
    answer = send(client, case)
    try:
        if answer.status == 201:
            assert case.expect != hostile.REFUSE, f"accepted: {answer}"
            for image in answer.json()["images"]:
                probe(client, case, image["digest"], host)
        else:
            check_problem(answer, case)
            assert case.expect != hostile.ACCEPT, f"refused: {answer}"
    finally:
        if answer.status == 201:
            for image in answer.json()["images"]:
                removed = client.request("DELETE", "/v1/images/" + urllib.parse.quote(image["digest"]))
                assert removed.status in (200, 404), f"not removed: {removed}"
        left = traces.same(before)
    assert left is None, left
    assert snapshot(host.dir) == canary, "the canary is not what it was"


def daemons(instance):
    return {name: pid for name, pid in instance.pids().items() if name != "mayfly-worker"}


def run_hostile(instance, host, report, pattern):
    traces = Traces(instance)
    base = small_system()
    family, pids = None, daemons(instance)
    sample = None if os.environ.get("MAYFLY_LONG") or pattern != "." else SAMPLE

    def check_family():
        if family is None:
            return
        with report.case(f"hostile/{family}: host and daemons are unharmed"):
            assert host.look() == host.before, "files of the host changed"
            assert daemons(instance) == pids, f"processes: {daemons(instance)}, before {pids}"
            assert instance.ready(), "it does not serve"

    for case in hostile.cases(host.dir, base, sample):
        if not re.search(pattern, "hostile/" + case.family):
            continue
        if case.family != family:
            check_family()
            family = case.family
        with report.case(f"hostile/{case.family}: {case.kind} {ascii(case.name)[1:-1]}"):
            run_case(instance, host, traces, case)
    check_family()


def main():
    pattern = sys.argv[1] if len(sys.argv) > 1 else "."
    report = mayfly.Report()
    if os.geteuid() != 0 or not mayfly.users_exist():
        report.skip("images", "needs root and the users mayfly and mayfly-net")
        report.exit()
    try:
        mayfly.busybox_path()
    except mayfly.Skip as e:
        report.skip("images", e)
        report.exit()
    host = Host()
    try:
        with mayfly.Instance("mayfly-img", "10.217.0.0/16", images__max_layer_bytes=hostile.LAYER_LIMIT,
                             images__max_archive_bytes=hostile.ARCHIVE_LIMIT) as instance:
            benign.run(instance, report, pattern)
            run_hostile(instance, host, report, pattern)
            with report.case("it stops in order"):
                assert instance.stop(), instance.log_tail()
    finally:
        host.close()
    report.exit()


if __name__ == "__main__":
    main()
