// The page: recordings go up, come back restored, and are heard and seen before and after.

import WaveSurfer from "./vendor/wavesurfer.esm.js";
import Spectrogram from "./vendor/spectrogram.esm.js";
import Record from "./vendor/record.esm.js";

const at = id => document.getElementById(id);
const state = { items: [], players: null, heard: "after", working: false };

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// What is shown belongs to one recording: it goes when that one is no longer what it was.
function clear() {
  for (const old of Object.values(state.players ?? {})) old.destroy();
  state.players = null;
  at("result").hidden = true;
  at("play").textContent = "Play";
}

// ---------------------------------------------------------------- the list

function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function take(files) {
  for (const file of files) {
    const words = element("span", { className: "words" });
    const bar = element("progress", { max: 1, value: 0, hidden: true });
    const listen = element("button", { type: "button", textContent: "Listen", hidden: true });
    const download = element("a", { textContent: "Download", hidden: true });
    const drop = element("button", { type: "button", textContent: "Remove", ariaLabel: `Remove ${file.name}` });
    const row = element("li", {}, element("b", { textContent: file.name }), words, bar,
      element("span", { className: "controls" }, listen, download, drop));
    const item = { file, row, words, bar, listen, download, drop, status: "waiting", blob: null };
    listen.onclick = () => show(item);
    drop.onclick = () => remove(item);
    state.items.push(item);
    at("files").append(row);
    tell(item, "waiting", `${(file.size / 1e6).toFixed(1)} MB`);
  }
  say(state.items.length ? `${count(state.items.length)} in the list` : "");
  refresh();
}

const count = number => `${number} recording${number === 1 ? "" : "s"}`;

function tell(item, status, text) {
  item.status = status;
  item.words.textContent = text;
  item.row.className = status;
  item.bar.hidden = status !== "working";
  item.drop.hidden = status === "working";
  item.listen.hidden = item.download.hidden = status !== "done";
}

function remove(item) {
  if (state.shown === item) clear();
  URL.revokeObjectURL(item.download.href);
  item.row.remove();
  state.items = state.items.filter(other => other !== item);
  refresh();
}

function refresh() {
  at("go").disabled = state.working || !state.items.length;
  at("all").hidden = state.items.filter(item => item.status === "done").length < 2;
}

at("file").onchange = event => { take(event.target.files); event.target.value = ""; };
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
at("strength").oninput = event => {
  at("strength-value").textContent = `${Math.round(100 * event.target.value)} %`;
};
at("all").onclick = async () => {
  for (const item of state.items.filter(each => each.status === "done")) {
    item.download.click();
    await new Promise(after => setTimeout(after, 300)); // browsers drop downloads that come at once
  }
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
    take([new File([blob], "recording.webm", { type: blob.type })]);
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

// Not by fetch, which does not tell how much of an upload has gone.
function send(item, url, headers) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.responseType = "blob";
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = event => {
      if (event.loaded < event.total) atWork(item, "Sending", event.loaded / event.total);
      else atWork(item, "Working", null);
    };
    request.onprogress = event => {
      const whole = request.status === 200 ? expectedBytes(request, url) : null;
      atWork(item, "Working", whole ? Math.min(1, event.loaded / whole) : null);
    };
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error("the endpoint does not answer"));
    request.send(item.file);
  });
}

function atWork(item, text, share) {
  tell(item, "working", share === null ? text : `${text}, ${Math.round(100 * share)} %`);
  if (share === null) item.bar.removeAttribute("value");
  else item.bar.value = share;
}

// Bytes of the answer where its length is known beforehand: plain samples.
function expectedBytes(request, url) {
  const seconds = Number(request.getResponseHeader("X-Audio-Seconds"));
  const channels = Number(request.getResponseHeader("X-Channels"));
  return url.includes("format=wav") ? 44 + 2 * channels * seconds * 44100 : null;
}

async function refusal(request) {
  try {
    return JSON.parse(await request.response.text()).reason;
  } catch {
    return request.statusText || "it was refused";
  }
}

async function restore(item) {
  const mode = new FormData(at("form")).get("mode");
  const format = at("format").value;
  const query = new URLSearchParams({ strength: at("strength").value, format });
  for (const name of ["loudness", "channels"]) if (at(name).value !== "keep") query.set(name, at(name).value);
  if (at("guard").checked) query.set("guard", "true");
  const headers = at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {};
  const started = performance.now();
  if (state.shown === item) clear();
  atWork(item, "Sending", 0);
  try {
    const request = await send(item, `v1/${mode}?${query}`, headers);
    if (request.status === 401) at("token-row").hidden = false;
    if (request.status !== 200) throw new Error(await refusal(request));
    item.blob = request.response;
    URL.revokeObjectURL(item.download.href);
    item.download.href = URL.createObjectURL(item.blob);
    item.download.download = `${item.file.name.replace(/\.[^.]*$/, "")}-${mode}d.${format}`;
    const warning = request.getResponseHeader("X-Warning");
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    tell(item, "done", `Done in ${seconds} s${warning ? `. Note: ${warning}` : ""}`);
  } catch (error) {
    tell(item, "failed", error.message);
  }
}

at("form").onsubmit = async event => {
  event.preventDefault();
  // All that is new or failed; where all is done, all again, as the settings are now.
  const open = state.items.filter(item => item.status !== "done");
  const chosen = open.length ? open : [...state.items];
  state.working = true;
  refresh();
  say(`Working on ${count(chosen.length)}`);
  for (const item of chosen) if (state.items.includes(item)) await restore(item);
  state.working = false;
  const failed = chosen.filter(item => item.status === "failed");
  const done = chosen.filter(item => item.status === "done");
  if (failed.length) say(`${count(failed.length)} could not be restored${done.length ? `, ${done.length} done` : ""}`, true);
  else say(`Done: ${count(done.length)}`);
  refresh();
  if (done.length) await show(done[done.length - 1]);
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

async function show(item) {
  clear();
  state.shown = item;
  at("result").hidden = false;
  at("heard-name").textContent = item.file.name;
  const pair = { before: player("before", item.file), after: player("after", item.blob) };
  state.players = { before: pair.before.wave, after: pair.after.wave };
  hear("after");
  await Promise.allSettled([pair.before.ready, pair.after.ready]); // a browser cannot show every format
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

const served = await fetch("v1/models").then(answer => answer.ok ? answer.json() : null).catch(() => null);
if (served) {
  at("enhance-choice").hidden = !served.models.some(model => model.mode === "enhance");
  const { seconds, megabytes, channels } = served.limits;
  const length = seconds >= 120 ? `${Math.round(seconds / 60)} minutes` : `${seconds} seconds`;
  at("limits").textContent = `At most ${length}, ${megabytes} MB and ${channels} channels each`;
}
