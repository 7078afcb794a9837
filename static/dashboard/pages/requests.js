// Ended requests, and where the time of each went.

import { api } from "../lib/api.js";
import { fieldsOf, find, h, settled } from "../lib/dom.js";
import { copyButton, empty, failure, loading } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { listing } from "../lib/listing.js";
import { live } from "../lib/live.js";

const KINDS = { completed: "good", failed: "bad", cancelled: "warn" };
const form = find("#filters");
const asked = new URLSearchParams(location.search);
for (const [name, value] of asked) if (form.elements.namedItem(name)) form.elements.namedItem(name).value = value;

const show = listing(find("#requests"), {
  path: "requests",
  query: () => fieldsOf(form),
  items: (answer) => answer.requests,
  columns: [["Request"], ["Model"], ["State"], ["Read", "number"], ["Generated", "number"], ["First token", "number"], ["In all", "number"], ["Ended"]],
  row,
  nothing: () => empty("No request is like that"),
});

function row(request) {
  return [{ data: { request: request.request_id } }, [
    h("td.name", {}, h("button.link.mono", { type: "button", onclick: () => showTimeline(request.request_id) }, request.request_id),
      h("div.small.quiet", {}, [request.kind, request.item ? `item ${request.item}` : null, request.user].filter(Boolean).join(" · "))),
    h("td.breakable", {}, request.model),
    h("td", {}, h("span", {}, h(`span.badge.${KINDS[request.state]}`, {}, request.state), request.error_code ? h("div.small.bad", {}, request.error_code) : null)),
    h("td.number", {}, format.count(request.prompt_tokens)),
    h("td.number", {}, format.count(request.tokens_generated)),
    h("td.number", {}, format.seconds(request.time_to_first_token)),
    h("td.number", {}, format.seconds(request.total_time)),
    h("td.nowrap", { title: format.dateTime(request.ended_at) }, format.ago(request.ended_at)),
  ]];
}

async function showTimeline(id) {
  const body = h("div.stack", {}, loading());
  const dialog = h("dialog", { "aria-label": `Request ${id}`, style: { width: "min(46rem, calc(100vw - 2rem))" }, onclose: () => dialog.remove() }, h("div.stack", {},
    h("div.row.apart", {}, h("h2.mono.breakable", {}, id), h("div.row", {}, copyButton(id, "Copy id"), h("button", { type: "button", onclick: () => dialog.close() }, "Close"))), body));
  document.body.append(dialog);
  dialog.showModal();
  try {
    const { request } = await api(`requests/${encodeURIComponent(id)}`);
    body.replaceChildren(
      h("dl.facts", {}, ...[["Kind", request.kind], ["Model", request.model], ["User", request.user], ["Key", request.key], ["Began", format.dateTime(request.submitted_at)]]
        .filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      ...request.items.map((item) => itemCard(item, request.items.length > 1)));
  } catch (error) {
    body.replaceChildren(failure(error, () => { dialog.close(); showTimeline(id); }));
  }
}

function itemCard(item, isOneOfSeveral) {
  const length = Math.max(...item.timeline.map((stage) => stage.start + stage.seconds), 1e-9);
  return h("section.card.stack", {},
    h("div.row.apart", {}, h("h3", {}, isOneOfSeveral ? `Item ${item.item}` : "Where its time went"), h(`span.badge.${KINDS[item.state]}`, {}, [item.state, item.finish_reason ?? item.cancel_reason ?? item.error_code].filter(Boolean).join(": "))),
    h("div.timeline", {}, ...item.timeline.map((stage) => h("div.stage", {},
      h("span", {}, stage.stage),
      h("div.track", {}, h("i", { style: { "margin-left": `${(stage.start / length) * 100}%`, width: `${Math.min((stage.seconds / length) * 100, 100 - (stage.start / length) * 100)}%` } })),
      h("span.number", {}, format.seconds(stage.seconds))))),
    h("p.small.quiet", {}, [`${format.count(item.prompt_tokens)} tokens read, ${format.count(item.cached_tokens)} of them cached`, `${format.count(item.tokens_generated)} generated`, `first after ${format.seconds(item.time_to_first_token)}`, `${format.seconds(item.total_time)} in all`, item.backend && `on ${item.backend}`].filter(Boolean).join(" · ")),
    item.plugins.length ? h("p.small.quiet", {}, `Plugins: ${item.plugins.map((plugin) => `${plugin.plugin_id} ${format.seconds(plugin.seconds)}`).join(", ")}`) : null);
}

form.addEventListener("input", settled(show));
form.addEventListener("submit", (event) => event.preventDefault());
show();
if (asked.get("id")?.startsWith("req_")) showTimeline(asked.get("id"));

// New ones come at the top while nobody has gone on to older pages or looks at one.
const follow = settled(() => {
  if (find("#follow").checked && !document.hidden && !find("dialog") && document.querySelectorAll("#requests tbody tr").length <= 100) show();
}, 1_500);
// A request is listed a moment after its event: records are written together.
setInterval(follow, 10_000);
for (const name of ["inference_completed", "inference_failed", "inference_cancelled"]) live.on(name, follow);
live.onBack(show).watch(["inference_events"]);
