// A table of what the API lists page by page.

import { api } from "./api.js";
import { h } from "./dom.js";
import { failure, loading, tell } from "./feedback.js";
import { head, row as makeRow } from "./table.js";

/**
 * @param {HTMLElement} place @param {object} options `path` and `query()` of the list, `items(answer)` of an answer,
 *   `columns` as [title, class], `row(item)` its cells
 *   and the properties of its <tr>, `nothing()` what to say of an empty list
 */
export function listing(place, { path, query = () => ({}), items, columns, row, nothing }) {
  let turn = 0;

  function rowOf(item) {
    const [properties, cells] = row(item);
    return makeRow(columns, properties, cells);
  }

  async function show() {
    const mine = ++turn;
    if (!place.firstChild) place.replaceChildren(h("div.card", {}, loading()));
    try {
      const answer = await api(path, { query: query() });
      if (mine !== turn) return;
      const found = items(answer);
      if (!found.length) { place.replaceChildren(h("div.card", {}, nothing())); return; }
      const body = h("tbody", {}, ...found.map(rowOf));
      const more = h("button", { type: "button" }, "Show more");
      const shown = h("div.table", {}, h("table", {}, head(columns), body));
      const end = h("div.row.end", {}, more);
      end.hidden = !answer.next_cursor;
      let cursor = answer.next_cursor;
      more.addEventListener("click", async () => {
        more.disabled = true;
        try {
          const next = await api(path, { query: { ...query(), cursor } });
          if (mine !== turn) return;
          body.append(...items(next).map(rowOf));
          cursor = next.next_cursor;
          end.hidden = !cursor;
        } catch (error) {
          tell(error);
        } finally {
          more.disabled = false;
        }
      });
      place.replaceChildren(shown, end);
    } catch (error) {
      if (mine !== turn) return;
      if (place.querySelector("table")) tell(error);
      else place.replaceChildren(h("div.card", {}, failure(error, show)));
    }
  }

  return show;
}

