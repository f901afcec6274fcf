#!/usr/bin/env python3
"""Tasks' network beside what else a host has: resolvers on loopback, Docker, other firewalls. Needs root; programs that
are missing skip their cases with the reason.

    run.py [--long] [CASE…]     dns firewall docker-nft; --long: docker-legacy resolved, too
"""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from rig import FORWARDER, NAME, PUBLIC, Rig, end, fetch, is_inside, pause, run_inside, sh  # noqa: E402
from mayfly import Report, Skip, busybox, exclusive, read, wait_until  # noqa: E402

TOOL = f"{sys.executable} {os.path.dirname(os.path.abspath(__file__))}/dns_tools.py"
OUTSIDE = PUBLIC
LONG = "--long" in sys.argv or bool(os.environ.get("MAYFLY_LONG"))
report = Report("network: ")


def need(program):
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin:/usr/lib/systemd:/lib/systemd")
    if not path:
        raise Skip(f"no {program} here")
    return path


# ── DNS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def resolver(rig, family, address, mode):
    """Our own one. Its process and the file of what it was asked."""
    rig.resolvers_made += 1
    log = os.path.join(rig.dir, f"resolver-{rig.resolvers_made}")
    process = rig.spawn([*TOOL.split(), "serve", family, address, mode, log])
    rig.running.append(process)
    assert wait_until(lambda: "ready" in read(log)), "the resolver does not start"
    return process, log


def end_resolvers(rig):
    """Those of a case that failed would answer in the next one's stead."""
    while rig.running:
        end(rig.running.pop())


def asked(rig, inside, how="udp", name="name.test", kind=1):
    done = subprocess.run(f"{inside} {TOOL} ask {how} {FORWARDER} {name} {kind}", shell=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, timeout=60)
    return done.stdout.decode().strip().splitlines()[-1:] or [""]


