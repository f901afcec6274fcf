"""One blob, wanted by two keys from two registries: what becomes of it where one of these drips, hangs, lies or refuses."""

import concurrent.futures
import gzip
import hashlib
import json
import os
import random
import threading
import time

import mayfly
import registries

FIRST, SECOND = ("ann", "canary-of-the-first"), ("bob", "canary-of-the-second")
CROWD_POOL = "10.189.0.0/16"
DRIP = 2000  # bytes every quarter of a second: above the stall limit
TIMEOUT = 80


def equal(have, want, what=""):
    assert have == want, f"{what} {have!r}, not {want!r}"


def begin_of(handler):
    wanted = handler.headers.get("Range")
    return int(wanted[6:].split("-")[0]) if wanted else 0


def head(handler, layer):
    """Of the answer that was asked for; where it begins."""
    begin = begin_of(handler)
    handler.send_response(206 if begin else 200)
    handler.send_header("Content-Length", str(len(layer) - begin))
    if begin:
        handler.send_header("Content-Range", f"bytes {begin}-{len(layer) - 1}/{len(layer)}")
    handler.end_headers()
    return begin


class Side:
    """A registry that wants credentials, has the image, and answers for one layer as it likes."""

    def __init__(self, shared, auth, answer):
        self.shared, self.answer = shared, answer
        self.basic = registries.basic(*auth) if auth else None
        self.auth = auth
        self.asked = []  # for the layer: where from, and whether the answer was cut by the other side
        self.begun, self.cut = threading.Event(), threading.Event()
        self.fake = registries.Fake(shared.blobs, shared.tags, self.bend)
        self.image = f"{self.fake.host}/team/app:1"

    def bend(self, handler, kind, name):
        if self.basic and handler.headers.get("Authorization") != self.basic:
            handler.send(401, WWW_Authenticate="Basic realm=x")
            return True
        if name != self.shared.digest or handler.command != "GET":
            return False
        self.asked.append(begin_of(handler))
        self.begun.set()
        try:
            return bool(self.answer and self.answer(self, handler) is not False)
        except OSError:
            self.cut.set()
            raise BrokenPipeError from None


class Shared:
    def __init__(self, w, first, second, auth=(FIRST, SECOND), size=3_000_000):
        self.blobs = registries.Blobs()
        self.layer = mayfly.Archive().file("noise", random.randbytes(size)).bytes()
        self.wrong = self.layer[:1000] + bytes(len(self.layer) - 1000)
        self.digest = "sha256:" + hashlib.sha256(self.layer).hexdigest()
        self.tags = {"1": self.blobs.image([w.system, self.layer])}
        self.first, self.second = Side(self, auth[0], first), Side(self, auth[1], second)
        self.clients = [mayfly.NetClient(w.port, w.instance.key("task")) for _ in range(2)]
        self.answers = [None, None]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.first.fake.close()
        self.second.fake.close()

    def one(self, i):
        side = (self.first, self.second)[i]
        request = {"image": side.image, "cmd": ["sha256sum", "/noise"], "network": "none"}
        if side.auth:
            request["registry_auth"] = {"username": side.auth[0], "password": side.auth[1]}
        self.answers[i] = self.clients[i].post(request)

    def pull(self):
        """The second asks when the first's layer comes; both answers."""
        threads = [threading.Thread(target=self.one, args=(i,), daemon=True) for i in range(2)]
        threads[0].start()
        assert self.first.begun.wait(20 * mayfly.SLOW), "the first did not begin"
        threads[1].start()
        for thread in threads:
            thread.join(TIMEOUT * mayfly.SLOW)
        assert all(self.answers), f"they wait: {self.answers}"
        return [a.status for a in self.answers]

    def strangers(self):
        """Whatever Authorization a registry was told that is not its own."""
        return [x for side in (self.first, self.second) for x in side.fake.authorizations if x != side.basic]


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def drip(side, handler, layer=None, times=4000):
    layer = layer or side.shared.layer
    at = head(handler, layer)
    for _ in range(times):
        handler.wfile.write(layer[at:at + DRIP])
        at += DRIP
        time.sleep(0.25)
    handler.close_connection = True


def drip_once(side, handler):
    """The whole to whoever comes again."""
    return drip(side, handler) if len(side.asked) == 1 else False


def drip_wrong(side, handler):
    drip(side, handler, side.shared.wrong)


def drip_wrong_once(side, handler):
    if len(side.asked) == 1:
        drip(side, handler, side.shared.wrong)
    else:
        handler.blob(side.shared.wrong)


