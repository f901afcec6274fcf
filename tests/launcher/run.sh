#!/bin/sh
# Drives the built launcher without a daemon, as root: tests/launcher/run.sh [CASE]. MAYFLY_BUILD is the build directory.
set -eu
cd "$(dirname "$0")/../.."
build=${MAYFLY_BUILD:-$PWD/build}
command -v cc >/dev/null || { echo "ok - launcher # SKIP no C compiler here"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=gnu17 -O2 -D_GNU_SOURCE -Wall -Wextra -Wno-format-truncation -Werror -Isrc -include base/banned.h"
# The sources of base themselves: the build's library may be instrumented.
# shellcheck disable=SC2046,SC2086
cc $flags -o "$work/test_launcher" tests/launcher/test_launcher.c tests/launcher/cases_root.c \
    tests/launcher/harness.c tests/launcher/client.c $(tools/glob . lib src/base)
cc -O2 -static -o "$work/clear" tests/kill/clear.c
cc -O2 -static -o "$work/die" tests/launcher/die.c
"$work/test_launcher" "$build/mayfly-launcher" "$(command -v busybox)" "$work/clear" "$work/die" "$@"
