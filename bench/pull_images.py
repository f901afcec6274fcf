"""Images to pull, as OCI layouts: files of this machine, their bytes permuted, so that they compress as real ones do."""

import hashlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import tarfile

import mayfly

MB = 1_000_000
SOURCES = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/include")
LARGEST_FILE = 24 * MB
OCI = "application/vnd.oci.image."
COMPRESSIONS = {"gzip": ["gzip", "-6", "-n", "-c"], "zstd": ["zstd", "-3", "-q", "-c"]}
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


class Files:
    """The machine's files in an order that depends on their names only; again from the first when all were taken."""

    def __init__(self):
        paths = []
        for source in SOURCES:
            for top, dirs, names in os.walk(source):
                dirs.sort()
                # Neighbours stay together, as packages put them.
                paths.append([os.path.join(top, n) for n in sorted(names)])
        random.Random(1).shuffle(paths)
        self.paths = [p for group in paths for p in group]
        self.at = self.taken = 0

    def next(self):
        """(name, mode, contents or None, target of a link or None); what is neither file nor link, or too large, is passed over."""
        while True:
            path = self.paths[self.at % len(self.paths)]
            self.at += 1
            try:
                st = os.lstat(path)
                if stat.S_ISLNK(st.st_mode):
                    return path, 0o777, None, os.readlink(path)
                if not stat.S_ISREG(st.st_mode) or st.st_size > LARGEST_FILE:
                    continue
                with open(path, "rb") as f:
                    return path, stat.S_IMODE(st.st_mode), f.read(), None
            except OSError:
                continue


def permutation(seed):
    table = list(range(256))
    random.Random(seed).shuffle(table)
    return bytes(table)


class Layer:
    """An uncompressed tar of about `size` bytes in a file, and what it hashes to."""

    def __init__(self, path, size, files, seed, first=None):
        self.path, self.entries = path, 0
        table, known, got = permutation(seed), set(), 0
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            if first:
                with tarfile.open(fileobj=io.BytesIO(first)) as busybox:
                    for member in busybox:
                        tar.addfile(member, busybox.extractfile(member))
                        self.entries += 1
            while got < size:
                name, mode, data, target = files.next()
                name = f"data/{seed}{name}"
                if name in known:
                    name += f".{len(known)}"
                known.add(name)
                self.parents(tar, name, known)
                info = tarfile.TarInfo(name)
                info.mode, info.mtime = mode, 1700000000
                if target is not None:
                    info.type, info.linkname = tarfile.SYMTYPE, target
                    tar.addfile(info)
                else:
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data.translate(table)))
                    got += len(data)
                got += 512
                self.entries += 1
        self.size = os.path.getsize(path)
        with open(path, "rb") as f:
            self.diff_id = "sha256:" + digest(f)

    def parents(self, tar, name, known):
        parts = name.split("/")
        for i in range(1, len(parts)):
            parent = "/".join(parts[:i])
            if parent not in known:
                known.add(parent)
                info = tarfile.TarInfo(parent)
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1700000000
                tar.addfile(info)
                self.entries += 1


def digest(f):
    h = hashlib.sha256()
    while data := f.read(1 << 20):
        h.update(data)
    return h.hexdigest()


class Image:
    """One image in the layout `directory`, by `tag`: the layers compressed one way."""

    def __init__(self, directory, tag, layers, compression):
        self.directory, self.tag, self.compression = directory, tag, compression
        self.blobs = os.path.join(directory, "blobs", "sha256")
        os.makedirs(self.blobs, exist_ok=True)
        self.unpacked = sum(layer.size for layer in layers)
        self.entries = sum(layer.entries for layer in layers)
        parts = [self.compress(layer) for layer in layers]
        self.packed = sum(p["size"] for p in parts)
        config = {"architecture": MACHINE, "os": "linux", "config": {"Cmd": ["/bin/true"], "Env": ["PATH=/bin"]},
                  "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}, "history": []}
        manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "layers": parts,
                    "config": self.put(json.dumps(config).encode(), OCI + "config.v1+json")}
        self.index(self.put(json.dumps(manifest).encode(), OCI + "manifest.v1+json"))

    def put(self, data, media):
        name = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.blobs, name), "wb") as f:
            f.write(data)
        return {"mediaType": media, "digest": "sha256:" + name, "size": len(data)}

    def compress(self, layer):
        incoming = os.path.join(self.directory, "incoming")
        with open(layer.path, "rb") as source, open(incoming, "w+b") as f:
            subprocess.run(COMPRESSIONS[self.compression], stdin=source, stdout=f, check=True)
            f.seek(0)
            name = digest(f)
        size = os.path.getsize(incoming)
        os.rename(incoming, os.path.join(self.blobs, name))
        return {"mediaType": f"{OCI}layer.v1.tar+{self.compression}", "digest": "sha256:" + name, "size": size}

    def index(self, manifest):
        with open(os.path.join(self.directory, "oci-layout"), "w", encoding="ascii") as f:
            f.write('{"imageLayoutVersion":"1.0.0"}')
        manifest["annotations"] = {"org.opencontainers.image.ref.name": self.tag}
        with open(os.path.join(self.directory, "index.json"), "w", encoding="ascii") as f:
            json.dump({"schemaVersion": 2, "manifests": [manifest]}, f)


def make(directory, shapes):
    """{shape: (number of layers, bytes of each)} becomes {(shape, compression): Image}, each in a layout of its own."""
    for program in ("gzip", "zstd"):
        if not shutil.which(program):
            raise mayfly.Skip(f"no {program} here")
    files, images, seed = Files(), {}, 0
    busybox = mayfly.busybox().bytes()
    for shape, (count, size) in shapes.items():
        layers = []
        for i in range(count):
            seed += 1
            layers.append(Layer(os.path.join(directory, f"{shape}-{i}.tar"), size, files, seed, None if i else busybox))
        for compression in COMPRESSIONS:
            images[shape, compression] = Image(os.path.join(directory, f"{shape}-{compression}"), "1", layers, compression)
        for layer in layers:
            os.unlink(layer.path)
    return images
