"""Ways to a registry: proxies, certificates of clients, mirrors in their order, addresses that are none."""

import contextlib
import os
import re
import shutil
import ssl
import subprocess

import mayfly
import misbehaviour
import registries

POOL = "10.240.0.0/16"


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


def run(client, image, **members):
    return client.post({"image": image, "cmd": ["true"], "network": "none", **members})


def pull(client, image):
    return client.request("POST", "/v1/images/pull", {"image": image}, timeout=90)


def own_address():
    address = misbehaviour.own_address()
    if address.startswith("127."):
        raise mayfly.Skip("this machine has no address but loopback's")
    return address


def certificate(directory, name, *more, subject="/CN=test"):
    registries.need("openssl")
    cert, key = (os.path.join(directory, f"{name}.{kind}") for kind in ("cert", "key"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj",
                    subject, *more], check=True, stderr=subprocess.DEVNULL)
    return cert, key


def put(w, host, name, path):
    where = os.path.join(w.certs, host)
    os.makedirs(where, exist_ok=True)
    shutil.copy(path, os.path.join(where, name))
    os.chmod(os.path.join(where, name), 0o644)


@contextlib.contextmanager
def instance(w, **config):
    i = mayfly.Instance("mf-roads", POOL, registries__enabled="true", registries__retries="0", registries__stall="2s",
                        registries__certs=w.certs, registries__connect_timeout="2s", **config)
    with i:
        yield i


