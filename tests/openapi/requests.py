#!/usr/bin/env python3
"""Requests made from the OpenAPI document that the daemon serves, right and wrong ones: every answer must be one that the
document promises (status, content type, schema), and none may be an error of the server.

    tests/openapi/requests.py [--requests N] [--seed N]     2,000 by default; 20,000 with MAYFLY_LONG
"""
import argparse
import base64
import collections
import http.client
import json
import os
import random
import re
import socket
import sys
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import mayfly  # noqa: E402

try:
    import jsonschema
except ImportError:
    jsonschema = None

ADDRESS = ("127.0.0.1", 16294)
DEPTH_MAX = 6
NEEDS_LIVE = ("/signal", "/cancel", "/wait", "/logs")
WORDS = ("", "a", "true", "busybox:demo", "/tmp/x", "..", "\u00e9\U0001f600", "x" * 300, "0", "-1", "1m", "\u0000", "A=b",
         "../../etc/passwd", "%2e%2e", "'\"<>&;", "latest", "SIGTERM", "none", "nat")
NUMBERS = (0, 1, -1, 2, 255, 65536, 2**31, 2**53, 2**63, -2**63, 1e300, 0.5, 10)


class Generator:
    """Values that fit a schema of the document, and values that are near it."""

    def __init__(self, document, rng):
        self.document = document
        self.rng = rng

    def resolve(self, schema):
        while "$ref" in schema:
            node = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                node = node[part.replace("~1", "/").replace("~0", "~")]
            schema = node
        return schema

    def value(self, schema, depth=0):
        rng = self.rng
        schema = self.resolve(schema)
        for word in ("oneOf", "anyOf"):
            if word in schema:
                return self.value(rng.choice(schema[word]), depth)
        if "allOf" in schema:
            merged = {}
            for part in schema["allOf"]:
                part = self.value(part, depth)
                merged.update(part if isinstance(part, dict) else {})
            return merged
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return rng.choice(schema["enum"])
        if schema.get("examples") and rng.random() < 0.7:
            return rng.choice(schema["examples"])
        kind = schema.get("type", "string")
        if isinstance(kind, list):
            kind = rng.choice(kind)
        return getattr(self, "make_" + kind)(schema, depth)

    def make_null(self, _schema, _depth):
        return None

    def make_boolean(self, _schema, _depth):
        return self.rng.random() < 0.5

    def make_integer(self, schema, _depth):
        low, high = schema.get("minimum", 0), schema.get("maximum", 1 << 31)
        return self.rng.choice((low, high, self.rng.randint(int(low), int(high))))

    def make_number(self, schema, _depth):
        low, high = schema.get("minimum", 0), schema.get("maximum", 3600)
        return self.rng.choice((low, high, self.rng.uniform(low, high)))

    def make_string(self, schema, _depth):
        if schema.get("examples"):
            return self.rng.choice(schema["examples"])
        least, most = schema.get("minLength", 0), min(schema.get("maxLength", 40), 2000)
        return "".join(self.rng.choice("abcXYZ012_-. /:é") for _ in range(self.rng.randint(least, max(most, least))))

    def make_array(self, schema, depth):
        least, most = schema.get("minItems", 0), min(schema.get("maxItems", 3), 4)
        n = 0 if depth > DEPTH_MAX else self.rng.randint(least, max(most, least))
        return [self.value(schema.get("items", {}), depth + 1) for _ in range(n)]

    def make_object(self, schema, depth):
        known = schema.get("properties", {})
        required = schema.get("required", [])
        made = {}
        for name, member in known.items():
            if name in required or (depth < DEPTH_MAX and self.rng.random() < 0.25):
                made[name] = self.value(member, depth + 1)
        more = schema.get("additionalProperties", False)
        if isinstance(more, dict) and depth < DEPTH_MAX:
            for _ in range(self.rng.randint(0, 2)):
                made[self.rng.choice(("A", "PATH", "x.y", "team"))] = self.value(more, depth + 1)
        return made

    def junk(self):
        rng = self.rng
        return rng.choice((None, True, [], {}, [[]], {"a": 1}, rng.choice(WORDS), rng.choice(NUMBERS)))

    def spoil(self, value):
        """The same with one fault somewhere, which may happen to be none."""
        rng = self.rng
        if isinstance(value, dict) and value and rng.random() < 0.8:
            name = rng.choice(list(value))
            choice = rng.randrange(4)
            if choice == 0:
                return {k: v for k, v in value.items() if k != name}
            if choice == 1:
                return {**value, rng.choice(WORDS): self.junk()}
            return {**value, name: self.spoil(value[name])}
        if isinstance(value, list) and value and rng.random() < 0.7:
            i = rng.randrange(len(value))
            return value[:i] + [self.spoil(value[i])] + value[i + 1:]
        return self.junk()


