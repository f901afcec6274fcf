#!/usr/bin/env bash
# The command as a user types it, against the shared instance: streams, exit codes, messages, help.
. "$(dirname "$0")/lib.sh"

run() { "$mayfly" run --network none "$@"; }
piped() { printf 'line\n' | "$mayfly" run --network none "$@"; }

expect "run prints stdout" 0 '^hello $' '' -- run busybox:demo echo hello
expect "run keeps the streams apart" 0 '^out $' '^err $' -- run busybox:demo sh -c 'echo out; echo err >&2'
expect "run answers the exit code" 42 '' '' -- run busybox:demo sh -c 'exit 42'
expect "run answers 128+n for a signal" 139 '' '' -- run --init busybox:demo sh -c 'kill -SEGV $$'
expect "run answers 127 for no such program" 127 '' 'not found|no such' -- run busybox:demo /no/such/program
expect "run answers 126 for what is not executable" 126 '' 'not executable|permission' -- run busybox:demo /etc/passwd
expect "run answers 125 when Mayfly refuses" 125 '' 'no.such' -- run no.such/image:tag true
expect "run sends stdin with -i" 0 '^line $' '' -- piped -i busybox:demo cat
expect "run sends no stdin without -i" 0 '' '' -- piped busybox:demo cat
expect "run -e -w -u" 0 '^v /w 65534 $' '' -- run -e A=v -w /w -u nobody busybox:demo sh -c 'echo $A $(pwd) $(id -u)'
expect "run --entrypoint" 0 '^a b $' '' -- run --entrypoint echo busybox:demo a b
expect "run --timeout says why it ended" 137 '' 'timeout' -- run --timeout 200ms busybox:demo sleep 5
expect "a command that is nearly one" 125 '' 'did you mean images' -- "$mayfly" imagse
expect "docker's commands that are none here" 125 '' 'no mayfly rm: .*mayfly rmi removes images' -- "$mayfly" rm busybox:demo
expect "are not guessed at" 125 '' '^mayfly: there is no mayfly top: ' -- "$mayfly" top
expect "nor are its templates" 1 '' 'mayfly: -f means nothing here: .*--json' -- "$mayfly" inspect -f '{{.Id}}' busybox:demo
expect "images -a, as docker has it" 0 'busybox +demo' '' -- "$mayfly" images -a
expect "images of a name" 1 '' 'reference=busybox' -- "$mayfly" images busybox
for words in "serve -h" "serve --help" "help serve"; do expect "$words lists the keys" 0 '--tasks.max_running' '' -- "$mayfly" $words; done
expect "help of a group" 0 'key create.*key list.*key revoke' '' -- "$mayfly" help key
expect "help of a command" 0 'Usage: mayfly ps' '' -- "$mayfly" help ps
expect "help of none" 1 '' 'no command .nope' -- "$mayfly" help nope
expect "a group lists its commands" 125 '' 'key create.*key list.*key revoke' -- "$mayfly" key
expect "an option that is nearly one" 125 '' 'did you mean --network' -- run --netwrok none busybox:demo true
expect "a flag that is off already" 0 '^x $' '' -- run --privileged=false --rm busybox:demo echo x
expect "a key in the command line is refused" 1 '' 'MAYFLY_KEY' -- "$mayfly" ps --key a:b
expect "run -v names what to use" 125 '' '--copy' -- run -v /a:/b busybox:demo true
expect "run without an image asks for one" 125 '' 'which image' -- "$mayfly" run
expect "an unknown flag is named" 125 '' 'no-such-flag' -- run --no-such-flag busybox:demo true
expect "run keeps binary output" 0 '^0000000 +377 +000 +012' '' -- bash -c "'$mayfly' run --network none busybox:demo printf '\\377\\000\\n' | od -b -An -v | sed 's/^/0000000/'"
expect "images lists the image" 0 'busybox.*demo' '' -- "$mayfly" images
expect "images --json is JSON" 0 '' '' -- bash -c "'$mayfly' images --json | python3 -m json.tool >/dev/null"
expect "inspect an image" 0 '"[Ii]d"|"digest"' '' -- "$mayfly" inspect busybox:demo
expect "inspect nothing" 1 '^\[\] $' 'no.such' -- "$mayfly" inspect no.such/thing:x
expect "version" 0 '[0-9]+\.[0-9]+' '' -- "$mayfly" version
expect "help lists the commands" 0 'run.*images|images.*run' '' -- "$mayfly" --help
for command in serve run ps logs wait stop kill inspect images import load save rmi "key create" "key list" "key revoke" version completion help; do
    expect "$command --help has an example" 0 '[Ee]xample' '' -- "$mayfly" $command --help
