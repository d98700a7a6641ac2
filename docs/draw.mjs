// A picture from the HTTP API, with nothing but what Node 18 and every browser has.
// node docs/draw.mjs [server's address] [key]
import { writeFile } from "node:fs/promises";

const [address = "http://127.0.0.1:8188", key] = process.argv.slice(2);

const response = await fetch(`${address}/v1/segmind-vega-rt-v1`, {
  method: "POST",
  headers: { "Content-Type": "application/json", ...(key && { "x-api-key": key }) },
  body: JSON.stringify({ prompt: "a pink dawn over pine trees with a calm lake", seed: 2, num_inference_steps: 4 }),
});
if (!response.ok) {
  console.error(`${response.status}: ${(await response.json()).error}`);
  process.exit(1);
}
await writeFile("dawn.jpg", Buffer.from(await response.arrayBuffer()));
console.log(`dawn.jpg, seed ${response.headers.get("X-Seed")}, ${response.headers.get("X-Model-Time")} s`);
