// Live events over the websocket. It comes back by itself, and what happened meanwhile is played first.

const FIRST_RETRY = 500;
const LONGEST_RETRY = 5_000;
// A short loss isn't worth a word.
const TELL_AFTER = 1_500;

class Live extends EventTarget {
  #socket = null;
  #channels = new Map(); // name → how many past events it begins with
  #last = null;
  #retry = FIRST_RETRY;
  #telling = null;
  #wasLost = false;

  /** `listener` gets each event of this name, such as "model_loaded". */
  on(name, listener) {
    this.addEventListener(`event:${name}`, (happened) => listener(happened.detail));
    return this;
  }

  /** `action` runs when the connection is back after a loss. */
  onBack(action) {
    this.addEventListener("back", action);
    return this;
  }

  /** Watch channels; `replay` past events of each come first. */
  watch(channels, { replay = 0 } = {}) {
    for (const channel of channels) this.#channels.set(channel, replay);
    if (this.#socket?.readyState === WebSocket.OPEN) this.#subscribe([...channels]);
    else if (this.#socket === null) this.#open();
    return this;
  }

  #open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws/events`);
    this.#socket = socket;
    socket.onmessage = (message) => this.#take(JSON.parse(message.data));
    socket.onclose = (closed) => this.#lost(closed.code);
  }

  #subscribe(channels) {
    if (this.#last) {
      this.#send({ action: "subscribe", channels, after: this.#last });
      return;
    }
    for (const channel of channels) {
      const replay = this.#channels.get(channel);
      this.#send({ action: "subscribe", channels: [channel], ...(replay && { replay }) });
    }
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #take(message) {
    if (message.event === "connected") {
      this.#subscribe([...this.#channels.keys()]);
      this.#found();
      return;
    }
    const id = message.id ?? message.last_id;
    if (typeof id === "string" && (this.#last === null || isLater(id, this.#last))) this.#last = id;
    this.dispatchEvent(new CustomEvent(`event:${message.event}`, { detail: message }));
  }

  #found() {
    clearTimeout(this.#telling);
    this.#telling = null;
    this.#retry = FIRST_RETRY;
    this.dispatchEvent(new Event("found"));
    if (this.#wasLost) this.dispatchEvent(new Event("back"));
    this.#wasLost = false;
  }

  #lost(code) {
    this.#wasLost = true;
    this.#telling ??= setTimeout(() => this.dispatchEvent(new Event("lost")), TELL_AFTER);
    if (code === 4401) return; // signed out: the next call of the API goes to sign in
    setTimeout(() => this.#open(), this.#retry * (0.75 + Math.random() / 2));
    this.#retry = Math.min(this.#retry * 2, LONGEST_RETRY);
  }
}

/** Ids are Redis': milliseconds, a hyphen and a number within them. */
function isLater(id, other) {
  const [milliseconds, number] = id.split("-").map(Number);
  const [otherMilliseconds, otherNumber] = other.split("-").map(Number);
  return milliseconds > otherMilliseconds || (milliseconds === otherMilliseconds && number > otherNumber);
}

export const live = new Live();
