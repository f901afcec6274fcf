#!/usr/bin/env bash
# The README's first command as typed: it runs to its end, every request is answered with 201, and nothing is left.
set -uo pipefail
cd "$(dirname "$0")/.."

check() { if eval "$2"; then echo "ok - $1"; else echo "not ok - $1: $3"; bad=1; fi; }
bad=
out=$(mktemp)
trap 'rm -f "$out"' EXIT
before=$(ls -d /tmp/mayfly-demo.* 2>/dev/null | wc -l)

# A registry with an image that has a python3 of its own kind.
python3 tests/registry/serve_python.py >"$out.registry" &
registry=$!
trap 'kill $registry 2>/dev/null; rm -f "$out" "$out.registry"' EXIT
for _ in $(seq 100); do [ -s "$out.registry" ] && break; sleep 0.1; done

MAYFLY_DEMO_PYTHON=$(cat "$out.registry") ./tools/demo.sh >"$out" 2>&1
status=$?
check "demo.sh ends well" "[ $status = 0 ]" "status $status: $(tail -n 3 "$out" | tr '\n' ' ')"
check "every request is answered with 201" "[ \$(grep -c '^201 ' \"$out\") = 6 ]" "$(grep -E '^[45][0-9][0-9] ' "$out" | head -n 1)"
check "the first task says hello" "grep -q 'hello from a container' \"$out\"" "it does not"
check "Python is pulled and runs" "grep -q 'python ran print' \"$out\"" "it does not"
check "the 100 tasks have a median" "grep -qE '^median [0-9.]+ ms' \"$out\"" "there is none"
check "no directory is left" "[ \$(ls -d /tmp/mayfly-demo.* 2>/dev/null | wc -l) = $before ]" "$(ls -d /tmp/mayfly-demo.* 2>/dev/null)"
[ -z "$bad" ]
