"""Questions and answers of DNS, by hand: a client for the inside of a task, and a resolver that misbehaves on purpose.

    dns_tools.py ask udp|tcp SERVER NAME [TYPE]      prints the code of the answer and its size
    dns_tools.py flood SERVER COUNT NAME             sends that many questions, reads no answer
    dns_tools.py hostile SERVER                      what is no question: prints what came back
    dns_tools.py serve FAMILY ADDRESS MODE LOG       answers 203.0.113.7; MODE: plain, liar (first a wrong id, then a wrong
                                                     question, then the answer), mute, servfail
"""

import os
import socket
import struct
import sys


def question(name, kind=1, ident=None):
    ident = struct.unpack(">H", os.urandom(2))[0] if ident is None else ident
    labels = b"".join(bytes([len(p)]) + p for p in name.encode().split(b".")) + b"\0"
    return struct.pack(">HHHHHH", ident, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">HH", kind, 1)


def read_exact(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def send_and_hear(s, msg, timeout):
    """Asks again each second, as datagrams get lost, and as every resolver's client does."""
    s.settimeout(1)
    for _ in range(timeout):
        s.send(msg)
        try:
            return s.recv(65535)
        except TimeoutError:
            pass
    raise TimeoutError(f"no answer in {timeout} s")


def ask(how, server, name, kind=1, timeout=12):
    msg = question(name, int(kind))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if how == "udp" else socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        s.connect((server, 53))
        if how == "udp":
            answer = send_and_hear(s, msg, timeout)
        else:
            s.sendall(struct.pack(">H", len(msg)) + msg)
            answer = read_exact(s, struct.unpack(">H", read_exact(s, 2))[0])
    assert answer[:2] == msg[:2], "another id"
    assert answer[12:len(msg)] == msg[12:], "another question"
    print(answer[3] & 15, len(answer), struct.unpack(">H", answer[6:8])[0])


def flood(server, count, name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((server, 53))
        for i in range(int(count)):
            try:
                s.send(question(f"q{i}.{name}", 1, i & 0xffff))
            except OSError:
                pass


def hostile(server):
    good = question("name.test")
    cases = {
        "empty": b"", "short": good[:11], "an answer": good[:2] + b"\x81\x80" + good[4:], "update": good[:2] + b"\x28\0" + good[4:],
        "no question": good[:4] + b"\0\0" + good[6:], "two": good[:4] + b"\0\2" + good[6:], "cut": good[:-1],
        "pointer": good[:12] + b"\xc0\x0c" + good[14:], "transfer": good[:-4] + b"\0\xfc\0\1", "large": good + bytes(5000),
        "noise": os.urandom(900),
    }
    for name, data in cases.items():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(0.5)
            s.connect((server, 53))
            s.send(data)
            try:
                print(f"{name}:", s.recv(65535)[3] & 15)
            except OSError:
                print(f"{name}: -")
    with socket.create_connection((server, 53), 5) as s:
        try:
            s.sendall(b"\xff\xff" + bytes(70000))
            print("tcp:", len(s.recv(10)))
        except OSError:
            print("tcp: 0")


def answer(msg, rcode=0):
    name_end = msg.index(b"\0", 12) + 5
    head = msg[:2] + bytes([0x81, 0x80 | rcode]) + struct.pack(">HHHH", 1, 0 if rcode else 1, 0, 0)
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton("203.0.113.7")
    return head + msg[12:name_end] + (b"" if rcode else record)


def serve(family, address, mode, log):
    s = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 53))
    with open(log, "a", encoding="utf-8", buffering=1) as out:
        print("ready", file=out)
        while True:
            msg, client = s.recvfrom(65535)
            print(client[1], struct.unpack(">H", msg[:2])[0], file=out)
            if mode == "mute":
                continue
            if mode == "liar":
                wrong = bytes([msg[0] ^ 1]) + msg[1:]
                s.sendto(answer(wrong, 3), client)
                s.sendto(answer(msg[:13] + b"x" + msg[14:], 3), client)
            s.sendto(answer(msg, 2 if mode == "servfail" else 0), client)


if __name__ == "__main__":
    {"ask": ask, "flood": flood, "hostile": hostile, "serve": serve}[sys.argv[1]](*sys.argv[2:])
