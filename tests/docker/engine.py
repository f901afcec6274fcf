#!/usr/bin/env python3
"""The Docker engine over Docker and over Podman: each step of a container's life, what else the vtable has, and every message
against the specifications of the Engine API.

    tests/docker/engine.py [--only TEXT]"""

import errno
import json
import os
import subprocess
import sys
import tarfile
import io
import time
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dockers  # noqa: E402
import mayfly  # noqa: E402

corpora = os.environ.get("MAYFLY_CORPORA", os.path.join(dockers.top, "../shared/corpora"))
VERSIONS = ("1.41", "1.44", "1.51")
OTHER_NODE = "00112233445566778899aabbccddeeff"


# ── what is asked of the engine ──────────────────────────────────────────────────────────────────────────────────────


def exec_in_box(drive, *cmd):
    """Its name and how it ended. Docker may show a container before the driver has heard that it runs."""
    for n in range(600):
        name = f"exec-{os.path.basename(cmd[0])}-{n}"
        drive.say("exec", **{"in": "box"}, id=name, cmd=list(cmd))
        e = drive.end(name)
        if e.get("r") != -errno.ESRCH:
            return name, e
        time.sleep(0.05)
    raise AssertionError(e)


def lives(report, drive, docker):
    """A sample of each kind of call; all of them in one go, so that they run side by side."""
    podman = isinstance(docker, dockers.Podman)
    with report.case("output, stdin, files, user and exit code"):
        drive.run("plain", "/bin/sh", "-c", "cat; cat a/b; cat /abs; id -u; echo err >&2; exit 3", stdin="in\n", user="1000",
                  workdir="/work", file={"a/b": "b\n", "/abs": "abs\n"}, network="nat", env=["A=b"])
        drive.run("none", "/bin/nothing")
        drive.run("noexec", "/etc/passwd")
        drive.run("initnone", "/bin/nothing", init=True)
        e = drive.end("plain")
        assert (e.get("end"), e.get("code")) == ("exited", 3), e
        assert drive.stdout("plain") == b"in\nb\nabs\n1000\n", drive.stdout("plain")
        assert drive.stderr("plain") == b"err\n", drive.stderr("plain")
        assert drive.end("none")["end"] == "not_found", drive.end("none")
        assert drive.end("noexec")["end"] == "not_executable", drive.end("noexec")
        assert drive.end("initnone")["end"] == "not_found", drive.end("initnone")
    with report.case("signals"):
        drive.run("sleep", "/bin/sleep", "600")
        drive.run("early", "/bin/sleep", "600")
        for _ in range(600):
            drive.say("signal", id="early", signo=9)
            if drive.done("signal", "early")["r"] == 0:
                break
            time.sleep(0.05)
        assert mayfly.wait_until(lambda: docker.runs(f"{drive.name}-sleep"), 30)
        drive.say("signal", id="sleep", signo=9)
        e = drive.end("sleep")
        assert (e["end"], e["signo"]) == ("signaled", 9), e
        assert drive.end("early")["end"] == "signaled", drive.end("early")
    if not podman:
        with report.case("too much memory"):
            drive.run("oom", "/bin/helper", "memory", "268435456", memory=33554432)
            e = drive.end("oom")
            assert e["oom"] and e["signo"] == 9, e
    with report.case("exec: output, exit code, no such program"):
        drive.run("box", "/bin/sh", "-c", "echo up; read x </dev/zero; sleep 600", keep=True)
        assert mayfly.wait_until(lambda: docker.runs(f"{drive.name}-box"), 30)
        ran, e = exec_in_box(drive, "/bin/sh", "-c", "echo within; echo bad >&2; exit 7")
        assert (e["end"], e["code"]) == ("exited", 7), e
        assert (drive.stdout(ran), drive.stderr(ran)) == (b"within\n", b"bad\n"), drive.stdout(ran)
        _, e = exec_in_box(drive, "/bin/nothing")
        assert e["end"] == "not_found", e
    with report.case("archives in and out"):
        path = os.path.join(drive.dir, "in.tar")
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("copied")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"bytes"))
        drive.say("in", id="box", path="/tmp", tar=path)
        e = drive.done("in", "box")
        assert e["r"] == 0, e
        drive.say("in", id="box", path="/nowhere", tar=path)
        e = drive.done("in", "box")
        assert e["r"] == -2 or podman, e
        drive.say("out", id="box", path="/tmp/copied", tar=os.path.join(drive.dir, "out.tar"))
        e = drive.done("out", "box")
        assert e["r"] == 0, e
        with tarfile.open(os.path.join(drive.dir, "out.tar")) as tar:
            assert tar.extractfile("copied").read() == b"bytes"
        drive.say("out", id="box", path="/nowhere", tar=os.path.join(drive.dir, "out.tar"))
        e = drive.done("out", "box")
        assert e["r"] == -2 or podman, e
    with report.case("statistics"):
        drive.say("stats", id="box")
        e = drive.done("stats", "box")
        assert e["r"] == 0 and (podman or e["memory"] > 0), e
    if not podman:
        with report.case("networks while it runs"):
            assert docker.call("POST", "/v1.41/networks/create", {"Name": "extra"})[0] == 201
            for name, r in (("extra", 0), ("extra", -17), ("no-such-network", -2), ("../../x", -22)):
                drive.say("attach", id="box", network=name)
                e = drive.done("attach", "box")
                # A container without a network of its own refuses others.
                assert e["r"] == r or (name == "extra" and e["r"] in (-1, -121)), e
    with report.case("removed while it runs"):
        drive.say("remove", id="box")
        assert mayfly.wait_until(lambda: not docker.containers(), 30), docker.containers()
    with report.case("a pull that finds nothing says so"):
        drive.say("pull", id="absent", image="127.0.0.1:1/nothing:1", pull="never")
        e = drive.end("absent")
        assert e["r"] == -2, e


