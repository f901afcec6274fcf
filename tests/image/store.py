#!/usr/bin/env python3
"""The store of images: names, pins, prune, collection, damage and its repair, kill -9 and a full disk. As root.

    store.py                all groups; with MAYFLY_LONG=1 more kills
    store.py PATTERN        only groups whose names match
"""

import datetime
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../lib"), os.path.join(HERE, "../registry"), HERE]
import mayfly  # noqa: E402
import registries  # noqa: E402
from disk import Disk  # noqa: E402

MIB = 1 << 20
KILLS = 60 if os.environ.get("MAYFLY_LONG") else 10
POOL = "10.221.0.0/16"
report = mayfly.Report()


# ── what is there ────────────────────────────────────────────────────────────────────────────────────────────────────


def archive(salt, extra=0, seed=0):
    """A root that runs, unlike any of another salt; `extra` bytes that cannot be compressed."""
    a = mayfly.busybox(links=False)
    for applet in ("sh", "cat", "sleep", "true"):
        a.symlink("bin/" + applet, "busybox")
    a.file("etc/salt", salt).dir("data", 0o750, 7, 8).file("data/one", "1" * 1000, 0o640, 7, 8)
    a.symlink("data/link", "one").hardlink("data/hard", "data/one")
    if extra:
        a.file("data/big", random.Random(seed or salt).randbytes(extra))
    return a.bytes()


def images(instance):
    found = instance.client.get("/v1/images").json()["images"]
    return {name: i for i in found for name in (i["names"] or [i["digest"]])}


def short(name):
    return "docker.io/library/" + name


def ask(instance, what, expected=200, **params):
    query = "&".join(f"{k}={v}" for k, v in params.items())
    answer = instance.client.request("POST", f"/v1/images/{what}?{query}")
    assert answer.status == expected, answer
    return answer.json()


def verify(instance, **params):
    return ask(instance, "verify", **params)


def store(instance, *path):
    return os.path.join(instance.data_dir, "store", *path)


def blobs(instance, *path):
    return os.path.join(instance.data_dir, "state/images/blobs/sha256", *path)


def about(instance, name):
    return instance.client.get("/v1/images/" + name).json()


def layer_of(instance, name):
    return store(instance, "layers", about(instance, name)["layers"][0].split(":")[1])


def tree_of(instance, name):
    """The one that has the layer's file as a hard link."""
    inode = os.stat(os.path.join(layer_of(instance, name), "root/etc/salt")).st_ino
    for tree in os.listdir(store(instance, "trees")):
        path = store(instance, "trees", tree, "etc/salt")
        if os.path.exists(path) and os.stat(path).st_ino == inode:
            return store(instance, "trees", tree)
    raise AssertionError("no tree has it")


def runs(instance, name, salt):
    task = instance.client.run(name, "cat", "/etc/salt", network="none")
    assert task["out"] == salt.encode(), task


def settled(instance):
    """Nothing lies in the launcher's tmp and trash any more."""
    def empty():
        return not os.listdir(store(instance, "tmp")) and not os.listdir(store(instance, "trash"))
    assert mayfly.wait_until(empty, 90), "tmp or trash is not empty"


def consistent(instance):
    """What is named is whole, and nothing else is there."""
    found = verify(instance)
    assert found["ok"], found["faults"]
    settled(instance)
    listed = {i["digest"]: about(instance, i["digest"]) for i in images(instance).values()}
    builtin = about(instance, "mayfly.internal/health:1")
    listed[builtin["digest"]] = builtin
    layers = {d.split(":")[1] for i in listed.values() for d in i["layers"]}
    assert set(os.listdir(store(instance, "layers"))) == layers, "layers that no image names, or the other way round"
    wanted = {d for i in listed.values() for d in [i["digest"], i["config_digest"], *[b["digest"] for b in i["blobs"]]]}
    have = {"sha256:" + b for b in os.listdir(blobs(instance))}
    assert have == wanted, f"blobs: {have ^ wanted}"
    assert len(os.listdir(store(instance, "trees"))) == len({tuple(i["layers"]) for i in listed.values()})


def kill(instance, program="mayflyd"):
    pid = instance.pid(program)
    os.kill(pid, signal.SIGKILL)
    assert mayfly.wait_until(lambda: not mayfly.alive(pid)), "it lives on"
    assert mayfly.wait_until(lambda: instance.pids().get("mayflyd") not in (None, pid) and instance.ready(), 60), "no next daemon"


# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def names():
    with mayfly.Instance("mf-store-n", POOL, images__keep_for="0s") as i:
        i.load(archive("one"), "one:1")
        i.load(archive("two"), "two:1")
        with report.case("names: a tag is one more name"):
            ask(i, "tag", ref="one:1", name="alias:1")
            assert images(i)[short("alias:1")]["digest"] == images(i)[short("one:1")]["digest"]
            runs(i, "alias:1", "one")
        with report.case("names: a tag moves"):
            ask(i, "tag", ref="two:1", name="alias:1")
            runs(i, "alias:1", "two")
            runs(i, "one:1", "one")
        with report.case("names: a tag that cannot be given"):
            for name, status in (("a!", 400), ("x@sha256:" + "0" * 64, 400), ("mayfly.internal/health:1", 403)):
                ask(i, "tag", status, ref="one:1", name=name)
            ask(i, "tag", 404, ref="none:1", name="b:1")
        with report.case("names: one that lost its name is dangling, and prune takes it alone"):
            digest = images(i)[short("one:1")]["digest"]
            ask(i, "tag", ref="two:1", name="one:1")
            assert digest in images(i)
            plan = ask(i, "prune")
            assert plan["dry_run"] and [p["digest"] for p in plan["images"]] == [digest], plan
            assert digest in images(i), "a dry run removed something"
            # The last container of the image may still be on its way out.
            gone = mayfly.wait_until(lambda: [g for g in [ask(i, "prune", dry_run="false")] if g["images"]], 10)[0]
            assert [p["digest"] for p in gone["images"]] == [digest] and gone["bytes"] == plan["bytes"]
            assert set(images(i)) == {short("two:1"), short("one:1"), short("alias:1")}
            consistent(i)
        with report.case("names: a pinned image stays"):
            ask(i, "pin", ref="two:1")
            assert i.client.request("DELETE", "/v1/images/alias:1").status == 200
            assert i.client.request("DELETE", "/v1/images/one:1").status == 200
            answer = i.client.request("DELETE", "/v1/images/two:1")
            assert answer.status == 409 and "pinned" in answer.json()["detail"], answer
            assert ask(i, "prune", dry_run="false", all="true")["kept"]["pinned"] == 1
            i.stop()
            i.start()
            assert images(i)[short("two:1")]["pinned"], "the pin is lost"
            ask(i, "pin", ref="two:1", pinned="false")
        with report.case("names: what a task uses stays"):
            task = i.client.post({"image": "two:1", "cmd": ["sleep", "60"], "network": "none", "wait": False}).json()["id"]
            assert mayfly.wait_until(lambda: i.client.get(f"/v1/tasks/{task}").json()["status"] == "running")
            assert ask(i, "prune", dry_run="false", all="true")["kept"]["in_use"] == 1
            assert short("two:1") in images(i)
            i.client.request("POST", f"/v1/tasks/{task}/cancel")
            assert mayfly.wait_until(lambda: i.client.get(f"/v1/tasks/{task}").json()["status"] == "killed")
        with report.case("names: inspect tells what comes back, and it does"):
            i.load(archive("big", 8 * MIB), "big:1")
            told = about(i, "big:1")
            assert told["bytes"]["unique"] >= 8 * MIB and told["bytes"]["shared"] == 0 and told["source"] == "import"
            assert told["bytes"]["freed"] >= 16 * MIB and told["blobs"][0]["unpacked"] >= 8 * MIB, told["bytes"]
            assert mayfly.wait_until(lambda: ask(i, "prune", dry_run="false", all="true", keep_bytes=0) and not images(i), 10)
            consistent(i)


def policies():
    with mayfly.Instance("mf-store-p", POOL, images__keep_for="0s") as i:
        for name in ("a", "b", "c"):
            i.load(archive(name), name + ":1")
        runs(i, "a:1", "a")
        with report.case("policies: keep-bytes takes the least recently used first"):
            total = ask(i, "prune", all="true", keep_bytes=1 << 40)["total_bytes"]
            plan = ask(i, "prune", keep_bytes=total - 1)
            assert [p["names"] for p in plan["images"]] == [[short("b:1")]], plan
        with report.case("policies: unused-for"):
            assert not ask(i, "prune", unused_for="1h")["images"]
            assert mayfly.wait_until(lambda: len(ask(i, "prune", unused_for="0s")["images"]) == 3, 10)
        with report.case("policies: what was used is known after a kill and after a stop"):
            before = images(i)[short("a:1")]["last_used_at"]
            path = os.path.join(i.data_dir, "state/images/usage.json")
            used = datetime.datetime.fromisoformat(before).timestamp()
            assert mayfly.wait_until(lambda: os.path.exists(path) and os.stat(path).st_mtime > used, 20), "it is never written"
            kill(i)
            assert images(i)[short("a:1")]["last_used_at"] == before
            time.sleep(0.01)
            runs(i, "c:1", "c")
            before = images(i)[short("c:1")]["last_used_at"]
            i.stop()
            i.start()
            assert images(i)[short("c:1")]["last_used_at"] == before
            assert os.stat(path).st_mode & 0o777 == 0o600
        with report.case("policies: what has just come is left alone"):
            i.stop()
            i.config["images__keep_for"] = "1h"
            i.start()
            answer = ask(i, "prune", all="true")
            assert not answer["images"] and answer["kept"]["recent"] == 3, answer
        with report.case("policies: a deploy key may, a task key may not"):
            cli = i.cli("prune", "--all")
            assert b"3 that came a short while ago" in cli.stdout, cli