class Operation:
    def __init__(self, document, path, method, description, shared):
        self.path, self.method = path, method
        self.responses = description["responses"]
        self.parameters = shared + description.get("parameters", [])
        self.content = description.get("requestBody", {}).get("content", {})
        self.name = f"{method.upper()} {path}"
        self.upgrades = "101" in self.responses
        del document


def operations(document):
    methods = ("get", "post", "put", "delete", "patch", "head")
    return [Operation(document, path, method, item[method], item.get("parameters", []))
            for path, item in document["paths"].items() for method in methods if method in item]


def saved_image():
    """An archive as `docker save` writes it."""
    layer = mayfly.Archive().dir("srv").file("srv/x", "x").bytes()
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + mayfly.sha256(layer)]}}).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["spare:2"], "Layers": ["l.tar"]}])
    return mayfly.Archive().file("c.json", config).file("l.tar", layer).file("manifest.json", manifest).bytes()


class Run:
    def __init__(self, instance, document, seed):
        self.instance = instance
        self.document = document
        self.rng = random.Random(seed)
        self.generator = Generator(document, self.rng)
        self.operations = operations(document)
        self.key = instance.key("admin")
        self.ids = {"tasks": collections.deque(maxlen=20), "keys": collections.deque(maxlen=20)}
        self.faults = collections.Counter()
        self.example = {}
        self.seen = collections.Counter()
        self.connection = None
        self.validators = {}

    def validator(self, schema):
        """The schema with all that it may refer to, below the same names: no resolver is needed."""
        key = json.dumps(schema, sort_keys=True)
        if key not in self.validators:
            whole = {**schema, "components": self.document["components"]}
            self.validators[key] = jsonschema.Draft202012Validator(whole)
        return self.validators[key]

    # ── making requests ──────────────────────────────────────────────────────────────────────────────────────────

    def parameter(self, p, operation):
        name = p["name"]
        if name == "id" and self.rng.random() < 0.8:
            kind = operation.path.split("/")[2]
            if operation.path.endswith(NEEDS_LIVE) and self.rng.random() < 0.5:
                return self.live_task()
            if self.ids.get(kind):
                return self.rng.choice(self.ids[kind])
        if name == "ref" and self.rng.random() < 0.5:
            return self.rng.choice(("busybox:demo", "spare:1", "docker.io/library/spare:1"))
        if name == "file" and self.rng.random() < 0.5:
            return self.rng.choice(("swagger-ui.css", "start.js"))
        if self.rng.random() < 0.15:
            return self.rng.choice(WORDS)
        value = self.generator.value(p.get("schema", {"type": "string"}))
        return value if isinstance(value, str) else json.dumps(value)

    def live_task(self):
        """Id of a task that runs for some seconds: what is generated mostly ends at once."""
        body = {"image": "busybox:demo", "cmd": ["sleep", "60"], "wait": False, "network": "none", "limits": {"timeout": 5}}
        answer = self.instance.client.post(body)
        assert answer.status == 202, answer
        path = "/v1/tasks/" + answer.json()["id"]
        mayfly.wait_until(lambda: self.instance.client.get(path).json()["status"] not in ("queued", "pulling"))
        return answer.json()["id"]

    def task_body(self):
        """Most requests from the schema alone name images that are not there: half are made to run."""
        body = {"image": "busybox:demo", "cmd": self.rng.choice((["true"], ["echo", "x"], ["false"], ["cat"]))}
        for name in self.rng.sample(("env", "labels", "wait", "stdin", "files", "outputs", "network", "init", "encoding",
                                     "on_output_limit", "secrets"), 3):
            schema = self.generator.resolve(self.content_schema["application/json"])
            if name in schema.get("properties", {}):
                body[name] = self.generator.value(schema["properties"][name], 1)
        return body

    def make_body(self, operation):
        rng = self.rng
        if not operation.content:
            return None, None
        kind = rng.choice(list(operation.content))
        if kind != "application/json":
            whole = saved_image() if operation.path.endswith("/load") else mayfly.Archive().dir("srv").bytes()
            return kind, whole if rng.random() < 0.4 else rng.randbytes(rng.choice((0, 1, 512, 10240)))
        self.content_schema = {"application/json": operation.content[kind]["schema"]}
        runs = operation.path.endswith("/v1/tasks") and rng.random() < 0.5
        value = self.task_body() if runs else self.generator.value(operation.content[kind]["schema"])
        if operation.path.endswith("/images/pull") and rng.random() < 0.5:
            value = {"image": "busybox:demo", "pull": "missing"}
        if rng.random() < 0.4:
            value = self.generator.spoil(value)
        if isinstance(value, dict) and isinstance(value.get("limits"), dict):
            value["limits"]["timeout"] = 2
        text = json.dumps(value).encode()
        if rng.random() < 0.03:
            text = text[:rng.randrange(len(text) + 1)] + rng.choice((b"", b"\xff", b"}", b"\0"))
        if rng.random() < 0.02:
            kind = rng.choice(("text/plain", "application/xml", ""))
        return kind, text

    def make(self):
        rng = self.rng
        operation = rng.choice(self.operations)
        path, query, headers = operation.path, [], {}
        for p in operation.parameters:
            p = self.generator.resolve(p)
            if p["in"] == "path":
                path = path.replace("{" + p["name"] + "}", urllib.parse.quote(self.parameter(p, operation), safe="") or "-")
            elif p.get("required") or rng.random() < 0.3:
                value = self.parameter(p, operation)
                if p["in"] == "query":
                    query.append((p["name"], value))
                elif p["in"] == "header" and re.fullmatch(r"[\x21-\x7e]{1,200}", value):
                    headers[p["name"]] = value
        if "follow" in dict(query) or path.endswith("/wait"):
            query = [(k, v) for k, v in query if k not in ("follow", "timeout")] + (
                [("timeout", "100ms")] if path.endswith("/wait") else [])
        if rng.random() < 0.03:
            query.append((rng.choice(("x", "limit", "color")), rng.choice(WORDS)))
        kind, body = self.make_body(operation)
        if kind is not None:
            headers["Content-Type"] = kind
        if query:
            path += "?" + urllib.parse.urlencode(query)
        return operation, path, headers, body

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def fault(self, operation, what, detail):
        key = f"{operation.name}: {what}"
        self.faults[key] += 1
        self.example.setdefault(key, detail)

    def send(self, operation, path, headers, body):
        headers = {**headers, "Authorization": "Basic " + base64.b64encode(self.key.encode()).decode()}
        for attempt in (0, 1):
            if self.connection is None:
                self.connection = http.client.HTTPConnection(*ADDRESS, timeout=30 * mayfly.SLOW)
            try:
                self.connection.request(operation.method.upper(), path, body, headers)
                answer = self.connection.getresponse()
                data = answer.read()
                if answer.getheader("Connection", "").lower() == "close":
                    self.connection.close()
                    self.connection = None
                return answer, data
            except (http.client.HTTPException, OSError, socket.timeout):
                self.connection.close()
                self.connection = None
                if attempt:
                    raise
        return None

    def check(self, operation, path, body, answer, data):
        status = str(answer.status)
        detail = f"{path} {body[:600] if body else b''} -> {status} {data[:400]}"
        self.seen[f"{operation.name} {status}"] += 1
        if answer.status >= 500:
            self.fault(operation, f"answered {status}", detail)
            return
        promised = operation.responses.get(status) or operation.responses.get(status[0] + "XX")
        if promised is None:
            self.fault(operation, f"{status} is not in the document", detail)
            return
        promised = self.generator.resolve(promised)
        content = promised.get("content")
        if not content or operation.method == "head":
            return
        kind = answer.getheader("Content-Type", "").split(";")[0].strip()
        if kind not in content:
            self.fault(operation, f"{status} with content type '{kind}'", detail)
            return
        if kind.endswith("json") and "schema" in content[kind]:
            try:
                document = json.loads(data)
            except ValueError as e:
                self.fault(operation, f"{status} is no JSON: {e}", detail)
                return
            self.validate(operation, status, content[kind]["schema"], document, detail)
            kind = operation.path.split("/")[2:3]
            if isinstance(document, dict) and isinstance(document.get("id"), str) and kind and kind[0] in self.ids:
                self.ids[kind[0]].append(document["id"])

    def validate(self, operation, status, schema, document, detail):
        for e in self.validator(schema).iter_errors(document):
            place = "/".join("*" if isinstance(p, int) else str(p) for p in e.absolute_path)
            self.fault(operation, f"{status}: at /{place}: {e.message[:120]}", detail)

    def step(self):
        operation, path, headers, body = self.make()
        if operation.upgrades:
            return
        try:
            answer, data = self.send(operation, path, headers, body)
        except (OSError, http.client.HTTPException) as e:
            self.fault(operation, f"no answer: {type(e).__name__}", f"{path} {headers} {body[:600] if body else b''}")
            return
        self.check(operation, path, body, answer, data)
        if answer.status == 401:
            self.key = self.instance.key("admin")
        if operation.method == "delete" and "images" in path or "prune" in path:
            self.restore()

    def restore(self):
        if self.instance.client.get("/v1/images/busybox:demo").status == 404:
            self.instance.load(mayfly.busybox().bytes(), "busybox:demo")