def load(report, drive, docker):
    with report.case("an image is loaded"):
        status, tar = docker.call("GET", "/v1.41/images/conformance:1/get")
        path = os.path.join(drive.dir, "save.tar")
        assert status == 200, tar
        with open(path, "wb") as f:
            f.write(tar)
        drive.say("load", tar=path)
        assert drive.done("load")["r"] == 0
        with open(path, "wb") as f:
            f.write(b"no archive at all" * 1000)
        drive.say("load", tar=path)
        assert drive.done("load")["r"] < 0


def restart(report, directory, name, docker):
    with report.case("a crash of ours: live tasks go on, their output is read again, the rest is deleted"):
        drive = dockers.Drive(directory, name, docker.host)
        drive.run("long", "/bin/sh", "-c", "echo before; sleep 4; printf after; exit 5", network="none")
        drive.run("gone", "/bin/sh", "-c", "echo while; sleep 600")
        for task in ("long", "gone"):
            assert mayfly.wait_until(lambda t=task: docker.runs(f"{name}-{t}"), 30)
        drive.kill()
        os.unlink(os.path.join(directory, "records", "gone"))
        for stray, node in (("stray", mayfly.read(os.path.join(directory, "records", ".node"))), ("twin", OTHER_NODE)):
            docker.call("POST", f"/v1.41/containers/create?name={name}-{stray}", {
                "Image": dockers.IMAGE, "Labels": {"dev.mayfly.instance": name, "dev.mayfly.node": node}})
        docker.call("POST", f"/v1.41/containers/create?name={name}other", {"Image": dockers.IMAGE})
        drive = dockers.Drive(directory, name, docker.host)
        e = drive.end("long")
        assert (e["end"], e["code"]) == ("exited", 5), e
        assert drive.stdout("long") in (b"before\nafter", b"before\nafter\n"), drive.stdout("long")
        assert [e["found"] for e in drive.seen if "found" in e] == ["long"], drive.seen
        others = [name + "-twin", name + "other"]
        assert mayfly.wait_until(lambda: sorted(docker.containers()) == others, 30), docker.containers()
        assert dockers.records(directory) == [], dockers.records(directory)
    with report.case("another node's containers of our name are told of, and nothing else"):
        drive.say("about")
        about = drive.until(lambda e: "about" in e)["about"]
        assert [f for f in about["findings"] if "(1 now)" in f and "dev.mayfly.node=" + OTHER_NODE in f], about
        for other in others:
            docker.call("DELETE", f"/v1.41/containers/{other}?force=true")
        drive.quit()


