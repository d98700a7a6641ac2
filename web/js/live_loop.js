// While it runs: the newest frame and the newest graph go to the server, one frame at a time, and pictures come back.
import { app } from "../../../scripts/app.js";
import { connect } from "./live_connection.js";
import { rootGraph } from "./execution_id.js";

const LOOK_MS = 33;
const MIN_WAIT_MS = 100; // for a picture, until a newer frame takes the place of the one that waits
const QUALITY = 0.9; // of the frames' JPEG
const SMOOTHING = 0.2; // of the numbers that are shown

const encode = (canvas) => new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));

// The graph as the server draws it: without the painting, in whose place the frames come.
async function currentPrompt() {
  const { output } = await app.graphToPrompt();
  for (const { class_type, inputs } of Object.values(output)) if (class_type === "VegaLiveImage") inputs.picture = "";
  return output;
}

// The painting, which each stroke changes, is not in the prompt.
const withoutPainting = (_, value) =>
  value?.type === "VegaLiveImage" ? { ...value, widgets_values: value.widgets_values?.slice(1) } : value;

// takeFrame(): the canvas with a frame that wasn't sent yet, or null. on: opened(), picture(blob, numbers),
// said(kind, values), ended(status, message).
export function startLoop(name, key, takeFrame, on) {
  const taken = new Map(); // number of a frame -> when it was taken
  const numbers = { rate: 0, age: 0, left: 0, frame: 0 };
  let isEncoding = false;
  let isLooking = false;
  let lastSent = 0;
  let lastPicture = 0;
  let pictureMs = MIN_WAIT_MS;
  let seen = ""; // the graph that was last looked at
  let prompt = ""; // and what it is to the server

  const smooth = (before, now) => (before ? before + SMOOTHING * (now - before) : now);

  async function sendFrame() {
    if (isEncoding || !connection.hasRoom()) return;
    const at = performance.now();
    const canvas = takeFrame();
    if (!canvas) return;
    isEncoding = true;
    const blob = await encode(canvas).finally(() => (isEncoding = false));
    if (!connection.isOpen()) return; // the next one begins with a frame
    lastSent = at;
    taken.set(connection.sendFrame(blob), at);
  }

  // A graph that can't be read is said once, and read again when it has changed.
  async function sendPrompt() {
    if (isLooking || !connection.isOpen()) return;
    const now = JSON.stringify(rootGraph().serialize(), withoutPainting);
    if (now === seen) return;
    isLooking = true;
    seen = now;
    try {
      const next = await currentPrompt();
      if (JSON.stringify(next) === prompt) return;
      if (!connection.isOpen()) return void (seen = "");
      prompt = JSON.stringify(next);
      connection.sendPrompt(next);
    } finally {
      isLooking = false;
    }
  }

  function forget(answered) {
    for (const number of taken.keys()) if (number <= answered) taken.delete(number);
  }

  function gotPicture({ frame, age_ms, left_out, index }, blob) {
    if (index) return; // of a batch the first is shown
    const now = performance.now();
    numbers.age = Math.round(taken.has(frame) ? now - taken.get(frame) : age_ms); // another program's, as the server knows it
    forget(frame);
    if (lastPicture) {
      pictureMs = smooth(pictureMs, now - lastPicture);
      numbers.rate = smooth(numbers.rate, 1000 / (now - lastPicture));
    }
    lastPicture = now;
    numbers.left += left_out;
    numbers.frame = frame;
    on.picture(blob, numbers);
    sendFrame();
  }

  const connection = connect(name, key, {
    opened() {
      taken.clear();
      [seen, prompt, lastPicture] = ["", "", 0];
      on.said("waiting");
      on.opened();
    },
    message({ type, message, frame }) {
      forget(frame);
      if (type === "waiting") [seen, prompt] = ["", ""]; // also where another page of this name has taken its graph away
      if (type === "error" || type === "interrupted") on.said(type, { message });
    },
    picture: gotPicture,
    lost: (message) => on.said("lost", { message }),
    refused(status, message) {
      clearInterval(timer);
      on.ended(status, message);
    },
  });
  const timer = setInterval(() => {
    sendPrompt().catch((error) => on.said("error", { message: error.message }));
    const waited = performance.now() - lastSent;
    if (waited > (taken.size ? Math.max(MIN_WAIT_MS, pictureMs) : LOOK_MS)) sendFrame();
  }, LOOK_MS);
  return {
    sendFrame,
    stop() {
      clearInterval(timer);
      connection.close();
    },
  };
}
