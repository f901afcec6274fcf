"""Hostile archives for `import`, and stacks of layers for `load`: families of what containers' tools fell for, each in
several variants. hostile_load.py has those against what describes an image.

A refused archive must be refused with a clear error that leaves no trace; an accepted one must be a harmless image:
nothing outside of it is touched or can be read.
"""

import base64
import random
import struct

from rawtar import (BLOCK, BLOCKDEV, CHAR, CONTIGUOUS, DIR, END, FIFO, FILE, GNU_LINK, GNU_NAME, GNU_SPARSE, LINK, PAX,
                    PAX_GLOBAL, SYMLINK, base256, directory, entry, file, gz, hardlink, header, pad, pax, pax_record, saved,
                    symlink, tar, zstd_frame)

IMPORT, LOAD = "import", "load"
REFUSE, ACCEPT, EITHER = "refuse", "accept", "either"
MIB = 1 << 20
LAYER_LIMIT = 256 * MIB         # the instance under test: images.max_layer_bytes
ARCHIVE_LIMIT = 512 * MIB       # images.max_archive_bytes
UP = "../" * 24


class Case:
    """expect: REFUSE, ACCEPT, EITHER. match: what the error must say, case ignored. script: run by sh inside of an accepted
    image; want: what it must print, a regular expression. paths: read and listed from inside, too."""

    def __init__(self, name, kind, data, expect, match="", script="", want="", paths=()):
        self.family = ""
        self.name, self.kind, self.data, self.expect = name, kind, data, expect
        self.match, self.script, self.want, self.paths = match, script, want, tuple(paths)


class Maker:
    """canary: a directory of the host that must be neither read nor written. base: a tar without its end: busybox."""

    def __init__(self, canary, base):
        self.canary, self.base = canary, base
        self.inside = canary.lstrip("/")
        self.base_layer = base + END

    def image(self, *entries):
        return self.base + b"".join(entries) + END

    def refuse(self, name, *entries, match=""):
        return Case(name, IMPORT, self.image(*entries), REFUSE, match)

    def accept(self, name, *entries, **expected):
        return Case(name, IMPORT, self.image(*entries), ACCEPT, **expected)

    def either(self, name, *entries, **expected):
        return Case(name, IMPORT, self.image(*entries), EITHER, **expected)

    def raw(self, name, data, expect, match="", **expected):
        return Case(name, IMPORT, data, expect, match, **expected)

    def stack(self, name, *layers, expect=ACCEPT, match="", **expected):
        """Layers over the base, by load."""
        return Case(name, LOAD, saved([self.base_layer, *layers]), expect, match, **expected)

    def load(self, name, data, expect=REFUSE, match="", **expected):
        return Case(name, LOAD, data, expect, match, **expected)


FAMILIES = []


def family(f):
    FAMILIES.append((f.__name__.replace("_", "-"), f))
    return f


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@family
def absolute_paths(m):
    c = m.canary
    for name, path in (("file", f"{c}/planted"), ("double slash", f"//{c}//planted"), ("dots", f"/./{c}/./planted"),
                       ("up and down", f"/a/../{c}/planted"), ("slashes", f"{'/' * 40}{c}/planted")):
        yield m.accept(name, file(path, b"inside\n"), script=f"cat {c}/planted", want="inside")
    yield m.accept("directory", directory(f"{c}/made", mode=0o777), script=f"test -d {c}/made && echo yes", want="yes")
    yield m.accept("over the secret", file(f"{c}/secret", b"inside\n"), script=f"cat {c}/secret", want="inside")
    yield m.accept("in pax", pax({"path": f"{c}/planted"}), file("x", b"inside\n"), script=f"cat {c}/planted", want="inside")
    yield m.accept("etc passwd", file("/etc/passwd", b"root:x:0:0::/:/bin/sh\nmine:x:7:7::/:/bin/sh\n"),
                   script="grep mine /etc/passwd", want="mine:x:7")
    yield m.accept("the root", directory("/"), directory("//"), directory("/./"))


@family
def dot_dot(m):
    out = "leads out of the root"
    for path in ("../x", f"{UP}{m.inside}/planted", "a/../../x", "a/b/../../../x", "..", "./..", "../", "/..", "/../x",
                 "./../x", "a/../..", "bin/../../x", ".//..//x"):
        yield m.refuse(path.replace(UP, ".../"), file(path), match=out)
    yield m.refuse("directory", directory(f"{UP}{m.inside}/made"), match=out)
    yield m.refuse("symlink", symlink(f"{UP}{m.inside}/planted", "x"), match=out)
    yield m.refuse("in pax", pax({"path": f"{UP}{m.inside}/planted"}), file("x"), match=out)
    yield m.refuse("in a long name", header("././@LongLink", GNU_NAME, 600) + pad(b"../" * 199 + b"x\0\0"), file("x"),
                   match=out)
    yield m.refuse("in the prefix", header("x", size=2, prefix=b"../.."), pad(b"x\n"), match=out)
    yield m.accept("inside", file("a/b/../../c/d", b"inside\n"), script="cat /c/d", want="inside")
    yield m.accept("three dots", file("a/.../b", b"inside\n"), script="cat /a/.../b", want="inside")


