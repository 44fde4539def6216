/** DiffMoE diffusion transformers in the browser. See README.md. */

/** Loads the WebAssembly; call it once before anything else. Without an argument it is looked for beside this script. */
export default function init(options?: {
  module_or_path: string | URL | Request | Response | BufferSource | WebAssembly.Module | Promise<Response>;
}): Promise<unknown>;

export interface Progress {
  /** `download` while a file arrives, then `open` while it is put on the device. */
  stage: "download" | "open";
  /** Which file: the name of its option. */
  file: "model" | "vae";
  /** Bytes that are here. */
  done: number;
  /** Bytes in all, where the server said so. */
  total: number | null;
}

export interface CreateOptions {
  /** Address of a safetensors file, or its bytes. */
  model: string | ArrayBuffer | Uint8Array;
  /** Image decoder, for a model that makes latents: a safetensors file of diffusers with an AutoencoderKL or an AutoencoderTiny. */
  vae?: string | ArrayBuffer | Uint8Array;
  /** `auto` (default): a real GPU if WebGPU offers one, else the processor. */
  backend?: "auto" | "gpu" | "cpu";
  /** Hears how far it is, some times a second. */
  onProgress?: (progress: Progress) => void;
}

export interface Info {
  /** Name of the model. */
  name: string;
  /** What computes. */
  device: string;
  /** Why it is not a GPU, where you did not ask for that. */
  note: string | null;
  /** Pixels of a finished image; of a model that makes latents without a decoder, their cells. */
  width: number;
  height: number;
  /** What the model samples before it is decoded, in cells; `null` where it makes pixels itself. */
  latent: { width: number; height: number; channels: number } | null;
  /** Kind of the decoder. */
  decoder: "AutoencoderKL" | "AutoencoderTiny" | null;
  /** Experts in a layer. */
  experts: number;
  /** Tokens of an image. */
  tokens: number;
  /** Blocks that have experts. */
  moeBlocks: number[];
  /** For each label table the names of its rows. */
  labels: Record<string, string[]>;
  /** What the model was tuned for. */
  defaults: { steps: number; guidance: number; scheduler: string };
}

/** A row by name or number, or `"any"` to leave it to the model; in a list, one for each image in turn. */
export type Label = string | number;

export interface SampleOptions {
  /** By label table; a table that is not named gets random rows from the seed. */
  labels?: Record<string, Label | Label[]>;
  /** What to draw, in words, for a model that reads prompts. */
  prompt?: string;
  /** What not to draw, in words. */
  negative?: string;
  /** Whole number; the same seed and settings give the same image. Default: random. */
  seed?: number;
  steps?: number;
  /** 1 is none. */
  guidance?: number;
  /** Default: the model's. `euler`, `heun` and `dopri5` are for flow models, `ddpm` and `ddim` for DDPM models, the others for both. */
  scheduler?: "euler" | "heun" | "dopri5" | "ddpm" | "ddim" | "dpmpp_2m" | "unipc";
  /** `dopri5`: accepted error of a step relative to the sample's numbers. Default: 0.001. */
  rtol?: number;
  /** `dopri5`: accepted error of a step near zero. Default: 0.000001. */
  atol?: number;
  /** `ddpm`, `ddim`, `dpmpp_2m`, `unipc`, for DDPM models: channels that guidance changes; the official code guides three of four. Default: "3". */
  guidedChannels?: "3" | "all";
  /** `ddpm`, `ddim`, `dpmpp_2m`, `unipc`, for DDPM models: clip the predicted data to [-1, 1] at every step; for models of pixels. */
  clip?: boolean;
  /** `ddim`: share of DDPM's fresh noise at each step, 0 to 1. Default: 0. */
  eta?: number;
  /** Images that are drawn together, 1 to 64. Default: 1. */
  count?: number;
  /** `token` (default): each token for itself; `pool`: the tokens of all images compete, as in the paper. */
  routing?: "token" | "pool";
  /** One threshold for all experts, 0 to 1; lower means more compute. */
  gamma?: number;
  /** Shift of the trained thresholds, -1 to 1; positive saves compute. */
  shift?: number;
  /** Experts that take no tokens, as `[block, expert]`, both from 0; `info.moeBlocks` lists the blocks. Default: none. */
  mute?: [block: number, expert: number][];
  /** Stops the work; `sample` then rejects with the signal's reason. */
  signal?: AbortSignal;
  /**
   * After each step, with the images as they are, `width` × `height` pixels each. Of latents it is a preview that was
   * fitted to the decoder, one pixel for each cell, so these are `info.latent.width` and `.height`.
   */
  onStep?: (step: number, steps: number, rgba: Uint8ClampedArray, width: number, height: number) => void;
  /** While latents are decoded after the last step: how much is done, 0 to 1. */
  onDecode?: (fraction: number) => void;
  /** `false` leaves the trace out, which is the larger part of a result. */
  trace?: boolean;
  /** `true` puts the router's scores into the trace, which then is some tens of times as large. */
  traceScores?: boolean;
}

export interface Sample {
  width: number;
  height: number;
  count: number;
  seed: number;
  /** `count` images one after the other, four bytes a pixel: ready for `new ImageData(rgba, width)`. */
  rgba: Uint8ClampedArray;
  /** Which expert took which token at every step: the format of `diffmoe sample --trace`. */
  trace?: object;
  /** Experts that worked on a token, on average; `null` for models without experts. */
  capacity: number | null;
  /** What computed. */
  device: string;
}

export class Generator {
  /** Fetches a model where it has to be fetched, and puts it on a device. */
  static create(options: CreateOptions): Promise<Generator>;
  readonly info: Info;
  /** Draws. Calls may overlap; they share the device. When a device is lost, the run goes on on a new one. */
  sample(options?: SampleOptions): Promise<Sample>;
  /** Frees the model. Runs that were begun go on to their end. */
  free(): void;
}

/** Every shader that this program may run, and the values of the constants that have no default. */
export function shaders(): { name: string; source: string; constants: Record<string, number> }[];

/** The app of the page, running on a canvas. */
export class Page {
  /** What it is doing. */
  state(): {
    phase: "fetching" | "opening" | "ready" | "running" | "decoding" | "paused" | "recovering" | "no model";
    model: string | null;
    decoder: string | null;
    device: string | null;
    backendNote: string | null;
    share: string | null;
    notes: string[];
    step?: number;
    steps?: number;
    seed?: number;
    count?: number;
    stepMs?: number[];
    /** Of the last finished step: pixels of each image that `rgba()` gives. */
    width?: number;
    height?: number;
    /** What they are: the model's own pixels, latents as colours, a preview fitted to the decoder, or decoded. */
    rendering?: "pixels" | "latents" | "preview" | "decoded";
  };
  /** The images after a step, or after the last one. */
  rgba(step?: number): Uint8ClampedArray | undefined;
  free(): void;
}

/** Starts the app on a canvas; `onCrash` hears of a bug that ended it. */
export function start(canvas: HTMLCanvasElement, onCrash: (message: string) => void): Promise<Page>;