def twins(report, directory, name, docker):
    with report.case("two nodes of one name: neither touches what is the other's"):
        one = dockers.Drive(os.path.join(directory, "one"), name, docker.host)
        one.run("mine", "/bin/sh", "-c", "echo begun; sleep 3; echo done; exit 4")
        assert mayfly.wait_until(lambda: docker.runs(f"{name}-mine"), 30)
        two = dockers.Drive(os.path.join(directory, "two"), name, docker.host)
        two.run("yours", "/bin/true")
        assert two.end("yours").get("end") == "exited", two.end("yours")
        two.quit()
        e = one.end("mine")
        assert (e.get("end"), e.get("code"), one.stdout("mine")) == ("exited", 4, b"begun\ndone\n"), e
        one.quit()
        assert docker.containers() == [], docker.containers()


def isolated(report, drive):
    with report.case("a task sees no control group but its own, or that is told"):
        drive.run("cgroup", "/bin/cat", "/proc/self/cgroup")
        assert drive.end("cgroup").get("code") == 0, drive.end("cgroup")
        paths = {line.split(":", 2)[2] for line in drive.stdout("cgroup").decode().splitlines()}
        drive.say("about")
        about = drive.until(lambda e: "about" in e)["about"]
        assert (paths == {"/"}) == (not any("control groups" in f for f in about["findings"])), (paths, about)
    with report.case("the hostname is known without a network, and with one"):
        for network in ("none", "nat"):
            drive.run("host" + network, "/bin/sh", "-c", "hostname; cat /etc/hosts", network=network)
            assert drive.end("host" + network).get("code") == 0, drive.end("host" + network)
            host, *lines = drive.stdout("host" + network).decode().splitlines()
            entries = [line.split() for line in lines if host in line.split()[1:]]
            assert entries, lines
            assert network == "nat" or [e[0] for e in entries] == ["127.0.0.1"], lines


ROOT_IS_ROOT = "root in a container is root on the host"


def told_of_root(drive):
    drive.say("about")
    about = drive.until(lambda e: "about" in e)["about"]
    return any(ROOT_IS_ROOT in f for f in about["findings"])


def remapped(report, drive, base):
    with report.case("root in a container is nobody on the host, and no finding says otherwise"):
        drive.run("map", "/bin/cat", "/proc/self/uid_map", "/proc/self/gid_map")
        assert drive.end("map").get("code") == 0, (drive.end("map"), drive.stderr("map"))
        maps = [line.split() for line in drive.stdout("map").decode().splitlines()]
        assert maps == [["0", str(base), "65536"]] * 2, maps
        assert not told_of_root(drive)
    with report.case("files are their user's, by number and by name"):
        drive.run("owner", "/bin/sh", "-c", "stat -c %u:%g n/a /; id -u; echo mine > n/b && cat n/a n/b", user="1000:1001",
                  workdir="/work", file={"n/a": "a\n"})
        drive.run("named", "/bin/stat", "-c", "%u:%g", "/new/f", user="nobody", file={"/new/f": "x"})
        assert drive.end("owner").get("code") == 0, (drive.end("owner"), drive.stderr("owner"))
        assert drive.stdout("owner") == b"1000:1001\n0:0\n1000\na\nmine\n", drive.stdout("owner")
        assert drive.end("named").get("code") == 0, (drive.end("named"), drive.stderr("named"))
        assert drive.stdout("named") == b"65534:65534\n", drive.stdout("named")
    with report.case("half a megabyte of stdin"):
        data = "0123456789abcde\n" * 32768
        drive.run("cat", "/bin/cat", stdin=data, output=1 << 20)
        assert drive.end("cat").get("code") == 0, drive.end("cat")
        assert drive.stdout("cat") == data.encode(), len(drive.stdout("cat"))


