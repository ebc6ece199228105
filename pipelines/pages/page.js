"use strict";
document.documentElement.classList.add("js");

// One before/after pair. The range input holds the position (0 to 100, share of `before` shown) and
// serves the keyboard and screen readers; pointers move it by the divider or, when the whole
// picture fits, from anywhere in the view.
function setUpPair(pair) {
  const find = (selector) => pair.querySelector(selector);
  const stage = find(".stage"), view = find(".view"), canvas = find(".canvas");
  const wipe = find(".wipe"), divider = find(".divider"), before = find("img.before");
  const [leftTag, rightTag] = pair.querySelectorAll(".tag");
  const buttons = [...pair.querySelectorAll("button[data-zoom]")];
  const full = find("button[data-full]");
  const width = Number(before.getAttribute("width")), height = Number(before.getAttribute("height"));
  let zoom = "fit";

  function layout() {
    const fit = Math.min(view.clientWidth / width, view.clientHeight / height, 4);
    const factor = zoom === "fit" ? fit : Number(zoom) / window.devicePixelRatio;
    canvas.style.width = `${width * factor}px`;
    canvas.style.height = `${height * factor}px`;
    stage.classList.toggle("zoomed", zoom !== "fit");
    stage.classList.toggle("crisp", factor * window.devicePixelRatio >= 2);
    draw();
  }

  // The part of the canvas that can be seen, in pixels of the view.
  function frame() {
    const left = Math.max(0, canvas.offsetLeft - view.scrollLeft);
    const top = Math.max(0, canvas.offsetTop - view.scrollTop);
    return {
      left, top,
      width: Math.min(view.clientWidth, canvas.offsetWidth),
      height: Math.min(view.clientHeight, canvas.offsetHeight),
    };
  }

  function draw() {
    const seen = frame(), share = Number(wipe.value) / 100;
    const x = seen.left + share * seen.width;
    const cut = x + view.scrollLeft - canvas.offsetLeft;
    before.style.clipPath = `inset(0 ${canvas.offsetWidth - cut}px 0 0)`;
    divider.style.left = `${x}px`;
    divider.style.top = `${seen.top}px`;
    divider.style.height = `${seen.height}px`;
    leftTag.classList.toggle("gone", x < leftTag.offsetLeft + leftTag.offsetWidth);
    rightTag.classList.toggle("gone", x > rightTag.offsetLeft);
    wipe.setAttribute("aria-valuetext",
      `${wipe.value} % ${leftTag.textContent}, ${100 - wipe.value} % ${rightTag.textContent}`);
  }

  function moveTo(clientX) {
    const seen = frame(), box = view.getBoundingClientRect();
    const share = (clientX - box.left - seen.left) / Math.max(seen.width, 1);
    wipe.value = String(Math.min(Math.max(share, 0), 1) * 100);
    draw();
  }

  function drag(target, onMove) {
    const stop = () => {
      view.classList.remove("held");
      target.removeEventListener("pointermove", onMove);
    };
    target.addEventListener("pointermove", onMove);
    target.addEventListener("pointerup", stop, { once: true });
    target.addEventListener("pointercancel", stop, { once: true });
  }

  divider.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    divider.setPointerCapture(event.pointerId);
    wipe.focus({ preventScroll: true, focusVisible: false });
    drag(divider, (move) => moveTo(move.clientX));
  });
  view.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    wipe.focus({ preventScroll: true, focusVisible: false });
    if (zoom === "fit") {
      view.setPointerCapture(event.pointerId);
      moveTo(event.clientX);
      drag(view, (move) => moveTo(move.clientX));
    } else if (event.pointerType === "mouse") {
      event.preventDefault();
      view.setPointerCapture(event.pointerId);
      view.classList.add("held");
      drag(view, (move) => view.scrollBy(-move.movementX, -move.movementY));
    }
  });
  wipe.addEventListener("input", draw);
  view.addEventListener("scroll", draw);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      zoom = button.dataset.zoom;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      layout();
      view.scrollTo((canvas.offsetWidth - view.clientWidth) / 2,
        (canvas.offsetHeight - view.clientHeight) / 2);
      draw();
    });
  }
  if (document.fullscreenEnabled) {
    full.addEventListener("click", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else pair.requestFullscreen();
    });
  } else {
    full.remove();
  }
  new ResizeObserver(layout).observe(view);
  layout();
}

document.querySelectorAll(".pair").forEach(setUpPair);