def test_forwarder(rig, mayfly):
    with report.case("dns: where the resolver listens on loopback, tasks are given the forwarder"):
        rig.resolvers("nameserver 127.0.0.1\nsearch test\n")
        assert mayfly.says("for tasks by mayfly-dns")
        want = f"nameserver {FORWARDER}\nsearch test\n".encode()
        assert wait_until(lambda: mayfly.task("cat /etc/resolv.conf")["out"] == want, 10)
    with mayfly.inside() as nat, mayfly.inside("internet") as internet, mayfly.inside("nat") as other:
        with report.case("dns: a resolver that is not there: SERVFAIL at once"):
            assert asked(rig, nat)[0].startswith("2 "), asked(rig, nat)
            assert asked(rig, nat, "tcp")[0].startswith("2 "), asked(rig, nat, "tcp")
        with report.case("dns: answers with another id or question are not believed; ids and ports are random"):
            process, log = resolver(rig, "4", "127.0.0.1", "liar")
            for _ in range(20):
                assert asked(rig, nat)[0].startswith("0 "), asked(rig, nat)
            assert asked(rig, internet)[0].startswith("0 ")
            seen = [line.split() for line in read(log).splitlines()[1:]]
            assert len({p for p, _ in seen}) > 15 and len({i for _, i in seen}) > 15, seen
            end(process)
        with report.case("dns: what is no question gets an error or nothing"):
            out = sh(f"{nat} {TOOL} hostile {FORWARDER}")
            assert out.split("\n")[:-1] == ["empty: -", "short: -", "an answer: -", "update: 4", "no question: 1", "two: 1",
                                            "cut: 1", "pointer: 1", "transfer: 5", "large: 1"] + out.split("\n")[10:-1], out
            assert "tcp: 0" in out, out
        with report.case("dns: one task's flood leaves the others theirs"):
            process, log = resolver(rig, "4", "127.0.0.1", "mute")
            sh(f"{nat} {TOOL} flood {FORWARDER} 3000 flood.test")
            pause(1)
            assert len({line for line in read(log).splitlines()[1:]}) <= 64 * 2, len(read(log).splitlines())
            end(process)
            process, log = resolver(rig, "4", "127.0.0.1", "plain")
            sh(f"{nat} {TOOL} flood {FORWARDER} 3000 flood.test &")
            for _ in range(5):
                assert asked(rig, other)[0].startswith("0 ")
            end(process)
            assert "limit rate over 1000/second" in sh(f"nft list set inet {NAME} asking").split("elements")[1], "nothing counts"
        end_resolvers(rig)
        with report.case("dns: what was asked of a resolver that is gone from the file is asked anew of the next"):
            resolver(rig, "4", "127.0.0.1", "mute")
            _, log = resolver(rig, "6", "::1", "mute")
            sh(f"{other} {TOOL} flood {FORWARDER} 64 moved.test")
            rig.resolvers("nameserver ::1\n")
            # Both rounds: not what was left of the first one's.
            assert wait_until(lambda: len(read(log).splitlines()) == 1 + 2 * 64, 20), len(read(log).splitlines())
        end_resolvers(rig)
        with report.case("dns: a resolver on ::1, and the next one where the first fails"):
            first, _ = resolver(rig, "6", "::1", "servfail")
            second, log = resolver(rig, "4", "127.0.0.2", "plain")
            rig.resolvers("nameserver ::1\nnameserver 127.0.0.2\n")
            assert wait_until(lambda: asked(rig, nat)[0].startswith("0 "), 10)
            end(second)
            end(first)
            first, _ = resolver(rig, "6", "::1", "plain")
            assert asked(rig, nat)[0].startswith("0 ")
            end(first)
        with report.case("dns: nobody but tasks is answered, nothing but DNS is there"):
            process, log = resolver(rig, "4", "127.0.0.1", "plain")
            rig.resolvers("nameserver 127.0.0.1\n")
            assert wait_until(lambda: asked(rig, nat)[0].startswith("0 "), 10)
            before = len(read(log).splitlines())
            sh(f"{rig.world} ip route add 10.219.0.0/16 via 198.51.100.2")
            for where in ("", rig.world):
                for how in ("udp", "tcp"):
                    assert sh(f"timeout 2 {where} {TOOL} ask {how} {FORWARDER} name.test", check=False) != 0, where
            assert len(read(log).splitlines()) == before
            assert sh(f"timeout 2 {nat} nc -w 1 {FORWARDER} 22 </dev/null", check=False) != 0
            end(process)
    with report.case("dns: the forwarder comes back after a kill; it holds no privilege"):
        process, log = resolver(rig, "4", "127.0.0.1", "plain")
        pid = mayfly.pid("mayfly-dns")
        status = read(f"/proc/{pid}/status")
        sanitized = "asan" in read(f"/proc/{pid}/maps")  # which the filter would not let work
        for line in ("CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert line in status or (sanitized and "Seccomp" in line), (line, status)
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: mayfly.pids().get("mayfly-dns") not in (None, pid))
        with mayfly.inside() as nat:
            assert wait_until(lambda: asked(rig, nat)[0].startswith("0 "), 10)
        end(process)


def test_real_resolvers(rig, mayfly):
    end_resolvers(rig)
    with report.case("dns: dnsmasq on 127.0.0.1, by UDP and TCP"):
        txt = [f"--txt-record=large.test,{'x' * 200}{i}" for i in range(30)]
        process = rig.spawn([need("dnsmasq"), "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
                             "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file=", "--user=root",
                             f"--address=/name.test/{PUBLIC}", *txt])
        rig.resolvers("nameserver 127.0.0.1\n")
        with mayfly.inside() as nat:
            assert wait_until(lambda: asked(rig, nat)[0].startswith("0 "), 10)
            code, size, count = asked(rig, nat, "tcp", "large.test", 16)[0].split()
            assert (code, count) == ("0", "30") and int(size) > 6000, (code, size, count)
        out = mayfly.task("nslookup -type=a name.test")
        assert PUBLIC.encode() in out["out"], out
        end(process)
    with report.case("dns: unbound on ::1"):
        conf = os.path.join(rig.dir, "unbound.conf")
        with open(conf, "w", encoding="utf-8") as f:
            f.write(f'server:\n interface: ::1\n access-control: ::1/128 allow\n chroot: ""\n username: ""\n pidfile: ""\n'
                    f' use-syslog: no\n do-daemonize: no\n auto-trust-anchor-file: ""\n local-data: "name.test. A {PUBLIC}"\n')
        process = rig.spawn([need("unbound"), "-d", "-p", "-c", conf])
        rig.resolvers("nameserver ::1\n")
        with mayfly.inside() as nat:
            assert wait_until(lambda: asked(rig, nat)[0].startswith("0 "), 10), asked(rig, nat)
        end(process)


