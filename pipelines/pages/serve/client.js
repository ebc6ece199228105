// The endpoint, as the page asks it.

import { asSentence, formatSeconds } from "./words.js";

const MODELS_URL = new URL("../v1/models", import.meta.url);
const ENHANCE_URL = new URL("../v1/enhance", import.meta.url);
const KEY_NAME = "resray-key";
const LONGEST_WAIT_S = 60;

/** What went wrong, in words for the one who looks at the page. */
export class Problem extends Error {
  constructor(title, detail = "", { status = 0, retryAfterS = null } = {}) {
    super(title);
    this.title = title;
    this.detail = detail;
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

// The key lives as long as the tab, and goes nowhere but to this server.
export const hasKey = () => sessionStorage.getItem(KEY_NAME) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY_NAME, key);
export const forgetKey = () => sessionStorage.removeItem(KEY_NAME);

function authorization() {
  return hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem(KEY_NAME)}` } : {};
}

/** The weights, formats and limits of the server. Throws Problem. */
export async function fetchModels() {
  let response;
  try {
    response = await fetch(MODELS_URL, { headers: authorization(), cache: "no-store" });
  } catch {
    throw unreachable();
  }
  const text = await response.text();
  if (!response.ok) throw problemOf(response.status, text, response.headers.get("Retry-After"));
  try {
    return JSON.parse(text);
  } catch {
    throw new Problem("This isn't a resray server", "Its list of weights can't be read.");
  }
}

/** The query of a request: settings that are left out are the server's to choose. */
export function enhanceUrl(settings) {
  const url = new URL(ENHANCE_URL);
  for (const [name, value] of Object.entries(settings)) {
    if (value !== null) url.searchParams.set(name, String(value));
  }
  return url;
}

/**
 * The better image: `blob` of type `type`, `weightsSha256`, `timing`.
 *
 * When the server is busy, waits as long as it says and asks once more. `onPhase` is told
 * ("upload", share), ("work") and ("busy", seconds). Throws Problem, or the signal's reason.
 */
export async function enhance(photo, settings, { signal, onPhase }) {
  try {
    return await send(photo, settings, { signal, onPhase });
  } catch (error) {
    const waitS = error instanceof Problem && error.status === 503 ? error.retryAfterS : null;
    if (waitS === null || waitS > LONGEST_WAIT_S) throw error;
    onPhase("busy", waitS);
    await sleep(waitS * 1000, signal);
    return send(photo, settings, { signal, onPhase });
  }
}

// XMLHttpRequest, because fetch doesn't tell how far an upload has come.
function send(photo, settings, { signal, onPhase }) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    request.open("POST", enhanceUrl(settings));
    request.responseType = "blob";
    request.setRequestHeader("Content-Type", photo.type || "application/octet-stream");
    for (const [name, value] of Object.entries(authorization())) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = ({ loaded, total }) => onPhase("upload", loaded / total);
    request.upload.onload = () => onPhase("work");
    request.onerror = () => reject(unreachable());
    request.onload = () => resultOf(request).then(resolve, reject);
    const abort = () => {
      request.abort();
      reject(signal.reason);
    };
    signal.addEventListener("abort", abort, { once: true });
    request.onloadend = () => signal.removeEventListener("abort", abort);
    onPhase("upload", 0);
    request.send(photo.bytes);
  });
}

async function resultOf(request) {
  const header = (name) => request.getResponseHeader(name);
  const type = (header("Content-Type") ?? "").split(";")[0];
  if (request.status !== 200) {
    throw problemOf(request.status, await request.response.text(), header("Retry-After"));
  }
  if (!type.startsWith("image/")) {
    throw new Problem("The answer is no image", `The server sent ${type || "no type"} instead.`);
  }
  return {
    blob: request.response,
    type,
    weightsSha256: header("X-Resray-Weights-Sha256") ?? "",
    timing: header("Server-Timing") ?? "",
  };
}

// A problem of RFC 9457; whatever stands between here and the server may answer with less.
function problemOf(status, text, retryAfter) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // The status alone must do.
  }
  const [title, detail] = WORDS[status] ?? ["That didn't work", `The server answered ${status}.`];
  const told = (name, otherwise) => (typeof body?.[name] === "string" ? body[name] : otherwise);
  return new Problem(told("title", title), asSentence(told("detail", detail)), {
    status,
    retryAfterS: secondsUntil(retryAfter),
  });
}

const WORDS = {
  413: ["This picture is too large", "Something between you and the server refuses its size."],
  429: ["Too many requests", "Wait a little, then try again."],
  502: ["The server doesn't answer", "Something between you and it gave up."],
  503: ["The server is busy", "Try again in a moment."],
  504: ["The server took too long", "Try again, or take a smaller picture."],
};

function unreachable() {
  const detail = navigator.onLine
    ? "It may have stopped, or the connection broke. Your picture is still here."
    : "You seem to be offline. Your picture is still here.";
  return new Problem("The server can't be reached", detail);
}

/** Of a Retry-After header, which holds seconds or a date; null without one. */
function secondsUntil(retryAfter) {
  if (!retryAfter) return null;
  const seconds = /^\d+$/.test(retryAfter)
    ? Number(retryAfter)
    : Math.ceil((Date.parse(retryAfter) - Date.now()) / 1000);
  return Number.isFinite(seconds) ? Math.max(seconds, 0) : null;
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", abort, { once: true });
  });
}

/** What the page says while it waits. */
export function describePhase(phase, value) {
  if (phase === "upload") return value > 0 ? `Sending, ${Math.round(100 * value)} %` : "Sending";
  if (phase === "busy") return `The server is busy; again in ${formatSeconds(value)}`;
  return "Enhancing";
}