@family
def odd_names(m):
    for name, path in (("newline", b"a\nb"), ("escape", b"\x1b[31mred\x1b]0;title\x07"), ("invalid UTF-8", b"\xff\xfe\x80"),
                       ("overlong UTF-8", b"\xc0\xae\xc0\xae/x"), ("format", b"%s%n%d%99999999s"), ("blanks", b" \t "),
                       ("all bytes", bytes(b for b in range(1, 256) if b != 0x2f)), ("quotes", b"\"'`$(id)\\"),
                       ("backslashes", b"..\\..\\x"), ("right to left", "\u202egpj.exe".encode()), ("option", b"-rf"),
                       ("surrogate", b"\xed\xa0\x80")):
        yield m.accept(name, file(path, b"inside\n"), script="ls -la / | wc -l", want=r"\d")
        yield m.refuse(name + ", refused", file(b"../" + path), match="leads out of the root")
    yield m.either("empty name", header(b"", size=2), pad(b"x\n"))
    yield m.either("empty name in pax", pax([("path", "")]), file("x"))
    yield m.either("file with a slash", file("afile/", b"x"))
    yield m.accept("meta", file("meta", b"mayfly-layer 1\nI\0"), file("root/meta", b"x"), script="head -n 1 /meta", want="mayfly")
    yield m.either("NUL in pax", pax([("path", b"good\0/../../x")]), file("x"))
    yield m.either("NUL in a long name", header("L", GNU_NAME, 12), pad(b"good\0../../x"), file("x"))


@family
def long_names(m):
    far = "too long|levels deep|tar archive"
    yield m.accept("255 bytes", file("n" * 255, b"inside\n"), script=f"cat /{'n' * 255}", want="inside")
    yield m.refuse("256 bytes", file("n" * 256), match="too long")
    yield m.refuse("4 KiB", file("a/" * 2100 + "x"), match=far)
    yield m.refuse("100,000 bytes", file("x" * 100000), match=far)
    yield m.refuse("100,000 bytes in pax", pax({"path": "x" * 100000}), file("y"), match=far)
    for n in (4096, 100000):
        yield m.refuse(f"link of {n} bytes", symlink("l", "x" * n), match="link|tar archive")
        yield m.refuse(f"hard link of {n} bytes", hardlink("l", "x" * n), match="link|too long|tar archive")
    yield m.accept("200 levels", file("d/" * 200 + "x", b"inside\n"), script=f"cat /{'d/' * 200}x", want="inside")
    yield m.refuse("257 levels", file("d/" * 256 + "x"), match="levels deep")
    yield m.refuse("10,000 levels", file("d/" * 10000 + "x"), match=far)
    yield m.refuse("400 levels, each a directory", *[directory("d/" * n) for n in range(1, 400)], match=far)
    # Each link leads to a directory of its own depth, so that a path through all of them is far deeper than it looks.
    deep, parts = "e/" * 100, []
    for n in range(1, 6):
        above = f"l{n - 1}/" if n > 1 else ""
        parts += [directory(above + deep), symlink(f"l{n}", above + deep)]
    yield m.either("deep by links", *parts, file("l5/x"))
    parts = []
    for n in range(24):
        above = (f"l{n - 1}/" if n else "") + "q" * 200
        parts += [directory(above), symlink(f"l{n}", above)]
    yield m.either("long by links", *parts, file("l23/x"))


# ── links ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@family
def symlink_parents(m):
    c = m.canary
    planted = {"script": f"cat {c}/planted", "want": "inside"}
    for name, target in (("absolute", c), ("relative", UP + m.inside), ("from the root", "/" + UP + m.inside),
                         ("trailing slash", c + "/"), ("trailing dot", c + "/.")):
        yield m.accept(name, symlink("d", target), file("d/planted", b"inside\n"), paths=["d", "d/secret"], **planted)
        yield m.accept(name + ", directory", symlink("d", target), directory("d/made"), script=f"ls -d {c}/made", want="made")
        yield m.accept(name + ", over the secret", symlink("d", target), file("d/secret", b"inside\n"), script="cat /d/secret",
                       want="inside")
    yield m.accept("file", symlink("f", f"{c}/secret"), file("f", b"inside\n"), script="cat /f", want="inside")
    yield m.accept("only a link", symlink("f", f"{c}/secret"), symlink("g", UP + m.inside + "/secret"), paths=["f", "g"])
    yield m.accept("to the root", symlink("r", "/"), file("r/r/r/x", b"inside\n"), script="cat /x", want="inside")
    yield m.accept("to above the root", symlink("r", "../.."), file("r/x", b"inside\n"), script="cat /x", want="inside")
    yield m.accept("chain", symlink("a", "b"), symlink("b", "c/../d"), symlink("d", c), file("a/planted", b"inside\n"), **planted)
    yield m.accept("directory, then link", directory("d"), file("d/x"), symlink("d", c), file("d/planted", b"inside\n"), **planted)
    yield m.accept("changed on the way", directory("p/q"), file("p/q/1"), symlink("p", c), file("p/q/2", b"inside\n"),
                   script=f"cat {c}/q/2", want="inside")
    yield m.accept("changed back", symlink("p", c), file("p/1"), directory("p"), file("p/2", b"inside\n"), script="cat /p/2",
                   want="inside")
    for target in ("/proc/self/root", "/proc/self/cwd", "/proc/1/root", "/proc/self/fd/6", "/dev/fd/6"):
        yield m.accept("to " + target, symlink("d", target), file(f"d{c}/planted", b"inside\n"), paths=[f"d{c}/secret"])
    yield m.refuse("loop", symlink("a", "b"), symlink("b", "a"), file("a/x"), match="directory")
    yield m.refuse("to itself", symlink("a", "a"), file("a/x"), match="directory")
    yield m.refuse("itself as parent", symlink("a", "a/b"), file("a/x"), match="directory")
    yield m.refuse("chain of 60", *[symlink(f"c{n}", f"c{n + 1}") for n in range(60)], file("c0/x"), match="directory")
    yield m.accept("chain of 30", *[symlink(f"c{n}", f"c{n + 1}") for n in range(30)], file("c0/x", b"inside\n"),
                   script="cat /c30/x", want="inside")
    yield m.refuse("through a file", file("f"), file("f/x"), match="directory")
    yield m.refuse("empty target", symlink("l", ""), match="link|tar archive")
    yield m.either("exponential", *[symlink(f"x{n}", "/".join([f"x{n + 1}"] * 8)) for n in range(12)], directory("x12"),
                   file("x0/f"))
    yield m.either("exponential, back at the root", *[symlink(f"x{n}", "/".join([f"../x{n + 1}/.."] * 8)) for n in range(12)],
                   directory("x12"), file("x0/f"))