# ── proxies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Proxy:
    """Debian's tinyproxy."""

    def __init__(self, w, user=None):
        registries.need("tinyproxy")
        self.port = mayfly.free_port()
        self.log = os.path.join(w.dir, f"tinyproxy-{self.port}.log")
        path = os.path.join(w.dir, f"tinyproxy-{self.port}.conf")
        with open(path, "w", encoding="ascii") as f:
            f.write(f"Port {self.port}\nListen 127.0.0.1\nTimeout 60\nLogFile \"{self.log}\"\nLogLevel Connect\nMaxClients 50\n"
                    f"Allow 127.0.0.1\n{'BasicAuth ' + user if user else ''}\n")
        self.process = subprocess.Popen(["tinyproxy", "-d", "-c", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        mayfly.wait_until(lambda: os.path.exists(self.log) and "listening" in mayfly.read(self.log).lower(), 10)

    def asked(self, what):
        return len(re.findall(what, mayfly.read(self.log)))

    def close(self):
        self.process.kill()
        self.process.wait()


def proxies(w, report):
    address = own_address()
    blobs, tags = w.small_image()
    plain = registries.Fake(blobs, tags, address=address)
    secure = registries.Fake(blobs, tags, address=address)
    cert, key = certificate(w.dir, "proxied", "-addext", f"subjectAltName=IP:{address}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    secure.server.socket = context.wrap_socket(secure.server.socket, server_side=True)
    put(w, secure.host, "ca.crt", cert)
    here = registries.Fake(blobs, tags)
    proxy = Proxy(w)
    try:
        hosts = {"registries__insecure": plain.host, "registries__allow": f"{plain.host},{secure.host}"}
        with instance(w, registries__proxy=f"http://127.0.0.1:{proxy.port}", **hosts) as i:
            with report.case("proxy: plain HTTP goes through it"):
                equal(run(i.client, plain.host + "/some/app:1").status, 201)
                assert proxy.asked(f"GET http://{plain.host}/v2/some/app/manifests/1") == 1, mayfly.read(proxy.log)
            with report.case("proxy: TLS goes through it by CONNECT, end to end"):
                equal(run(i.client, secure.host + "/some/app:1").status, 201)
                assert proxy.asked(f"CONNECT {secure.host}") >= 1, mayfly.read(proxy.log)
                assert proxy.asked(f"{secure.host}/v2/") == 0, mayfly.read(proxy.log)
            with report.case("proxy: never for loopback"):
                equal(run(i.client, here.host + "/some/app:1").status, 201)
                equal(proxy.asked(re.escape(here.host)), 0)
            with report.case("proxy: a certificate that nobody vouches for is refused behind it, too"):
                os.unlink(os.path.join(w.certs, secure.host, "ca.crt"))
                answer = pull(i.client, secure.host + "/other/app:1")
                equal((answer.status, answer.json()["type"]), (502, "urn:mayfly:problem:registry_error"), answer)
                put(w, secure.host, "ca.crt", cert)
            with report.case("proxy: metadata and link-local addresses are asked of nobody"):
                for host in ("169.254.169.254", "100.100.100.200", "[fe80::1]", "[fd00:ec2::254]", address):
                    equal(pull(i.client, f"{host}/x:1").status, 502, host)
                equal(proxy.asked("169.254|100.100|fe80|fd00"), 0)
            with report.case("proxy: one that is gone is 502, and names the registry"):
                proxy.close()
                answer = pull(i.client, plain.host + "/third/app:1")
                equal(answer.status, 502, answer)
                assert plain.host in answer.json()["detail"], answer
        with instance(w, registries__proxy="http://127.0.0.1:1", registries__no_proxy=plain.host, **hosts) as i:
            with report.case("proxy: hosts that are reached without it"):
                equal(run(i.client, plain.host + "/some/app:1").status, 201)
                equal(pull(i.client, secure.host + "/some/app:1").status, 502)
    finally:
        proxy.close()
        for f in (plain, secure, here):
            f.close()


# ── certificates of clients ──────────────────────────────────────────────────────────────────────────────────────────


def client_certificates(w, report):
    cert, key = certificate(w.dir, "server", "-addext", "subjectAltName=IP:127.0.0.1")
    good, stranger = (certificate(w.dir, name, subject="/CN=" + name) for name in ("client", "stranger"))
    r = w.registry("mutual", tls=(cert, key, good[0]))
    certs = os.path.join(w.dir, "skopeo-certs")
    os.mkdir(certs)
    for name, path in (("client.cert", good[0]), ("client.key", good[1]), ("ca.crt", cert)):
        shutil.copy(path, os.path.join(certs, name))
    r.push(w.layout + ":1", "app:1", "--dest-cert-dir", certs)
    image = f"{r.host}/app:1"
    with report.case("client certificate: without one it is refused"):
        put(w, r.host, "ca.crt", cert)
        answer = run(w.client, image)
        equal(answer.status, 502, answer)
        assert r.host in answer.json()["detail"], answer
    with report.case("client certificate: a stranger's is refused"):
        put(w, r.host, "client.cert", stranger[0])
        put(w, r.host, "client.key", stranger[1])
        equal(run(w.client, image).status, 502)
    with report.case("client certificate: one for the host alone is for its default port"):
        shutil.rmtree(os.path.join(w.certs, r.host))
        put(w, r.host, "ca.crt", cert)
        for name, path in (("client.cert", good[0]), ("client.key", good[1])):
            put(w, r.host.split(":")[0], name, path)
        equal(run(w.client, image).status, 502)
        shutil.rmtree(os.path.join(w.certs, r.host.split(":")[0]))
    with report.case("client certificate: the right one opens it"):
        put(w, r.host, "client.cert", good[0])
        put(w, r.host, "client.key", good[1])
        answer = run(w.client, image)
        equal(answer.status, 201, answer)


# ── mirrors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def mirror_order(w, report):
    blobs, tags = w.small_image()
    origin, first, second = (registries.Fake(registries.Blobs(), {}) for _ in range(3))

    def have(*which):
        for f in (origin, first, second):
            f.tags = dict(tags) if f in which else {}
            f.blobs = blobs if f in which else registries.Blobs()
            del f.requests[:], f.authorizations[:]
    mirrors = f"{origin.host}=http://{first.host},{origin.host}=http://{second.host}/deep"
    try:
        with instance(w, registries__mirrors=mirrors) as i:
            def ask(name):
                status = i.client.request("POST", "/v1/images/pull", {"image": f"{origin.host}/{name}:1",
                                                                      "registry_auth": {"username": "ann", "password": "canary"}}).status
                return status, [bool(f.requests) for f in (first, second, origin)]
            with report.case("mirrors: the first that has it, and no other"):
                have(origin, first, second)
                equal(ask("one"), (200, [True, False, False]))
            with report.case("mirrors: the second where the first has it not"):
                have(origin, second)
                equal(ask("two"), (200, [True, True, False]))
                assert all(path.startswith("/deep/v2/two/") for _, path in second.requests), second.requests
            with report.case("mirrors: the registry where none has it"):
                have(origin)
                equal(ask("three"), (200, [True, True, True]))
            with report.case("mirrors: unknown to all is 404"):
                have()
                equal(ask("four")[0], 404)
            with report.case("mirrors: are told no credentials"):
                have(origin, first)
                ask("five")
                equal((first.authorizations, second.authorizations), ([], []))
            with report.case("mirrors: one with other bytes is as one that lacks them"):
                have(origin, first)
                first.blobs = registries.Blobs()
                first.blobs.blobs = {name: bytes(len(data)) for name, data in blobs.blobs.items()}
                for image in ("one", "two", "three", "five"):
                    i.client.request("DELETE", f"/v1/images/{origin.host}/{image}:1")
                equal(ask("lies")[0], 200)
                assert first.count("GET", "/blobs/") and origin.count("GET", "/blobs/"), (first.requests, origin.requests)
                blobs.add(tags["1"])
                have(origin, first)
                first.blobs = registries.Blobs()
                name = "sha256:" + mayfly.sha256(tags["1"])
                first.blobs.blobs = {name: tags["1"].replace(b"{", b"{ ", 1)}
                equal(pull(i.client, f"{origin.host}/other@{name}").status, 200)
                equal(bool(first.requests), True)
            first.close()
            with report.case("mirrors: one that is down is passed over"):
                have(origin, second)
                status, asked = ask("six")  # what is kept open still serves the first
                equal((status, asked[1:]), (200, [True, False]))
            with report.case("mirrors: a broken one is passed over"):
                have(origin, second)
                second.bend = lambda h, kind, name: h.send(500) or True
                equal(ask("seven")[0], 200)
    finally:
        for f in (origin, second):
            f.close()


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────


def addresses(w, report):
    hosts = ["169.254.169.254", "169.254.1.1:5000", "100.100.100.200", "[fe80::1]", "[fd00:ec2::254]", "0.0.0.0:5000", "224.0.0.1",
             "[::ffff:169.254.169.254]:80", "[ff02::1]"]
    with contextlib.suppress(mayfly.Skip):
        hosts.append(own_address() + ":5000")
    for host in hosts:
        with report.case(f"addresses: {host.replace(misbehaviour.own_address(), 'one of this host')} is no registry"):
            answer = pull(w.client, f"{host}/x:1")
            assert answer.status in (400, 502), answer
            if answer.status == 502:
                assert "no address" in answer.json()["detail"], answer
    address = own_address()
    blobs, tags = w.small_image()
    fake = registries.Fake(blobs, tags, address=address)
    try:
        with report.case("addresses: this host's own is refused, unless the configuration names it"):
            equal(pull(w.client, fake.host + "/some/app:1").status, 502)
            equal(fake.requests, [])
            with instance(w, registries__allow=fake.host, registries__insecure=fake.host) as i:
                equal(run(i.client, fake.host + "/some/app:1").status, 201)
    finally:
        fake.close()


# ── one registry, two spellings ──────────────────────────────────────────────────────────────────────────────────────


def on_port(port, *what, **how):
    try:
        return registries.Fake(*what, port=port, **how)
    except OSError as e:
        raise mayfly.Skip(f"port {port}: {e}") from None


def closed_by(auth):
    basic = registries.basic(*auth)

    def bend(handler, kind, name):
        if handler.headers.get("Authorization") != basic:
            handler.send(401, WWW_Authenticate="Basic realm=x")
        elif handler.path == "/v2/":
            handler.send(200, b"{}", "application/json")
        else:
            return False
        return True
    return bend


def spellings(w, report):
    blobs, tags = w.small_image()
    host, auth = "127.7.7.7", ("ann", "canary-443")
    client = mayfly.NetClient(w.port, w.instance.key("task"))
    with report.case("spellings: a login for HOST:443 is one for HOST, and for no other port"):
        secure = on_port(443, blobs, tags, closed_by(auth), address=host)
        other = registries.Fake(blobs, tags, closed_by(auth), address=host)
        try:
            cert, key = certificate(w.dir, "port443", "-addext", f"subjectAltName=IP:{host}")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            for fake in (secure, other):
                fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
            put(w, host, "ca.crt", cert)
            answer = client.request("POST", "/v1/registries/login", {"registry": host + ":443", "username": auth[0], "password": auth[1]})
            equal((answer.status, answer.json()["registry"]), (200, host), answer)
            equal(run(client, host + "/own/app:1").status, 201)
            equal(run(client, host + ":443/own/app:1", pull="always").status, 201)
            equal(run(client, other.host + "/own/app:1").status, 403)
            equal(other.authorizations, [])
        finally:
            secure.close()
            other.close()
            shutil.rmtree(os.path.join(w.certs, host), ignore_errors=True)
    with report.case("spellings: a mirror for HOST:443 is one for HOST"):
        mirror = registries.Fake(blobs, tags)
        try:
            with instance(w, registries__mirrors=f"Spelled.invalid:443=http://{mirror.host}") as i:
                equal(pull(i.client, "spelled.invalid/some/app:1").status, 200)
                equal(pull(i.client, "spelled.invalid:80/some/app:1").status, 502)
        finally:
            mirror.close()
    address = own_address()
    plain = on_port(80, blobs, tags, address=address)
    try:
        with instance(w, registries__insecure=address + ":80", registries__allow=address) as i:
            with report.case("spellings: plain HTTP for HOST:80 is for HOST, too"):
                equal(run(i.client, address + "/some/app:1").status, 201)
                equal(run(i.client, address + ":80/other/app:1").status, 201)
        with instance(w, registries__insecure=address + ":81", registries__allow=address) as i:
            with report.case("spellings: and not for another port"):
                asked = len(plain.requests)
                equal(pull(i.client, address + "/some/app:1").status, 502)
                equal(len(plain.requests), asked)
    finally:
        plain.close()


GROUPS = [proxies, client_certificates, mirror_order, addresses, spellings]
