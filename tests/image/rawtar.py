"""Writes tar, zstd and image archives byte by byte, so that what no archiver would write can be written, too."""

import gzip
import hashlib
import json
import platform
import struct

BLOCK = 512
END = b"\0" * (2 * BLOCK)
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

FILE, LINK, SYMLINK, CHAR, BLOCKDEV, DIR, FIFO, CONTIGUOUS = b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"
PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK, GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"


def to_bytes(s):
    return s if isinstance(s, bytes) else s.encode("utf-8", "surrogateescape")


def pad(data):
    return data + b"\0" * (-len(data) % BLOCK)


def octal(n, width):
    return b"%0*o\0" % (width - 1, n)


def base256(n, width):
    """GNU's binary form: what octal digits cannot hold, negative numbers too."""
    raw = (n & ((1 << (8 * width)) - 1)).to_bytes(width, "big")
    return bytes([raw[0] | 0x80]) + raw[1:]


def number(n, width):
    return n if isinstance(n, bytes) else octal(n, width) if 0 <= n < 8 ** (width - 1) else base256(n, width)


def header(name, kind=FILE, size=0, mode=0o644, uid=0, gid=0, mtime=1700000000, link=b"", major=0, minor=0, prefix=b"",
           magic=b"ustar\x0000", patch=None, checksum=None):
    """One block. Numbers may be bytes, written as they are; patch: {offset: bytes} before the checksum is taken."""
    h = bytearray(BLOCK)

    def put(offset, width, value):
        value = to_bytes(value)[:width]
        h[offset:offset + len(value)] = value

    put(0, 100, name)
    put(100, 8, number(mode, 8))
    put(108, 8, number(uid, 8))
    put(116, 8, number(gid, 8))
    put(124, 12, number(size, 12))
    put(136, 12, number(mtime, 12))
    put(156, 1, kind)
    put(157, 100, link)
    put(257, 8, magic)
    put(329, 8, number(major, 8))
    put(337, 8, number(minor, 8))
    put(345, 155, prefix)
    for offset, value in (patch or {}).items():
        h[offset:offset + len(value)] = value
    h[148:156] = b" " * 8
    h[148:156] = checksum if checksum is not None else b"%06o\0 " % sum(h)
    return bytes(h)


def pax_record(key, value):
    key, value = to_bytes(key), to_bytes(value)
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length = len(str(length)) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def pax(records, kind=PAX, name="pax"):
    """Extended header; records: a dict, pairs, or bytes written as they are."""
    if isinstance(records, dict):
        records = records.items()
    data = records if isinstance(records, bytes) else b"".join(pax_record(k, v) for k, v in records)
    return header(name, kind, len(data)) + pad(data)


def entry(name, kind=FILE, data=b"", link=b"", records=None, **members):
    """An entry with what its names need before it (GNU's long names) and an extended header, if any."""
    name, link, data = to_bytes(name), to_bytes(link), to_bytes(data)
    out = b""
    for text, long in ((name, GNU_NAME), (link, GNU_LINK)):
        if len(text) > 100:
            out += header("././@LongLink", long, len(text) + 1) + pad(text + b"\0")
    if records is not None:
        out += pax(records)
    members.setdefault("size", len(data))
    members.setdefault("mode", 0o755 if kind == DIR else 0o644)
    return out + header(name, kind, link=link, **members) + pad(data)


def file(name, data=b"x\n", **members):
    return entry(name, FILE, data, **members)


def directory(name, **members):
    return entry(name, DIR, **members)


def symlink(name, target, **members):
    return entry(name, SYMLINK, link=target, mode=0o777, **members)


def hardlink(name, target, **members):
    return entry(name, LINK, link=target, **members)


def tar(*entries):
    return b"".join(entries) + END


def gz(data, level=1):
    return gzip.compress(data, level, mtime=0)


# ── zstd (RFC 8878), by raw and run-length blocks ────────────────────────────────────────────────────────────────────

ZSTD_BLOCK = 128 << 10