def wrong(side, handler):
    """Wrong to its end, while the other waits."""
    at = head(handler, side.shared.wrong)
    handler.wfile.write(side.shared.wrong[at:at + 100_000])
    time.sleep(1)
    handler.wfile.write(side.shared.wrong[at + 100_000:])


def hang_on_range(side, handler):
    if not begin_of(handler):
        return False
    end = time.monotonic() + TIMEOUT
    handler.connection.settimeout(1)
    while time.monotonic() < end:
        try:
            if handler.connection.recv(1) == b"":
                break
        except TimeoutError:
            pass
    handler.close_connection = True
    return True


def refuse(_, handler):
    handler.send(403)


def cut(side, handler):
    at = head(handler, side.shared.layer)
    handler.wfile.write(side.shared.layer[at:at + 700_000])
    time.sleep(1)
    handler.close_connection = True
    side.answer = lambda _, h: h.send(503)


# ── cases ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def a_drip(w):
    with Shared(w, drip, None) as s:
        equal(s.pull(), [201, 201], s.answers)
        for answer in s.answers:
            assert answer.json()["stdout"].startswith(hashlib.sha256(s.layer[512:512 + 3_000_000]).hexdigest()), answer
        assert s.first.cut.wait(10), "the drip was not left"
        equal(len(s.first.asked), 1)
        assert len(s.second.asked) == 1 and s.second.asked[0] > 0, s.second.asked
        equal(s.strangers(), [])


def wrong_bytes(w):
    with Shared(w, wrong, None) as s:
        equal(s.pull(), [502, 201], s.answers)
        problem = s.answers[0].json()
        assert "digest mismatch" in str(problem), problem
        equal((s.first.asked, s.second.asked), ([0], [0]))
        equal(s.strangers(), [])


def wrong_bytes_among_right(w):
    with Shared(w, drip_wrong, None) as s:
        equal(s.pull(), [201, 201], s.answers)
        equal(s.first.asked, [0])
        assert s.second.asked[0] > 0 and s.second.asked[1:] == [0], s.second.asked
        equal(s.strangers(), [])


def both_wrong(w):
    with Shared(w, drip_wrong_once, wrong) as s:
        equal(s.pull(), [502, 502], s.answers)
        assert all("digest mismatch" in str(a.json()) for a in s.answers), s.answers


def hangs_on_range(w):
    with Shared(w, drip_once, hang_on_range) as s:
        equal(s.pull(), [201, 201], s.answers)
        assert s.second.asked[0] > 0, s.second.asked
        assert s.first.asked[0] == 0 and s.first.asked[1] >= s.second.asked[0], (s.first.asked, s.second.asked)
        equal(s.strangers(), [])


def refused(w):
    with Shared(w, drip_once, refuse) as s:
        equal(s.pull(), [201, 403], s.answers)
        assert s.second.asked[0] > 0, s.second.asked
        equal(s.strangers(), [])


def cut_off(w):
    with Shared(w, cut, None) as s:
        equal(s.pull(), [201, 201], s.answers)
        equal(s.second.asked, [700_000])


def left_by_another(w):
    """Wrong bytes that an earlier pull left are not the next one's fault."""
    with Shared(w, drip_wrong, None) as s:
        request = {"image": s.first.image, "cmd": ["true"], "network": "none", "wait": False,
                   "registry_auth": {"username": FIRST[0], "password": FIRST[1]}}
        task = s.clients[0].post(request).json()["id"]
        partial = os.path.join(w.instance.data_dir, "state/images/partial", f"{s.digest[7:]}.{len(s.layer)}")
        assert s.first.begun.wait(20) and mayfly.wait_until(lambda: s.first.asked, 20)
        time.sleep(1)
        s.clients[0].request("POST", f"/v1/tasks/{task}/cancel")
        assert s.first.cut.wait(20), "the download goes on"
        with open(partial, "r+b") as f:  # what it brought is less than what is written at once
            f.write(s.wrong[:500_000])
        s.one(1)
        equal(s.answers[1].status, 201, s.answers[1])
        equal(s.second.asked, [500_000, 0])


def another_size(s, size):
    """The first's manifest gives the layer a wrong size; it drips as if it had it."""
    manifest = json.loads(s.tags["1"])
    manifest["layers"][1]["size"] = size
    s.first.fake.tags = {"1": json.dumps(manifest).encode()}
    said = s.layer[:size] + bytes(max(0, size - len(s.layer)))
    s.first.answer = lambda side, handler: drip(side, handler, said)


