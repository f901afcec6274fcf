#!/usr/bin/env bash
# The README's two commands, the whole-program tests and the systemd units in a machine with Debian 12's own kernel,
# systemd and pure cgroup v2; and that nothing is left afterwards. With KVM some minutes; without, ten times as long.
#
#   tests/vm/run.sh [PART…]      parts: demo test systemd (all of these), resolved (with systemd-resolved in the machine),
#                                docker (with docker.io: Docker as the only engine, by the drop-in of contrib/systemd)
#
# MAYFLY_VM_ONLY: a pattern for the suites of the part `test`. MAYFLY_VM_SECONDS: the time limit (3600).
set -euo pipefail
cd "$(dirname "$0")/../.."

build=${MAYFLY_BUILD:-$PWD/build}
stage=$(mktemp -d /tmp/mayfly-vm-stage.XXXXXX)
trap 'rm -rf "$stage"' EXIT

# What the tree is without its sources: the tools see that there is nothing to build.
tree=$stage/tree
mkdir -p "$tree/build/tests"
git ls-files -z -- . ':!src' | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
done | xargs -0 cp --parents -t "$tree"
for program in mayfly mayflyd mayfly-supervisor mayfly-launcher mayfly-netd mayfly-dns mayfly-worker mayfly-init; do
    [ -x "$build/$program" ] || { echo "not ok - vm: $build/$program is not built"; exit 1; }
    cp "$build/$program" "$tree/build/"
done
gcc -std=gnu17 -O2 -D_GNU_SOURCE -static tests/isolation/probe*.c -o "$tree/build/tests/probe"
gcc -std=gnu17 -O2 -D_GNU_SOURCE -static tests/kill/clear.c -o "$tree/build/tests/clear"
# Other tests' programs that need no compiler there.
(cd "$build" && find tests -type f -perm /111 ! -path '*.p/*' -exec cp -n --parents -t "$tree/build" {} +)

mkdir -p "$tree/build/contrib" && cp -r "$build/contrib/man1" "$tree/build/contrib/"

# As `make install PREFIX=/usr` and contrib/systemd/README.md say.
root=$stage/root
install -D -t "$root/usr/bin" "$build/mayfly"
install -D -t "$root/usr/libexec/mayfly" "$build"/mayfly{d,-supervisor,-launcher,-netd,-dns,-worker,-init}
install -D -m 644 -t "$root/usr/lib/systemd/system" contrib/systemd/*.service contrib/systemd/*.socket
install -D -m 644 contrib/systemd/mayfly.sysusers "$root/usr/lib/sysusers.d/mayfly.conf"
install -D -m 644 contrib/systemd/mayfly.tmpfiles "$root/usr/lib/tmpfiles.d/mayfly.conf"
tar -C "$root" -cf "$stage/root.tar" .

# debootstrap does not choose among those that provide what skopeo wants: netavark does.
# Of the tests' packages all but compilers, what takes long to install, and services that would start with the machine.
packages="$(tools/setup.sh --print run demo test | grep -vE '^(clang|cppcheck|gcovr|golang|node|docker.io|podman|chromium|unbound|haproxy|nginx|.*-dev$)' | xargs) git netavark ${MAYFLY_VM_PACKAGES:-}"
# Nobody else's network is changed by it: the machine is not kept. Alone it needs little else, which is there sooner.
case " $* " in
" resolved ") packages="$(tools/setup.sh --print run demo | xargs) python3 systemd-resolved" ;;
" docker ") packages="$(tools/setup.sh --print run demo | xargs) python3 docker.io iptables" ;;
*)
    case " $* " in *" resolved "*) packages+=" systemd-resolved" ;; esac
    case " $* " in *" docker "*) packages+=" docker.io" ;; esac
    ;;
esac
start=$SECONDS status=0
copies=(-c "$tree:/opt/mayfly" -c "$stage/root.tar:/opt/root.tar")
corpora=${MAYFLY_CORPORA:-../shared/corpora}
[ ! -d "$corpora" ] || copies+=(-c "$(realpath "$corpora"):/opt/shared/corpora")
tests/vm/vm.sh -p "$packages" "${copies[@]}" -m 4G -t "${MAYFLY_VM_SECONDS:-3600}" -- \
    env MAYFLY_VM_ONLY="${MAYFLY_VM_ONLY:-}" /opt/mayfly/tests/vm/inside.sh "$@" || status=$?
if [ "$status" = 77 ]; then
    echo "skip - vm: see the line above"
    exit 0
fi
echo "vm: $((SECONDS - start)) s"
[ "$status" = 0 ] || { echo "not ok - vm: status $status"; exit 1; }
