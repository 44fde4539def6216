/**
 * An element that draws an image. Attributes: `model` (URL of a safetensors file), `backend`, `labels` (names, separated by commas),
 * `prompt`, `scheduler`, `seed`, `steps`, `guidance`, `alt`. It sends `drawn` with `{ rgba, width, height, seed }` as `detail`, or `error`.
 * Name it with `customElements.define("diffmoe-picture", DiffmoePicture)`.
 */
export class DiffmoePicture extends HTMLElement {}
