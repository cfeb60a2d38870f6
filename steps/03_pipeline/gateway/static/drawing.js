/** The paper: strokes by mouse, finger, pen or keyboard, and the picture that they make. */

import { element } from "./elements.js";

const SIZE = 280; // px, of the paper and of the picture that is sent
const PEN = 22;
const STEP = 10; // px that an arrow key moves the pen
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Dispatches "begin" when a stroke begins, "stroke" when the strokes have changed, "clear" when none is left. */
export class Drawing extends EventTarget {
  #strokes = []; // each a list of points [x, y]
  #open = false; // the last stroke goes on
  #shown = null; // a picture that lies on the paper until the next stroke
  #context;

  constructor(canvas) {
    super();
    // As sharp as the screen; what is sent does not depend on it.
    canvas.width = canvas.height = SIZE * devicePixelRatio;
    this.#context = canvas.getContext("2d");
    this.#context.scale(devicePixelRatio, devicePixelRatio);
    this.#paint();
  }

  get isDrawing() {
    return this.#open;
  }

  begin(point) {
    if (this.#shown) this.show(null);
    this.#open = true;
    this.#strokes.push([point]);
    this.#paint();
    this.dispatchEvent(new Event("begin"));
  }

  extend(point) {
    if (!this.#open) return;
    this.#strokes.at(-1).push(point);
    this.#paint();
  }

  end() {
    if (!this.#open) return;
    this.#open = false;
    this.dispatchEvent(new Event("stroke"));
  }

  /** Take the last stroke back. */
  undo() {
    if (this.#strokes.length < 2) return this.clear();
    this.#open = false;
    this.#strokes.pop();
    this.#paint();
    this.dispatchEvent(new Event("stroke"));
  }

  clear() {
    this.show(null);
    this.dispatchEvent(new Event("clear"));
  }

  /** Replace all strokes by a picture, or by nothing. */
  show(picture) {
    this.#open = false;
    this.#strokes = [];
    this.#shown = picture;
    this.#paint();
  }

  /** The drawing as a PNG. */
  toBlob() {
    const sheet = element("canvas", { width: SIZE, height: SIZE });
    this.#paint(sheet.getContext("2d"));
    return new Promise((resolve) => sheet.toBlob(resolve, "image/png"));
  }

  #paint(context = this.#context) {
    context.fillStyle = "white";
    context.fillRect(0, 0, SIZE, SIZE);
    if (this.#shown) {
      const scale = SIZE / Math.max(this.#shown.width, this.#shown.height);
      const [width, height] = [this.#shown.width * scale, this.#shown.height * scale];
      context.imageSmoothingEnabled = scale < 8; // the pixels of 8x8 features are to be seen
      context.drawImage(this.#shown, (SIZE - width) / 2, (SIZE - height) / 2, width, height);
    }
    Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "black" });
    this.#strokes.forEach((stroke) => context.stroke(smooth(stroke)));
  }
}

/** A curve that passes the middle between each two points, bent towards the points: no corners. */
function smooth(points) {
  const path = new Path2D();
  path.moveTo(...points[0]);
  points.forEach(([x, y], index) => {
    const [nextX, nextY] = points[index + 1] ?? [x, y];
    path.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  });
  return path;
}

/** Draw with mouse, pen or finger: only with the main button or the first finger. */
export function followPointer(drawing, canvas) {
  const place = ({ clientX, clientY }) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return [((clientX - left) * SIZE) / width, ((clientY - top) * SIZE) / height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button) return;
    canvas.setPointerCapture(event.pointerId);
    drawing.begin(place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    // A fast hand makes more points than the screen has frames.
    const points = event.getCoalescedEvents?.() ?? [];
    (points.length ? points : [event]).forEach((point) => drawing.extend(place(point)));
  });
  canvas.addEventListener("lostpointercapture", () => drawing.end());
}

/** Draw with the keys that index.html describes. `pen` marks the place, `state` says whether the pen is down. */
export function followKeys(drawing, canvas, pen, state) {
  let place = [SIZE / 2, SIZE / 4];
  const held = new Set(); // two arrows at once go aslant

  const mark = () => {
    pen.hidden = false;
    pen.style.left = `${place[0]}px`;
    pen.style.top = `${place[1]}px`;
    pen.classList.toggle("down", drawing.isDrawing);
    state.textContent = drawing.isDrawing ? "Pen down" : "Pen up";
  };
  const leave = () => {
    held.clear();
    pen.hidden = true;
    drawing.end();
  };
  const clear = () => drawing.clear();
  const actions = {
    " ": () => (drawing.isDrawing ? drawing.end() : drawing.begin(place)),
    Backspace: () => drawing.undo(),
    Escape: clear,
    c: clear,
    C: clear,
  };

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = actions[event.key];
    if (event.key in ARROWS) {
      held.add(event.key);
      place = place.map((at, axis) => {
        const step = STEP * [...held].reduce((sum, key) => sum + ARROWS[key][axis], 0);
        return Math.min(Math.max(at + step, PEN / 2), SIZE - PEN / 2);
      });
      drawing.extend(place);
    } else if (action && !event.repeat) {
      action();
    } else if (!action) {
      return;
    }
    event.preventDefault(); // the page is not to scroll
    mark();
  });
  canvas.addEventListener("keyup", ({ key }) => held.delete(key));
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && mark());
  canvas.addEventListener("pointerdown", leave, { capture: true });
  canvas.addEventListener("blur", leave);
}
