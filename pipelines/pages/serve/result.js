// What is said of a result: its name, its facts, and the command that gives the same.

import { enhanceUrl, hasKey } from "./client.js";
import { formatName, shellQuote } from "./words.js";

const nameOfType = (type) => type.split("/").at(-1);

/** "photo.jpeg" -> "photo-sr-x2.jpeg", with the ending of what the file really is. */
export function resultName(photoName, { settings: { weights, strength }, type }, formats) {
  const [, stem, ending] = /^(.*?)(?:\.([^.]*))?$/s.exec(photoName);
  const known = formats.find(({ name }) => name === nameOfType(type));
  const endings = (known?.extensions ?? [nameOfType(type)]).map((one) => one.replace(/^\./, ""));
  const kept = endings.includes(ending?.toLowerCase()) ? ending : endings[0];
  const mark = strength === null ? "" : `-strength-${strength}`;
  return `${stem || "picture"}-${weights}${mark}.${kept}`;
}

/** Pairs of a name and a value. */
export function factsOf({ type, settings, weightsSha256, timing }) {
  const facts = [
    ["Format", formatName(nameOfType(type))],
    ["Weights", `${settings.weights} ${weightsSha256.slice(0, 12)}`],
    ...timings(timing),
  ];
  return facts.filter(([, value]) => value);
}

/** Of a Server-Timing header: [["Decode", "3.1 ms"], …]. */
function timings(header) {
  return header.split(",").map((entry) => {
    const [name, ...parameters] = entry.trim().split(/\s*;\s*/);
    const duration = parameters.find((one) => one.startsWith("dur="))?.slice("dur=".length);
    const milliseconds = Number(duration);
    const shown = milliseconds < 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(0);
    return [name.charAt(0).toUpperCase() + name.slice(1), duration ? `${shown} ms` : ""];
  });
}

/** The same as the page asks for, for a POSIX shell. */
export function commandFor(photoName, settings, outputName) {
  const key = hasKey() ? ['-H "Authorization: Bearer $RESRAY_API_KEY"'] : [];
  return [
    "curl --fail-with-body",
    ...key,
    `--data-binary ${shellQuote(`@${photoName}`)}`,
    shellQuote(String(enhanceUrl(settings))),
    `--output ${shellQuote(outputName)}`,
  ].join(" \\\n  ");
}
