// What went wrong in a node of this pack, in its own words, where one looks: the frontend shows them only two clicks away.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeAt } from "./execution_id.js";
import { activeWorkflow, queuedFrom } from "./queued_from.js";

const LABELS = {
  en: ["Show the node", "Close"],
  es: ["Mostrar el nodo", "Cerrar"],
  fr: ["Afficher le nœud", "Fermer"],
  ja: ["ノードを表示", "閉じる"],
  ko: ["노드 보기", "닫기"],
  ru: ["Показать узел", "Закрыть"],
  zh: ["显示节点", "关闭"],
  "zh-TW": ["顯示節點", "關閉"],
};
// At the bottom: the frontend's own message and the Run button are at the top right.
const TOAST_STYLE = `position: fixed; z-index: 3000; bottom: 24px; left: 50%; transform: translateX(-50%); width: max-content;
  max-width: min(640px, 80vw); box-sizing: border-box; max-height: 40vh; overflow: auto;
  display: flex; gap: 12px; align-items: flex-start; padding: 12px 14px; border-radius: 8px; border: 1px solid #f87171;
  background: #2a1416; color: #fff; font: 14px/1.45 Inter, Arial, sans-serif; box-shadow: 0 4px 16px #0008;`;
const BUTTON_STYLE = `flex: none; white-space: nowrap; padding: 4px 10px; border-radius: 6px; border: 1px solid #fca5a5; background: #450a0a;
  color: #fff; font: inherit; cursor: pointer;`;
const isOurs = (type) => type?.startsWith("Vega");
let shown = null;

function close() {
  shown?.remove();
  shown = null;
  removeEventListener("keydown", onKey, true);
}

// Before the frontend, which leaves the subgraph at Escape.
function onKey(event) {
  if (event.key !== "Escape") return;
  event.stopPropagation();
  close();
}

function button(label, pressed) {
  const made = document.createElement("button");
  made.textContent = label;
  made.style.cssText = BUTTON_STYLE;
  made.addEventListener("click", pressed);
  return made;
}

const nextFrame = () => new Promise(requestAnimationFrame);

async function selectNode(executionId) {
  const node = nodeAt(executionId);
  if (!node) return;
  const { canvas } = app;
  const isInAppView = !canvas.canvas.checkVisibility();
  if (isInAppView) await app.extensionManager.command.execute("Comfy.ToggleLinear");
  if (isInAppView || canvas.graph !== node.graph) {
    canvas.setGraph(node.graph);
    await nextFrame(); // in which the frontend fits the whole graph into the window
    await nextFrame();
  }
  canvas.deselectAll();
  canvas.select(node);
  canvas.ds.scale = Math.max(canvas.ds.scale, 1); // or its text may be hidden
  canvas.centerOnNode(node);
}

// workflow: the one that failed, where it is known; of another tab's there is no node to show.
function show(executionId, type, message, workflow = activeWorkflow()) {
  close();
  const [showNode, closeIt] = LABELS[app.extensionManager.setting.get("Comfy.Locale")] ?? LABELS.en;
  shown = document.createElement("div");
  shown.setAttribute("role", "alert");
  shown.className = "vega-error";
  shown.style.cssText = TOAST_STYLE;
  const text = document.createElement("div");
  text.style.overflowWrap = "anywhere";
  const title = document.createElement("strong");
  const isOpen = workflow === activeWorkflow();
  title.textContent = isOpen ? (nodeAt(executionId)?.title ?? type) : `${workflow.filename}: ${type}`;
  text.append(title, document.createElement("br"), message.trim().replaceAll("`", ""));
  const buttons = document.createElement("div");
  buttons.style.cssText = "flex: none; display: flex; flex-direction: column; gap: 6px";
  if (isOpen) buttons.append(button(showNode, () => selectNode(executionId)));
  buttons.append(button(closeIt, close));
  shown.append(text, buttons);
  document.body.append(shown);
  addEventListener("keydown", onKey, true);
}

// A node's own check of its inputs: "model_name - There is no model ..." in details.
function showRejection(nodeErrors) {
  for (const [id, { class_type, errors }] of Object.entries(nodeErrors ?? {})) {
    if (!isOurs(class_type) || !errors?.length) continue;
    const { details, message, type } = errors[0];
    const own = type === "custom_validation_failed" ? details.replace(/^[^-]* - /, "") : `${message}: ${details}`;
    show(id, class_type, own);
    return;
  }
}

const { queuePrompt } = api;
api.queuePrompt = async function (...options) {
  close();
  try {
    const response = await queuePrompt.apply(this, options);
    showRejection(response?.node_errors);
    return response;
  } catch (error) {
    showRejection(error.response?.node_errors);
    throw error;
  }
};

api.addEventListener("execution_error", ({ detail }) => {
  if (!isOurs(detail.node_type)) return;
  show(detail.node_id, detail.node_type, detail.exception_message, queuedFrom.get(detail.prompt_id));
});
