// The entry for Node: the WebAssembly is read from this folder, because Node fetches no files.
import { readFile } from "node:fs/promises";
import load from "./diffmoe.js";

export * from "./diffmoe.js";

export default function init(options) {
  return load(options ?? { module_or_path: readFile(new URL("./diffmoe_bg.wasm", import.meta.url)) });
}
