// Keys: made and shown once, narrowed by permission and date, rotated, revoked; and what they have used.

import { api, may } from "../lib/api.js";
import { fieldsOf, find, h, settled } from "../lib/dom.js";
import { confirm, copyButton, empty, field, formDialog, tell, toast } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { listing } from "../lib/listing.js";
import { row as makeRow, table } from "../lib/table.js";

const LEVELS = ["read", "write", "admin"];
const KINDS = { active: "good", expired: "warn", revoked: "quiet" };
const GRACE = [[0, "not at all: the old key ends now"], [3_600, "an hour"], [86_400, "a day"], [604_800, "a week"]];
const USAGE_COLUMNS = [["User"], ["Key"], ["Model"], ["Requests", "number"], ["Tokens read", "number"], ["Tokens generated", "number"]];
const DAYS = 86_400_000;

const show = listing(find("#keys"), {
  path: "keys",
  query: () => ({ state: find("#state").value, owner: find("#owner")?.value }),
  items: (answer) => answer.api_keys,
  columns: [["Name"], ...(may("admin") ? [["Owner"]] : []), ["May"], ["State"], ["Last used"], ["Expires"], [""]],
  row,
  nothing: () => empty("There is no such key", h("p", {}, "Create one for each program that calls the server.")),
});

function row(key) {
  const limit = key.token_budget === null ? null : `${format.count(key.token_budget)} tokens in ${format.duration(key.token_budget_window)}`;
  return [{ data: { key: key.id } }, [
    h("td.name", {}, key.name, h("div.small.quiet.mono", {}, `${key.prefix}…`)),
    may("admin") ? h("td", {}, key.owner) : null,
    h("td", {}, h("span", {}, key.permissions.at(-1) ?? "nothing", h("div.small.quiet", {}, [key.tier, limit].filter(Boolean).join(" · ")))),
    h("td", {}, h("span", {}, h(`span.badge.${KINDS[key.state]}`, {}, key.state))),
    h("td.nowrap", { title: format.dateTime(key.last_used_at) }, key.last_used_at ? format.ago(key.last_used_at) : "never"),
    h("td.nowrap", { title: format.dateTime(key.expires_at) }, key.expires_at ? format.day(key.expires_at) : "never"),
    h("td", {}, h("div.actions", {}, ...(key.state === "active" ? [
      h("button.compact", { type: "button", "aria-label": `Limits of ${key.name}`, onclick: () => showLimits(key) }, "Limits …"),
      h("button.compact", { type: "button", "aria-label": `Rotate ${key.name}`, onclick: () => rotate(key) }, "Rotate …"),
      h("button.compact.danger", { type: "button", "aria-label": `Revoke ${key.name}`, onclick: () => revoke(key) }, "Revoke …"),
    ] : []))),
  ]];
}

/** How much of its limits a key has used. */
async function showLimits(key) {
  let told;
  try {
    told = await api(`keys/${key.id}/limits`);
  } catch (error) {
    tell(error);
    return;
  }
  const { budget } = told;
  const lines = told.limits.map(({ group, limit, used, reset }) => [group, used, limit, reset]);
  if (budget) lines.unshift(["tokens", budget.used, budget.tokens, budget.reset]);
  const dialog = h("dialog", { "aria-label": `Limits of ${key.name}`, onclose: () => dialog.remove() }, h("div.stack", {},
    h("div.row.apart", {}, h("h2", {}, `Limits of ${key.name}`), h("button", { type: "button", onclick: () => dialog.close() }, "Close")),
    h("div.gpu", {}, h("div.figures", {}, ...lines.flatMap(([name, used, limit, reset]) => [
      h("span", { title: reset ? `until ${format.dateTime(reset * 1000)}` : null }, name),
      h(`div.meter${used >= limit ? ".bad" : used > limit * 0.8 ? ".warn" : ""}`, { role: "img", "aria-label": `${name}: ${format.count(used)} of ${format.count(limit)}` }, h("i", { style: { width: `${limit ? Math.min(100, (used / limit) * 100) : 0}%` } })),
      h("span.number", {}, `${format.count(used)} of ${format.count(limit)}`),
    ])))));
  document.body.append(dialog);
  dialog.showModal();
}

