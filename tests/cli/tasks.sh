#!/usr/bin/env bash
# Tasks by the command, against the shared instance: live streams, signals, files, and all that lists, waits and stops.
. "$(dirname "$0")/lib.sh"

run() { "$mayfly" run --network none "$@"; }
spawn() { "$mayfly" run --network none -d "$@"; }
# The exit code of a command that gets signals: signalled "SIGNALS" COMMAND…, when it has written its first line
signalled() {
    local signals=$1 pid signal
    shift
    rm -f "$dir/signalled" # of the last one: it would be taken for the first line
    "$@" >"$dir/signalled" 2>"$dir/signalled.err" &
    pid=$!
    for _ in $(seq 200); do [ -s "$dir/signalled" ] && break; sleep 0.05; done
    for signal in $signals; do kill -s "$signal" $pid; sleep 0.3; done
    wait $pid
}
json() { python3 -c "import json, sys; d = json.load(sys.stdin); $1"; }

# ── streams ──
expect "output comes while the task runs" 0 '^first second $' '' -- bash -c "'$mayfly' run --network none busybox:demo sh -c 'echo first; sleep 2; echo second' | { read -r a; date +%s%N >'$dir/first'; read -r b; date +%s%N >'$dir/second'; echo \$a \$b; }"
check "and not at its end" [ $(($(<"$dir/second") - $(<"$dir/first"))) -gt 1000000000 ]
expect "stdin is sent as it comes" 0 '^a b $' '' -- bash -c "{ echo a; sleep 0.5; echo b; } | '$mayfly' run --network none -i busybox:demo cat | tr '\\n' ' '"
head -c 100000000 /dev/urandom >"$dir/big"
want=$(sha256sum <"$dir/big")
check "100 MB go in and come back" [ "$(run -i busybox:demo cat <"$dir/big" | sha256sum)" = "$want" ]
check "and through pipes" [ "$(cat "$dir/big" | run -i busybox:demo cat | cat | sha256sum)" = "$want" ]
rm "$dir/big"
expect "a slow reader slows the task" 0 '^2000000 $' '' -- bash -c "'$mayfly' run --network none busybox:demo sh -c 'yes | head -c 2000000' | { sleep 1; wc -c; }"
expect "who reads no more ends it" 0 '^y 141 $' '' -- bash -c "'$mayfly' run --network none busybox:demo yes | head -n 1; echo \${PIPESTATUS[0]}"
expect "a closed stdout is a fault, and no connection's" 125 '' 'write the output' -- bash -c "'$mayfly' run --network none busybox:demo echo x >&-"
expect "so is a closed stdin" 125 '' 'read stdin' -- bash -c "'$mayfly' run --network none -i busybox:demo cat <&-"
expect "-a stdout" 0 '^o $' '' -- run -a stdout busybox:demo sh -c 'echo o; echo e >&2'
expect "--output-limit cuts" 0 '^1 2 $' 'output was cut' -- run --output-limit 4 busybox:demo seq 100
expect "--on-output-limit kill" 137 '^1 2 $' 'more than its limit' -- run --output-limit 4 --on-output-limit kill busybox:demo sh -c 'seq 100; sleep 60'

# ── signals ──
trapping='for s in INT TERM HUP USR1; do trap "echo got $s; exit 7" $s; done; echo ready; while :; do sleep 0.1; done'
for signal in TERM HUP USR1; do
    signalled $signal env --default-signal=HUP,INT,QUIT "$mayfly" run --network none busybox:demo sh -c "$trapping"
    check "SIG$signal goes on to the task" bash -c "[ $? = 7 ] && grep -q 'got $signal' '$dir/signalled'"
done
signalled "TERM TERM TERM" "$mayfly" run --network none busybox:demo sh -c 'echo ready; sleep 60'
check "a third SIGTERM ends what hears none" [ $? = 137 ]
signalled TERM "$mayfly" run --sig-proxy=false --network none busybox:demo sh -c 'echo ready; sleep 60'
check "--sig-proxy=false: a signal is for the command" [ $? = 143 ]

