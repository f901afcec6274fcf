"""Images as people have them: what comes in is what a task sees, and what umoci unpacks of the same image."""

import base64
import glob
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import urllib.parse

import mayfly
import rawtar

PROBE = "/.probe/busybox"
# What the runtime puts over the image's own.
OURS = re.compile(r"^/(\.probe|proc|sys|dev|etc/hosts|etc/hostname|etc/resolv\.conf)(/|$)")
# What it makes where the image has none.
MADE = ("/etc", "/etc/mtab", "/run", "/tmp")
LIST = r"""cd / && find . -xdev | while IFS= read -r f; do
    l=; s=-
    if [ -L "$f" ]; then l=$(readlink "$f"); elif [ -f "$f" ]; then s=$(sha256sum <"$f"); s=${s%% *}; fi
    echo "$f|$(stat -c '%a %u %g' "$f")|$l|$s"
done"""


def ok(answer, *statuses):
    assert answer.status in (statuses or (200, 201)), f"{answer}"
    return answer.json()


def call(instance, method, path, body=None):
    return instance.client.request(method, path, body, {"Content-Type": "application/x-tar"} if body is not None else None, timeout=180)


def import_tar(instance, data, ref, *changes):
    query = urllib.parse.urlencode([("ref", ref)] + [("change", c) for c in changes])
    return call(instance, "POST", "/v1/images/import?" + query, data)


def remove(instance, ref):
    return call(instance, "DELETE", "/v1/images/" + urllib.parse.quote(ref, safe=""))


def names(instance):
    return sorted(n for i in instance.client.get("/v1/images").json()["images"] for n in i["names"])


def clear(instance):
    for image in instance.client.get("/v1/images").json()["images"]:
        remove(instance, image["digest"])


# ── import ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def busybox_plain(report, instance):
    data = mayfly.busybox().bytes()
    before = set(os.listdir(f"{instance.data_dir}/store/layers"))  # the built-in image's
    for name, pack in (("plain", bytes), ("gzip", rawtar.gz), ("zstd", rawtar.zstd_frame)):
        with report.case(f"benign/import: {name}"):
            ok(import_tar(instance, pack(data), "benign/bb:" + name))
            task = instance.client.run("benign/bb:" + name, "echo", "inside")
            assert task["out"] == b"inside\n", task
    with report.case("benign/import: the same root, packed in three ways, is one layer"):
        layers = {tuple(ok(instance.client.get(f"/v1/images/benign%2Fbb:{n}"))["layers"]) for n in ("plain", "gzip", "zstd")}
        assert layers == {("sha256:" + mayfly.sha256(data),)}, layers
        disk = set(os.listdir(f"{instance.data_dir}/store/layers")) - before
        assert disk == {mayfly.sha256(data)}, disk


def changes(report, instance):
    data = mayfly.busybox().bytes()
    with report.case("benign/import: --change"):
        ok(import_tar(instance, data, "benign/changed:1", 'CMD ["echo", "$A", "from cmd"]', "ENV A=1 B='two words'", "ENV C three words",
                      "WORKDIR /srv", "WORKDIR sub", "USER nobody", "LABEL org.x=\"y z\"", "EXPOSE 80 443/udp", "VOLUME /data",
                      "STOPSIGNAL SIGINT"))
        config = ok(instance.client.get("/v1/images/benign%2Fchanged:1"))["config"]["config"]
        assert config["Cmd"] == ["echo", "$A", "from cmd"] and config["User"] == "nobody" and config["WorkingDir"] == "/srv/sub", config
        assert config["Env"] == ["A=1", "B=two words", "C=three words"] and config["Labels"] == {"org.x": "y z"}, config
        assert sorted(config["ExposedPorts"]) == ["443/udp", "80/tcp"] and config["Volumes"] == {"/data": {}}, config
        assert config["StopSignal"] == "SIGINT", config
        task = mayfly.decode(ok(instance.client.post({"image": "benign/changed:1"})))
        assert task["out"] == b"$A from cmd\n", task
        task = instance.client.run("benign/changed:1", "sh", "-c", 'echo "$A,$B,$C"; id -u; pwd')
        assert task["out"] == b"1,two words,three words\n65534\n/srv/sub\n", task
    with report.case("benign/import: --change of a shell's line"):
        ok(import_tar(instance, data, "benign/changed:2", "ENTRYPOINT echo $0 shell"))
        config = ok(instance.client.get("/v1/images/benign%2Fchanged:2"))["config"]["config"]
        assert config["Entrypoint"] == ["/bin/sh", "-c", "echo $0 shell"], config
    for line in ("RUN id", "COPY a b", "ENV", "ENV =x", "EXPOSE 99999", "WORKDIR", "", "CMD", "LABEL x", "FROM scratch", "ENV A='x"):
        with report.case(f"benign/import: --change '{line}' is refused"):
            answer = import_tar(instance, data, "benign/changed:3", line)
            assert answer.status == 400 and "change" in answer.json()["detail"].lower(), answer
            assert "docker.io/benign/changed:3" not in names(instance)


