/** Pictures from files, made small enough to be sent. */

import { element } from "./elements.js";

const MAX_SIDE = 1024; // px; 64 features need no more
const MAX_BYTES = 1_000_000; // the gateway's limit
const TYPES = ["image/png", "image/jpeg"]; // what preprocess reads

/**
 * Read a picture, and reduce it if it is too large.
 * @returns {Promise<{blob: Blob, picture: HTMLCanvasElement | null}>} what to send and what to show; the bytes of a file
 *   that the browser cannot read are sent as a PNG, with nothing to show: preprocess then says what is wrong with them
 */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return { blob: new Blob([file], { type: "image/png" }), picture: null }; // the gateway refuses other types unread
  }
  const { width, height } = bitmap;
  const picture = shrink(bitmap, Math.min(1, MAX_SIDE / Math.max(width, height)));
  bitmap.close();
  const isFit = Math.max(width, height) <= MAX_SIDE && file.size <= MAX_BYTES && TYPES.includes(file.type);
  return { blob: isFit ? file : await encode(picture, file.type), picture };
}

function shrink(bitmap, scale) {
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

/** As PNG, which keeps what is transparent; as JPEG if it was one, or if the PNG would be too large. */
async function encode(canvas, type) {
  const as = (type) => new Promise((resolve) => canvas.toBlob(resolve, type, 0.9));
  const png = type === "image/jpeg" ? null : await as("image/png");
  return png && png.size <= MAX_BYTES ? png : as("image/jpeg");
}
