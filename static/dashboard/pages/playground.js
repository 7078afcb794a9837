// Prompts against any model, streamed; one model, or two side by side.

import { api, stream } from "../lib/api.js";
import { fieldsOf, find, findAll, h } from "../lib/dom.js";
import { clearMistakes, copyButton, empty, field, showMistake, tell, toast } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { live } from "../lib/live.js";
import { snippets, tabbed } from "../lib/snippets.js";

let models = [];
let mode = "chat";

/** A model with its settings, and the talk with it. */
class Lane {
  #turns = [];
  #running = null;

  constructor(name) {
    this.choice = h("select", { name: "model" });
    this.form = h("form.stack", { onsubmit: (event) => event.preventDefault(), oninput: showSnippet },
      h("div.row.apart", {}, h("div.grow", {}, field(`Model${name}`, this.choice))),
      h("details", {}, h("summary", {}, "Settings"), h("div.stack", {},
        h("div.chat-only", {}, field("System prompt", h("textarea", { name: "system", rows: 2 }))),
        h("div.field-row", {},
          number("Most tokens", "max_tokens", { min: 1, step: 1, value: 256 }),
          number("Temperature", "temperature", { min: 0, max: 2, step: 0.1, value: 0.7 }, "0 is greedy"),
          number("Top p", "top_p", { min: 0.01, max: 1, step: 0.01 }),
          number("Top k", "top_k", { min: 0, step: 1 }),
          number("Min p", "min_p", { min: 0, max: 1, step: 0.01 }),
          number("Repetition penalty", "repetition_penalty", { min: 0.1, max: 2, step: 0.05 }),
          number("Seed", "seed", { min: 0, step: 1 })),
        field("Stop strings", h("textarea", { name: "stop", rows: 2 }), { hint: "One in each line" }))));
    this.talk = h("div.talk", { tabindex: 0, role: "log", "aria-label": `Talk${name}` });
    this.element = h("section.card.lane", { "aria-label": `Model${name || " and its answers"}` }, this.form, this.talk);
    this.offer();
    this.clear();
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** The models that there are now. */
  offer() {
    const chosen = this.choice.value;
    this.choice.replaceChildren(...models.map((model) => h("option", { value: model.id, selected: chosen ? chosen === model.id : model.default },
      `${model.id}${model.loaded ? "" : " (will be loaded)"}`)));
  }

  clear() {
    this.#turns = [];
    this.talk.replaceChildren(empty("Nothing said yet"));
  }

  /** The body of the request that this prompt would be. */
  body(prompt) {
    const { stop, system, ...fields } = fieldsOf(this.form);
    const strings = stop?.split("\n").filter(Boolean);
    if (strings?.length) fields.stop = strings;
    if (mode === "completion") return { ...fields, text: prompt, raw: true };
    const before = system ? [{ role: "system", content: system }] : [];
    return { ...fields, messages: [...before, ...this.#turns, { role: "user", content: prompt }] };
  }

  stop() {
    this.#running?.abort();
  }

  async ask(prompt) {
    const body = this.body(prompt);
    clearMistakes(this.form);
    if (!this.#turns.length) this.talk.replaceChildren();
    if (mode === "completion") this.talk.replaceChildren();
    const said = h("div.turn.user", {}, prompt);
    const text = h("span");
    const answer = h("div.turn.assistant.running", {}, text);
    this.talk.append(said, answer);
    this.#running = new AbortController();
    let last = null;
    let tokens = 0;
    const begun = performance.now();
    try {
      for await (const [name, data] of stream("stream_infer", { body, signal: this.#running.signal })) {
        if (name === "error") throw Object.assign(new Error(data.error.message), { name: "ApiError", details: data.error.details ?? {} });
        const isAtEnd = this.talk.scrollHeight - this.talk.scrollTop - this.talk.clientHeight < 40;
        text.append(data.token);
        tokens += 1;
        if (data.is_complete) last = data;
        if (isAtEnd) this.talk.scrollTop = this.talk.scrollHeight;
      }
      answer.append(h("span.small.quiet", {}, figures(last)));
    } catch (error) {
      if (error.name === "AbortError") answer.append(h("span.small.quiet", {}, `Stopped after ${format.count(tokens)} tokens, ${format.seconds((performance.now() - begun) / 1000)}`));
      else {
        if (!text.textContent) { said.remove(); answer.remove(); } else answer.append(h("span.small.bad", {}, error.message));
        if (showMistake(this.form, error)) find("details", this.form).open = true;
        else tell(error);
        if (!text.textContent) throw error;
      }
    } finally {
      answer.classList.remove("running");
      this.#running = null;
    }
    if (mode === "chat") this.#turns.push({ role: "user", content: prompt }, { role: "assistant", content: text.textContent });
  }
}

function number(label, name, attributes, hint) {
  return field(label, h("input", { type: "number", inputmode: "decimal", name, ...attributes }), { hint });
}

function figures(last) {
  if (!last) return "The answer ended early";
  const decoding = last.inference_time - (last.time_to_first_token - last.queue_time);
  const speed = last.tokens_generated > 1 && decoding > 0 ? `, ${format.decimal((last.tokens_generated - 1) / decoding)} tokens/s` : "";
  return `${format.count(last.prompt_tokens)} tokens read, ${format.count(last.tokens_generated)} generated${speed} · first after ${format.seconds(last.time_to_first_token)} · ${format.seconds(last.processing_time)} in all · ${last.finish_reason} · ${last.backend}`;
}

const lanes = [];
const prompt = find("#prompt");
const panel = find("#snippet");
const showTab = tabbed(find("#snippet-tabs"), panel, (text) => [h("pre", { tabindex: 0 }, h("code", {}, text)), copyButton(text)]);

function showSnippet() {
  if (lanes.length) showTab(snippets("stream_infer", lanes[0].body(prompt.value || "Why is the sky blue?")));
}

function setRunning(isRunning) {
  find("#stop").hidden = !isRunning;
  find("#send").disabled = isRunning;
}

function showLength() {
  find("#length").textContent = prompt.value ? `${format.count(prompt.value.length)} characters` : "";
}

async function send() {
  const text = prompt.value.trim();
  if (!text) { prompt.focus(); return; }
  if (!models.length) { toast("There is no model to ask.", { isBad: true }); return; }
  setRunning(true);
  prompt.value = "";
  showLength();
  const ended = await Promise.allSettled(lanes.map((lane) => lane.ask(text)));
  if (ended.every(({ status }) => status === "rejected")) prompt.value = text;
  setRunning(false);
  showLength();
  showSnippet();
  prompt.focus();
}

async function offerModels() {
  try {
    models = (await api("models")).models.filter((model) => model.enabled !== false);
    for (const lane of lanes) lane.offer();
    showSnippet();
  } catch (error) {
    tell(error);
  }
}

function setMode(wanted) {
  mode = wanted;
  for (const part of findAll(".chat-only")) part.hidden = mode !== "chat";
  for (const lane of lanes) lane.clear();
  showSnippet();
}

function compare(isWanted) {
  find("#compare").setAttribute("aria-pressed", String(isWanted));
  find("#compare").textContent = isWanted ? "One alone" : "Compare two";
  while (lanes.length > 1) lanes.pop().element.remove();
  if (isWanted) {
    lanes.push(new Lane(" B"));
    find("#lanes").append(lanes[1].element);
    find("details", lanes[1].form).open = find("details", lanes[0].form).open;
  }
  for (const part of findAll(".chat-only")) part.hidden = mode !== "chat";
}

lanes.push(new Lane(""));
find("#lanes").append(lanes[0].element);
for (const input of findAll("#mode input")) input.addEventListener("change", () => setMode(input.value));
find("#compare").addEventListener("click", () => compare(lanes.length === 1));
find("#clear").addEventListener("click", () => { for (const lane of lanes) lane.clear(); showSnippet(); });
find("#stop").addEventListener("click", () => { for (const lane of lanes) lane.stop(); });
find("#composer").addEventListener("submit", (event) => { event.preventDefault(); if (!find("#send").disabled) send(); });
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); find("#composer").requestSubmit(); }
});
prompt.addEventListener("input", () => { showLength(); showSnippet(); });
const asked = new URLSearchParams(location.search).get("model");
await offerModels();
if (asked) lanes[0].choice.value = asked;
for (const name of ["model_loaded", "model_unloaded"]) live.on(name, offerModels);
live.onBack(offerModels).watch(["model_events"]);
