// The page of the endpoint: a photograph in, before and after under a divider, the better one out.

import {
  ENHANCE_URL, Problem, describePhase, enhance, enhanceUrl, fetchModels, forgetKey, hasKey, setKey,
} from "./client.js";
import { Controls, describeFormats } from "./controls.js";
import { fileOf, freeImage, isTurned, loadImage, openPhoto } from "./photo.js";
import { Viewer } from "./viewer.js";
import { formatBytes, formatName, formatPixels, formatSize, shellQuote } from "./words.js";

const SETTLE_MS = 250; // how long a slider rests before its picture is asked for

const byId = (id) => document.getElementById(id);
const viewer = new Viewer(byId("viewer"));
const controls = new Controls(byId("settings"), onSettings);

let models = null; // as `fetchModels` gives them; null until they came
let photo = null; // as `openPhoto` gives it
let result = null; // of the settings that are seen; null while another is on its way
let shown = { before: null, after: null }; // the pictures under the divider
let running = null; // the AbortController of what is under way
let settling = 0;
let again = null; // what "Try again" does

// Weights, formats and limits

async function loadModels() {
  try {
    models = await withKey(fetchModels, new AbortController().signal);
  } catch (error) {
    complain(error, loadModels);
    return;
  }
  hideNotice();
  controls.fill(models);
  const { max_bytes: bytes, max_pixels: pixels } = models.limits;
  byId("accepts").textContent =
    `${describeFormats(models)}, up to ${formatBytes(bytes)} and ${formatPixels(pixels)}`;
}

// A photograph comes in

async function take(file) {
  if (!file) {
    complain(new Problem("That holds no picture", "Drop or paste an image file."), null);
    return;
  }
  if (!models) await loadModels();
  if (!models) return;
  stop();
  hideNotice();
  try {
    openWork(await openPhoto(file, models.limits));
  } catch (error) {
    complain(error, null);
    return;
  }
  render();
}

