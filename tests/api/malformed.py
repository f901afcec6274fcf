#!/usr/bin/env python3
"""Sends malformed requests to a running daemon, each on its own connection.

    malformed.py --socket PATH [--verbose]

Each must get one answer with a status of 4xx (505 for a version that does not exist), or a closed connection, and never a
second answer; after all of them the daemon must still be well. Ends with "N passed, N failed".
"""

import argparse
import json
import socket
import sys

TIMEOUT = 10.0
HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
# What a smuggled request would look like: an answer to it would be a second one.
HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n"

GOOD = {"image": "busybox:demo", "cmd": ["true"]}


class Case:
    """half_close: the client ends its side after sending, as one that died would."""

    def __init__(self, name, data, half_close=False):
        self.name, self.data, self.half_close = name, data, half_close


def request(line=b"GET /healthz HTTP/1.1", headers=HOST, body=b""):
    return line + b"\r\n" + headers + b"\r\n" + body


def post(body, headers=b"", path=b"/v1/tasks", kind=JSON):
    length = b"Content-Length: %d\r\n" % len(body)
    return request(b"POST %s HTTP/1.1" % path, HOST + kind + length + headers, body)


def task(**members):
    return post(json.dumps({**GOOD, **members}).encode())


def bodies():
    good = json.dumps({**GOOD, "env": {"A": "b"}, "limits": {"cpus": 0.5}}).encode()
    for i in range(0, len(good), 3):
        yield Case("JSON cut after %d bytes" % i, post(good[:i]))
    for name, body in {
        "empty body": b"",
        "blanks only": b" \n\t ",
        "array": b"[]",
        "string": b'"image"',
        "number": b"1",
        "null": b"null",
        "true": b"true",
        "no members": b"{}",
        "single quotes": b"{'image':'b'}",
        "no quotes": b"{image:'b'}",
        "comment": b'{"image":"b"/**/}',
        "trailing comma": b'{"image":"b",}',
        "trailing text": b'{"image":"b"}x',
        "two documents": b'{"image":"b"}{"image":"b"}',
        "byte order mark": b'\xef\xbb\xbf{"image":"b"}',
        "UTF-16": '{"image":"b"}'.encode("utf-16"),
        "duplicate key": b'{"image":"a","image":"b"}',
        "duplicate key inside": b'{"image":"a","limits":{"pids":1,"pids":2}}',
        "NUL between": b'{"image":\0"b"}',
        "NUL in a string": b'{"image":"b\0"}',
        "NUL at the end": b'{"image":"b"}\0',
        "control in a string": b'{"image":"b\x01"}',
        "line feed in a string": b'{"image":"b\n"}',
        "escaped NUL": b'{"image":"b\\u0000"}',
        "escaped NUL in cmd": b'{"image":"b","cmd":["a\\u0000b"]}',
        "escaped NUL in env": b'{"image":"b","env":{"A":"\\u0000"}}',
        "escaped NUL in env's name": b'{"image":"b","env":{"A\\u0000":"b"}}',
        "escaped NUL in a key": b'{"image\\u0000":"b"}',
        "lone surrogate": b'{"image":"\\ud800"}',
        "bad escape": b'{"image":"\\x41"}',
        "bad UTF-8": b'{"image":"\xff"}',
        "overlong UTF-8": b'{"image":"\xc0\xaf"}',
        "UTF-8 surrogate": b'{"image":"\xed\xa0\x80"}',
        "arrays, 10,000 deep": b"[" * 10000,
        "arrays, 10,000 deep, closed": b"[" * 10000 + b"]" * 10000,
        "objects, 10,000 deep": b'{"a":' * 10000 + b"1" + b"}" * 10000,
        "depth inside a member": b'{"image":"b","cmd":' + b"[" * 10000 + b"]" * 10000 + b"}",
        "NaN": b'{"image":"b","limits":{"cpus":NaN}}',
        "Infinity": b'{"image":"b","limits":{"cpus":Infinity}}',
        "real beyond a double": b'{"image":"b","limits":{"cpus":1e999}}',
        "integer beyond 64 bits": b'{"image":"b","limits":{"pids":' + b"9" * 400 + b"}}",
        "leading zero": b'{"image":"b","limits":{"pids":01}}',
        "plus": b'{"image":"b","limits":{"pids":+1}}',
        "hexadecimal": b'{"image":"b","limits":{"pids":0x10}}',
        "no fraction": b'{"image":"b","limits":{"cpus":1.}}',
        "long unknown key": b'{"image":"b","' + b"k" * 100000 + b'":1}',
    }.items():
        yield Case(name, post(body))


