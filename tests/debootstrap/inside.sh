#!/bin/bash
# What tests/debootstrap/run.sh runs as the first program of the clean root: the README's commands, by their names.
set -uo pipefail
cd /root/mayfly
failed=0

run() { # COMMAND as the README has it
    local start=$SECONDS status=0
    grep -qF -- "$1" README.md || { echo "not ok - debootstrap: the README does not say '$1'"; failed=1; }
    bash -c "$1" >"/root/log" 2>&1 || status=$?
    # Verdicts of the tests inside are told, not counted twice.
    sed 's/^\(ok\|not ok\|skip\) - /  \1: /' /root/log | if [ "$status" = 0 ]; then tail -n "$2"; else cat; fi
    if [ "$status" = 0 ]; then
        echo "ok - debootstrap: $1 ($((SECONDS - start)) s)"
    else
        echo "not ok - debootstrap: $1: status $status"
        failed=1
    fi
}
for part in "$@"; do
    run "sudo ./tools/$part.sh" 120
done

# This shell is pid 1 here: what is left of either command is its child now.
left=$(grep -l '^mayfly' /proc/[0-9]*/comm 2>/dev/null | xargs -r cat)
if [ -n "$left" ]; then echo "not ok - debootstrap: processes are left: $left"; failed=1; fi
left=$(awk '$5 ~ /mayfly/' /proc/self/mountinfo)
if [ -n "$left" ]; then echo "not ok - debootstrap: mounts are left: $left"; failed=1; fi
exit "$failed"
