// The first lines of a program, with the address that the viewer uses.

import { find, h } from "../lib/dom.js";
import { copyButton } from "../lib/feedback.js";
import { snippets, tabbed } from "../lib/snippets.js";

const origin = location.origin;
const question = { text: "Why is the sky blue?", max_tokens: 60 };

const KEY = `export LLAMA_GPU_API_KEY=your_api_key_here`;
const FIRST = {
  curl: `curl ${origin}/api/v1/infer \\
  -H "Authorization: Bearer $LLAMA_GPU_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '${JSON.stringify(question)}'`,
  Python: `import os

import httpx

headers = {"Authorization": f"Bearer {os.environ['LLAMA_GPU_API_KEY']}"}
body = ${JSON.stringify(question, null, 4)}
response = httpx.post("${origin}/api/v1/infer", json=body, headers=headers, timeout=600)
response.raise_for_status()
print(response.json()["result"]["generated_text"])
`,
  JavaScript: `const response = await fetch("${origin}/api/v1/infer", {
  method: "POST",
  headers: { Authorization: \`Bearer \${process.env.LLAMA_GPU_API_KEY}\`, "Content-Type": "application/json" },
  body: JSON.stringify(${JSON.stringify(question)}),
});
const { result } = await response.json();
console.log(result.generated_text);
`,
};
const OPENAI = {
  Python: `import os

from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=os.environ["LLAMA_GPU_API_KEY"])
answer = client.chat.completions.create(
    model="default", messages=[{"role": "user", "content": "Why is the sky blue?"}]
)
print(answer.choices[0].message.content)
`,
  JavaScript: `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: process.env.LLAMA_GPU_API_KEY });
const answer = await client.chat.completions.create({
  model: "default",
  messages: [{ role: "user", content: "Why is the sky blue?" }],
});
console.log(answer.choices[0].message.content);
`,
};
const EVENTS = `import { io } from "socket.io-client";

const socket = io("${origin}", { auth: { token: process.env.LLAMA_GPU_API_KEY } });
socket.emit("subscribe", { channels: ["inference_events", "model_events"] }, console.log);
socket.onAny((name, event) => console.log(name, event.data));
`;

const code = (text) => [h("pre", { tabindex: 0 }, h("code", {}, text)), copyButton(text)];
find('[data-code="key"]').append(...code(KEY));
find('[data-code="events"]').append(...code(EVENTS));
tabbed(find("#first-tabs"), find("#first"), code)(FIRST);
tabbed(find("#stream-tabs"), find("#stream"), code)(snippets("stream_infer", question));
tabbed(find("#openai-tabs"), find("#openai"), code)(OPENAI);