def references(report, instance):
    data = mayfly.busybox(links=False).bytes()
    for ref in ("UPPER:1", "", "a b", "x@sha256:" + "0" * 64, "../x", "x:" + "t" * 129, "x:\n", "http://x/y", "0" * 64):
        with report.case(f"benign/import: name {ascii(ref)[:40]} is refused"):
            before = names(instance)
            answer = import_tar(instance, data, ref)
            assert answer.status == 400 and answer.json()["detail"], answer
            assert names(instance) == before
    with report.case("benign/import: names are normalised"):
        for ref, whole in (("benign", "docker.io/library/benign:latest"), ("localhost:5000/a/b:c", "localhost:5000/a/b:c")):
            ok(import_tar(instance, data, ref))
            assert whole in names(instance), names(instance)
            for same in (ref, whole):
                ok(instance.client.get("/v1/images/" + urllib.parse.quote(same, safe="")))
    with report.case("benign/import: a name moves to what comes last"):
        first = ok(import_tar(instance, data, "benign/move:1"))["images"][0]["digest"]
        second = ok(import_tar(instance, mayfly.busybox(links=False).file("x", "y").bytes(), "benign/move:1"))["images"][0]["digest"]
        assert first != second
        assert ok(instance.client.get("/v1/images/benign%2Fmove:1"))["digest"] == second
        assert names(instance).count("docker.io/benign/move:1") == 1


# ── list, inspect, remove ────────────────────────────────────────────────────────────────────────────────────────────


def removal(report, instance):
    clear(instance)
    base = mayfly.busybox().bytes()
    extra = rawtar.tar(rawtar.file("extra", b"extra\n"))
    store = f"{instance.data_dir}/store"

    # The built-in image is there before, and stays.
    blobs = f"{instance.data_dir}/state/images/blobs/sha256"
    before = [set(os.listdir(d)) for d in (store + "/layers", store + "/trees", blobs)]

    def counts():
        return len(set(os.listdir(store + "/layers")) - before[0]), len(set(os.listdir(store + "/trees")) - before[1])

    with report.case("benign/rmi: shared layers stay with the last image"):
        ok(call(instance, "POST", "/v1/images/load", rawtar.saved([base], tags=["benign/one:1"])))
        ok(call(instance, "POST", "/v1/images/load", rawtar.saved([base, extra], tags=["benign/two:1", "benign/two:2"])))
        assert mayfly.wait_until(lambda: counts() == (2, 2)), counts()
        ok(remove(instance, "benign/one:1"))
        assert mayfly.wait_until(lambda: counts() == (2, 1)), counts()
        assert instance.client.run("benign/two:1", "cat", "/extra")["out"] == b"extra\n"
        ok(remove(instance, "benign/two:1"))
        assert instance.client.run("benign/two:2", "cat", "/extra")["out"] == b"extra\n"
        assert remove(instance, "benign/two:1").status == 404
        ok(remove(instance, "benign/two:2"))
        assert mayfly.wait_until(lambda: counts() == (0, 0)), counts()
        assert mayfly.wait_until(lambda: set(os.listdir(blobs)) == before[2]), os.listdir(blobs)
    with report.case("benign/rmi: an image in use is busy"):
        ok(import_tar(instance, base, "benign/busy:1"))
        answers = []
        runner = threading.Thread(target=lambda: answers.append(instance.client.run("benign/busy:1", "sleep", "600")))
        runner.start()
        running = mayfly.wait_until(lambda: [t for t in instance.client.get("/v1/tasks?status=running").json()["tasks"]
                                             if "benign/busy" in json.dumps(t["image"])])
        answer = remove(instance, "benign/busy:1")
        instance.client.request("POST", f"/v1/tasks/{running[0]['id']}/cancel")
        runner.join()
        assert answer.status == 409, answer
        assert mayfly.wait_until(lambda: remove(instance, "benign/busy:1").status == 200), "not removed after its task"
    with report.case("benign/rmi: by digest and by its beginning"):
        digest = ok(import_tar(instance, base, "benign/digest:1"))["images"][0]["digest"]
        assert ok(instance.client.get("/v1/images/" + digest[7:19]))["digest"] == digest
        ok(remove(instance, digest))
        assert instance.client.get("/v1/images/benign%2Fdigest:1").status == 404
    with report.case("benign/rmi: what is not there"):
        assert remove(instance, "benign/nothing:1").status == 404
    with report.case("benign/load: it survives a restart"):
        ok(call(instance, "POST", "/v1/images/load", rawtar.gz(rawtar.saved([base, extra], tags=["benign/kept:1"]))))
        assert instance.stop(), instance.log_tail()
        instance.start()
        assert instance.client.run("benign/kept:1", "cat", "/extra")["out"] == b"extra\n"