# ── files ──
mkdir -p "$dir/src/sub" && echo in >"$dir/src/sub/f" && ln -s sub/f "$dir/src/link"
expect "--copy a directory, --output a directory" 0 '^in in $' '' -- run --copy "$dir/src:work" --output "work:$dir/got" busybox:demo sh -c 'cat work/sub/f work/link; echo out >work/sub/g'
expect "what came out" 0 '^in out $' '' -- cat "$dir/got/sub/f" "$dir/got/sub/g"
expect "--output a file into a directory" 0 '' '' -- run --output "/etc/passwd:$dir/got" busybox:demo true
check "is named as it was" grep -q root "$dir/got/passwd"
expect "--output what is not there" 125 '' 'no such file' -- run --output "nope:$dir/x" busybox:demo true
expect "--secret from a variable and a file" 0 '^of here of a file $' '' -- bash -c "echo of a file >'$dir/secret'; TOKEN=\$'of here\\n' '$mayfly' run --network none --secret TOKEN --secret other='$dir/secret' busybox:demo sh -c 'cat /run/secrets/TOKEN /run/secrets/other'"
expect "--cidfile" 0 '' '' -- run --cidfile "$dir/cid" busybox:demo true
expect "--cidfile that exists" 125 '' 'exists' -- run --cidfile "$dir/cid" busybox:demo true
check "it holds the id" bash -c "'$mayfly' inspect --type task '$(<"$dir/cid")'"

# ── limits, one and all ──
expect "--memory" 137 '' 'memory than its limit' -- run --memory 16m busybox:demo tail /dev/zero
expect "--cpu-time" 137 '' 'CPU time' -- run --cpu-time 300ms busybox:demo sh -c 'while :; do :; done'
expect "--pids-limit" 0 'fork' '' -- bash -c "'$mayfly' run --network none --pids-limit 5 busybox:demo sh -c 'for i in 1 2 3 4 5 6 7; do sleep 1 & done' 2>&1; true"

