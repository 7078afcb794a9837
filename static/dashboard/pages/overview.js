// Health, the figures of the last minutes, and how they came about.

import { api } from "../lib/api.js";
import { Chart } from "../lib/chart.js";
import { find, findAll, h, settled } from "../lib/dom.js";
import { empty, failure } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { live } from "../lib/live.js";
import { row as makeRow, table } from "../lib/table.js";

const GRANULARITY = { "1h": "1m", "6h": "5m", "24h": "15m", "7d": "1h" };
const MODEL_COLUMNS = [["Model"], ["Device"], ["State"], ["Memory", "number"], ["Running", "number"], ["Waiting", "number"]];
const REFRESH = 10_000;
const LIVE_SECONDS = 300;
const NAMES = {
  inference_engine: "Inference", plugin_manager: "Plugins", web_dashboard: "Web", websocket_server: "Live events",
  database: "Database", redis: "Redis", scheduler: "Scheduler",
};

// ---------------------------------------------------------------- figures of now

const TILES = [
  ["Requests per minute", (now) => format.decimal(now.requests_per_minute)],
  ["Errors", (now) => (now.error_rate === null ? "–" : format.share(now.error_rate))],
  ["Time to first token", (now) => format.seconds(now.time_to_first_token)],
  ["Tokens per second", (now) => format.decimal(now.tokens_per_second)],
  ["Running", (now) => format.count(now.active_requests)],
  ["Waiting", (now) => format.count(now.queued_requests)],
];

function showTiles(now) {
  find("#tiles").replaceChildren(...TILES.map(([name, tell]) => h("div.tile", {}, h("dt", {}, name), h("dd", {}, ...withUnit(tell(now))))));
}

/** The unit smaller than the number. */
function withUnit(text) {
  const [number, ...unit] = text.split(" ");
  return unit.length ? [number, h("span.unit", {}, unit.join(" "))] : [number];
}

const KINDS = { healthy: "good", degraded: "warn", unhealthy: "bad" };

async function showStatus() {
  try {
    const told = await api("system/status");
    find("#health").replaceChildren(h(`span.badge.${KINDS[told.status] ?? "quiet"}`, {}, told.status));
    find("#services").replaceChildren(...Object.entries(told.services).map(([name, state]) => h("li", {},
      h(`span.badge.${state === "running" ? "good" : state === "degraded" ? "warn" : "bad"}`, { title: state }, state === "running" ? NAMES[name] ?? name : `${NAMES[name] ?? name}: ${state}`))));
    if (!find("#tiles").children.length) showTiles({ ...told.statistics, queued_requests: null });
  } catch (error) {
    find("#health").replaceChildren(h("span.badge.bad", {}, error.code === "OFFLINE" ? "no answer" : "status unknown"));
  }
}

// ---------------------------------------------------------------- charts

const CHARTS = [
  { title: "Requests per minute", labels: ["All", "Failed"], least: 1, from: (m) => [m.request_rate, m.request_rate.map((rate, place) => failed(rate, m.error_rate[place]))] },
  { title: "Response time", labels: ["p50", "p95", "p99"], tell: format.seconds, least: 0.01, from: (m) => [m.response_time_p50, m.response_time_p95, m.response_time_p99] },
  { title: "Time to first token", labels: ["p50", "p95", "p99"], tell: format.seconds, from: (m) => [m.time_to_first_token_p50, m.time_to_first_token_p95, m.time_to_first_token_p99] },
  { title: "Tokens per second", labels: ["All models"], least: 1, from: (m) => [m.tokens_per_second] },
  { title: "Queue", labels: ["Mean", "Most"], least: 4, from: (m) => [m.queue_depth, m.queue_depth_max] },
  { title: "Processor and memory", labels: ["CPU", "Memory"], tell: (v) => format.percent(v), top: 100, from: (m) => [m.cpu_usage, m.memory_usage] },
];
const GPU_CHARTS = [
  { title: "GPU utilisation", tell: (v) => format.percent(v), top: 100, from: (m) => m.gpu_utilization },
  { title: "GPU memory", tell: (v) => format.percent(v), top: 100, from: (m) => m.gpu_memory },
];
const LIVE_CHARTS = [
  { title: "Requests per minute", labels: ["All"], least: 1, of: "inference_stats", read: (e) => [e.requests_per_minute] },
  { title: "Tokens per second", labels: ["All models"], least: 1, of: "inference_stats", read: (e) => [e.tokens_per_second] },
  { title: "Time to first token", labels: ["Mean of five minutes"], tell: format.seconds, of: "inference_stats", read: (e) => [e.time_to_first_token] },
  { title: "Queue", labels: ["Running", "Waiting"], least: 4, of: "inference_stats", read: (e) => [e.active_requests, e.queued_requests] },
  { title: "Processor and memory", labels: ["CPU", "Memory"], tell: (v) => format.percent(v), top: 100, of: "system_metrics", read: (e) => [e.cpu_usage, e.memory_usage] },
];

