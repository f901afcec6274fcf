"""Registries for tests: Debian's docker-registry, open, with htpasswd, with TLS, with a token server; a proxy that counts."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import mayfly  # noqa: E402


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise mayfly.Skip(f"no {program} here")


class Registry:
    """docker-registry on loopback; its access log counts what was asked."""

    def __init__(self, directory, name, auth="", tls=None):
        need("docker-registry")
        self.dir = os.path.join(directory, name)
        self.port = mayfly.free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.log_path = os.path.join(self.dir, "log")
        os.mkdir(self.dir)
        clients = f", clientcas: [{tls[2]}]" if tls and len(tls) > 2 else ""
        tls_text = f"\n  tls: {{certificate: {tls[0]}, key: {tls[1]}{clients}}}" if tls else ""
        with open(os.path.join(self.dir, "config.yml"), "w", encoding="ascii") as f:
            f.write(f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {self.dir}/data}}\n"
                    f"  delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:{self.port}{tls_text}\n{auth}")
        self.process = None

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", os.path.join(self.dir, "config.yml")], stdout=log,
                                            stderr=log)
        if not mayfly.wait_until(self.answers, 30):
            raise RuntimeError("docker-registry does not serve: " + mayfly.read(self.log_path)[-500:])
        return self

    def answers(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log(self):
        return mayfly.read(self.log_path)

    def gets(self, what):
        """How often it was asked for a path that ends so."""
        return sum(f'"GET ' in line and what in line for line in self.log().splitlines())

    def push(self, layout, ref, *flags):
        done = subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *flags, "oci:" + layout,
                               f"docker://{self.host}/{ref}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise RuntimeError("skopeo: " + done.stdout.decode())


class Blobs:
    """Images made by hand, so that every byte is known."""

    def __init__(self):
        self.blobs = {}

    def add(self, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def descriptor(self, data, media):
        return {"mediaType": media, "digest": self.add(data), "size": len(data)}

    def image(self, layers, architecture=None, **changes):
        """A manifest's bytes; layers are plain tars."""
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        config = {"architecture": architecture or machine, "os": "linux", "config": {"Cmd": ["sh"]},
                  "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(x).hexdigest() for x in layers]}}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": self.descriptor(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
                    "layers": [self.descriptor(x, "application/vnd.oci.image.layer.v1.tar") for x in layers]}
        manifest.update(changes)
        return json.dumps(manifest).encode()


class Fake:
    """A registry of a few lines, whose answers a test can bend: `bend(handler, kind, name)` answers true where it did it."""

    def __init__(self, blobs, tags, bend=None, address="127.0.0.1", port=0):
        self.blobs, self.tags, self.bend = blobs, tags, bend
        self.requests = []
        self.authorizations = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def send(self, status, body=b"", kind="application/octet-stream", **headers):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if "Content_Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    if value is not None:
                        self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    with contextlib.suppress(OSError):
                        self.wfile.write(body)

            def blob(self, data, part=None):
                wanted = self.headers.get("Range")
                if wanted and wanted.startswith("bytes="):
                    begin, end = wanted[6:].split("-")
                    begin, end = int(begin), int(end or len(data) - 1)
                    self.send(206, data[begin:end + 1][:part], Content_Length=str(end + 1 - begin),
                              Content_Range=f"bytes {begin}-{end}/{len(data)}")
                else:
                    self.send(200, data[:part], Content_Length=str(len(data)))
                if part is not None:
                    self.close_connection = True

            def manifest(self, body):
                media = json.loads(body).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
                self.send(200, body, media, Docker_Content_Digest="sha256:" + hashlib.sha256(body).hexdigest())

            def do_GET(self):
                fake.requests.append((self.command, self.path))
                if self.headers.get("Authorization"):
                    fake.authorizations.append(self.headers["Authorization"])
                kind, _, name = self.path.rpartition("/")
                kind = kind.rpartition("/")[2]
                try:
                    if fake.bend and fake.bend(self, kind, name):
                        return
                    if kind == "manifests" and name in fake.tags:
                        self.manifest(fake.tags[name])
                    elif kind == "manifests" and name in fake.blobs.blobs:
                        self.manifest(fake.blobs.blobs[name])
                    elif kind == "blobs" and name in fake.blobs.blobs:
                        self.blob(fake.blobs.blobs[name])
                    else:
                        self.send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', "application/json")
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_HEAD = do_GET

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass

        self.server = Server((address, port), Handler)
        self.port = self.server.server_address[1]
        self.host = f"{address}:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def count(self, method, part):
        return sum(m == method and part in path for m, path in self.requests)


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def query_of(path):
    return {k: v[0] for k, v in urllib.parse.parse_qs(urllib.parse.urlparse(path).query).items()}


def pause(seconds):
    time.sleep(seconds)