def test_resolved(rig, mayfly):
    """Its stub listens on 127.0.0.53, but its file of upstream servers says whom tasks can ask themselves."""
    with report.case("dns: systemd-resolved, its upstream servers"):
        program = os.environ.get("MAYFLY_RESOLVED") or need("systemd-resolved")
        if sh("getent passwd systemd-resolve", check=False) != 0:
            raise Skip("no user systemd-resolve here")
        conf = os.path.join(rig.dir, "resolved.conf")
        with open(conf, "w", encoding="utf-8") as f:
            f.write("[Resolve]\nDNS=192.0.2.77\nDomains=corp.test\nLLMNR=no\nMulticastDNS=no\n")
        sh("mount -t tmpfs tmpfs /run/systemd 2>/dev/null || { mkdir -p /run/systemd; mount -t tmpfs tmpfs /run/systemd; }\n"
           "mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d; chown systemd-resolve: /run/systemd/resolve\n"
           f"cp {conf} /run/systemd/resolved.conf.d/test.conf")
        process = rig.spawn([program])
        assert wait_until(lambda: "192.0.2.77" in read("/run/systemd/resolve/resolv.conf")), read(rig.dir + "/log")[-800:]
        rig.resolvers(read("/run/systemd/resolve/stub-resolv.conf"))
        try:
            assert wait_until(lambda: b"nameserver 192.0.2.77" in mayfly.task("cat /etc/resolv.conf")["out"], 10)
            assert b"127.0.0.53" not in mayfly.task("cat /etc/resolv.conf")["out"]
        finally:
            end(process)
            sh("umount /run/systemd")


# ── Docker ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Dockerd:
    def __init__(self, rig, backend):
        self.rig = rig
        self.dir = os.path.join(rig.dir, "docker-" + backend)
        self.socket = self.dir + "/docker.sock"
        self.iptables = need("iptables-" + backend)
        os.makedirs(self.dir + "/bin")
        for name in ("iptables", "ip6tables"):
            for suffix in ("", "-save", "-restore"):
                os.symlink(self.iptables.replace("iptables-" + backend, f"{name}-{backend}{suffix}"),
                           f"{self.dir}/bin/{name}{suffix}")
        self.daemon = need("dockerd")
        with open(self.dir + "/config.json", "w", encoding="utf-8") as f:
            f.write("{}")
        self.process = None

    def start(self):
        env = {**os.environ, "PATH": self.dir + "/bin:" + os.environ["PATH"] + ":/usr/sbin:/sbin"}
        # A containerd of its own, too: that of the host lives elsewhere.
        self.process = self.rig.spawn(
            [self.daemon, "--data-root", self.dir + "/data", "--exec-root", self.dir + "/exec", "--pidfile", self.dir + "/pid",
             "--host", "unix://" + self.socket, "--storage-driver", "vfs", "--cgroup-parent", "/" + NAME + "-docker",
             "--config-file", self.dir + "/config.json", "--bip", "172.29.0.1/24"], env=env)
        if not wait_until(lambda: self.docker("version", check=False) == 0, 60, 0.2):
            raise Skip("dockerd does not start here: " + read(self.rig.dir + "/log")[-300:])

    def stop(self):
        end(self.process)

    def docker(self, command, check=True):
        return sh(f"docker -H unix://{self.socket} {command}", check, 120)

    def chain(self):
        return sh(f"{self.iptables} -S DOCKER-USER")


