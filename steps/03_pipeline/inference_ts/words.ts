// Values as Python writes them, so that both services say the same sentence.

/** Text in quotes, with everything that could disturb a log or a terminal escaped. */
export function quote(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escape = (character: string): string =>
    character === "\\" || character === mark
      ? `\\${character}`
      : `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  return mark + text.replace(mark === "'" ? /[\\'\x00-\x1f\x7f-\xa0]/g : /[\\\x00-\x1f\x7f-\xa0]/g, escape) + mark;
}

/** A number with at most six digits that count. */
export function short(number: number): string {
  if (!Number.isFinite(number)) return String(number).replace("Infinity", "inf").replace("NaN", "nan");
  const text = number !== 0 && Math.abs(number) < 1e-4 ? number.toExponential(5) : number.toPrecision(6);
  return text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "").replace(/(e[+-])(\d)$/, "$10$2");
}

/** JSON with a space after each comma and colon of the outermost level. */
export function json(value: unknown): string {
  return Array.isArray(value) ? `[${value.map((item) => JSON.stringify(item)).join(", ")}]` : JSON.stringify(value);
}

export const count = (number: number): string => number.toLocaleString("en-US");