# ── without waiting ──
id=$(spawn --label app=shop --label-file <(echo B=2) busybox:demo sh -c 'for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.5; done; exit 4')
check "-d prints the id" grep -qE '^[0-9a-z]{26}$' <<<"$id"
expect "ps shows it" 0 "$id.*busybox:demo.*(queued|running).*B=2,app=shop" '' -- "$mayfly" ps
expect "logs -f" 0 '^out 1 out 2 out 3 $' '^err 1 err 2 err 3 $' -- "$mayfly" logs -f "$id"
expect "wait prints the exit code" 0 '^4 $' '' -- "$mayfly" wait "$id"
expect "logs afterwards" 0 '^out 1 out 2 out 3 $' '^err 1 err 2 err 3 $' -- "$mayfly" logs "$id"
expect "logs --tail --stream" 0 '^out 2 out 3 $' '' -- "$mayfly" logs --tail 2 --stream stdout "$id"
expect "logs -f --tail 0 of one that ended" 0 '' '' -- "$mayfly" logs -f --tail 0 "$id"
expect "logs --json" 0 '"stream":"stdout".*"status":"exited","exit_code":4' '' -- "$mayfly" logs --json "$id"
expect "logs -t" 0 '^20[-0-9]*T[0-9:]*\.[0-9]{9}Z out 1 20[^ ]*Z out 2 20[^ ]*Z out 3 $' '^20[^ ]*Z err 1 ' -- "$mayfly" logs -t "$id"
expect "logs -t --tail" 0 '^20[^ ]*Z out 3 $' '' -- "$mayfly" logs -t --tail 1 --stream stdout "$id"
expect "logs --since, how long ago" 0 '^out 1 out 2 out 3 $' '^err 1 err 2 err 3 $' -- "$mayfly" logs --since 1h "$id"
expect "logs --until" 0 '' '' -- "$mayfly" logs --until 1h "$id"
third=$("$mayfly" logs -t --tail 1 --stream stdout "$id" | cut -d' ' -f1)
expect "logs --since a time" 0 '^out 3 $' '' -- "$mayfly" logs --stream stdout --since "$third" "$id"
expect "logs -f --until" 0 '^out 1 out 2 out 3 $' '' -- "$mayfly" logs -f --stream stdout --until "$third" "$id"
expect "logs --since nonsense" 1 '' 'neither a time' -- "$mayfly" logs --since noon "$id"
expect "ps leaves ended ones out" 0 '^TASK ID ' '' -- "$mayfly" ps --filter label=app=shop
expect "ps -a --filter" 0 "$id" '' -- "$mayfly" ps -aq --filter label=app=shop --filter status=exited --filter image=busybox:demo --filter since=1h
expect "ps --filter that fits none" 0 '' '' -- "$mayfly" ps -aq --filter label=app=shop --filter status=killed
check "ps --format json: a document a line" bash -c "'$mayfly' ps -a -n 2 --format json | python3 -c 'import json, sys; assert len([json.loads(l) for l in sys.stdin]) == 2'"
check "inspect is an array" bash -c "'$mayfly' inspect $id | python3 -c 'import json, sys; assert json.load(sys.stdin)[0][\"exit_code\"] == 4'"
check "no line ends with blanks" bash -c "! '$mayfly' ps -a | grep ' $'"
check "no colour in a pipe" bash -c "! '$mayfly' ps -a | grep -P '\\033'"
check "a narrow terminal cuts" bash -c "script -qec 'stty cols 90; \"$mayfly\" ps -a -n 3' /dev/null </dev/null | tr -d '\r' | sed 's/\\x1b\\[[0-9]*m//g' | python3 -c 'import sys; assert all(len(l.rstrip(chr(10))) <= 90 for l in sys.stdin), 1'"
# narrow COLUMNS COMMAND…    what it writes to a terminal of so many columns
narrow() { script -qec "stty cols $1; \"$mayfly\" ${*:2}" /dev/null </dev/null | tr -d '\r' | sed 's/\x1b\[[0-9]*m//g'; }
narrow 50 ps -a -n 3 >"$dir/narrow"
check "but never an id, which commands take" bash -c "grep -qE '^[0-9a-z]{26} ' '$dir/narrow' && grep -q … '$dir/narrow'"
narrow 50 ps -a -n 3 --no-trunc >"$dir/narrow"
check "nor anything with --no-trunc" bash -c "! grep … '$dir/narrow'"
narrow 50 images --no-trunc >"$dir/narrow"
check "whole digests, too" grep -qE 'sha256:[0-9a-f]{64} ' "$dir/narrow"
run --json --label "w=漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字" busybox:demo true >/dev/null
narrow 100 ps -a -n 1 >"$dir/narrow"
check "letters of two columns are counted as two" python3 -c 'import sys, unicodedata
lines = [sum(1 + (unicodedata.east_asian_width(c) == "W") for c in line.rstrip("\n")) for line in open(sys.argv[1], encoding="utf-8")]
assert len(lines) == 2 and max(lines) in (99, 100), lines' "$dir/narrow"
expect "run --json" 3 '"exit_code":3' '' -- run --json busybox:demo sh -c 'exit 3'
expect "run -d --json" 0 '"status":"(queued|pulling|running)' '' -- spawn --json busybox:demo true
expect "run --wait that is enough" 5 '^w $' '' -- run --wait 30s busybox:demo sh -c 'echo w; exit 5'
expect "run --wait that is not" 0 '^[0-9a-z]{26} $' '' -- run --wait 100ms busybox:demo sleep 1
expect "--idempotency-key: one task" 0 '^1 $' '' -- bash -c "for i in 1 2; do '$mayfly' run --network none --json --idempotency-key cli-$$ busybox:demo date +%s%N; done | python3 -c 'import json, sys; print(len({json.loads(l)[\"id\"] for l in sys.stdin}))'"
expect "--idempotency-key: another request" 125 '' 'another body' -- run --idempotency-key "cli-$$" busybox:demo echo other
id=$(spawn busybox:demo sh -c 'trap "exit 9" TERM; while :; do sleep 0.1; done')
expect "wait --timeout" 124 '' 'not ended' -- "$mayfly" wait --timeout 100ms "$id"
sleep 0.5
expect "stop -t" 0 "^$id $" '' -- "$mayfly" stop -t 20 "$id"
expect "it ended by itself" 0 '^9 $' '' -- "$mayfly" wait "$id"
id=$(spawn busybox:demo sleep 60)
for _ in $(seq 100); do "$mayfly" inspect "$id" | grep -q '"running"' && break; sleep 0.05; done
expect "rmi of an image whose task runs" 1 '' "the image '.*busybox:demo' is in use: a task" -- "$mayfly" rmi busybox:demo
expect "stop" 0 "^$id $" '' -- "$mayfly" stop "$id"
expect "stop once more" 0 "\"id\":\"$id\".*\"reason\":\"cancelled\"" '' -- "$mayfly" stop --json "$id"
id=$(spawn busybox:demo sh -c 'trap "exit 8" USR1; while :; do sleep 0.1; done')
sleep 1
expect "kill -s" 0 "^$id $" '' -- "$mayfly" kill -s USR1 "$id"
expect "which it heard" 0 '^8 $' '' -- "$mayfly" wait "$id"
expect "kill of what does not run" 1 '' 'does not run|has ended' -- "$mayfly" kill "$id"
expect "kill -s nonsense" 1 '' 'no signal' -- "$mayfly" kill -s NONSENSE "$id"
expect "inspect of a task that is not" 1 '^\[\] $' 'no.*task' -- "$mayfly" inspect --type task 01aaaaaaaaaaaaaaaaaaaaaaaa
for command in logs wait stop kill; do
    expect "$command of a task that is not" 1 '' 'no.*task' -- "$mayfly" $command 01aaaaaaaaaaaaaaaaaaaaaaaa
    expect "$command of nothing" 1 '' 'mayfly ps' -- "$mayfly" $command
