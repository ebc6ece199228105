// The settings of a request, as one sees and changes them.

import { describeWeights, formatChoice, formatName } from "./words.js";

export class Controls {
  #models = null;
  #sourceType = "";
  #find;

  /** `onChange` is called with true where more changes are likely to follow at once. */
  constructor(form, onChange) {
    this.#find = (name) => form.elements.namedItem(name);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      this.#refresh();
      if (form.checkValidity()) onChange(event.target.matches("input"));
    });
  }

  /** Offers what the server has. */
  fill(models) {
    this.#models = models;
    setOptions(this.#find("weights"), models.models.map(({ name }) => [name, name]));
    this.#find("weights").value = models.default;
    const names = models.formats.map(({ name }) => [name, formatName(name)]);
    setOptions(this.#find("format"), [["", "Same as the original"], ...names]);
    this.#refresh();
  }

  /** The media type of the picture in hand: "as it came" has the scale of quality of its format. */
  set sourceType(type) {
    this.#sourceType = type;
    this.#refresh();
  }

  /** As the endpoint's query wants them; null for the server's own choice. */
  get settings() {
    const value = (name) => this.#find(name).value;
    const strength = Number(value("strength"));
    return {
      weights: value("weights"),
      strength: strength === 1 ? null : strength,
      format: value("format") || null,
      quality: this.#find("quality").disabled ? null : value("quality") || null,
      metadata: value("metadata") === "keep" ? null : value("metadata"),
    };
  }

  get weights() {
    const name = this.#find("weights").value;
    return this.#models.models.find((model) => model.name === name);
  }

  #refresh() {
    if (!this.#models) return;
    this.#find("weights").disabled = this.#models.models.length < 2;
    document.getElementById("weights-note").textContent = describeWeights(this.weights);
    this.#refreshStrength(this.#find("strength"));
    this.#refreshQuality(this.#find("quality"));
  }

  #refreshStrength(slider) {
    const share = (slider.value - slider.min) / (slider.max - slider.min);
    slider.style.setProperty("--fill", `${100 * share}%`);
    const words = describeStrength(Number(slider.value));
    this.#find("strength-shown").value = Number(slider.value).toFixed(2);
    slider.setAttribute("aria-valuetext", `${slider.value}${words ? `, ${words}` : ""}`);
  }

  #refreshQuality(input) {
    const name = this.#find("format").value || this.#sourceType.split("/").at(-1);
    const format = this.#models.formats.find((known) => known.name === name);
    const scale = format?.quality ?? null;
    input.disabled = scale === null;
    [input.min, input.max] = scale ?? [0, 100];
    const note = scale ? `${scale[0]} to ${scale[1]}; empty leaves it to the server` : null;
    document.getElementById("quality-note").textContent =
      note ?? (format ? `${formatName(format.name)} loses nothing: it has no quality` : "");
  }
}

function describeStrength(strength) {
  if (strength === 0) return "plain enlargement, nothing added";
  return strength === 1 ? "as learned" : "";
}

function setOptions(select, options) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}

/** "JPEG, PNG or WebP". */
export function describeFormats({ formats }) {
  return formatChoice(formats.map(({ name }) => formatName(name)));
}
