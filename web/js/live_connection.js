// The websocket to /vega/live (docs/live.md): opened anew until it is closed here.
import { api } from "../../../scripts/api.js";

const AGAIN_MS = 1000;
const UNSENT_BYTES = 2 ** 16; // of the last frame, while which the next one waits

// Its UTF-8, a character each: what headers and base64 take.
const utf8 = (text) => String.fromCharCode(...new TextEncoder().encode(text));

const base64url = (text) => btoa(utf8(text)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

export function liveAddress(name) {
  const address = new URL(api.apiURL(`/vega/live?name=${name}`), location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return address.href;
}

// on: opened(), message(its JSON), picture(its JSON, blob), lost(why, where the server says so), refused(status, message).
export function connect(name, key, on) {
  let socket = null;
  let timer = null;
  let isClosed = false;
  let about = null; // the JSON of the picture that comes next
  let sent = 0; // frames, of this connection

  function open() {
    socket = new WebSocket(liveAddress(name), ["vega-live", ...(key ? [`vega-key.${base64url(key)}`] : [])]);
    socket.binaryType = "blob";
    sent = 0;
    socket.onopen = () => on.opened();
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return on.picture(about, data);
      const message = JSON.parse(data);
      if (message.type === "picture") about = message;
      else on.message(message);
    };
    socket.onclose = lost;
  }

  // A page isn't told why a websocket was refused: the same address says it to a plain request.
  async function lost() {
    if (isClosed) return;
    const answer = await api.fetchApi("/vega/live", { headers: key ? { "x-api-key": utf8(key) } : {} }).catch(() => null);
    if (isClosed) return;
    const { error } = (await answer?.json().catch(() => null)) ?? {};
    if ([401, 403].includes(answer?.status)) {
      isClosed = true;
      return on.refused(answer.status, error ?? answer.statusText);
    }
    on.lost(answer?.status === 426 ? undefined : error); // 426: all is well there
    timer = setTimeout(open, AGAIN_MS);
  }

  open();
  return {
    isOpen: () => socket.readyState === WebSocket.OPEN,
    hasRoom: () => socket.readyState === WebSocket.OPEN && socket.bufferedAmount < UNSENT_BYTES,
    sendPrompt: (prompt) => socket.send(JSON.stringify({ type: "prompt", prompt })),
    sendFrame(blob) {
      socket.send(blob);
      return ++sent; // its number
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
      socket.close();
    },
  };
}