def linked_users(report, directory, drive, docker):
    with report.case("who a user is says /etc/passwd, also where it is a link"):
        archive = mayfly.Archive().dir("bin").dir("etc").dir("usr").dir("usr/share").copy("bin/busybox", mayfly.busybox_path())
        archive.symlink("bin/stat", "busybox").symlink("bin/true", "busybox")
        archive.file("usr/share/passwd", "ann:x:1234:1235::/:/bin/sh\n").file("usr/share/group", "staff:x:77:\n")
        archive.symlink("etc/passwd", "../../../usr/share/passwd").symlink("etc/group", "/usr/share/group")
        docker.bring(directory, archive.bytes(), "linked:1")
        drive.run("linked", "/bin/stat", "-c", "%u:%g", "/new/f", image="linked:1", user="ann:staff", file={"/new/f": "x"})
        assert drive.end("linked").get("end") == "exited", drive.end("linked")
        assert drive.stdout("linked") == b"1234:77\n", drive.stdout("linked")
        drive.run("stranger", "/bin/true", image="linked:1", user="bob", file={"/new/f": "x"})
        e = drive.end("stranger")
        assert e.get("end") == "start_error" and "bob" in e["text"], e


# ── the specifications ───────────────────────────────────────────────────────────────────────────────────────────────


