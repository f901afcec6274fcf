#!/usr/bin/env python3
"""Several engines: Docker alone, and beside the native one. A dockerd of the test's own, whose containers have no network."""
import contextlib
import os
import subprocess
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), os.path.join(HERE, "..", "registry")]
import dockerd  # noqa: E402
import mayfly  # noqa: E402
import registries  # noqa: E402

NAME = f"mfe{os.getpid() % 1000}"
POOL = f"10.{180 + os.getpid() % 10}.0.0/16"
IMAGE = "busybox:demo"
USER, PASSWORD = "ann", "secret of ann"
report = mayfly.Report("engines: ")


def equal(got, want):
    assert got == want, f"got {got!r}, expected {want!r}"


def busybox():
    return subprocess.run([os.path.join(mayfly.ROOT, "tools/busybox-image.sh")], stdout=subprocess.PIPE, check=True).stdout


def refused(client, status, request):
    answer = client.post(request)
    assert answer.status == status, f"expected {status}: {answer}"
    return answer.json()


def sleeper(client, engine, seconds=60, **more):
    """An accepted task, which runs."""
    answer = client.post({"image": IMAGE, "cmd": ["sleep", str(seconds)], "engine": engine, "wait": False,
                          "network": "none", **more})
    equal(answer.status, 202)
    at = f"/v1/tasks/{answer.json()['id']}"
    assert mayfly.wait_until(lambda: client.get(at).json()["status"] == "running"), client.get(at)
    return at


# ── Docker alone ─────────────────────────────────────────────────────────────────────────────────────────────────────


