#!/usr/bin/env bash
# What the drop-ins for the engine docker make of mayflyd's unit, as systemd reads it: a tree of the units, of programs that are
# none of ours, and of systemd's own targets. What they do when they run, tests/vm shows.
#
#   tests/docker/units.sh
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
command -v systemd-analyze >/dev/null && [ -d /usr/lib/systemd/system ] || { echo "skip - docker/units: no systemd here"; exit 0; }
root=$(mktemp -d /tmp/mayfly-units.XXXXXX)
trap 'rm -rf "$root"' EXIT
failed=0
units=$root/usr/lib/systemd/system
dropin=$root/etc/systemd/system/mayflyd.service.d/docker.conf

install -D -m 644 -t "$units" "$top"/contrib/systemd/*.service "$top"/contrib/systemd/*.socket
cp -P /usr/lib/systemd/system/*.target /usr/lib/systemd/system/-.slice "$units/" 2>/dev/null || true
printf '[Service]\nExecStart=/usr/bin/true\n' >"$units/docker.service"
for program in usr/bin/true usr/bin/kill usr/libexec/mayfly/mayfly{d,-launcher,-netd,-dns,-supervisor}; do
    install -D /bin/true "$root/$program"
done

verify() { # TITLE: says nothing, and ends well
    local said status=0
    said=$(systemd-analyze verify --root="$root" --recursive-errors=yes mayflyd.service 2>&1) || status=$?
    if [ "$status" = 0 ] && [ -z "$said" ]; then echo "ok - docker/units: $1"
    else echo "not ok - docker/units: $1: status $status: ${said//$'\n'/; }"; failed=1; fi
}

verify "without a drop-in"
for file in mayflyd-docker mayflyd-docker-only; do
    install -D -m 644 "$top/contrib/systemd/$file.conf" "$dropin"
    verify "$file.conf"
done
# It would tell: what is wrong is seen.
echo 'SupplementaryGrops=docker' >>"$dropin"
if systemd-analyze verify --root="$root" mayflyd.service 2>&1 | grep -q SupplementaryGrops; then echo "ok - docker/units: a drop-in that is wrong is told of"
else echo "not ok - docker/units: a drop-in that is wrong is told of: it is not"; failed=1; fi
exit "$failed"