def not_waiting():
    with mayfly.Instance("mf-store-w", POOL, images__keep_for="0s") as i:
        i.load(archive("one"), "one:1")
        a = mayfly.busybox(links=False)
        for n in range(6000):
            a.file(f"f/{n % 100}/{n}", str(n))
        big = a.bytes()
        with report.case("not waiting: names change and go while a large layer is unpacked"):
            done = []
            thread = threading.Thread(target=lambda: done.append(i.load(big, "big:1")))
            thread.start()
            assert mayfly.wait_until(lambda: os.listdir(store(i, "tmp")), 60), "nothing is unpacked"
            ask(i, "tag", ref="one:1", name="alias:1")
            ask(i, "pin", ref="one:1")
            assert i.client.request("DELETE", "/v1/images/alias:1").status == 200
            ask(i, "pin", ref="one:1", pinned="false")
            assert i.client.request("DELETE", "/v1/images/one:1").status == 200
            i.load(archive("two"), "two:1")
            waited = bool(done)
            thread.join()
            assert not waited, "they waited for it"
            assert set(images(i)) == {short("big:1"), short("two:1")}
        with report.case("not waiting: many at once, some of the same"):
            archives = [archive(f"n{n % 4}") for n in range(8)]
            threads = [threading.Thread(target=i.load, args=(archives[n], f"n{n}:1")) for n in range(8)]
            threads += [threading.Thread(target=ask, args=(i, "prune"), kwargs={"dry_run": "false"}) for _ in range(3)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            for n in range(8):
                runs(i, f"n{n}:1", f"n{n % 4}")
            consistent(i)
        with report.case("not waiting: names that are given at once are all on disk"):
            threads = [threading.Thread(target=ask, args=(i, "tag"), kwargs={"ref": f"n{n % 8}:1", "name": f"t{n}:1"})
                       for n in range(24)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            before = {name: image["digest"] for name, image in images(i).items()}
            assert len(before) == 34, sorted(before)
            kill(i)
            assert {name: image["digest"] for name, image in images(i).items()} == before, "names are lost"


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def flip(path):
    """One byte, behind the back of size and time."""
    st = os.stat(path)
    with open(path, "r+b") as f:
        f.seek(st.st_size // 2)
        byte = f.read(1)
        f.seek(st.st_size // 2)
        f.write(bytes([byte[0] ^ 1]))
        f.flush()
        os.fsync(f.fileno())
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def remake(path, change):
    """Of a link: its target."""
    st = os.lstat(path)
    os.unlink(path)
    os.symlink(change, path)
    os.lchown(path, st.st_uid, st.st_gid)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=False)


DAMAGE = {  # what it is called, what is done to the root of a layer, what verify says of it
    "contents": (lambda root: flip(root + "/data/one"), "other contents: 'root/data/"),
    "contents of a program": (lambda root: flip(root + "/bin/busybox"), "other contents: 'root/bin/busybox'"),
    "size": (lambda root: os.truncate(root + "/data/one", 10), "another size: 'root/data/"),
    "mode": (lambda root: os.chmod(root + "/data/one", 0o777), "another mode: 'root/data/"),
    "set-id bit": (lambda root: os.chmod(root + "/bin/busybox", 0o4755), "another mode: 'root/bin/busybox'"),
    "owner": (lambda root: os.chown(root + "/data", os.stat(root).st_uid, os.stat(root).st_uid), "another owner: 'root/data'"),
    "an owner of the host": (lambda root: os.chown(root + "/etc/salt", 0, 0), "another owner: 'root/etc/salt'"),
    "time": (lambda root: os.utime(root + "/etc/salt", (1, 1)), "another time: 'root/etc/salt'"),
    "target": (lambda root: remake(root + "/data/link", "two"), "another target: 'root/data/link'"),
    "missing file": (lambda root: os.unlink(root + "/etc/salt"), "missing: 'root/etc/salt'"),
    "missing directory": (lambda root: shutil.rmtree(root + "/data"), "missing: 'root/data'"),
    "added file": (lambda root: open(root + "/etc/more", "w").close(), "added: 'root/etc/more'"),
    "added directory": (lambda root: os.mkdir(root + "/more"), "added: 'root/more'"),
    "another type": (lambda root: (os.unlink(root + "/etc/salt"), os.mkdir(root + "/etc/salt")), "another type: 'root/etc/salt'"),
    "attribute": (lambda root: os.setxattr(root + "/etc/salt", "user.x", b"y"), "other attributes: 'root/etc/salt'"),
    "what is beside": (lambda root: flip(os.path.dirname(root) + "/meta"), "other contents: 'meta'"),
}


def damage_layer(i, name, act, says):
    with report.case(f"damage: a layer: {name}"):
        act(layer_of(i, "one:1") + "/root")
        found = verify(i, repair="true")
        fault = next((f for f in found["faults"] if f["kind"] == "layer"), None)
        assert fault, "it is not found"
        assert says in fault["detail"] and short("one:1") in fault["images"] and fault["repaired"] and found["ok"], found
        assert verify(i)["faults"] == [], "it is not repaired"
        runs(i, "one:1", "one")


def damage():
    with mayfly.Instance("mf-store-d", POOL, images__keep_for="0s") as i:
        i.load(archive("one"), "one:1")
        i.load(archive("two"), "two:1")
        with report.case("damage: there is none"):
            found = verify(i)
            assert found["ok"] and found["faults"] == [] and found["layers"] == 3 and found["trees"] == 3, found
        for name, (act, says) in DAMAGE.items():
            damage_layer(i, name, act, says)
        with report.case("damage: a layer is gone"):
            shutil.rmtree(layer_of(i, "one:1"))
            fault = verify(i)["faults"][0]
            assert fault["kind"] == "layer" and fault["detail"] == "it is missing", fault
            assert verify(i, repair="true")["ok"] and verify(i)["faults"] == []
        with report.case("damage: a tree alone"):
            tree = tree_of(i, "one:1")
            os.unlink(tree + "/etc/salt")
            os.mkdir(tree + "/intruder")
            faults = verify(i)["faults"]
            assert [f["kind"] for f in faults] == ["tree"] and "missing: 'etc/salt'" in faults[0]["detail"], faults
            assert "added: 'intruder'" in faults[0]["detail"]
            assert verify(i, repair="true")["ok"]
            runs(i, "one:1", "one")
            consistent(i)
        with report.case("damage: a tree that a task uses is left to it"):
            task = i.client.post({"image": "one:1", "cmd": ["sleep", "60"], "network": "none", "wait": False}).json()["id"]
            assert mayfly.wait_until(lambda: i.client.get(f"/v1/tasks/{task}").json()["status"] == "running")
            os.mkdir(tree_of(i, "one:1") + "/intruder")
            found = verify(i, repair="true")
            assert not found["ok"] and "a task uses it" in found["faults"][0]["detail"], found
            i.client.request("POST", f"/v1/tasks/{task}/cancel")
            assert mayfly.wait_until(lambda: i.client.get(f"/v1/tasks/{task}").json()["status"] == "killed")
            assert mayfly.wait_until(lambda: verify(i, repair="true")["ok"], 20)
        with report.case("damage: a blob: it is told, and what runs goes on running"):
            blob = about(i, "two:1")["blobs"][0]["digest"].split(":")[1]
            flip(blobs(i, blob))
            faults = verify(i, repair="true")["faults"]
            assert [(f["kind"], f["name"], f["repaired"]) for f in faults] == [("blob", "sha256:" + blob, False)], faults
            runs(i, "two:1", "two")
        with report.case("damage: a blob is cut short, or gone"):
            os.truncate(blobs(i, blob), 100)
            assert "has 100 bytes" in verify(i)["faults"][0]["detail"]
            os.unlink(blobs(i, blob))
            assert "No such file" in verify(i)["faults"][0]["detail"]
        with report.case("damage: a layer and its blob: the image is broken, and comes back with its archive"):
            shutil.rmtree(layer_of(i, "two:1"))
            found = verify(i, repair="true")
            assert not found["ok"]
            i.load(archive("two"), "two:1")
            runs(i, "two:1", "two")
            assert verify(i)["ok"], "it is not well again"
        with report.case("damage: the command tells, by its exit code too"):
            done = i.cli("images", "--verify")
            assert done.returncode == 0 and b"all is well" in done.stdout, done
            os.chmod(layer_of(i, "one:1") + "/root/etc/salt", 0)
            done = i.cli("images", "--verify")
            assert done.returncode == 1 and b"another mode: 'root/etc/salt'" in done.stdout, done
            done = i.cli("images", "--verify", "--repair")
            assert done.returncode == 0 and b"all repaired" in done.stdout, done
        with report.case("damage: the start mends what is missing, and tells"):
            i.stop()
            for tree in os.listdir(store(i, "trees")):
                shutil.rmtree(store(i, "trees", tree))
            with open(blobs(i, "incoming.7"), "w") as f:
                f.write("half of a blob")
            i.start()
            assert mayfly.wait_until(lambda: len(os.listdir(store(i, "trees"))) == 3, 20)
            runs(i, "one:1", "one")
            repairs = mayfly.wait_until(lambda: [r for r in i.client.get("/v1/health").json()["store"]["repairs"] if "trees" in r])
            assert repairs, i.client.get("/v1/health").json()
            assert any("cut off" in r for r in verify(i)["repairs"]) and "made again" in mayfly.read(i.log)
        with report.case("damage: a launcher that dies while images are mended breaks none"):
            i.load(archive("large", 30 * MIB), "large:1")
            i.stop()
            trees = len(os.listdir(store(i, "trees")))
            for kind in ("trees", "layers"):
                for name in os.listdir(store(i, kind)):
                    shutil.rmtree(store(i, kind, name))
            i.start()
            os.kill(i.pid("mayfly-launcher"), signal.SIGKILL)
            assert mayfly.wait_until(lambda: len(os.listdir(store(i, "trees"))) == trees, 30), mayfly.read(i.log)[-2000:]
            found = images(i)
            assert not any(image["broken"] for image in found.values() if image["names"]), found
            runs(i, "large:1", "large")
            assert i.client.request("DELETE", "/v1/images/large:1").status == 200
        with report.case("damage: one image that cannot be mended keeps no other from it"):
            i.stop()
            for kind in ("trees", "layers"):
                for name in os.listdir(store(i, kind)):
                    shutil.rmtree(store(i, kind, name))
            index = json.loads(mayfly.read(os.path.join(i.data_dir, "state/images/index.json")))
            digest = next(m["digest"] for m in index["manifests"]
                          if m.get("annotations", {}).get("org.opencontainers.image.ref.name") == short("two:1"))
            with open(blobs(i, digest.split(":")[1])) as f:
                os.unlink(blobs(i, json.load(f)["layers"][0]["digest"].split(":")[1]))
            i.start()
            assert mayfly.wait_until(lambda: images(i)[short("two:1")]["broken"], 20), images(i)
            runs(i, "one:1", "one")
            answer = i.client.post({"image": "two:1", "cmd": ["true"], "network": "none"})
            problem = answer.json()
            assert (answer.status, problem["type"]) == (500, "urn:mayfly:problem:image_broken"), answer
            assert "damaged" in problem["detail"]
            assert i.client.get("/v1/tasks/" + problem["task_id"]).json()["reason"] == "image_broken"
            done = i.cli("run", "two:1", "true")
            assert done.returncode == 125 and b"--verify --repair" in done.stderr, done


def restore():
    with mayfly.Instance("mf-store-b", POOL, images__keep_for="0s") as i:
        i.load(archive("one"), "one:1")
        ask(i, "pin", ref="one:1")
        for name, keeps in (("copied whole", "store"), ("copied without what was unpacked", "")):
            with report.case(f"restore: a data directory that was {name} is served, and whole"):
                i.stop()
                old = i.data_dir + ".old"
                os.rename(i.data_dir, old)
                subprocess.run(["cp", "-a", old, i.data_dir], check=True)
                shutil.rmtree(old)
                if not keeps:
                    shutil.rmtree(store(i))
                i.start()
                runs(i, "one:1", "one")
                assert images(i)[short("one:1")]["pinned"]
                assert any("what was missing was made again" in r for r in verify(i)["repairs"]), verify(i)
                assert mayfly.wait_until(lambda: quiet(i), 30), quiet.why


# ── a damaged index ──────────────────────────────────────────────────────────────────────────────────────────────────


def index():
    port = mayfly.free_port()
    with mayfly.Instance("mf-store-i", POOL, images__keep_for="0s", listen=f"tcp://127.0.0.1:{port}") as i:
        keys = {role: i.key(role) for role in ("deploy", "task")}
        i.load(archive("one"), "one:1")
        i.load(archive("two"), "two:1")
        path = os.path.join(i.data_dir, "state/images/index.json")
        digests = {n: about(i, n + ":1")["digest"] for n in ("one", "two")}
        before = set(os.listdir(blobs(i)))

        def start_with(text):
            i.stop()
            with open(path, "wb") as f:
                f.write(text)
            i.start()
            assert mayfly.wait_until(lambda: quiet(i), 30), quiet.why
            assert set(os.listdir(blobs(i))) >= before, "blobs are lost"

        with report.case("index: empty, no JSON, of another type: the daemon starts with all images, and says so"):
            for text in (b"", b"{", b"\0" * 4096, b"[]", b'{"manifests": 3}', os.urandom(1000)):
                start_with(text)
                told = images(i)
                assert set(digests.values()) <= set(told), told
                assert short("one:1") not in told
                assert any("index.json is damaged" in line for line in verify(i)["repairs"]), verify(i)
                assert any("index.json" in line for line in i.client.get("/v1/health").json()["store"]["repairs"])
            task = i.client.run(digests["one"], "cat", "/etc/salt", network="none")
            assert task["out"] == b"one", task
        with report.case("index: whose images they are is not known, so they are for administrators until they have names"):
            deploy, task = (mayfly.NetClient(port, keys[role]) for role in ("deploy", "task"))
            for key in (deploy, task):
                assert not {image["digest"] for image in key.get("/v1/images").json()["images"]} & set(digests.values())
                assert key.get("/v1/images/" + digests["one"]).status == 404
            answer = task.post({"image": digests["one"], "cmd": ["true"], "network": "none"})
            assert (answer.status, answer.json()["type"]) == (404, "urn:mayfly:problem:image_not_found"), answer
            for what in ("prune?dry_run=false&all=true", "verify?repair=true"):
                assert digests["one"] not in deploy.request("POST", "/v1/images/" + what).body.decode()
            assert digests["one"] in images(i)
        with report.case("index: what came back has its name again when it is loaded or tagged"):
            i.load(archive("one"), "one:1")
            ask(i, "tag", ref=digests["two"], name="two:1")
            assert deploy.get("/v1/images/" + digests["two"]).status == 200
            runs(i, "one:1", "one")
            runs(i, "two:1", "two")
            i.stop()
            i.start()
            runs(i, "two:1", "two")
            assert not any("index.json" in line for line in verify(i)["repairs"]), verify(i)["repairs"]
        with report.case("index: a name that is none any more makes no image everybody's"):
            with open(path, "rb") as f:
                good = f.read()
            at = good.index(digests["two"].encode())
            key = good.index(b"image.ref.name", at)
            start_with(good[:key] + b"image.ref.namf" + good[key + 14:])
            assert any("index.json is damaged" in line for line in verify(i)["repairs"]), verify(i)["repairs"]
            assert digests["two"] in images(i) and short("one:1") in images(i)
            for client in (deploy, task):
                assert client.get("/v1/images/" + digests["two"]).status == 404
            ask(i, "tag", ref=digests["two"], name="two:1")
            runs(i, "two:1", "two")
        with report.case("index: cut short, what stands before the cut keeps its name"):
            with open(path, "rb") as f:
                good = f.read()
            entries = json.loads(good)["manifests"]
            kept = [m["annotations"].get("org.opencontainers.image.ref.name") for m in entries]
            last = entries[-1]
            start_with(good[:-40])
            told = images(i)
            assert {n for n in kept[:-1] if n and "mayfly.internal" not in n} <= set(told), (kept, told)
            assert kept[-1] not in told and last["digest"] in {image["digest"] for image in told.values()}, (last, told)
            assert os.path.exists(path + ".damaged")


# ── kill -9 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Workload:
    """Changes of one kind, over and over, and what was acknowledged of them."""

    def __init__(self, instance, seed):
        self.i, self.random, self.stopped = instance, random.Random(seed), False
        self.here, self.pins, self.lock = {}, {}, threading.Lock()
        self.unsure = set()  # names of requests without an answer
        self.archives = [archive(f"k{n}", 200000, n + 1) for n in range(4)]

    def change(self, names, path, after):
        with self.lock:
            self.unsure.update(names)
        try:
            status = path()
        except OSError:
            return
        with self.lock:
            if status in (200, 201):
                after()
            self.unsure.difference_update(names)

    def load(self):
        n, name = self.random.randrange(4), f"l{self.random.randrange(4)}:1"
        self.change([name], lambda: self.i.client.load(self.archives[n], name).status, lambda: self.here.update({name: n}))

    def tag(self):
        name, ref = f"t{self.random.randrange(4)}:1", f"l{self.random.randrange(4)}:1"
        self.change([name], lambda: self.i.client.request("POST", f"/v1/images/tag?ref={ref}&name={name}").status,
                    lambda: self.here.update({name: self.here.get(ref)}))

    def remove(self):
        name = f"{self.random.choice('lt')}{self.random.randrange(4)}:1"
        self.change([name], lambda: self.i.client.request("DELETE", "/v1/images/" + name).status,
                    lambda: self.here.pop(name, None))

    def prune(self):
        # Whatever has a name may go by it.
        self.change(list(self.here), lambda: self.i.client.request("POST", "/v1/images/prune?dry_run=false&all=true").status,
                    self.here.clear)

    def run(self, acts):
        while not self.stopped:
            self.random.choice(acts)()


def kills():
    with mayfly.Instance("mf-store-k", POOL, images__keep_for="0s") as i:
        i.load(archive("pinned"), "pinned:1")
        ask(i, "pin", ref="pinned:1")
        mixes = {"import": ["load"], "tag": ["load", "tag", "tag"], "removal": ["load", "remove", "remove"],
                 "prune": ["load", "tag", "prune"]}
        for name, acts in mixes.items():
            with report.case(f"kills: kill -9 amid {name}: all that is named is whole, nothing else is there"):
                for n in range(max(KILLS // len(mixes), 3)):
                    w = Workload(i, f"{name} {n}")
                    thread = threading.Thread(target=w.run, args=([getattr(w, a) for a in acts],))
                    thread.start()
                    time.sleep(w.random.uniform(0.05, 0.9))
                    kill(i, "mayfly-launcher" if n % 3 == 2 else "mayflyd")
                    w.stopped = True
                    thread.join()
                    assert mayfly.wait_until(lambda: not [t for t in os.listdir(store(i, "tmp"))], 30)
                    known = images(i)
                    lost = {n for n in w.here if n not in w.unsure and short(n) not in known}
                    assert not lost, f"acknowledged, and gone: {lost}"
                    assert known[short("pinned:1")]["pinned"], "the pin is lost"
                    for ref, salt in w.here.items():
                        if ref not in w.unsure and salt is not None:
                            runs(i, ref, f"k{salt}")
                    assert mayfly.wait_until(lambda: quiet(i), 30), quiet.why
                    ask(i, "prune", dry_run="false", all="true")
        with report.case("kills: the pinned image runs"):
            runs(i, "pinned:1", "pinned")


def workers_of(instance):
    """Processes that unpack."""
    launcher, found = instance.pid("mayfly-launcher"), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                parent = int(f.read().rsplit(")", 1)[1].split()[1])
            if parent == launcher and re.match("mayfly-worker\0(plain|unpack)\0", mayfly.read(f"/proc/{pid}/cmdline")):
                found.append(int(pid))
        except OSError:
            pass
    return found


def dying_workers():
    big = mayfly.busybox(links=False)
    big.symlink("bin/cat", "busybox")
    for n in range(20000):
        big.file(f"f/{n % 100}/{n}", str(n) * 20)
    big = big.bytes()
    with mayfly.Instance("mf-store-w2", POOL, images__keep_for="0s") as i:
        with report.case("workers: one that is killed is no fault of its archive, and leaves no trace"):
            for packed in (big, gzip.compress(big, 1)):
                killed = 0
                for _ in range(3):
                    answers = []
                    thread = threading.Thread(target=lambda: answers.append(i.client.load(packed, "big:1")))
                    thread.start()
                    while not answers and not (pids := workers_of(i)):
                        time.sleep(0.001)
                    for pid in pids if not answers else []:
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                    thread.join()
                    answer = answers[0]
                    assert answer.status in (201, 500), answer
                    if answer.status == 500:
                        assert answer.json()["type"] == "urn:mayfly:problem:internal", answer
                        break
                assert answer.status == 500 and killed, (answer, killed)
                assert mayfly.wait_until(lambda: quiet(i), 20), quiet.why
                i.load(packed, "big:1")
                assert i.client.run("big:1", "/bin/cat", "/f/7/7", network="none")["out"] == b"7" * 20
                # The container may still be on its way out.
                assert mayfly.wait_until(lambda: i.client.request("DELETE", "/v1/images/big:1").status == 200, 10)


def quiet(instance):
    """The start has mended all."""
    try:
        consistent(instance)
    except AssertionError as e:
        quiet.why = e
        return False
    return True


# ── the disk ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def on_disk(name, megabytes, **config):
    i = mayfly.Instance(name, POOL, **config)
    return i, Disk(i.data_dir, megabytes)


def full():
    """No collection: a full disk is told, and hurts nothing."""
    i, disk = on_disk("mf-store-f", 96, images__high_water=0, images__keep_for="0s")
    try:
        i.start()
        i.load(archive("one"), "one:1")
        with report.case("full: what does not fit is refused with its reason, and leaves no trace"):
            seen = set()
            for n in range(8):
                status = i.client.load(archive(f"x{n}", 12 * MIB), f"x{n}:1").status
                seen.add(status)
                if status == 507:
                    break
            assert 507 in seen and seen <= {201, 507}, seen
            settled(i)
            consistent_but_for_room(i)
            runs(i, "one:1", "one")
        filler = disk.fill()
        with report.case("full: not one byte is free: names are refused or change, never half"):
            for what, params in (("tag", {"ref": "one:1", "name": "alias:1"}), ("pin", {"ref": "one:1"})):
                answer = i.client.request("POST", f"/v1/images/{what}?" + "&".join(f"{k}={v}" for k, v in params.items()))
                assert answer.status in (200, 507), answer
            assert i.client.load(archive("y", MIB), "y:1").status == 507
        with report.case("full: verification says what it could not compare, and checks the rest"):
            found = verify(i)
            assert found["faults"] == [] and not found["ok"] and found["blobs"] > 0, found
            assert {u["kind"] for u in found["unchecked"]} <= {"layer", "tree"} and found["unchecked"], found
            layers = [u for u in found["unchecked"] if u["kind"] == "layer"]
            assert all("its blob is whole" in u["detail"] for u in layers) and layers, layers
            done = i.cli("images", "--verify")
            assert done.returncode == 1 and b"not compared" in done.stdout, done
        with report.case("full: a layer that is gone cannot be made again there: nothing else goes for it"):
            shutil.rmtree(layer_of(i, "one:1"))
            disk.fill()  # what that gave back
            found = verify(i, repair="true")
            assert [(f["kind"], f["repaired"]) for f in found["faults"]] == [("layer", False)] and not found["ok"], found
            assert "it is missing, and cannot be made now" in found["faults"][0]["detail"], found
            assert not about(i, "one:1")["broken"] and len(os.listdir(store(i, "trees"))) >= 2
            runs(i, "one:1", "one")
        with report.case("full: kill -9 there, and a start"):
            for _ in range(3):
                kill(i)
            runs(i, "one:1", "one")
        with report.case("full: room comes back, and all is well"):
            os.unlink(filler)
            # The last container of the image may still be on its way out.
            assert mayfly.wait_until(lambda: verify(i, repair="true")["ok"], 20), verify(i)
            assert os.path.exists(layer_of(i, "one:1")), "the layer is not made again"
            ask(i, "prune", dry_run="false", all="true")
            i.load(archive("z", 8 * MIB), "z:1")
            runs(i, "z:1", "z")
            consistent(i)
    finally:
        i.close()
        disk.close()


def consistent_but_for_room(instance):
    found = verify(instance)
    assert found["faults"] == [], found


def collection():
    i, disk = on_disk("mf-store-c", 256, images__high_water=70, images__low_water=45, images__keep_for="0s")
    try:
        i.start()
        i.load(archive("kept", MIB), "kept:1")
        ask(i, "pin", ref="kept:1")
        i.load(archive("used", MIB), "used:1")
        task = i.client.post({"image": "used:1", "cmd": ["sleep", "3600"], "network": "none", "wait": False,
                              "limits": {"timeout": 3600}}).json()["id"]
        assert mayfly.wait_until(lambda: i.client.get(f"/v1/tasks/{task}").json()["status"] == "running")
        with report.case("collection: the least recently used go, down to the low mark"):
            for n in range(5):
                i.load(archive(f"c{n}", 14 * MIB), f"c{n}:1")
                runs(i, "c0:1", "c0")
            assert mayfly.wait_until(lambda: short("c1:1") not in images(i), 30), images(i)
            left = set(images(i))
            assert {short("kept:1"), short("used:1")} <= left, left
            assert short("c4:1") in left, "the youngest went"
            assert mayfly.wait_until(lambda: usage(i) < 60, 20), usage(i)
            log = mayfly.read(i.log)
            assert re.search(r"images: docker.io/library/c1:1 sha256:\S+ is removed \(the disk is full\): \S+, last used", log)
            assert mayfly.wait_until(lambda: quiet(i), 20), quiet.why
        with report.case("collection: a full disk makes room for what comes, once"):
            filler = os.path.join(i.data_dir, "filler")
            for n in range(12):
                i.load(archive(f"d{n}", 12 * MIB), f"d{n}:1")
            runs(i, "d11:1", "d11")
        with report.case("collection: an archive that fills the disk while it comes makes room, once"):
            ask(i, "prune", dry_run="false", all="true")
            settled(i)
            i.load(archive("old", 20 * MIB), "old:1")
            st = os.statvfs(i.data_dir)
            with open(filler, "wb") as f:
                os.posix_fallocate(f.fileno(), 0, st.f_bavail * st.f_frsize - 5 * MIB)
            i.load(archive("new", 12 * MIB), "new:1")
            runs(i, "new:1", "new")
            assert short("old:1") not in images(i), "nothing went for it"
            os.unlink(filler)
            assert mayfly.wait_until(lambda: quiet(i), 20), quiet.why
            assert mayfly.wait_until(lambda: i.client.get("/v1/health").json()["store"]["detail"] is None, 60)
        with report.case("collection: health tells what cannot be reached, and that it is over"):
            ask(i, "prune", dry_run="false", all="true")
            settled(i)
            i.load(archive("last", MIB), "last:1")
            st = os.statvfs(i.data_dir)
            with open(filler, "wb") as f:
                os.posix_fallocate(f.fileno(), 0, int(st.f_bavail * st.f_frsize * 0.97))
            store_health = mayfly.wait_until(lambda: i.client.get("/v1/health").json()["store"]["detail"], 60)
            assert store_health and "1 pinned" in store_health and "1 in use" in store_health, store_health
            assert {short("kept:1"), short("used:1")} == set(images(i))
            os.unlink(filler)
            assert i.client.post({"image": "used:1", "cmd": ["true"], "network": "none"}).status == 201
    finally:
        i.close()
        disk.close()


def usage(instance):
    st = os.statvfs(instance.data_dir)
    used = st.f_blocks - st.f_bfree
    return used * 100 / (used + st.f_bavail)


# ── pulls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pulls():
    blobs_of = registries.Blobs()
    tags = {n: blobs_of.image([archive("base", MIB), archive(n, 8 * MIB)]) for n in ("one", "two")}
    fake = registries.Fake(blobs_of, tags)
    i, disk = on_disk("mf-store-r", 128, images__high_water=95, images__low_water=80, images__keep_for="0s",
                      registries__enabled="true")
    one, two = (f"{fake.host}/x:{n}" for n in ("one", "two"))
    try:
        i.start()
        with report.case("pulls: shared layers are stored once, and told"):
            runs(i, one, "one")
            runs(i, two, "two")
            told = about(i, one)
            assert [b["sharing"] for b in told["blobs"]] == [1, 0] and told["source"] == "pull", told["blobs"]
            assert told["bytes"]["shared"] >= MIB and told["bytes"]["unique"] >= 8 * MIB, told["bytes"]
            consistent(i)
        with report.case("pulls: a blob that is damaged comes again with the next task, and nothing else does"):
            blob = about(i, one)["blobs"][1]["digest"]
            flip(blobs(i, blob.split(":")[1]))
            shutil.rmtree(layer_of_blob(i, one, 1))
            found = verify(i, repair="true")
            assert not found["ok"] and about(i, one)["broken"] and not about(i, two)["broken"], found
            fake.requests.clear()
            runs(i, one, "one")
            assert fake.count("GET", "/blobs/") == fake.count("GET", blob) == 1, fake.requests
            assert not about(i, one)["broken"]
            consistent(i)
        with report.case("pulls: a blob of two images makes both broken, and one pull makes both whole"):
            blob = about(i, one)["blobs"][0]["digest"]
            os.unlink(blobs(i, blob.split(":")[1]))
            verify(i, repair="true")
            assert about(i, one)["broken"] and about(i, two)["broken"]
            runs(i, one, "one")
            runs(i, two, "two")
            consistent(i)
        with report.case("pulls: a full disk makes room for one"):
            assert i.client.request("DELETE", "/v1/images/" + one).status == 200
            settled(i)
            i.load(archive("old", 4 * MIB), "old:1")
            st = os.statvfs(i.data_dir)
            filler = os.path.join(i.data_dir, "filler")
            with open(filler, "wb") as f:
                os.posix_fallocate(f.fileno(), 0, st.f_bavail * st.f_frsize - 5 * MIB)
            answer = i.client.post({"image": one, "cmd": ["cat", "/etc/salt"], "network": "none"})
            assert answer.status == 201 and answer.json()["stdout"] == "one", answer
            assert short("old:1") not in images(i) or two not in images(i), "nothing went for it"
            os.unlink(filler)
            consistent(i)
    finally:
        i.close()
        disk.close()
        fake.close()


def layer_of_blob(instance, name, n):
    return store(instance, "layers", about(instance, name)["blobs"][n]["diff_id"].split(":")[1])


GROUPS = {"names": names, "policies": policies, "not_waiting": not_waiting, "damage": damage, "restore": restore, "index": index,
          "dying_workers": dying_workers, "kills": kills, "full": full, "collection": collection, "pulls": pulls}


def main():
    if os.geteuid() != 0 or not mayfly.users_exist():
        report.skip("store", "needs root and the users of Mayfly")
        return
    mayfly.exclusive("test-store")
    wanted = re.compile(sys.argv[1] if len(sys.argv) > 1 else ".")
    for name, group in GROUPS.items():
        if not wanted.search(name):
            continue
        try:
            group()
        except mayfly.Skip as e:
            report.skip(name, e)
        except Exception as e:  # noqa: BLE001: what fails outside of a case is a failure, too
            report.not_ok(name, f"{type(e).__name__}: {e}")
    report.exit()


if __name__ == "__main__":
    main()
