// Users and their roles, and the audit of what was changed.

import { api } from "../lib/api.js";
import { fieldsOf, find, h, settled } from "../lib/dom.js";
import { empty, field, formDialog, toast } from "../lib/feedback.js";
import * as format from "../lib/format.js";
import { listing } from "../lib/listing.js";

const ROLES = [["viewer", "Viewer: looks"], ["operator", "Operator: looks and asks"], ["administrator", "Administrator: everything"]];
const roles = (chosen) => h("select", { name: "role" }, ...ROLES.map(([value, name]) => h("option", { value, selected: value === chosen }, name)));

const show = listing(find("#users"), {
  path: "users",
  query: () => ({ search: find("#search").value }),
  items: (answer) => answer.users,
  columns: [["Name"], ["Role"], ["State"], ["Active keys", "number"], ["Last signed in"], [""]],
  row: (user) => [{ data: { user: user.id } }, [
    h("td.name", {}, user.id, user.email ? h("div.small.quiet", {}, user.email) : null),
    h("td", {}, user.role),
    h("td", {}, h("span", {}, h(`span.badge.${user.active ? "good" : "quiet"}`, {}, user.active ? "active" : "disabled"))),
    h("td.number", {}, format.count(user.active_keys)),
    h("td.nowrap", { title: format.dateTime(user.last_login_at) }, user.last_login_at ? format.ago(user.last_login_at) : "never"),
    h("td", {}, h("div.actions", {}, h("button.compact", { type: "button", "aria-label": `Change ${user.id}`, onclick: () => change(user) }, "Change …"))),
  ]],
  nothing: () => empty("Nobody is called like that"),
});

const showAudit = listing(find("#audit"), {
  path: "audit",
  query: () => ({ limit: 20 }),
  items: (answer) => answer.entries,
  columns: [["When"], ["Who"], ["What"], ["Of what"], ["From where"]],
  row: (entry) => [{}, [
    h("td.nowrap", { title: format.dateTime(entry.timestamp) }, format.ago(entry.timestamp)),
    h("td", {}, entry.actor), h("td.nowrap", {}, entry.action), h("td.name", {}, entry.target.name || entry.target.id),
    h("td.nowrap", {}, entry.address || "–"),
  ]],
  nothing: () => empty("Nothing yet"),
});

const password = (label, hint) => field(label, h("input", { type: "password", name: "password", autocomplete: "new-password" }), { hint });

function create() {
  formDialog({
    title: "Add a user",
    submit: "Add",
    body: [field("Username", h("input", { name: "username", required: true, autocomplete: "off", autocapitalize: "none" })),
      field("Role", roles("operator")), field("E-mail", h("input", { type: "email", name: "email", autocomplete: "off" })),
      password("Password", "Without one, the user has API keys alone")],
    async onsubmit(form) {
      const { user } = await api("users", { method: "POST", body: { username: "", ...fieldsOf(form) } });
      toast(`${user.id} is added`);
      refresh();
    },
  });
}

function change(user) {
  formDialog({
    title: `Change ${user.id}`,
    body: [field("Role", roles(user.role)), field("E-mail", h("input", { type: "email", name: "email", value: user.email })),
      h("label.check", {}, h("input", { type: "checkbox", name: "active", checked: user.active }), "May sign in, and use their keys"),
      password("New password", "Left empty, it stays; a new one ends all sessions")],
    async onsubmit(form) {
      const { password: wanted, ...fields } = fieldsOf(form);
      await api(`users/${encodeURIComponent(user.id)}`, { method: "PATCH", body: { email: "", ...fields } });
      if (wanted) await api(`users/${encodeURIComponent(user.id)}/password`, { method: "PUT", body: { password: wanted } });
      toast(`${user.id} is changed`);
      refresh();
    },
  });
}

function refresh() {
  show();
  showAudit();
}

find("#create").addEventListener("click", create);
find("#search").addEventListener("input", settled(show));
refresh();
