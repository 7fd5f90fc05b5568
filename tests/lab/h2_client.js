// Node's HTTP/2 client: node h2_client.js URL CA '[{"path": ..., ...}, ...]' asks for all at once on one connection,
// and writes a JSON list of what came. Of a request: path, method, headers, body (size), trailers, cancel (after ms).
"use strict";
const http2 = require("http2");
const fs = require("fs");
const crypto = require("crypto");
const [url, ca, list] = process.argv.slice(2);

const session = http2.connect(url, { ca: fs.readFileSync(ca), ALPNProtocols: ["h2"], settings: { initialWindowSize: 1 << 20 } });
session.on("error", (error) => { console.error(String(error)); process.exitCode = 1; });
session.setLocalWindowSize && session.on("connect", () => session.setLocalWindowSize(1 << 24));

const ask = (wish) => new Promise((done) => {
  const began = performance.now();
  const got = { path: wish.path, status: 0, headers: {}, informational: [], trailers: {}, size: 0, first: 0, error: "", ms: 0 };
  const hash = crypto.createHash("sha256");
  const method = wish.method || (wish.body === undefined ? "GET" : "POST");
  const stream = session.request({ ":path": wish.path, ":method": method, ...wish.headers },
    { endStream: wish.body === undefined, waitForTrailers: Boolean(wish.trailers) });
  stream.on("headers", (headers) => got.informational.push(headers[":status"]));
  stream.on("response", (headers) => {
    got.status = headers[":status"];
    for (const [name, value] of Object.entries(headers)) if (!name.startsWith(":")) got.headers[name] = value;
  });
  stream.on("trailers", (headers) => { got.trailers = { ...headers }; });
  stream.on("data", (piece) => {
    if (!got.size) got.first = performance.now() - began;
    hash.update(piece);
    got.size += piece.length;
    if (wish.keep) got.text = (got.text || "") + piece;
  });
  stream.on("error", (error) => { got.error = error.code || String(error); });
  stream.on("close", () => {
    got.sha256 = hash.digest("hex");
    got.rst = stream.rstCode;
    got.ms = performance.now() - began;
    done(got);
  });
  if (wish.trailers) stream.on("wantTrailers", () => stream.sendTrailers(wish.trailers));
  if (wish.body !== undefined) stream.end(Buffer.alloc(wish.body, "pattern."));
  if (wish.cancel) setTimeout(() => stream.close(http2.constants.NGHTTP2_CANCEL), wish.cancel);
});

Promise.all(JSON.parse(list).map(ask)).then((all) => { console.log(JSON.stringify(all)); session.close(); });
