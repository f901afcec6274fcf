"""Hostile archives for `load`: against what describes an image. A lying manifest.json, index, manifest or configuration."""

import json

from hostile import ACCEPT, EITHER, MIB, REFUSE, UP, family
from rawtar import (ARCH, CHAR, DIR, END, FIFO, LINK, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, SYMLINK, Layout, config,
                    digest, dump, entry, file, gz, header, hexdigest, saved, symlink, tar, zstd_frame)

RUNS = {"script": "echo up", "want": "up"}
OTHER = "0" * 64


@family
def load_paths(m):
    c, base = m.canary, m.base_layer
    conf = dump(config([base]))
    away = "not in the archive|leads out|sensible|too long|manifest.json|Layers"

    def archive(*parts, conf_name="c.json", layer_name="l.tar"):
        return tar(*parts, file("manifest.json", dump([{"Config": conf_name, "RepoTags": ["hostile:load"], "Layers": [layer_name]}])))

    both = [file("c.json", conf), file("l.tar", base)]
    for name in (f"{c}/config.json", f"{UP}{m.inside}/config.json", "../config.json", "/etc/passwd", "/proc/self/environ", "", ".",
                 "..", "blobs", "blobs/sha256/../../../x", "a\0b", "x" * 5000, "a" + "\u00e9" * 200, "\x1b[31mred"):
        label = name.replace(UP, ".../")[:40]
        yield m.load(f"Config '{label}'", archive(*both, conf_name=name), match=away)
        yield m.load(f"layer '{label}'", archive(*both, layer_name=name), match=away)
    for what, kind, target in (("symlink", SYMLINK, f"{c}/config.json"), ("relative symlink", SYMLINK, f"{UP}{m.inside}/config.json"),
                               ("hard link", LINK, f"{c}/config.json"), ("loop", SYMLINK, "me"), ("directory", DIR, ""),
                               ("fifo", FIFO, ""), ("device", CHAR, "")):
        for part, name in (("configuration", "c.json"), ("layer", "l.tar"), ("manifest.json", "manifest.json")):
            evil = entry(name, kind, link=target.replace("me", name))
            rest = [e for e, n in zip(both, ("c.json", "l.tar")) if n != name]
            data = tar(evil, *rest) if name == "manifest.json" else archive(evil, *rest)
            yield m.load(f"{part} is a {what}", data, match=away + "|no archive of images")
    yield m.load("layer by a link that stays inside", archive(file("c.json", conf), file("a/l.tar", base), symlink("b/l", "../a/l.tar"),
                                                              layer_name="b/l"), ACCEPT, **RUNS)
    yield m.load("name out of the archive", archive(*both, file("../x")), match="leads out")
    yield m.load("manifest.json twice", archive(*both, file("manifest.json", b"[]")), EITHER, **RUNS)


@family
def load_digests(m):
    base, more = m.base_layer, tar(file("f"))
    conf = dump(config([base]))
    yield m.load("name of the configuration lies", saved([base], conf=conf, config_name=f"blobs/sha256/{OTHER}"), match="digest")
    yield m.load("old name of the configuration lies", saved([base], conf=conf, config_name=f"{OTHER}.json", old=True), EITHER)
    yield m.load("name of the layer lies", saved([base], conf=conf, layer_names=[f"blobs/sha256/{OTHER}"]), match="digest")
    for what, stored, diff_ids in (("lies", [base], ["sha256:" + OTHER]), ("of another layer", [base, more], [digest(base)] * 2),
                                   ("swapped", [base, more], [digest(more), digest(base)]), ("of the packed", [gz(base)], [digest(gz(base))]),
                                   ("too few", [base, more], [digest(base)]), ("too many", [base], [digest(base)] * 2),
                                   ("none", [base], [])):
        yield m.load("diff_ids: " + what, saved(stored, conf=config([], diff_ids)), match="layer|diff_id")
    for what, value in (("upper case", digest(base).upper()), ("upper hex", "sha256:" + hexdigest(base).upper().replace("0", "A")),
                        ("sha512", "sha512:" + "0" * 128), ("short", "sha256:abc"), ("path", "sha256:../../../../etc/passwd"),
                        ("path of 64", "sha256:" + ("../" * 30)[:64]), ("NUL", digest(base) + "\0"), ("number", 7), ("null", None),
                        ("empty", ""), ("blank", " " + digest(base)), ("bare", hexdigest(base)), ("long", digest(base) + "0")):
        yield m.load("diff_id " + what, saved([base], conf=config([], [value])), match="diff_id")
        x = Layout()
        d = x.manifest([base])
        d["digest"] = value
        yield m.load("digest " + what, x.finish([d]), match="digest|descriptor")