const failed = (rate, share) => (rate === null ? null : rate * (share ?? 0));

let timeframe = new URLSearchParams(location.search).get("timeframe") ?? "1h";
let drawn = [];

function makeChart({ title, labels = [], tell, top, least }) {
  const figure = h("figure", { role: "group", "aria-label": title });
  find("#charts").append(h("div.card", {}, h("header", {}, h("h3", {}, title)), figure));
  return new Chart(figure, { labels, tell, top, least });
}

function prepareCharts() {
  find("#charts").replaceChildren();
  const wanted = timeframe === "live" ? LIVE_CHARTS : CHARTS;
  drawn = wanted.map((description) => ({ description, chart: makeChart(description) }));
}

let asked = null;

async function showMetrics() {
  if (timeframe === "live") { showLive(); return; }
  asked?.abort();
  asked = new AbortController();
  const wanted = timeframe;
  try {
    const told = await api("system/metrics", { query: { timeframe, granularity: GRANULARITY[timeframe] }, signal: asked.signal });
    if (wanted !== timeframe) return;
    const times = told.metrics.timestamps.map((stamp) => Date.parse(stamp) / 1000);
    if (told.gpus.length && !drawn.some(({ description }) => GPU_CHARTS.includes(description))) {
      drawn.push(...GPU_CHARTS.map((description) => ({ description, chart: makeChart(description) })));
    }
    for (const { description, chart } of drawn) {
      if (!GPU_CHARTS.includes(description)) { chart.set(times, description.from(told.metrics)); continue; }
      const rows = description.from(told.metrics);
      chart.set(times, told.gpus.map((_, place) => rows.map((row) => row?.[place] ?? null)),
        told.gpus.map((gpu) => `${gpu.host ?? ""}/${gpu.gpu_id ?? gpu.id ?? ""}`));
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!drawn.some(({ chart }) => chart.hasData)) find("#charts").replaceChildren(h("div.card", {}, failure(error, start)));
  }
}

const seen = { inference_stats: [], system_metrics: [] };

function keep(name, event) {
  const at = Date.parse(event.timestamp) / 1000;
  const list = seen[name];
  if (list.length && list.at(-1).at >= at) return;
  list.push({ at, event });
  while (list.length && list[0].at < at - LIVE_SECONDS) list.shift();
}

const showLive = settled(() => {
  if (timeframe !== "live") return;
  for (const { description, chart } of drawn) {
    const list = seen[description.of];
    const rows = list.map(({ event }) => description.read(event));
    chart.set(list.map(({ at }) => at), description.labels.map((_, place) => rows.map((row) => row[place] ?? null)));
  }
}, 50);

// ---------------------------------------------------------------- GPUs and models

const gpus = new Map();

