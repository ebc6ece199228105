// The page of the endpoint: a photograph in, before and after under a divider, the better one out.

import { Problem, describePhase, enhance, fetchModels } from "./client.js";
import { Controls, describeFormats } from "./controls.js";
import { listenForKeys, withKey } from "./keys.js";
import { fileOf, freeImage, isTurned, loadImage, openPhoto } from "./photo.js";
import { commandFor, factsOf, resultName } from "./result.js";
import { Viewer } from "./viewer.js";
import { formatBytes, formatPixels, formatSize } from "./words.js";

const SETTLE_MS = 250; // how long a slider rests before its picture is asked for

const byId = (id) => document.getElementById(id);
const viewer = new Viewer(byId("viewer"));
const controls = new Controls(byId("settings"), onSettings);

let models = null; // as `fetchModels` gives them; null until they came
let loading = null; // the promise of that; null while nothing is asked for
let newest = null; // the file that came last: an older one that is opened later is dropped
let photo = null; // as `openPhoto` gives it
let result = null; // of the settings that are seen; null while another is on its way
let shown = { before: null, after: null }; // the pictures under the divider
let running = null; // the AbortController of what is under way
let settling = 0;
let again = null; // what "Try again" does

// Weights, formats and limits

// A photograph may come while a key is being asked for: one dialog serves both.
function loadModels() {
  loading ??= askForModels().finally(() => { loading = null; });
  return loading;
}

async function askForModels() {
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
  newest = file;
  if (!models) await loadModels();
  if (!models || newest !== file) return;
  let opened;
  try {
    opened = await openPhoto(file, models.limits);
  } catch (error) {
    if (newest === file) complain(error, null);
    return;
  }
  if (newest !== file) {
    freeImage(opened.image);
    return;
  }
  stop();
  openWork(opened);
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

/** Both pictures, or null where there is no way to see them: then there is still the file. */
async function showable(made, settings, signal) {
  try {
    return await picturesOf(made, settings, signal);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof Problem) return null;
    throw error;
  }
}

/**
 * Both pictures as this browser can show them, at the same orientation. Where it can't show the
 * format, the server is asked for a PNG: of the result, and of the plain enlargement as "before".
 */
async function picturesOf(made, settings, signal) {
  const asPng = { ...settings, format: "png", quality: null, metadata: "strip" };
  const direct = await loadImage(made.blob);
  const after = direct ?? (await loadImage((await ask(asPng, signal)).blob));
  let before = photo.image;
  if (!before || (after && isTurned(before, after))) {
    before = await loadImage((await ask({ ...asPng, strength: 0 }, signal)).blob);
  }
  if (!before || !after) throw new Problem("The result can't be shown");
  return { before, after, isCopy: direct === null };
}

function settle(made) {
  result = made;
  if (!controls.settings.format) controls.sourceType = made.type;
  if (made.images) showPair(made.images);
  describeResult();
  announce(`Done. ${byId("sizes").textContent}`);
  if (!made.images) {
    complain(new Problem("The result can't be shown here", "You can download it."), null);
  }
}

function showPair({ before, after }) {
  const old = shown;
  shown = { before, after };
  viewer.showPair(before, after);
  freeImage(old.after);
  if (old.before !== photo.image && old.before !== before) freeImage(old.before);
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
  const name = result ? resultName(photo.name, result, models.formats) : `better-${photo.name}`;
  byId("command").textContent = commandFor(photo.name, controls.settings, name);
  if (!result) return;
  link.href = URL.createObjectURL(result.blob);
  link.download = name;
  const copy = result.images?.isCopy ? ". Your browser can't show this format; you see a PNG copy." : "";
  byId("download-note").textContent =
    `${link.download}, ${formatBytes(result.blob.size)}${copy}`;
  byId("facts").replaceChildren(...factsOf(result).flatMap(factLine));
}

function factLine([name, value]) {
  const term = document.createElement("dt"), text = document.createElement("dd");
  term.textContent = name;
  text.textContent = value;
  text.className = "mono";
  return [term, text];
}

function describeSizes() {
  const size = ({ naturalWidth: width, naturalHeight: height }, scale = 1) =>
    formatSize(Math.round(width / scale), Math.round(height / scale));
  const after = result?.images?.after;
  if (!after) return photo.image ? size(photo.image) : formatBytes(photo.bytes.size);
  return `${size(after, result.scale)} → ${size(after)}`;
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
}

listenForFiles();
listenForButtons();
listenForKeys();
await loadModels();
