# What the tests of the command share; sourced. Sets $mayfly and $dir, which goes away at the end; $bad is set by a failure.
set -uo pipefail

mayfly=$MAYFLY_BUILD/mayfly
dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
bad=

ok() { echo "ok - $1"; }
not_ok() { echo "not ok - $1: $2"; bad=1; }
# check NAME COMMAND…      by its status
check() { local name=$1; shift; if "$@" >"$dir/check" 2>&1; then ok "$name"; else not_ok "$name" "$(head -c 300 "$dir/check" | tr '\n' ' ')"; fi; }

# expect NAME STATUS STDOUT-REGEX STDERR-REGEX -- COMMAND…   (each regex over the whole stream; "" means empty; "1|125" one of both)
expect() {
    local name=$1 status=$2 out=$3 err=$4 got why=
    shift 5
    "$@" >"$dir/out" 2>"$dir/err"
    got=$?
    [[ "|$status|" == *"|$got|"* ]] || why="status $got, expected $status"
    if [ -z "$out" ]; then [ ! -s "$dir/out" ] || why+=" stdout is not empty"; else tr '\n' ' ' <"$dir/out" | grep -qE -- "$out" || why+=" stdout: $(head -c 300 "$dir/out" | tr '\n' ' ')"; fi
    if [ -z "$err" ]; then [ ! -s "$dir/err" ] || why+=" stderr: $(head -c 300 "$dir/err" | tr '\n' ' ')"; else tr '\n' ' ' <"$dir/err" | grep -qE -- "$err" || why+=" stderr: $(head -c 300 "$dir/err" | tr '\n' ' ')"; fi
    if [ -z "$why" ]; then ok "$name"; else not_ok "$name" "$why"; fi
}