def command(report, instance):
    with report.case("benign/command: import, images, inspect, load, rmi"):
        done = instance.cli("import", "-", "benign/cli:1", "--change", "CMD [\"echo\", \"x\"]", stdin=mayfly.busybox().bytes())
        assert done.returncode == 0, done
        assert b"benign/cli" in instance.cli("images").stdout
        assert json.loads(instance.cli("inspect", "benign/cli:1").stdout), "inspect"
        assert instance.cli("run", "benign/cli:1").stdout == b"x\n"
        done = instance.cli("load", "-", stdin=rawtar.saved([mayfly.busybox().bytes()], tags=["benign/cli:2"]))
        assert done.returncode == 0, done
        for n in (1, 2):
            assert instance.cli("rmi", f"benign/cli:{n}").returncode == 0
        assert instance.cli("rmi", "benign/cli:1").returncode != 0


# ── against umoci ────────────────────────────────────────────────────────────────────────────────────────────────────


def run_tool(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout.decode(errors='replace')[-500:]}")


def seen_inside(instance, image):
    with open(mayfly.busybox_path(), "rb") as f:
        busybox = base64.b64encode(f.read()).decode()
    script = f"for a in find stat readlink sha256sum; do ln -s busybox /.probe/$a; done; PATH=/.probe; {LIST}"
    script = script.replace("ln -s", PROBE + " ln -s")
    task = ok(instance.client.post({"image": image, "entrypoint": [PROBE], "cmd": ["sh", "-c", script], "user": "0", "workdir": "/",
                                    "network": "none", "limits": {"output": "32m"},
                                    "files": [{"path": PROBE, "content": busybox, "encoding": "base64", "mode": "0755"}]}))
    task = mayfly.decode(task)
    assert task["exit_code"] == 0, (task["status"], task["reason"], task["err"][-300:])
    found = {}
    for line in task["out"].decode(errors="replace").splitlines():
        path, attributes, link, digest = line.split("|")
        found[path[1:] or "/"] = (attributes, link, digest)
    return {p: v for p, v in found.items() if not OURS.match(p)}


def unpacked(top):
    found = {}
    for path, dirs, files in os.walk(top):
        for name in dirs + files + ([""] if path == top else []):
            full = os.path.join(path, name)
            st = os.lstat(full)
            if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
                continue
            digest, link = "-", ""
            if stat.S_ISLNK(st.st_mode):
                link = os.readlink(full)
            elif stat.S_ISREG(st.st_mode):
                with open(full, "rb") as f:
                    digest = mayfly.sha256(f.read())
            found["/" + os.path.relpath(full, top) if name else "/"] = (
                f"{stat.S_IMODE(st.st_mode):o} {st.st_uid} {st.st_gid}", link, digest)
    return {p: v for p, v in found.items() if not OURS.match(p)}


def compare(instance, image, layout, work):
    """layout: LAYOUT:TAG for umoci."""
    bundle = tempfile.mkdtemp(dir=work)
    run_tool("umoci", "unpack", "--image", layout, bundle)
    theirs, mine = unpacked(bundle + "/rootfs"), seen_inside(instance, image)
    shutil.rmtree(bundle)
    for path in MADE:
        if path not in theirs:
            mine.pop(path, None)
    wrong = [f"{p}: here {mine.get(p)}, umoci {theirs.get(p)}" for p in sorted(set(mine) | set(theirs)) if mine.get(p) != theirs.get(p)]
    assert not wrong, f"{len(wrong)} differ: " + "; ".join(wrong[:5])
    return len(theirs)


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise mayfly.Skip(f"{tool} is not installed")


def make_layout(work):
    """Three layers by umoci: a tree, one that changes it, one that takes away."""
    layout, bundle = work + "/layout", work + "/bundle"
    run_tool("umoci", "init", "--layout", layout)
    run_tool("umoci", "new", "--image", layout + ":made")
    run_tool("umoci", "unpack", "--image", layout + ":made", bundle)
    root = bundle + "/rootfs/"

    def repack():
        run_tool("umoci", "repack", "--refresh-bundle", "--image", layout + ":made", bundle)

    for d in ("bin", "etc", "usr/lib", "var/a/b", "var/gone", "srv"):
        os.makedirs(root + d)
    shutil.copy(mayfly.busybox_path(), root + "bin/busybox")
    os.symlink("busybox", root + "bin/sh")
    os.symlink("usr/lib", root + "lib")
    for n in range(200):
        with open(f"{root}var/a/b/f{n}", "w", encoding="ascii") as f:
            f.write(f"{n}\n" * n)
        os.chown(f"{root}var/a/b/f{n}", n, 65535 - n)
        os.chmod(f"{root}var/a/b/f{n}", 0o600 + n % 0o177)
    os.link(root + "var/a/b/f7", root + "srv/hard")
    os.mkfifo(root + "srv/fifo", 0o640)
    os.chmod(root + "srv", 0o3775)
    with open(root + "var/gone/x", "w", encoding="ascii") as f:
        f.write("x")
    repack()
    with open(root + "usr/lib/foo", "w", encoding="ascii") as f:
        f.write("foo\n")
    os.chmod(root + "var/a", 0o711)
    os.rename(root + "var/a/b/f9", root + "var/a/b/moved")
    repack()
    shutil.rmtree(root + "var/gone")
    os.unlink(root + "var/a/b/f10")
    os.symlink("/etc/passwd", root + "var/a/b/f10")
    repack()
    return layout


