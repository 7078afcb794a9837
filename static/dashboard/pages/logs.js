// The log: what is kept, and what is added while one looks.

import { api } from "../lib/api.js";
import { fieldsOf, find, h, settled } from "../lib/dom.js";
import { empty, failure, loading, tell } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { live } from "../lib/live.js";

const LEVELS = ["debug", "info", "warning", "error", "critical"];
const KINDS = { warning: "warn", error: "bad", critical: "bad", debug: "quiet" };
const PAGE = 100;
const MOST_LINES = 1_000;
const lines = find("#lines");
const form = find("#filters");
let cursor = null;

function line(entry) {
  const kind = KINDS[entry.level];
  return h("div.line", { title: [format.dateTime(entry.timestamp), entry.host, entry.process, entry.logger].filter(Boolean).join(" · ") },
    h("span.quiet", {}, format.time(entry.timestamp)),
    h(kind ? `span.${kind}` : "span", {}, entry.level),
    h("span.quiet", {}, entry.component),
    h("span", {}, entry.message, entry.request_id ? h("a.small", { href: `/requests?id=${encodeURIComponent(entry.request_id)}`, style: { "margin-left": ".6em" } }, entry.request_id) : null));
}

async function show() {
  if (!lines.firstChild) lines.replaceChildren(loading(6));
  try {
    const told = await api("system/logs", { query: { ...fieldsOf(form), limit: PAGE } });
    cursor = told.next_cursor;
    find("#more").hidden = !cursor;
    lines.replaceChildren(...(told.logs.length ? told.logs.map(line) : [empty("No line is like that")]));
  } catch (error) {
    lines.replaceChildren(failure(error, show));
  }
}

async function showOlder() {
  try {
    const told = await api("system/logs", { query: { ...fieldsOf(form), limit: PAGE, cursor } });
    cursor = told.next_cursor;
    find("#more").hidden = !cursor;
    lines.append(...told.logs.map(line));
  } catch (error) {
    tell(error);
  }
}

function add(entry) {
  const wanted = fieldsOf(form);
  if (!find("#tail").checked
    || LEVELS.indexOf(entry.level) < LEVELS.indexOf(wanted.level)
    || (wanted.component && wanted.component !== entry.component)
    || (wanted.request_id && wanted.request_id !== entry.request_id)
    || (wanted.search && !entry.message.toLowerCase().includes(wanted.search.toLowerCase()))) return;
  find(".empty", lines)?.remove();
  lines.prepend(line(entry));
  while (lines.children.length > MOST_LINES) lines.lastChild.remove();
}

form.addEventListener("input", settled(show));
form.addEventListener("submit", (event) => event.preventDefault());
find("#more").addEventListener("click", showOlder);
find("#tail").addEventListener("change", (event) => { if (event.target.checked) show(); });
show();
live.on("log_event", add).onBack(show).watch(["log_events"]);
