// What the model takes and gives: contract.py of inference, in TypeScript. Another model is another contract.ts.

export const NAME: string = "digits";
// names, or how many
export const FEATURES: string[] | number = Array.from({ length: 64 }, (_, place) => `pixel_${place >> 3}_${place % 8}`);
export const LOW: number | null = 0; // null: no bound
export const HIGH: number | null = 16;
export const CLASSES: number[] | string[] | null = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]; // null: the model is a regressor
