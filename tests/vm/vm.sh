#!/usr/bin/env bash
# Boots a fresh Debian 12 (its own kernel 6.1, systemd, pure cgroup v2, AppArmor) and runs a command in it as root. What
# the command prints comes out here, its exit status is this script's. Nothing of a run is kept.
#
#   tests/vm/vm.sh [-p "PACKAGE …"] [-c SOURCE:DESTINATION]… [-m MEMORY] [-s SIZE] [-t SECONDS] -- COMMAND…
#
#   -p  packages beyond the minimal system: the base with them is built once and cached
#   -c  a file or folder to copy in            -m  memory (2G)     -s  disk (4G)     -t  time limit (900)
#
# MAYFLY_VM_CACHE: where bases are kept (/var/cache/mayfly-vm). MAYFLY_VM_ACCEL: tcg, or kvm where that works, which is ten
# times as fast. MAYFLY_VM_MIRROR: of Debian. There is no network in the machine.
# Exit 77: something that this needs is not here; the reason is on standard error.
set -euo pipefail

usage() { sed -n '5,12s/^# \?//p' "$0" >&2; exit 2; }

packages= copies=() memory=2G size=4G limit=900
while getopts p:c:m:s:t: o; do
    case $o in
    p) packages=$OPTARG ;; c) copies+=("$OPTARG") ;; m) memory=$OPTARG ;; s) size=$OPTARG ;; t) limit=$OPTARG ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage

for program in qemu-system-x86_64 debootstrap busybox mke2fs cpio; do
    command -v "$program" >/dev/null || { echo "vm: $program is not here" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "vm: building the base needs root" >&2; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "vm: this recipe is for x86-64" >&2; exit 77; }

# ── the base: built once for a set of packages ──

minimal="linux-image-cloud-amd64 systemd systemd-sysv udev dbus apparmor iproute2 nftables procps kmod"
all=$(tr -s ' \n' '\n' <<<"$minimal $packages" | sed '/^$/d' | sort -u | paste -sd,)
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk"
# What this file says is part of the name: another recipe is another base.
base=${MAYFLY_VM_CACHE:-/var/cache/mayfly-vm}/$({ echo "$all"; sed -n '/^build_base/,/^}/p' "$0"; } | sha256sum | cut -c1-12)

# apt's proxy and sources are the machine's own.
mirror() {
    [ -z "${MAYFLY_VM_MIRROR:-}" ] || { echo "$MAYFLY_VM_MIRROR"; return; }
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}

build_base() {
    rm -rf "$base"
    mkdir -p "$base"
    local proxy root=$base/root wants
    proxy=$(apt-config shell p Acquire::http::Proxy | sed "s/^p='\(.*\)'$/\1/")
    ${proxy:+env http_proxy="$proxy"} debootstrap --variant=minbase --include="$all" bookworm "$root" "$(mirror)" \
        >"$base/log" 2>&1 || { tail -n 5 "$base/log" >&2; return 1; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/{doc,man,locale}/*
    echo "/dev/vda / ext4 rw 0 1" >"$root/etc/fstab"
    echo vm >"$root/etc/hostname"
    ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
    # One serial line for the console, another for the command's output, a third for its status.
    cat >"$root/etc/systemd/system/vm-run.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/vm-command >/dev/ttyS1 2>&1 </dev/null; echo "status $?" >/dev/ttyS2; sync; systemctl poweroff -ff'
TimeoutStartSec=infinity
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
UNIT
    wants=$root/etc/systemd/system/multi-user.target.wants
    mkdir -p "$wants"
    ln -sf ../vm-run.service "$wants/vm-run.service"

    local kernel version module
    kernel=$(basename "$root"/boot/vmlinuz-*)
    version=${kernel#vmlinuz-}
    cp "$root/boot/$kernel" "$base/vmlinuz"
    local initrd=$base/initrd.d
    mkdir -p "$initrd"/{bin,mods,newroot,proc,dev}
    cp "$(command -v busybox)" "$initrd/bin/busybox"
    for module in $modules; do
        find "$root/lib/modules/$version" -name "$module.ko" -exec cp {} "$initrd/mods/" \;
    done
    cat >"$initrd/init" <<INIT
#!/bin/busybox sh
B=/bin/busybox
for m in $modules; do \$B insmod /mods/\$m.ko 2>/dev/null; done
\$B mount -t devtmpfs dev /dev
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -b /dev/vda ] && break; \$B sleep 0.1; done
\$B mount -t ext4 /dev/vda /newroot
\$B umount /dev
exec \$B switch_root /newroot /sbin/init
INIT
    chmod +x "$initrd/init"
    (cd "$initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$base/initrd.gz"
    touch "$base/ready"
}
mkdir -p "$(dirname "$base")"
(
    flock 9
    [ -e "$base/ready" ] || build_base
) 9>"$base.lock"

# ── one run ──

run() {
    local cpu accel copy status
    work=$(mktemp -d /tmp/mayfly-vm.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    cp -a --reflink=auto "$base/root" "$work/root"
    for copy in ${copies+"${copies[@]}"}; do
        mkdir -p "$work/root$(dirname "${copy#*:}")"
        cp -aT "${copy%%:*}" "$work/root${copy#*:}"
    done
    {
        printf '#!/bin/bash\ncd /root\n'
        printf '%q ' "$@"
        echo
    } >"$work/root/vm-command"
    chmod +x "$work/root/vm-command"
    truncate -s "$size" "$work/disk"
    mke2fs -q -t ext4 -d "$work/root" "$work/disk"
    rm -rf "$work/root"

    case ${MAYFLY_VM_ACCEL:-tcg} in
    kvm) accel="-accel kvm" cpu=max,-arch-capabilities ;; # nested machines often cannot set that register
    *) accel="-accel tcg,thread=multi" cpu=max ;;
    esac
    # The output is shown while it comes: a run takes minutes.
    : >"$work/out"
    tail -f --pid=$$ "$work/out" 2>/dev/null | stdbuf -o0 tr -d '\r' &
    # shellcheck disable=SC2086 # the accelerators are words
    timeout -k 5 "$limit" qemu-system-x86_64 $accel -cpu "$cpu" -smp 2 -m "$memory" -display none -no-reboot -net none \
        -kernel "$base/vmlinuz" -initrd "$base/initrd.gz" -append "console=ttyS0 quiet panic=-1 apparmor=1 security=apparmor" \
        -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" \
        -serial "file:$work/console" -serial "file:$work/out" -serial "file:$work/status" </dev/null >"$work/qemu" 2>&1 ||
        echo "vm: qemu ended with $?" >&2
    sleep 1
    jobs -p | xargs -r kill 2>/dev/null || true
    status=$(sed -n 's/^status \([0-9]*\).*/\1/p' "$work/status" 2>/dev/null | head -n 1)
    [ -n "$status" ] || {
        echo "vm: no status: out of time, or the machine went down" >&2
        tail -n 20 "$work/console" "$work/qemu" >&2
        exit 124
    }
    exit "$status"
}
# In a function, so that the file may change while this takes its minutes.
run "$@"; exit