/** The one time that a key is seen. */
function showSecret(title, secret) {
  const dialog = h("dialog", { "aria-labelledby": "secret-title", onclose: () => dialog.remove() }, h("div.stack", {},
    h("h2", { id: "secret-title" }, title),
    h("p", {}, "Copy it now: it is not kept, and can't be shown again."),
    h("div.secret", {}, h("code", { id: "new-key" }, secret), copyButton(secret)),
    h("div.row.end", {}, h("button.primary", { type: "button", onclick: () => dialog.close() }, "I have copied it"))));
  document.body.append(dialog);
  dialog.showModal();
}

function create() {
  const levels = LEVELS.filter(may);
  const admin = may("admin") ? [h("div.field-row", {},
    field("Owner", h("input", { name: "owner", placeholder: document.body.dataset.user })),
    field("Tier", h("select", { name: "tier" }, ...["standard", "premium"].map((tier) => h("option", { value: tier }, tier)))),
    field("Token budget", h("input", { type: "number", name: "token_budget", min: 0, placeholder: "no limit" }), { hint: "Tokens a day" }))] : [];
  formDialog({
    title: "Create a key",
    submit: "Create",
    body: [
      field("Name", h("input", { name: "name", required: true, maxlength: 100, autocomplete: "off" }), { hint: "Which program it is for" }),
      h("div.field-row", {},
        field("May", h("select", { name: "permissions" }, ...levels.map((level) => h("option", { value: level, selected: level === "write" }, level)))),
        field("Expires after", h("select", { name: "days" }, ...[["", "never"], ["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["365", "a year"]].map(([value, name]) => h("option", { value }, name))))),
      ...admin,
    ],
    async onsubmit(form) {
      const { days, permissions, ...fields } = fieldsOf(form);
      const expires_at = days ? new Date(Date.now() + Number(days) * DAYS).toISOString() : null;
      const { key } = await api("keys", { method: "POST", body: { name: "", ...fields, permissions: [permissions], expires_at } });
      showSecret("Your new key", key);
      show();
    },
  });
}

function rotate(key) {
  formDialog({
    title: `Rotate ${key.name}`,
    submit: "Rotate",
    body: [h("p", {}, "A new key takes the place of this one, with the same rights and limits."),
      field("The old one works on for", h("select", { name: "grace_seconds" }, ...GRACE.map(([value, name]) => h("option", { value, selected: value === 86_400 }, name))))],
    async onsubmit(form) {
      const body = { grace_seconds: Number(fieldsOf(form).grace_seconds) };
      const told = await api(`keys/${key.id}/rotate`, { method: "POST", body });
      showSecret(`The new key of ${key.name}`, told.key);
      show();
    },
  });
}

function revoke(key) {
  confirm({
    title: `Revoke ${key.name}?`,
    text: "Within a second nobody can use it any more, and it can't be taken back.",
    action: "Revoke",
    async onconfirm() {
      await api(`keys/${key.id}`, { method: "DELETE" });
      toast(`${key.name} is revoked`);
      show();
    },
  });
}

async function showUsage() {
  const place = find("#usage");
  try {
    const { usage, total } = await api("usage");
    const sums = new Map();
    for (const one of usage) {
      const name = [one.user ?? "nobody", one.key?.name ?? "without a key", one.model].join("\t");
      const sum = sums.get(name) ?? { requests: 0, prompt_tokens: 0, completion_tokens: 0 };
      for (const figure of Object.keys(sum)) sum[figure] += one[figure];
      sums.set(name, sum);
    }
    if (!sums.size) { place.replaceChildren(h("div.card", {}, empty("Nothing yet"))); return; }
    const figures = (sum) => ["requests", "prompt_tokens", "completion_tokens"].map((figure) => h("td.number", {}, format.count(sum[figure])));
    place.replaceChildren(table(USAGE_COLUMNS, [
      ...[...sums].sort((one, other) => other[1].completion_tokens - one[1].completion_tokens).map(([name, sum]) =>
        makeRow(USAGE_COLUMNS, {}, [...name.split("\t").map((part) => h("td.breakable", {}, part)), ...figures(sum)])),
      makeRow(USAGE_COLUMNS, {}, [h("td", {}, h("strong", {}, "All")), h("td"), h("td"), ...figures(total)]),
    ]));
  } catch (error) {
    tell(error);
  }
}

find("#create").addEventListener("click", create);
find("#state").addEventListener("change", show);
find("#owner")?.addEventListener("input", settled(show));
show();
showUsage();
