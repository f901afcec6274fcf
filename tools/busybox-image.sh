#!/usr/bin/env bash
# Writes a root file system with the machine's own static busybox, as tar, to standard output.
set -euo pipefail

busybox=$(command -v busybox) || { echo "busybox-image: no busybox here: apt-get install busybox-static" >&2; exit 1; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,etc,root,home,tmp,var,usr}
chmod 755 "$root"
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
# One process for all links: hundreds take a minute where the machine is emulated.
"$busybox" --list | grep -vx busybox |
    perl -lne 'BEGIN { $bin = shift } symlink "busybox", "$bin/$_" or die "$_: $!\n"' "$root/bin"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
tar -C "$root" --numeric-owner --owner=0 --group=0 --sort=name -cf - .
