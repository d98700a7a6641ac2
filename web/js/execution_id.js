import { app } from "../../../scripts/app.js";

export const rootGraph = () => app.rootGraph ?? app.graph;

// The node of an id as the server has it: "101:5" is node 5 inside the subgraph that node 101 stands for.
export function nodeAt(executionId) {
  let [node, graph] = [null, rootGraph()];
  for (const id of String(executionId).split(":")) {
    node = graph?.getNodeById(id);
    graph = node?.subgraph;
  }
  return node;
}