def alone(docker):
    with mayfly.Instance(NAME + "a", POOL, engine="docker", **{"docker-host": docker.host}) as instance:
        client = instance.client
        with report.case("with Docker alone there is mayflyd, and no launcher and netd"):
            equal(sorted(instance.pids()), ["mayfly-supervisor", "mayflyd"])
            equal(sorted(os.listdir(instance.data_dir)), ["lock", "state"])
        with report.case("mayflyd has the group of Docker's socket, and no other but the API's"):
            status = mayfly.read(f"/proc/{instance.pid('mayflyd')}/status")
            groups = [line for line in status.splitlines() if line.startswith("Groups:")][0].split()[1:]
            equal({int(g) for g in groups}, {os.stat(docker.socket).st_gid, os.stat(instance.socket).st_gid})
        with report.case("a task runs there, and says so"):
            task = client.run(IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3")
            equal((task["exit_code"], task["out"], task["err"], task["engine"]), (3, b"out\n", b"err\n", "docker"))
        with report.case("health runs the built-in image, which Docker is given"):
            answer = client.get("/v1/health?full=1")
            equal(answer.status, 200)
            equal(answer.json()["task"]["status"], "ok")
            answer = client.get("/v1.0/_health?quick=false")
            equal((answer.status, answer.json()["status"]), (200, "green"))
        with report.case("the built-in image comes back when somebody removes it from Docker"):
            docker.docker("rmi", "-f", "mayfly.internal/health:1")
            equal(client.run("mayfly.internal/health:1")["exit_code"], 0)
        with report.case("nothing is pulled of the built-in images' name"):
            equal(refused(client, 404, {"image": "mayfly.internal/other:1"})["type"], "urn:mayfly:problem:image_not_found")
        with report.case("engines tells what Docker is, what it lacks, and what was found"):
            engines = client.get("/v1/engines").json()["engines"]
            equal([(e["name"], e["default"], e["status"], e["product"]) for e in engines],
                  [("docker", True, "ok", "Docker")])
            missing = {name for name, has in engines[0]["features"].items() if not has}
            equal({x["feature"] for x in engines[0]["lacks"]}, missing)
            assert any("userns-remap" in finding for finding in engines[0]["findings"]), engines[0]["findings"]
        with report.case("an engine that is not configured is refused by name"):
            problem = refused(client, 400, {"image": IMAGE, "engine": "native"})
            equal(problem["errors"][0]["pointer"], "/engine")
            assert "docker" in problem["errors"][0]["detail"], problem
        with report.case("import, load and pull say where images of this node are"):
            for answer in (client.load(busybox(), "x:1"), client.request("POST", "/v1/images/load", busybox()),
                           client.request("POST", "/v1/images/pull", {"image": "x:1"})):
                equal((answer.status, answer.json()["type"]), (501, "urn:mayfly:problem:not_supported"))
                assert "docker load" in answer.json()["detail"], answer
        with report.case("while Docker is away health says so, tasks wait for it"):
            docker.stop()
            assert mayfly.wait_until(lambda: client.get("/v1/health").status == 503), client.get("/v1/health")
            assert "docker" in client.get("/v1/health").json()["engine"]["detail"].lower()
            equal(client.get("/v1/engines").json()["engines"][0]["status"], "failed")
            got = {}
            waiter = threading.Thread(target=lambda: got.update(client.run(IMAGE, "echo", "late")))
            waiter.start()
            docker.start()
            waiter.join()
            equal(got.get("out"), b"late\n")
        with report.case("it stops in order"):
            assert instance.stop(), instance.log_tail()
    with report.case("no container is left"):
        assert mayfly.wait_until(lambda: docker.containers() == []), docker.containers()


def documented():
    """{feature: {engine: has it}} of the table in docs/engines.md."""
    table = {}
    with open(os.path.join(mayfly.ROOT, "docs/engines.md"), encoding="utf-8") as f:
        for line in f:
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if len(cells) == 4 and cells[0].startswith("`") and {cells[1], cells[2]} <= {"yes", "no"}:
                table[cells[0].strip("`")] = {"native": cells[1] == "yes", "docker": cells[2] == "yes"}
    return table


def no_access(docker):
    with report.case("a socket that is root's alone is refused with what to do"):
        os.chmod(docker.socket, 0o600)
        instance = mayfly.Instance(NAME + "n", POOL, engine="docker", **{"docker-host": docker.host})
        try:
            instance.start()
        except RuntimeError as e:
            assert "dockerd --group docker" in str(e), e
        else:
            raise AssertionError("it started")
        finally:
            instance.close()
            os.chmod(docker.socket, 0o660)


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def both(docker):
    config = {"engines": "native,docker", "docker-host": docker.host, "listen": f"tcp://127.0.0.1:{mayfly.free_port()}"}
    with mayfly.Instance(NAME + "b", POOL, **config) as instance:
        client = instance.client
        port = int(config["listen"].rsplit(":", 1)[1])
        instance.load(busybox(), IMAGE)
        with report.case("a task chooses, the first is the default"):
            equal(client.run(IMAGE, "true")["engine"], "native")
            equal(client.run(IMAGE, "true", engine="native")["engine"], "native")
            equal(client.run(IMAGE, "true", engine="docker")["engine"], "docker")
        with report.case("health of either"):
            for engine in ("native", "docker"):
                answer = client.get(f"/v1/health?full=1&engine={engine}").json()
                equal((answer["engine"]["name"], answer["task"]["status"]), (engine, "ok"))
            equal(client.get("/v1/health?engine=none").status, 400)
        with report.case("a key is bound to one"):
            bound = mayfly.NetClient(port, instance.key("task", "--engine", "docker"))
            equal(bound.run(IMAGE, "true")["engine"], "docker")
            refused(bound, 403, {"image": IMAGE, "cmd": ["true"], "engine": "native"})
        with report.case("an image of the store is given to Docker, to those who may use it"):
            instance.load(busybox(), "only.here/tools:2")
            equal(client.run("only.here/tools:2", "echo", "both", engine="docker")["out"], b"both\n")
            equal(client.run("only.here/tools:2", "echo", "both", engine="native")["out"], b"both\n")
            instance.load(busybox(), "only.here/more:1")
            got = []
            threads = [threading.Thread(target=lambda: got.append(client.run("only.here/more:1", "true", engine="docker")))
                       for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            equal([t["exit_code"] for t in got], [0] * 5)
        with report.case("what is nowhere is not found"):
            equal(refused(client, 404, {"image": "only.here/none:1", "cmd": ["true"], "engine": "docker"})["type"],
                  "urn:mayfly:problem:image_not_found")
        with report.case("a task key is told what engines can do, and nothing of their hosts"):
            engines = bound.get("/v1/engines").json()["engines"]
            equal([(e["name"], e["product"], e["findings"]) for e in engines], [("native", None, []), ("docker", None, [])])
            assert engines[1]["lacks"] and engines[1]["features"]["live"], engines[1]
        with report.case("what one cannot do is refused for it alone"):
            refused(client, 400, {"image": IMAGE, "engine": "docker", "limits": {"cpu_time": 1}})
            equal(client.run(IMAGE, "true", engine="native", limits={"cpu_time": 1})["exit_code"], 0)
        with report.case("the table of the documents is what the engines tell"):
            told = client.get("/v1/engines").json()["engines"]
            equal(documented(), {f: {e["name"]: e["features"][f] for e in told} for f in told[0]["features"]})
        with report.case("the command tells of both"):
            out = instance.cli("engines").stdout.decode()
            assert "native" in out and "docker" in out, out
        with report.case("the native engine goes on without Docker, and takes over its tasks when it is back"):
            runs = sleeper(client, "docker", 8)
            native = sleeper(client, "native", 600)
            ends = sleeper(client, "docker", 600)
            os.kill(instance.pid("mayflyd"), 9)
            docker.stop(kill=True)
            assert mayfly.wait_until(instance.ready, 60)
            equal(client.get(native).json()["status"], "running")
            equal(client.run(IMAGE, "true")["engine"], "native")
            # What Docker has of it is not known: it is neither lost nor started again.
            equal(client.get(runs).json()["finished_at"], None)
            equal(client.request("POST", ends + "/cancel").status // 100, 2)
            docker.start()
            assert mayfly.wait_until(lambda: client.get(ends).json()["status"] in ("killed", "failed")), client.get(ends)
            assert mayfly.wait_until(lambda: client.get(runs).json()["finished_at"]), client.get(runs)
            assert client.get(runs).json()["reason"] in ("node_lost", "signal", None), client.get(runs).json()
            equal(client.run(IMAGE, "true", engine="docker")["exit_code"], 0)
            client.request("POST", native + "/cancel")
    with report.case("no container of theirs is left"):
        assert mayfly.wait_until(lambda: docker.containers() == []), docker.containers()


# ── whose image ──────────────────────────────────────────────────────────────────────────────────────────────────────


def policy(docker):
    """What the policy wants verified is, before Docker gets it; where nobody can, nothing runs."""
    with mayfly.Instance(NAME + "p", POOL, engines="native,docker", **{"docker-host": docker.host}) as instance:
        name = "pinned.here/tools:1"
        instance.load(busybox(), name)
        digest = instance.client.get("/v1/images").json()["images"]
        digest = [i["digest"] for i in digest if name in i["names"]][0]
        run = {"image": name, "cmd": ["echo", "pinned"], "engine": "docker", "network": "none"}
        instance.stop()
        instance.config["trust.pinned"] = f"{name}={digest}"
        instance.start()
        with report.case("a pinned image goes to Docker and runs"):
            equal(instance.client.post(run).json().get("stdout"), "pinned\n")
        with report.case("another image that has its name in Docker does not"):
            docker.docker("import", "-c", "ENV OTHER=yes", "-", name, stdin=busybox())
            run["cmd"] = ["sh", "-c", "echo $OTHER."]
            equal(instance.client.post(run).json().get("stdout"), ".\n")
        instance.stop()
        instance.config["trust.pinned"] = f"{name}=sha256:" + "0" * 64
        instance.start()
        with report.case("one that is pinned to another digest is refused"):
            equal(refused(instance.client, 403, run)["type"], "urn:mayfly:problem:image_untrusted")
    with report.case("with Docker alone there is no such policy"):
        instance = mayfly.Instance(NAME + "q", POOL, engine="docker",
                                   **{"docker-host": docker.host, "trust.pinned": f"{name}={digest}"})
        try:
            instance.start()
        except RuntimeError as e:
            assert "trust: needs the native engine" in str(e), e
        else:
            raise AssertionError("it started")
        finally:
            instance.close()


def htpasswd(directory):
    path = os.path.join(directory, "htpasswd")
    line = subprocess.run(["htpasswd", "-nbB", USER, PASSWORD], stdout=subprocess.PIPE, check=True).stdout
    with open(path, "wb") as f:
        f.write(line)
    return path


def owners(docker):
    """What Docker pulled with one key's credentials is not another key's."""
    registries.need("docker-registry", "htpasswd")
    auth = f"auth:\n  htpasswd: {{realm: test, path: {htpasswd(docker.dir)}}}\n"
    registry = registries.Registry(docker.dir, "registry", auth).start()
    image = f"{registry.host}/private/busybox:1"
    try:
        docker.docker("tag", IMAGE, image)
        docker.docker("login", "-u", USER, "--password-stdin", registry.host, stdin=PASSWORD.encode())
        docker.docker("push", image)
        docker.docker("rmi", image)
        config = {"engine": "docker", "docker-host": docker.host, "registries.enabled": "true",
                  "listen": f"tcp://127.0.0.1:{mayfly.free_port()}", "registries.proof": "2s"}
        with mayfly.Instance(NAME + "o", POOL, **config) as instance:
            port = int(config["listen"].rsplit(":", 1)[1])
            ann, bob = (mayfly.NetClient(port, instance.key("task")) for _ in "ab")
            right = {"username": USER, "password": PASSWORD}
            run = {"image": image, "cmd": ["true"], "network": "none"}
            with report.case("without credentials a private image is not there"):
                assert ann.post(run).status in (403, 404), ann.post(run)
            with report.case("a pull that failed closes nothing"):
                wrong = {**run, "registry_auth": {**right, "password": "wrong"}}
                assert ann.post(wrong).status in (403, 404), ann.post(wrong)
                docker.docker("tag", IMAGE, image)
                equal(bob.post(run).status, 201)
                docker.docker("rmi", image)
            with report.case("with the right ones it runs, and then without, too"):
                equal(ann.post({**run, "registry_auth": right}).status, 201)
                equal(ann.post(run).status, 201)
            with report.case("another key gets nothing of it"):
                for pull in ("missing", "never", "always"):
                    answer = bob.post({**run, "pull": pull})
                    assert answer.status in (403, 404), answer
            with report.case("nor by its digest, for which Docker asks no registry"):
                digest = docker.docker("inspect", "--format", "{{index .RepoDigests 0}}", image).stdout.decode().strip()
                for pull in ("missing", "never", "always"):
                    for more in ({}, {"registry_auth": {**right, "password": "wrong"}}):
                        answer = bob.post({**run, "image": digest, "pull": pull, **more})
                        assert answer.status in (403, 404), answer
                assert bob.post(run).status in (403, 404)
                equal(ann.post({**run, "image": digest, "pull": "always", "registry_auth": right}).status, 201)
            with report.case("the other key's own credentials open it to that key"):
                equal(bob.post({**run, "registry_auth": right}).status, 201)
                equal(bob.post(run).status, 201)
            with report.case("what a key keeps for the registry opens it, too, and to that key alone"):
                dora, login = mayfly.NetClient(port, instance.key("task")), {"registry": registry.host, **right}
                assert dora.post(run).status in (403, 404), dora.post(run)
                equal(dora.request("POST", "/v1/registries/login", login).status, 200)
                equal(dora.post({**run, "pull": "always"}).status, 201)
            with report.case("after a restart it is closed still"):
                os.kill(instance.pid("mayflyd"), 9)
                assert mayfly.wait_until(instance.ready, 60)
                carl = mayfly.NetClient(port, instance.key("task"))
                assert carl.post(run).status in (403, 404), carl.post(run)
            with report.case("the last proof holds while the registry is away"):
                registry.stop()
                equal(ann.post(run).status, 201)
                assert carl.post(run).status >= 400, carl.post(run)
    finally:
        registry.stop()


def main():
    if not dockerd.available():
        report.skip("all", "no dockerd here")
        return
    try:
        mayfly.need_no_docker0()
    except mayfly.Skip as e:
        report.skip("all", e)
        return
    with dockerd.Dockerd(NAME, network="host") as docker:
        docker.load(busybox(), IMAGE)
        alone(docker)
        no_access(docker)
        both(docker)
        with report.case("policy"):
            policy(docker)
        with report.case("owners"):
            owners(docker)
    with report.case("nothing is left of Docker"):
        equal(docker.left(), [])
    report.exit()


if __name__ == "__main__":
    main()
