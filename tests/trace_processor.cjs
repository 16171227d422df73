// Perfetto's trace processor, compiled to WebAssembly, without a browser: the worker script of its user interface runs
// here, and is asked in its own protocol (protobuf's wire format, written by hand for the few fields that are needed).
//
//   node trace_processor.cjs FOLDER TRACE < QUERIES      FOLDER: engine_bundle.js and trace_processor*.wasm
//
// QUERIES: a JSON list of SQL texts. Prints a JSON list: of each query its rows, as objects by column.
"use strict";
const fs = require("fs");
const path = require("path");

const [folder, trace] = process.argv.slice(2);
const queries = JSON.parse(fs.readFileSync(0, "utf8"));

// --- protobuf ---------------------------------------------------------------------------------------------------------

function varint(n) {
  const bytes = [];
  for (n = BigInt(n); n > 127n; n >>= 7n) bytes.push(Number(n & 127n) | 128);
  return Buffer.from([...bytes, Number(n)]);
}
const bytesField = (field, data) => Buffer.concat([varint((field << 3) | 2), varint(data.length), data]);
const numberField = (field, n) => Buffer.concat([varint(field << 3), varint(n)]);

function* fields(data) {
  let at = 0;
  const next = () => {
    let n = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = data[at++];
      n |= BigInt(byte & 127) << shift;
      if (byte < 128) return n;
    }
  };
  while (at < data.length) {
    const tag = Number(next());
    if ((tag & 7) === 0) yield [tag >> 3, next()];
    else if ((tag & 7) === 1) yield [tag >> 3, data.subarray(at, (at += 8))];
    else if ((tag & 7) === 2) {
      const length = Number(next());
      yield [tag >> 3, data.subarray(at, (at += length))];
    } else throw new Error(`wire type ${tag & 7}`);
  }
}

function packed(data) {
  const found = [];
  let n = 0n, shift = 0n;
  for (const byte of data) {
    n |= BigInt(byte & 127) << shift;
    shift += 7n;
    if (byte < 128) {
      found.push(Number(BigInt.asIntN(64, n)));
      n = shift = 0n;
    }
  }
  return found;
}

// --- the worker ---------------------------------------------------------------------------------------------------------

let pending = Buffer.alloc(0);
const replies = [];
const port = {
  postMessage(data) {
    pending = Buffer.concat([pending, Buffer.from(data)]);
    for (const [, message] of fields(pending)) replies.push(message); // a reply is never cut into two calls
    pending = Buffer.alloc(0);
  },
};
const worker = { location: { pathname: "/engine_bundle.js", href: "file:///engine_bundle.js" } };
const read = (name) => fs.readFileSync(path.join(folder, path.basename(name)));
class FromFolder {
  open(method, name) {
    this.name = name;
  }
  send() {
    this.response = new Uint8Array(read(this.name)).buffer;
  }
}
// What a worker has and node has not; and no `process`, or the script would take itself for node's.
const scope = {
  self: worker, location: worker.location, XMLHttpRequest: FromFolder, WorkerGlobalScope: class {}, process: undefined,
  console: { log() {}, warn() {}, error() {} }, // what it has to say of a trace is in its table "stats"
};
new Function(...Object.keys(scope), read("engine_bundle.js").toString())(...Object.values(scope));
worker.onmessage({ data: port });

let sequence = 0;
const sleep = () => new Promise((done) => setTimeout(done, 20));

async function ask(kind, argument = Buffer.alloc(0)) {
  const before = replies.length;
  const message = Buffer.concat([numberField(1, sequence++), numberField(2, kind), argument]);
  port.onmessage({ data: Uint8Array.from(bytesField(1, message)) });
  while (replies.length === before) await sleep();
  return replies.slice(before);
}

const [APPEND, FINALIZE, QUERY] = [1, 2, 3];

async function rows(sql) {
  const names = [], found = [];
  for (const reply of await ask(QUERY, bytesField(103, bytesField(1, Buffer.from(sql))))) {
    for (const [field, result] of fields(reply)) {
      if (field !== 203) continue;
      for (const [part, data] of fields(result)) {
        if (part === 1) names.push(data.toString());
        if (part === 2 && data.length) throw new Error(`${sql}: ${data}`);
        if (part === 3) found.push(...cells(data));
      }
    }
  }
  const made = [];
  for (let at = 0; at < found.length; at += names.length)
    made.push(Object.fromEntries(names.map((name, i) => [name, found[at + i]])));
  return made;
}

function cells(batch) {
  const values = { kinds: [], numbers: [], floats: [], texts: [] };
  for (const [field, data] of fields(batch)) {
    if (field === 1) values.kinds = packed(data);
    if (field === 2) values.numbers = packed(data);
    if (field === 3) for (let at = 0; at < data.length; at += 8) values.floats.push(data.readDoubleLE(at));
    if (field === 5) values.texts = data.toString().split("\0");
  }
  const take = { 1: () => null, 2: () => values.numbers.shift(), 3: () => values.floats.shift(), 4: () => values.texts.shift() };
  return values.kinds.map((kind) => take[kind]());
}

(async () => {
  await sleep(); // it asks for its own request buffer first
  await ask(APPEND, bytesField(101, fs.readFileSync(trace)));
  await ask(FINALIZE);
  const found = [];
  for (const sql of queries) found.push(await rows(sql));
  process.stdout.write(JSON.stringify(found) + "\n");
  process.exit(0);
})().catch((error) => {
  console.error(String(error.stack || error).slice(-2000)); // not the worker's one long line
  process.exit(1);
});
