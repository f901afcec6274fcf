#!/usr/bin/env bash
# What the picture shows; run.py runs it. MAYFLYD is the pid of the daemon that is killed.
set -u
mayflyd=$MAYFLYD
exec {never}<> <(:)
nap() { read -rt "$1" -u "$never" || :; }
red() { printf '\e[31m%s\e[0m\n' "$*"; }
race() { python3 "$PICTURE/race.py" "$@"; }

prompt() { printf '\e[32m$\e[0m '; }
# Types a command as a person would, and runs it.
run() {
    local i
    for ((i = 0; i < ${#1}; i++)); do printf '%s' "${1:i:1}"; nap 0.012; done
    nap 0.35
    echo
    eval "$1"
    prompt
}
note() { printf '\e[90m# %s\e[0m\n' "$*"; prompt; }

prompt
note '1,000 fresh containers, one after the other; then Docker for as long'
run 'race 1000'
nap 0.8
note 'a task prints on while the daemon is killed'
run "words='for n in 1 2 3 4 5 6 7 8; do echo line \$n; sleep 0.5; done'"
run 'id=$(mayfly run -d busybox:demo sh -c "$words")'
run '(sleep 1; kill -9 $mayflyd; red mayflyd is killed) & mayfly logs -f $id'
wait
run 'mayfly wait $id'
nap 0.3
printf '\e[90m# nothing was lost, nothing ran twice\e[0m'
