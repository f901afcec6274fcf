#!/usr/bin/env bash
# The README's two commands, as typed, on a clean Debian 12: a root made by debootstrap, entered by a mount namespace and
# pivot_root (in a plain chroot, user namespaces are refused), with this tree as a fresh clone in it; and that nothing is
# left afterwards. Takes as long as they do, and a minute for the root.
#
#   tests/debootstrap/run.sh [--keep] [demo] [test]      --keep leaves the root for a look, and says where
#
# MAYFLY_ROOT_CACHE: where the clean root is kept (/var/cache/mayfly-root).
set -euo pipefail
cd "$(dirname "$0")/../.."

keep=
[ "${1:-}" != --keep ] || { keep=1; shift; }
parts=${*:-demo test}
[ "$(id -u)" = 0 ] || { echo "skip - debootstrap: needs root"; exit 0; }
for program in debootstrap git unshare; do
    command -v "$program" >/dev/null || { echo "skip - debootstrap: $program is not here"; exit 0; }
done

cache=${MAYFLY_ROOT_CACHE:-/var/cache/mayfly-root}
mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}
mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
if [ ! -e "$cache/ready" ]; then
    rm -rf "$cache"
    mkdir -p "$cache"
    proxy=$(apt-config shell p Acquire::http::Proxy | sed "s/^p='\(.*\)'$/\1/")
    # What a Debian of the installer has beyond the minimal one and the README's commands take for granted.
    ${proxy:+env http_proxy="$proxy"} debootstrap --variant=minbase --include=ca-certificates,git,sudo,systemd-sysv \
        bookworm "$cache/root" "$(mirror)" >"$cache/log" 2>&1 ||
        { tail -n 5 "$cache/log"; echo "not ok - debootstrap: no clean root"; exit 1; }
    rm -rf "$cache"/root/var/cache/apt/archives/*.deb
    touch "$cache/ready"
fi
exec 9>&-

work=$(mktemp -d /tmp/mayfly-root.XXXXXX)
chmod 755 "$work"
root=$work/root
finish() {
    if [ -n "$keep" ]; then echo "debootstrap: the root is $root"; else rm -rf --one-file-system "$work"; fi
}
trap finish EXIT
cp -a --reflink=auto "$cache/root" "$root"
# The machine's way to its packages.
for path in /etc/apt/apt.conf.d /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/keyrings /etc/apt/auth.conf.d \
    /usr/local/share/ca-certificates /etc/ssl/certs; do
    [ -e "$path" ] && mkdir -p "$root$(dirname "$path")" && rm -rf "${root:?}$path" && cp -aL "$path" "$root$path"
done
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
{ cat /etc/hosts; echo "127.0.1.1 $(uname -n)"; } >"$root/etc/hosts"
# A fresh clone, with what is not committed left out.
git clone -q --no-hardlinks . "$root/root/mayfly"
corpora=$(realpath -m "${MAYFLY_CORPORA:-../shared/corpora}")
[ ! -d "$corpora" ] || { mkdir -p "$root/root/shared" && cp -a "$corpora" "$root/root/shared/corpora"; }
cp tests/debootstrap/inside.sh "$root/inside.sh"

before=$work/before.json
python3 tests/leftover/check.py --save "$before" >/dev/null
start=$SECONDS status=0
# A pid namespace, so that what a failed run leaves is gone with it; what must be nothing is compared before that, inside.
unshare --mount --pid --fork --kill-child --propagation private -- bash -euc '
    root=$1
    mount --bind "$root" "$root"
    mkdir -p "$root/old"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for node in null zero full random urandom tty loop-control $(cd /dev && echo loop[0-9]*); do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
    mkdir "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    mount -t tmpfs shm "$root/dev/shm"
    for n in 0 1 2; do ln -s "/proc/self/fd/$n" "$root/dev/$(printf "stdin\nstdout\nstderr" | sed -n "$((n + 1))p")"; done
    ln -s /proc/self/fd "$root/dev/fd"
    mount -t tmpfs -o mode=755 run "$root/run"
    cd "$root"
    pivot_root . old
    umount -l /old
    rmdir /old
    exec env -i HOME=/root TERM="${TERM:-dumb}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        MAYFLY_LONG= /bin/bash /inside.sh $2
' bash "$root" "$parts" || status=$?
echo "debootstrap: $((SECONDS - start)) s"
python3 tests/leftover/check.py --compare "$before" --wait 20 || status=1
[ "$status" = 0 ]