class Specification:
    def __init__(self, version):
        import yaml
        with open(os.path.join(corpora, f"engine-api/v{version}.yaml"), encoding="utf-8") as f:
            self.root = yaml.load(f, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.version = version

    def find(self, path):
        """The template of the path; the literal one wins."""
        parts = path.split("/")
        best = None
        for template, methods in self.root["paths"].items():
            wanted = template.split("/")
            if len(wanted) == len(parts) and all(w == p or w.startswith("{") for w, p in zip(wanted, parts)):
                score = sum(w == p for w, p in zip(wanted, parts))
                if best is None or score > best[0]:
                    best = (score, template, methods)
        # A name of an image may hold slashes.
        if best is None and parts[1] == "images":
            return self.find("/images/x/" + parts[-1]) if len(parts) > 4 else None
        return best and (best[1], best[2])

    def resolve(self, schema):
        while "$ref" in schema:
            at = self.root
            for part in schema["$ref"].lstrip("#/").split("/"):
                at = at[part]
            schema = at
        return schema

    def members(self, schema):
        """Of an object, those of allOf too; None: anything."""
        schema = self.resolve(schema)
        found = dict(schema.get("properties", {}))
        for part in schema.get("allOf", []):
            more = self.members(part)
            found.update(more or {})
        return found or None

    def check(self, value, schema, where):
        import jsonschema
        schema = self.resolve(schema)
        faults = []
        if isinstance(value, dict):
            members = self.members(schema)
            extra = schema.get("additionalProperties")
            for name, item in value.items():
                if members and name in members:
                    faults += self.check(item, members[name], f"{where}/{name}")
                elif isinstance(extra, dict):
                    faults += self.check(item, extra, f"{where}/{name}")
                elif members is not None:
                    faults.append(f"{where}/{name}: the specification has no such member")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                faults += self.check(item, schema.get("items", {}), f"{where}/{i}")
            if schema.get("type") not in (None, "array"):
                faults.append(f"{where}: an array")
        else:
            plain = {k: v for k, v in schema.items() if k in ("type", "enum", "minimum", "maximum", "pattern")}
            if "format" in schema and schema["format"] == "int64":
                plain.update(minimum=-2**63, maximum=2**63 - 1)
            for e in jsonschema.Draft4Validator(plain).iter_errors(value):
                faults.append(f"{where}: {e.message}")
        return faults

    def check_request(self, request):
        path, _, query = request.target.partition("?")
        path = "/" + path.split("/", 2)[2] if path.startswith("/v1.") else path
        found = self.find(path)
        if not found:
            return [f"{request.line()}: no such path"]
        template, methods = found
        operation = methods.get(request.method.lower())
        if not operation:
            return [f"{request.line()}: no such method"]
        parameters = {(p["in"], p["name"]): p for p in operation.get("parameters", []) + methods.get("parameters", [])}
        faults = []
        for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
            parameter = parameters.get(("query", name))
            if not parameter:
                faults.append(f"{request.method} {template}: no parameter {name}")
            elif parameter["type"] == "boolean" and value not in ("true", "false"):
                faults.append(f"{request.method} {template}: {name}={value} is no boolean")
            elif parameter["type"] == "integer" and not value.lstrip("-").isdigit():
                faults.append(f"{request.method} {template}: {name}={value} is no number")
        for (kind, name), parameter in parameters.items():
            if kind == "query" and parameter.get("required") and name not in dict(urllib.parse.parse_qsl(query)):
                faults.append(f"{request.method} {template}: {name} is missing")
            if kind == "body" and request.headers.get("content-type") == "application/json" and request.body:
                faults += self.check(json.loads(request.body), parameter["schema"], f"{request.method} {template}")
        if "x-registry-auth" in request.headers and ("header", "X-Registry-Auth") not in parameters:
            faults.append(f"{request.method} {template}: no X-Registry-Auth")
        return [f"{self.version}: {fault}" for fault in faults]


def specifications(report, requests):
    for version in VERSIONS:
        with report.case(f"every message is one of Engine API {version}"):
            if not os.path.isdir(os.path.join(corpora, "engine-api")):
                raise mayfly.Skip("the specifications are not here")
            specification = Specification(version)
            faults = set()
            for request in requests:
                faults.update(specification.check_request(request))
            # Docker has it since 18.09, and the specification since 1.45.
            faults = {f for f in faults if "LogConfig/Type: 'local'" not in f}
            assert not faults, "; ".join(sorted(faults)[:10])
            seen = {(r.method, (specification.find("/" + r.target.partition("?")[0].split("/", 2)[2]) or ("?",))[0])
                    for r in requests if r.target.startswith("/v1.")}
            assert len(seen) >= 15, sorted(seen)


def main():
    only = sys.argv[2] if sys.argv[1:2] == ["--only"] else ""
    directory, name = dockers.enter()
    report = mayfly.Report("docker/engine: ")
    if only in "docker":
        over_docker(report, directory, name)
    report.prefix = "docker/engine: userns-remap: "
    if only in "userns-remap":
        over_remapped(report, directory, name)
    report.prefix = "docker/engine: podman: "
    if only in "podman":
        over_podman(report, directory, name)
    report.exit()


def over_tls(report, directory, name, port, files):
    inner = os.path.join(directory, "tcp")
    os.mkdir(inner)
    ours = ("--ca", files["ca"], "--cert", files["client"], "--key", files["client.key"])
    for host in ("127.0.0.1", "localhost"):
        with report.case(f"TCP with mutual TLS, {host}: output, stdin, 4 MB, exec"):
            drive = dockers.Drive(inner, name, f"tcp://{host}:{port}", *ours)
            data = "0123456789abcde\n" * 65536
            drive.run("cat", "/bin/cat", stdin=data[:1 << 19], output=1 << 22)
            drive.run("both", "/bin/helper", "both", str(1 << 22), output=1 << 22)
            drive.run("box", "/bin/sleep", "600", keep=True)
            e = drive.end("cat")
            assert (e.get("end"), e.get("code")) == ("exited", 0), e
            assert drive.stdout("cat") == data[:1 << 19].encode(), len(drive.stdout("cat"))
            e = drive.end("both")
            assert (e["stdout"], e["stderr"], e["kept_out"]) == (1 << 22, 1 << 22, 1 << 22), e
            for _ in range(600):
                drive.say("exec", **{"in": "box"}, id="within", cmd=["/bin/echo", "within"])
                e = drive.end("within")
                drive.seen.remove(e)
                if e.get("r") != -3:
                    break
                time.sleep(0.1)
            assert drive.stdout("within") == b"within\n", e
            drive.say("remove", id="box")
            drive.quit()
    for what, arguments in (("an authority that did not sign Docker's certificate", ("--ca", files["other"], *ours[2:])),
                            ("a certificate that Docker's authority did not sign",
                             ("--ca", files["ca"], "--cert", files["other"], "--key", files["other.key"]))):
        with report.case(f"TLS: {what}"):
            drive = dockers.Drive(inner, name, f"tcp://127.0.0.1:{port}", *arguments, wait=False)

            def fault(drive=drive):
                drive.seen = []
                drive.say("check")
                e = drive.until(lambda e: "about" in e)
                return e if "has not answered" not in e["text"] else None

            e = mayfly.wait_until(fault, 20, 0.2)
            assert e and e["check"] < 0 and e["about"]["version"] == "", e
            drive.quit()


def over_docker(report, directory, name):
    tls = os.path.join(directory, "tls")
    os.mkdir(tls)
    files = dockers.certificates(tls)
    port = mayfly.free_port()
    docker = dockers.Docker(directory, name, "-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", files["ca"], "--tlscert",
                            files["server"], "--tlskey", files["server.key"]).start()
    docker.image(directory)
    over_tls(report, directory, name, port, files)
    proxy = dockers.Proxy(directory, docker.socket, keep=True)
    drive = dockers.Drive(directory, name, proxy.host)
    lives(report, drive, docker)
    isolated(report, drive)
    with report.case("that root in a container is root on the host is told"):
        assert told_of_root(drive)
    linked_users(report, directory, drive, docker)
    load(report, drive, docker)
    drive.quit()
    restart(report, directory, name, docker)
    twins(report, directory, name, docker)
    specifications(report, proxy.requests)
    with report.case("nothing of ours is left in Docker"):
        assert docker.containers() == [], docker.containers()
    docker.stop()


REMAP_BASE = 1_700_000_000


def over_remapped(report, directory, name):
    """With `userns-remap`: ids of nobody's, that only this mount namespace knows."""
    if subprocess.run(["unshare", "--user", "--map-root-user", "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        report.skip("all", "this kernel makes no user namespaces")
        return
    inner = os.path.join(directory, "remapped")
    os.mkdir(inner)
    for file in ("subuid", "subgid"):
        path = os.path.join(inner, file)
        with open(path, "w", encoding="ascii") as f:
            f.write(f"nobody:{REMAP_BASE}:65536\n")
        if not os.path.exists("/etc/" + file):
            report.skip("all", f"there is no /etc/{file} to put another one over")
            return
        subprocess.run(["mount", "--bind", path, "/etc/" + file], check=True)
    os.chmod(directory, 0o711)  # containers' root goes that way, and is somebody else
    docker = dockers.Docker(inner, name, "--userns-remap", "nobody:nogroup").start()
    docker.image(directory)
    drive = dockers.Drive(inner, name, docker.host)
    lives(report, drive, docker)
    isolated(report, drive)
    remapped(report, drive, REMAP_BASE)
    linked_users(report, inner, drive, docker)
    drive.quit()
    with report.case("nothing of ours is left in Docker"):
        assert docker.containers() == [], docker.containers()
    docker.stop()


def over_podman(report, directory, name):
    try:
        podman = dockers.Podman(directory, name).start()
    except mayfly.Skip as e:
        report.skip("all", e)
        return
    podman.image(directory)
    inner = os.path.join(directory, "p")
    os.mkdir(inner)
    drive = dockers.Drive(inner, name, podman.host)
    with report.case("it is known to be Podman"):
        drive.say("about")
        e = drive.until(lambda e: "about" in e)
        assert e["about"]["product"] == "Podman" and e["check"] == 0, e
    lives(report, drive, podman)
    isolated(report, drive)
    linked_users(report, inner, drive, podman)
    load(report, drive, podman)
    drive.quit()
    restart(report, inner, name, podman)
    twins(report, inner, name, podman)
    with report.case("nothing of ours is left in Podman"):
        assert podman.containers() == [], podman.containers()
    podman.stop()


main()
