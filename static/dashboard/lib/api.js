// The server's own REST API, with the session of who is signed in.

const settings = document.body.dataset;

export class ApiError extends Error {
  /** `code` is one of the API's error codes, or OFFLINE when nothing answers. */
  constructor({ code, message, details = {}, status = 0, requestId = null }) {
    super(message);
    Object.assign(this, { name: "ApiError", code, details: details ?? {}, status, requestId });
  }
}

/** Calls `/api/v1/<path>`; gives the answer's body. Raises ApiError; goes to sign in where nobody is signed in. */
export async function api(path, { method = "GET", query, body, signal } = {}) {
  const response = await send(path, { method, query, body, signal, accept: "application/json" });
  return response.status === 204 ? null : response.json();
}

/** The events of a streamed answer, each as [name, data]. Ending the loop, or `signal`, ends the request. */
export async function* stream(path, { method = "POST", body, signal } = {}) {
  const response = await send(path, { method, body, signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      kept += value;
      const blocks = kept.split("\n\n");
      kept = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n");
        const name = lines.find((line) => line.startsWith("event:"))?.slice(6).trim() ?? "message";
        const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
        if (data) yield [name, data === "[DONE]" ? null : JSON.parse(data)];
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** The raw response of a call; for downloads, and for bodies that aren't JSON (FormData, Blob). */
export async function send(path, { method = "GET", query, body, signal, accept = "*/*" } = {}) {
  const address = new URL(`${settings.api}${path}`, location.origin);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== null && value !== undefined && value !== "") address.searchParams.set(name, value);
  }
  const headers = { Accept: accept, "X-CSRFToken": settings.csrf };
  const isRaw = body instanceof FormData || body instanceof Blob;
  if (body !== undefined && !isRaw) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(address, { method, headers, signal, body: isRaw || body === undefined ? body : JSON.stringify(body), credentials: "same-origin" });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new ApiError({ code: "OFFLINE", message: "The server does not answer." });
  }
  if (response.ok) return response;
  if (response.status === 401) location.assign(`${settings.signIn}?next=${encodeURIComponent(location.pathname)}`);
  const told = await response.json().catch(() => null);
  throw new ApiError({
    code: told?.error?.code ?? "INTERNAL_ERROR",
    message: told?.error?.message ?? `The server answered with ${response.status}.`,
    details: told?.error?.details,
    status: response.status,
    requestId: response.headers.get("X-Request-ID"),
  });
}

const granted = new Set((settings.permissions ?? "").split(" "));
/** Whether who is signed in has the permission; the server decides again. */
export const may = (permission) => granted.has(permission);
