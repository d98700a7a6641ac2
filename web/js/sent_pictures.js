// The frontend gives a result to whatever graph is open (app.ts), so that Send Image's picture would come to an unrelated
// node while another workflow's tab is open. It keeps the result for its own tab, too (changeTracker.ts), and shows it
// there later. So while another tab is open, the picture is said to belong to no node at all.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeAt } from "./execution_id.js";
import { activeWorkflow, isLoading, queuedFrom, queueingWorkflows } from "./queued_from.js";

function isForTheOpenGraph({ node, display_node, prompt_id }) {
  if (isLoading()) return false;
  const target = nodeAt(display_node || node);
  if (queuedFrom.has(prompt_id)) return target && queuedFrom.get(prompt_id) === activeWorkflow();
  if (target?.type !== "VegaSendImage") return false;
  // Else it was queued before the page was loaded anew: any copy of a template would take it for its own.
  return queueingWorkflows.has(activeWorkflow()) || app.extensionManager.workflow.openWorkflows.length === 1;
}

// This comes before the frontend's own listener, which waits for all extensions to be loaded.
api.addEventListener("executed", ({ detail }) => {
  const { sent, images } = detail.output ?? {};
  if (!sent || !images) return;
  detail.output.sent = images.map((image) => ({ url: `/view?${new URLSearchParams(image)}` })); // as before, for scripts
  if (!isForTheOpenGraph(detail)) detail.display_node = `elsewhere:${detail.node}`;
});