# ── members ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TASK_MEMBERS = ("image pull cmd entrypoint workdir user env stdin stdin_encoding files outputs secrets limits on_output_limit "
                "network init engine labels registry_auth wait on_disconnect encoding retries").split()
LIMITS = "timeout queue_timeout cpu_time memory cpus pids output disk shm grace".split()
KEY_LIMITS = ("memory disk shm output cpus pids timeout queue_timeout cpu_time max_running max_queued max_connections rate "
              "burst").split()
# Members that need another one, or a value that no schema tells.
GIVEN = {"files": [{"path": "x", "content": "x"}], "engine": "native", "networks": ["none"], "images": ["busybox:*"],
         "engines": ["native"], "outputs": ["x"]}


def sample(run, name, schema):
    if name in GIVEN:
        return GIVEN[name]
    wanted = run.generator.resolve(schema)
    examples = schema.get("examples") or wanted.get("examples")
    return examples[0] if examples else run.generator.value(schema)


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    for part in node if isinstance(node, list) else ():
        yield from references(part)


def check_document(report, run):
    """What the specification asks for beyond the schemas."""
    document = run.document
    report.check("OpenAPI 3.1", document["openapi"].startswith("3.1."), document["openapi"])
    dead = []
    for reference in set(references(document)):
        try:
            run.generator.resolve({"$ref": reference})
        except KeyError:
            dead.append(reference)
    report.check("every reference leads somewhere", not dead, dead)
    for name, schema in document["components"]["schemas"].items():
        with report.case(f"{name} is a schema, which its examples fit"):
            jsonschema.Draft202012Validator.check_schema(schema)
            for example in schema.get("examples", ()):
                run.validator(schema).validate(example)
    ids = collections.Counter(o["operationId"] for item in document["paths"].values() for o in item.values())
    report.check("every operation has an id of its own", max(ids.values()) == 1, ids)
    for path, item in document["paths"].items():
        for method, o in item.items():
            given = {p["name"] for p in o["parameters"] if p["in"] == "path" and p["required"]}
            report.check(f"{method} {path} has its parameters", given == set(re.findall(r"{(\w+)}", path)), given)