done
expect "an unknown command is named" 125 '' 'frobnicate' -- "$mayfly" frobnicate
expect "no daemon: what to do" 125 '' 'mayfly serve' -- env MAYFLY_HOST=unix://"$dir/none.sock" "$mayfly" run busybox:demo true
unit=$(MAYFLY_HOST=unix://$dir/none.sock "$mayfly" ps 2>&1 | grep -o 'systemctl start [a-z-]*' | cut -d' ' -f3)
[ ! -d contrib/systemd ] || check "by a unit that there is" test -f "contrib/systemd/$unit.service"
expect "a key file that is not there is no image that is not there" 1 '' '^mayfly: key file: ' -- "$mayfly" --key-file "$dir/none" rmi -f no.such/image:x
expect "nor is a program" 1 '' '^mayfly: ssh://x: run ssh: ' -- env PATH="$dir" "$mayfly" --host ssh://x rmi -f no.such/image:x
cp "$mayfly" "$dir/mayfly"
expect "no permission: what to do" 1 '' 'group mayfly.*usermod' -- setpriv --reuid 65534 --regid 65534 --clear-groups "$dir/mayfly" ps
expect "import from a pipe, with changes" 0 '' '' -- bash -c "tools/busybox-image.sh | '$mayfly' import --change 'CMD [\"echo\", \"changed\"]' --change 'ENV X=1' - cli:import >/dev/null 2>&1"
expect "the changes are there" 0 '^changed $' '' -- run cli:import
expect "rmi" 0 '' '' -- bash -c "'$mayfly' rmi cli:import >/dev/null"
expect "rmi of what is gone" 1 '' 'cli:import' -- "$mayfly" rmi cli:import
expect "import of nothing is refused" 1 '' 'nothing came: a tar archive is expected' -- bash -c "false | '$mayfly' import - cli:nothing"
expect "and makes no image" 1 '^\[\] $' 'cli:nothing' -- "$mayfly" inspect cli:nothing
expect "import of an archive without files is none of that" 0 '' '' -- bash -c "head -c 1024 /dev/zero | '$mayfly' import - cli:nothing >/dev/null && '$mayfly' rmi cli:nothing >/dev/null"
expect "import of garbage is refused" 1 '' 'archive|tar|format' -- bash -c "head -c 100000 /dev/urandom | '$mayfly' import - cli:garbage"

# ── where output goes ──
for command in images version "key list" help "run --help"; do
    expect "$command onto a full disk" '1|125' '' 'stdout: No space left' -- bash -c "'$mayfly' $command >/dev/full"
done
expect "save onto a full disk" 1 '' '^mayfly: write to stdout: No space left on device $' -- bash -c "'$mayfly' save busybox:demo >/dev/full"
expect "nobody reads: no fault of ours" 0 '^141 $' '' -- bash -c "exec 3>&1; { sleep 0.5; '$mayfly' images; echo \$? >&3; } | :"
expect "nobody reads all of an archive" 0 '^141 $' '' -- bash -c "'$mayfly' save busybox:demo | head -c 1 >/dev/null; echo \${PIPESTATUS[0]}"
touch "$dir/real.tar" && ln -s real.tar "$dir/link.tar"
expect "save over a link" 0 '' '' -- "$mayfly" save -q -o "$dir/link.tar" busybox:demo
check "writes what it leads to" bash -c "test -L '$dir/link.tar' && tar -tf '$dir/real.tar' | grep -q manifest.json"
ln -s /proc/self/fd/1 "$dir/stdout"
expect "save to what stands for stdout" 0 '' '' -- bash -c "'$mayfly' save -q -o '$dir/stdout' busybox:demo >'$dir/redirected'"
check "is an archive there" bash -c "test -L '$dir/stdout' && cmp '$dir/redirected' '$dir/real.tar'"
expect "save to a device" 0 '' '' -- "$mayfly" save -q -o /dev/null busybox:demo
expect "an interrupted upload" 143 '' '^mayfly: interrupted $' -- timeout --foreground --preserve-status 1 "$mayfly" load -q <(sleep 5)
expect "a password with a NUL is not cut" 1 '' 'NUL' -- bash -c "printf 'a\\0b' | '$mayfly' login -u x --password-stdin localhost:1"
expect "logout is not logged in" 1 '' 'no login' -- "$mayfly" logout localhost:1
expect "a group's help is no error" 0 'key create' '' -- "$mayfly" key --help
printf 'tasks:\n  max_runing: 3\n' >"$dir/bad.yaml"
expect "serve --check names the line" 1 '' ':2: .*max_runing' -- "$mayfly" serve --check --config "$dir/bad.yaml"
printf 'tasks:\n  max_running: 3\n' >"$dir/good.yaml"
expect "serve --check accepts what is good" 0 '' '' -- bash -c "'$mayfly' serve --check --config '$dir/good.yaml' >/dev/null"
expect "a second instance of the same name is refused" 1 '' "another (instance|Mayfly).*'${MAYFLY_NAME:-mayfly-test}'" -- timeout 60 "$mayfly" serve --data "$dir/data" --run "$dir/run" --name ${MAYFLY_NAME:-mayfly-test} --network.pool 10.216.0.0/16
mkdir -m 700 "$dir/home" && find "$MAYFLY_BUILD" -maxdepth 1 -name 'mayfly*' -type f -perm -1 -exec cp {} "$dir/home/" \;
"$dir/home/mayfly" serve --data "$dir/data" --run "$dir/run" --name mayfly-home --network.pool 10.216.0.0/16 >"$dir/log" 2>&1 &
home=$!
for _ in $(seq 300); do grep -q 'is ready' "$dir/log" && break; kill -0 $home 2>/dev/null || break; sleep 0.1; done
expect "programs in somebody's home can be started" 0 'is ready' '' -- cat "$dir/log"
kill -TERM $home && wait $home
[ -z "$bad" ]
