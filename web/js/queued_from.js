// Which workflow's tab a prompt was queued from: the server's messages only name the prompt.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { rootGraph } from "./execution_id.js";

export const queuedFrom = new Map(); // prompt id -> workflow
export const queueingWorkflows = new Set(); // workflows whose prompt is on its way: its result may come before its id
export const activeWorkflow = () => app.extensionManager?.workflow?.activeWorkflow;
export const graphId = () => rootGraph()?.id;
// The new graph is there, its workflow not yet.
export const isLoading = () => activeWorkflow()?.changeTracker?.constructor.isLoadingGraph;

const MAX_ENDED = 20; // prompts that have ended; answers about them may be on their way
const ended = [];

const { queuePrompt } = api;
api.queuePrompt = async function (...options) {
  const [workflow, graph] = [activeWorkflow(), graphId()];
  queueingWorkflows.add(workflow);
  try {
    const response = await queuePrompt.apply(this, options);
    if (!response) return response; // another pack has cancelled it
    queuedFrom.set(response.prompt_id, workflow);
    const detail = { prompt_id: response.prompt_id, workflow, graph };
    api.dispatchEvent(new CustomEvent("vega.queued", { detail }));
    return response;
  } finally {
    queueingWorkflows.delete(workflow);
  }
};

for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
  api.addEventListener(end, ({ detail }) => {
    ended.push(detail.prompt_id);
    if (ended.length > MAX_ENDED) queuedFrom.delete(ended.shift());
  });
}