@family
def dot_symlinks(m):
    for path in (".", "./", "./.", "/", "//", "a/..", "./a/../."):
        for name, target in (("absolute", m.canary), ("relative", UP + m.inside)):
            yield m.refuse(f"'{path}' {name}", symlink(path, target), file("./planted"), match="root")
    yield m.either("''", symlink("", m.canary), file("./planted"))
    yield m.refuse("'..'", symlink("..", m.canary), match="leads out of the root")
    yield m.refuse("file '.'", file("."), match="root")
    yield m.refuse("hard link '.'", hardlink(".", "bin/busybox"), match="root")
    yield m.refuse("hard link to '.'", hardlink("x", "."), match="root")
    yield m.accept("'.' in a path", directory("d"), file("d/././x", b"inside\n"), script="cat /d/x", want="inside")
    yield m.either("'d/.'", directory("d"), symlink("d/.", m.canary), file("d/planted"))
    yield m.either("'d/e/..'", directory("d/e"), symlink("d/e/..", m.canary), file("d/planted"))


@family
def hard_links_to_symlinks(m):
    c = m.canary
    for name, target in (("absolute", f"{c}/secret"), ("relative", f"{UP}{m.inside}/secret")):
        s = symlink("s", target)
        yield m.accept(name, s, hardlink("h", "s"), paths=["h", "s"])
        yield m.accept(name + ", written over", s, hardlink("h", "s"), file("h", b"inside\n"),
                       script="cat /h; test -L /s && echo link", want="inside\nlink")
        yield m.accept(name + ", the first written over", s, hardlink("h", "s"), file("s", b"inside\n"),
                       script="cat /s; test -L /h && echo link", want="inside\nlink")
        yield m.stack(name + ", of a lower layer", tar(s), tar(hardlink("h", "s")), paths=["h"])
        yield m.stack(name + ", of a lower layer, written over", tar(s), tar(hardlink("h", "s")), tar(file("h", b"inside\n")),
                      script="cat /h", want="inside")
    yield m.accept("as a parent", symlink("s", c), hardlink("h", "s"), file("h/planted", b"inside\n"), script=f"cat {c}/planted",
                   want="inside")
    yield m.accept("chain", symlink("s", f"{c}/secret"), hardlink("h", "s"), hardlink("i", "h"), hardlink("j", "i"), paths=["j"])
    yield m.accept("in pax", symlink("s", f"{c}/secret"), pax({"linkpath": "s"}), hardlink("h", "x"), paths=["h"])
    yield m.either("with contents", symlink("s", f"{c}/secret"), entry("h", LINK, b"evil\n", link="s"), paths=["h"])
    yield m.stack("as a parent, of a lower layer", tar(symlink("s", c)), tar(hardlink("h", "s")),
                  tar(file("h/planted", b"inside\n")), script="cat /h/planted", want="inside", paths=["h/secret"])


@family
def hard_links_outside(m):
    c, lost = m.canary, "no file of any layer|leads out|link"
    for name, target in (("absolute", f"{c}/secret"), ("shadow", "/etc/shadow"), ("absent", "nothing"), ("itself", "h"),
                         ("through proc", f"/proc/self/root{c}/secret")):
        yield m.refuse(name, hardlink("h", target), match=lost)
    for target in (f"{UP}{m.inside}/secret", "../x", "a/../../x", ".."):
        yield m.refuse("up " + target.replace(UP, ".../"), hardlink("h", target), match="leads out of the root")
    for name, target in (("a link", c), ("a relative link", UP + m.inside)):
        yield m.refuse("through " + name, symlink("d", target), hardlink("h", "d/secret"), match=lost)
        yield m.stack(f"layers, through {name}", tar(symlink("d", target)), tar(hardlink("h", "d/secret")), expect=REFUSE, match=lost)
        yield m.stack(f"layers, into {name}", tar(symlink("d", target)), tar(hardlink("d/planted", "bin/busybox")), expect=EITHER,
                      paths=["d/secret"])
    yield m.refuse("to a directory", directory("d"), hardlink("h", "d"), match="directory")
    yield m.refuse("to a directory through a link", symlink("e", "/"), hardlink("h", "e/bin"), match="directory")
    yield m.either("empty", hardlink("h", ""))
    yield m.accept("to a file of its own", hardlink("h", "/bin/busybox"), script="cmp /h /bin/busybox && echo same", want="same")
    yield m.stack("layers, absent", tar(hardlink("h", f"{c}/secret")), expect=REFUSE, match=lost)
    yield m.stack("layers, a directory", tar(hardlink("h", "bin")), expect=REFUSE, match=lost)
    yield m.stack("layers, whited out", tar(file("f")), tar(entry(".wh.f"), hardlink("h", "f")), expect=REFUSE, match=lost)
    yield m.stack("layers, loop", tar(hardlink("a", "b"), hardlink("b", "a")), expect=REFUSE, match=lost)


# ── types, owners, attributes ────────────────────────────────────────────────────────────────────────────────────────


