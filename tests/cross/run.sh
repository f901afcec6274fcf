#!/usr/bin/env bash
# Builds everything for 64-bit ARM, and runs there what needs no kernel of that kind: unit tests and corpora of what computes
# (the generated seccomp program among them), the small init, the command. The emulator of user space lacks the system calls
# of which containers are made (clone3's flags, openat2, the mount API), so they are not started.
#
#   tests/cross/run.sh
#
# MAYFLY_CROSS_CACHE: where that architecture's libraries are kept (/var/cache/mayfly-arm64). MAYFLY_VM_MIRROR: of Debian.
set -euo pipefail
cd "$(dirname "$0")/../.."

tests='^(fuzz_|json/|wire/|history/codec|http/|loop/|net/(forward|msg|names|pool|resolv|scrub)|launcher/(ceiling|seccomp)'
tests+='|image/(changes|corpus_ref|manifest|users)|base/(encoding|err|fd|list|log|map|program|str|time|units)|api/text'
tests+='|cli/options|daemon/(config|notify))'

[ "$(id -u)" = 0 ] || { echo "skip - cross: debootstrap needs root"; exit 0; }
for program in aarch64-linux-gnu-gcc qemu-aarch64 debootstrap; do
    command -v "$program" >/dev/null || { echo "skip - cross: $program is not here"; exit 0; }
done

# ── its libraries: unpacked only, nothing of them is installed here ──

packages=$(tools/setup.sh --print build | grep -xE 'z?lib[a-z0-9.-]+-dev' | paste -sd,)
cache=${MAYFLY_CROSS_CACHE:-/var/cache/mayfly-arm64}/$(sha256sum <<<"$packages" | cut -c1-12)
mirror() {
    [ -z "${MAYFLY_VM_MIRROR:-}" ] || { echo "$MAYFLY_VM_MIRROR"; return; }
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}
build_sysroot() {
    local proxy deb link
    rm -rf "$cache"
    mkdir -p "$cache/sysroot"
    proxy=$(apt-config shell p Acquire::http::Proxy | sed "s/^p='\(.*\)'$/\1/")
    ${proxy:+env http_proxy="$proxy"} debootstrap --arch=arm64 --foreign --variant=minbase --include="$packages" \
        bookworm "$cache/packages" "$(mirror)" >"$cache/log" 2>&1 || { tail -n 5 "$cache/log"; return 1; }
    for deb in "$cache"/packages/var/cache/apt/archives/*.deb; do dpkg-deb -x "$deb" "$cache/sysroot"; done
    # The linker follows links as this machine does, and would find its own libraries.
    find "$cache/sysroot" -type l -lname '/*' | while IFS= read -r link; do
        ln -sfn "$(realpath -ms --relative-to="$(dirname "$link")" "$cache/sysroot$(readlink "$link")")" "$link"
    done
    rm -rf "$cache/packages"
    touch "$cache/ready"
}
mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
[ -e "$cache/ready" ] || build_sysroot || { echo "not ok - cross: no libraries of arm64"; exit 1; }
exec 9>&-
sysroot=$cache/sysroot

# ── build ──

work=$(mktemp -d /tmp/mayfly-cross.XXXXXX)
trap 'rm -rf "$work"' EXIT
cat >"$work/sysroot.ini" <<INI
[binaries]
exe_wrapper = ['qemu-aarch64', '-L', '$sysroot']

[properties]
sys_root = '$sysroot'
pkg_config_libdir = '$sysroot/usr/lib/aarch64-linux-gnu/pkgconfig:$sysroot/usr/share/pkgconfig'

[built-in options]
c_args = ['--sysroot=$sysroot']
c_link_args = ['--sysroot=$sysroot']
INI
failed=0
ok() { echo "ok - cross: $1"; }
bad() { echo "not ok - cross: $1: $2"; failed=1; }

build=$work/build
if meson setup --cross-file tools/aarch64.ini --cross-file "$work/sysroot.ini" "$build" >"$work/log" 2>&1 &&
    ninja -C "$build" >>"$work/log" 2>&1; then
    ok "everything builds"
else
    tail -n 40 "$work/log"
    bad "everything builds" "see above"
    exit 1
fi
for program in "$build"/mayfly*; do
    [ -f "$program" ] || continue
    # e_machine, EM_AARCH64 (elf(5))
    machine=$(od -An -tu2 -j18 -N2 "$program" | tr -d ' ')
    [ "$machine" = 183 ] || bad "${program##*/} is for ARM" "its machine is $machine"
done

# ── run what runs ──

mapfile -t names < <(meson test -C "$build" --list 2>/dev/null | sed 's/.* \/ //' | grep -E "$tests" | grep -vxF fuzz_unpack)
if [ ${#names[@]} -lt 30 ]; then bad "its tests are found" "only ${#names[@]}"; fi
if meson test -C "$build" --no-rebuild --print-errorlogs --timeout-multiplier 10 "${names[@]}" >"$work/log" 2>&1; then
    ok "${#names[@]} unit tests and corpora"
else
    cat "$work/log"
    bad "unit tests and corpora" "$(grep -cE ' (FAIL|TIMEOUT|ERROR) ' "$work/log") of ${#names[@]} fail"
fi
run() { qemu-aarch64 -L "$sysroot" "$@"; }

version=$(run "$build/mayfly" version 2>/dev/null | head -n 1) || true # no daemon answers it
if [[ $version == "mayfly "[0-9]* ]]; then ok "the command"; else bad "the command" "its version is '$version'"; fi
# Its reports, of 24 bytes each (report.h): the last is how its child ended.
status=0
run -0 /bin/sh "$build/mayfly-init" -c 'exit 7' 3>"$work/report" || status=$?
if [ "$status" = 7 ] && [ "$(tail -c 24 "$work/report" | od -An -td4 -N12 | tr -s ' ')" = " 3 1 7" ]; then
    ok "the small init"
else
    bad "the small init" "status $status, $(od -An -td4 "$work/report" | tr '\n' ' ')"
fi
exit "$failed"
