// Run (On Change) sees a change when a key or the mouse is let go, but not in text fields (the frontend's
// changeTracker.ts), so that a typed prompt was drawn only after a click beside it. Here it looks at each letter.
import { app } from "../../../scripts/app.js";

const graphs = () => [app.graph, ...(app.graph.subgraphs?.values() ?? [])];
const drawsLive = () => graphs().some((graph) => graph.nodes.some((node) => node.type === "VegaLCMSampler"));

app.registerExtension({
  name: "Vega.LiveTyping",
  setup() {
    document.addEventListener("input", () => {
      const { queueSettings, workflow } = app.extensionManager;
      if (queueSettings.mode === "change" && drawsLive()) workflow.activeWorkflow?.changeTracker.captureCanvasState();
    });
  },
});
