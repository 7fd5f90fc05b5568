// An HTTP/2 origin (Node's own): node h2_origin.js PORT KEY CERT. HTTP/2 only; paths as at the bottom.
"use strict";
const http2 = require("http2");
const fs = require("fs");
const crypto = require("crypto");
const [port, key, cert] = process.argv.slice(2);

const server = http2.createSecureServer({ key: fs.readFileSync(key), cert: fs.readFileSync(cert), allowHTTP1: false,
  settings: { enableConnectProtocol: true } });
server.on("sessionError", () => {});
server.on("stream", (stream, headers, flags, raw) => {
  stream.on("error", () => {});
  const path = headers[":path"];
  const hash = crypto.createHash("sha256");
  let size = 0, trailers = [];
  stream.on("data", (piece) => { hash.update(piece); size += piece.length; });
  stream.on("trailers", (_, __, pairs) => { trailers = pairs; });
  const whole = (then) => stream.on("end", then);
  const [, kind, argument] = path.split("/");
  if (headers[":protocol"]) { // RFC 8441
    stream.respond({ ":status": 200, "x-protocol": headers[":protocol"] });
    stream.pipe(stream);
    return;
  }
  if (kind === "bytes") {
    whole(() => { stream.respond({ ":status": 200, "x-kind": "bytes" }); stream.end(Buffer.alloc(Number(argument), "pattern.")); });
  } else if (kind === "sse") {
    stream.respond({ ":status": 200, "content-type": "text/event-stream" });
    let count = 0;
    const tick = () => { stream.write(`data: ${count}\n\n`); if (++count === 4) { clearInterval(timer); stream.end(); } };
    const timer = setInterval(tick, 150);
    tick();
  } else if (kind === "trailers") {
    whole(() => {
      stream.respond({ ":status": 200 }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "x-checksum": "abc", "x-count": "2" }));
      stream.end("body");
    });
  } else if (kind === "hints") {
    stream.additionalHeaders({ ":status": 103, link: "</a.css>" });
    whole(() => { stream.respond({ ":status": 200 }); stream.end("late"); });
  } else if (kind === "reset") {
    stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
  } else if (kind === "never") {
    stream.on("aborted", () => {});
  } else { // a report of the request
    whole(() => {
      stream.respond({ ":status": 200, "content-type": "application/json" });
      stream.end(JSON.stringify({ raw, size, sha256: hash.digest("hex"), trailers }));
    });
  }
});
server.listen(Number(port), "::", () => console.log("ready"));