def spoiled(m, part, change):
    """A layout in which the descriptor of `part` is changed."""
    x = Layout()
    found = {"layer": x.blob(m.base_layer, OCI_LAYER), "config": x.blob(config([m.base_layer]), OCI_CONFIG)}
    if part in found:
        change(x, found[part])
    d = x.blob({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": found["config"], "layers": [found["layer"]]}, OCI_MANIFEST)
    if part == "manifest":
        change(x, d)
    return x.finish([d])


@family
def load_descriptors(m):
    def rename(x, d):
        x.entries = [e.replace(d["digest"][7:].encode(), OTHER.encode(), 1) if d["digest"][7:].encode() in e[:100] else e
                     for e in x.entries]
        x.entries = [header(f"blobs/sha256/{OTHER}", size=d["size"]) + e[512:] if OTHER.encode() in e[:100] else e for e in x.entries]
        d["digest"] = "sha256:" + OTHER

    def drop(x, d):
        x.entries = [e for e in x.entries if d["digest"][7:].encode() not in e[:100]]

    for part in ("manifest", "config", "layer"):
        for what, size in (("short", -1), ("long", 1), ("negative", -(1 << 40)), ("huge", 1 << 62), ("a float", 0.5)):
            yield m.load(f"{part}: size too {what}", spoiled(m, part, lambda x, d, n=size: d.update(size=d["size"] + n)),
                         match="size|descriptor")
        yield m.load(f"{part}: digest lies", spoiled(m, part, rename), match="digest|descriptor")
        yield m.load(f"{part}: missing", spoiled(m, part, drop), match="not in the archive")
        yield m.load(f"{part}: of no type", spoiled(m, part, lambda x, d: d.pop("mediaType")), EITHER, **RUNS)
        yield m.load(f"{part}: with urls", spoiled(m, part, lambda x, d: d.update(urls=["file:///etc/passwd"], data="eA==")), EITHER, **RUNS)


@family
def load_json(m):
    base = m.base_layer
    name, layer = f"blobs/sha256/{hexdigest(dump(config([base])))}", f"blobs/sha256/{hexdigest(base)}"
    good = json.dumps([{"Config": name, "RepoTags": ["hostile:load"], "Layers": [layer]}])
    for what, text in (
            ("duplicate keys", good.replace("{", '{"Config":"x",')), ("truncated", good[:-3]), ("empty", ""), ("object", "{}"),
            ("null", "null"), ("number", "7"), ("string", '"x"'), ("of numbers", "[1,2]"), ("of null", "[null]"),
            ("nested lists", "[" * 10000 + "]" * 10000), ("NUL", good.replace("Config", "Con\0fig")), ("NaN", '[{"Config":NaN}]'),
            ("escaped NUL", good.replace("hostile", "hos\\u0000tile")), ("bad UTF-8", good.encode().replace(b"hostile", b"\xff\xfe")),
            ("garbage behind", good + "x"), ("huge number", '[{"Config":1e999999}]'), ("Config a list", '[{"Config":["x"],"Layers":[]}]'),
            ("Layers a string", '[{"Config":"%s","Layers":"%s"}]' % (name, layer)), ("BOM", "\ufeff" + good),
            ("Layers of numbers", '[{"Config":"%s","Layers":[1]}]' % name), ("no Config", '[{"Layers":["%s"]}]' % layer),
            ("RepoTags a string", '[{"Config":"%s","Layers":["%s"],"RepoTags":"x"}]' % (name, layer)), ("no images", "[]"),
            ("5 MB", "[" + " " * 5 * MIB + good[1:]), ("100,000 images", "[" + ",".join(["{}"] * 100000) + "]")):
        yield m.load("manifest.json " + what, saved([base], manifest=text if isinstance(text, bytes) else text.encode()),
                     match="manifest.json|no image|list of strings|string of")
    for what, text in (("duplicate keys", '{"schemaVersion":2,"manifests":[],"manifests":[]}'), ("truncated", '{"schemaVersion":2,'),
                       ("list", "[]"), ("nested", '{"a":' * 10000 + "1" + "}" * 10000), ("empty", ""), ("no manifests", '{"schemaVersion":2}'),
                       ("manifests null", '{"schemaVersion":2,"manifests":null}'), ("no images", '{"schemaVersion":2,"manifests":[]}'),
                       ("version 1", '{"schemaVersion":1,"manifests":[]}'), ("version text", '{"schemaVersion":"2","manifests":[]}'),
                       ("2,000 manifests", json.dumps({"schemaVersion": 2, "manifests": [{}] * 2000}))):
        yield m.load("index.json " + what, Layout().raw(text.encode()), match="index|image")
    for what, conf in (("duplicate keys", b'{"rootfs":{},"rootfs":{}}'), ("list", b"[]"), ("truncated", b'{"rootfs":'), ("empty", b""),
                       ("no rootfs", b"{}"), ("5 MB", b" " * 5 * MIB + b"{}"), ("nested", b'{"a":' * 10000 + b"1" + b"}" * 10000),
                       ("rootfs of another type", dump({"rootfs": {"type": "base+layers", "diff_ids": []}}))):
        yield m.load("configuration " + what, saved([base], conf=conf))


@family
def load_indexes(m):
    base = m.base_layer
    for depth in range(1, 8):
        x = Layout()
        d = x.manifest([base])
        for n in range(depth):
            d = x.nested([d], annotations={"n": str(n)})
        yield m.load(f"nested {depth} deep", x.finish([d]), EITHER if depth > 2 else ACCEPT, **RUNS)
    # A blob cannot hold its own digest; one under a false name can say that it does.
    x = Layout()
    loop = {"mediaType": OCI_INDEX, "digest": "sha256:" + "1" * 64, "size": 100}
    size = len(dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [loop]}))
    x.blob({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**loop, "size": size}]}, OCI_INDEX, "blobs/sha256/" + "1" * 64)
    yield m.load("loop", x.finish([{**loop, "size": size}]), match="digest|descriptor|nested|size")
    for what, members in (("another architecture", {"platform": {"os": "linux", "architecture": "s390x"}}),
                          ("windows", {"platform": {"os": "windows", "architecture": ARCH}}),
                          ("unknown", {"platform": {"os": "unknown", "architecture": "unknown"}}),
                          ("an attestation", {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}})):
        x = Layout()
        yield m.load("only " + what, x.finish([{**x.manifest([base]), **members}]), match="no image")
        x = Layout()
        yield m.load(f"nested, only {what}", x.finish([x.nested([{**x.manifest([base]), **members}])]), match="no image")
    x = Layout()
    two = [x.manifest([base]), x.manifest([base, tar(file("f"))])]
    yield m.load("two without a platform, nested", x.finish([x.nested(two)]), match="no image")
    yield m.load("two of one name", x.finish(two), EITHER, **RUNS)


