// A request as curl, Python and JavaScript, for the address that the viewer uses.

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const indented = (text, by) => text.split("\n").join(`\n${" ".repeat(by)}`);

function python(value) {
  return JSON.stringify(value, null, 4).replaceAll(/(?<=[:[,\s])(true|false|null)(?=[,\]\n}]|$)/g, (word) => ({ true: "True", false: "False", null: "None" })[word]);
}

/** @param {string} path below /api/v1/ @param {object} body @returns {Record<string, string>} by language */
export function snippets(path, body) {
  const address = `${location.origin}/api/v1/${path}`;
  return {
    curl: `curl -N ${address} \\\n  -H "Authorization: Bearer $LLAMA_GPU_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d ${shell(JSON.stringify(body))}`,
    Python: `import json
import os

import httpx

body = ${python(body)}
headers = {"Authorization": f"Bearer {os.environ['LLAMA_GPU_API_KEY']}"}
with httpx.stream("POST", "${address}", json=body, headers=headers, timeout=None) as response:
    response.raise_for_status()
    for line in response.iter_lines():
        if line.startswith("data:"):
            print(json.loads(line[5:])["token"], end="", flush=True)
`,
    JavaScript: `const response = await fetch("${address}", {
  method: "POST",
  headers: { Authorization: \`Bearer \${process.env.LLAMA_GPU_API_KEY}\`, "Content-Type": "application/json" },
  body: JSON.stringify(${indented(JSON.stringify(body, null, 2), 2)}),
});
let kept = "";
for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
  const events = (kept + part).split("\\n\\n");
  kept = events.pop();
  for (const event of events) {
    if (event.startsWith("data:")) process.stdout.write(JSON.parse(event.slice(5)).token);
  }
}
`,
  };
}

/** Fills a row of tabs and a panel with `variants`, by name; gives a function that shows others. */
export function tabbed(tabs, panel, makeBody) {
  let chosen = null;
  return (variants) => {
    const names = Object.keys(variants);
    chosen = names.includes(chosen) ? chosen : names[0];
    const show = () => {
      for (const tab of tabs.children) {
        const isChosen = tab.textContent === chosen;
        tab.setAttribute("aria-selected", String(isChosen));
        tab.tabIndex = isChosen ? 0 : -1;
      }
      panel.replaceChildren(...makeBody(variants[chosen]));
    };
    if ([...tabs.children].map((tab) => tab.textContent).join() !== names.join()) {
      tabs.replaceChildren(...names.map((name) => {
        const tab = document.createElement("button");
        Object.assign(tab, { type: "button", textContent: name });
        tab.setAttribute("role", "tab");
        tab.addEventListener("click", () => { chosen = name; show(); });
        tab.addEventListener("keydown", (event) => {
          const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (!by) return;
          const next = tabs.children[(names.indexOf(name) + by + names.length) % names.length];
          next.click();
          next.focus();
        });
        return tab;
      }));
    }
    show();
  };
}