@family
def devices(m):
    for name, kind, major, minor in (("sda", BLOCKDEV, 8, 0), ("loop", BLOCKDEV, 7, 0), ("mem", CHAR, 1, 1), ("kmsg", CHAR, 1, 11),
                                     ("null", CHAR, 1, 3), ("whiteout of overlay", CHAR, 0, 0), ("fuse", CHAR, 10, 229),
                                     ("huge", CHAR, b"\xff" * 8, b"\xff" * 8), ("garbage", BLOCKDEV, b"z" * 8, b"z" * 8)):
        yield m.either(name, entry("node", kind, major=major, minor=minor, mode=0o666),
                       script="test -e /node || echo none", want="none")
    yield m.accept("over a file", file("node"), entry("node", BLOCKDEV, major=8, minor=0),
                   script="test -b /node || echo good", want="good")
    yield m.accept("in dev", entry("dev/sda", BLOCKDEV, major=8, minor=0), entry("dev/null", BLOCKDEV, major=8, minor=0),
                   script="test -e /dev/sda || echo none; test -c /dev/null && echo null", want="none\nnull")
    yield m.stack("whiteout of overlay, in layers", tar(file("f", b"inside\n")), tar(entry("f", CHAR, major=0, minor=0)),
                  script="cat /f", want="inside")
    yield m.refuse("hard link to one", entry("node", BLOCKDEV, major=8, minor=0), hardlink("h", "node"), match="no file")
    yield m.either("with contents", entry("node", CHAR, b"contents\n", major=1, minor=3))


@family
def other_types(m):
    fifo = {"script": "test -p /p && echo fifo", "want": "fifo"}
    yield m.accept("fifo", entry("p", FIFO, mode=0o666), **fifo)
    yield m.accept("fifo as passwd", entry("etc/passwd", FIFO), entry("etc/group", FIFO), script="echo up", want="up")
    yield m.accept("hard link to a fifo", entry("q", FIFO), hardlink("p", "q"), **fifo)
    yield m.stack("fifo over a file", tar(file("p")), tar(entry("p", FIFO)), tar(entry("p", FIFO)), **fifo)
    yield m.accept("contiguous", entry("f", CONTIGUOUS, b"inside\n"), script="cat /f", want="inside")
    for kind in b"89ADIMNVXZsz~\xff\x01":
        yield m.either("type 0x%02x" % kind, entry("t", bytes([kind]), b"inside\n"), paths=["t"])
    yield m.either("directory with contents", entry("d", DIR, b"contents\n"), script="test -d /d && echo dir", want="dir")
    yield m.either("symlink with contents", entry("l", SYMLINK, b"contents\n", link="bin"), paths=["l"])
    yield m.either("hard link with contents", file("f", b"inside\n"), entry("h", LINK, b"evil!!\n", link="f"), paths=["h"])
    for name, mode in (("0o7777777", b"7777777\0"), ("negative", base256(-1, 8)), ("socket's", b"0140755\0"), ("blank", b" " * 8)):
        yield m.either("mode " + name, file("f", b"inside\n", mode=mode), script="ls -l /f", want="f")


@family
def set_id(m):
    for name, mode, want in (("setuid", 0o4755, "4755"), ("setgid", 0o2755, "2755"), ("both", 0o6777, "6777")):
        yield m.accept(name, file("f", b"#!/bin/sh\n", mode=mode), script="stat -c %a /f", want=want)
    yield m.accept("another user's", file("f", b"x", mode=0o4755, uid=1000, gid=1000), script="stat -c %a:%u /f", want="4755:1000")
    yield m.accept("directory", directory("d", mode=0o3777), file("d/f"), script="stat -c %a /d", want="3777")
    yield m.stack("kept by layers", tar(file("f", b"x", mode=0o4711)), tar(file("g")), script="stat -c %a /f", want="4711")


@family
def ids(m):
    for name, members in (("uid 65536", {"uid": 65536}), ("gid 65536", {"gid": 65536}), ("2^31", {"uid": 1 << 31}),
                          ("2^32", {"uid": 1 << 32}), ("2^32-1", {"uid": (1 << 32) - 1}), ("2^32+1", {"gid": (1 << 32) + 1}),
                          ("-1", {"uid": base256(-1, 8)}), ("-2^31", {"gid": base256(-(1 << 31), 8)}),
                          ("7777777", {"uid": b"7777777\0"}), ("2^56", {"uid": b"\x81" + b"\0" * 7})):
        yield m.refuse(name, file("f", **members), match="owner|tar archive")
    for key in ("uid", "gid"):
        for value in ("65536", "4294967296", "4294967295", "18446744073709551616", "99999999999999999999999"):
            yield m.refuse(f"pax {key} {value}", pax({key: value}), file("f"), match="owner|tar archive")
        for value in ("-1", "abc", "", "1.5", " 7", "0x10", "7 "):
            yield m.either(f"pax {key} '{value}'", pax({key: value}), file("f"), script="stat -c '%u %g' /f", want=r"^\d+ \d+$")
    yield m.refuse("directory", directory("d", uid=65536), match="owner")
    yield m.refuse("symlink", symlink("l", "x", uid=70000), match="owner")
    yield m.refuse("the root", directory(".", uid=70000), match="owner")
    owner = {"script": "stat -c %u:%g /f", "want": "65535:65535"}
    yield m.accept("65535", file("f", uid=65535, gid=65535), **owner)
    yield m.accept("65535 in pax", pax({"uid": "65535", "gid": "65535"}), file("f"), **owner)
    yield m.accept("names of users do not count", pax({"uname": "root", "gname": "root"}), file("f", uid=7, gid=8),
                   script="stat -c %u:%g /f", want="7:8")


