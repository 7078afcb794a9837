// What the page says back: notes in a corner, dialogs, mistakes at their fields, states of a list.

import { find, h } from "./dom.js";

/** A note that goes by itself; failures stay longer. */
export function toast(text, { isBad = false } = {}) {
  const note = h(isBad ? "div.toast.bad" : "div.toast", { role: isBad ? "alert" : "status" }, text);
  find("#toasts").append(note);
  setTimeout(() => note.remove(), isBad ? 9_000 : 4_000);
}

/** Tells of a failure that no field is to blame for. */
export function tell(error) {
  if (error.name === "AbortError") return;
  if (error.name !== "ApiError") { console.error(error); toast("Something in this page failed; reload it.", { isBad: true }); return; }
  toast(error.requestId && error.status >= 500 ? `${error.message} (${error.requestId})` : error.message, { isBad: true });
}

/** A dialog with a form. `onsubmit(fields, form)` runs when it is sent; the dialog closes unless that raises. */
export function formDialog({ title, body, submit = "Save", isDanger = false, onsubmit }) {
  const go = h(isDanger ? "button.danger" : "button.primary", { type: "submit" }, submit);
  const form = h("form", { novalidate: null },
    h("h2", { id: "dialog-title" }, title),
    ...[body].flat(),
    h("div.row.end", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), go));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearMistakes(form);
    go.disabled = true;
    try {
      await onsubmit(form);
      dialog.close();
    } catch (error) {
      if (!showMistake(form, error)) tell(error);
    } finally {
      go.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks before something is done that can't be taken back. */
export function confirm({ title, text, action, isDanger = true, onconfirm }) {
  return formDialog({ title, body: h("p", {}, text), submit: action, isDanger, onsubmit: onconfirm });
}

/** A labelled field; `control` is its input, whose name mistakes are found by. */
export function field(label, control, { hint } = {}) {
  control.id ||= `field-${Math.random().toString(36).slice(2, 9)}`;
  const note = hint ? h("span.hint", { id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div.field", {}, h("label", { for: control.id }, label), control, note);
}

/** Puts an error at the field that it names; false if it names none of this form. */
export function showMistake(form, error) {
  const name = error.details?.field;
  const control = name ? form.elements.namedItem(String(name)) ?? form.elements.namedItem(String(name).split(".")[0]) : null;
  const input = control instanceof RadioNodeList ? control[0] : control;
  if (!input) return false;
  const note = h("span.mistake", { role: "alert", id: `${input.id}-mistake` }, error.message);
  input.setAttribute("aria-invalid", "true");
  (input.closest(".field") ?? input.parentElement).append(note);
  input.focus();
  return true;
}

export function clearMistakes(form) {
  for (const note of form.querySelectorAll(".mistake")) note.remove();
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

export const empty = (title, ...more) => h("div.empty", {}, h("strong", {}, title), ...more);
export const failure = (error, again) => h("div.empty", { role: "alert" },
  h("strong", {}, error.message), h("button", { type: "button", onclick: again }, "Try again"));
export const loading = (lines = 3) => h("div.stack", { "aria-busy": "true", "aria-label": "Loading" },
  ...Array.from({ length: lines }, () => h("div.skeleton")));

export function copyButton(text, label = "Copy") {
  const button = h("button.compact", { type: "button" }, label);
  button.addEventListener("click", async () => {
    const value = typeof text === "function" ? text() : text;
    try {
      await navigator.clipboard.writeText(value);
    } catch { // pages that aren't served by TLS have no clipboard
      const area = h("textarea", { value, style: { position: "fixed", opacity: "0" } });
      (button.closest("dialog") ?? document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1_500);
  });
  return button;
}
