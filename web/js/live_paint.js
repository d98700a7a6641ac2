// A canvas to paint on by mouse, pen, touch and keyboard.
const MAX_UNDO = 30; // strokes that can be taken back
const STEP_PX = 4; // of the brush at an arrow key
const MIN_MARK_PX = 8; // of the ring that shows the keyboard's brush
const PAPER = "#ffffff";
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// canPaint(): whether the canvas shows the painting now, and not a camera's frame. brush(): { colour, size }.
// changed() is called whenever the painting is another one, strokeDone() when it stays so for now.
export function makePainting(canvas, canPaint, brush, changed, strokeDone) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const before = []; // the painting before each stroke
  let pen = null; // the last point of a stroke that goes on
  let penId = null; // which pointer draws it: a palm beside it draws nothing
  let cursor = null; // where the keyboard's brush is
  let isDown = false; // the keyboard's brush
  const mark = document.createElement("div"); // shows where it is
  mark.className = "brush";
  mark.hidden = true;
  canvas.after(mark);

  const blank = () => {
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
  };

  function remember() {
    before.push(context.getImageData(0, 0, canvas.width, canvas.height));
    if (before.length > MAX_UNDO) before.shift();
  }

  function line([x, y], [toX, toY]) {
    const { colour, size } = brush();
    Object.assign(context, { strokeStyle: colour, lineWidth: size, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(toX, toY);
    context.stroke();
  }

  function at(event) {
    const { left, top, width, height } = canvas.getBoundingClientRect(); // the graph's zoom is in it
    const side = Math.min(width, height); // of the painting, in the middle of its element
    const [x, y] = [event.clientX - left - (width - side) / 2, event.clientY - top - (height - side) / 2];
    return [(x / side) * canvas.width, (y / side) * canvas.height];
  }

  function showMark() {
    mark.hidden = document.activeElement !== canvas || !canvas.matches(":focus-visible");
    if (mark.hidden) return;
    cursor ??= [canvas.width / 2, canvas.height / 2];
    const { offsetLeft, offsetTop, offsetWidth, offsetHeight } = canvas;
    const scale = Math.min(offsetWidth, offsetHeight) / canvas.width; // the graph's zoom is not in it
    const px = (offset, extent, at) => `${offset + extent / 2 + (at - canvas.width / 2) * scale}px`;
    const size = `${Math.max(brush().size * scale, MIN_MARK_PX)}px`;
    const [left, top] = [px(offsetLeft, offsetWidth, cursor[0]), px(offsetTop, offsetHeight, cursor[1])];
    Object.assign(mark.style, { left, top, width: size, height: size });
    mark.classList.toggle("down", isDown);
  }

  function onDown(event) {
    if (event.button !== 0 || pen) return;
    event.stopPropagation();
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    remember();
    penId = event.pointerId;
    mark.hidden = true;
    pen = at(event);
    line(pen, pen);
    changed();
  }

  function onMove(event) {
    if (!pen || event.pointerId !== penId) return;
    event.stopPropagation();
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const move of moves.length ? moves : [event]) {
      const point = at(move);
      line(pen, point);
      pen = point;
    }
    changed();
  }

  function onUp(event) {
    if (!pen || event.pointerId !== penId) return;
    event.stopPropagation();
    pen = null;
    strokeDone();
  }

  // A stroke that is left in the middle is done as well.
  function onBlur() {
    if (pen || isDown) strokeDone();
    isDown = false;
    showMark();
  }

  function undo() {
    const last = before.pop();
    if (!last) return;
    context.putImageData(last, 0, 0);
    changed();
    strokeDone();
  }

  function clear() {
    remember();
    blank();
    changed();
    strokeDone();
  }

  // Before ComfyUI's page, where Delete takes the node away.
  function onKey(event) {
    const { key } = event;
    const isUndo = (event.ctrlKey || event.metaKey) && key.toLowerCase() === "z";
    if (!isUndo && !ARROWS[key] && ![" ", "Delete", "Backspace"].includes(key)) return;
    event.preventDefault();
    event.stopPropagation();
    if (isUndo) return undo();
    if (key === "Delete" || key === "Backspace") return clear();
    cursor ??= [canvas.width / 2, canvas.height / 2];
    if (key === " ") {
      isDown = !isDown;
      if (isDown) {
        remember();
        line(cursor, cursor);
      }
      showMark();
      return isDown ? changed() : strokeDone();
    }
    const [dx, dy] = ARROWS[key];
    const inside = (value, most) => Math.min(Math.max(value, 0), most);
    const next = [inside(cursor[0] + dx * STEP_PX, canvas.width), inside(cursor[1] + dy * STEP_PX, canvas.height)];
    if (isDown) line(cursor, next);
    cursor = next;
    showMark();
    if (isDown) changed();
  }

  canvas.type = "textarea"; // by which ComfyUI's own undo (changeTracker.ts) leaves Ctrl+Z alone
  const ofPointer = { pointerdown: onDown, pointermove: onMove, pointerup: onUp, pointercancel: onUp };
  for (const [name, listener] of Object.entries({ ...ofPointer, keydown: onKey, focus: showMark, blur: onBlur }))
    canvas.addEventListener(name, (event) => canPaint() && listener(event));
  blank();

  // Another size keeps what was painted.
  function resize(side) {
    const old = document.createElement("canvas");
    Object.assign(old, { width: canvas.width, height: canvas.height });
    old.getContext("2d").drawImage(canvas, 0, 0);
    Object.assign(canvas, { width: side, height: side });
    before.length = 0;
    context.drawImage(old, 0, 0, side, side);
  }

  // picture: a file in base64, with or without a data URL's head.
  async function restore(picture) {
    const image = new Image();
    image.src = picture.startsWith("data:") ? picture : `data:image/png;base64,${picture}`; // it finds out the format itself
    await image.decode().catch(() => {}); // what is no picture leaves the paper blank
    before.length = 0;
    [pen, isDown] = [null, false]; // a stroke may have been left for another source
    blank();
    if (image.naturalWidth) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  }

  return { undo, clear, resize, restore };
}