def count_ours(dockerd):
    return dockerd.chain().count("mf")


def test_docker(backend):
    with Rig() as rig:
        mayfly = rig.instance()
        rig.stack.callback(mayfly.close)
        rig.stack.callback(sh, f"find /sys/fs/cgroup -depth -type d -path '*/{NAME}-docker*' -exec rmdir {{}} + 2>/dev/null", False)
        with report.case(f"docker ({backend}): one that starts after us, with its policy DROP"):
            dockerd = Dockerd(rig, backend)
            mayfly.start()
            assert mayfly.reaches(OUTSIDE)
            dockerd.start()
            assert "-P FORWARD DROP" in sh(f"{dockerd.iptables} -S FORWARD") or read("/proc/sys/net/ipv4/ip_forward") == "1\n"
            sh(f"{dockerd.iptables} -P FORWARD DROP")  # it does that itself only where it switched forwarding on
            assert wait_until(lambda: count_ours(dockerd) == 4, 20), dockerd.chain()
            assert mayfly.reaches(OUTSIDE) and mayfly.reaches(OUTSIDE, "internet")
        if mayfly.process is None or not os.path.exists(dockerd.socket):
            return
        with report.case(f"docker ({backend}): its own containers work, and are nobody's neighbours"):
            archive = os.path.join(rig.dir, "busybox.tar")
            with open(archive, "wb") as f:
                f.write(busybox().bytes())
            dockerd.docker(f"import {archive} busybox:net")
            assert "outside world" in dockerd.docker(f'run --rm busybox:net sh -c "{fetch(OUTSIDE)}"')
            dockerd.docker("run -d --name web busybox:net sh -c 'echo inside >/index.html; httpd -f -p 8080 -h /'")
            address = dockerd.docker("inspect -f '{{.NetworkSettings.IPAddress}}' web").strip()
            assert wait_until(lambda: sh(f"curl -fs -m 2 http://{address}:8080/", check=False) == 0, 10), "it does not serve"
            assert not mayfly.reaches(address), "a task reaches a container of Docker"
            dockerd.docker("rm -f web")
        with report.case(f"docker ({backend}): restarted, and its rules flushed"):
            dockerd.stop()
            assert mayfly.reaches(OUTSIDE)
            flush = f"{dockerd.iptables} -F; {dockerd.iptables} -X" if backend == "legacy" else "nft flush ruleset"
            sh(flush)
            dockerd.start()
            sh(f"{dockerd.iptables} -P FORWARD DROP")
            assert wait_until(lambda: count_ours(dockerd) == 4, 20), dockerd.chain()
            assert wait_until(lambda: mayfly.reaches(OUTSIDE), 10)
        with report.case(f"docker ({backend}): nothing of ours is left in its chain, and it works on"):
            assert mayfly.stop()
            assert count_ours(dockerd) == 0, dockerd.chain()
            assert read("/proc/sys/net/ipv4/ip_forward") == "1\n", "Docker needs it"
            assert "outside world" in dockerd.docker(f'run --rm busybox:net sh -c "{fetch(OUTSIDE)}"')
        with report.case(f"docker ({backend}): it is there before us, and goes before us"):
            mayfly.start()
            assert wait_until(lambda: count_ours(dockerd) == 4, 20), dockerd.chain()
            assert mayfly.reaches(OUTSIDE)
            dockerd.stop()
            assert mayfly.stop()
            assert count_ours(dockerd) == 0, dockerd.chain()
            assert read("/proc/sys/net/ipv4/ip_forward") == "1\n"


# ── other firewalls ──────────────────────────────────────────────────────────────────────────────────────────────────


def warnings(mayfly):
    return mayfly.client.get("/v1/health").json()["warnings"]


