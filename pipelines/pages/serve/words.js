// Figures and texts as people read them.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** 1530000 -> "1.5 MB", in decimal units. */
export function formatBytes(value) {
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 99.5 || unit === 0 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** 12345678 -> "12.3 megapixels". */
export function formatPixels(value) {
  const megapixels = value / 1e6;
  return `${megapixels >= 99.5 ? megapixels.toFixed(0) : Number(megapixels.toPrecision(3))} megapixels`;
}

/** 1 -> "1 second". */
export function formatSeconds(value) {
  return value === 1 ? "1 second" : `${value} seconds`;
}

/** "expected a, found b" -> "Expected a, found b." */
export function asSentence(text) {
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}

/** "webp" -> "WebP". */
export const formatName = (name) => (name === "webp" ? "WebP" : name.toUpperCase());

/** [1280, 854] -> "1280 × 854", with thin spaces that don't break. */
export const formatSize = (width, height) => `${width}\u202f×\u202f${height}`;

/** ["JPEG", "PNG", "GIF"] -> "JPEG, PNG or GIF". */
export function formatChoice(names) {
  if (names.length < 2) return names.join("");
  return `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

const SAME_SIZE_TASKS = {
  denoise: "Removes noise",
  dejpeg: "Removes the blocks and fringes of JPEG",
  restore: "Clears blur, noise and JPEG together",
};

/** What weights do, in one line. */
export function describeWeights({ task, scale, parameters }) {
  const size = parameters ? ` · ${formatCount(parameters)} parameters` : "";
  if (scale <= 1) return (SAME_SIZE_TASKS[task] ?? `Task ${task}`) + size;
  const worn = task.startsWith("photo") ? " and clears wear" : "";
  return `Enlarges ${scale} times${worn}${size}`;
}

/** 189000 -> "189K". */
function formatCount(value) {
  if (value < 1e3) return String(value);
  return value < 1e6 ? `${Math.round(value / 1e3)}K` : `${(value / 1e6).toFixed(1)}M`;
}

/** A word for a POSIX shell. */
export function shellQuote(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
