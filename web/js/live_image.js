// The widget of Live Image: what is painted or filmed, the picture beside it, and the button that keeps drawing.
import { app } from "../../../scripts/app.js";
import { liveAddress } from "./live_connection.js";
import { startLoop } from "./live_loop.js";
import { tabName } from "./live_name.js";
import { makePainting } from "./live_paint.js";
import { translate } from "./live_texts.js";
import { openVideo } from "./live_video.js";

const SOURCES = ["paint", "webcam", "screen", "program"];
const SIDES = [128, 192, 256, 384, 512, 768, 1024];
const DEFAULTS = { source: "paint", side: 256, colour: "#2255aa", brush: 16 };
const NODE_SIZE = [560, 500];
const MIN_HEIGHT_PX = 360;
const QUALITY = 0.9; // of a JPEG in the workflow or a prompt
const KEY = "Vega.LiveKey"; // in the tab's storage
const STYLE = `
  .vega-live { display: flex; flex-direction: column; gap: 6px; height: 100%; box-sizing: border-box; padding: 4px;
    font: 13px/1.3 Inter, Arial, sans-serif; color: var(--input-text, #ddd); }
  .vega-live .row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
  .vega-live [hidden] { display: none; }
  .vega-live button, .vega-live select, .vega-live input, .vega-live a { min-height: 32px; box-sizing: border-box; font: inherit;
    color: inherit; background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #666); border-radius: 6px;
    padding: 4px 10px; }
  .vega-live input[type=color] { padding: 2px; width: 40px; }
  .vega-live input[type=range] { width: 90px; padding: 0; }
  .vega-live input[readonly] { flex: 1; min-width: 120px; }
  .vega-live button.live[data-is-on=true] { background: #b91c1c; color: #fff; }
  .vega-live :focus-visible { outline: 2px solid #60a5fa; outline-offset: 1px; }
  .vega-live .views { flex: 1; min-height: 0; display: flex; gap: 6px; position: relative; }
  .vega-live .views > * { flex: 1; min-width: 0; min-height: 0; object-fit: contain; background: #0006; }
  .vega-live .views img:not([src]) { visibility: hidden; }
  .vega-live canvas.paint { touch-action: none; cursor: crosshair; }
  .vega-live .views > .brush { position: absolute; transform: translate(-50%, -50%); box-sizing: border-box; background: none;
    border: 1px solid #fff; outline: 1px solid #000; border-radius: 50%; pointer-events: none; }
  .vega-live .views > .brush.down { border-width: 3px; }
  .vega-live .numbers, .vega-live .status { min-height: 1.3em; overflow-wrap: anywhere; }`;