def wrong_size(w, more=1000):
    """Whoever says another size of a layer hurts nobody who says the right one, neither while it comes nor by what is left of it."""
    with Shared(w, None, None) as s:
        another_size(s, len(s.layer) + more)
        request = {"image": s.first.image, "cmd": ["true"], "network": "none", "wait": False,
                   "registry_auth": {"username": FIRST[0], "password": FIRST[1]}}
        task = s.clients[0].post(request).json()["id"]
        assert s.first.begun.wait(20 * mayfly.SLOW), "the first did not begin"
        s.one(1)
        equal(s.answers[1].status, 201, s.answers[1])
        assert s.answers[1].json()["stdout"].startswith(hashlib.sha256(s.layer[512:512 + 3_000_000]).hexdigest()), s.answers[1]
        equal(s.second.asked, [0])
        assert not s.first.cut.is_set(), "the wrong one was not under way any more"
        equal(s.clients[0].get(f"/v1/tasks/{task}").json()["status"], "pulling")
        s.clients[0].request("POST", f"/v1/tasks/{task}/cancel")
        assert s.first.cut.wait(20 * mayfly.SLOW), "the download goes on"
        s.one(0)  # its own error, once it is known what the layer is
        equal(s.answers[0].status, 502, s.answers[0])
        assert "size" in s.answers[0].json()["detail"], s.answers[0]
        equal(s.strangers(), [])


def wrong_size_first_and_last(w):
    """Beside each other from the beginning: each fails, or not, by itself."""
    with Shared(w, None, None) as s:
        another_size(s, 1500)
        s.first.answer = lambda side, handler: handler.send(200, s.layer[:1500]) or True
        equal(s.pull(), [502, 201], s.answers)
        assert "digest mismatch" in s.answers[0].json()["detail"], s.answers[0]
        equal(s.strangers(), [])


def busy_for_another(w):
    """Two keys ask one registry for one image with credentials of their own: what one of these has used up is not the other's."""
    blobs = registries.Blobs()
    layer = mayfly.Archive().file("noise", random.randbytes(100_000)).bytes()
    tags = {"1": blobs.image([w.system, layer])}
    digest = "sha256:" + hashlib.sha256(layer).hexdigest()
    first, second = registries.basic(*FIRST), registries.basic(*SECOND)
    begun, joined = threading.Event(), threading.Event()

    def bend(handler, kind, name):
        said = handler.headers.get("Authorization")
        if said not in (first, second):
            handler.send(401, WWW_Authenticate="Basic realm=x")
            return True
        if said == second and kind == "manifests":
            joined.set()
        if said == second or name != digest:
            return False
        begun.set()
        joined.wait(20 * mayfly.SLOW)
        time.sleep(1)  # until the manifest has led to the same job
        handler.send(429, Retry_After="1000")
        return True
    fake = registries.Fake(blobs, tags, bend)
    answers = [None, None]

    def one(i):
        user, password = (FIRST, SECOND)[i]
        client = mayfly.NetClient(w.port, w.instance.key("task"))
        answers[i] = client.post({"image": f"{fake.host}/team/app:1", "cmd": ["true"], "network": "none",
                                  "registry_auth": {"username": user, "password": password}})
    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(2)]
    try:
        threads[0].start()
        assert begun.wait(20 * mayfly.SLOW), "the first did not begin"
        threads[1].start()
        for thread in threads:
            thread.join(TIMEOUT * mayfly.SLOW)
        assert all(answers), f"they wait: {answers}"
        assert answers[0].status >= 400 and answers[1].status == 201, answers
    finally:
        fake.close()


def places(w):
    """One key's dripping layers leave places to others."""
    blobs = registries.Blobs()
    noises = [mayfly.Archive().file(f"noise{i}", random.randbytes(400_000)).bytes() for i in range(10)]
    slow = {"sha256:" + hashlib.sha256(x).hexdigest() for x in noises}
    over = threading.Event()
    begun = []

    def bend(handler, kind, name):
        if name not in slow:
            return False
        begun.append(name)
        layer = blobs.blobs[name]
        at = head(handler, layer)
        for _ in range(4000):
            handler.wfile.write(layer[at:at + DRIP])
            at += DRIP
            if over.wait(0.25):
                break
        handler.close_connection = True
        return True
    evil = registries.Fake(blobs, {"1": blobs.image([w.system, *noises])}, bend)
    others = registries.Blobs()
    own = [mayfly.Archive().file(f"own{i}", random.randbytes(300_000)).bytes() for i in range(4)]
    good = registries.Fake(others, {"1": others.image([w.system, *own])})
    one, two = (mayfly.NetClient(w.port, w.instance.key("task")) for _ in range(2))
    try:
        one.post({"image": f"{evil.host}/slow:1", "cmd": ["true"], "network": "none", "wait": False})
        assert mayfly.wait_until(lambda: len(begun) >= 6, 20), begun
        answer = two.post({"image": f"{good.host}/fast:1", "cmd": ["true"], "network": "none"})
        equal(answer.status, 201, answer)
        equal(len(set(begun)), 6)
        equal([p["image"] for p in w.client.get("/v1/images/pulls").json()["pulls"] if evil.host in p["image"]], [f"{evil.host}/slow:1"])
    finally:
        over.set()
        for task in one.get("/v1/tasks").json()["tasks"]:
            one.request("POST", f"/v1/tasks/{task['id']}/cancel")
        evil.close()
        good.close()