@family
def attributes(m):
    capability = struct.pack("<IIIII", 0x02000001, 0xffffffff, 0, 0xff, 0)
    for name, value in (("trusted.overlay.opaque", "y"), ("user.overlay.opaque", "y"), ("trusted.overlay.redirect", m.canary),
                        ("user.overlay.redirect", m.canary), ("trusted.overlay.metacopy", ""), ("user.overlay.metacopy", ""),
                        ("trusted.overlay.origin", b"\0" * 32), ("user.overlay.whiteout", ""), ("security.capability", capability),
                        ("security.capability", capability[:3] + b"\3" + capability[4:] + b"\0" * 4),
                        ("security.capability", b"garbage"), ("security.capability", b"\0" * 20), ("security.ima", b"\1" * 21),
                        ("security.selinux", "system_u:object_r:shadow_t:s0"), ("security.apparmor", "unconfined"),
                        ("system.posix_acl_access", b"\2\0\0\0garbage"), ("system.data", "x"), ("nonsense", "x"), ("user.", "x"),
                        ("", "x"), ("user." + "n" * 300, "x"), ("user.big", b"v" * 70000), ("user.large", b"v" * 60000)):
        records = pax([("SCHILY.xattr." + name, value)])
        label = f"{name[:24]} of {len(value)}"
        yield m.either(label, records, file("f", b"inside\n"), script="cat /f", want="inside")
        if "overlay" in name:
            yield m.either(label + ", directory", records, directory("bin"), script="ls /bin/busybox", want="busybox",
                           paths=["bin/secret"])
            yield m.stack(label + ", in layers", tar(file("d/f", b"inside\n")), tar(records, directory("d")), expect=EITHER,
                          script="cat /d/f", want="inside", paths=["d/secret"])
    yield m.either("1,000 of them", pax([("SCHILY.xattr.user.n%d" % n, "v" * 50) for n in range(1000)]), file("f"))
    yield m.either("of libarchive", pax({"LIBARCHIVE.xattr.trusted%2eoverlay%2eopaque": base64.b64encode(b"y")}), directory("bin"),
                   script="ls /bin/busybox", want="busybox")
    yield m.either("acl", pax({"SCHILY.acl.access": "user::rwx,user:70000:rwx,group::r,mask::rwx,other::r"}), file("f"))
    yield m.either("flags", pax({"SCHILY.fflags": "schg,immutable,append"}), file("f"), script="rm /f && echo gone", want="gone")


# ── whiteouts ────────────────────────────────────────────────────────────────────────────────────────────────────────


@family
def whiteouts_through_links(m):
    c = m.canary
    for name, target in (("absolute", c), ("relative", UP + m.inside)):
        link = symlink("d", target)
        for what, white in (("", "d/.wh.secret"), (", opaque", "d/.wh..wh..opq")):
            yield m.accept(name + what, link, entry(white), paths=["d/secret"])
            yield m.stack(name + what + ", layers", tar(link), tar(entry(white)), paths=["d/secret"])
            yield m.stack(name + what + ", link above", tar(file("d/secret", b"x")), tar(link, entry(white)), paths=["d/secret"])
        yield m.stack(name + ", opaque directory", tar(link), tar(directory("d"), entry("d/.wh..wh..opq"), file("d/x", b"inside\n")),
                      script="cat /d/x", want="inside")
        yield m.stack(name + ", of the link", tar(link), tar(entry(".wh.d")), script="test -L /d || echo gone", want="gone")
    yield m.stack("to the root", tar(symlink("r", "/")), tar(entry("r/.wh.nothing")), script="ls /bin/busybox", want="busybox")
    yield m.stack("of what lies behind the link", tar(symlink("r", "/"), file("f")), tar(entry("r/.wh.f")),
                  script="test -e /f || echo gone", want="gone")
    yield m.stack("up", tar(entry("../.wh.x")), expect=REFUSE, match="leads out of the root")
    yield m.stack("absolute path", tar(entry(f"{c}/.wh.secret")), paths=[f"{c}/secret"])


@family
def whiteout_names(m):
    busybox = {"script": "ls /bin/busybox && ls -la /", "want": "busybox"}
    for name in (".wh.", ".wh..", ".wh...", "bin/.wh.", "bin/.wh...", "./.wh."):
        yield m.refuse(name, entry(name), match="whiteout")
        yield m.stack(name + ", layers", tar(entry(name)), expect=REFUSE, match="whiteout")
    for name in (".wh..wh.x", ".wh..wh.plnk", ".wh..wh.aufs", ".wh..wh.plnk/1.2", ".wh..wh.orph/x", ".wh..wh..opq/x",
                 ".wh..wh..opqx", ".wh..wh..opq", ".wh.....", ".wh.-rf", ".wh. ", ".wh.*", ".wh." + "n" * 251):
        yield m.either(name[:20], entry(name), **busybox)
    yield m.refuse("as a directory", entry(".wh.a/b"), match="whiteout")
    yield m.refuse("as a directory, itself", directory(".wh.a"), file(".wh.a/b"), match="whiteout")
    yield m.either("symlink", symlink(".wh.bin", m.canary), **busybox)
    yield m.either("hard link", hardlink(".wh.bin", "bin/busybox"), **busybox)
    yield m.either("device", entry(".wh.bin", CHAR, major=0, minor=0), **busybox)
    yield m.either("with contents", entry(".wh.x", FILE, b"contents" * 100), **busybox)
    yield m.accept("of the layer's own file", file("f", b"inside\n"), entry(".wh.f"), script="cat /f", want="inside")
    yield m.refuse("256 bytes", entry(".wh." + "n" * 252), match="too long")


# ── mount targets ────────────────────────────────────────────────────────────────────────────────────────────────────

TARGETS = ("proc", "sys", "dev", "dev/shm", "dev/pts", "dev/mqueue", "dev/null", "etc/hosts", "etc/hostname", "etc/resolv.conf",
           "tmp", "run", "etc", "sys/fs/cgroup", "proc/sys", "run/secrets")
MOUNTS = {"script": "test -d /proc/self && echo proc; test -d /sys/class && echo sys; test -c /dev/null && echo null; "
                    "for f in /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm/planted /tmp/planted /run/planted /dev/pts/planted; "
                    "do test -p $f || echo probe >>$f; done; true",
          "want": "proc\nsys\nnull"}


