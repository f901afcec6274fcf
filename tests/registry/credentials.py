"""Credentials: kept by `mayfly login`, out of Docker's configuration, out of the ECS API; identity tokens."""

import base64
import glob
import json
import os
import pty
import select
import sqlite3
import subprocess
import time
import urllib.parse

import mayfly
import registries

SECRET = "s3cr3t-canary-41"


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


def run(client, image, auth=None, **members):
    request = {"image": image, "cmd": ["true"], "network": "none", **members}
    if auth:
        request["registry_auth"] = {"username": auth[0], "password": auth[1]}
    return client.post(request)


def closed(w, name, user="ann", password=SECRET):
    registries.need("htpasswd")
    path = os.path.join(w.dir, "users-" + name)
    subprocess.run(["htpasswd", "-Bbc", path, user, password], check=True, stderr=subprocess.DEVNULL)
    r = w.registry(name, auth=f"auth:\n  htpasswd: {{realm: here, path: {path}}}\n")
    # An image of its own: one that is open under another name is open to all.
    subprocess.run(["umoci", "config", "--image", w.layout + ":1", "--tag", name, "--config.env", "CLOSED=" + name], check=True)
    r.push(w.layout + ":" + name, "own/app:1", "--dest-creds", f"{user}:{password}")
    return r


def login(client, registry, username="ann", password=SECRET, **more):
    return client.request("POST", "/v1/registries/login", {"registry": registry, "username": username, "password": password, **more})


def names(client):
    return sorted(x["registry"] for x in client.get("/v1/registries").json()["registries"])


def logins(w, report):
    r = closed(w, "logins")
    image = f"{r.host}/own/app:1"
    keys = [w.instance.key("task") for _ in range(3)]
    one, two, three = (mayfly.NetClient(w.port, key) for key in keys)
    with report.case("login: wrong credentials are refused, and not kept"):
        answer = login(one, r.host, password="wrong")
        equal((answer.status, answer.json()["type"]), (403, "urn:mayfly:problem:login_refused"), answer)
        equal(names(one), [])
        equal(run(one, image).status, 403)
    with report.case("login: a registry that cannot be reached is 502"):
        answer = login(one, "127.0.0.1:1")
        equal((answer.status, answer.json()["type"]), (502, "urn:mayfly:problem:registry_error"), answer)
    with report.case("login: what is no registry, or no name, is 400"):
        for registry in ("", "a b", "http://", "user@host", "x" * 300):
            equal(login(one, registry).status, 400, registry)
        for username, password in (("", "x"), ("a:b", "x"), ("a\nb", "x"), ("a", ""), ("a" * 2000, "x"), ("a", "x" * 40000)):
            equal(login(one, r.host, username, password).status, 400, username[:5])
        equal(login(one, r.host, identity_token="x").status, 400)
        equal(one.request("POST", "/v1/registries/login", {"registry": r.host}).status, 400)
    with report.case("login: kept, and used by tasks and pulls of that key"):
        answer = login(one, "http://" + r.host.upper() + "/v2/")
        equal((answer.status, answer.json()), (200, {"registry": r.host, "username": "ann"}), answer)
        equal(names(one), [r.host])
        equal(run(one, image).status, 201)
        equal(run(one, image, pull="always").status, 201)
    with report.case("login: of no use to another key, nor to whoever opens the socket"):
        equal((names(two), names(w.client)), ([], []))
        assert run(two, image).status in (403, 404)
        equal(w.client.request("POST", "/v1/images/pull", {"image": image}).status, 403)
    with report.case("login: credentials of the request come first"):
        equal(run(one, image, auth=("ann", "wrong"), pull="always").status, 403)
    with report.case("login: another replaces it; a failed one does not"):
        equal(login(one, r.host, password="wrong").status, 403)
        equal(login(one, r.host).status, 200)
        equal((names(one), run(one, image, pull="always").status), ([r.host], 201))
    with report.case("login: sealed on disk, in no log"):
        equal(login(two, r.host).status, 200)
        for path in glob.glob(w.instance.data_dir + "/state/*") + [w.instance.log]:
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    assert SECRET.encode() not in f.read(), path
    with report.case("login: kept across a restart"):
        w.instance.stop()
        w.instance.start()
        equal(names(one), [r.host])
        equal(run(one, image, pull="always").status, 201)
    with report.case("logout: at once, and once"):
        equal(one.request("POST", "/v1/registries/logout", {"registry": r.host}).status, 204)
        equal(one.request("POST", "/v1/registries/logout", {"registry": r.host}).status, 404)
        equal(names(one), [])
        equal(run(one, image, pull="always").status, 403)
        equal(names(two), [r.host])
    with report.case("login: goes with its key"):
        equal(w.client.request("DELETE", "/v1/keys/" + keys[1].split(":")[0]).status, 204)
        db = os.path.join(w.instance.data_dir, "state/state.db")
        assert mayfly.wait_until(lambda: sqlite3.connect(db).execute("SELECT count(*) FROM logins").fetchone() == (0,), 10), "it is there"
    with report.case("login: at most 64 for one key"):
        fake = registries.Fake(registries.Blobs(), {}, lambda h, kind, name: h.send(200, b"{}", "application/json") or True, "0.0.0.0")
        statuses = [login(three, f"127.0.0.{i}:{fake.port}").status for i in range(1, 66)]
        equal(statuses, [200] * 64 + [507])
        equal(len(names(three)), 64)
        fake.close()


