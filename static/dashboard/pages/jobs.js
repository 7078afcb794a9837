// Jobs: a file of prompts in, progress, and a file of results out.

import { api, send } from "../lib/api.js";
import { fieldsOf, find, h, settled } from "../lib/dom.js";
import { confirm, empty, field, formDialog, tell, toast } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { listing } from "../lib/listing.js";
import { live } from "../lib/live.js";

const KINDS = { completed: "good", failed: "bad", expired: "bad", cancelled: "quiet" };
const ENDED = new Set(["completed", "failed", "cancelled", "expired"]);
const WAITS = { token_budget: "the token budget", workers: "a worker", memory: "memory" };
const TYPES = { csv: "text/csv", jsonl: "application/x-ndjson" };
// When each job was first seen to move, and how far it was: what its remaining time is told from.
const pace = new Map();

const show = listing(find("#jobs"), {
  path: "jobs",
  query: () => ({ state: find("#state").value }),
  items: (answer) => answer.jobs,
  columns: [["Job"], ["Model"], ["State"], ["Progress"], ["Created"], [""]],
  row,
  nothing: () => empty("No job", h("p", {}, "A job takes a file with a prompt in each line, and has a file of results in the end.")),
});

function row(job) {
  return [{ data: { job: job.id } }, [
    h("td.name", {}, job.name || job.id, h("div.small.quiet", {}, [job.name && job.id, job.kind].filter(Boolean).join(" · "))),
    h("td.breakable", {}, job.model),
    h("td", {}, h("span", {}, h(`span.badge.${KINDS[job.state] ?? "warn"}`, {}, job.state),
      job.waits ? h("div.small.quiet", {}, `waits for ${WAITS[job.waits.for] ?? job.waits.for}`) : null,
      job.error ? h("div.small.bad", {}, job.error.message) : null)),
    h("td", {}, progressOf(job)),
    h("td.nowrap", { title: format.dateTime(job.created_at) }, format.ago(job.created_at)),
    h("td", {}, h("div.actions", {},
      job.progress.total > job.progress.pending ? h("button.compact", { type: "button", "aria-label": `Results of ${job.name || job.id}`, onclick: () => save(job) }, "Results") : null,
      ENDED.has(job.state)
        ? h("button.compact.danger", { type: "button", "aria-label": `Delete ${job.name || job.id}`, onclick: () => forget(job) }, "Delete …")
        : h("button.compact.danger", { type: "button", "aria-label": `Cancel ${job.name || job.id}`, onclick: () => cancel(job) }, "Cancel"))),
  ]];
}

function progressOf(job) {
  const { total, completed, failed, cancelled, fraction } = job.progress;
  const told = [`${format.count(completed + failed + cancelled)} of ${format.count(total)}`, failed && `${format.count(failed)} failed`, remaining(job)].filter(Boolean).join(" · ");
  return h("div.stack", { style: { gap: ".25rem", "min-width": "10rem" } },
    h("div.progress", { role: "progressbar", "aria-label": `Progress of ${job.name || job.id}`, "aria-valuenow": Math.round(fraction * 100), "aria-valuemin": 0, "aria-valuemax": 100 }, h("i", { style: { width: `${fraction * 100}%` } })),
    h("span.small.quiet", {}, job.state === "validating" ? "reading the file" : told));
}

/** The time left, from how fast its items have ended since this page saw it. */
function remaining(job) {
  if (job.state !== "running") { pace.delete(job.id); return null; }
  const done = job.progress.total - job.progress.pending;
  const now = Date.now() / 1000;
  const began = pace.get(job.id) ?? { at: job.started_at ? Date.parse(job.started_at) / 1000 : now, done: 0 };
  pace.set(job.id, began);
  const rate = (done - began.done) / (now - began.at);
  return rate > 0 && now - began.at > 2 ? `about ${format.duration(job.progress.pending / rate)} left` : null;
}

async function create() {
  let models = [];
  try {
    ({ models } = await api("models"));
  } catch (error) {
    tell(error);
    return;
  }
  const file = h("input", { type: "file", name: "file", accept: ".jsonl,.ndjson,.csv,.txt" });
  const prompts = h("textarea", { name: "prompts", rows: 4, placeholder: "One prompt in each line" });
  formDialog({
    title: "New job",
    submit: "Start",
    body: [
      field("File of prompts", file, { hint: 'JSON Lines such as {"id": "1", "text": "Why is the sky blue?"}, CSV with a column "text", or plain text with a prompt in each line' }),
      field("Or write them here", prompts),
      field("Name", h("input", { name: "name", maxlength: 200, autocomplete: "off" })),
      h("div.field-row", {},
        field("Model", h("select", { name: "model" }, ...models.map((model) => h("option", { value: model.id, selected: model.default }, model.id)))),
        field("Most tokens for each", h("input", { type: "number", name: "max_tokens", min: 1, value: 128 })),
        field("Temperature", h("input", { type: "number", name: "temperature", min: 0, max: 2, step: 0.1 }))),
      field("Tell this address when it has ended", h("input", { type: "url", name: "webhook_url", placeholder: "https://" })),
    ],
    async onsubmit(form) {
      const { prompts: written, file: _, ...query } = fieldsOf(form);
      const body = await inputOf(file.files[0], written);
      const { job } = await api("jobs", { method: "POST", query, body });
      toast(`${job.name || job.id} is queued`);
      show();
    },
  });
}

/** What is sent: the file as it is, or lines of text made into JSON Lines. */
async function inputOf(file, written) {
  const ending = file?.name.split(".").at(-1).toLowerCase();
  if (file && ending !== "txt") return new Blob([file], { type: ending === "csv" ? TYPES.csv : TYPES.jsonl });
  const lines = (file ? await file.text() : written ?? "").split("\n").map((line) => line.trim()).filter(Boolean);
  if (!lines.length) throw Object.assign(new Error("Choose a file, or write prompts."), { name: "ApiError", details: { field: "file" } });
  return new Blob(lines.map((text, place) => `${JSON.stringify({ id: String(place), text })}\n`), { type: TYPES.jsonl });
}

/** Hands the results to the browser as a file; a plain link would come without the session. */
async function save(job) {
  try {
    const results = await (await send(`jobs/${job.id}/results`)).blob();
    const link = h("a", { href: URL.createObjectURL(results), download: `${job.id}.jsonl` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    tell(error);
  }
}

async function cancel(job) {
  try {
    await api(`jobs/${job.id}`, { method: "DELETE" });
    toast(`${job.name || job.id} is cancelled`);
  } catch (error) {
    tell(error);
  }
  show();
}

function forget(job) {
  confirm({
    title: `Delete ${job.name || job.id}?`,
    text: "Its prompts and results go with it.",
    action: "Delete",
    async onconfirm() {
      await api(`jobs/${job.id}`, { method: "DELETE", query: { forget: "true" } });
      show();
    },
  });
}

find("#create").addEventListener("click", create);
find("#state").addEventListener("change", show);
show();
const soon = settled(show, 300);
for (const name of ["created", "progress", "completed", "failed", "cancelled", "expired"]) live.on(`job_${name}`, soon);
live.onBack(show).watch(["job_events"]);
