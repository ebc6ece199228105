// Two pictures of one scene under a divider, with zoom and panning.

const KEY_STEPS = {
  ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10,
  Home: -100, End: 100,
};
const REVEAL_MS = 700;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Viewer {
  #figure;
  #view;
  #canvas;
  #divider;
  #tags;
  #buttons;
  #before = null;
  #after = null;
  #size = { width: 1, height: 1 };
  #share = 0.5;
  #zoom = "fit";
  #reveal = 0;

  constructor(figure) {
    this.#figure = figure;
    this.#view = figure.querySelector(".view");
    this.#canvas = figure.querySelector(".canvas");
    this.#divider = figure.querySelector(".divider");
    this.#tags = [...figure.querySelectorAll(".tag")];
    this.#buttons = [...figure.querySelectorAll("button[data-zoom]")];
    this.#listen();
  }

  /** Shows one picture, without a divider; null shows none. */
  showBefore(image) {
    this.#after?.remove();
    this.#after = null;
    this.#setZoom("fit");
    this.#replaceBefore(image);
    this.#resize(image);
  }

  /** Shows both at the size of `after`; the divider stays where it is, or opens the first time. */
  showPair(before, after) {
    const isFirst = this.#after === null;
    if (before !== this.#before) this.#replaceBefore(before);
    this.#after?.remove();
    this.#after = this.#adopt(after, "after", "After");
    this.#canvas.prepend(after);
    this.#resize(after);
    if (isFirst) this.#open();
  }

  #replaceBefore(image) {
    this.#before?.remove();
    this.#before = image && this.#adopt(image, "before", "Before");
    if (image) this.#canvas.append(image);
  }

  #adopt(image, kind, name) {
    image.className = kind;
    image.alt = name;
    image.draggable = false;
    return image;
  }

  #resize(image) {
    const { naturalWidth: width = 3, naturalHeight: height = 2 } = image ?? {};
    this.#size = { width, height };
    this.#figure.style.setProperty("--ratio", clamp(width / height, 3 / 4, 16 / 9));
    this.#figure.classList.toggle("has-pair", this.#after !== null);
    this.#figure.classList.toggle("has-none", image === null);
    const isEnlarged = (this.#before?.naturalWidth ?? width) < width;
    this.#figure.classList.toggle("enlarged", isEnlarged);
    this.#layout();
  }

  // Sizes the canvas; what was in the middle of the view stays there.
  #layout() {
    const { width, height } = this.#size, view = this.#view, canvas = this.#canvas;
    const fit = Math.min(view.clientWidth / width, view.clientHeight / height);
    const factor = this.#zoom === "fit" ? fit : Number(this.#zoom) / devicePixelRatio;
    const middle = this.#middle();
    canvas.style.width = `${width * factor}px`;
    canvas.style.height = `${height * factor}px`;
    this.#figure.classList.toggle("zoomed", this.#zoom !== "fit");
    this.#figure.classList.toggle("crisp", factor * devicePixelRatio >= 2);
    this.#centreOn(middle);
    this.#draw();
  }

  /** The point of the picture in the middle of the view, as shares of its width and height. */
  #middle() {
    const view = this.#view, canvas = this.#canvas;
    const share = (scroll, seen, whole) => (whole > seen ? (scroll + seen / 2) / whole : 0.5);
    return {
      x: share(view.scrollLeft, view.clientWidth, canvas.offsetWidth),
      y: share(view.scrollTop, view.clientHeight, canvas.offsetHeight),
    };
  }

  #centreOn({ x, y }) {
    const view = this.#view, canvas = this.#canvas;
    view.scrollTo(
      x * canvas.offsetWidth - view.clientWidth / 2,
      y * canvas.offsetHeight - view.clientHeight / 2,
    );
  }

  /** The part of the canvas that can be seen, in pixels of the view. */
  #frame() {
    const view = this.#view, canvas = this.#canvas;
    return {
      left: Math.max(0, canvas.offsetLeft - view.scrollLeft),
      top: Math.max(0, canvas.offsetTop - view.scrollTop),
      width: Math.min(view.clientWidth, canvas.offsetWidth),
      height: Math.min(view.clientHeight, canvas.offsetHeight),
    };
  }

  #draw() {
    if (!this.#after) {
      if (this.#before) this.#before.style.clipPath = "";
      return;
    }
    const seen = this.#frame(), canvas = this.#canvas, divider = this.#divider;
    const x = seen.left + this.#share * seen.width;
    const cut = x + this.#view.scrollLeft - canvas.offsetLeft;
    // Both are cut: through a transparent picture the other would be seen.
    this.#before.style.clipPath = `inset(0 ${canvas.offsetWidth - cut}px 0 0)`;
    this.#after.style.clipPath = `inset(0 0 0 ${cut}px)`;
    divider.style.left = `${x}px`;
    divider.style.top = `${seen.top}px`;
    divider.style.height = `${seen.height}px`;
    this.#placeTags(seen, x);
    const percent = Math.round(100 * this.#share);
    divider.setAttribute("aria-valuenow", String(percent));
    divider.setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
  }

  // In the upper corners of what is seen; gone where the divider has passed.
  #placeTags(seen, x) {
    const [left, right] = this.#tags;
    const end = seen.left + seen.width - (right.offsetWidth + 2 * left.offsetLeft);
    left.style.translate = `${seen.left}px ${seen.top}px`;
    right.style.translate = `${end}px ${seen.top}px`;
    left.classList.toggle("gone", x < seen.left + left.offsetLeft + left.offsetWidth);
    right.classList.toggle("gone", x > end + left.offsetLeft);
  }

  #setShare(share) {
    cancelAnimationFrame(this.#reveal);
    this.#share = clamp(share, 0, 1);
    this.#draw();
  }

  // The divider comes in from the right, so that one sees what changed.
  #open() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.#setShare(0.5);
      return;
    }
    this.#setShare(1);
    const began = performance.now();
    const step = (now) => {
      const done = clamp((now - began) / REVEAL_MS, 0, 1);
      this.#share = 1 - 0.5 * (1 - (1 - done) ** 3);
      this.#draw();
      if (done < 1) this.#reveal = requestAnimationFrame(step);
    };
    this.#reveal = requestAnimationFrame(step);
  }

  #setZoom(zoom, point = null) {
    this.#zoom = zoom;
    for (const button of this.#buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.zoom === zoom));
    }
    this.#view.tabIndex = zoom === "fit" ? -1 : 0;
    this.#layout();
    if (point) this.#centreOn(point);
    this.#draw();
  }

  #moveTo(clientX) {
    const seen = this.#frame(), box = this.#view.getBoundingClientRect();
    this.#setShare((clientX - box.left - seen.left) / Math.max(seen.width, 1));
  }

  #listen() {
    this.#divider.addEventListener("keydown", (event) => this.#onKey(event));
    this.#divider.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      this.#divider.focus({ preventScroll: true, focusVisible: false });
      follow(this.#divider, event, (move) => this.#moveTo(move.clientX));
    });
    this.#view.addEventListener("pointerdown", (event) => this.#onPress(event));
    this.#view.addEventListener("dblclick", (event) => this.#onDoubleClick(event));
    this.#view.addEventListener("scroll", () => this.#draw());
    for (const button of this.#buttons) {
      button.addEventListener("click", () => this.#setZoom(button.dataset.zoom));
    }
    this.#listenForFullScreen();
    new ResizeObserver(() => this.#layout()).observe(this.#view);
  }

  #onKey(event) {
    const step = KEY_STEPS[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#setShare(this.#share + (event.shiftKey ? 5 * step : step) / 100);
  }

  // The whole picture moves the divider; a zoomed one is dragged. Fingers scroll by themselves.
  #onPress(event) {
    if (event.button !== 0 || !this.#after) return;
    if (this.#zoom === "fit") {
      this.#divider.focus({ preventScroll: true, focusVisible: false });
      this.#moveTo(event.clientX);
      follow(this.#view, event, (move) => this.#moveTo(move.clientX));
    } else if (event.pointerType === "mouse") {
      event.preventDefault();
      this.#view.classList.add("held");
      const pan = (move) => this.#view.scrollBy(-move.movementX, -move.movementY);
      follow(this.#view, event, pan, () => this.#view.classList.remove("held"));
    }
  }

  #onDoubleClick(event) {
    if (!this.#after) return;
    const box = this.#canvas.getBoundingClientRect();
    const point = {
      x: (event.clientX - box.left) / box.width,
      y: (event.clientY - box.top) / box.height,
    };
    this.#setZoom(this.#zoom === "fit" ? "1" : "fit", point);
  }

  #listenForFullScreen() {
    const button = this.#figure.querySelector("button[data-full]");
    if (!document.fullscreenEnabled) {
      button.remove();
      return;
    }
    button.addEventListener("click", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else this.#figure.requestFullscreen();
    });
    document.addEventListener("fullscreenchange", () => {
      button.setAttribute("aria-pressed", String(document.fullscreenElement === this.#figure));
    });
  }
}

/** Calls `onMove` until the pointer that went down is released. */
function follow(target, { pointerId }, onMove, onEnd = () => {}) {
  target.setPointerCapture(pointerId);
  const stop = () => {
    target.removeEventListener("pointermove", onMove);
    target.removeEventListener("pointerup", stop);
    target.removeEventListener("pointercancel", stop);
    onEnd();
  };
  target.addEventListener("pointermove", onMove);
  target.addEventListener("pointerup", stop);
  target.addEventListener("pointercancel", stop);
}
