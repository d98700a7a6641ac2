// What a node did, and what would give a wrong picture, as the server says it (nodes/face_notes.py). The notes are kept for
// each open workflow: another one may have a node of the same id.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeAt } from "./execution_id.js";
import { drawOnFaces } from "./note_layer.js";
import { asking, graphId, isLoading, opened, queuedFrom } from "./queued_from.js";

const LAST_PROMPTS = "Vega.LastPrompts"; // in the session's storage: a workflow's path -> { graph, prompt }
const kept = new WeakMap(); // workflow -> { graph: its id, notes: execution id -> { type, notes, prompt } }
const early = new Map(); // prompt id -> what came before the answer to its queueing: take()'s other arguments
let running = null; // prompt id
let isBroken = false;
let restored = null; // the workflow that was last looked up in the session's storage

const redraw = () => app.canvas?.setDirty(true, true);

// note: null takes the node's away. What was said in this run stands above what was said in an earlier one.
function take(promptId, node, note, isCached = false) {
  const notes = kept.get(queuedFrom.get(promptId))?.notes;
  if (!notes) {
    if (asking.size) early.set(promptId, [...(early.get(promptId) ?? []), [node, note, isCached]]);
    return;
  }
  if (isCached && notes.get(node)?.prompt === promptId) return;
  if (note) notes.set(node, { ...note, prompt: promptId });
  else notes.delete(node);
  redraw();
}

async function fetchNotes(promptId) {
  const answer = await api.fetchApi(`/vega/notes/${promptId}`);
  return answer.ok ? await answer.json() : {};
}

// Nodes of the cache don't run: what is said of them was said in an earlier run, perhaps of another workflow.
async function takeCached({ prompt_id, nodes }) {
  if (!nodes.length) return;
  const found = await fetchNotes(prompt_id);
  for (const node of nodes) take(prompt_id, node, found[node], true);
}

const lastPrompts = () => JSON.parse(sessionStorage.getItem(LAST_PROMPTS) ?? "{}");

function queued({ prompt_id, workflow, graph }) {
  if (kept.get(workflow)?.graph !== graph) kept.set(workflow, { graph, notes: new Map() });
  const last = { ...lastPrompts(), [workflow.path]: { graph, prompt: prompt_id } };
  sessionStorage.setItem(LAST_PROMPTS, JSON.stringify(last));
  for (const said of early.get(prompt_id) ?? []) take(prompt_id, ...said);
  early.clear(); // what is left is of other pages' prompts
}

// After the page was loaded anew.
async function restore(workflow) {
  const last = lastPrompts()[workflow.path];
  if (!last || last.graph !== graphId() || kept.has(workflow)) return;
  const notes = new Map();
  kept.set(workflow, { graph: last.graph, notes });
  queuedFrom.set(last.prompt, workflow); // it may still run
  for (const [id, note] of Object.entries(await fetchNotes(last.prompt))) if (!notes.has(id)) notes.set(id, note);
  redraw();
}

// The open graph's notes as [execution id, notes], in the order in which the nodes run: those of the host's cache are told
// later than those that run. None of a node that has become another one.
function current() {
  const workflow = opened();
  if (!workflow || isLoading()) return [];
  if (restored !== workflow) restore((restored = workflow));
  const { graph, notes } = kept.get(workflow) ?? {};
  if (graph !== graphId() || !notes) return [];
  const told = [...notes].filter(([id, { type }]) => nodeAt(id)?.type === type);
  return told.sort(([a], [b]) => nodeAt(a).order - nodeAt(b).order).map(([id, note]) => [id, note.notes]);
}

api.addEventListener("vega.queued", ({ detail }) => queued(detail));
api.addEventListener("vega.note", ({ detail: { prompt_id, node, type, notes } }) => take(prompt_id, node, { type, notes }));
api.addEventListener("execution_start", ({ detail }) => (running = detail.prompt_id));
api.addEventListener("execution_cached", ({ detail }) => takeCached(detail));
api.addEventListener("executing", ({ detail: node }) => node && take(running, node, null)); // it runs anew

app.registerExtension({
  name: "Vega.FaceNotes",
  setup() {
    const { onDrawForeground } = app.canvas;
    app.canvas.onDrawForeground = function (...options) {
      onDrawForeground?.apply(this, options);
      if (isBroken) return;
      try {
        drawOnFaces(current());
      } catch (error) {
        isBroken = true; // an error here would stop the canvas for good
        console.error("Vega: no notes on nodes any more.", error);
      }
    };
  },
});
