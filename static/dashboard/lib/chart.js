// Time series, drawn by uPlot in the page's colours.

import { h } from "./dom.js";
import * as format from "./format.js";

/* global uPlot */
const charts = new Set();

/** Resolves light-dark() and var() to what a canvas understands. */
function resolved(name) {
  const probe = h("span", { style: { color: `var(${name})`, display: "none" } });
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** A figure with a legend that tells the last value, or the one under the pointer. */
export class Chart {
  #plot = null;
  #data = [[]];
  #labels;
  #tell;
  #top;
  #least;
  hasData = false;

  /**
   * @param {HTMLElement} figure takes the chart; its `aria-label` names it
   * @param {object} options `labels` of the series, `tell(value)` with unit, `top`: the axis' end where it is fixed,
   *   `least`: what it is at least
   */
  constructor(figure, { labels, tell = (value) => format.decimal(value), top = null, least = 1e-6 }) {
    figure.classList.add("chart");
    this.figure = figure;
    this.#labels = labels;
    this.#tell = tell;
    this.#top = top;
    this.#least = least;
    this.legend = h("div.legend");
    this.nothing = h("div.nothing", {}, "No data yet");
    this.box = h("div.plot", {}, this.nothing);
    figure.replaceChildren(this.legend, this.box);
    new ResizeObserver(() => this.#resize()).observe(this.box);
    charts.add(this);
  }

  /** @param {number[]} times Unix seconds @param {(number|null)[][]} series one list for each label */
  set(times, series, labels = this.#labels) {
    const isSame = labels.length === this.#labels.length && labels.every((label, index) => label === this.#labels[index]);
    this.#labels = labels;
    this.#data = [times, ...series];
    this.hasData = true;
    this.figure.dataset.times = JSON.stringify(times);
    const isEmpty = !series.some((values) => values.some((value) => value !== null));
    this.nothing.hidden = !isEmpty;
    if (!this.#plot || !isSame) this.redraw();
    else this.#plot.setData(this.#data);
    this.#describe(null);
  }

  /** Anew, after a change of colours or of the series. */
  redraw() {
    this.#plot?.destroy();
    this.#plot = null;
    if (this.#data.length < 2 || this.box.clientWidth === 0) return;
    const text = resolved("--quiet");
    const line = resolved("--line");
    const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.#plot = new uPlot({
      width: this.box.clientWidth,
      height: this.box.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { y: { range: (_, low, high) => [0, this.#top ?? Math.max(high * 1.1, this.#least)] } },
      axes: [
        { ...axis, space: 70, size: 30, values: timeLabels },
        { ...axis, size: 62, space: 36, values: (_, values) => values.map((value) => (value === 0 ? "0" : this.#tell(value))) },
      ],
      series: [{}, ...this.#labels.map((label, index) => ({
        label, stroke: resolved(`--series-${(index % 6) + 1}`), width: 1.75, spanGaps: false,
        points: { show: true, size: 4, filter: (plot, place) => lonely(plot.data[place]) },
      }))],
      hooks: { setCursor: [(plot) => this.#describe(plot.cursor.idx ?? null)] },
    }, this.#data, this.box);
  }

  #resize() {
    if (!this.#plot) { this.redraw(); return; }
    this.#plot.setSize({ width: this.box.clientWidth, height: this.box.clientHeight });
  }

  #describe(index) {
    const times = this.#data[0];
    const shown = this.#labels.map((label, place) => {
      const values = this.#data[place + 1] ?? [];
      const at = index ?? values.findLastIndex((value) => value !== null && value !== undefined);
      return h("span", {}, h("i", { style: { background: `var(--series-${(place % 6) + 1})` } }), `${label} `, h("b", {}, this.#tell(values[at] ?? null)));
    });
    if (index !== null && times[index]) shown.push(h("span", {}, format.dateTime(times[index] * 1000)));
    this.legend.replaceChildren(...shown);
  }
}

/** Hours of one day, days of several. */
function timeLabels(plot, splits) {
  const isLong = splits.length > 1 && splits.at(-1) - splits[0] > 2 * 86_400;
  const isShort = splits.length > 1 && splits[1] - splits[0] < 60;
  const form = new Intl.DateTimeFormat(undefined, isLong
    ? { weekday: "short", day: "numeric" }
    : { hour: "2-digit", minute: "2-digit", ...(isShort && { second: "2-digit" }) });
  return splits.map((seconds) => form.format(new Date(seconds * 1000)));
}

/** Where values stand that no line reaches, since nothing was measured before and behind them. */
function lonely(values) {
  const isThere = (value) => value !== null && value !== undefined;
  return [...values.keys()].filter((place) => isThere(values[place]) && !isThere(values[place - 1]) && !isThere(values[place + 1]));
}

const redrawAll = () => { for (const chart of charts) chart.redraw(); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
document.addEventListener("themechange", redrawAll);