def members():
    wrong = {
        "image": [None, 1, True, [], {}, "", "Upper", "a b", "x" * 600, "../x", "a:b:c", "@sha256:1"],
        "cmd": ["true", 1, {}, [1], [None], [["a"]], ["a"] * 5000, ["a" * 200000]],
        "entrypoint": ["true", 1, {}, [1], [None]],
        "env": ["A=b", 1, ["A=b"], {"A": 1}, {"A": None}, {"": "x"}, {"A=B": "x"}],
        "workdir": [1, "", "relative", [], "/" + "x" * 5000],
        "user": [1, [], "x" * 300],
        "stdin": [1, [], {}, None],
        "stdin_encoding": ["utf-16", 1, None],
        "files": ["x", {}, [1], [{}], [{"path": "a"}], [{"content": "a"}], [{"path": 1, "content": "a"}],
                  [{"path": "", "content": "a"}], [{"path": "a/", "content": "a"}], [{"path": "a/..", "content": "a"}],
                  [{"path": "a", "content": "a", "mode": "0999"}], [{"path": "a", "content": "a", "mode": -1}],
                  [{"path": "a", "content": "a", "mode": 4096}], [{"path": "a", "content": "a", "x": 1}],
                  [{"path": "a", "content": "!", "encoding": "base64"}], [{"path": "a", "content": "a"}] * 2000],
        "limits": [1, "x", [], {"memory": "1k"}, {"memory": -1}, {"memory": "lots"}, {"memory": 1e30},
                   {"timeout": -1}, {"timeout": "soon"}, {"timeout": 1e300}, {"cpus": 0}, {"cpus": "0.0001"},
                   {"cpus": -1}, {"cpus": 1e9}, {"pids": 0}, {"pids": -1}, {"pids": 1.5}, {"pids": 2**62},
                   {"output": -1}, {"output": "1t"}, {"disk": 0}, {"shm": 0}, {"grace": -1}, {"unknown": 1},
                   {"cpu_time": -1}, {"cpu_time": "soon"}, {"queue_timeout": "2d"}],
        "on_output_limit": ["explode", 1],
        "network": ["host", "bridge", 1, {}],
        "init": ["yes", 1, None],
        "encoding": ["utf-8", 1],
        "wait": [None, -1, "soon", "25h", 1e300, [], {}],
        "on_disconnect": ["run", 1, None],
        "outputs": ["a", [1], [""], ["a"] * 65, {}],
        "secrets": [1, ["a"], {"A": 1}, {"": "x"}, {"..": "x"}, {"a/b": "x"}, {"a": "x" * 2000000}],
        "labels": [1, ["a"], {"A": 1}, {"": "x"}, {"a=b": "x"}, {str(i): "x" for i in range(200)}],
        "registry_auth": [1, [], {}, {"username": "a"}, {"username": 1, "password": "b"}],
        "pull": ["sometimes", 1, None],
        "engine": [1, "", "steam"],
        "retries": [-1, 1.5, "1", 1000000],
        "tty": [True],
        "profile": ["restricted"],
        "priority": [1],
        "callback_url": ["http://127.0.0.1/"],
        "privileged": [True],
        "volumes": [["/:/host"]],
    }
    for name, values in wrong.items():
        for value in values:
            yield Case("%s: %.40s" % (name, json.dumps(value)), task(**{name: value}))


