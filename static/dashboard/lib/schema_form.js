// A form made from a JSON Schema, and what it holds, without what is left as it was by default.
//
// Objects are groups, lists of objects can be added to, lists of strings have a line for each, and whatever else a
// schema says is edited as JSON. Values that the schema's author gave no default are left out while they are empty.

import { h } from "./dom.js";
import { field } from "./feedback.js";

/** @returns {{element: HTMLElement, read: () => any}} `read` raises ApiError-like errors with `details.field`. */
export function schemaForm(schema, value, path = "settings", title = null) {
  const type = kindOf(schema);
  if (type === "object") return objectForm(schema, value ?? {}, path, title);
  if (type === "objects") return listForm(schema, value ?? [], path, title);
  return control(schema, type, value, path, title);
}

function kindOf(schema) {
  const type = Array.isArray(schema.type) ? schema.type.find((one) => one !== "null") : schema.type;
  if (schema.enum) return "choice";
  if (type === "object") return schema.properties ? "object" : "json";
  if (type === "array") {
    const items = schema.items ?? {};
    if (items.enum) return "choices";
    if (items.type === "string") return "lines";
    return items.type === "object" && items.properties ? "objects" : "json";
  }
  return type && ["string", "integer", "number", "boolean"].includes(type) ? type : "json";
}

function objectForm(schema, value, path, title) {
  const parts = Object.entries(schema.properties).map(([name, part]) =>
    [name, schemaForm(part, value[name], `${path}.${name}`, labelOf(name, part, schema.required?.includes(name)))]);
  const inside = parts.map(([, part]) => part.element);
  const element = title ? h("fieldset.group", {}, h("legend", {}, title), ...inside) : h("div.stack", {}, ...inside);
  return {
    element,
    read: () => Object.fromEntries(parts.map(([name, part]) => [name, part.read()]).filter(([, held]) => held !== undefined)),
  };
}

function listForm(schema, value, path, title) {
  const parts = [];
  const list = h("div.stack");
  const renumber = () => parts.forEach((part, place) => { part.element.querySelector("legend").textContent = `${place + 1}`; });
  function add(item) {
    const part = objectForm(schema.items, item, `${path}[${parts.length}]`, `${parts.length + 1}`);
    part.element.append(h("div.row.end", {}, h("button.compact.danger", { type: "button", onclick: () => {
      parts.splice(parts.indexOf(part), 1);
      part.element.remove();
      renumber();
    } }, "Remove")));
    parts.push(part);
    list.append(part.element);
  }
  for (const item of value) add(item);
  const element = h("fieldset.group", {}, h("legend", {}, title ?? "Items"), schema.description ? h("span.small.quiet", {}, schema.description) : null,
    list, h("div", {}, h("button.compact", { type: "button", onclick: () => add({}) }, "Add")));
  return { element, read: () => parts.map((part) => part.read()) };
}

function control(schema, type, value, path, title) {
  const held = value ?? schema.default;
  const hint = [schema.description, boundsOf(schema)].filter(Boolean).join(" ");
  if (type === "boolean") {
    const input = h("input", { type: "checkbox", name: path, checked: held ?? false });
    return { element: h("div.field", {}, h("label.check", {}, input, title), hint ? h("span.hint", {}, hint) : null), read: () => input.checked };
  }
  if (type === "choice") {
    const input = h("select", { name: path }, ...(held === undefined ? [h("option", { value: "" }, "–")] : []),
      ...schema.enum.map((one) => h("option", { value: JSON.stringify(one), selected: one === held }, String(one))));
    return { element: field(title, input, { hint }), read: () => (input.value ? JSON.parse(input.value) : undefined) };
  }
  if (type === "choices") {
    const boxes = schema.items.enum.map((one) => [one, h("input", { type: "checkbox", name: path, checked: (held ?? []).includes(one) })]);
    return {
      element: h("fieldset.group", {}, h("legend", {}, title), hint ? h("span.small.quiet", {}, hint) : null, h("div.row", {}, ...boxes.map(([one, box]) => h("label.check", {}, box, String(one))))),
      read: () => boxes.filter(([, box]) => box.checked).map(([one]) => one),
    };
  }
  if (type === "lines") {
    const input = h("textarea", { name: path, rows: 3, value: (held ?? []).join("\n") });
    return {
      element: field(title, input, { hint: [hint, "One in each line."].filter(Boolean).join(" ") }),
      read: () => { const lines = input.value.split("\n").filter((line) => line.trim() !== ""); return lines.length || schema.default || value ? lines.length ? lines : schema.minItems ? undefined : [] : undefined; },
    };
  }
  if (type === "json") {
    const input = h("textarea.mono", { name: path, rows: 3, value: held === undefined ? "" : JSON.stringify(held, null, 2) });
    return {
      element: field(title ?? "Settings", input, { hint: [hint, "As JSON."].filter(Boolean).join(" ") }),
      read: () => {
        if (!input.value.trim()) return undefined;
        try {
          return JSON.parse(input.value);
        } catch (error) {
          throw Object.assign(new Error(`This is not JSON: ${error.message}`), { name: "ApiError", details: { field: path } });
        }
      },
    };
  }
  const isNumber = type === "integer" || type === "number";
  const isLong = type === "string" && !(schema.maxLength <= 200);
  const input = isLong
    ? h("textarea", { name: path, rows: 2, value: held ?? "" })
    : h("input", { name: path, type: isNumber ? "number" : "text", step: type === "number" ? "any" : null, min: schema.minimum, max: schema.maximum, value: held ?? "" });
  return {
    element: field(title ?? "Value", input, { hint }),
    read: () => {
      if (input.value === "") return schema.default === "" || value === "" ? "" : undefined;
      return isNumber ? Number(input.value) : input.value;
    },
  };
}

function labelOf(name, schema, isRequired) {
  const words = schema.title ?? name.replaceAll("_", " ");
  return `${words[0].toUpperCase()}${words.slice(1)}${isRequired ? " (required)" : ""}`;
}

function boundsOf(schema) {
  if (schema.minimum !== undefined && schema.maximum !== undefined) return `From ${schema.minimum} to ${schema.maximum}.`;
  if (schema.minimum !== undefined) return `At least ${schema.minimum}.`;
  return schema.maximum !== undefined ? `At most ${schema.maximum}.` : null;
}