def test_connections():
    """One task cannot fill the host's table of connections, nor keep mayfly-dns from hearing the others."""
    with Rig() as rig:
        mayfly = rig.instance()
        mayfly.config["network__connections"] = 40
        with mayfly:
            with report.case("connections: a task has so many, and the next one its own"):
                many = ("for i in $(seq 60); do sleep 20 | nc " + PUBLIC + " 8080 >/dev/null & done; sleep 4; "
                        "netstat -tn | grep -c ESTABLISHED")
                assert int(mayfly.task(many)["out"]) == 40, "not as many as it may have"
                with mayfly.inside():
                    assert mayfly.reaches(OUTSIDE)
            with report.case("connections: the table stands as it was applied"):
                pause(1)
                assert "nft" not in read(mayfly.log).lower() or "again" not in read(mayfly.log), read(mayfly.log)[-500:]
                assert "ct count over 40" in sh(f"nft list table inet {NAME}")
            mayfly.stop()


def test_firewall(rig, mayfly):
    with report.case("firewall: a chain that drops what is forwarded is named, and the advice helps"):
        sh("nft add table inet wall; nft 'add chain inet wall pass { type filter hook forward priority 10; policy drop; }'")
        assert mayfly.says("tasks have no network: a firewall drops what they send, by chain pass of table inet wall (policy drop)")
        assert not mayfly.reaches(OUTSIDE)
        assert wait_until(lambda: "chain pass of table inet wall" in "".join(warnings(mayfly))), warnings(mayfly)
        advice = next(line for line in read(mayfly.log).splitlines() if "chain pass of table" in line)
        for command in advice.split("to let it pass: ")[1].split("; "):
            sh("nft '" + command[len("nft "):] + "'")
        assert mayfly.says("no firewall stands in the way of tasks any more")
        assert mayfly.reaches(OUTSIDE)
        assert wait_until(lambda: not warnings(mayfly)), warnings(mayfly)
        sh("nft delete table inet wall")
    with report.case("firewall: as firewalld does it, by a rule that rejects"):
        sh("nft add table inet firewalld; nft 'add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }'"
           "; nft add rule inet firewalld filter_FORWARD ct state established,related accept"
           "; nft add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited")
        assert mayfly.says("most likely chain filter_FORWARD of table inet firewalld")
        sh("nft delete table inet firewalld")
    with report.case("firewall: one that closes port 53 to tasks is named where they need it"):
        rig.resolvers("nameserver 127.0.0.1\n")
        sh("nft add table ip wall; nft 'add chain ip wall in { type filter hook input priority 0; policy drop; }'"
           "; nft add rule ip wall in iif lo accept")
        assert mayfly.says("tasks cannot ask mayfly-dns for names: a firewall drops what they send, by chain in of table ip wall")
        sh("nft delete table ip wall")


def in_one_instance(*tests):
    with Rig() as rig:
        with rig.instance() as mayfly:
            for test in tests:
                test(rig, mayfly)
            left = mayfly.stop()
        report.check("stopped in order, nothing is left of routes and rules",
                     left and sh("ip route show table all").count("10.219") == 0 and sh("nft list tables").count(NAME) == 0
                     and read("/proc/sys/net/ipv4/ip_forward") == "0\n")


CASES = {
    "dns": lambda: in_one_instance(test_forwarder, test_real_resolvers),
    "firewall": lambda: in_one_instance(test_firewall),
    "connections": test_connections,
    "docker-nft": lambda: test_docker("nft"),
}
LONG_CASES = {
    "docker-legacy": lambda: test_docker("legacy"),
    "resolved": lambda: in_one_instance(test_resolved),
}


def main():
    if os.geteuid() != 0:
        report.skip("all", "needs root")
        return
    if not is_inside():
        exclusive("network")
        wanted = [a for a in sys.argv[1:] if a != "--long"] or [*CASES, *(LONG_CASES if LONG else {})]
        with ThreadPoolExecutor(2) as pool:  # they mostly wait, each in a network of its own
            sys.exit(max(list(pool.map(run_inside, wanted))))
    name = sys.argv[1]
    try:
        {**CASES, **LONG_CASES}[name]()
    except Skip as e:
        report.skip(name, e)
    except Exception as e:  # noqa: BLE001: a case that cannot even start fails
        report.not_ok(name, f"{type(e).__name__}: {e}")
    report.exit()


main()
