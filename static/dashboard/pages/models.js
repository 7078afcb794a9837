// The registry: what each model takes, where it is, and loading and unloading it.

import { api, may } from "../lib/api.js";
import { fieldsOf, find, h, settled } from "../lib/dom.js";
import { empty, failure, field, formDialog, loading, tell, toast } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { live } from "../lib/live.js";
import { row as makeRow, table } from "../lib/table.js";

const place = find("#models");
const KINDS = { loaded: "good", loading: "warn", unloading: "warn", failed: "bad", lost: "bad", available: "quiet" };
const PRECISIONS = [["", "As the server is set"], ["auto", "Best for the device"], ["fp32", "fp32"], ["bf16", "bf16"], ["fp16", "fp16"], ["int8", "int8"], ["int4", "int4"]];
const COLUMNS = [["Model"], ["Type"], ["State"], ["Estimated", "number"], ["Measured", "number"], [""]];
// How far loads have come, by model, from events: faster than asking.
const underWay = new Map();

async function show() {
  try {
    const { models } = await api("models", { query: { search: find("#search").value, loaded: find("#state").value } });
    if (!models.length) {
      place.replaceChildren(h("div.card", {}, find("#search").value || find("#state").value
        ? empty("No model is like that") : empty("There is no model yet", h("p", {}, "Add one from the hub, a folder or a GGUF file."))));
      return;
    }
    place.replaceChildren(table(COLUMNS, models.map(row)));
  } catch (error) {
    if (!place.querySelector("table")) place.replaceChildren(h("div.card", {}, failure(error, show)));
    else tell(error);
  }
}

function row(model) {
  const names = [model.default && "default", ...model.aliases, model.pinned && "pinned", !model.enabled && "disabled"].filter(Boolean);
  return makeRow(COLUMNS, { data: { model: model.id } }, [
    h("td.name", {}, h("button.link", { type: "button", onclick: () => showDetails(model.id) }, model.id),
      h("div.small.quiet", {}, [model.name !== model.id && model.name, ...names].filter(Boolean).join(" · "))),
    h("td", {}, h("span", {}, model.type, h("div.small.quiet", {}, model.size))),
    h("td", {}, h("span", {}, stateOf(model))),
    h("td.number", {}, format.bytes(model.estimated_memory_bytes)),
    h("td.number", {}, format.bytes(model.memory_usage_bytes)),
    h("td", {}, h("div.actions", {}, ...actions(model))),
  ]);
}

function stateOf(model) {
  const way = underWay.get(model.id);
  if (model.state === "loading" && way) {
    return h("div.stack", { style: { gap: ".25rem", "min-width": "9rem" } }, h("span.small", {}, `${way.stage || "loading"} ${format.percent(way.progress * 100)}`),
      h("div.progress", { role: "progressbar", "aria-label": `Loading ${model.id}`, "aria-valuenow": Math.round(way.progress * 100), "aria-valuemin": 0, "aria-valuemax": 100 }, h("i", { style: { width: `${way.progress * 100}%` } })));
  }
  return h(`span.badge.${KINDS[model.state] ?? "quiet"}`, {}, model.state, model.backend && model.state === "loaded" ? ` on ${model.backend}` : "");
}

function actions(model) {
  const is = (...states) => states.includes(model.state);
  return [
    may("write") && h("a.button.compact", { href: `/playground?model=${encodeURIComponent(model.id)}`, "aria-label": `Ask ${model.id}` }, "Ask"),
    may("admin") && is("available", "failed", "lost") && h("button.compact", { type: "button", onclick: () => load(model.id) }, "Load …"),
    may("admin") && is("loaded", "loading") && h("button.compact.danger", { type: "button", onclick: () => unload(model) }, "Unload"),
  ].filter(Boolean);
}

// ---------------------------------------------------------------- details