function openWork(opened) {
  freePictures();
  photo = opened;
  result = null;
  shown = { before: opened.image, after: null };
  controls.sourceType = opened.type;
  byId("welcome").hidden = true;
  byId("work").hidden = false;
  byId("photo-name").textContent = opened.name;
  document.title = `${opened.name} · resray`;
  viewer.showBefore(opened.image);
  describeResult();
  byId("photo-name").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

// What isn't a picture at all leaves nothing to look at.
function closeWork() {
  freePictures();
  photo = null;
  shown = { before: null, after: null };
  byId("work").hidden = true;
  byId("welcome").hidden = false;
  byId("choose").focus({ preventScroll: true });
}

function freePictures() {
  for (const image of new Set([photo?.image, shown.before, shown.after])) freeImage(image);
  if (byId("download").href) URL.revokeObjectURL(byId("download").href);
}

// Settings change

function onSettings(isMoving) {
  if (!photo) return;
  stop();
  result = null;
  describeResult();
  setBusy("upload", 0);
  settling = setTimeout(render, isMoving ? SETTLE_MS : 0);
}

// The picture is made

async function render() {
  stop();
  hideNotice();
  const mine = new AbortController();
  running = mine;
  try {
    const { settings, weights: { scale } } = controls;
    const made = await ask(settings, mine.signal);
    const images = await showable(made, settings, mine.signal);
    mine.signal.throwIfAborted();
    settle({ ...made, settings, images, scale });
  } catch (error) {
    if (mine.signal.aborted) return;
    if (error.status === 415 && !shown.after) closeWork();
    complain(error, canPass(error) ? render : null);
  } finally {
    if (running === mine) setIdle();
  }
}

// Whether the same request may do better later.
const canPass = ({ status = 0 }) => status < 400 || status >= 500 || [401, 408, 429].includes(status);

function ask(settings, signal) {
  const asked = { signal, onPhase: setBusy };
  return withKey(() => enhance(photo, settings, asked), signal);
}

/**
 * Both pictures as this browser can show them, at the same orientation. Where it can't show the
 * format, the server is asked for a PNG: of the result, and of the plain enlargement as "before".
 */
async function showable(made, settings, signal) {
  const asPng = { ...settings, format: "png", quality: null, metadata: "strip" };
  const direct = await loadImage(made.blob);
  const after = direct ?? (await loadImage((await ask(asPng, signal)).blob));
  let before = photo.image;
  if (!before || (after && isTurned(before, after))) {
    before = await loadImage((await ask({ ...asPng, strength: 0 }, signal)).blob);
  }
  if (!before || !after) throw new Problem("The result can't be shown", "It can be downloaded.");
  return { before, after, isCopy: direct === null };
}

function settle(made) {
  const old = shown;
  result = made;
  shown = { before: made.images.before, after: made.images.after };
  viewer.showPair(shown.before, shown.after);
  if (old.after) freeImage(old.after);
  if (old.before !== photo.image && old.before !== shown.before) freeImage(old.before);
  if (!controls.settings.format) controls.sourceType = made.type;
  describeResult();
  announce(`Done. ${byId("sizes").textContent}`);
}

function stop() {
  clearTimeout(settling);
  running?.abort(new DOMException("Replaced or stopped", "AbortError"));
  setIdle();
}

function cancel() {
  stop();
  complain(new Problem("Stopped", "Nothing more is sent."), render);
}

// What is said of the result

function describeResult() {
  const link = byId("download");
  if (link.href) URL.revokeObjectURL(link.href);
  link.removeAttribute("href");
  link.setAttribute("aria-disabled", String(result === null));
  byId("about").hidden = result === null;
  byId("sizes").textContent = describeSizes();
  byId("download-note").textContent = "";
  byId("command").textContent = describeCommand();
  if (!result) return;
  link.href = URL.createObjectURL(result.blob);
  link.download = resultName();
  const copy = result.images.isCopy ? ". Your browser can't show this format; you see a PNG copy." : "";
  byId("download-note").textContent =
    `${link.download}, ${formatBytes(result.blob.size)}${copy}`;
  describeFacts();
}

function describeSizes() {
  const size = ({ naturalWidth: width, naturalHeight: height }, scale = 1) =>
    formatSize(Math.round(width / scale), Math.round(height / scale));
  if (!result) return photo.image ? size(photo.image) : formatBytes(photo.bytes.size);
  const { after } = result.images;
  return `${size(after, result.scale)} → ${size(after)}`;
}

/** "photo.jpeg" -> "photo-sr-x2.jpeg", with the ending of what the file really is. */
function resultName() {
  const { settings: { weights, strength }, type } = result;
  const [, stem, ending] = /^(.*?)(?:\.([^.]*))?$/.exec(photo.name);
  const name = type.split("/").at(-1);
  const known = models.formats.find((format) => format.name === name);
  const endings = (known?.extensions ?? [name]).map((one) => one.replace(/^\./, ""));
  const kept = endings.includes(ending?.toLowerCase()) ? ending : endings[0];
  const mark = strength === null ? "" : `-strength-${strength}`;
  return `${stem || "picture"}-${weights}${mark}.${kept}`;
}

function describeFacts() {
  const facts = [
    ["Format", formatName(result.type.split("/").at(-1))],
    ["Weights", `${result.settings.weights} ${result.weightsSha256.slice(0, 12)}`],
    ...timings(result.timing),
  ];
  const lines = facts.filter(([, value]) => value).flatMap(([name, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    text.className = "mono";
    return [term, text];
  });
  byId("facts").replaceChildren(...lines);
}

/** Of a Server-Timing header: [["Decode", "3 ms"], …]. */
function timings(header) {
  return header.split(",").map((entry) => {
    const [name, ...parameters] = entry.trim().split(/\s*;\s*/);
    const value = (key) => parameters.find((one) => one.startsWith(`${key}=`))?.slice(key.length + 1);
    const words = (value("desc") ?? name).replaceAll('"', "");
    const milliseconds = Number(value("dur"));
    const shownAs = milliseconds < 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(0);
    return [words.charAt(0).toUpperCase() + words.slice(1), value("dur") ? `${shownAs} ms` : ""];
  });
}

function describeCommand() {
  const key = hasKey() ? '  -H "Authorization: Bearer $RESRAY_KEY" \\\n' : "";
  const output = shellQuote(result ? resultName() : `better-${photo.name}`);
  return `curl --fail-with-body \\\n${key}  --data-binary ${shellQuote(`@${photo.name}`)} \\\n`
    + `  '${enhanceUrl(controls.settings)}' \\\n  --output ${output}`;
}

// Progress and complaints

function setBusy(phase, value) {
  const bar = byId("progress"), words = describePhase(phase, value);
  byId("busy").hidden = false;
  byId("viewer").setAttribute("aria-busy", "true");
  if (phase === "upload" && value > 0 && value < 1) bar.value = value;
  else bar.removeAttribute("value");
  byId("phase").textContent = words;
  if (phase !== "upload") announce(words);
}

function setIdle() {
  running = null;
  byId("busy").hidden = true;
  byId("viewer").removeAttribute("aria-busy");
}

function announce(text) {
  byId("announcer").textContent = text;
}

/** Shows what went wrong; `retry` is null where trying again can't help. */
function complain(error, retry) {
  const problem = error instanceof Problem ? error : new Problem("That didn't work", String(error));
  again = retry;
  byId("notice-title").textContent = `${problem.title}.`;
  byId("notice-detail").textContent = problem.detail;
  byId("retry").hidden = retry === null;
  const notice = byId("notice");
  if (byId("work").hidden) byId("welcome").querySelector(".drop").before(notice);
  else byId("viewer").append(notice);
  notice.hidden = false;
  notice.scrollIntoView({ block: "nearest" });
}

function hideNotice() {
  byId("notice").hidden = true;
}

// Keys of the API

/** Does what `attempt` does; where the server wants a key, asks for one and tries again. */
async function withKey(attempt, signal) {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 401) throw error;
      const wasRefused = hasKey();
      forgetKey();
      const key = await askKey(wasRefused, signal);
      if (key === null) throw error;
      setKey(key);
    }
  }
}

