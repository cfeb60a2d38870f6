/** Pieces of the page. Text goes in as text: nothing that a service says becomes HTML. */

export const byId = (id) => document.getElementById(id);

export function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A number and its unit stay on one line.
export const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
/** The largest probability. A model may have none. */
export const certainty = (probabilities) => (probabilities ? percent(Math.max(...probabilities)) : "\u2013");
export const milliseconds = (ms) => `${ms.toFixed(1)}\u00a0ms`;

/** A bar from `start`, as long as `share`; both are parts of the whole, 0..1. */
export function bar(start, share) {
  const made = element("span", { className: "bar" });
  made.style.marginInlineStart = `${100 * start}%`;
  made.style.inlineSize = `${100 * share}%`;
  return made;
}

/** The first 64 features as a picture of 8x8 pixels, black ink on white. */
export function thumbnail(features) {
  const pixels = new ImageData(8, 8);
  features.slice(0, 64).forEach((ink, index) => {
    const grey = 255 * (1 - ink / 16);
    pixels.data.set([grey, grey, grey, 255], 4 * index);
  });
  const canvas = element("canvas", { width: 8, height: 8 });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
