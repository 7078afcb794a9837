// Tables whose cells know their column, so that a narrow screen can show each row as a list.

import { h } from "./dom.js";

/** @param {[string, string?][]} columns title and class of each; the actions' column has no title */
export function head(columns) {
  return h("thead", {}, h("tr", {}, ...columns.map(([title, kind]) =>
    h(kind ? `th.${kind}` : "th", { scope: "col" }, title || h("span.visually-hidden", {}, "Actions")))));
}

/** A row: `cells` in the order of the columns, each a <td>. The first is the row's name, and needs no label. */
export function row(columns, properties, cells) {
  const kept = cells.filter(Boolean);
  kept.forEach((cell, place) => { if (place && columns[place]?.[0]) cell.dataset.label = columns[place][0]; });
  return h("tr", properties, ...kept);
}

export const table = (columns, rows) => h("div.table", {}, h("table", {}, head(columns), h("tbody", {}, ...rows)));
