// fetch and node:http, as programs use them. URL, KEY and WS_URL (by FRONT) come by the environment; ONLY names
// a part of the tests.
import http from "node:http";
import { createRequire } from "node:module";

const { URL: url, KEY: key, WS_URL: wsUrl, FRONT: front, ONLY: only } = process.env;
const headers = { "Content-Type": "application/json", Authorization: `Bearer ${key}` };
let failed = 0;

async function test(name, f) {
    if (only && !name.includes(only))
        return;
    try {
        await f();
        console.log(`ok - node: ${name}`);
    } catch (e) {
        failed = 1;
        console.log(`not ok - node: ${name}: ${String(e.message).replace(/\s+/g, " ")} ${e.cause ?? ""}`);
    }
}

function equal(got, want) {
    if (JSON.stringify(got) !== JSON.stringify(want))
        throw new Error(`got ${JSON.stringify(got)}, expected ${JSON.stringify(want)}`);
}

async function run(cmd, more = {}, options = {}) {
    const answer = await fetch(`${url}/v1/tasks`, {
        method: "POST", headers, body: JSON.stringify({ image: "busybox:demo", cmd, network: "none", ...more }), ...options,
    });
    return [answer.status, await answer.json()];
}

await test("fetch", async () => {
    const [status, task] = await run(["echo", "grüße"]);
    equal([status, task.stdout], [201, "grüße\n"]);
});

await test("fetch, 40 at once", async () => {
    const all = await Promise.all([...Array(40).keys()].map((n) => run(["echo", `${n}`])));
    equal(all.map(([status, task]) => [status, task.stdout]), [...Array(40).keys()].map((n) => [201, `${n}\n`]));
});

await test("fetch with a body that is a stream (chunked)", async () => {
    const text = JSON.stringify({ image: "busybox:demo", cmd: ["wc", "-c"], network: "none", stdin: "x".repeat(300000) });
    const body = new ReadableStream({
        start(c) {
            for (let at = 0; at < text.length; at += 50000)
                c.enqueue(new TextEncoder().encode(text.slice(at, at + 50000)));
            c.close();
        },
    });
    const answer = await fetch(`${url}/v1/tasks`, { method: "POST", headers, body, duplex: "half" });
    equal([answer.status, (await answer.json()).stdout], [201, "300000\n"]);
});

await test("fetch that is aborted cancels its task", async () => {
    const find = async (label) => (await (await fetch(`${url}/v1/tasks?label=test=${label}`, { headers })).json()).tasks[0];
    const wait = async (label, status) => {
        for (let n = 0; n < 600; n++) {
            const task = await find(label);
            if (task?.status === status)
                return task;
            await new Promise((r) => setTimeout(r, 50));
        }
        throw new Error(`it never is ${status}`);
    };
    // Node 18 forgets a signal when its memory is collected meanwhile (nodejs/undici, issue 3644): then another one is asked for.
    for (let n = 0; n < 5; n++) {
        const label = `node-${Date.now()}`;
        const control = new AbortController();
        const asked = run(["sleep", "60"], { labels: { test: label } }, { signal: control.signal }).catch((e) => e.name);
        await wait(label, "running");
        control.abort();
        const ended = await Promise.race([asked, new Promise((r) => setTimeout(() => r(null), 5000))]);
        if (!ended)
            continue;
        equal(ended, "AbortError");
        equal((await wait(label, "killed")).reason, "cancelled");
        return;
    }
    throw new Error("no abort was heard of");
});

await test("fetch reads server-sent events as they come", async () => {
    const [status, { id }] = await run(["sh", "-c", "echo one; sleep 0.3; echo two"], { wait: false });
    equal(status, 202);
    const answer = await fetch(`${url}/v1/tasks/${id}/logs?follow=1`, { headers });
    let text = "";
    for await (const piece of answer.body)
        text += new TextDecoder().decode(piece);
    equal([/one/.test(text), /two/.test(text), /event: end/.test(text)], [true, true, true]);
});

await test("node:http keeps its connection", async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const ports = new Set();
    for (let n = 0; n < 5; n++) {
        await new Promise((resolve, reject) => {
            const r = http.get(`${url}/v1/version`, { agent, headers }, (answer) => {
                ports.add(r.socket.localPort);
                answer.resume().on("end", resolve);
            }).on("error", reject);
        });
    }
    agent.destroy();
    equal(ports.size, 1);
});

await test("Expect: 100-continue", async () => {
    const status = await new Promise((resolve, reject) => {
        const body = JSON.stringify({ image: "busybox:demo", cmd: ["true"], network: "none" });
        const r = http.request(`${url}/v1/tasks`, {
            method: "POST", headers: { ...headers, Expect: "100-continue", "Content-Length": body.length },
        }, (answer) => answer.resume().on("end", () => resolve(answer.statusCode))).on("error", reject);
        r.on("continue", () => r.end(body));
    });
    equal(status, 201);
});

let WebSocket = globalThis.WebSocket;
let withHeaders = (at) => new WebSocket(at, { headers: { Authorization: `Bearer ${key}` } });
try {
    WebSocket = createRequire(import.meta.url)("/usr/share/nodejs/ws");
} catch {
    withHeaders = null;
}
if (!wsUrl) {
    // nothing is in front
} else if (withHeaders) {
    await test(`a WebSocket through ${front}`, async () => {
        const ws = withHeaders(`${wsUrl}/v1/tasks/stream`);
        ws.binaryType = "nodebuffer";
        let out = "";
        const result = await new Promise((resolve, reject) => {
            ws.on("error", reject);
            ws.on("open", () => {
                ws.send(JSON.stringify({ image: "busybox:demo", cmd: ["cat"], network: "none" }));
                ws.send(Buffer.concat([Buffer.from([0]), Buffer.from("through the proxy\n")]));
                ws.send(JSON.stringify({ type: "stdin_end" }));
            });
            ws.on("message", (data, binary) => {
                if (binary && data[0] === 1)
                    out += data.subarray(1);
                else if (!binary && JSON.parse(data).type !== "started")
                    resolve(JSON.parse(data));
            });
        });
        ws.close();
        equal([out, result.task?.exit_code ?? result.exit_code], ["through the proxy\n", 0]);
    });
} else {
    console.log(`skip - node: a WebSocket through ${front}: node-ws is not installed`);
}

process.exit(failed);
