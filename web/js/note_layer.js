// Draws notes under the nodes that they are about; those of a node in a closed subgraph under the subgraph. They are elements
// above the canvas, the same for both of the frontend's renderers: badges are cut off at the node's width in Nodes 2.0, and
// a widget would make the nodes larger and stand in the saved workflow.
import { app } from "../../../scripts/app.js";
import { rootGraph } from "./execution_id.js";
import { sentence } from "./note_texts.js";

const FONT_PX = { min: 11, normal: 12, max: 16 }; // on the screen, whatever the zoom
const GAP_PX = 4;
const MIN_WIDTH_PX = 180;
const MIN_ZOOM = 0.35; // below it nodes are shapes without text: only warnings are drawn
const LAYER_STYLE = "position: absolute; inset: 0; overflow: hidden; pointer-events: none;";
const FACE_STYLE = "position: absolute; left: 0; top: 0; display: flex; flex-direction: column; gap: 2px;";
const LINE_STYLE = `padding: 2px 8px; border-radius: 6px; font-family: Inter, Arial, sans-serif; line-height: 1.35;
  overflow-wrap: anywhere; width: fit-content; max-width: 100%; box-sizing: border-box;`;
const COLOURS = {
  info: "background: #1f2937; color: #d1d5db; border-left: 3px solid #60a5fa;",
  warning: "background: #713f12; color: #fefce8; border-left: 3px solid #facc15;",
};
const faces = new Map(); // node -> its element
let layer = null;

// The node on the screen that a node of this id is or is in.
function faceOf(executionId) {
  let graph = rootGraph();
  for (const id of String(executionId).split(":")) {
    const node = graph?.getNodeById(id);
    if (graph === app.canvas.graph) return node;
    graph = node?.subgraph;
  }
}

function linesByFace(notes) {
  const lines = new Map();
  for (const [id, ofNode] of notes) {
    const face = faceOf(id);
    for (const note of face ? ofNode : []) {
      if (!note.is_warning && app.canvas.ds.scale < MIN_ZOOM) continue;
      const line = { text: sentence(note), kind: note.is_warning ? "warning" : "info" };
      lines.set(face, [...(lines.get(face) ?? []), line]);
    }
  }
  for (const ofFace of lines.values()) ofFace.sort((a, b) => (b.kind === "warning") - (a.kind === "warning"));
  return lines;
}

function makeFace(face) {
  layer ??= document.createElement("div");
  layer.style.cssText = LAYER_STYLE;
  layer.setAttribute("aria-live", "polite");
  const { parentElement } = app.canvas.canvas;
  if (layer.parentElement !== parentElement) parentElement.append(layer);
  const made = document.createElement("div");
  made.className = "vega-notes";
  made.dataset.node = face.id;
  made.style.cssText = FACE_STYLE;
  layer.append(made);
  faces.set(face, made);
  return made;
}

function fillFace(element, lines) {
  const content = JSON.stringify(lines);
  if (element.dataset.content === content) return;
  element.dataset.content = content;
  element.replaceChildren(
    ...lines.map(({ text, kind }) => {
      const line = document.createElement("div");
      line.className = `vega-note-${kind}`;
      line.textContent = text;
      line.style.cssText = LINE_STYLE + COLOURS[kind];
      return line;
    }),
  );
}

// Left, bottom and width of a node, in the graph's units.
function nodeBounds(node) {
  const [x, y] = node.pos;
  const drawn = window.LiteGraph.vueNodesMode && document.querySelector(`[data-node-id="${node.id}"]`);
  if (drawn) return [x, y - window.LiteGraph.NODE_TITLE_HEIGHT + drawn.offsetHeight, drawn.offsetWidth];
  if (node.flags.collapsed) return [x, y, node._collapsed_width ?? node.size[0]];
  return [x, y + node.size[1], node.size[0]];
}

function positionFace(element, node) {
  const { scale, offset } = app.canvas.ds;
  const [left, bottom, width] = nodeBounds(node);
  const [x, y] = [(left + offset[0]) * scale, (bottom + offset[1]) * scale + GAP_PX];
  element.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
  element.style.width = `${Math.max(width * scale, MIN_WIDTH_PX)}px`;
  element.style.fontSize = `${Math.min(Math.max(FONT_PX.normal * scale, FONT_PX.min), FONT_PX.max)}px`;
}

// notes: [execution id, [note, ...]] of the open graph. Called whenever the canvas is drawn.
export function drawOnFaces(notes) {
  const lines = linesByFace(notes);
  for (const [face, element] of faces) {
    if (lines.has(face)) continue;
    element.remove();
    faces.delete(face);
  }
  for (const [face, ofFace] of lines) {
    const element = faces.get(face) ?? makeFace(face);
    fillFace(element, ofFace);
    positionFace(element, face);
  }
}
