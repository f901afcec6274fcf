#!/usr/bin/env bash
# What tests/vm/run.sh runs inside of the machine, in the tree that was brought along.
set -uo pipefail
cd "$(dirname "$0")/../.."

parts=${*:-demo test systemd}
failed=0
ok() { echo "ok - vm: $1"; }
bad() { echo "not ok - vm: $1: $2"; failed=1; }

wants() { case " $parts " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# The package of the tests' users: as tools/setup.sh makes them, before the list of what is there.
./tools/setup.sh run demo >/dev/null || bad setup "the packages that were brought along are not those that setup.sh wants"
! wants resolved || systemctl stop systemd-resolved # its own directories come and go with it
# What is Docker's own is none of ours to find afterwards; it has started with the machine.
docker_ends() {
    systemctl stop docker.service docker.socket
    ip link del docker0
    nft delete table ip nat
    nft delete table ip filter
}
! wants docker || docker_ends
tests/leftover/check.py --save /root/before.json >/dev/null

echo "vm: $(uname -r), $(stat -fc %T /sys/fs/cgroup), $(systemctl --version | head -n 1), $(aa-status --enabled 2>/dev/null && echo AppArmor || echo 'no AppArmor')"

if wants demo; then
    if ./tools/demo.sh >/root/demo.log 2>&1; then ok "tools/demo.sh"; else bad "tools/demo.sh" "status $?"; tail -n 30 /root/demo.log; fi
fi

if wants test; then
    # Everything takes ten times as long under emulation, so nothing may give up early.
    MAYFLY_SLOW=10 ./tools/test.sh --installed ${MAYFLY_VM_ONLY:+--only "$MAYFLY_VM_ONLY"} 2>&1 | tee /root/test.log | sed -u 's/^/    /'
    status=${PIPESTATUS[0]}
    if [ "$status" = 0 ]; then ok "tools/test.sh --installed"; else bad "tools/test.sh --installed" "$(tail -n 1 /root/test.log)"; fi
fi

# ── systemd ──

task() { # COMMAND…: its output
    /usr/bin/mayfly run busybox:demo "$@"
}
pid_of() { systemctl show -p MainPID --value "$1.service"; }
eventually() { # COMMAND…: within ten seconds
    for _ in $(seq 100); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    return 1
}
serves() { curl -fs --unix-socket /run/mayfly/mayfly.sock http://mayfly/healthz; }
live_task() { # its id, as its answer has it
    curl -fs --unix-socket /run/mayfly/mayfly.sock 'http://mayfly/v1/tasks?status=running' | grep -o '"id":"[^"]*"'
}
other_pid() { [ "$(pid_of "$1")" != "$2" ] && [ "$(pid_of "$1")" != 0 ]; }

# Containers outlive a restart of the daemon, and longer than it waits for them: the next one has the same task's result.
outlives() { # TITLE, what tells that the task's container runs
    local body='{"image": "busybox:demo", "cmd": ["sh", "-c", "sleep 20; echo survived"]}' before after client
    curl -s --unix-socket /run/mayfly/mayfly.sock -H 'Content-Type: application/json' -H 'Idempotency-Key: restart' \
        -d "$body" http://mayfly/v1/tasks >/dev/null &
    client=$!
    eventually live_task && eventually "$2"
    before=$(live_task)
    systemctl restart mayflyd.service
    eventually serves
    after=$(curl -s --unix-socket /run/mayfly/mayfly.sock -H 'Content-Type: application/json' -H 'Idempotency-Key: restart' \
        -d "$body" http://mayfly/v1/tasks)
    if [ -n "$before" ] && grep -qF "$before" <<<"$after" && grep -q survived <<<"$after"; then
        ok "$1"
    else
        bad "$1" "$before was running, then came $after"
    fi
    wait "$client"
}

systemd_units() {
    tar -C / -xf /opt/root.tar
    systemd-sysusers
    systemd-tmpfiles --create
    systemctl daemon-reload
    if ! systemctl start mayflyd.service || ! eventually serves; then
        bad "systemd: start" "$(systemctl status --no-pager -n 15 'mayfly*' 2>&1 | tail -n 60)"
        return
    fi
    ok "systemd: start"
    tools/busybox-image.sh | /usr/bin/mayfly import - busybox:demo >/dev/null 2>&1 || bad "systemd: import" "status $?"
    if [ "$(task echo hello)" = hello ]; then ok "systemd: a task"; else bad "systemd: a task" "no hello"; fi

    if ls -l "/proc/$(pid_of mayfly-netd)/fd" | grep -q /run/xtables.lock; then
        ok "systemd: netd has the lock of iptables"
    else
        bad "systemd: netd has the lock of iptables" "$(ls -l /run/xtables.lock 2>&1)"
    fi

    local unit old
    for unit in mayflyd mayfly-launcher mayfly-netd mayfly-dns; do
        old=$(pid_of "$unit")
        if [ "$(systemctl show -p NRestarts --value "$unit.service")" -gt 1 ] || [ "$old" = 0 ]; then
            bad "systemd: $unit" "$(systemctl status --no-pager -n 10 "$unit" 2>&1 | tail -n 20)"
            continue
        fi
        kill -9 "$old"
        if eventually other_pid "$unit" "$old" && eventually serves && eventually task true; then
            ok "systemd: kill -9 of $unit, the next one serves"
        else
            bad "systemd: kill -9 of $unit" "$(systemctl status --no-pager -n 10 "$unit" 2>&1 | tail -n 20)"
        fi
    done

    outlives "systemd: a task outlives the restart of mayflyd" live_task

    [ "$failed" = 0 ] || journalctl --no-pager -o cat -u 'mayfly*' | tail -n 60
    task sleep 60 &
    local client=$!
    eventually pgrep -x sleep
    systemctl stop 'mayfly*.service' 'mayfly*.socket'
    kill "$client" 2>/dev/null
    wait "$client" 2>/dev/null
    if pgrep -l '^mayfly' || pgrep -x sleep; then bad "systemd: stop" "processes are left"; else ok "systemd: stop ends all"; fi
    systemctl reset-failed 'mayfly*'
    tar -tf /opt/root.tar | grep '[^/]$' | sed 's|^\.|/|' | xargs rm -f
    rm -rf /usr/libexec/mayfly /run/mayfly /var/lib/mayfly
    systemctl daemon-reload
}
if wants systemd; then systemd_units; fi

# ── systemd, and Docker as the only engine ──

systemd_docker() {
    command -v dockerd >/dev/null || { bad docker "docker.io was not brought along"; return; }
    tar -C / -xf /opt/root.tar
    systemd-sysusers
    systemd-tmpfiles --create
    # As docs/engines.md says.
    install -D -m 644 contrib/systemd/mayflyd-docker-only.conf /etc/systemd/system/mayflyd.service.d/docker.conf
    install -D -m 644 /dev/stdin /etc/mayfly/mayfly.yaml <<<'engines: [docker]'
    systemctl mask --quiet mayfly-launcher.service mayfly-netd.service mayfly-dns.service
    systemctl daemon-reload
    if systemctl start mayflyd.service && eventually serves; then
        ok "docker: start"
        docker_alone
    else
        bad "docker: start" "$(systemctl status --no-pager -n 15 docker 'mayfly*' 2>&1 | tail -n 60)"
    fi
    [ "$failed" = 0 ] || journalctl --no-pager -o cat -u docker -u 'mayfly*' | tail -n 60
    systemctl stop 'mayfly*.service' 'mayfly*.socket'
    if [ -z "$(docker ps -aq)" ] && ! pgrep -l '^mayfly'; then ok "docker: stop leaves nothing"; else bad "docker: stop leaves nothing" "$(docker ps -a)"; fi
    docker image rm busybox:demo >/dev/null
    docker_ends
    systemctl unmask --quiet mayfly-launcher.service mayfly-netd.service mayfly-dns.service
    systemctl reset-failed 'mayfly*'
    rm -rf /etc/systemd/system/mayflyd.service.d /etc/mayfly
    tar -tf /opt/root.tar | grep '[^/]$' | sed 's|^\.|/|' | xargs rm -f
    rm -rf /usr/libexec/mayfly /run/mayfly /var/lib/mayfly
    systemctl daemon-reload
}

docker_alone() {
    local said old
    tools/busybox-image.sh | docker import - busybox:demo >/dev/null || bad "docker: import" "status $?"
    said=$(task echo hello 2>&1)
    if [ "$said" = hello ]; then ok "docker: a task"; else bad "docker: a task" "$said"; fi
    said=$(task cut -d: -f3 /proc/self/cgroup 2>&1 | sort -u)
    if [ "$said" = / ]; then ok "docker: its own control group"; else bad "docker: its own control group" "$said"; fi
    said=$(pgrep -l '^mayfly')
    if [ "$(awk '{print $2}' <<<"$said")" = mayflyd ]; then ok "docker: mayflyd alone"; else bad "docker: mayflyd alone" "$said"; fi
    said=$(grep -E '^(Uid|CapEff|NoNewPrivs|Groups):' "/proc/$(pid_of mayflyd)/status" | tr -s '\t ' ' ')
    if grep -q "^Uid: $(id -u mayfly) " <<<"$said" && grep -q '^CapEff: 0*$' <<<"$said" && grep -q '^NoNewPrivs: 1' <<<"$said" &&
        grep '^Groups:' <<<"$said" | grep -qw "$(getent group docker | cut -d: -f3)"; then ok "docker: mayflyd has the group, and no more"
    else bad "docker: mayflyd has the group, and no more" "$said"; fi
    outlives "docker: a task outlives the restart of mayflyd" docker_runs
    old=$(pid_of mayflyd)
    kill -9 "$old"
    if eventually other_pid mayflyd "$old" && eventually serves && eventually task true; then ok "docker: kill -9 of mayflyd, the next one serves"
    else bad "docker: kill -9 of mayflyd" "$(systemctl status --no-pager -n 10 mayflyd 2>&1 | tail -n 20)"; fi
    systemctl stop docker.service docker.socket
    if eventually unwell; then ok "docker: health says that Docker is away"; else bad "docker: health says that Docker is away" "$(health)"; fi
    systemctl start docker.service
    if eventually task true; then ok "docker: it comes back with Docker"; else bad "docker: it comes back with Docker" "$(health)"; fi
}
health() { curl -s --unix-socket /run/mayfly/mayfly.sock http://mayfly/v1/health; }
docker_runs() { [ -n "$(docker ps -q)" ]; } # it may take long to start it
unwell() { health | grep -q 'Docker cannot be used'; }
if wants docker; then systemd_docker; fi

# ── systemd-resolved as the machine's resolver ──

answers=203.0.113.7 # tests/network/dns_tools.py, to whatever is asked
serve_names() { # ADDRESS: a DNS server there, whom resolved is told of
    python3 tests/network/dns_tools.py serve 4 "$1" plain /root/dns.log &
    names=$!
    mkdir -p /etc/systemd/resolved.conf.d
    printf '[Resolve]\nDNS=%s\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n' "$1" >/etc/systemd/resolved.conf.d/test.conf
    systemctl restart systemd-resolved
    eventually grep -qx "nameserver $1" /run/systemd/resolve/resolv.conf
}
tells() { task "${@:2}" 2>&1 | grep -qF "$1"; } # TEXT COMMAND…
names_of() { # TITLE, whom tasks are to ask
    if eventually tells "nameserver $2" cat /etc/resolv.conf && eventually tells "$answers" nslookup name.test; then
        ok "$1"
    else
        bad "$1" "$(task sh -c 'cat /etc/resolv.conf; nslookup name.test' 2>&1; cat /run/systemd/resolve/resolv.conf; tail -n 5 /root/resolved.log)"
    fi
}

resolved() {
    command -v resolvectl >/dev/null || { bad resolved "systemd-resolved was not brought along"; return; }
    local before serve names
    before=$(readlink /etc/resolv.conf || true)
    [ -n "$before" ] || cp /etc/resolv.conf /root/resolv.conf
    ip link add up0 type dummy && ip addr add 198.51.100.53/24 dev up0 && ip link set up0 up && ip route add default via 198.51.100.1
    serve_names 127.0.0.1 || bad resolved "$(systemctl status --no-pager -n 10 systemd-resolved 2>&1 | tail -n 15)"
    ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
    if eventually sh -c "getent hosts name.test | grep -q $answers"; then ok "resolved: the machine's own names"; else bad "resolved: the machine's own names" "$(resolvectl status 2>&1 | head -n 20)"; fi
    build/mayfly serve --data /srv/resolved --network.default nat --registries.enabled false >/root/resolved.log 2>&1 &
    serve=$!
    eventually serves
    tools/busybox-image.sh | build/mayfly import - busybox:demo >/dev/null 2>&1 || bad "resolved: import" "status $?"
    task() { build/mayfly run busybox:demo "$@"; }
    names_of "resolved: its server is on loopback: tasks ask mayfly-dns" 10.213.0.1
    kill "$names"
    wait "$names" 2>/dev/null
    serve_names 198.51.100.53
    names_of "resolved: its server is elsewhere: tasks ask it themselves" 198.51.100.53
    kill "$names" "$serve"
    wait "$names" "$serve" 2>/dev/null
    if [ -n "$before" ]; then ln -sf "$before" /etc/resolv.conf; else rm /etc/resolv.conf && cp /root/resolv.conf /etc/resolv.conf; fi
    ip link del up0
    rm -rf /etc/systemd/resolved.conf.d/test.conf /srv/resolved
    rmdir --ignore-fail-on-non-empty /etc/systemd/resolved.conf.d
    systemctl stop systemd-resolved
}
if wants resolved; then resolved; fi

tests/leftover/check.py --compare /root/before.json --wait 20 || failed=1
exit "$failed"