def check_members(report, run, client):
    schemas = run.document["components"]["schemas"]
    for name, members in (("TaskRequest", TASK_MEMBERS), ("LimitsRequest", LIMITS), ("KeyLimitsRequest", KEY_LIMITS),
                          ("KeyRequest", "role name expires_in expires_at limits images networks engines".split())):
        got = set(schemas[name]["properties"])
        report.check(f"{name} has the members of the API", got == set(members), got ^ set(members))
    for name, schema in schemas["TaskRequest"]["properties"].items():
        body = {"image": "busybox:demo", "cmd": ["true"], "network": "none"}
        if name == "limits":
            for limit in LIMITS:
                value = sample(run, limit, schemas["LimitsRequest"]["properties"][limit])
                accepted(report, client, f"limits.{limit}", "/v1/tasks", {**body, "limits": {limit: value}})
        elif name != "image":
            accepted(report, client, name, "/v1/tasks", {**body, name: sample(run, name, schema)})
    for name, schema in schemas["KeyRequest"]["properties"].items():
        value = {} if name == "limits" else sample(run, name, schema)
        accepted(report, client, "key: " + name, "/v1/keys", {"role": "task", name: value})
    for name, schema in schemas["KeyLimitsRequest"]["properties"].items():
        body = {"role": "task", "limits": {name: sample(run, name, schema)}}
        accepted(report, client, f"key: limits.{name}", "/v1/keys", body)
    for signal in ("SIGCONT", "CONT", "18", 18):
        accepted(report, client, f"signal {signal!r}", f"/v1/tasks/{run.live_task()}/signal", {"signal": signal})
    for name in ("profile", "tty", "priority", "callback_url", "x"):
        answer = client.request("POST", "/v1/tasks", {"image": "busybox:demo", name: 1})
        report.check(f"{name} is refused", answer.status == 400 and "/" + name in answer.body.decode(), answer)