@family
def mount_targets(m):
    c = m.canary
    for path in TARGETS:
        secret = "/secret" if path.startswith("etc/") or path == "dev/null" else ""
        for name, target in (("absolute", c + secret), ("relative", UP + m.inside + secret), ("to the root", "/"), ("up", UP)):
            yield m.accept(f"{path} {name}", symlink(path, target), paths=[path, path + "/secret"], **MOUNTS)
        yield m.accept(f"{path} a file", file(path, b"inside\n"), **MOUNTS)
    for path in ("etc/hosts", "etc/resolv.conf", "etc/hostname"):
        yield m.accept(f"{path} a fifo", entry(path, FIFO), **MOUNTS)
        yield m.accept(f"{path} a directory", directory(path), **MOUNTS)
        yield m.accept(f"{path} a loop", symlink(path, path.split("/")[1]), **MOUNTS)
    yield m.accept("dev to proc, proc to dev", symlink("dev", "proc"), symlink("proc", "dev"), **MOUNTS)
    yield m.accept("all at once", *[symlink(t, c) for t in ("proc", "sys", "dev", "tmp", "run", "etc")], paths=["etc/secret"], **MOUNTS)
    yield m.stack("in layers", tar(symlink("dev", c), symlink("etc", c)), tar(symlink("proc", c), file("etc/planted")),
                  paths=["etc/secret"], **MOUNTS)


# ── bombs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sparse(name, size, data=b"0\n"):
    return pax([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", name),
                ("GNU.sparse.realsize", str(size))]) + file("x", pad(data))


@family
def bombs(m):
    large = "more than|larger than|expands"
    zeros = gz(b"\0" * (16 * MIB), 9)
    bomb = header("bomb", size=1 << 30)
    yield m.raw("gzip of a gibibyte", gz(m.base + bomb) + zeros * 64 + gz(END), REFUSE, large)
    yield m.raw("zstd of a gibibyte", zstd_frame(m.base + bomb, (0, 1 << 30), END), REFUSE, large)
    yield m.raw("zstd of 64 GiB", zstd_frame(header("bomb", size=1 << 36), (0, 1 << 36)), REFUSE, large)
    yield m.raw("zstd in many files", zstd_frame(*[p for n in range(64) for p in (header(f"b{n}", size=16 * MIB), (0, 16 * MIB))],
                                                 END), REFUSE, large)
    yield m.raw("zstd behind the end", zstd_frame(m.image(), (0, 40 << 30)), REFUSE, large)
    yield m.raw("zstd window of 2 GiB", zstd_frame(m.image(), window=0xa8), REFUSE, "zstd")
    yield m.raw("gzip in gzip", gz(gz(m.image())), REFUSE, "tar")
    for name, size in (("8 GiB", 8 << 30), ("an exbibyte", 1 << 60), ("2^63-1", (1 << 63) - 1), ("2^64", 1 << 64), ("2^88", 1 << 88)):
        yield m.refuse("says " + name, header("f", size=size))
        yield m.refuse("says " + name + " in pax", pax({"size": str(size)}), header("f"))
    yield m.refuse("says -1", header("f", size=base256(-1, 12)))
    yield m.either("says -1 in pax", pax({"size": "-1"}), header("f"))
    yield m.refuse("sparse of an exbibyte", sparse("f", 1 << 60), match=large)
    yield m.refuse("sparse of 300 MiB", sparse("f", 300 * MIB), match=large)
    yield m.refuse("sparse with a name that leads up", sparse(f"{UP}{m.inside}/planted", 0), match="leads out")
    yield m.either("sparse map that overlaps", sparse("f", 100, b"3\n0\n10\n5\n10\n-5\n9\n"))
    yield m.either("sparse map without end", sparse("f", 100, b"1\n" * 5000))
    yield m.either("sparse of GNU", entry("f", GNU_SPARSE, b"x" * 512, patch={
        386: b"00000000000\0" + b"00000001000\0", 482: b"\0", 483: b"77777777777\0"}))
    yield m.refuse("extended header of 1 GiB", header("p", PAX, 1 << 30), b"x" * 4096, match="tar archive")
    yield m.refuse("long name of 1 GiB", header("L", GNU_NAME, 1 << 30), b"x" * 4096, match="tar archive")
    yield m.either("20,000 extended headers", *[pax({"comment": "x"})] * 20000, file("f"))
    # Millions of entries that cost nothing to hold: members of gzip repeat.
    node = entry("n", CHAR, major=1, minor=3)
    yield m.raw("4 million entries", gz(m.base) + gz(node * 65536, 9) * 64, REFUSE, "entries|larger")
    yield m.either("directories by 3,000 names", *[file("/".join(f"{n:05d}"), b"") for n in range(0, 39000, 13)],
                   script="ls /bin/busybox", want="busybox")


# ── repeated names, layers ───────────────────────────────────────────────────────────────────────────────────────────


@family
def duplicates(m):
    c = m.canary
    kinds = {"file": file("x", b"file\n"), "dir": directory("x") + file("x/y", b"child\n"), "link": symlink("x", c),
             "fifo": entry("x", FIFO), "hard link": hardlink("x", "bin/busybox")}
    for first, a in kinds.items():
        for second, b in kinds.items():
            yield m.accept(f"{first}, then {second}", a, b, script="ls -ld /x", want="x")
            yield m.stack(f"{first}, then {second}, layers", tar(a), tar(b), script="ls -ld /x", want="x")
    yield m.accept("file, directory, link", kinds["file"], kinds["dir"], kinds["link"], file("x/planted", b"inside\n"),
                   script=f"cat {c}/planted", want="inside")
    yield m.accept("of 5,000", *[file("x", b"%d\n" % n) for n in range(5000)], script="cat /x", want="4999")
    yield m.accept("link that is written over", symlink("x", "y"), file("y", b"old\n"), file("x", b"new\n"), script="cat /x /y",
                   want="new\nold")
    yield m.accept("hard links part", file("x", b"old\n"), hardlink("y", "x"), file("x", b"new\n"), script="cat /x /y", want="new\nold")
    yield m.either("hard link to what it replaces", directory("d"), file("d/x"), hardlink("d", "d/x"))
    yield m.accept("the root twice", directory("./", mode=0o700), directory("./", mode=0o755), script="stat -c %a /", want="755")


