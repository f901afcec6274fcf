#!/usr/bin/env bash
# The conformance suite over the Docker engine, with a dockerd of its own: its data, its socket, its control group and a network
# namespace that ends with it. Called by run.sh; needs Debian's docker.io. A container costs Docker some tenths of a second, so
# the tests of many containers make some only unless --long is given.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
build=${MAYFLY_BUILD:-$top/build}
command -v dockerd >/dev/null || { echo "skip - conformance, docker: needs Debian's docker.io"; exit 0; }
name=mfd$((RANDOM % 10000))
dir=$(mktemp -d /tmp/mayfly-docker.XXXXXX)
host=unix://$dir/docker.sock
docker=/usr/bin/docker
[ -x "$docker" ] || docker=docker
pid=

# dockerd ends its containerd; what it mounted lies below $dir.
stop() {
    [ -z "$pid" ] || { kill -TERM "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; }
    pid=
    { grep -F " $dir/" /proc/self/mountinfo || true; } | awk '{print $5}' | sort -r | while read -r at; do umount -l "$at" || true; done
    find /sys/fs/cgroup -depth -type d -path "*/$name*" -exec rmdir {} + 2>/dev/null || true
}
trap 'stop; rm -rf "$dir"' EXIT

unshare --net dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" -H "$host" --iptables=false \
    --ip6tables=false --ip-masq=false --cgroup-parent="/$name" --exec-opt native.cgroupdriver=cgroupfs >"$dir/log" 2>&1 &
pid=$!
for _ in $(seq 300); do
    "$docker" -H "$host" version >/dev/null 2>&1 && break
    sleep 0.1
done

mkdir -m 755 "$dir/image" "$dir/state"
"$top/tools/busybox-image.sh" | tar -C "$dir/image" -xf -
install -m 755 "$build/tests/conformance/conformance-helper" "$dir/image/bin/helper"
tar -C "$dir/image" --numeric-owner --owner=0 --group=0 --sort=name -cf "$dir/image.tar" .
"$docker" -H "$host" import -c 'CMD ["/bin/helper", "exit", "42"]' -c 'ENV FROM_IMAGE=yes OVERRIDDEN=no' \
    "$dir/image.tar" conformance:1 >/dev/null

# What is done very often is done some times only, unless all of it is asked for.
sample=1
if [ "${1:-}" = --long ] || [ -n "${MAYFLY_LONG:-}" ]; then sample=0; fi
[ "${1:-}" != --long ] || shift
status=0
MAYFLY_SLOW=${MAYFLY_SLOW:-5} "$build/tests/conformance/conformance" --engine docker --docker-host "$host" --name "$name" \
    --data "$dir/state" --sample "$sample" "$@" || status=$?

for _ in $(seq 50); do
    left=$("$docker" -H "$host" ps -aq | wc -l)
    [ "$left" = 0 ] && break
    sleep 0.1
done
# What the suite did not wait for is swept by the next one.
[ "$left" -le 1 ] || { echo "not ok - no container is left: $left are"; status=1; }
left=$(find "$dir/state/docker" -type f ! -name '.*' | wc -l)
[ "$left" -le 1 ] || { echo "not ok - no record is left: $left are"; status=1; }
stop
left=$(grep -F "$dir" /proc/self/mountinfo || true; find /sys/fs/cgroup -type d -name "$name*" 2>/dev/null || true)
if [ -n "$left" ]; then echo "not ok - nothing is left when Docker has stopped: ${left//$'\n'/; }"; status=1
else echo "ok - nothing is left when Docker has stopped"; fi
[ "$status" = 0 ] || tail -n 5 "$dir/log"
exit "$status"