def tools(report, instance, work):
    with report.case("benign/umoci: skopeo's and umoci's archives unpack as umoci does"):
        need("umoci", "skopeo")
        layout = make_layout(work)
        subprocess.run(["tar", "-C", layout, "-cf", work + "/layout.tar", "."], check=True)
        run_tool("skopeo", "copy", f"oci:{layout}:made", f"oci-archive:{work}/oci.tar:benign/oci:1")
        run_tool("skopeo", "copy", f"oci:{layout}:made", f"docker-archive:{work}/docker.tar:benign/docker:1")
        for name in ("layout", "oci", "docker"):
            with open(f"{work}/{name}.tar", "rb") as f:
                data = f.read()
            with report.case(f"benign/umoci: {name} archive"):
                image = ok(call(instance, "POST", "/v1/images/load", data))["images"][0]["digest"]
                assert compare(instance, image, layout + ":made", work) > 200
            with report.case(f"benign/umoci: {name} archive, gzip"):
                image = ok(call(instance, "POST", "/v1/images/load", rawtar.gz(data)))["images"][0]["digest"]
                assert compare(instance, image, layout + ":made", work) > 200


def corpora(report, instance, work):
    top = os.path.join(os.environ.get("MAYFLY_CORPORA", os.path.join(mayfly.ROOT, "../shared/corpora")), "oci")
    if not os.path.isdir(top):
        report.skip("benign/corpora", f"{top} is not here (MAYFLY_CORPORA)")
        return
    archives = [(p, "docker-archive:" + p) for p in glob.glob(top + "/**/*.tar", recursive=True)]
    archives += [(os.path.dirname(p), "oci:" + os.path.dirname(p)) for p in glob.glob(top + "/**/oci-layout", recursive=True)]
    for n, (path, source) in enumerate(sorted(archives)):
        with report.case(f"benign/corpora: {os.path.relpath(path, top)}"):
            clear(instance)
            if os.path.isdir(path):
                data = subprocess.run(["tar", "-C", path, "-cf", "-", "."], check=True, stdout=subprocess.PIPE).stdout
            else:
                with open(path, "rb") as f:
                    data = f.read()
            answer = call(instance, "POST", "/v1/images/load", data)
            copied, why = f"{work}/corpus{n}", "skopeo and umoci are not installed"
            try:
                need("skopeo", "umoci")
                run_tool("skopeo", "copy", source, f"oci:{copied}:x")
            except (RuntimeError, mayfly.Skip) as e:
                copied, why = None, str(e)
            if answer.status != 201:
                assert 400 <= answer.status < 500 and answer.json()["detail"], answer
                # A configuration whose name is another digest than its own is refused here; others do not look.
                lies = "has the digest" in answer.json()["detail"]
                assert lies or copied is None or not has_tree(copied, work), f"refused, and umoci unpacks it: {answer}"
                continue
            images = answer.json()["images"]
            if copied is None and not shutil.which("skopeo"):
                raise mayfly.Skip(f"it loads, {len(images)} images; not compared: {why}")
            if copied is None or len(images) != 1:
                assert images, answer
                continue  # of several images tests/registry/trees.py compares each
            compare(instance, images[0]["digest"], copied + ":x", work)


def has_tree(layout, work):
    bundle = tempfile.mkdtemp(dir=work)
    try:
        run_tool("umoci", "unpack", "--image", layout + ":x", bundle)
        return True
    except RuntimeError:
        return False


def run(instance, report, pattern):
    work = tempfile.mkdtemp(prefix="mayfly-images-", dir="/var/tmp")
    try:
        for name, group in (("import", busybox_plain), ("import", changes), ("import", references), ("rmi", removal),
                            ("command", command), ("umoci", lambda r, i: tools(r, i, work)),
                            ("corpora", lambda r, i: corpora(r, i, work))):
            if re.search(pattern, "benign/" + name):
                group(report, instance)
                clear(instance)
    finally:
        shutil.rmtree(work, ignore_errors=True)
