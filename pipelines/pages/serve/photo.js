// A picture that someone gave: its bytes, its size, and whether this browser can show it.

import { Problem } from "./client.js";
import { formatBytes, formatPixels, formatSize } from "./words.js";

const THUMBNAIL_PX = 32;
const TYPES = {
  jpg: "image/jpeg", jpeg: "image/jpeg", jfif: "image/jpeg", png: "image/png", webp: "image/webp",
  tif: "image/tiff", tiff: "image/tiff", bmp: "image/bmp", avif: "image/avif", gif: "image/gif",
};

/**
 * Reads a file and checks it against the server's limits, before anything is sent.
 *
 * `image` is null where the browser can't show the format: the server judges those. Throws Problem.
 */
export async function openPhoto(file, limits) {
  if (!file) throw new Problem("That holds no picture", "Drop or paste an image file.");
  if (file.size > limits.max_bytes) {
    throw new Problem(
      "This picture is too large",
      `${file.name} has ${formatBytes(file.size)}; the server takes up to ${formatBytes(limits.max_bytes)}.`,
    );
  }
  const bytes = await readBytes(file);
  if (bytes.size === 0) throw new Problem("This file is empty", `${file.name} holds no bytes.`);
  const image = await loadImage(bytes);
  const { naturalWidth: width = 0, naturalHeight: height = 0 } = image ?? {};
  if (width * height > limits.max_pixels) {
    freeImage(image);
    throw new Problem(
      "This picture is too large",
      `${formatSize(width, height)} are ${formatPixels(width * height)}; the server takes up to ${formatPixels(limits.max_pixels)}.`,
    );
  }
  return { name: file.name, type: bytes.type, bytes, image };
}

// Read once: the file may change or go away between two requests.
async function readBytes(file) {
  const ending = file.name.split(".").at(-1).toLowerCase();
  try {
    return new Blob([await file.arrayBuffer()], { type: file.type || TYPES[ending] || "" });
  } catch {
    throw new Problem("This can't be read", `${file.name} is a folder, or was moved meanwhile.`);
  }
}

/** An <img> of the bytes, decoded; null where the browser can't. Its URL is the caller's to free. */
export async function loadImage(blob) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await image.decode();
    return image;
  } catch {
    freeImage(image);
    return null;
  }
}

export function freeImage(image) {
  if (image) URL.revokeObjectURL(image.src);
}

/**
 * Whether `before` is turned or mirrored against `after`: some browsers don't follow what the
 * metadata of some formats say of orientation.
 */
export function isTurned(before, after) {
  const isUpright = before.naturalWidth > before.naturalHeight;
  if (isUpright !== after.naturalWidth > after.naturalHeight) return true;
  const [seen, wanted] = [before, after].map(thumbnail);
  const last = THUMBNAIL_PX - 1;
  const differences = [
    (x, y) => [x, y], (x, y) => [last - x, y], (x, y) => [x, last - y],
    (x, y) => [last - x, last - y], (x, y) => [y, x], (x, y) => [last - y, x],
    (x, y) => [y, last - x], (x, y) => [last - y, last - x],
  ].map((turn) => difference(seen, wanted, turn));
  return Math.min(...differences) < differences[0];
}

/** RGBA of the whole picture, squeezed into a small square. */
function thumbnail(image) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMBNAIL_PX;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, THUMBNAIL_PX, THUMBNAIL_PX);
  return context.getImageData(0, 0, THUMBNAIL_PX, THUMBNAIL_PX).data;
}

/** The sum of absolute differences, where `turn` leads from a place in `wanted` to one in `seen`. */
function difference(seen, wanted, turn) {
  let sum = 0;
  for (let y = 0; y < THUMBNAIL_PX; y += 1) {
    for (let x = 0; x < THUMBNAIL_PX; x += 1) {
      const [column, row] = turn(x, y);
      const from = 4 * (row * THUMBNAIL_PX + column), to = 4 * (y * THUMBNAIL_PX + x);
      for (let channel = 0; channel < 4; channel += 1) {
        sum += Math.abs(seen[from + channel] - wanted[to + channel]);
      }
    }
  }
  return sum;
}

/** The first file of a drop or a paste, or null. */
export function fileOf(transfer) {
  return transfer?.files?.[0] ?? null;
}
