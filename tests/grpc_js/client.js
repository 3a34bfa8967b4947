// node client.js ADDRESS SCENARIO < input.json: makes calls with grpc-js, prints what came as JSON.
// The input is {requests: [ClassifyRequest...]}, bytes in base64.
"use strict";

const fs = require("fs");
const path = require("path");
const readline = require("readline");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, scenario] = process.argv.slice(2);
const definition = loader.loadSync(
  [
    path.join(__dirname, "../../proto/convscope/v1/classifier.proto"),
    path.join(__dirname, "health.proto"),
  ],
  { keepCase: true, longs: Number, enums: String, oneofs: true },
);
const { convscope, grpc: standard } = grpc.loadPackageDefinition(definition);

const options = { "grpc.max_receive_message_length": -1 };
if (scenario === "gzip") {
  options["grpc.default_compression_algorithm"] = grpc.compressionAlgorithms.gzip;
}
const insecure = grpc.credentials.createInsecure();
const classifier = new convscope.v1.Classifier(address, insecure, options);
const health = new standard.health.v1.Health(address, insecure, options);

const status = (error) => ({ code: grpc.status[error.code], message: error.details });

// The answer of a unary call, or how it failed.
function classify(request, callOptions = {}) {
  return new Promise((resolve) =>
    classifier.Classify(request, callOptions, (error, response) =>
      resolve(error ? { error: status(error) } : { response }),
    ),
  );
}

// The messages of a call that streams, read one by one with next().
function reader(call) {
  const came = [];
  const waiting = [];
  const put = (item) => (waiting.length ? waiting.shift()(item) : came.push(item));
  call.on("data", (message) => put({ message }));
  call.on("error", (error) => put({ error: status(error) }));
  call.on("end", () => put({ end: true }));
  return () =>
    new Promise((resolve) => (came.length ? resolve(came.shift()) : waiting.push(resolve)));
}

const scenarios = {
  async unary([request]) {
    return classify(request);
  },

  async gzip([request]) {
    return classify(request);
  },

  // Every answer is read before the next request is sent.
  async interleaved(requests) {
    const call = classifier.ClassifyStream();
    const next = reader(call);
    const answers = [];
    for (const request of requests) {
      call.write(request);
      answers.push((await next()).message);
    }
    call.end();
    return { answers, last: await next() };
  },

  // The caller of this program says when to give the call up: by a line after the input.
  async cancel([request], line) {
    return new Promise((resolve) => {
      const call = classifier.Classify(request, (error) => resolve({ error: status(error) }));
      line().then(() => call.cancel());
    });
  },

  async deadline([request]) {
    return classify(request, { deadline: Date.now() + 300 });
  },

  async watch(_, line) {
    const call = health.Watch({ service: "" });
    const next = reader(call);
    const first = (await next()).message.status;
    process.stdout.write("watching\n");
    const second = (await next()).message.status;
    call.cancel();
    return { statuses: [first, second] };
  },
};

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const line = async () => (await lines.next()).value;
// protobufjs wants buffers for bytes; base64 is what JSON can carry.
const withBytes = (key, value) =>
  key === "data" && typeof value === "string" ? Buffer.from(value, "base64") : value;
const asBase64 = (key, value) =>
  value && value.type === "Buffer" ? Buffer.from(value.data).toString("base64") : value;

(async () => {
  const { requests } = JSON.parse(await line(), withBytes);
  const result = await scenarios[scenario](requests, line);
  fs.writeSync(1, JSON.stringify(result, asBase64) + "\n");
  process.exit(0);
})();