async function showDetails(id) {
  const body = h("div.stack", {}, loading());
  const dialog = h("dialog", { "aria-label": id, onclose: () => dialog.remove() }, h("div.stack", {},
    h("div.row.apart", {}, h("h2.breakable", {}, id), h("button", { type: "button", onclick: () => dialog.close() }, "Close")), body));
  document.body.append(dialog);
  dialog.showModal();
  try {
    const { model } = await api(`models/${encodeURIComponent(id)}`);
    const { estimate, performance } = model;
    const facts = [
      ["Source", [model.source_kind, model.source].filter(Boolean).join(": ")], ["Architecture", model.architecture], ["Parameters", model.parameters && format.count(model.parameters)],
      ["Context", model.context_length && `${format.count(model.context_length)} tokens`], ["Vocabulary", model.vocab_size && format.count(model.vocab_size)], ["Stored as", model.stored_as],
      ["On disk", model.disk_size_bytes && format.bytes(model.disk_size_bytes)], ["Precision when loaded", model.quantization],
      ["Memory, estimated", estimate && `${format.bytes(estimate.total_bytes)}: weights ${format.bytes(estimate.weights_bytes)}, KV cache ${format.bytes(estimate.kv_cache_bytes)}, overhead ${format.bytes(estimate.overhead_bytes)} (${estimate.quantization} on ${estimate.backend})`],
      ["Memory, measured", model.memory_usage_bytes && format.bytes(model.memory_usage_bytes)],
      ["Requests", `${format.count(performance.total.requests)}, ${format.count(performance.last_hour.requests)} in the last hour`],
      ["Decode speed of a request", performance.tokens_per_second && `${format.decimal(performance.tokens_per_second)} tokens/s`],
      ["Time of a request", performance.avg_latency && format.seconds(performance.avg_latency)],
      ["Added", format.dateTime(model.created_at)],
    ].filter(([, value]) => value);
    body.replaceChildren(h("dl.facts", {}, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      ...model.deployments.map((one) => h("div.card", {}, h("div.row.apart", {}, h("strong", {}, `${one.host}/${one.devices.join(", ")}`), h(`span.badge.${KINDS[one.state] ?? "quiet"}`, {}, one.state)),
        h("p.small.quiet", {}, [one.quantization, one.memory_usage_bytes && `${format.bytes(one.memory_usage_bytes)} (${format.bytes(one.estimated_memory_bytes)} estimated)`, one.load_time && `loaded in ${format.seconds(one.load_time)}`, `${one.running} running, ${one.waiting} waiting`].filter(Boolean).join(" · ")),
        one.error ? h("p.bad", {}, one.error) : null)));
  } catch (error) {
    body.replaceChildren(failure(error, () => { dialog.close(); showDetails(id); }));
  }
}

// ---------------------------------------------------------------- load and unload

async function load(id) {
  let devices = [];
  try {
    const { workers } = await api("system/workers");
    devices = workers.filter((worker) => worker.state === "running");
  } catch (error) {
    tell(error);
    return;
  }
  const fit = h("div.notice", { role: "status" }, "Looking whether it fits …");
  const dialog = formDialog({
    title: `Load ${id}`,
    submit: "Load",
    body: [
      field("Device", h("select", { name: "device" }, h("option", { value: "" }, "Where it fits best"),
        ...devices.map((worker) => h("option", { value: `${worker.host}/${worker.device}` }, `${worker.host}/${worker.device}: ${format.bytes(worker.memory_free_bytes)} free of ${format.bytes(worker.memory_total_bytes)}`)))),
      h("div.field-row", {}, field("Precision", h("select", { name: "quantization" }, ...PRECISIONS.map(([value, name]) => h("option", { value }, name)))),
        field("Most memory", h("input", { name: "max_memory", placeholder: "such as 12GB or 80%" }))),
      h("div.field-row", {}, field("Context, in tokens", h("input", { type: "number", name: "context_length", min: 16, placeholder: "the model's own" })),
        field("Replicas", h("input", { type: "number", name: "replicas", min: 1, value: 1 }))),
      fit,
    ],
    async onsubmit(form) {
      await api(`models/${encodeURIComponent(id)}/load`, { method: "POST", body: { ...fieldsOf(form), async: true } });
      toast(`${id} is being loaded`);
      show();
    },
  });
  const form = find("form", dialog);
  const preview = settled(async () => {
    try {
      const told = await api(`models/${encodeURIComponent(id)}/fit`, { method: "POST", body: fieldsOf(form) });
      if (told.fits) {
        fit.className = "notice";
        fit.textContent = `It fits: ${told.placements.map((one) => `${format.bytes(one.needed_bytes)} on ${one.host}/${one.devices.join(", ")}${one.evicts.length ? `, once ${one.evicts.join(", ")} is unloaded` : ""}`).join("; ")}`;
      } else {
        fit.className = "notice bad";
        fit.textContent = `It does not fit: ${told.reason}`;
      }
    } catch (error) {
      fit.className = "notice bad";
      fit.textContent = error.message;
    }
  });
  form.addEventListener("input", preview);
  preview();
}

function unload(model) {
  const force = h("input", { type: "checkbox", name: "force" });
  formDialog({
    title: `Unload ${model.id}`,
    submit: "Unload",
    isDanger: true,
    body: [h("p", {}, "Requests that run may end first; new ones load it again, or go to its other devices."),
      h("label.check", {}, force, "Fail what still runs instead of waiting for it")],
    async onsubmit() {
      const told = await api(`models/${encodeURIComponent(model.id)}/unload`, { method: "DELETE", query: force.checked ? { force: "true" } : {} });
      toast(`${model.id} is unloaded: ${format.bytes(told.freed_memory_bytes)} are free again`);
      show();
    },
  });
}

function add() {
  formDialog({
    title: "Add a model",
    submit: "Add",
    body: [
      field("Source", h("input", { name: "source", required: true, placeholder: "org/name" }), { hint: "A repository of the hub, or a folder or GGUF file under one of the server's model roots" }),
      field("Id", h("input", { name: "id" }), { hint: "As requests will name it; by default as its source is called" }),
      field("Revision", h("input", { name: "revision" }), { hint: "Branch, tag or commit of a hub's repository" }),
    ],
    async onsubmit(form) {
      const { model } = await api("models", { method: "POST", body: fieldsOf(form) });
      toast(`${model.id} is added`);
      show();
    },
  });
}

const soon = settled(show, 200);
find("#search").addEventListener("input", soon);
find("#state").addEventListener("change", show);
find("#add")?.addEventListener("click", add);
place.replaceChildren(h("div.card", {}, loading()));
show();
live.on("model_loading", (event) => { underWay.set(event.model, event); soon(); });
for (const name of ["model_loaded", "model_unloaded", "model_lost"]) live.on(name, (event) => { underWay.delete(event.model); soon(); });
live.on("model_load_failed", (event) => { underWay.delete(event.model); toast(`${event.model} could not be loaded: ${event.error ?? event.message ?? ""}`, { isBad: true }); soon(); });
live.onBack(show).watch(["model_events"]);