def zstd_frame(*parts, window=0x38):
    """parts: bytes, or (byte, count) for a run. window: the descriptor's byte; 0x38 is 128 KiB."""
    blocks = []
    for part in parts:
        if isinstance(part, tuple):
            byte, count = part
            while count > 0:
                n = min(count, ZSTD_BLOCK)
                blocks.append((1, n, bytes([byte])))
                count -= n
        else:
            blocks += [(0, len(part[i:i + ZSTD_BLOCK]), part[i:i + ZSTD_BLOCK]) for i in range(0, len(part), ZSTD_BLOCK)]
    out = [b"\x28\xb5\x2f\xfd\x00", bytes([window])]
    for i, (kind, size, data) in enumerate(blocks):
        out.append(struct.pack("<I", size << 3 | kind << 1 | (i == len(blocks) - 1))[:3] + data)
    return b"".join(out)


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────────

OCI = "application/vnd.oci.image."
OCI_INDEX, OCI_MANIFEST, OCI_CONFIG = OCI + "index.v1+json", OCI + "manifest.v1+json", OCI + "config.v1+json"
OCI_LAYER = OCI + "layer.v1.tar"


def hexdigest(data):
    return hashlib.sha256(data).hexdigest()


def digest(data):
    return "sha256:" + hexdigest(data)


def dump(value):
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def config(layers, diff_ids=None, arch=ARCH, process=None, **members):
    ids = [digest(layer) for layer in layers] if diff_ids is None else diff_ids
    return {"architecture": arch, "os": "linux", "config": {} if process is None else process,
            "rootfs": {"type": "layers", "diff_ids": ids}, **members}


def saved(layers, tags=("hostile:load",), conf=None, old=False, extra=b"", manifest=None, packed=None, config_name=None,
          layer_names=None):
    """What `docker save` writes: of today (blobs/sha256/…) or old (<id>/layer.tar). packed: the layers as stored."""
    conf = dump(config(layers) if conf is None else conf)
    packed = layers if packed is None else packed
    if layer_names is None:
        layer_names = [f"{hexdigest(p + b'id')}/layer.tar" if old else f"blobs/sha256/{hexdigest(p)}" for p in packed]
    if config_name is None:
        config_name = f"{hexdigest(conf)}.json" if old else f"blobs/sha256/{hexdigest(conf)}"
    if manifest is None:
        manifest = [{"Config": config_name, "RepoTags": None if tags is None else list(tags), "Layers": layer_names}]
    entries, seen = [file(config_name, conf)], set()
    for name, data in zip(layer_names, packed):
        if name not in seen:
            entries.append(file(name, data))
            seen.add(name)
    return tar(*entries, extra, file("manifest.json", dump(manifest)))


class Layout:
    """An OCI image layout in a tar. Blobs are named by their digests unless a name is given."""

    def __init__(self):
        self.entries = [file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
        self.seen = set()

    def blob(self, data, media, name=None, **members):
        """Adds it and answers its descriptor; members override the descriptor's."""
        data = dump(data)
        name = name or f"blobs/sha256/{hexdigest(data)}"
        if name not in self.seen:
            self.seen.add(name)
            self.entries.append(file(name, data))
        return {"mediaType": media, "digest": digest(data), "size": len(data), **members}

    def manifest(self, layers, conf=None, media=OCI_LAYER, **members):
        return self.blob({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
                          "config": self.blob(config(layers) if conf is None else conf, OCI_CONFIG),
                          "layers": [self.blob(layer, media) for layer in layers], **members}, OCI_MANIFEST)

    def nested(self, descriptors, **members):
        return self.blob({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors, **members}, OCI_INDEX)

    def finish(self, descriptors, name="hostile:load", **members):
        for d in descriptors:
            if name:
                d.setdefault("annotations", {})["io.containerd.image.name"] = name
        return self.raw({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors, **members})

    def raw(self, index):
        return tar(*self.entries, file("index.json", dump(index)))
