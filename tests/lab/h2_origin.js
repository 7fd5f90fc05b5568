// An HTTP/2 origin (Node's own): node h2_origin.js PORT KEY CERT. HTTP/2 only; paths as at the bottom.
"use strict";
const http2 = require("http2");
const fs = require("fs");
const crypto = require("crypto");
const [port, key, cert] = process.argv.slice(2);

const chat = (stream) => { // a WebSocket's server: says what it hears, with "server heard " before it
  let all = Buffer.alloc(0), begun = 0, parts = [];
  stream.on("data", (piece) => {
    all = Buffer.concat([all, piece]);
    for (;;) {
      if (all.length < 6) return;
      const size = all[1] & 127, at = size === 127 ? 10 : size === 126 ? 4 : 2;
      if (all.length < at + 4) return;
      const length = size === 127 ? Number(all.readBigUInt64BE(2)) : size === 126 ? all.readUInt16BE(2) : size;
      if (all.length < at + 4 + length) return;
      const fin = all[0] & 128;
      let code = all[0] & 15, body = Buffer.from(all.subarray(at + 4, at + 4 + length)).map((byte, n) => byte ^ all[at + n % 4]);
      all = all.subarray(at + 4 + length);
      if (code < 8) {
        begun = code || begun;
        parts.push(body);
        if (!fin) continue;
        [code, body, parts] = [begun, Buffer.concat(parts), []];
      }
      const said = code > 7 || body.length > 1000 ? body : Buffer.concat([Buffer.from("server heard "), body]);
      const head = said.length < 126 ? Buffer.from([0x80 | (code === 9 ? 10 : code), said.length])
        : Buffer.concat([Buffer.from([0x80 | code, 127]), Buffer.alloc(8)]);
      if (said.length > 125) head.writeBigUInt64BE(BigInt(said.length), 2);
      stream.write(Buffer.concat([head, said]));
      if (code === 8) stream.end();
    }
  });
};

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
    if (kind === "chat") chat(stream); else stream.pipe(stream);
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
