// What a node did, and what would give a wrong picture, as the server says it (nodes/face_notes.py). The notes are kept for
// each open workflow: another one may have a node of the same id.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeAt } from "./execution_id.js";
import { drawOnFaces } from "./note_layer.js";
import { activeWorkflow, graphId, isLoading, queuedFrom, queueingWorkflows } from "./queued_from.js";

const LAST_PROMPTS = "Vega.LastPrompts"; // in the session's storage: a workflow's path -> { graph, prompt }
const storedNotes = new WeakMap(); // workflow -> { graph: its id, notes: execution id -> { type, notes, prompt } }
const earlyNotes = new Map(); // prompt id -> what came before the response to its queueing: setNote()'s other arguments
let running = null; // prompt id
let isBroken = false;
let restored = null; // the workflow that was last looked up in the session's storage

const redraw = () => app.canvas?.setDirty(true, true);

// note: null takes the node's away. What was said in this run stands above what was said in an earlier one.
function setNote(promptId, node, note, isCached = false) {
  const notes = storedNotes.get(queuedFrom.get(promptId))?.notes;
  if (!notes) {
    if (queueingWorkflows.size) earlyNotes.set(promptId, [...(earlyNotes.get(promptId) ?? []), [node, note, isCached]]);
    return;
  }
  if (isCached && notes.get(node)?.prompt === promptId) return;
  if (note) notes.set(node, { ...note, prompt: promptId });
  else notes.delete(node);
  redraw();
}

async function fetchNotes(promptId) {
  const response = await api.fetchApi(`/vega/notes/${promptId}`);
  return response.ok ? await response.json() : {};
}

// Nodes of the cache don't run: what is said of them was said in an earlier run, perhaps of another workflow.
async function setCachedNotes({ prompt_id, nodes }) {
  if (!nodes.length) return;
  const found = await fetchNotes(prompt_id);
  for (const node of nodes) setNote(prompt_id, node, found[node], true);
}

const lastPrompts = () => JSON.parse(sessionStorage.getItem(LAST_PROMPTS) ?? "{}");

function onQueued({ prompt_id, workflow, graph }) {
  if (storedNotes.get(workflow)?.graph !== graph) storedNotes.set(workflow, { graph, notes: new Map() });
  const last = { ...lastPrompts(), [workflow.path]: { graph, prompt: prompt_id } };
  sessionStorage.setItem(LAST_PROMPTS, JSON.stringify(last));
  for (const early of earlyNotes.get(prompt_id) ?? []) setNote(prompt_id, ...early);
  earlyNotes.clear(); // what is left is of other pages' prompts
}

// After the page was loaded anew.
async function restore(workflow) {
  const last = lastPrompts()[workflow.path];
  if (!last || last.graph !== graphId() || storedNotes.has(workflow)) return;
  const notes = new Map();
  storedNotes.set(workflow, { graph: last.graph, notes });
  queuedFrom.set(last.prompt, workflow); // it may still run
  for (const [id, note] of Object.entries(await fetchNotes(last.prompt))) if (!notes.has(id)) notes.set(id, note);
  redraw();
}

// The open graph's notes as [execution id, notes], in the order in which the nodes run: those of the host's cache are told
// later than those that run. None of a node that has become another one.
function currentNotes() {
  const workflow = activeWorkflow();
  if (!workflow || isLoading()) return [];
  if (restored !== workflow) restore((restored = workflow));
  const { graph, notes } = storedNotes.get(workflow) ?? {};
  if (graph !== graphId() || !notes) return [];
  const shown = [...notes].filter(([id, { type }]) => nodeAt(id)?.type === type);
  return shown.sort(([a], [b]) => nodeAt(a).order - nodeAt(b).order).map(([id, note]) => [id, note.notes]);
}

api.addEventListener("vega.queued", ({ detail }) => onQueued(detail));
api.addEventListener("vega.note", ({ detail: { prompt_id, node, type, notes } }) => setNote(prompt_id, node, { type, notes }));
api.addEventListener("execution_start", ({ detail }) => (running = detail.prompt_id));
api.addEventListener("execution_cached", ({ detail }) => setCachedNotes(detail));
api.addEventListener("executing", ({ detail: node }) => node && setNote(running, node, null)); // it runs anew

app.registerExtension({
  name: "Vega.FaceNotes",
  setup() {
    const { onDrawForeground } = app.canvas;
    app.canvas.onDrawForeground = function (...options) {
      onDrawForeground?.apply(this, options);
      if (isBroken) return;
      try {
        drawOnFaces(currentNotes());
      } catch (error) {
        isBroken = true; // an error here would stop the canvas for good
        console.error("Vega: no notes on nodes any more.", error);
      }
    };
  },
});
