#!/usr/bin/env python3
"""What of ours is on this machine: a list to compare before and after.

    check.py --save FILE [OPTIONS]      writes the list
    check.py --compare FILE [OPTIONS]   what is there now and was not, or is gone or changed; exit 1 if anything
    check.py --list [OPTIONS]           prints it

    --mine NAME     only what belongs to the instance NAME, for machines that others use at the same time (may be repeated)
    --dir DIR       a run or data directory: its sockets, temporary files and trash count (may be repeated)
    --wait SECONDS  compare: what goes away by itself within that time is no difference (10)

Processes, mounts of every mount namespace, namespaces, cgroups of every hierarchy, links, routes and rules, nft tables,
sysctls, files.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time

MOST_LINES = 40
PROGRAMS = ("mayfly", "mayflyd", "mayfly-supervisor", "mayfly-launcher", "mayfly-netd", "mayfly-dns", "mayfly-worker",
            "mayfly-init")
# What the kernel changes by itself.
VOLATILE = re.compile(r"random/|/nr_|ns_last_pid|pty/nr|inode-|dentry-|file-nr|file-max|conntrack_count|dropwatch|sched_domain|"
                      r"fs/aio-nr|fs/quota|aio-nr|/lock_|vm/stat_refresh|perf_event_max_sample_rate|kernel/tainted|cad_pid|"
                      r"keys/|numa_|nf_conntrack_buckets|dirty|net/.*/(conf|neigh)/|mm_|msgmni|route/flush|/stable_secret|"
                      r"bpf_stats|binfmt_misc|printk|hung_task|sunrpc|tcp_(mem|fastopen_key|congestion|available)|udp_mem")


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read().decode(errors="replace")
    except OSError:
        return ""


def run(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout.decode()
    except FileNotFoundError:
        return ""


def pids():
    return [int(p) for p in os.listdir("/proc") if p.isdigit()]


def link_prefix(name):
    """As net/names.c spells it: links of the instance begin with this."""
    if name == "mayfly":
        return "mf"
    h = 0xcbf29ce484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001b3 & (1 << 64) - 1
    h ^= h >> 32
    digits = "0123456789abcdefghjklmopqrstuvwxyzin"
    return "mf" + digits[h % 34] + digits[h // 34 % 36] + digits[h // (34 * 36) % 36]


def processes():
    """Ours by program, and whatever lives in a cgroup of ours. Kernel threads have neither."""
    for pid in pids():
        try:
            exe = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            exe = ""
        name = os.path.basename(exe.split(" (deleted)")[0]).removeprefix("memfd:")
        cgroups = read(f"/proc/{pid}/cgroup")
        comm = read(f"/proc/{pid}/comm").strip()
        if name in PROGRAMS or comm in [p[:15] for p in PROGRAMS]:
            yield f"process {comm}", f"pid {pid}, {read(f'/proc/{pid}/cmdline').replace(chr(0), ' ').strip()}"
        elif "/mayfly" in cgroups or "mayfly/" in cgroups:
            yield f"process {comm} in a cgroup of ours", f"pid {pid}"


def mounts():
    """Mount points of every mount namespace once; those of namespaces that are there only for tasks are counted by their
    processes."""
    seen = set()
    for pid in pids():
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        except OSError:
            continue
        if namespace in seen:
            continue
        seen.add(namespace)
        for line in read(f"/proc/{pid}/mountinfo").splitlines():
            fields = line.split()
            rest = line.split(" - ")[1].split()
            yield f"mount {fields[4]} {rest[0]} {rest[1]} root {fields[3]}", f"seen by pid {pid}"


def namespaces():
    """Held by processes, by open descriptors, or by a mount."""
    for pid in pids():
        for directory in (f"/proc/{pid}/ns", f"/proc/{pid}/fd"):
            try:
                names = os.listdir(directory)
            except OSError:
                continue
            for name in names:
                try:
                    target = os.readlink(f"{directory}/{name}")
                except OSError:
                    continue
                if re.fullmatch(r"(mnt|net|pid|user|ipc|uts|cgroup|time):\[\d+\]", target):
                    yield f"namespace {target}", f"held by pid {pid} {read(f'/proc/{pid}/comm').strip()}"


def cgroups():
    """Those that a service manager makes below its own for each of its sessions come and go without us."""
    for top, dirs, _ in os.walk("/sys/fs/cgroup"):
        for d in dirs:
            path = os.path.join(top, d)
            if top.count("/") < 5 or re.search(r"/(mf|mayfly|[^/]*docker|[^/]*libpod)", path):
                yield "cgroup " + path, ""


def network():
    for link in json.loads(run("ip", "-j", "link") or "[]"):
        yield f"link {link['ifname']}", f"{link.get('flags', '')}"
    for family in ("-4", "-6"):
        for line in run("ip", family, "rule").splitlines():
            yield f"rule {family} {line.strip()}", ""
        for line in run("ip", family, "route", "show", "table", "all").splitlines():
            yield "route " + re.sub(r" expires \S+| pref \S+| proto \S+", "", line.strip()), ""
    for name in run("ip", "netns", "list").split("\n"):
        if name:
            yield "netns " + name.split()[0], ""


def tables():
    tables_now = run("nft", "list", "tables").splitlines()
    for table in tables_now:
        words = table.split()
        text = run("nft", "-s", "list", "table", *words[1:])
        yield table, hashlib.sha256(text.encode()).hexdigest()[:12]


def sysctls():
    for top, _, files in os.walk("/proc/sys"):
        for name in files:
            path = os.path.join(top, name)
            if not VOLATILE.search(path):
                yield "sysctl " + path[len("/proc/sys/"):], read(path).strip()[:200]
    for key in ("forwarding", "rp_filter", "route_localnet", "proxy_arp"):
        for kind in ("all", "default"):
            yield f"sysctl net/ipv4/conf/{kind}/{key}", read(f"/proc/sys/net/ipv4/conf/{kind}/{key}").strip()


def files(directories):
    for name in os.listdir("/dev/shm"):
        if "mayfly" in name:
            yield "file /dev/shm/" + name, ""
    for directory in directories:
        for top, dirs, names in os.walk(directory):
            relative = os.path.relpath(top, directory)
            for name in names + dirs:
                path = os.path.join(top, name)
                if not os.path.isdir(path) and not os.path.isfile(path) and not os.path.islink(path):
                    yield "file " + path, "a socket or device"
                elif re.search(r"(^|/)(tmp|trash|spool)(/|$)", relative):
                    yield "file " + path, "temporary"
            if relative.count("/") > 1:
                dirs.clear()


def snapshot(directories):
    """{thing: detail}. A detail is compared for sysctls and tables, for the others it only helps who reads it."""
    found = {}
    for source in (processes(), mounts(), namespaces(), cgroups(), network(), tables(), sysctls(), files(directories)):
        for thing, detail in source:
            found.setdefault(thing, detail)
    return found


def is_mine(thing, detail, names, directories):
    text = thing + " " + detail
    if any(d in text for d in directories):
        return True
    if thing.startswith("link ") or thing.startswith("route "):
        words = thing.split()
        return any(w.startswith(link_prefix(n)) and len(w) > len(link_prefix(n)) and (n != "mayfly" or w[2] in "ni")
                   for n in names for w in words)
    return any(re.search(rf"(^|[/ ]){re.escape(n)}($|[/ ])", text) for n in names)


def difference(before, now, names, directories):
    out = []
    for thing, detail in now.items():
        compared = thing.startswith(("sysctl ", "table "))
        if thing not in before:
            # Loading a module brings sysctls; they are not ours to remove.
            if thing.startswith("sysctl "):
                continue
            out.append(("left", thing, detail))
        elif compared and before[thing] != detail:
            out.append(("changed", thing, f"{before[thing]} -> {detail}"))
    for thing, detail in before.items():
        if thing not in now and thing.startswith(("link ", "table ", "cgroup ", "rule ", "route ")):
            out.append(("gone", thing, detail))
    if names:
        out = [(w, t, d) for w, t, d in out if is_mine(t, d, names, directories)]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", metavar="FILE")
    parser.add_argument("--compare", metavar="FILE")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--mine", action="append", default=[])
    parser.add_argument("--dir", action="append", default=[])
    parser.add_argument("--wait", type=float, default=10)
    a = parser.parse_args()
    if a.save:
        with open(a.save, "w") as f:
            json.dump(snapshot(a.dir), f, indent=0)
        print("ok - leftover: listed what is there before")
        return 0
    if not a.compare:
        for thing, detail in snapshot(a.dir).items():
            if not a.mine or is_mine(thing, detail, a.mine, a.dir):
                print(thing, detail)
        return 0
    with open(a.compare) as f:
        before = json.load(f)
    end = time.monotonic() + a.wait
    while True:
        found = difference(before, snapshot(a.dir), a.mine, a.dir)
        # The kernel ends namespaces and offline cgroups a moment after the last process.
        if not found or time.monotonic() > end:
            break
        time.sleep(0.5)
    for word, thing, detail in found[:MOST_LINES]:
        print(f"not ok - leftover: {word}: {thing}{f' ({detail})' if detail else ''}")
    if len(found) > MOST_LINES:
        print(f"not ok - leftover: and {len(found) - MOST_LINES} more")
    if not found:
        print("ok - leftover: nothing is left over, nothing changed")
    return 1 if found else 0


sys.exit(main())
