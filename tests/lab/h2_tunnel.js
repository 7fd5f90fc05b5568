// Node's HTTP/2 client in tunnels: node h2_tunnel.js PROXY CA HOST:PORT... opens a CONNECT to each through one connection to
// the proxy, asks for / over TLS inside, and writes a JSON list of what came. With "extended" for HOST:PORT: an extended
// CONNECT to PROXY itself, as to a server, whose echo of "ping" is what came.
"use strict";
const http2 = require("http2");
const tls = require("tls");
const fs = require("fs");
const [proxy, ca, ...targets] = process.argv.slice(2);
const roots = fs.readFileSync(ca);
const session = http2.connect(proxy, { ca: roots, ALPNProtocols: ["h2"] });
session.on("error", (error) => { console.error(String(error)); process.exitCode = 1; });

const through = (target) => new Promise((done) => {
  const stream = session.request({ ":method": "CONNECT", ":authority": target });
  stream.on("response", (headers) => {
    const inner = tls.connect({ socket: stream, servername: target.split(":")[0], ca: roots, ALPNProtocols: ["http/1.1"] },
      () => inner.write(`GET /1k HTTP/1.1\r\nHost: ${target}\r\nConnection: close\r\n\r\n`));
    let text = "";
    inner.on("data", (piece) => { text += piece.toString("latin1"); });
    inner.on("end", () => done({ status: headers[":status"], line: text.split("\r\n")[0], size: text.length }));
    inner.on("error", (error) => done({ status: headers[":status"], error: String(error) }));
  });
  stream.on("error", (error) => done({ error: String(error) }));
});

const extended = () => new Promise((done) => {
  session.on("remoteSettings", (settings) => {
    const stream = session.request({ ":method": "CONNECT", ":protocol": "echo", ":path": "/echo", ":authority": new URL(proxy).host });
    stream.on("response", (headers) => stream.write("ping"));
    let text = "";
    stream.on("data", (piece) => { text += piece; if (text === "ping") stream.end(); });
    stream.on("close", () => done({ allowed: settings.enableConnectProtocol, text, rst: stream.rstCode }));
    stream.on("error", (error) => { text += error; });
  });
});

Promise.all(targets.map((target) => target === "extended" ? extended() : through(target)))
  .then((all) => { console.log(JSON.stringify(all)); session.destroy(); });