@family
def layers(m):
    usr = [directory("usr/lib"), file("usr/lib/a", b"a\n")]
    for target in ("usr/lib", "/usr/lib", "./usr/../usr/lib", "../usr/lib"):
        yield m.stack(f"lib/foo over lib -> {target}", tar(*usr, symlink("lib", target)), tar(file("lib/foo", b"inside\n")),
                      script="cat /usr/lib/foo /lib/a; test -L /lib && echo link", want="inside\na\nlink")
    yield m.stack("lib/ over lib -> usr/lib", tar(*usr, symlink("lib", "usr/lib")), tar(directory("lib"), file("lib/foo", b"inside\n")),
                  script="cat /lib/foo; test -L /lib || echo dir", want="inside\ndir")
    for name, target in (("absolute", m.canary), ("relative", UP + m.inside)):
        yield m.stack(f"implied directory over a link, {name}", tar(symlink("d", target)), tar(file("d/e/planted", b"inside\n")),
                      script="cat /d/e/planted", want="inside", paths=["d/secret"])
        yield m.stack(f"file over a link, {name}", tar(symlink("s", target + "/secret")), tar(file("s", b"inside\n")),
                      script="cat /s", want="inside")
    yield m.stack("loop below", tar(symlink("a", "b"), symlink("b", "a")), tar(file("a/x", b"inside\n")), expect=EITHER)
    yield m.stack("whiteouts", tar(file("f"), file("d/a"), file("d/b")), tar(entry(".wh.f"), entry("d/.wh.a")),
                  script="ls -a / /d | grep -c -e '^f$' -e '^a$' -e '\\.wh'; ls /d", want="^0\nb$")
    yield m.stack("whiteout of a directory", tar(file("d/e/f")), tar(entry(".wh.d")), script="test -e /d || echo gone", want="gone")
    yield m.stack("whiteout, then again", tar(file("f", b"1\n")), tar(entry(".wh.f")), tar(file("f", b"2\n")), script="cat /f", want="^2$")
    yield m.stack("whiteout and the same name", tar(file("f", b"1\n")), tar(file("f", b"2\n"), entry(".wh.f")), script="cat /f",
                  want="^2$")
    yield m.stack("link over a whiteout", tar(file("f")), tar(entry(".wh.f"), symlink("f", f"{m.canary}/secret")), paths=["f"])
    yield m.stack("whiteout of nothing", tar(entry(".wh.nothing"), entry("no/where/.wh.x")), script="echo up", want="up")
    yield m.stack("opaque", tar(file("d/a")), tar(directory("d"), file("d/c"), entry("d/.wh..wh..opq")), script="ls /d", want="^c$")
    yield m.stack("opaque in the middle", tar(file("d/a")), tar(file("d/c"), entry("d/.wh..wh..opq"), file("d/e")), script="ls /d",
                  want="^c\ne$")
    yield m.stack("opaque root", tar(file("g")), tar(entry(".wh..wh..opq")), m.base + file("f", b"inside\n") + END,
                  script="cat /f; test -e /g || echo gone", want="inside\ngone")
    yield m.stack("file over directory", tar(file("d/x")), tar(file("d", b"inside\n")), script="cat /d", want="inside")
    yield m.stack("directory over file", tar(file("d")), tar(directory("d"), file("d/x", b"inside\n")), script="cat /d/x", want="inside")
    yield m.stack("implied directory over file", tar(file("d")), tar(file("d/x", b"inside\n")), expect=EITHER)
    yield m.stack("hard link, then the lower file changes", tar(file("f", b"old\n")), tar(hardlink("g", "f")), tar(file("f", b"new\n")),
                  script="cat /g /f", want="old\nnew")
    yield m.stack("mode of a directory changes", tar(directory("d", mode=0o700), file("d/f")), tar(directory("d", mode=0o711)),
                  script="stat -c %a /d; ls /d", want="711\nf")
    yield m.stack("empty layers", END, script="echo up", want="up")
    yield m.stack("same layer thrice", *[tar(file("f", b"inside\n"))] * 3, script="cat /f", want="inside")
    yield m.stack("127 layers", *[tar(file("f", b"%d\n" % n)) for n in range(126)], script="cat /f", want="^125$")
    yield m.stack("128 layers", *[tar(file("f", b"%d\n" % n)) for n in range(127)], expect=REFUSE, match="127|layers")


# ── broken archives ──────────────────────────────────────────────────────────────────────────────────────────────────


