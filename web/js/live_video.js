// The webcam's or the screen's picture, in the middle of a square canvas.
const OPEN = {
  webcam: () => navigator.mediaDevices.getUserMedia({ video: true, audio: false }),
  screen: () => navigator.mediaDevices.getDisplayMedia({ video: true, audio: false }),
};

// source: one of OPEN. ended() is called where the browser's own button ends it. Throws what the browser says against it.
export async function openVideo(source, ended) {
  if (!navigator.mediaDevices) throw new Error("https:// or localhost");
  const stream = await OPEN[source]();
  const video = document.createElement("video");
  const close = () => {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  };
  Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
  try {
    await video.play();
  } catch (error) {
    close();
    throw error;
  }
  for (const track of stream.getTracks()) track.addEventListener("ended", ended);
  return {
    drawOn(canvas) {
      const { videoWidth: width, videoHeight: height } = video;
      if (!width) return;
      const side = Math.min(width, height);
      const [left, top] = [(width - side) / 2, (height - side) / 2];
      canvas.getContext("2d").drawImage(video, left, top, side, side, 0, 0, canvas.width, canvas.height);
    },
    close,
  };
}
