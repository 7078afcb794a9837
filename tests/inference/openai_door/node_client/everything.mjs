// Asks a server everything through npm's `openai`: node everything.mjs BASE_URL API_KEY. Prints what it heard as JSON.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "one two three four" }];
const chat = (more) => client.chat.completions.create({ model: "echo", messages, max_tokens: 6, ...more });

async function failure(action) {
  try {
    await action();
  } catch (error) {
    return error;
  }
  throw new Error("it should have failed");
}

const said = { models: [] };
for await (const model of client.models.list()) said.models.push(model.id);
said.chat = await chat();

said.streamed = "";
for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
  said.streamed += chunk.choices[0]?.delta?.content ?? "";
  said.usage = chunk.usage;
}

const completion = await client.completions.create({ model: "echo", prompt: "one two", max_tokens: 2 });
said.completion = completion.choices[0].text;

const unsupported = await failure(() => chat({ verbosity: "low" }));
said.unsupported = { status: unsupported.status, code: unsupported.code, param: unsupported.param };

const offered = [{ type: "function", function: { name: "get_weather", parameters: { type: "object" } } }];
const called = '<tool_call>{"name": "get_weather", "arguments": {"place": "Paris"}}</tool_call>';
const asksForCall = { messages: [{ role: "user", content: called }], tools: offered, parallel_tool_calls: false };
const withCall = client.chat.completions.stream({ model: "echo", max_tokens: 40, ...asksForCall });
said.call = (await withCall.finalChatCompletion()).choices[0].message.tool_calls[0].function;

const unknown = await failure(() => new OpenAI({ baseURL, apiKey: "lgpu_wrong", maxRetries: 0 }).models.list());
said.unknown = { name: unknown.constructor.name, status: unknown.status };

const failed = await failure(async () => {
  for await (const _ of await chat({ messages: [{ role: "user", content: "[[fail]]" }], stream: true }));
});
said.failedStream = failed.code;

console.log(JSON.stringify(said));