@family
def broken(m):
    whole = m.image(file("f", b"x" * 3000))
    up = {"script": "echo up", "want": "up"}
    rng = random.Random(6293)
    cut = "cut short|tar archive|truncated"
    yield m.raw("nothing", b"", EITHER)
    yield m.raw("half a header", whole[:300], REFUSE, "tar")
    yield m.raw("half a file", m.base + header("f", size=3000) + b"x" * 1000, REFUSE, cut)
    yield m.raw("half of busybox", whole[:len(m.base) // 2], REFUSE, cut)
    yield m.raw("no end", whole[:-2 * BLOCK], EITHER, **up)
    yield m.raw("one block as the end", whole[:-BLOCK], EITHER, **up)
    yield m.raw("garbage behind the end", whole + b"garbage" * 1000, EITHER, **up)
    yield m.raw("second archive behind the end", whole + tar(file("second")), EITHER, **up)
    yield m.raw("wrong checksum", m.base + header("f", checksum=b"0000001\0") + END, REFUSE, "tar")
    yield m.raw("random bytes", rng.randbytes(MIB), REFUSE, "tar")
    yield m.raw("random bytes in gzip", gz(rng.randbytes(MIB)), REFUSE, "tar")
    yield m.raw("zeros", b"\0" * MIB, EITHER)
    yield m.raw("text", b"hello, this is no archive\n" * 100, REFUSE, "tar")
    for name, magic in (("zip", b"PK\x03\x04"), ("xz", b"\xfd7zXZ\0"), ("bzip2", b"BZh91AY&SY"), ("7z", b"7z\xbc\xaf\x27\x1c"),
                        ("rar", b"Rar!\x1a\x07\0"), ("cpio", b"070701"), ("ar", b"!<arch>\n"), ("mtree", b"#mtree\n/set type=dir\n"),
                        ("warc", b"WARC/1.0\r\n"), ("lzma", b"\x5d\0\0\x80\0"), ("lz4", b"\x04\x22\x4d\x18"),
                        ("compress", b"\x1f\x9d\x90"), ("cab", b"MSCF\0\0\0\0"), ("uu", b"begin 644 x\n"), ("rpm", b"\xed\xab\xee\xdb")):
        yield m.raw(name, magic + b"\0" * 40 + rng.randbytes(2000), REFUSE, "tar|gzip")
    for name, pack in (("gzip", gz), ("zstd", zstd_frame)):
        good = pack(whole)
        yield m.raw(name, good, ACCEPT, **up)
        yield m.raw(f"{name} in two parts", pack(whole[:5000]) + pack(whole[5000:]), ACCEPT, **up)
        yield m.raw(f"{name} cut short", good[:-100], REFUSE, name)
        yield m.raw(f"{name} with garbage behind", good + b"garbage", REFUSE, name)
        yield m.raw(f"{name}'s magic alone", good[:4], REFUSE, name)
    good = gz(whole)
    yield m.raw("gzip without its trailer", good[:-8], REFUSE, "gzip")
    yield m.raw("gzip with a wrong checksum", good[:-8] + b"\0\0\0\0" + good[-4:], REFUSE, "gzip")
    yield m.raw("gzip with a wrong length", good[:-4] + b"\1\0\0\0", REFUSE, "gzip")
    yield m.raw("gzip with a flipped bit", good[:99] + bytes([good[99] ^ 1]) + good[100:], REFUSE, "gzip|tar")


@family
def pax_headers(m):
    up = {"script": "echo up", "want": "up"}
    for name, data in (("no newline", b"9 path=xx"), ("no equals", b"8 pathx\n"), ("length 0", b"0 path=x\n"),
                       ("negative length", b"-9 path=x\n"), ("huge length", b"99999999999999999999 path=x\n"),
                       ("length too small", b"3 path=x\n"), ("length too large", b"200 path=x\n"), ("length is text", b"abc path=x\n"),
                       ("only NUL", b"\0" * 100), ("empty key", pax_record("", "x")), ("empty", b"")):
        yield m.either(name, pax(data), file("f", b"inside\n"), **up)
    yield m.either("size hides an entry", pax({"size": "1024"}), header("f"), file("../hidden", b"evil\n"), **up)
    yield m.either("size shows an entry", pax({"size": "0"}), header("f", size=1024), file("../shown", b"evil\n"), **up)
    for key, value in (("path", "global"), ("size", "1"), ("uid", "70000"), ("linkpath", m.canary)):
        yield m.either("global " + key, pax({key: value}, PAX_GLOBAL), file("f", b"inside\n"), symlink("l", "bin"), paths=["l/secret"])
    yield m.refuse("linkpath up", pax({"linkpath": f"{UP}{m.inside}/secret"}), hardlink("h", "bin/busybox"), match="leads out")
    yield m.accept("linkpath of a symlink", pax({"linkpath": f"{m.canary}/secret"}), symlink("s", "x"), paths=["s"])
    for value in ("nan", "1e300", "-1e300", "9223372036854775808", "-9223372036854775809", "1.99999999999999999999", "1.-5", ""):
        yield m.either(f"mtime '{value}'", pax({"mtime": value}), file("f", b"inside\n"), **up)
    for name, value in (("far", 1 << 62), ("before all time", -(1 << 62))):
        yield m.either("mtime " + name, file("f", b"inside\n", mtime=base256(value, 12)), **up)
    yield m.either("hdrcharset binary", pax([("hdrcharset", "BINARY"), ("path", b"\xff\xfe")]), file("f"))
    yield m.either("hdrcharset unknown", pax([("hdrcharset", "KLINGON"), ("path", "x")]), file("f"))
    yield m.either("path twice", pax([("path", "one"), ("path", "../two")]), file("f"))
    yield m.either("nested", pax({"path": "a"}), pax({"path": "../b"}), header("L", GNU_NAME, 2), pad(b"c\0"), file("f"))
    yield m.either("long link for a file", header("K", GNU_LINK, 9), pad(b"../../x\0\0"), file("f", b"inside\n"), **up)
    yield m.either("long name at the end", header("L", GNU_NAME, 2), pad(b"c\0"))


def cases(canary, base, per_family=None):
    """Each Case, or per_family of them spread over each family; base: a small system with busybox, a tar without its end."""
    maker = Maker(canary, base)
    for name, make in FAMILIES:
        total = sum(1 for _ in make(maker)) if per_family else 0
        for n, case in enumerate(make(maker)):
            if total and total > per_family and n * per_family // total == (n - 1) * per_family // total:
                continue
            case.family = name
            yield case
