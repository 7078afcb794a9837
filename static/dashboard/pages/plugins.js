// Plugins in the order in which they run, their health, and their settings.

import { api, may } from "../lib/api.js";
import { find, h, settled } from "../lib/dom.js";
import { empty, failure, field, formDialog, loading, tell, toast } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { live } from "../lib/live.js";
import { row as makeRow, table } from "../lib/table.js";
import { schemaForm } from "../lib/schema_form.js";

const place = find("#plugins");
const COLUMNS = [["Plugin"], ["Kind"], ["Priority", "number"], ["State"], [""]];
const KINDS = { loaded: "good", available: "quiet", failed: "bad" };

async function show() {
  if (!place.firstChild) place.replaceChildren(h("div.card", {}, loading()));
  try {
    const { plugins } = await api("plugins");
    const inOrder = plugins.sort((one, other) => (other.status === "loaded") - (one.status === "loaded") || one.priority - other.priority);
    place.replaceChildren(inOrder.length ? table(COLUMNS, inOrder.map(row)) : h("div.card", {}, empty("No plugin is installed")));
  } catch (error) {
    if (place.querySelector("table")) tell(error);
    else place.replaceChildren(h("div.card", {}, failure(error, show)));
  }
}

function row(plugin) {
  return makeRow(COLUMNS, { data: { plugin: plugin.id } }, [
    h("td.name", {}, h("strong", {}, plugin.name), h("div.small.quiet", {}, plugin.description), h("div.small.quiet", {}, `${plugin.id} ${plugin.version} · ${plugin.package}`)),
    h("td", {}, plugin.category),
    h("td.number", {}, plugin.priority),
    h("td", {}, h("span", {}, h(`span.badge.${plugin.status === "loaded" && !plugin.enabled ? "warn" : KINDS[plugin.status] ?? "quiet"}`, {}, plugin.status === "loaded" && !plugin.enabled ? "loaded, passed by" : plugin.status))),
    h("td", {}, h("div.actions", {},
      h("button.compact", { type: "button", "aria-label": `${may("admin") ? "Settings" : "Health"} of ${plugin.name}`, onclick: () => open(plugin.id) }, may("admin") ? "Settings …" : "Health …"),
      may("admin") ? h(`button.compact${plugin.status === "loaded" ? ".danger" : ""}`, { type: "button", "aria-label": `${plugin.status === "loaded" ? "Unload" : "Load"} ${plugin.name}`, onclick: (event) => change(plugin, event.target) }, plugin.status === "loaded" ? "Unload" : "Load") : null)),
  ]);
}

async function change(plugin, button) {
  button.disabled = true;
  try {
    const way = plugin.status === "loaded" ? "unload" : "load";
    const told = await api(`plugins/${plugin.id}/${way}`, { method: way === "unload" ? "DELETE" : "POST", body: way === "load" ? {} : undefined });
    toast(told.message);
  } catch (error) {
    tell(error);
  }
  show();
}

async function open(id) {
  let plugin;
  try {
    ({ plugin } = await api(`plugins/${id}`));
  } catch (error) {
    tell(error);
    return;
  }
  const { config, circuit } = plugin;
  const health = h("dl.facts", {}, ...[
    ["Calls", circuit.state === "closed" ? "are made" : circuit.state === "open" ? "are switched off after failures" : "are being tried again"],
    ["Last error", circuit.last_error], ["Failed", circuit.last_error_at && format.ago(circuit.last_error_at)],
    ["Set up in", plugin.load_time === null ? null : format.seconds(plugin.load_time)],
  ].filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  if (!may("admin")) {
    const dialog = h("dialog", { "aria-label": plugin.name, onclose: () => dialog.remove() }, h("div.stack", {}, h("h2", {}, plugin.name), health,
      h("div.row.end", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Close"))));
    document.body.append(dialog);
    dialog.showModal();
    return;
  }
  const settings = schemaForm(plugin.settings_schema, config.settings);
  const number = (name, label, hint) => field(label, h("input", { type: "number", step: "any", name, value: config[name] }), { hint });
  formDialog({
    title: plugin.name,
    body: [
      h("p.quiet", {}, plugin.description), health,
      h("label.check", {}, h("input", { type: "checkbox", name: "enabled", checked: config.enabled }), "Requests pass through it while it is loaded"),
      settings.element,
      h("details", {}, h("summary", {}, "When it fails or is slow"), h("div.stack", {},
        h("div.field-row", {}, number("priority", "Priority", "Lower runs first"),
          field("When it fails", h("select", { name: "on_error" }, ...[["open", "go on without it"], ["closed", "fail the request"]].map(([value, name]) => h("option", { value, selected: value === config.on_error }, name))))),
        h("div.field-row", {}, number("slow_seconds", "Slow from", "Seconds in one request"), number("max_failures", "Switched off after", "Failures in a row"), number("retry_seconds", "Tried again after", "Seconds; 0 is never")))),
    ],
    async onsubmit(form) {
      const held = (name) => form.elements.namedItem(name);
      const body = { config: { enabled: held("enabled").checked, on_error: held("on_error").value, settings: settings.read() } };
      for (const name of ["priority", "slow_seconds", "max_failures", "retry_seconds"]) if (held(name).value !== "") body.config[name] = Number(held(name).value);
      try {
        const told = await api(`plugins/${id}/config`, { method: "PUT", body });
        toast(told.message);
      } catch (error) {
        // The API names a setting as the plugin's schema does, below "config.settings" or "settings".
        if (error.details?.field) error.details.field = String(error.details.field).replace(/^config\./, "");
        throw error;
      }
      show();
    },
  });
}

show();
const soon = settled(show, 300);
for (const name of ["plugin_loaded", "plugin_unloaded", "plugin_error"]) live.on(name, soon);
live.onBack(show).watch(["plugin_events"]);
