#!/usr/bin/env bash
# The command over the network, against an instance of its own: http and https with keys, ssh through a real sshd on loopback.
. "$(dirname "$0")/lib.sh"

http=16393 https=16394 ssh=16395
"$mayfly" serve --data "$dir/data" --run "$dir/run" --name mayfly-remote --network.pool 10.232.0.0/16 \
    --listen "tcp://127.0.0.1:$http,https://127.0.0.1:$https" >"$dir/log" 2>&1 &
server=$!
sshd=
finish() {
    [ -z "$sshd" ] || kill $sshd 2>/dev/null
    kill -TERM $server 2>/dev/null && wait $server
    rm -rf "$dir"
}
trap finish EXIT
export MAYFLY_HOST=unix://$dir/run/mayfly.sock
for _ in $(seq 300); do grep -q 'is ready' "$dir/log" && break; kill -0 $server 2>/dev/null || break; sleep 0.1; done
tools/busybox-image.sh | "$mayfly" import - busybox:demo >/dev/null || { cat "$dir/log"; exit 1; }
key=$("$mayfly" key create --role task --max-timeout 20s --max-output 2m)
admin=$("$mayfly" key create --role admin)
pin=$(grep -oE 'sha256//[A-Za-z0-9+/=]+' "$dir/log" | head -n 1)
cp "$dir/data/state/tls/cert.pem" "$dir/cert.pem" && chmod 644 "$dir/cert.pem"

# ── http ──
export MAYFLY_HOST=http://127.0.0.1:$http
expect "http: without a key" 125 '' 'key' -- "$mayfly" run busybox:demo true
expect "http: a wrong key" 1 '' 'key' -- env MAYFLY_KEY=abc:def "$mayfly" ps
export MAYFLY_KEY=$key
expect "http: run" 3 '^hi $' '' -- "$mayfly" run --network none busybox:demo sh -c 'echo hi; exit 3'
expect "http: run -i" 0 '^IN $' '' -- bash -c "echo in | '$mayfly' run --network none -i busybox:demo tr a-z A-Z"
expect "http: a key's bounds hold where nothing was asked for" 0 '^[0-9a-z]{26} $' 'bounds how long' -- "$mayfly" run -d --network none busybox:demo true
expect "http: what was asked for is refused" 125 '' "above this key's maximum" -- "$mayfly" run --network none --timeout 1h busybox:demo true
expect "http: what a role may not do" 1 '' 'role task' -- "$mayfly" key list
expect "http: another's tasks are not there" 1 '\[\]' 'no.*task|not found|no such' -- bash -c "id=\$('$mayfly' --host unix://$dir/run/mayfly.sock run -d --network none busybox:demo true); '$mayfly' inspect --type task \$id"
unset MAYFLY_KEY
(umask 077 && echo "$key" >"$dir/key")
expect "http: --key-file" 0 'TASK ID' '' -- "$mayfly" ps --key-file "$dir/key"
expect "http: MAYFLY_KEY_FILE" 0 'TASK ID' '' -- env MAYFLY_KEY_FILE="$dir/key" "$mayfly" ps
chmod 644 "$dir/key"
expect "http: a key file that all can read" 0 'TASK ID' 'chmod 600' -- "$mayfly" ps --key-file "$dir/key"
echo 'two words' >"$dir/nokey"
expect "http: a file without a key" 1 '' 'not a key' -- "$mayfly" ps --key-file "$dir/nokey"
expect "http: nobody listens" 1 '' 'nothing answers at http' -- "$mayfly" --host http://127.0.0.1:1 ps

# ── https ──
export MAYFLY_HOST=https://127.0.0.1:$https MAYFLY_KEY=$key
expect "https: a certificate nobody vouches for" 1 '' 'not trusted' -- "$mayfly" ps
expect "https: --pin" 0 '^hi $' '' -- "$mayfly" run --pin "$pin" --network none busybox:demo echo hi
expect "https: --pin of another key" 1 '' 'not the one that was pinned' -- "$mayfly" ps --pin "sha256//AAAA${pin#sha256//????}"
expect "https: --cacert" 0 'TASK ID' '' -- "$mayfly" ps --cacert "$dir/cert.pem"
expect "https: MAYFLY_PIN, MAYFLY_CACERT" 0 'TASK ID' '' -- env MAYFLY_CACERT="$dir/cert.pem" MAYFLY_PIN="$pin" "$mayfly" ps
unset MAYFLY_KEY
expect "https: completion asks the server that is named" 0 "${admin%%:*}" '' -- env MAYFLY_KEY="$admin" "$mayfly" __complete --pin "$pin" --host "$MAYFLY_HOST" key revoke ''

# ── ssh ──
ssh-keygen -q -t ed25519 -N '' -f "$dir/host" && ssh-keygen -q -t ed25519 -N '' -f "$dir/user"
cat >"$dir/sshd_config" <<EOF
ListenAddress 127.0.0.1
Port $ssh
HostKey $dir/host
AuthorizedKeysFile $dir/user.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
SetEnv PATH=$MAYFLY_BUILD:/usr/bin:/bin MAYFLY_HOST=unix://$dir/run/mayfly.sock
EOF
made=
[ -d /run/sshd ] || { mkdir -m 755 /run/sshd && made=1; }
/usr/sbin/sshd -D -f "$dir/sshd_config" -E "$dir/sshd.log" &
sshd=$!
mkdir "$dir/bin" && cat >"$dir/bin/ssh" <<EOF
#!/bin/sh
exec /usr/bin/ssh -F none -i "$dir/user" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "\$@"
EOF
chmod 755 "$dir/bin/ssh"
export PATH=$dir/bin:$PATH MAYFLY_HOST=ssh://$(id -un)@127.0.0.1:$ssh
for _ in $(seq 100); do ssh -p $ssh 127.0.0.1 true 2>/dev/null && break; sleep 0.1; done
expect "ssh: ps" 0 'TASK ID' '' -- "$mayfly" ps
expect "ssh: run" 3 '^hi $' '^err $' -- "$mayfly" run --network none busybox:demo sh -c 'echo hi; echo err >&2; exit 3'
head -c 20000000 /dev/urandom >"$dir/big"
check "ssh: 20 MB go in and come back" [ "$("$mayfly" run --network none -i busybox:demo cat <"$dir/big" | sha256sum)" = "$(sha256sum <"$dir/big")" ]
expect "ssh: import" 0 'imported ssh:import' '' -- bash -c "tools/busybox-image.sh | '$mayfly' import - ssh:import"
expect "ssh: who is admin there" 0 'KEY ID' '' -- "$mayfly" key list
expect "ssh: nobody there" 1 '' 'ssh' -- "$mayfly" --host "ssh://127.0.0.1:1" ps
check "ssh: nothing is left over" bash -c "sleep 0.5; ! pgrep -f '[m]ayfly dial-stdio' -P $sshd"
kill $sshd && wait $sshd
sshd=
[ -z "$made" ] || rmdir /run/sshd

# ── a connection that breaks ──
export MAYFLY_HOST=unix://$dir/run/mayfly.sock
"$mayfly" run --network none busybox:demo sh -c 'echo ready; sleep 60' >"$dir/out" 2>"$dir/err" &
runs=$!
for _ in $(seq 200); do [ -s "$dir/out" ] && break; sleep 0.05; done
kill -KILL "$(pgrep -P $server -x mayflyd)"
wait $runs
check "a daemon that dies: the id, and what to do" bash -c "[ $? = 125 ] && grep -qE 'broke.*mayfly wait [0-9a-z]{26}.*mayfly logs [0-9a-z]{26}' '$dir/err'"

[ -z "$bad" ]
