#!/usr/bin/env bash
# Completion as bash, zsh and fish do it, and the manual pages, against the shared instance.
. "$(dirname "$0")/lib.sh"
export PATH=$MAYFLY_BUILD:$PATH
export HOME=$dir

id=$("$mayfly" run -d --network none busybox:demo sleep 300)
key=$("$mayfly" key create --name complete)
trap '"$mayfly" stop "$id" >/dev/null; "$mayfly" key revoke "$key" >/dev/null; rm -rf "$dir"' EXIT
mkdir "$dir/work" && touch "$dir/work/archive.tar" "$dir/work/other file" && cd "$dir/work" || exit 1
for shell in bash zsh fish; do "$mayfly" completion $shell >"$dir/script.$shell"; done

# What each shell would offer for a line, one candidate a line.
in_bash() {
    bash --norc -c '. "$1"; COMP_LINE=$2 COMP_POINT=${#2}; COMP_WORDS=(mayfly); _mayfly; printf "%s\n" "${COMPREPLY[@]}"' - "$dir/script.bash" "$1"
}
# In a terminal of its own, where compadd, which gets what is found, tells it instead.
in_zsh() {
    cat >"$dir/inner.zsh" <<'EOF'
PS1=
autoload -Uz compinit && compinit -u -d $HOME/zcompdump
source $HOME/script.zsh
bindkey '^I' complete-word
compadd() {
    local -a hits
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    builtin compadd -A hits "$@"
    print -rl -- "${(@)hits/#/@@}"
}
told() { print -r -- @@@; exit }
comppostfuncs=(told)
EOF
    zsh -f -c '
        zmodload zsh/zpty
        zpty z "cd ${(q)PWD}; exec zsh -f -i"
        zpty -w z "source \$HOME/inner.zsh; print RE""ADY"
        zpty -r -m z line "*READY*"
        zpty -w -n z "$1"$'"'\t'"'
        zpty -r -m z line "*@@@*"
        print -rn -- "$line"
        zpty -d z' - "$1" 2>&1 | tr -d '\r' | sed -n 's/^.*@@\(.\)/\1/p' | grep -v '^@$'
}
in_fish() {
    fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$dir/script.fish" "$1"
}

# offers NAME LINE REGEX [NOT-REGEX]
offers() {
    local shell
    for shell in bash zsh fish; do
        in_$shell "$2" >"$dir/offered" 2>&1
        if ! grep -qE -- "$3" "$dir/offered"; then
            not_ok "$shell: $1" "$(head -c 400 "$dir/offered" | tr '\n' ' ')"
        elif [ $# -gt 3 ] && grep -qE -- "$4" "$dir/offered"; then
            not_ok "$shell: $1, offers too much" "$(head -c 400 "$dir/offered" | tr '\n' ' ')"
        else
            ok "$shell: $1"
        fi
    done
}
offers "commands" 'mayfly in' 'inspect'
offers "commands of two words" 'mayfly key re' 'revoke'
offers "long options" 'mayfly run --mem' '--memory' '--volume'
offers "options of every command" 'mayfly ps --hos' '--host'
offers "words of an option" 'mayfly run --network n' 'nat'
offers "words behind an equals sign" 'mayfly run --network=na' 'nat'
offers "images" 'mayfly run busybox' 'busybox:demo|demo'
offers "images behind a colon" 'mayfly run busybox:d' 'demo'
offers "tasks" "mayfly stop ${id:0:20}" "$id|${id:20}"
offers "keys" "mayfly key revoke ${key:0:6}" "${key%%:*}"
offers "files" 'mayfly load arch' 'archive.tar'
offers "files with blanks" 'mayfly load oth' 'other( |\\ )file'
offers "files of an option" 'mayfly run --env-file=arch' 'archive.tar'
offers "shells" 'mayfly completion z' 'zsh' 'fish'
expect "hidden commands are not offered" 0 '' '' -- "$mayfly" __complete di

# ── manual pages ──
pages=$MAYFLY_BUILD/contrib/man1
[ -d "$pages" ] || pages=$MAYFLY_BUILD/../share/man/man1
check "mandoc finds no fault in the pages" mandoc -T lint -W warning "$pages"/*.1
check "nor does groff" bash -c "for f in '$pages'/*.1; do man --warnings -E UTF-8 -l -Tutf8 -Z \"\$f\" 2>&1 >/dev/null; done | { ! grep .; }"
check "each command has a page, with its options" bash -c "for c in serve run ps logs wait stop kill inspect images import load rmi key-create key-list key-revoke version completion help; do test -f '$pages'/mayfly-\$c.1 || exit 1; done; MANWIDTH=200 man -l '$pages'/mayfly-run.1 | grep -q -- '--cpu-time DURATION'"
[ -z "$bad" ]
