// Building elements. Text is always set as text: nothing that a server says is read as HTML.

/**
 * @param {string} tag with classes, such as "p.quiet.small"
 * @param {object} properties `on…` are listeners, `data` and `style` are objects; others are attributes, or properties
 *   where they must be; null and undefined are left out.
 */
export function h(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.classList.add(...classes);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key === "style") for (const [rule, to] of Object.entries(value)) element.style.setProperty(rule, to);
    else if (["value", "checked", "disabled", "selected", "hidden", "required", "multiple"].includes(key)) element[key] = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const find = (selector, root = document) => root.querySelector(selector);
export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `${document.body.dataset.icons}#${name}`);
  svg.append(use);
  return svg;
}

/** Calls `action` once the calls for it have paused. */
export function settled(action, milliseconds = 250) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}

/** What a form's named fields hold; empty ones are left out. */
export function fieldsOf(form) {
  const found = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled) continue;
    if (field.type === "checkbox") found[field.name] = field.checked;
    else if (field.type === "radio") { if (field.checked) found[field.name] = field.value; }
    else if (field.value !== "") found[field.name] = field.type === "number" || field.type === "range" ? Number(field.value) : field.value;
  }
  return found;
}
