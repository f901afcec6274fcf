#!/usr/bin/env bash
# Starts mayfly-launcher and mayfly-netd on their own, runs the conformance suite over the native engine as the daemon's
# user, and looks whether anything is left over. With --engine docker: over a dockerd of its own (docker.sh); with podman: the
# same engine over Podman's service (podman.py).
#
#   sudo tests/conformance/run.sh [--engine native|docker|podman] [--only TEXT]
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
if [ "${1:-}" = --engine ]; then
    engine=${2:-}
    shift 2
    case $engine in
    native) ;;
    docker) exec "$top/tests/conformance/docker.sh" "$@" ;;
    podman) exec python3 "$top/tests/conformance/podman.py" "$@" ;;
    *) echo "there is no engine '$engine'" >&2; exit 2 ;;
    esac
fi
build=${MAYFLY_BUILD:-$top/build}
programs=${MAYFLY_PROGRAMS:-$build} # launcher and netd
[ -x "$programs/mayfly-launcher" ] || programs=$build/../libexec/mayfly
name=mfc$((RANDOM % 1000)) pool=10.$((150 + RANDOM % 50))
dir=$(mktemp -d /tmp/mayfly-conformance.XXXXXX)
chmod 755 "$dir"
uid=$(id -u mayfly) gid=$(id -g mayfly) net_uid=$(id -u mayfly-net) net_gid=$(id -g mayfly-net)
pids=()

stop() {
    local pid
    for pid in ${pids[@]+"${pids[@]}"}; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in ${pids[@]+"${pids[@]}"}; do
        wait "$pid" 2>/dev/null || true
    done
    pids=()
}
trap 'stop; rm -rf "$dir"' EXIT

# What must be the same before and after. Others may run beside us, so only what carries our name or lies in our directory.
left_over() {
    find /sys/fs/cgroup -type d -name "$name*" 2>/dev/null || true
    grep -F "$dir" /proc/self/mountinfo || true
    nft list tables 2>/dev/null | grep -w "$name" || true
    ip -o route show table all 2>/dev/null | grep -F "$pool." || true
    pgrep -x mf-escaped || true
}
# Leaves and links of containers, while launcher and netd still run: those that wait for their next use do not count.
busy() {
    local procs
    for procs in $(find /sys/fs/cgroup -path "*/$name/*" -name cgroup.procs 2>/dev/null); do
        case $procs in */launcher/* | */workers/*) continue ;; esac
        [ -z "$(cat "$procs" 2>/dev/null)" ] || echo "$procs: $(cat "$procs")"
    done
    pgrep -x mf-escaped || true
}

mkdir -m 755 "$dir/image" "$dir/run"
mkdir -m 700 "$dir/store"
install -d -m 700 -o "$uid" -g "$gid" "$dir/state"
install -d -m 700 -o "$net_uid" -g "$net_gid" "$dir/netd"
"$top/tools/busybox-image.sh" | tar -C "$dir/image" -xf -
install -m 755 "$build/tests/conformance/conformance-helper" "$dir/image/bin/helper"
tar -C "$dir/image" --numeric-owner --owner=0 --group=0 --sort=name -cf "$dir/image.tar" .
chmod 644 "$dir/image.tar"

install -m 600 /dev/null "$dir/launcher.conf"
cat >"$dir/launcher.conf" <<EOF
store $dir/store
socket $dir/run/launcher.sock
uid $uid
gid $gid
name $name
slots 256
EOF
ulimit -n "$(ulimit -Hn)"
"$programs/mayfly-launcher" --ceiling "$dir/launcher.conf" >"$dir/launcher.log" 2>&1 &
pids+=($!)
"$programs/mayfly-netd" --socket "$dir/run/netd.sock" --state "$dir/netd" --name "$name" --peer-uid "$uid" --peer-gid "$gid" \
    --user "$net_uid:$net_gid" --pool "$pool.0.0/16" --stock 16 --id-range "2013265920:$((2013265920 + 65536 * 257 - 1))" \
    >"$dir/netd.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    [ -S "$dir/run/launcher.sock" ] && [ -S "$dir/run/netd.sock" ] && break
    sleep 0.05
done

status=0
setpriv --reuid "$uid" --regid "$gid" --clear-groups "$build/tests/conformance/conformance" --engine native --launcher "$dir/run/launcher.sock" \
    --netd "$dir/run/netd.sock" --data "$dir/state" --image "$dir/image.tar" "$@" || status=$?

sleep 0.3
left=$(busy)
if [ -n "$left" ]; then echo "not ok - no process is left while the engine idles: ${left//$'\n'/; }"; status=1
else echo "ok - no process is left while the engine idles"; fi
for pid in "${pids[@]}"; do
    kill -0 "$pid" 2>/dev/null && continue
    echo "not ok - launcher and netd have lived on: one has not"
    status=1
done
stop
left=$(left_over)
if [ -n "$left" ]; then echo "not ok - nothing is left when all have stopped: ${left//$'\n'/; }"; status=1
else echo "ok - nothing is left when all have stopped"; fi
if grep -iE 'sanitizer|runtime error|assert' "$dir/launcher.log" "$dir/netd.log"; then
    echo "not ok - clean logs of launcher and netd"
    status=1
fi
[ "$status" = 0 ] || tail -n 20 "$dir/launcher.log" "$dir/netd.log"
exit "$status"
