# The suites that drive the built programs, in order; sourced by tools/test.sh, which defines suite(). Suites with an
# instance of their own start it themselves; the others share one, with the image busybox:demo in it.

suite leftover/before python3 tests/leftover/check.py --save "$logs/before.json"

suite launcher tests/launcher/run.sh
suite conformance/native tests/conformance/run.sh
suite conformance/docker tests/conformance/run.sh --engine docker
suite docker/units tests/docker/units.sh
suite docker/engine python3 tests/docker/engine.py
suite docker/pulls python3 tests/docker/pulls.py
suite docker/faults python3 tests/docker/faults.py ${long:+--long}
suite isolation python3 tests/isolation/run.py
suite kill python3 tests/kill/kill.py
suite kill/points python3 tests/kill/points.py
suite faults python3 tests/faults/faults.py
suite faults/canary python3 tests/faults/canary.py
suite network python3 tests/network/run.py
suite images python3 tests/image/run.py
suite images/save python3 tests/image/save.py
suite images/store python3 tests/image/store.py
suite registry python3 tests/registry/run.py
suite registry/feed python3 tests/registry/feed.py
suite registry/memory python3 tests/registry/memory.py
suite registry/trees python3 tests/registry/trees.py
suite api/tasks python3 tests/api/tasks.py
suite api/live python3 tests/api/live.py
suite api/roles python3 tests/api/roles.py
suite api/limits python3 tests/api/limits.py
suite api/memory python3 tests/api/memory.py
suite api/engines python3 tests/api/engines.py
suite clients python3 tests/clients/run.py
suite openapi python3 tests/openapi/requests.py
suite openapi/page python3 tests/openapi/page.py
suite images/worker python3 tests/hostile/worker.py

shared=$logs/shared
shared_start() {
    mkdir -m 755 "$shared"
    "$MAYFLY_BUILD/mayfly" serve --data "$shared/data" --run "$shared/run" --name mayfly-test --network.pool 10.214.0.0/16 \
        --registries.enabled false \
        >"$shared/log" 2>&1 &
    shared_pid=$!
    export MAYFLY_HOST=unix://$shared/run/mayfly.sock
    local i
    for i in $(seq 300); do
        curl -fs --unix-socket "$shared/run/mayfly.sock" http://mayfly/healthz >/dev/null && break
        kill -0 "$shared_pid" 2>/dev/null || { cat "$shared/log"; return 1; }
        sleep 0.1
    done
    tools/busybox-image.sh | "$MAYFLY_BUILD/mayfly" import - busybox:demo
}
shared_stop() {
    kill -TERM "$shared_pid" && wait "$shared_pid" && echo "ok - stopped in order" || echo "not ok - stopped in order: status $?"
    grep -iE 'sanitizer|runtime error|assert' "$shared/log" && echo "not ok - a clean log: see above"
    rm -rf "$shared"
}
if ! grep -qE "$only" <<<"api/malformed cli cli/tasks cli/completion api/stop"; then
    :
elif shared_start >"$logs/shared-start" 2>&1; then
    suite api/malformed python3 tests/api/malformed.py --verbose --socket "$shared/run/mayfly.sock"
    suite cli tests/cli/run.sh
    suite cli/tasks tests/cli/tasks.sh
    suite cli/completion tests/cli/completion.sh
    only=. suite api/stop shared_stop
else
    echo "not ok - the shared instance starts" >>"$logs/shared-start"
    suite api/start cat "$logs/shared-start"
fi
unset MAYFLY_HOST

suite api/ecs python3 tests/api/ecs.py
suite api/ecs/docker python3 tests/api/ecs.py --engine docker
suite cli/remote tests/cli/remote.sh
suite cli/hostile python3 tests/cli/hostile.py
suite cli/bars python3 tests/cli/bars.py
suite docs tests/docs/run_docs.sh
suite requirements python3 tests/registry/requirements.py "$logs"
suite picture python3 tests/picture/run.py
suite demo tests/demo.sh
if [ -n "$long" ]; then
    suite conformance/podman tests/conformance/run.sh --engine podman
    suite api/tasks/docker python3 tests/api/tasks.py --engine docker
    suite isolation/weakened python3 tests/isolation/run_weakened.py
    suite cross tests/cross/run.sh
    suite debootstrap tests/debootstrap/run.sh
    suite vm tests/vm/run.sh
    suite vm/resolved tests/vm/run.sh resolved
    suite vm/docker tests/vm/run.sh docker
fi
suite leftover/after python3 tests/leftover/check.py --compare "$logs/before.json"