function gpuCard(gpu) {
  const used = gpu.memory_total ? (gpu.memory_used / gpu.memory_total) * 100 : null;
  const powered = gpu.power_limit ? (gpu.power_usage / gpu.power_limit) * 100 : null;
  const line = (name, value, of100) => [
    h("span.quiet", {}, name),
    of100 === null ? h("span") : h(`div.meter${of100 > 92 ? ".warn" : ""}`, { role: "img", "aria-label": `${name} ${format.percent(of100)}` }, h("i", { style: { width: `${Math.min(100, of100)}%` } })),
    h("span.number", {}, value),
  ];
  const mib = (value) => format.bytes(value === null || value === undefined ? null : value * 1024 ** 2);
  return h("div.card.gpu", {},
    h("div.row.apart", {}, h("h3", {}, `${gpu.name ?? "GPU"} `, h("span.quiet", {}, `${gpu.host}/${gpu.gpu_id}`)), gpu.status === "lost" ? h("span.badge.bad", {}, "lost") : null),
    h("div.figures", {}, ...line("Utilisation", format.percent(gpu.utilization), gpu.utilization ?? null),
      ...line("Memory", `${mib(gpu.memory_used)} of ${mib(gpu.memory_total)}`, used),
      ...line("Temperature", gpu.temperature === null ? "–" : `${format.decimal(gpu.temperature, 0)} °C`, gpu.temperature ?? null),
      ...line("Power", `${format.decimal(gpu.power_usage, 0)} of ${format.decimal(gpu.power_limit, 0)} W`, powered)));
}

const drawGpus = settled(() => {
  find("#gpus-section").hidden = gpus.size === 0;
  find("#gpus").replaceChildren(...[...gpus.values()].map(gpuCard));
}, 100);

async function showGpus() {
  try {
    const told = await api("system/gpu");
    for (const gpu of told.gpus) {
      const gpu_id = gpu.gpu_id ?? gpu.id;
      gpus.set(`${gpu.host}/${gpu_id}`, { ...gpu, gpu_id, memory_used: gpu.memory_used, utilization: gpu.utilization });
    }
    drawGpus();
  } catch {
    // The health badge tells that nothing answers.
  }
}

async function showModels() {
  const place = find("#models");
  try {
    const { workers } = await api("system/workers");
    const rows = workers.flatMap((worker) => worker.models.map((model) => ({ ...model, worker })));
    if (!rows.length) {
      place.replaceChildren(h("div.card", {}, empty("No model is loaded", h("p", {}, "One is loaded with the first request to it, or on the page of the models."))));
      return;
    }
    place.replaceChildren(table(MODEL_COLUMNS, rows.map((row) => makeRow(MODEL_COLUMNS, {}, [
      h("td.name", {}, row.model),
      h("td.nowrap", {}, `${row.worker.host}/${row.worker.device}`),
      h("td", {}, h("span", {}, h(`span.badge.${row.state === "loaded" ? "good" : row.state === "failed" || row.state === "lost" ? "bad" : "warn"}`, {}, row.stage ? `${row.state}: ${row.stage}` : row.state))),
      h("td.number", {}, format.bytes(row.memory_usage_bytes)), h("td.number", {}, format.count(row.running)), h("td.number", {}, format.count(row.waiting)),
    ]))));
  } catch (error) {
    if (!place.children.length) place.replaceChildren(h("div.card", {}, failure(error, showModels)));
  }
}

// ---------------------------------------------------------------- all of it

function start() {
  prepareCharts();
  showMetrics();
}

for (const input of findAll("#timeframe input")) {
  input.checked = input.value === timeframe;
  input.addEventListener("change", () => {
    timeframe = input.value;
    history.replaceState(null, "", `?timeframe=${timeframe}`);
    start();
  });
}

const all = () => Promise.all([showStatus(), showMetrics(), showGpus(), showModels()]);
start();
showStatus();
showGpus();
showModels();
setInterval(() => { if (!document.hidden) { showStatus(); showMetrics(); showModels(); } }, REFRESH);
document.addEventListener("visibilitychange", () => { if (!document.hidden) all(); });

const models = settled(showModels, 300);
for (const name of ["model_loading", "model_loaded", "model_unloaded", "model_load_failed", "model_lost"]) live.on(name, models);
live.on("inference_stats", (event) => { showTiles(event); keep("inference_stats", event); showLive(); });
live.on("system_metrics", (event) => { keep("system_metrics", event); showLive(); });
live.on("gpu_metrics", (event) => {
  gpus.set(`${event.host}/${event.gpu_id}`, { ...gpus.get(`${event.host}/${event.gpu_id}`), ...event });
  drawGpus();
});
live.onBack(all);
live.watch(["inference_stats", "system_metrics"], { replay: 60 }).watch(["gpu_metrics", "model_events"]);