CASES = [
    ("a registry that drips is taken over by the other's key, from where it was", a_drip),
    ("wrong bytes fail the pulls of whose registry they are, and no other", wrong_bytes),
    ("wrong bytes among right ones: nobody is blamed, one of them brings all", wrong_bytes_among_right),
    ("wrong bytes of both: each is told", both_wrong),
    ("one that hangs on the range request is left again", hangs_on_range),
    ("one that refuses the layer refuses its own key", refused),
    ("one that is cut off for good is gone on with", cut_off),
    ("wrong bytes that an earlier pull left are thrown away", left_by_another),
    ("a registry that is too busy for one's credentials is asked with the other's", busy_for_another),
    ("a wrong size that drips holds up nobody who says the right one", wrong_size),
    ("a wrong size that is too short, too", lambda w: wrong_size(w, -1_000_000)),
    ("a wrong size that comes to its end fails by itself", wrong_size_first_and_last),
]


def takeover(w, report):
    def one(row):
        with report.case("takeover: " + row[0]):
            row[1](w)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, CASES))
    with report.case("takeover: one key's slow layers leave places to others"):
        places(w)
    with report.case("takeover: one key's questions leave connections to others"):
        questions(w)


def questions(w):
    """One key's registries that do not answer leave connections to others."""
    over = threading.Event()
    asked = set()

    def bend(handler, kind, name):
        asked.add(name)
        over.wait(TIMEOUT * mayfly.SLOW)
        handler.send(404)
        return True
    evil = registries.Fake(registries.Blobs(), {}, bend)
    good = registries.Fake(*w.small_image())
    key, two = w.instance.key("task"), mayfly.NetClient(w.port, w.instance.key("task"))
    answers = []

    def ask(i):
        answers.append(mayfly.NetClient(w.port, key).post({"image": f"{evil.host}/slow:{i}", "cmd": ["true"], "network": "none"}).status)
    threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(12)]
    try:
        for thread in threads:
            thread.start()
        assert mayfly.wait_until(lambda: len(asked) >= 8, 20), asked
        time.sleep(1)
        equal(len(asked), 8)
        answer = two.post({"image": f"{good.host}/fast:1", "cmd": ["true"], "network": "none"})
        equal(answer.status, 201, answer)
    finally:
        over.set()
        for thread in threads:
            thread.join(TIMEOUT * mayfly.SLOW)
        evil.close()
        good.close()
    equal((len(answers), len(asked)), (12, 12))


def crowd(w):
    """More layers than the launcher takes work for, unpacked as many at once as may be configured."""
    blobs = registries.Blobs()
    layers = [gzip.compress(mayfly.Archive().file(f"noise{i}", random.randbytes(40_000)).bytes(), 1) for i in range(100)]
    image = json.loads(blobs.image([w.system, *(gzip.decompress(x) for x in layers)]))
    image["layers"][1:] = [blobs.descriptor(x, "application/vnd.oci.image.layer.v1.tar+gzip") for x in layers]
    fake = registries.Fake(blobs, {"1": json.dumps(image).encode()})
    try:
        with mayfly.Instance("mf-crowd", CROWD_POOL, registries__enabled="true", registries__parallel=64, images__parallel=28) as i:
            answer = i.client.post({"image": f"{fake.host}/crowd:1", "cmd": ["sh", "-c", "ls /noise* | wc -l"], "network": "none"})
            equal(answer.status, 201, answer)
            equal(answer.json()["stdout"].strip(), str(len(layers)))
    finally:
        fake.close()


def crowds(w, report):
    with report.case("takeover: as many layers at once as may be configured have their workers"):
        crowd(w)


GROUPS = [takeover, crowds]