function askKey(wasRefused, signal) {
  const dialog = byId("key-dialog"), input = byId("key");
  byId("key-title").textContent = wasRefused ? "That key isn't accepted" : "This server wants a key";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => dialog.close(), { once: true });
    dialog.addEventListener("close", () => {
      if (signal.aborted) reject(signal.reason);
      else resolve(dialog.returnValue || null);
    }, { once: true });
  });
}

// Wiring

function listenForFiles() {
  const input = byId("file"), veil = byId("veil");
  const choose = () => input.click();
  document.querySelector(".drop").addEventListener("click", choose); // the button in it, too
  byId("choose-other").addEventListener("click", choose);
  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  addEventListener("paste", (event) => {
    const file = fileOf(event.clipboardData);
    if (file) take(file);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    veil.classList.add("open");
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) veil.classList.remove("open");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    veil.classList.remove("open");
    take(fileOf(event.dataTransfer));
  });
}

function listenForButtons() {
  byId("cancel").addEventListener("click", cancel);
  byId("dismiss").addEventListener("click", hideNotice);
  byId("retry").addEventListener("click", () => again?.());
  byId("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("command").textContent);
    announce("Copied");
    byId("copy").textContent = "Copied";
    setTimeout(() => { byId("copy").textContent = "Copy"; }, 2000);
  });
  if (!navigator.clipboard) byId("copy").remove();
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("key-dialog").close(byId("key").value.trim());
  });
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close(""));
}

listenForFiles();
listenForButtons();
await loadModels();
