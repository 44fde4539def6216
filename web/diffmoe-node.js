// The entry for Node: the WebAssembly is read from this folder, because Node fetches no files.
import { readFile } from "node:fs/promises";
import load from "./diffmoe.js";

export * from "./diffmoe.js";

export default function init(options) {
  const program = hasRelaxedSimd() ? "./diffmoe_relaxed_bg.wasm" : "./diffmoe_bg.wasm";
  return load(options ?? { module_or_path: readFile(new URL(program, import.meta.url)) });
}
