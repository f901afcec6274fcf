#!/usr/bin/env bash
# Sets up as demo.sh does and runs every test; the last line is `N passed, N failed, N skipped`.
#
#   sudo ./tools/test.sh                  everything, with a sample of the long tests
#   sudo ./tools/test.sh --long           the long tests whole (`make release-check`)
#   sudo ./tools/test.sh --installed      only what drives the built programs; builds nothing, needs no compiler
#   sudo ./tools/test.sh --only PATTERN   only suites whose names match
#
# Corpora come from $MAYFLY_CORPORA (../shared/corpora); their tests are skipped without them.
set -uo pipefail
cd "$(dirname "$0")/.."

long= installed= only=.
while [ $# -gt 0 ]; do
    case $1 in
    --long) long=1 ;;
    --installed) installed=1 ;;
    --only) [ $# -gt 1 ] || { echo "test: --only needs a pattern" >&2; exit 2; }; only=$2; shift ;;
    -h | --help) sed -n '2,10s/^# \?//p' "$0"; exit 0 ;;
    *) echo "test: unknown argument '$1'; see --help" >&2; exit 2 ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || { echo "test: containers need root: sudo $0" >&2; exit 1; }

top=$PWD
export MAYFLY_BUILD=${MAYFLY_BUILD:-$top/build}
MAYFLY_CORPORA=$(realpath -m "${MAYFLY_CORPORA:-../shared/corpora}")
export MAYFLY_CORPORA MAYFLY_LONG=$long
logs=$(mktemp -d /tmp/mayfly-test.XXXXXX)
chmod 755 "$logs"
trap 'rm -rf "$logs"' EXIT
passed=0 failed=0 skipped=0 failures=()

# Runs one suite that prints `ok - name`, `not ok - name: why` and `skip - name: reason`. A suite that ends badly
# without a `not ok` of its own counts as one.
suite() {
    local name=$1 log start ok bad skip status=0
    shift
    grep -qE "$only" <<<"$name" || return 0
    log=$logs/${name//\//-}
    start=$SECONDS
    "$@" >"$log" 2>&1 </dev/null || status=$?
    ok=$(grep -c '^ok - ' "$log")
    bad=$(grep -c '^not ok - ' "$log")
    skip=$(grep -c '^skip - ' "$log")
    [ "$status" = 0 ] || [ "$bad" -gt 0 ] || bad=1
    [ $((ok + bad + skip)) -gt 0 ] || { bad=1; echo "not ok - $name: it ran no test" >>"$log"; }
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
    printf '%-28s %5d passed %3d failed %3d skipped %4d s\n' "$name" "$ok" "$bad" "$skip" $((SECONDS - start))
    grep '^skip - ' "$log" | sed 's/^/    /'
    if [ "$bad" -gt 0 ]; then
        failures+=("$name")
        grep '^not ok - ' "$log" | head -n 20 | sed 's/^/    /'
        echo "    (status $status) the last lines:"
        tail -n 40 "$log" | cut -c1-240 | sed 's/^/    | /'
    fi
}

# Unit tests and fuzz corpora, by Meson; one line a test program.
meson_suite() {
    local dir=$1 report=$1/meson-logs/testlog.json
    rm -f "$report"
    meson test -C "$dir" --no-rebuild --print-errorlogs "${@:2}"
    python3 tools/meson-report.py "$report"
}

# The same under the address and undefined behaviour sanitizers; `make asan` runs the whole program so, too.
sanitized_suite() {
    make --silent unit-asan BUILD="$MAYFLY_BUILD" && python3 tools/meson-report.py "$MAYFLY_BUILD-asan/meson-logs/testlog.json"
}

finish() {
    echo
    [ ${#failures[@]} = 0 ] || echo "failed: ${failures[*]}"
    if [ "$skipped" -gt 0 ]; then
        echo "$passed passed, $failed failed, $skipped skipped"
    else
        echo "$passed passed, $failed failed"
    fi
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
    exit
}

if [ -z "$installed" ]; then
    ./tools/setup.sh build demo test ${long:+release} || { echo "0 passed, 1 failed"; exit 1; }
    make --silent BUILD="$MAYFLY_BUILD" >"$logs/build" 2>&1 || {
        tail -n 60 "$logs/build"
        echo "test: the build failed" >&2
        echo "0 passed, 1 failed"
        exit 1
    }
    suite lint tools/lint --quick
    suite unit meson_suite "$MAYFLY_BUILD"
    suite unit/sanitized sanitized_suite
fi

. tests/suites.sh
finish
