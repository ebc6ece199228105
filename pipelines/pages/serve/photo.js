// A picture that someone gave: its bytes, its size, and whether this browser can show it.

import { Problem } from "./client.js";
import { formatBytes, formatPixels, formatSize } from "./words.js";

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

/** The first file of a drop or a paste, or null. */
export function fileOf(transfer) {
  return transfer?.files?.[0] ?? null;
}