def command(w, report):
    r = closed(w, "command")
    image = f"{r.host}/own/app:1"
    with report.case("mayfly login: the password from stdin"):
        done = w.instance.cli("login", "-u", "ann", "--password-stdin", r.host, stdin=SECRET.encode() + b"\n")
        equal((done.returncode, done.stderr), (0, b""), done)
        assert r.host.encode() in done.stdout and SECRET.encode() not in done.stdout, done
        listed = w.instance.cli("login", "--list").stdout.decode()
        assert r.host in listed and "ann" in listed, listed
        equal(w.instance.cli("run", "--network", "none", image, "true").returncode, 0)
    with report.case("mayfly login: wrong, without a name, with a password as an argument"):
        done = w.instance.cli("login", "-u", "ann", "--password-stdin", r.host, stdin=b"wrong")
        assert done.returncode == 1 and b"does not accept" in done.stderr, done
        assert w.instance.cli("login", "--password-stdin", r.host, stdin=b"x").returncode == 1
        done = w.instance.cli("login", "-u", "ann", "-p", "x", r.host)
        assert done.returncode == 1 and b"--password-stdin" in done.stderr, done
        assert w.instance.cli("login", "-u", "ann", "--password-stdin", r.host, stdin=b"").returncode == 1
    with report.case("mayfly logout"):
        equal(w.instance.cli("logout", r.host).returncode, 0)
        done = w.instance.cli("logout", "--json", r.host)
        assert done.returncode == 1 and not done.stdout and b"no login" in done.stderr, done
        equal(w.instance.cli("login", "-u", "ann", "--password-stdin", r.host, stdin=SECRET.encode()).returncode, 0)
        done = w.instance.cli("logout", "--json", r.host)
        equal((done.returncode, done.stdout, done.stderr), (0, b"{}\n", b""), done)
        assert w.instance.cli("logout", r.host).returncode == 1
    with report.case("mayfly login: asks on a terminal, and shows no password"):
        code, shown = typed(w, ["login", r.host], [(b"Username: ", b"ann\n"), (b"Password: ", SECRET.encode() + b"\n")])
        equal(code, 0, shown)
        assert SECRET.encode() not in shown and b"ann" in shown, shown
    with report.case("mayfly login: Ctrl-C at the password"):
        code, shown = typed(w, ["login", "-u", "ann", r.host], [(b"Password: ", b"half\x03")])
        assert code in (-2, 130), (code, shown)
    w.instance.cli("logout", r.host)


