#!/usr/bin/env bash
# Installs what is missing, builds, starts Mayfly, runs real tasks through its REST API and shows what came back.
#
#   sudo ./tools/demo.sh            stops Mayfly again and leaves nothing
#   sudo ./tools/demo.sh --keep     leaves it running, and says how to use and stop it
set -euo pipefail
cd "$(dirname "$0")/.."

keep=
for arg in "$@"; do
    case $arg in
    --keep) keep=1 ;;
    -h | --help) sed -n '2,5s/^# \?//p' "$0"; exit 0 ;;
    *) echo "demo: unknown argument '$arg'; see --help" >&2; exit 2 ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "demo: Mayfly runs containers, so it starts as root: sudo $0 $*" >&2; exit 1; }

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
step() { printf '\n%s── %s%s\n' "$bold" "$*" "$plain"; }

step "Set-up"
if [ -x build/mayflyd ] && [ ! -d src ]; then
    ./tools/setup.sh run demo
else
    ./tools/setup.sh build demo
    # On a terminal ninja's one line of progress is what one wants to see; elsewhere only a failure is.
    if [ -t 1 ]; then make --silent; else make --silent >/dev/null; fi
fi
echo "built: $(build/mayfly version 2>/dev/null | head -n 1 || true)"

dir=$(mktemp -d /tmp/mayfly-demo.XXXXXX)
chmod 755 "$dir"
serve=
stop() {
    if [ "${1:-0}" != 0 ] && [ "$1" != 130 ] && [ -s "$dir/log" ]; then
        echo "demo: the log of mayfly serve ends:" >&2
        tail -n 20 "$dir/log" >&2
    fi
    if [ -n "$serve" ] && kill -TERM "$serve" 2>/dev/null; then
        for _ in $(seq 200); do kill -0 "$serve" 2>/dev/null || break; sleep 0.1; done
    fi
    rm -rf "$dir"
}
trap 'stop $?' EXIT
trap 'exit 130' INT TERM

step "Start"
log=$dir/log
# In a session of its own, so that --keep outlives this terminal.
setsid build/mayfly serve --data "$dir/data" --run "$dir/run" >"$log" 2>&1 </dev/null &
serve=$!
socket=$dir/run/mayfly.sock
export MAYFLY_HOST=unix://$socket
for _ in $(seq 300); do
    curl -fs --unix-socket "$socket" http://mayfly/healthz >/dev/null 2>&1 && break
    kill -0 "$serve" 2>/dev/null || { echo "demo: mayfly serve ended" >&2; exit 1; }
    sleep 0.1
done
curl -fsS --unix-socket "$socket" http://mayfly/v1/version
echo

step "An image"
echo "${dim}No registry is asked: this is the machine's own static busybox, imported as busybox:demo.$plain"
echo "\$ mayfly import - busybox:demo"
./tools/busybox-image.sh | build/mayfly import - busybox:demo
build/mayfly images

# Shows a request and its answer, and how long it took from the first byte sent to the last one received.
request() {
    local title=$1 body=$2
    step "$title"
    printf 'POST /v1/tasks\n%s\n\n' "$body"
    curl -sS --unix-socket "$socket" -H 'Content-Type: application/json' -d "$body" \
        -w '%{http_code} %{time_total}\n' -o "$dir/answer" http://mayfly/v1/tasks >"$dir/took"
    read -r status seconds <"$dir/took"
    printf '%s' "$bold$status$plain "
    cat "$dir/answer"
    printf '\n%s%s ms%s\n' "$bold" "$(awk -v s="$seconds" 'BEGIN { printf "%.2f", s * 1000 }')" "$plain"
    [ "$status" = 201 ] || { echo "demo: that should have been 201" >&2; exit 1; }
}

request "The first task" '{"image": "busybox:demo", "cmd": ["echo", "hello from a container"]}'
request "Again, now that all is warm" '{"image": "busybox:demo", "cmd": ["echo", "hello again"]}'
request "Standard input, files and an exit code" '{"image": "busybox:demo", "cmd": ["sh", "-c", "cat; cat /data/note; exit 3"],
 "stdin": "from stdin\n", "files": [{"path": "/data/note", "content": "from a file\n"}]}'
request "A limit, and the reason that it gives" '{"image": "busybox:demo", "cmd": ["sh", "-c", "echo before; sleep 10"], "limits": {"timeout": "200ms"}}'
request "What a task may see of this machine" '{"image": "busybox:demo", "network": "none", "cmd": ["sh", "-c", "id; hostname; ps; ip addr show dev lo | head -n 1"]}'

# Python, where its registry answers soon: MAYFLY_DEMO_PYTHON names another image that has python3.
python=${MAYFLY_DEMO_PYTHON:-docker.io/library/python:3-alpine}
registry=${python%%/*}
case $registry in
docker.io) url=https://registry-1.docker.io/v2/ ;;
127.* | localhost*) url=http://$registry/v2/ ;;
*) url=https://$registry/v2/ ;;
esac
status=$(curl -s -o /dev/null --connect-timeout 3 -m 6 -w '%{http_code}' "$url" || true)
if [ "$status" = 200 ] || [ "$status" = 401 ]; then
    step "Python, from $registry"
    echo "\$ mayfly pull $python"
    if timeout 120 build/mayfly pull "$python"; then
        request "Python adds up" "{\"image\": \"$python\", \"cmd\": [\"python3\", \"-c\", \"print('the sum is', sum(range(101)))\"]}"
    else
        echo "it did not come within two minutes, or at all: left out"
    fi
else
    step "Python is left out: $registry cannot be reached from here"
fi

step "100 tasks in a row, each in a container of its own"
body='{"image": "busybox:demo", "cmd": ["true"], "network": "none"}'
for i in $(seq 100); do
    [ "$i" = 1 ] || echo next
    printf 'unix-socket = "%s"\nurl = "http://mayfly/v1/tasks"\nheader = "Content-Type: application/json"\n' "$socket"
    printf 'data = "%s"\noutput = "/dev/null"\nwrite-out = "%%{http_code} %%{time_total}\\n"\n' "${body//\"/\\\"}"
done | curl -sS -K - >"$dir/times"
awk '$1 != 201 { bad++ } { print $2 * 1000 }  END { if (bad) { print bad " failed" > "/dev/stderr"; exit 1 } }' "$dir/times" | sort -n |
    awk '{ t[NR] = $1; sum += $1 } END { printf "median %.2f ms, fastest %.2f ms, slowest %.2f ms\n", t[int((NR + 1) / 2)], t[1], t[NR] }'

if docker info >/dev/null 2>&1; then
    image=$(docker images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null | grep -v '<none>' | head -n 1 || true)
    if [ -n "$image" ]; then
        step "An image that Docker has here"
        echo "\$ docker save $image | mayfly load -"
        docker save "$image" | build/mayfly load -
    fi
fi

if [ -n "$keep" ]; then
    trap - EXIT
    step "Mayfly goes on running"
    echo "use it:   export MAYFLY_HOST=$MAYFLY_HOST"
    echo "          $PWD/build/mayfly run busybox:demo echo hello"
    echo "stop it:  kill $serve; then rm -rf $dir"
else
    step "Stop"
    stop
    trap - EXIT
    echo "stopped; nothing is left behind"
fi
