// The frontend gives a result to whatever graph is open (app.ts), so that Send Image's picture would come to an unrelated
// node while another workflow's tab is open. It keeps the result for its own tab, too (changeTracker.ts), and shows it
// there later. So while another tab is open, the picture is said to belong to no node at all.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeAt } from "./execution_id.js";

const queuedFrom = new Map(); // prompt id -> workflow
const asking = new Set(); // workflows whose prompt is on its way: its result may come before its id
const opened = () => app.extensionManager?.workflow?.activeWorkflow;

function isForTheOpenGraph({ node, display_node, prompt_id }) {
  if (opened()?.changeTracker?.constructor.isLoadingGraph) return false; // the new graph is there, its workflow not yet
  const target = nodeAt(display_node || node);
  if (queuedFrom.has(prompt_id)) return target && queuedFrom.get(prompt_id) === opened();
  if (target?.type !== "VegaSendImage") return false;
  // Else it was queued before the page was loaded anew: any copy of a template would take it for its own.
  return asking.has(opened()) || app.extensionManager.workflow.openWorkflows.length === 1;
}

const { queuePrompt } = api;
api.queuePrompt = async function (...options) {
  const workflow = opened();
  asking.add(workflow);
  try {
    const answer = await queuePrompt.apply(this, options);
    queuedFrom.set(answer.prompt_id, workflow);
    return answer;
  } finally {
    asking.delete(workflow);
  }
};

// This comes before the frontend's own listener, which waits for all extensions to be loaded.
api.addEventListener("executed", ({ detail }) => {
  const { sent, images } = detail.output ?? {};
  if (!sent || !images) return;
  detail.output.sent = images.map((image) => ({ url: `/view?${new URLSearchParams(image)}` })); // as before, for scripts
  if (!isForTheOpenGraph(detail)) detail.display_node = `elsewhere:${detail.node}`;
});

for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
  api.addEventListener(end, ({ detail }) => queuedFrom.delete(detail.prompt_id));
}
