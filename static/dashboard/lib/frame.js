// What every page has: navigation on small screens, the switch of colours, and the word about a lost connection.

import { find } from "./dom.js";
import { live } from "./live.js";

const root = document.documentElement;
const menu = find("#menu");
const veil = find("#veil");

function setOpen(isOpen) {
  root.classList.toggle("nav-open", isOpen);
  menu.setAttribute("aria-expanded", String(isOpen));
  if (isOpen) find("#side a").focus();
}

menu.addEventListener("click", () => setOpen(!root.classList.contains("nav-open")));
veil.addEventListener("click", () => setOpen(false));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && root.classList.contains("nav-open")) { setOpen(false); menu.focus(); }
});

const themes = find("#theme");
themes.value = root.dataset.theme ?? "system";
themes.addEventListener("change", () => {
  if (themes.value === "system") delete root.dataset.theme;
  else root.dataset.theme = themes.value;
  try {
    localStorage.setItem("theme", themes.value);
  } catch {
    // Then it lasts as long as the page.
  }
  document.dispatchEvent(new Event("themechange"));
});

const lost = find("#lost");
live.addEventListener("lost", () => { lost.hidden = false; });
live.addEventListener("found", () => { lost.hidden = true; });