@family
def load_ambiguous(m):
    base = m.base_layer
    for what, change in (("an index, too", {"manifests": []}), ("schema 1, too", {"fsLayers": []}), ("says index", {"mediaType": OCI_INDEX}),
                         ("of version 1", {"schemaVersion": 1}), ("of version 3", {"schemaVersion": 3}), ("without version", {"schemaVersion": None}),
                         ("of another type", {"mediaType": "text/html"}), ("layers null", {"layers": None}), ("layers an object", {"layers": {}}),
                         ("config null", {"config": None}), ("config a list", {"config": []}),
                         ("an artifact", {"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(b"{}"), "size": 2}})):
        x = Layout()
        whole = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": x.blob(config([base]), OCI_CONFIG), "layers": [x.blob(base, OCI_LAYER)]}
        yield m.load("manifest: " + what, x.finish([x.blob({**whole, **change}, OCI_MANIFEST)]), match="manifest|descriptor|index")
    x = Layout()
    yield m.load("index that is a manifest, too", x.finish([x.manifest([base])], layers=[], config={}), match="index")
    x = Layout()
    yield m.load("manifest served as an index", x.finish([{**x.manifest([base]), "mediaType": OCI_INDEX}]), match="index")
    x = Layout()
    yield m.load("index served as a manifest", x.finish([{**x.nested([x.manifest([base])]), "mediaType": OCI_MANIFEST}]), match="manifest")
    for media in ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/vnd.in-toto+json", "", "text/plain",
                  "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+xz"):
        x = Layout()
        yield m.load(f"layer of type '{media}'", x.finish([x.manifest([base], media=media)]), match="layer")
    x = Layout()
    yield m.load("layer says gzip and is none", x.finish([x.manifest([base], media=OCI_LAYER + "+gzip")]), EITHER, **RUNS)
    x = Layout()
    yield m.load("1,000 layers", x.finish([x.manifest([END] * 1000)]), match="layers|127|diff_ids")
    yield m.load("1,000 layers, docker", saved([END] * 1000), match="Layers|127|long")
    x = Layout()
    yield m.load("no layers", x.finish([x.manifest([])]), EITHER)
    yield m.load("schema 1 alone", tar(file("manifest.json", dump({"schemaVersion": 1, "fsLayers": [{"blobSum": digest(base)}]}))),
                 match="manifest.json")
    yield m.load("repositories alone", tar(file("repositories", b'{"x":{"latest":"0"}}'), file("0/layer.tar", base)), match="manifest.json")


@family
def load_names(m):
    base, bad = m.base_layer, "name|RepoTags"
    for tag in ("x/UPPER:1", "a b:1", "../x:1", "x:" + "t" * 200, "x" * 600, "", ":", "x:", "http://x/y:1", "x@sha256:" + OTHER, "-x:1",
                "x:-1", "a//b:1", "x:1\n", "\x1b[31mx:1", "x:$(id)", "x\0y:1", "\u00e9:1", "/x:1", OTHER, None, 7):
        yield m.load("tag " + ascii(tag)[:40], saved([base], tags=[tag]), match=bad)
        x = Layout()
        d = x.manifest([base])
        d["annotations"] = {"io.containerd.image.name": tag}
        yield m.load("annotation " + ascii(tag)[:40], x.finish([d], name=None), EITHER, **RUNS)
    yield m.load("5,000 tags", saved([base], tags=[f"hostile:{n}" for n in range(5000)]), match=bad)
    yield m.load("one good, one bad", saved([base], tags=["hostile:good", "BAD:1"]), match=bad)
    yield m.load("no tag", saved([base], tags=None), ACCEPT, **RUNS)
    yield m.load("same tag thrice", saved([base], tags=["hostile:x", "hostile:x", "docker.io/library/hostile:x"]), ACCEPT, **RUNS)


@family
def load_configs(m):
    """Accepted or not, what an image says about its process must not become a way out; the task may fail."""
    base, c = m.base_layer, m.canary
    for what, process in (
            ("WorkingDir up", {"WorkingDir": UP + m.inside}), ("WorkingDir of the host", {"WorkingDir": c}),
            ("WorkingDir fd", {"WorkingDir": "/proc/self/fd/7"}), ("WorkingDir fd up", {"WorkingDir": "/proc/self/fd/8/../../.."}),
            ("WorkingDir relative", {"WorkingDir": "a/b"}), ("WorkingDir long", {"WorkingDir": "/x" * 5000}),
            ("WorkingDir a file", {"WorkingDir": "/bin/busybox"}), ("User 2^32", {"User": "4294967296"}), ("User -1", {"User": "-1"}),
            ("User 65536", {"User": "65536"}), ("User with newline", {"User": "root\nx"}), ("User without group", {"User": "0:"}),
            ("Env without =", {"Env": ["X"]}), ("Env =", {"Env": ["=x"]}), ("Env NUL", {"Env": ["A=b\0c"]}),
            ("Env large", {"Env": ["A=" + "x" * 200000]}), ("Env of 10,000", {"Env": [f"A{n}=x" for n in range(10000)]}),
            ("Env LD_PRELOAD", {"Env": [f"LD_PRELOAD={c}/secret"]}), ("Entrypoint a string", {"Entrypoint": "/bin/sh"}),
            ("Entrypoint of numbers", {"Entrypoint": [1]}), ("Entrypoint empty", {"Entrypoint": [""]}), ("Cmd an object", {"Cmd": {}}),
            ("StopSignal", {"StopSignal": "SIGNOTHING"}), ("StopSignal a number", {"StopSignal": 9}), ("Labels", {"Labels": {"x": 7}}),
            ("Volumes over all", {"Volumes": {"/": {}, "/proc": {}, "../..": {}}}), ("ExposedPorts", {"ExposedPorts": {"x": {}}}),
            ("a list", []), ("a string", "x"), ("null", None)):
        yield m.load(what, saved([base], conf={**config([base]), "config": process}), EITHER, paths=["secret"])
    for what, members in (("windows", {"os": "windows"}), ("os a number", {"os": 7}), ("os long", {"os": "x" * 1000})):
        yield m.load(what, saved([base], conf={**config([base]), **members}), match="os|for")
    yield m.load("created is nonsense", saved([base], conf=config([base], created="yesterday")), EITHER, **RUNS)
    yield m.load("history does not fit", saved([base], conf=config([base], history=[{"empty_layer": False}] * 9)), EITHER, **RUNS)


@family
def load_broken(m):
    whole, more = saved([m.base_layer]), tar(file("f", b"inside\n"))
    bomb = zstd_frame(header("bomb", size=1 << 30), (0, 1 << 30), END)
    for what, data, expect in (("nothing", b"", REFUSE), ("cut in a layer", whole[:len(whole) // 2], REFUSE), ("gzip", gz(whole), ACCEPT),
                               ("gzip cut short", gz(whole)[:-100], REFUSE), ("gzip with garbage behind", gz(whole) + b"x", REFUSE),
                               ("zstd", zstd_frame(whole), ACCEPT), ("zstd cut short", zstd_frame(whole)[:-100], REFUSE),
                               ("root file system", m.base_layer, REFUSE), ("text", b"not an archive\n" * 99, REFUSE),
                               ("xz", b"\xfd7zXZ\0" + b"x" * 2000, REFUSE), ("zeros", b"\0" * 100000, REFUSE),
                               ("200,000 entries", gz(b"".join(header(f"e{n}") for n in range(200))) * 1001, REFUSE),
                               ("zstd of 64 GiB", zstd_frame(header("bomb", size=1 << 36), (0, 1 << 36)), REFUSE),
                               ("gzip of a gibibyte behind the end", gz(whole) + gz(b"\0" * (16 * MIB), 9) * 64, REFUSE)):
        yield m.load(what, data, expect, **RUNS)
    for what, layer in (("no tar", b"garbage" * 1000), ("gzip cut short", gz(m.base_layer)[:-50]), ("path up", tar(file("../x"))),
                        ("bomb", bomb), ("owner", tar(file("f", uid=70000)))):
        yield m.load("second layer: " + what, saved([m.base_layer, layer]), REFUSE)
    yield m.load("packed layers", saved([m.base_layer, more], packed=[gz(m.base_layer), zstd_frame(more)]), ACCEPT, script="cat /f", want="inside")
    yield m.load("of old", saved([m.base_layer, more], old=True), ACCEPT, script="cat /f", want="inside")