function element(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

function addStyle() {
  if (document.querySelector("style.vega-live-style")) return;
  document.head.append(element("style", { className: "vega-live-style", textContent: STYLE }));
}

const labelled = (made, text) => {
  made.setAttribute("aria-label", text);
  made.title = text;
  return made;
};

const option = (value, textContent) => element("option", { value, textContent });

// The name under which others see this node's pictures.
const liveName = (node) => `live-${tabName}-${node.id}`.slice(0, 64);

function makeWidget(node) {
  addStyle();
  const value = node.widgets.find(({ name }) => name === "picture");
  const chosen = () => ({ ...DEFAULTS, ...node.properties?.vega_live });
  const choose = (fields) => node.setProperty("vega_live", { ...chosen(), ...fields });
  let [video, loop, isFresh, url] = [null, null, true, null];
  let starts = 0; // and stops, by which a start that had to wait for a permission knows that it is the last
  let written = ""; // into the workflow, by this painting

  const source = labelled(element("select", {}, ...SOURCES.map((one) => option(one, translate(one)))), translate("source"));
  const side = labelled(element("select", {}, ...SIDES.map((one) => option(one, `${one} px`))), translate("side"));
  const live = element("button", { type: "button", textContent: translate("live"), className: "live" });
  const full = element("a", { target: "_blank", rel: "noopener", textContent: translate("full") });
  const colour = labelled(element("input", { type: "color" }), translate("colour"));
  const brush = labelled(element("input", { type: "range", min: 1, max: 96 }), translate("brush"));
  const undo = element("button", { type: "button", textContent: translate("undo") });
  const clear = element("button", { type: "button", textContent: translate("clear") });
  const address = labelled(element("input", { readOnly: true }), translate("address"));
  const key = labelled(element("input", { type: "password", placeholder: translate("key"), hidden: true }), translate("key"));
  const canvas = element("canvas");
  const picture = element("img", { alt: translate("picture") });
  const numbers = element("div", { className: "numbers" }); // of each picture, which nobody wants read out
  const status = element("div", { className: "status" });
  status.setAttribute("role", "status");
  const tools = element("div", { className: "row" }, colour, brush, undo, clear);
  const root = element(
    "div",
    { className: "vega-live" },
    element("div", { className: "row" }, live, source, side, full, key),
    tools,
    element("div", { className: "row" }, address),
    element("div", { className: "views" }, canvas, picture),
    numbers,
    status,
  );

  const tell = (text, isError = false) => {
    status.textContent = text;
    status.style.color = isError ? "#f87171" : "";
  };

  function changed() {
    isFresh = true;
    loop?.sendFrame();
  }

  // The painting is a part of the workflow; what a camera sees is not.
  function write() {
    written = canvas.toDataURL("image/jpeg", QUALITY);
    value.value = written;
    app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState();
  }

  const isPainted = () => chosen().source === "paint";
  const painting = makePainting(canvas, isPainted, () => ({ colour: colour.value, size: Number(brush.value) }), changed, write);

  // The canvas with a frame that wasn't sent yet, or null.
  function takeFrame() {
    const kind = chosen().source;
    if (kind === "program") return null;
    if (kind !== "paint") {
      video?.drawOn(canvas);
      return video && canvas;
    }
    if (!isFresh) return null;
    isFresh = false;
    return canvas;
  }

  function stop() {
    starts += 1;
    loop?.stop();
    video?.close();
    [loop, video] = [null, null];
    live.textContent = translate("live");
    live.dataset.isOn = false;
  }

  function show(blob, { rate, age, left, frame }) {
    const last = url;
    picture.src = url = URL.createObjectURL(blob);
    if (last) URL.revokeObjectURL(last);
    picture.dataset.frame = frame;
    numbers.textContent = translate("drawing", { rate: rate.toFixed(1), age, left });
    if (status.textContent) tell("");
  }

  async function start() {
    const kind = chosen().source;
    const number = ++starts;
    live.dataset.isOn = true;
    live.textContent = translate("stop");
    if (kind === "webcam" || kind === "screen") {
      let opened;
      try {
        opened = await openVideo(kind, () => number === starts && stop());
      } catch (error) {
        if (number !== starts) return;
        stop();
        return tell(translate("noCamera", { why: error.message }), true);
      }
      if (number !== starts) return opened.close();
      video = opened;
    }
    isFresh = true;
    loop = startLoop(liveName(node), sessionStorage.getItem(KEY), takeFrame, {
      opened() {
        isFresh = true;
        if (document.activeElement === key) live.focus();
        key.hidden = true;
      },
      picture: show,
      said: (what, { message } = {}) => tell(message ?? translate(what), what !== "waiting"),
      ended(code, message) {
        stop();
        key.hidden = code !== 401;
        if (key.hidden) return tell(message, true);
        tell(translate(sessionStorage.getItem(KEY) ? "wrongKey" : "needsKey"), true);
        // Not where somebody types elsewhere: a server that starts again with other keys refuses in the middle of a word.
        if (root.contains(document.activeElement) || document.activeElement === document.body) key.focus({ preventScroll: true });
      },
    });
  }

  // As it is chosen, also after the workflow was loaded.
  function refresh() {
    const { source: kind, side: pixels, colour: shade, brush: size } = chosen();
    [source.value, side.value, colour.value, brush.value] = [kind, pixels, shade, size];
    tools.hidden = kind !== "paint";
    canvas.hidden = side.hidden = kind === "program";
    address.parentElement.hidden = kind !== "program";
    address.value = liveAddress(liveName(node));
    full.href = new URL(`../live.html#${liveName(node)}`, import.meta.url).href;
    canvas.className = kind === "paint" ? "paint" : "";
    if (kind === "paint") canvas.tabIndex = 0;
    else canvas.removeAttribute("tabindex");
    canvas.setAttribute("role", kind === "paint" ? "application" : "img"); // which takes keys, or does not
    canvas.setAttribute("aria-label", translate(kind === "paint" ? "painting" : "frame"));
    if (canvas.width !== pixels) painting.resize(pixels);
  }

  live.addEventListener("click", () => (live.dataset.isOn === "true" ? stop() : start()));
  source.addEventListener("change", () => {
    stop();
    choose({ source: source.value });
    refresh();
    if (source.value === "paint") painting.restore(value.value);
  });
  side.addEventListener("change", () => {
    choose({ side: Number(side.value) });
    refresh();
    if (chosen().source !== "paint") return;
    changed();
    write();
  });
  colour.addEventListener("input", () => choose({ colour: colour.value }));
  brush.addEventListener("input", () => choose({ brush: Number(brush.value) }));
  undo.addEventListener("click", painting.undo);
  clear.addEventListener("click", painting.clear);
  const keepKey = () => key.value.trim() && sessionStorage.setItem(KEY, key.value.trim());
  key.addEventListener("change", keepKey);
  key.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.repeat || event.ctrlKey || event.metaKey || !key.value.trim()) return;
    keepKey();
    stop();
    start();
  });

  value.hidden = value.options.hidden = true;
  value.computeSize = () => [0, -4];
  // What a camera sees says so, by which Send Image leaves it out of its files (images/graph_metadata.py).
  value.serializeValue = () => {
    const { source: kind } = chosen();
    if (!video || !["webcam", "screen"].includes(kind)) return value.value;
    return canvas.toDataURL("image/jpeg", QUALITY).replace(";", `;source=${kind};`);
  };
  // Where a workflow or a program's graph is opened; also called for what was painted here.
  function restore(picture) {
    if (picture && picture !== written) painting.restore(picture).then(() => isPainted() && changed());
    written = picture;
  }

  value.callback = restore;
  const { onAdded, onConfigure, onRemoved } = node;
  node.onAdded = function (...options) {
    onAdded?.apply(this, options);
    refresh(); // it has its id now, which is in its name
  };
  node.onConfigure = function (...options) {
    onConfigure?.apply(this, options);
    refresh();
    restore(value.value);
  };
  node.onRemoved = function (...options) {
    stop();
    onRemoved?.apply(this, options);
  };
  live.dataset.isOn = false;
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => MIN_HEIGHT_PX };
  const widget = node.addDOMWidget("live", "VEGA_LIVE", root, options);
  // ComfyUI's side panel writes its own width here, which would narrow the node's (ComfyUI_frontend issue 12443).
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {} });
  node.setSize([Math.max(node.size[0], NODE_SIZE[0]), Math.max(node.size[1], NODE_SIZE[1])]);
  refresh();
}

app.registerExtension({
  name: "Vega.LiveImage",
  nodeCreated(node) {
    if (node.comfyClass === "VegaLiveImage") makeWidget(node);
  },
});
