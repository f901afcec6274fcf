#!/usr/bin/env bash
# Installs what is missing on Debian 12 and makes the system users. Does nothing where nothing is missing.
#
#   tools/setup.sh LIST…              lists: run build demo test release bench
#   tools/setup.sh --print LIST…      only says which packages they name
set -euo pipefail

declare -A packages=(
    [run]="libmicrohttpd12 libjansson4 libyaml-0-2 libsqlite3-0 libcurl4 libwslay1 libssl3 libmnl0 nftables"
    [build]="gcc libc6-dev make meson ninja-build pkg-config libmicrohttpd-dev libseccomp-dev
        libmnl-dev libjansson-dev libyaml-dev libarchive-dev libsqlite3-dev libcurl4-openssl-dev libwslay-dev libssl-dev
        zlib1g-dev libzstd-dev libcmocka-dev nftables python3"
    [demo]="busybox-static curl"
    [test]="busybox-static curl dnsmasq-base unbound iptables docker.io python3 iproute2 procps util-linux clang libclang-rt-14-dev clang-format
        clang-tidy cppcheck gcovr umoci skopeo podman buildah docker-registry apache2-utils zstd slowhttptest strace openssl zsh fish mandoc openssh-server openssh-client
        haproxy nginx-light tinyproxy-bin golang-go nodejs node-ws python3-requests python3-websocket python3-jsonschema
        libcurl4-openssl-dev catatonit runc python3-yaml socat e2fsprogs chromium"
    [release]="debootstrap qemu-system-x86 cpio gcc-aarch64-linux-gnu qemu-user"
    [bench]="bubblewrap runc crun podman docker.io busybox-static python3 skopeo umoci docker-registry zstd"
)

usage() { sed -n '2,5s/^# \?//p' "$0"; }

print=
[ "${1:-}" != --print ] || { print=1; shift; }
[ $# -gt 0 ] || { usage >&2; exit 2; }
wanted=
for list in "$@"; do
    case $list in -h | --help) usage; exit 0 ;; esac
    [ -n "${packages[$list]:-}" ] || { echo "setup: there is no list '$list'" >&2; usage >&2; exit 2; }
    wanted+=" ${packages[$list]}"
done
if [ -n "$print" ]; then tr -s ' \n' '\n' <<<"$wanted" | sed '/^$/d' | sort -u; exit; fi
[ "$(id -u)" = 0 ] || { echo "setup: run it as root: sudo $0 $*" >&2; exit 1; }

missing=()
for package in $(tr -s ' \n' '\n' <<<"$wanted" | sort -u); do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { echo "setup: no apt-get here; install: ${missing[*]}" >&2; exit 1; }
    echo "setup: installing ${missing[*]}"
    # Services that come with a package stay stopped: policy-rc.d forbids their start while we install.
    policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made_policy=1
    fi
    log=$(mktemp)
    trap '[ -z "$made_policy" ] || rm -f "$policy"; rm -f "$log"' EXIT
    export DEBIAN_FRONTEND=noninteractive
    install() { apt-get install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
    # The package lists may be absent or old; asking for them first is the slower half, so only when it must be.
    install || { apt-get update -q >"$log" 2>&1 && install; } || {
        echo "setup: apt-get failed:" >&2
        tail -n 20 "$log" >&2
        exit 1
    }
fi

make_user() {
    getent passwd "$1" >/dev/null && return
    echo "setup: making the system user $1"
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$1"
}
make_user mayfly
make_user mayfly-net
make_user mayfly-dns
