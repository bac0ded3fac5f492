// The weather as a service, in another language: the same answers as blocks/almanac.py, and the same words
// to the registry as architectures/service_oriented.py.  Node.js 14 or newer, no packages.
//
//   node weather.mjs CONFIG.json      {port, name, registry, cities, lease, upgrade}
//
// It publishes itself, renews its lease, and withdraws when it is told to end.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const cities = new Map(config.cities.map((city) => [city.name, city]));
const upgraded = process.argv[2] + ".upgraded"; // a crash takes no new version back
let version = existsSync(upgraded) ? 2 : 1;

function forecast(city, day) {
  let away = Math.abs(day - 196);
  away = Math.min(away, 365 - away);
  const letters = [...city.name].reduce((sum, letter) => sum + letter.codePointAt(0), 0);
  const whim = ((day * 37 + letters * 101) % 81) - 40;
  return city.july - Math.floor(((city.july - city.january) * away) / 182) + whim;
}

class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    Object.assign(this, { status, code });
  }
}

function answer(method, target) {
  if (method !== "GET") throw new Refused(405, "method", `not ${method}`);
  let url;
  try {
    url = new URL(target, "http://x");
  } catch {
    throw new Refused(400, "bad-arguments", "no path");
  }
  const path = /^\/v(\d+)\/weather$/.exec(url.pathname);
  if (!path) throw new Refused(404, "unknown-method", `nothing at ${url.pathname}`);
  if (Number(path[1]) !== version)
    throw new Refused(409, "wrong-version", `this is version ${version}`);
  const city = cities.get(url.searchParams.get("city"));
  if (!city) throw new Refused(409, "unknown-city", String(url.searchParams.get("city")));
  const text = url.searchParams.get("day") ?? "";
  const day = Number(text);
  if (!/^\d{1,3}$/.test(text) || day > 365) // "1e2" and "" are numbers to JavaScript
    throw new Refused(400, "bad-arguments", "day must be a whole number from 0 to 365");
  const tenths = forecast(city, day);
  if (version === 1) return { city: city.name, day, celsius: tenths / 10 };
  return { city: city.name, day, centikelvin: tenths * 10 + 27315 };
}

const server = http.createServer((request, response) => {
  let status = 200;
  let body;
  try {
    body = answer(request.method, request.url);
  } catch (error) {
    status = error.status ?? 500;
    body = { error: error.code ?? "broken", detail: error.message };
  }
  const text = JSON.stringify(body);
  request.resume();
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
  response.end(text);
});
server.keepAliveTimeout = 75_000;

const agent = new http.Agent({ keepAlive: true });

function tell(action, fields) {
  return new Promise((resolve) => {
    const body = JSON.stringify({ address: config.name, ...fields });
    const request = http.request(
      {
        host: "127.0.0.1",
        port: config.registry,
        path: `/services/weather/${action}`,
        method: "POST",
        agent,
        timeout: 1000,
        headers: { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) },
      },
      (response) => {
        response.resume();
        response.on("end", resolve);
      },
    );
    request.on("timeout", () => request.destroy());
    request.on("error", resolve); // the registry is away: the next renewal tells it
    request.on("close", resolve);
    request.end(body);
  });
}

const publish = () => tell("publish", { version, technology: "Node.js", lease: config.lease });

server.listen(config.port, "127.0.0.1", () => {
  publish();
  setInterval(publish, (config.lease / 3) * 1000);
  if (config.upgrade > 0 && version === 1)
    setTimeout(async () => {
      await tell("withdraw", {});
      version = 2;
      writeFileSync(upgraded, "");
      publish();
    }, config.upgrade * 1000);
});

process.on("SIGTERM", async () => {
  await tell("withdraw", {});
  process.exit(0);
});