done

for command in logs wait stop kill "inspect --type task"; do
    expect "$command of the beginning of an id" 1 '' 'an id is given whole' -- bash -c "'$mayfly' $command ${id:0:20} >/dev/null"
done
expect "inspect of neither a task nor an image" 1 '^\[\] $' 'neither a task nor an image' -- "$mayfly" inspect 01aaaaaaaaaaaaaaaaaaaaaaaa
run --label column=labels busybox:demo true
expect "ps without labels has no column for them" 0 'RAN $' '' -- "$mayfly" ps -a --filter status=killed --filter label=no=such
expect "ps with labels" 0 '^TASK ID .* LABELS .* column=labels $' '' -- "$mayfly" ps -a -n 1
expect "a fault is told of the request, not of messages" 125 '' 'the request is not a valid task +/workdir: must be absolute' -- run -w here busybox:demo true

# ── keys ──
key=$("$mayfly" key create --role task --name cli-test --expires 1h --max-memory 64m --max-cpus 0.5 --network none --image 'docker.io/library/*' --rate 100 2>"$dir/err")
check "key create prints id:secret and nothing else" bash -c "grep -qE '^[0-9a-z]{12}:[0-9A-Za-z]{43}$' <<<'$key' && [ ! -s '$dir/err' ]"
expect "key list" 0 "${key%%:*} +cli-test +task" '' -- "$mayfly" key list
expect "key list has no secret" 0 '^0 $' '' -- bash -c "'$mayfly' key list -a --json | grep -c '${key#*:}'; true"
expect "key list --json" 0 '"memory":67108864.*"networks":\["none"\]' '' -- "$mayfly" key list --json
expect "key revoke" 0 "^${key%%:*} $" '' -- "$mayfly" key revoke "$key"
expect "key list leaves revoked ones out" 0 '^0 $' '' -- bash -c "'$mayfly' key list -q | grep -c '${key%%:*}'; true"
expect "key list -a shows them" 0 "${key%%:*}.*revoked" '' -- "$mayfly" key list -a
expect "key revoke of none" 1 '' 'nosuchkey123' -- "$mayfly" key revoke nosuchkey123
expect "key create with a role that is none" 1 '' 'none of admin' -- "$mayfly" key create --role king
expect "key create that is over already" 1 '' 'neither a duration' -- "$mayfly" key create --expires -1h

# ── --json, everywhere ──
lines() { "$@" | python3 -c 'import json, sys; n = len([json.loads(l) for l in sys.stdin]); sys.exit(0 if n else 1)'; }
id=$(spawn busybox:demo sleep 60)
check "images --json" lines "$mayfly" images --json
check "inspect --json" lines "$mayfly" inspect --json busybox:demo "$id"
check "version --json" lines "$mayfly" version --json
check "ps --json" lines "$mayfly" ps --json
for _ in $(seq 100); do "$mayfly" inspect "$id" | grep -q '"running"' && break; sleep 0.05; done
check "kill --json" lines "$mayfly" kill --json "$id"
check "wait --json" lines "$mayfly" wait --json "$id"
check "import --json" lines bash -c "tools/busybox-image.sh | '$mayfly' import --json - cli:json"
check "rmi --json" lines "$mayfly" rmi --json cli:json
check "key create --json" lines "$mayfly" key create --json --name cli-json
check "key revoke --json" lines bash -c "'$mayfly' key list --json | grep cli-json | python3 -c 'import json, sys; print(json.loads(sys.stdin.readline())[\"id\"])' | xargs '$mayfly' key revoke --json"

[ -z "$bad" ]
