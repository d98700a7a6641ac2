import { app } from "../../../scripts/app.js";

// The node of an id as the server has it: "101:5" is node 5 inside the subgraph that node 101 stands for.
export function nodeAt(executionId) {
  let [node, graph] = [null, app.rootGraph ?? app.graph];
  for (const id of String(executionId).split(":")) {
    node = graph?.getNodeById(id);
    graph = node?.subgraph;
  }
  return node;
}