def accepted(report, client, what, path, body):
    answer = client.request("POST", path, body)
    report.check(f"{what} is accepted", answer.status in (200, 201, 202), f"{json.dumps(body)}: {answer}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20000 if os.environ.get("MAYFLY_LONG") else 2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    report = mayfly.Report("openapi: ")
    if jsonschema is None:
        report.skip("requests from the document", "python3-jsonschema is not installed")
        report.exit()
    mayfly.exclusive("openapi")
    with mayfly.Instance("mfopenapi", "10.216.0.0/16", listen=f"tcp://{ADDRESS[0]}:{ADDRESS[1]}") as instance:
        instance.load(mayfly.busybox().bytes(), "busybox:demo")
        document = instance.client.get("/v1/openapi.json").json()
        run = Run(instance, document, arguments.seed)
        check_document(report, run)
        check_members(report, run, instance.client)
        for _ in range(arguments.requests):
            run.step()
        for key, n in run.faults.most_common():
            report.not_ok(f"{key} ({n} times)", run.example[key])
        with report.case("every operation was asked, and every one once answered with success"):
            for operation in run.operations:
                if operation.upgrades or operation.path.endswith(("/login", "/logout")):  # takes a registry: tests/registry
                    continue
                good = [k for k in run.seen if k.startswith(operation.name + " 2")]
                assert good, f"{operation.name}: {[k for k in run.seen if k.startswith(operation.name + ' ')]}"
        report.check(f"{arguments.requests} requests, seed {arguments.seed}: each answer as promised", not run.faults,
                     f"{sum(run.faults.values())} are not")
        report.check("the daemon serves on", instance.ready(), "it does not")
    report.exit()


if __name__ == "__main__":
    main()
