"""Measuring: the driver, CPU per task, memory, the machine, the table."""

import contextlib
import glob
import json
import os
import platform
import shutil
import subprocess

import mayfly

TICK = os.sysconf("SC_CLK_TCK")
HERE = os.path.dirname(os.path.abspath(__file__))


def machine():
    def field(path, key):
        for line in mayfly.read(path).splitlines():
            if line.startswith(key):
                return line.split(":", 1)[-1].split("=", 1)[-1].strip().strip('"')
        return ""

    types = {line.split()[2] for line in mayfly.read("/proc/mounts").splitlines() if line.split()[1].startswith("/sys/fs/cgroup")}
    virt = shutil.which("systemd-detect-virt")
    return {
        "system": field("/etc/os-release", "PRETTY_NAME"),
        "kernel": platform.release(),
        "cpu": field("/proc/cpuinfo", "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": int(field("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "cgroup": "v2" if types == {"cgroup2"} else "hybrid" if "cgroup2" in types else "v1",
        "virtual": subprocess.run([virt], stdout=subprocess.PIPE, check=False).stdout.decode().strip() if virt else "",
        "tmp": subprocess.run(["stat", "-f", "-c", "%T", "/tmp"], stdout=subprocess.PIPE, check=True).stdout.decode().strip(),
    }


def machine_text(m):
    return (f"{m['system']}, Linux {m['kernel']}, {m['cpus']} × {m['cpu'] or platform.machine()}, {m['memory_mb']} MB, "
            f"cgroup {m['cgroup']}, {m['virtual'] or 'virtualisation unknown'}, /tmp on {m['tmp']}")


def cpu_of(pids):
    """Seconds that these processes and all children they waited for have used."""
    total = 0
    for pid in pids:
        fields = mayfly.stat_fields(pid)
        if fields:
            total += sum(int(f) for f in fields[11:15])
    return total / TICK


def cpu_parts(pids):
    """{part: seconds}: each process by its name, and what they waited for, which is mostly containers."""
    parts = {}
    for pid in pids:
        fields = mayfly.stat_fields(pid)
        if fields:
            name = mayfly.exe_name(pid)
            parts[name] = parts.get(name, 0) + (int(fields[11]) + int(fields[12])) / TICK
            parts["children"] = parts.get("children", 0) + (int(fields[13]) + int(fields[14])) / TICK
    return parts


def machine_cpu():
    """Seconds that all processors were busy."""
    fields = [int(f) for f in mayfly.read("/proc/stat").splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICK


class Scope:
    """A cgroup of its own for a contender; what is in it and below is counted, the dead included."""

    def __init__(self, name):
        v2 = [line.split()[1] for line in mayfly.read("/proc/mounts").splitlines() if line.split()[2] == "cgroup2"]
        top = v2[0] if v2 else "/sys/fs/cgroup/cpuacct"
        self.name = f"mfbench-{os.getpid()}-{name.replace(' ', '-')}"
        self.path = os.path.join(top, self.name)
        os.mkdir(self.path)

    def enter(self):
        """For the child, before exec."""
        with open(os.path.join(self.path, "cgroup.procs"), "w") as f:
            f.write("0")

    def cpu(self):
        for line in mayfly.read(os.path.join(self.path, "cpu.stat")).splitlines():
            if line.startswith("usage_usec"):
                return int(line.split()[1]) / 1e6
        return int(mayfly.read(os.path.join(self.path, "cpuacct.usage"), "0")) / 1e9

    def close(self):
        """Removes it, and the namesakes that the contender made in the other hierarchies."""
        def gone():
            for top in mayfly.cgroup_dirs(self.name):
                for d, _, _ in os.walk(top, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(d)
            return not mayfly.cgroup_dirs(self.name)
        mayfly.wait_until(gone, 10)


class Bench:
    def __init__(self, work, quick):
        self.work, self.quick = work, quick
        self.rows, self.memories, self.costs, self.skipped, self.failed = [], [], None, {}, False
        self.pulls, self.pull_memory = [], []
        self.mfload = mayfly.compile_c(sorted(glob.glob(os.path.join(HERE, "mfload*.c"))), os.path.join(work, "mfload"),
                                       "-Wl,--no-as-needed", "-lssl", "-lcrypto")
        # The owners of the benchmark are users that may not look into root's directories.
        os.chmod(self.mfload, 0o755)
        self.rootfs_tar = mayfly.busybox(links=False).symlink("bin/true", "busybox").symlink("bin/sleep", "busybox").bytes()
        self.rootfs = os.path.join(work, "rootfs")
        os.mkdir(self.rootfs)
        subprocess.run(["tar", "-xf", "-", "-C", self.rootfs], input=self.rootfs_tar, check=True)
        for d in ("proc", "sys", "dev"):
            os.mkdir(os.path.join(self.rootfs, d))
        self.header_printed = False

    def drive(self, name, arguments, flight, owners, network, pids=None, scope=None):
        """Runs the driver once. CPU is of `pids` and their children, of `scope`, or of the driver's own children."""
        parts = cpu_parts(pids()) if pids else {}
        before = cpu_of(pids()) if pids else scope.cpu() if scope else 0
        machine_before = machine_cpu()
        process = subprocess.Popen([self.mfload, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   preexec_fn=scope.enter if scope and not pids and arguments[0] == "exec" else None)
        out, err = process.communicate()
        if process.returncode and not out:
            raise RuntimeError(f"{name}: {err.decode().strip()}")
        row = json.loads(out)
        if process.returncode:
            raise RuntimeError(f"{name}: every request failed: {row['error'][:200]} {err.decode()[-300:].strip()}")
        # The warm-up is in the sums, so it is in the divisor.
        total = row["requests"] + row["errors"] + warmup_of(arguments)
        machine_spent = machine_cpu() - machine_before
        spent = cpu_of(pids()) - before if pids else scope.cpu() - before if scope else None
        if pids and arguments[0] == "exec":
            spent += row["children_cpu_s"]
        row["cpu_ms"] = (row["children_cpu_s"] / row["requests"] if spent is None else spent / total) * 1e3
        if pids:
            now = cpu_parts(pids())
            row["cpu_parts_ms"] = {name: (now[name] - parts.get(name, 0)) / total * 1e3 for name in now}
        row["machine_cpu_ms"] = machine_spent / total * 1e3
        row.update(name=name, flight=flight, owners=owners, network=network)
        self.rows.append(row)
        self.print_row(row)

    def print_row(self, r):
        if not self.header_printed:
            self.header_printed = True
            print(f"\n{'':40} {'in':>6} {'':>6} {'p50':>9} {'p90':>9} {'p99':>9} {'':>8} {'CPU/task':>9} {'machine':>9}")
            print(f"{'contender, network':40} {'flight':>6} {'owners':>6} {'ms':>9} {'ms':>9} {'ms':>9} {'tasks/s':>8} "
                  f"{'ms':>9} {'ms':>9} errors")
        print(f"{r['name']:40} {r['flight']:>6} {r['owners']:>6} {r['p50_ms']:>9.2f} {r['p90_ms']:>9.2f} {r['p99_ms']:>9.2f} "
              f"{r['per_second']:>8.1f} {r['cpu_ms']:>9.2f} {r['machine_cpu_ms']:>9.2f} {r['errors']:>6}", flush=True)
        if r["errors"]:
            print(f"    first error: {r['error'][:160]}")

    def memory(self, name, pids):
        rss = pss = 0
        for pid in pids:
            for line in mayfly.read(f"/proc/{pid}/smaps_rollup").splitlines():
                if line.startswith("Rss:"):
                    rss += int(line.split()[1])
                elif line.startswith("Pss:"):
                    pss += int(line.split()[1])
        self.memories.append({"name": name, "processes": len(pids), "rss_mb": rss / 1024, "pss_mb": pss / 1024})

    def skip(self, name, reason):
        self.skipped[name] = reason
        print(f"{name}: left out: {reason}", flush=True)

    def print_summary(self, goals):
        if any("cpu_parts_ms" in r for r in self.rows):
            print("\nCPU per task by process, ms (children: containers and all that was waited for)")
            for r in self.rows:
                if "cpu_parts_ms" in r:
                    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(r["cpu_parts_ms"].items()))
                    print(f"{r['name']:40} {r['flight']:>6} {r['owners']:>6}  {parts}")
        if self.costs:
            print(f"\n{'beside a task, ms for each':40} {'CPU':>9} {'of the loop':>12}")
            for name, cost in self.costs.items():
                if isinstance(cost, dict):
                    print(f"{name:40} {cost['cpu_ms']:>9.4f} {cost['path_ms']:>12.4f}")
        if self.memories:
            print(f"\n{'memory':40} {'processes':>9} {'RSS MB':>8} {'PSS MB':>8}")
            for m in self.memories:
                print(f"{m['name']:40} {m['processes']:>9} {m['rss_mb']:>8.1f} {m['pss_mb']:>8.1f}")
        if goals:
            print("\ngoals")
            for g in goals:
                print(f"  {'reached' if g['reached'] else 'MISSED '}  {g['goal']} {g['limit']:g}: {g['value']:g}")


def warmup_of(arguments):
    own = arguments[:arguments.index("--")] if "--" in arguments else arguments
    return int(own[own.index("-w") + 1]) if "-w" in own else 0