def other_routes():
    task_path = b"/v1/tasks/00000000000000000000000000"
    for body in (b"", b"[]", b"1", b"null", b'{"role":"king"}', b'{"role":"read","name":1}', b'{"role":"read","expires_in":"-1s"}',
                 b'{"role":"read","limits":[]}', b'{"role":"read","limits":{"rate":"fast"}}', b'{"role":"read","images":"x"}',
                 b'{"role":"read","images":[1]}', b'{"role":"read","secret":"mine"}', b'{"role":"read","id":"mine"}',
                 b'{"role":"read","name":"' + b"x" * 65 + b'"}', b'{"role":"read","images":["' + b"x" * 600 + b'"]}'):
        yield Case("key: %.40r" % body, post(body, path=b"/v1/keys"))
    for body in (b"", b"[]", b"{}", b'{"signal":null}', b'{"signal":"SIGNO"}', b'{"signal":"99"}', b'{"signal":"-1"}'):
        yield Case("signal: %.40r" % body, post(body, path=task_path + b"/signal"))
    for path in (b"/wait?timeout=x", b"/wait?timeout=-1s", b"/wait?timeout=48h", b"/wait?x=1", b"/stdout?offset=-1", b"/stdout?tail=x",
                 b"/stderr?offset=99999999999999999999", b"/logs?follow=2", b"/logs?stream=stdin", b"/logs?tail=-1", b"/", b"/nothing"):
        yield Case("GET …%s" % path.decode(), b"GET " + task_path + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    upgrade = b"GET /v1/tasks/stream HTTP/1.1\r\n" + HOST
    for name, headers in (("none", b""), ("no key", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"),
                          ("a bad key", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                        b"Sec-WebSocket-Key: x\r\n"),
                          ("an old version", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"
                                             b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
                          ("another origin", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                             b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://evil.example\r\n")):
        yield Case("upgrade with %s" % name, upgrade + headers + b"\r\n")


def types():
    body = json.dumps(GOOD).encode()
    for kind in (b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"text/json",
                 b"application/jsonx", b"application/json5", b"", b"application"):
        yield Case("Content-Type %r" % kind, post(body, kind=b"Content-Type: " + kind + b"\r\n"))
    yield Case("no Content-Type", post(body, kind=b""))
    yield Case("two Content-Type", post(body, kind=JSON + b"Content-Type: text/plain\r\n"))
    yield Case("gzip", post(body, headers=b"Content-Encoding: gzip\r\n"))
    yield Case("form to import", post(b"x", path=b"/v1/images/import?ref=a", kind=b"Content-Type: text/plain\r\n"))


def framing():
    line = b"POST /v1/tasks HTTP/1.1"
    chunked = b"Transfer-Encoding: chunked\r\n"
    empty = b"0\r\n\r\n"
    for name, headers, body in [
        ("Content-Length, then chunked", b"Content-Length: 5\r\n" + chunked, empty + HIDDEN),
        ("chunked, then Content-Length", chunked + b"Content-Length: 5\r\n", empty + HIDDEN),
        ("Content-Length 0 with chunked", chunked + b"Content-Length: 0\r\n", empty + HIDDEN),
        ("two lengths", b"Content-Length: 0\r\nContent-Length: 42\r\n", HIDDEN),
        ("the same length twice", b"Content-Length: 0\r\nContent-Length: 0\r\n", HIDDEN),
        ("two lengths in other cases", b"Content-Length: 0\r\ncontent-length: 42\r\n", HIDDEN),
        ("list of lengths", b"Content-Length: 0, 0\r\n", HIDDEN),
        ("length +5", b"Content-Length: +5\r\n", b"{}   " + HIDDEN),
        ("length -1", b"Content-Length: -1\r\n", HIDDEN),
        ("length in hex", b"Content-Length: 0x2\r\n", b"{}" + HIDDEN),
        ("length with letters", b"Content-Length: 2a\r\n", b"{}" + HIDDEN),
        ("length with a blank", b"Content-Length: 1 0\r\n", b"{}" + HIDDEN),
        ("length empty", b"Content-Length:\r\n", HIDDEN),
        ("length 2^64", b"Content-Length: 18446744073709551616\r\n", HIDDEN),
        ("length 2^64+2", b"Content-Length: 18446744073709551618\r\n", b"{}" + HIDDEN),
        ("length 2^63", b"Content-Length: 9223372036854775808\r\n", b"{}"),
        ("length too large", b"Content-Length: 99999999999\r\n", b"{}"),
        ("blank before the colon", b"Content-Length : 0\r\n", HIDDEN),
        ("tab before the colon", b"Content-Length\t: 0\r\n", HIDDEN),
        ("chunked, blank before the colon", b"Transfer-Encoding : chunked\r\n", empty + HIDDEN),
        ("chunked with a blank after", b"Transfer-Encoding: chunked \r\n", empty + HIDDEN),
        ("chunked with a tab after", b"Transfer-Encoding: chunked\t\r\n", empty + HIDDEN),
        ("chunked with NUL", b"Transfer-Encoding: chunked\0\r\n", empty + HIDDEN),
        ("chunked with a vertical tab", b"Transfer-Encoding: \x0bchunked\r\n", empty + HIDDEN),
        ("quoted chunked", b'Transfer-Encoding: "chunked"\r\n', empty + HIDDEN),
        ("gzip", b"Transfer-Encoding: gzip\r\n", empty + HIDDEN),
        ("gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n", empty + HIDDEN),
        ("chunked, chunked", b"Transfer-Encoding: chunked, chunked\r\n", empty + HIDDEN),
        ("chunked, identity", b"Transfer-Encoding: chunked, identity\r\n", empty + HIDDEN),
        ("identity", b"Transfer-Encoding: identity\r\n", HIDDEN),
        ("empty coding", b"Transfer-Encoding:\r\n", HIDDEN),
        ("xchunked", b"Transfer-Encoding: xchunked\r\n", empty + HIDDEN),
        ("two codings", chunked + chunked, empty + HIDDEN),
        ("two codings, the second unknown", chunked + b"Transfer-Encoding: x\r\n", empty + HIDDEN),
        ("folded coding", b"Transfer-Encoding:\r\n chunked\r\n", empty + HIDDEN),
        ("folded length", b"Content-Length:\r\n 0\r\n", HIDDEN),
        ("chunk size no number", chunked, b"zz\r\n{}\r\n" + empty + HIDDEN),
        ("chunk size negative", chunked, b"-2\r\n{}\r\n" + empty + HIDDEN),
        ("chunk size 0x2", chunked, b"0x2\r\n{}\r\n" + empty + HIDDEN),
        ("chunk size too large", chunked, b"FFFFFFFFFFFFFFFFF\r\n{}\r\n" + empty + HIDDEN),
        ("chunk size empty", chunked, b"\r\n{}\r\n" + empty + HIDDEN),
        ("chunk longer than said", chunked, b"1\r\n{}\r\n" + empty + HIDDEN),
        ("chunk without its end", chunked, b"2\r\n{}" + empty + HIDDEN),
        ("Expect unknown", b"Content-Length: 2\r\nExpect: 200-ok\r\n", b"{}"),
    ]:
        yield Case("framing: " + name, request(line, HOST + JSON + headers, body))
    yield Case("chunked in HTTP/1.0", request(b"POST /v1/tasks HTTP/1.0", JSON + chunked, empty + HIDDEN))
    yield Case("body cut", request(line, HOST + JSON + b"Content-Length: 100\r\n", b'{"image"'), half_close=True)
    yield Case("chunk cut", request(line, HOST + JSON + chunked, b"64\r\n{}"), half_close=True)
    yield Case("chunks without their end", request(line, HOST + JSON + chunked, b"2\r\n{}\r\n"), half_close=True)


def heads():
    for name, headers in {
        "no Host": b"",
        "two Host": HOST + HOST,
        "two other Host": HOST + b"Host: other\r\n",
        "Host with a path": b"Host: localhost/x\r\n",
        "Host with a blank": b"Host: local host\r\n",
        "Host with a user": b"Host: user@localhost\r\n",
        "Host with NUL": b"Host: local\0host\r\n",
        "NUL in a value": HOST + b"X: a\0b\r\n",
        "NUL in the last value": HOST + b"X: a\0\r\n",
        "many NUL": HOST + b"X: a\0\0\0\0\0\0\r\n",
        "NUL hides a header": HOST + b"X: a\0Content-Length: 42\r\n",
        "NUL in a name": HOST + b"X\0Y: a\r\n",
        "NUL first": HOST + b"\0X: a\r\n",
        "bare line feed": HOST + b"X: a\nContent-Length: 42\r\n",
        "bare line feeds": b"Host: localhost\nX: a\n",
        "bare carriage return": HOST + b"X: a\rContent-Length: 42\r\n",
        "two carriage returns": HOST + b"X: a\r\r\n",
        "folded line": HOST + b"X: a\r\n b\r\n",
        "folded with a tab": HOST + b"X: a\r\n\tb\r\n",
        "blank before the first": b" X: a\r\n" + HOST,
        "no colon": HOST + b"X\r\n",
        "no name": HOST + b": a\r\n",
        "blank in a name": HOST + b"X Y: a\r\n",
        "blank after a name": HOST + b"X : a\r\n",
        "bracket in a name": HOST + b"X(Y): a\r\n",
        "name not ASCII": HOST + b"X\xff: a\r\n",
        "control in a name": HOST + b"X\x01: a\r\n",
        "control in a value": HOST + b"X: a\x01b\r\n",
        "DEL in a value": HOST + b"X: a\x7fb\r\n",
        "escape in a value": HOST + b"X: \x1b[31m\r\n",
        "overlong value": HOST + b"X: " + b"a" * 100000 + b"\r\n",
        "overlong name": HOST + b"X" * 100000 + b": a\r\n",
        "1,000 headers": HOST + b"".join(b"X-%d: a\r\n" % i for i in range(1000)),
        "101 headers": HOST + b"".join(b"X%d:a\r\n" % i for i in range(101)),
        "1,000 cookies": HOST + b"Cookie: " + b"a=b; " * 1000 + b"\r\n",
        "head without end": HOST + b"X: a\r\n" * 100000,
        "two keys": HOST + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
    }.items():
        yield Case("head: " + name, request(headers=headers, body=HIDDEN if b"Content" in headers else b""))
    yield Case("head: cut", b"GET /healthz HTTP/1.1\r\nHost: loc", half_close=True)
    yield Case("head: key with a blank", post(b"{}", headers=b"Idempotency-Key: a b\r\n"))
    yield Case("head: key too long", post(b"{}", headers=b"Idempotency-Key: " + b"k" * 300 + b"\r\n"))


def lines():
    for line in [
        b"GET /a b HTTP/1.1", b"GET  /healthz HTTP/1.1", b"GET /healthz  HTTP/1.1", b"GET\t/healthz HTTP/1.1",
        b"GET /healthz\tHTTP/1.1", b" GET /healthz HTTP/1.1", b"GET /healthz HTTP/1.1 ", b"GET /healthz HTTP/1.1x",
        b"GET /healthz HTTP/1.1 x", b"GET /healthz HTTP/2.0", b"GET /healthz HTTP/3", b"GET /healthz HTTP/0.9",
        b"GET /healthz HTTP/11", b"GET /healthz HTTP/1.", b"GET /healthz HTTP/1.a", b"GET /healthz http/1.1",
        b"GET /healthz XTTP/1.1", b"GET /healthz", b"GET", b"GET ", b"/healthz", b"GET healthz HTTP/1.1",
        b"GET http:///healthz HTTP/1.1", b"GET ftp://x/healthz HTTP/1.1", b"GET x:80 HTTP/1.1",
        b"GET * HTTP/1.1", b"CONNECT x:80 HTTP/1.1", b"GET /healthz#x HTTP/1.1", b"GET /%00 HTTP/1.1",
        b"GET /healthz%00 HTTP/1.1", b"GET /%zz HTTP/1.1", b"GET /% HTTP/1.1", b"GET /%2 HTTP/1.1",
        b"GET /\xff HTTP/1.1", b"GET /a\0b HTTP/1.1", b"GET\0 /healthz HTTP/1.1", b"GET /healthz\0 HTTP/1.1",
        b"GET /healthz HTTP/1.1\0", b"G\x01T /healthz HTTP/1.1", b"GET /\x01 HTTP/1.1", b"GET /\x7f HTTP/1.1",
        b"GET /v1/version?a=%zz HTTP/1.1", b"GET /v1/version?a=%00 HTTP/1.1", b"GET /v1/version?a=b HTTP/1.1",
        b"GET /v1/version?" + b"&".join(b"a=%d" % i for i in range(100)) + b" HTTP/1.1",
        b"GET /v1/version?" + b"a&" * 2000 + b" HTTP/1.1",
        b"GET /" + b"a" * 100000 + b" HTTP/1.1", b"A" * 100000, b"A" * 100000 + b" / HTTP/1.1",
        b"get /healthz HTTP/1.1", b"GETT /healthz HTTP/1.1", b"TRACE /healthz HTTP/1.1", b"DELETE /healthz HTTP/1.1",
        b"OPTIONS /v1/tasks HTTP/1.1", b"PUT /v1/tasks HTTP/1.1", b"PATCH /v1/images/x HTTP/1.1",
        b"GET / HTTP/1.1", b"GET //healthz HTTP/1.1", b"GET /healthz/ HTTP/1.1", b"GET /v1/tasks/ HTTP/1.1",
        b"GET /v1/tasks/x HTTP/1.1", b"GET /v1/tasks/../version HTTP/1.1", b"GET /v1/tasks/%2e%2e HTTP/1.1",
        b"GET /v1/tasks/00000000000000000000000000 HTTP/1.1", b"GET /v1/images/load HTTP/1.1",
        b"GET /v1/images/%FF HTTP/1.1", b"GET /v1/images/A%20B HTTP/1.1", b"GET /v1/images/no/such/image:1 HTTP/1.1",
        b"GET /v1/tasks?limit=0 HTTP/1.1", b"GET /v1/tasks?limit=1001 HTTP/1.1", b"GET /v1/tasks?limit=-1 HTTP/1.1",
        b"GET /v1/tasks?limit=x HTTP/1.1", b"GET /v1/tasks?status=dead HTTP/1.1", b"GET /v1/tasks?since=soon HTTP/1.1",
        b"GET /v1/tasks?until=2026-13-01T00:00:00Z HTTP/1.1", b"GET /v1/tasks?cursor=x HTTP/1.1",
        b"GET /v1/tasks?image=A%20B HTTP/1.1", b"GET /v1/health?full=2 HTTP/1.1",
    ]:
        yield Case("line: %.60r" % line, request(line))


def noise():
    yield Case("TLS", bytes.fromhex("16030100c8010000c40303") + bytes(range(189)), half_close=True)
    yield Case("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), half_close=True)
    yield Case("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", half_close=True)
    yield Case("line ends only", b"\r\n" * 1000, half_close=True)
    yield Case("NUL only", bytes(1000), half_close=True)
    yield Case("all bytes", bytes(range(256)) * 8, half_close=True)
    yield Case("nothing", b"", half_close=True)
    yield Case("one byte", b"G", half_close=True)


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(TIMEOUT)
    s.connect(path)
    return s


def converse(path, case):
    """All that comes back until the connection ends, and whether it did. After the first answer the client ends its side, so
    that the daemon answers what else it takes for a request, and then closes."""
    received = b""
    ended = case.half_close
    with connect(path) as s:
        try:
            s.sendall(case.data)
            if ended:
                s.shutdown(socket.SHUT_WR)
            while True:
                piece = s.recv(65536)
                if not piece:
                    return received, True
                received += piece
                if not ended and answers(received)[1]:
                    s.shutdown(socket.SHUT_WR)
                    ended = True
        except (BrokenPipeError, ConnectionResetError):
            return received + drain(s), True
        except socket.timeout:
            return received, False


def drain(s):
    """What still lies in a connection that was reset while it was written to."""
    received = b""
    try:
        while True:
            piece = s.recv(65536)
            if not piece:
                return received
            received += piece
    except OSError:
        return received


def answers(data):
    """Statuses of the answers in data, and whether the last one is whole. 100 (Continue) is none."""
    statuses = []
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return statuses, False
        fields = head.split(b"\r\n")
        status = int(fields[0].split()[1])
        length = [int(f.split(b":")[1]) for f in fields if f.lower().startswith(b"content-length:")]
        if status == 100:
            data = rest
            continue
        statuses.append(status)
        if length and len(rest) < length[0]:
            return statuses, False
        data = rest[length[0]:] if length else b""
    return statuses, bool(statuses)


def fault(path, case):
    """None, or what is wrong."""
    data, closed = converse(path, case)
    try:
        statuses, whole = answers(data)
    except (ValueError, IndexError):
        return "no HTTP: %.80r" % data
    if len(statuses) > 1:
        return "%d answers: %s" % (len(statuses), statuses)
    if not statuses:
        return None if closed else "no answer, and the connection stays open"
    if not whole:
        return "half an answer: %.80r" % data
    return None if 400 <= statuses[0] < 500 or statuses[0] == 505 else "status %d" % statuses[0]


def healthy(path):
    with connect(path) as s:
        s.sendall(request())
        return s.recv(65536).startswith(b"HTTP/1.1 200 ")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    passed = failed = 0
    for source in (bodies, members, other_routes, types, framing, heads, lines, noise):
        for case in source():
            why = fault(args.socket, case)
            if why:
                print("not ok - %s: %s" % (case.name, why))
                failed += 1
                continue
            if args.verbose:
                print("ok - %s" % case.name)
            passed += 1
    if not healthy(args.socket):
        print("not ok - the daemon is well afterwards: it does not answer")
        failed += 1
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
