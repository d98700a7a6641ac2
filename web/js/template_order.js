// The server lists a folder's templates in the file system's order, and the frontend shows them so. Ours begin with a number.
import { api } from "../../../scripts/api.js";

const folder = decodeURIComponent(import.meta.url.match(/\/extensions\/([^/]+)\//)[1]);

const { getWorkflowTemplates } = api;
api.getWorkflowTemplates = async function (...options) {
  const templates = await getWorkflowTemplates.apply(this, options);
  templates[folder]?.sort();
  return templates;
};
