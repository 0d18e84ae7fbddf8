// The page: a recording goes up, comes back restored, and both are heard and seen side by side.

import WaveSurfer from "./vendor/wavesurfer.esm.js";
import Spectrogram from "./vendor/spectrogram.esm.js";
import Record from "./vendor/record.esm.js";

const at = id => document.getElementById(id);
const state = { file: null, players: null, heard: "after" };

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// What is shown belongs to one recording: it goes when another one comes.
function clear() {
  for (const old of Object.values(state.players ?? {})) old.destroy();
  state.players = null;
  at("result").hidden = true;
  at("play").textContent = "Play";
}

function take(file) {
  state.file = file;
  clear();
  at("go").disabled = !file;
  say(file ? `${file.name}, ${(file.size / 1e6).toFixed(1)} MB` : "");
}

at("file").onchange = event => take(event.target.files[0]);
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}
at("strength").oninput = event => {
  at("strength-value").textContent = `${Math.round(100 * event.target.value)} %`;
};

// ---------------------------------------------------------------- recording

let recorder = null;

at("record").onclick = async () => {
  if (recorder?.isRecording()) {
    recorder.stopRecording();
    return;
  }
  recorder ??= WaveSurfer.create({ container: document.createElement("div") }).registerPlugin(Record.create());
  recorder.once("record-end", blob => {
    at("record").textContent = "Record";
    at("record").ariaPressed = "false";
    take(new File([blob], "recording.webm", { type: blob.type }));
  });
  try {
    await recorder.startRecording();
    at("record").textContent = "Stop";
    at("record").ariaPressed = "true";
    say("Recording");
  } catch (error) {
    say(`The microphone cannot be used: ${error.message}`, true);
  }
};

// ---------------------------------------------------------------- restoring

async function refusal(response) {
  try {
    return (await response.json()).reason;
  } catch {
    return response.statusText;
  }
}

// Bytes of the answer where its length is known beforehand: plain samples.
function expectedBytes(response, format) {
  const seconds = Number(response.headers.get("X-Audio-Seconds"));
  const channels = Number(response.headers.get("X-Channels"));
  return format === "wav" ? 44 + 2 * channels * seconds * 44100 : null;
}

at("form").onsubmit = async event => {
  event.preventDefault();
  const mode = new FormData(at("form")).get("mode");
  const format = at("format").value;
  const query = new URLSearchParams({ strength: at("strength").value, format });
  if (at("guard").checked) query.set("guard", "true");
  const headers = at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {};
  const started = performance.now();
  at("go").disabled = true;
  at("progress").hidden = false;
  at("progress").removeAttribute("value");
  clear();
  say("Working");
  try {
    const response = await fetch(`v1/${mode}?${query}`, { method: "POST", body: state.file, headers });
    if (response.status === 401) at("token-row").hidden = false;
    if (!response.ok) throw new Error(await refusal(response));
    const whole = expectedBytes(response, format);
    const chunks = [];
    let size = 0;
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      size += value.length;
      if (whole) at("progress").value = Math.min(1, size / whole);
    }
    const blob = new Blob(chunks, { type: response.headers.get("Content-Type") });
    await show(state.file, blob, `${state.file.name.replace(/\.[^.]*$/, "")}-${mode}d.${format}`);
    const warning = response.headers.get("X-Warning");
    say(`Done in ${((performance.now() - started) / 1000).toFixed(1)} s${warning ? `. Note: ${warning}` : ""}`);
  } catch (error) {
    say(error.message, true);
  } finally {
    at("go").disabled = false;
    at("progress").hidden = true;
  }
};

// ---------------------------------------------------------------- before and after

function player(figure, blob) {
  const container = at(figure).querySelector(".wave");
  container.replaceChildren();
  const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  const wave = WaveSurfer.create({ container, height: 64, waveColor: "#8b949e", progressColor: accent, sampleRate: 44100 });
  wave.registerPlugin(Spectrogram.create({ height: 128, labels: false, frequencyMax: 22050, scale: "mel", useWebWorker: false }));
  const ready = new Promise((resolve, reject) => { wave.once("ready", resolve); wave.once("error", reject); });
  wave.loadBlob(blob);
  wave.on("finish", () => { at("play").textContent = "Play"; });
  wave.on("interaction", time => { for (const other of Object.values(state.players)) other.setTime(time); });
  return { wave, ready };
}

async function show(before, after, name) {
  clear();
  at("result").hidden = false;
  const pair = { before: player("before", before), after: player("after", after) };
  state.players = { before: pair.before.wave, after: pair.after.wave };
  URL.revokeObjectURL(at("download").href);
  at("download").href = URL.createObjectURL(after);
  at("download").download = name;
  hear("after");
  await Promise.all([pair.before.ready, pair.after.ready]);
}

function hear(side) {
  const [from, to] = [state.players[state.heard], state.players[side]];
  const playing = from.isPlaying();
  from.pause();
  to.setTime(from.getCurrentTime());
  state.heard = side;
  for (const figure of ["before", "after"]) at(figure).classList.toggle("heard", figure === side);
  at("switch").textContent = `Hear: ${side}`;
  at("switch").ariaPressed = String(side === "after");
  if (playing) to.play();
}

at("switch").onclick = () => hear(state.heard === "after" ? "before" : "after");
at("play").onclick = async () => {
  const wave = state.players[state.heard];
  await wave.playPause();
  at("play").textContent = wave.isPlaying() ? "Pause" : "Play";
};
document.addEventListener("keydown", event => {
  if (!state.players || event.target.closest("input, select, button, a, textarea")) return;
  if (event.key === " ") at("play").click();
  else if (event.key.toLowerCase() === "x") at("switch").click();
  else return;
  event.preventDefault();
});

const models = await fetch("v1/models").then(answer => answer.ok ? answer.json() : null).catch(() => null);
if (models && !models.models.some(model => model.mode === "enhance")) at("enhance-choice").hidden = true;