def typed(w, arguments, answers):
    """The command on a terminal; each answer is typed when its question was asked."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["MAYFLY_HOST"] = "unix://" + w.instance.socket
        program = mayfly.program("mayfly")
        os.execv(program, [program, *arguments])
    shown, at, end = b"", 0, time.monotonic() + 30 * mayfly.SLOW
    while time.monotonic() < end:
        if select.select([fd], [], [], 1)[0]:
            try:
                piece = os.read(fd, 4096)
            except OSError:
                break
            shown += piece
        if answers and answers[0][0] in shown[at:]:
            at = len(shown)
            time.sleep(0.1)
            os.write(fd, answers.pop(0)[1])
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


# ── Docker's configuration ───────────────────────────────────────────────────────────────────────────────────────────


class Docker:
    """A directory with config.json and helpers, as `docker login` leaves them."""

    def __init__(self, w, name):
        self.w = w
        self.dir = os.path.join(w.dir, "docker-" + name)
        os.mkdir(self.dir)

    def config(self, value):
        with open(os.path.join(self.dir, "config.json"), "w", encoding="utf-8") as f:
            f.write(value if isinstance(value, str) else json.dumps(value))

    def helper(self, name, script):
        path = os.path.join(self.dir, "docker-credential-" + name)
        with open(path, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n" + script)
        os.chmod(path, 0o755)

    def cli(self, *arguments, **env):
        environment = {**os.environ, "MAYFLY_HOST": "unix://" + self.w.instance.socket, "DOCKER_CONFIG": self.dir,
                       "PATH": self.dir + ":" + os.environ["PATH"], **env}
        return subprocess.run([mayfly.program("mayfly"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
                              check=False)


def docker_config(w, report):
    r = closed(w, "docker")
    image = f"{r.host}/own/app:1"
    d = Docker(w, "config")
    pair = base64.b64encode(f"ann:{SECRET}".encode()).decode()

    def pull():
        return d.cli("pull", image)

    def works(done):
        equal(done.returncode, 0, done.stderr)
        equal(done.stderr.count(b"warning"), 0, done.stderr)

    def fails(done, *words):
        assert done.returncode == 1 and all(x in done.stderr for x in words), done
    with report.case("docker's config: none, or nothing for this registry"):
        fails(pull(), b"credentials")
        d.config({"auths": {"other.example": {"auth": pair}}, "credHelpers": {"other.example": "x"}})
        fails(pull(), b"credentials")
    for key in (r.host, "http://" + r.host, f"https://{r.host}/v1/", f"https://{r.host}/v2/"):
        with report.case(f"docker's config: auths under {key.replace(r.host, 'HOST')}"):
            d.config({"auths": {key: {"auth": pair}}})
            works(pull())
            works(d.cli("run", "--network", "none", "--pull", "always", image, "true"))
    with report.case("docker's config: in the home directory"):
        os.makedirs(os.path.join(d.dir, "home/.docker"))
        with open(os.path.join(d.dir, "home/.docker/config.json"), "w", encoding="utf-8") as f:
            json.dump({"auths": {r.host: {"username": "ann", "password": SECRET}}}, f)
        works(d.cli("pull", image, DOCKER_CONFIG="", HOME=os.path.join(d.dir, "home")))
    with report.case("docker's config: a helper for the registry, asked for it alone"):
        answer = json.dumps({"ServerURL": r.host, "Username": "ann", "Secret": SECRET})
        d.helper("good", f"[ \"$1\" = get ] || exit 9\nread -r host\n[ \"$host\" = {r.host} ] || exit 8\necho '{answer}'\n")
        d.config({"credHelpers": {r.host: "good"}})
        works(pull())
    with report.case("docker's config: the store, and auths where it has nothing"):
        d.config({"credsStore": "good"})
        works(pull())
        d.helper("empty", "echo credentials not found in native keychain\nexit 1\n")
        d.config({"credsStore": "empty", "auths": {r.host: {"auth": pair}}})
        works(pull())
    for name, script in (("fails", "echo broken\nexit 3"), ("nothing", "exit 0"), ("nonsense", "echo {"), ("list", "echo []"),
                         ("endless", "exec cat /dev/zero"), ("dead", "kill -9 $$")):
        with report.case(f"docker's config: a helper that is bad goes unused, and is told of: {name}"):
            d.helper(name, script + "\n")
            d.config({"credHelpers": {r.host: name}})
            fails(pull(), b"docker-credential-" + name.encode(), b"without Docker's credentials")
    for name in ("../evil", "a/b", "-x", "a b", "", "x" * 200, "none-such", "a;touch /tmp/x"):
        with report.case(f"docker's config: a helper called {name[:12]!r}"):
            d.config({"credHelpers": {r.host: name}})
            fails(pull())
    for what, value in (("no JSON", "{"), ("a list", "[]"), ("no base64", {"auths": {r.host: {"auth": "!"}}}),
                        ("no colon", {"auths": {r.host: {"auth": base64.b64encode(b"ann").decode()}}}), ("large", " " * (2 << 20))):
        with report.case(f"docker's config: {what}"):
            d.config(value)
            fails(pull())
    with report.case("docker's config: what is given comes first"):
        d.config({"auths": {r.host: {"auth": base64.b64encode(b"ann:wrong").decode()}}})
        fails(pull(), b"does not accept")
        works(d.cli("run", "--network", "none", "--pull", "always", image, "true", MAYFLY_REGISTRY_AUTH=f"ann:{SECRET}"))


# ── identity tokens ──────────────────────────────────────────────────────────────────────────────────────────────────


class OAuth:
    """A token server that takes refresh tokens (distribution, spec/auth/oauth.md)."""

    def __init__(self, refresh="refresh-canary"):
        self.refresh, self.forms, self.issued = refresh, [], set()

    def bend(self, handler, kind, name):
        if handler.path.startswith("/token"):
            handler.send(405 if handler.command == "GET" and not handler.headers.get("Authorization") else 401, b"{}", "application/json")
            return True
        if handler.headers.get("Authorization", "").removeprefix("Bearer ") in self.issued:
            if handler.path == "/v2/":
                handler.send(200, b"{}", "application/json")
                return True
            return False
        handler.send(401, b"{}", "application/json",
                     WWW_Authenticate=f'Bearer realm="http://{handler.headers["Host"]}/token",service="here"')
        return True

    def post(self, handler):
        form = urllib.parse.parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        form = {k: v[0] for k, v in form.items()}
        self.forms.append(form)
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != self.refresh:
            handler.send(401, b'{"details":"no"}', "application/json")
            return
        token = f"access-{len(self.issued)}"
        self.issued.add(token)
        handler.send(200, json.dumps({"access_token": token, "expires_in": 60}).encode(), "application/json")


def identity_tokens(w, report):
    blobs, tags = w.small_image()
    o = OAuth()
    fake = registries.Fake(blobs, tags, o.bend)
    fake.server.RequestHandlerClass.do_POST = lambda handler: o.post(handler)
    image = f"{fake.host}/own/app:1"
    client = mayfly.NetClient(w.port, w.instance.key("task"))
    with report.case("identity token: exchanged by POST at the token server, with our scope"):
        equal(run(client, image, auth=("<token>", "wrong")).status, 403)
        answer = run(client, image, auth=("<token>", o.refresh))
        equal(answer.status, 201, answer)
        equal({k: o.forms[-1][k] for k in ("grant_type", "service", "scope")},
              {"grant_type": "refresh_token", "service": "here", "scope": "repository:own/app:pull"})
        assert not any(o.refresh in a for a in fake.authorizations), fake.authorizations
    with report.case("identity token: kept by a login, without a scope"):
        answer = client.request("POST", "/v1/registries/login", {"registry": fake.host, "identity_token": o.refresh})
        equal((answer.status, answer.json()["username"]), (200, "<token>"), answer)
        assert "scope" not in o.forms[-1], o.forms[-1]
        equal(client.request("POST", "/v1/registries/login", {"registry": fake.host, "identity_token": "wrong"}).status, 403)
        equal(run(client, image, pull="always").status, 201)
    with report.case("identity token: out of docker's config"):
        d = Docker(w, "identity")
        d.config({"auths": {fake.host: {"auth": base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode(),
                                        "identitytoken": o.refresh}}})
        equal(d.cli("pull", image).returncode, 0)
    with report.case("identity token: a registry that wants Basic does not get it"):
        r = closed(w, "basic")
        equal(run(client, f"{r.host}/own/app:1", auth=("<token>", SECRET)).status, 403)
    fake.close()


# ── the ECS API ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ecs(w, report):
    r = closed(w, "ecs")
    client = mayfly.NetClient(w.port, w.instance.key("task"))

    def ask(path, password=SECRET):
        body = {"docker_image": path, "cmd": ["sh", "-c", "echo private"]}
        if password:
            body["creds"] = {"email": "a@example.org", "username": "ann", "password": password}
        return client.request("POST", "/v1.1/tasks", body)
    with report.case("ecs: a private image with creds"):
        answer = ask(f"{r.host}/own/app:1")
        equal(answer.status, 201, answer)
        equal(base64.b64decode(answer.json()["stdout"]), b"private\n")
    with report.case("ecs: v1.0, too"):
        creds = {"email": "a@example.org", "username": "ann", "password": SECRET}
        answer = client.request("POST", "/v1.0/tasks", {"docker_image": f"{r.host}/own/app", "tag": "1", "cmd": ["true"], "creds": creds})
        equal(answer.status, 201, answer)
    with report.case("ecs: wrong credentials, none, and an unknown image are 404"):
        other = mayfly.NetClient(w.port, w.instance.key("task"))
        client, kept = other, client
        equal([ask(f"{r.host}/own/app:1", "wrong").status, ask(f"{r.host}/own/app:1", None).status,
               ask(f"{r.host}/own/app:none").status, ask(f"{r.host}/none/app:1").status], [404] * 4)
        client = kept
    with report.case("ecs: an unreachable registry is 502, with its reason"):
        answer = ask("127.0.0.1:1/own/app:1")
        equal(answer.status, 502, answer)
        assert "127.0.0.1:1" in answer.body.decode() and "cannot be reached" in answer.body.decode(), answer
    with report.case("ecs: a busy registry is 503 with Retry-After"):
        fake = registries.Fake(registries.Blobs(), {}, lambda h, kind, name: h.send(429, Retry_After="99") or True)
        answer = ask(f"{fake.host}/own/app:1")
        equal((answer.status, answer.headers["Retry-After"]), (503, "99"), answer)
        fake.close()


def strangers(w, report):
    """One image that two closed registries have: neither is told what is for the other."""
    blobs = registries.Blobs()
    tags = {"1": blobs.image([w.system, mayfly.Archive().file("strangers", "1").bytes()])}
    blobs.add(tags["1"])  # it has its digest, too

    def closed_to(user):
        def bend(handler, kind, name):
            if handler.headers.get("Authorization") == registries.basic(user, SECRET + user):
                return False
            handler.send(401, b"{}", "application/json", WWW_Authenticate='Basic realm="x"')
            return True
        return registries.Fake(blobs, tags, bend)
    fakes = {"one": closed_to("one"), "two": closed_to("two")}
    host = {user: f"{fake.host}/own/app:1" for user, fake in fakes.items()}
    auth = {user: (user, SECRET + user) for user in fakes}
    first = mayfly.NetClient(w.port, w.instance.key("task"))
    for user in fakes:
        equal(run(first, host[user], auth=auth[user], pull="always").status, 201)
    digest = run(first, host["one"], auth=auth["one"]).json()["image"]["digest"]
    for user, other in (("one", "two"), ("two", "one")):
        with report.case(f"credentials: those for one registry are told no other that has the image, {user}"):
            client = mayfly.NetClient(w.port, w.instance.key("task"))
            equal(run(client, host[user], auth=auth[user]).status, 201)
            assert registries.basic(*auth[user]) not in fakes[other].authorizations, "they were told"
        with report.case(f"credentials: beside a digest without a registry they are told nobody, {user}"):
            for fake in fakes.values():
                fake.authorizations.clear()
            client = mayfly.NetClient(w.port, w.instance.key("task"))
            equal(run(client, digest, auth=auth[user]).status, 403)
            equal([fake.authorizations for fake in fakes.values()], [[], []])
    with report.case("images: names in a repository that is closed to a key are not told it"):
        client = mayfly.NetClient(w.port, w.instance.key("task"))
        equal(run(client, host["one"], auth=auth["one"]).status, 201)
        mine = [n for i in client.get("/v1/images").json()["images"] for n in i["names"]]
        assert host["one"] in mine and not any(fakes["two"].host in n for n in mine), mine
        assert fakes["two"].host not in client.get("/v1/images/" + digest).body.decode()
        assert fakes["two"].host in w.client.get("/v1/images/" + digest).body.decode()
    with report.case("images: nor is there an image by such a name for it, whatever else it may do with that image"):
        deploy = mayfly.NetClient(w.port, w.instance.key("deploy"))
        equal(deploy.request("POST", "/v1/images/pull", {"image": host["one"], "registry_auth": dict(
            zip(("username", "password"), auth["one"]))}).status, 200)
        theirs = host["two"].split("@")[0]
        for method, path in (("GET", "/v1/images/" + theirs), ("GET", f"/v1/images/{theirs.rsplit(':', 1)[0]}@{digest}"),
                             ("DELETE", "/v1/images/" + theirs), ("GET", "/v1/images/save?ref=" + theirs),
                             ("GET", "/v1/images/save?ref=" + theirs.rsplit(":", 1)[0]),
                             ("POST", f"/v1/images/tag?ref={theirs}&name=mine:1"), ("POST", "/v1/images/pin?ref=" + theirs)):
            answer = deploy.request(method, path)
            equal((answer.status, answer.json()["type"]), (404, "urn:mayfly:problem:image_not_found"), (path, answer))
        equal(w.client.get("/v1/images/" + theirs).status, 200)
        equal(deploy.request("GET", "/v1/images/" + host["one"]).status, 200)
        for path in ("/v1/images/prune?all=true", "/v1/images/verify"):
            assert fakes["two"].host not in deploy.request("POST", path).body.decode(), path
    with report.case("credentials: a repository and a digest name the registry that is asked"):
        client = mayfly.NetClient(w.port, w.instance.key("task"))
        equal(run(client, f"{fakes['one'].host}/own/app@{digest}", auth=auth["one"]).status, 201)
        equal(run(client, f"{fakes['two'].host}/own/app@{digest}", auth=auth["two"]).status, 201)
        assert registries.basic(*auth["one"]) not in fakes["two"].authorizations, "they were told"
        assert registries.basic(*auth["two"]) not in fakes["one"].authorizations, "they were told"
    for fake in fakes.values():
        fake.close()


# ── names in closed repositories ─────────────────────────────────────────────────────────────────────────────────────


def docker_archive(blobs, image, name):
    """As docker save writes it, of plain layers."""
    manifest = json.loads(image)
    config, layers = manifest["config"]["digest"], [layer["digest"] for layer in manifest["layers"]]
    archive = mayfly.Archive()
    for digest in [config, *layers]:
        archive.file(digest[7:] + (".json" if digest == config else ".tar"), blobs.blobs[digest])
    listed = [{"Config": config[7:] + ".json", "RepoTags": [name], "Layers": [x[7:] + ".tar" for x in layers]}]
    return archive.file("manifest.json", json.dumps(listed).encode()).bytes()


def closed_names(w, report):
    r = closed(w, "names")
    image, other = f"{r.host}/own/app:1", f"{r.host}/own/app:2"
    task = mayfly.NetClient(w.port, w.instance.key("task"))
    deploys = [mayfly.NetClient(w.port, w.instance.key("deploy")) for _ in range(2)]
    evil = mayfly.Archive().file("evil", b"evil").bytes()
    blobs = registries.Blobs()
    archive = docker_archive(blobs, blobs.image([w.system, evil]), image)

    def tag(client, name):
        return client.request("POST", f"/v1/images/tag?ref=evil:1&name={name}")

    def load(client):
        return client.request("POST", "/v1/images/load", archive, {"Content-Type": "application/x-tar"})

    def refused(answer):
        equal((answer.status, answer.json()["type"]), (403, "urn:mayfly:problem:forbidden"), answer)
        assert "credentials" in answer.json()["detail"], answer
    equal(run(task, image, ("ann", SECRET)).status, 201)
    digest = w.client.get("/v1/images/" + image).json()["digest"]
    with report.case("closed names: local names, and those of open repositories, are everybody's who may tag"):
        equal(deploys[0].load(evil, "evil:1").status, 201)
        equal(tag(deploys[0], "tools:1").status, 200)
        equal(tag(deploys[0], "registry.example/open:1").status, 200)
    with report.case("closed names: a key without access cannot tag, import or load under them"):
        for name in (image, other):
            refused(tag(deploys[0], name))
            refused(deploys[0].load(evil, name))
        refused(load(deploys[0]))
        equal(w.client.get("/v1/images/" + image).json()["digest"], digest)
        equal(w.client.get("/v1/images/" + other).status, 404)
    with report.case("closed names: nor take them away"):
        assert w.client.request("POST", f"/v1/images/tag?ref={image}&name=opened:1").status == 200
        for name in (image, digest):
            answer = deploys[0].request("DELETE", "/v1/images/" + name)
            assert answer.status in (403, 404), (name, answer)
        assert image in w.client.get("/v1/images/" + image).json()["names"]
        equal(deploys[0].request("DELETE", "/v1/images/opened:1").status, 200)
    with report.case("closed names: with access by a pull of its own they are a key's"):
        body = {"image": image, "registry_auth": {"username": "ann", "password": SECRET}}
        equal(deploys[1].request("POST", "/v1/images/pull", body).status, 200)
        equal(tag(deploys[1], other).status, 200)
        refused(tag(deploys[0], other))
        equal(deploys[1].request("DELETE", "/v1/images/" + other).status, 200)
    with report.case("closed names: an admin's in any case"):
        equal(tag(w.client, other).status, 200)
        equal(load(w.client).status, 201)
    for name in (image, other, "evil:1", "tools:1", "registry.example/open:1"):
        w.client.request("DELETE", "/v1/images/" + name)


GROUPS = [logins, command, docker_config, identity_tokens, ecs, strangers, closed_names]
