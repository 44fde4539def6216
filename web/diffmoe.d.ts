/** DiffMoE diffusion transformers in the browser. See README.md. */

/** Loads the WebAssembly; call it once before anything else. Without an argument it is loaded from this script's folder. */
export default function init(options?: {
  module_or_path: string | URL | Request | Response | BufferSource | WebAssembly.Module | Promise<Response>;
}): Promise<unknown>;

export interface Progress {
  /** `download` while a file is fetched, then `open` while it is loaded onto the device. */
  stage: "download" | "open";
  /** Which file: the name of its option. */
  file: "model" | "vae";
  /** Bytes received. */
  done: number;
  /** Total bytes, if the server reports them. */
  total: number | null;
}

export interface CreateOptions {
  /** URL of a safetensors file, or its bytes. */
  model: string | ArrayBuffer | Uint8Array;
  /** Image decoder, for a model that generates latents: a safetensors file of diffusers with an AutoencoderKL or an AutoencoderTiny. */
  vae?: string | ArrayBuffer | Uint8Array;
  /** `auto` (default): a hardware GPU if WebGPU offers one, else the CPU. */
  backend?: "auto" | "gpu" | "cpu";
  /** Workers that share the work where the CPU computes, 0 to 16; the images are the same for any number. 0 computes on the calling thread. Default: one for each core, up to 4, as far as memory allows. */
  workers?: number;
  /** Called with the progress, a few times per second. */
  onProgress?: (progress: Progress) => void;
}

export interface Info {
  /** Name of the model. */
  name: string;
  /** The device that computes. */
  device: string;
  /** Why the GPU is not used, or not with its usual kernels, if you did not request the CPU. */
  note: string | null;
  /** Size of a finished image in pixels; for latents without a decoder, in cells. */
  width: number;
  height: number;
  /** Size of the latents in cells; `null` for a model that generates pixels. */
  latent: { width: number; height: number; channels: number } | null;
  /** Kind of the decoder. */
  decoder: "AutoencoderKL" | "AutoencoderTiny" | null;
  /** Experts per layer. */
  experts: number;
  /** Tokens per image. */
  tokens: number;
  /** The model's refiner: the time at which it takes over (0 is noise, 1 is data) and its tokens per image; `null` if the model has none. */
  refiner: { from: number; tokens: number } | null;
  /** Indices of the blocks with experts. */
  moeBlocks: number[];
  /** The row names of each label table. */
  labels: Record<string, string[]>;
  /** Recommended settings of the model. */
  defaults: { steps: number; guidance: number; scheduler: string };
}

/** A row by name or number, or `"any"` for the null label; a list is applied to the images in turn. */
export type Label = string | number;

/** An `ImageData`, a result of `sample` (its first image), or the bytes of a PNG. Transparency is laid over white. */
export type Pixels =
  | { data: Uint8ClampedArray | Uint8Array; width: number; height: number }
  | { rgba: Uint8ClampedArray | Uint8Array; width: number; height: number }
  | ArrayBuffer
  | Uint8Array;

export interface SampleOptions {
  /**
   * Labels by table. `"best"` (the default) picks labels that the model draws well, or random ones if the model file lists none;
   * `"varied"` picks random labels. Both depend on the seed. `"any"` is the null label.
   */
  labels?: Record<string, Label | Label[]>;
  /**
   * A label for each table that is blended into those of all images: the label vector becomes
   * (1 − `mixStrength`) · label + `mixStrength` · other, before it is added to that of the time.
   */
  mix?: Record<string, Label>;
  /** How much of the labels of `mix`: 0 none of them, 1 nothing else. Default: 0.5. */
  mixStrength?: number;
  /** Prompt, for a text-conditioned model; `""` for none. Default: the model's examples, which the images take in turn. */
  prompt?: string;
  /** Negative prompt. */
  negative?: string;
  /** Integer; the same seed and settings give the same image. Default: random. */
  seed?: number;
  /** Mixes the noise with that of this seed; needs `variationStrength`. */
  variationSeed?: number;
  /** How much of the other seed's noise: 0 none, 1 all of it. Small values give variations of an image. */
  variationStrength?: number;
  steps?: number;
  /** Guidance scale; 1 switches guidance off. */
  guidance?: number;
  /** Guide only on this part of the way from noise (0) to data (1), from `low` on and before `high`; elsewhere a step is half the work. Default: [0, 1]. */
  guidanceInterval?: [low: number, high: number];
  /** Average the last predictions over this many shifts of the image (1 is off, at most 8), from t = 0.85 on or another
   * time, 0 (noise) to 1 (image): hides the borders of patches. Default: the model's. */
  cycleSpin?: number | [count: number, from: number];
  /** Default: the model's. `euler`, `heun` and `dopri5` are for flow models, `ddpm` and `ddim` for DDPM models, the others for both. */
  scheduler?: "euler" | "heun" | "dopri5" | "ddpm" | "ddim" | "dpmpp_2m" | "unipc";
  /** `dopri5`: relative error tolerance per step. Default: 0.001. */
  rtol?: number;
  /** `dopri5`: absolute error tolerance per step. Default: 0.000001. */
  atol?: number;
  /** `ddpm`, `ddim`, `dpmpp_2m`, `unipc`, for DDPM models: channels that guidance applies to; the official code guides three of four. Default: "3". */
  guidedChannels?: "3" | "all";
  /** `ddpm`, `ddim`, `dpmpp_2m`, `unipc`, for DDPM models: clip the predicted x₀ to [-1, 1] at every step, for models that generate pixels. */
  clip?: boolean;
  /** `ddim`: share of DDPM's noise added at each step, 0 to 1. Default: 0. */
  eta?: number;
  /** Image to start from, cut and scaled to the model's size; for models that generate pixels. */
  initImage?: Pixels;
  /** With `initImage`: share of the way from noise to data that is taken, above 0 (the image as it is) to 1 (noise alone). Default: 0.6, and 1 with `mask`. */
  strength?: number;
  /** With `initImage`: white where the image is redrawn, black where it is kept. */
  mask?: Pixels;
  /** Images drawn together, 1 to 64. Default: 1. */
  count?: number;
  /** `token` (default): each token separately; `pool`: the tokens of all images compete, as in the paper. */
  routing?: "token" | "pool";
  /** One threshold for all experts, 0 to 1; lower means more compute. */
  gamma?: number;
  /** Shift of the learned thresholds, -1 to 1; positive values save compute. */
  shift?: number;
  /** Shift of all thresholds in log-odds, -24 to 24, `gamma` included; positive values save compute. Default: 0. */
  logOdds?: number;
  /**
   * Shifts of the thresholds of single blocks, as `[block, logOdds]`, and of single experts, as `[block, expert, logOdds]`, in
   * log-odds from -24 to 24; the shift of an expert is added to that of its block. Default: none.
   */
  shifts?: ([block: number, logOdds: number] | [block: number, expert: number, logOdds: number])[];
  /** Experts that take no tokens, as `[block, expert]`, both from 0; `info.moeBlocks` lists the blocks. Default: none. */
  mute?: [block: number, expert: number][];
  /** Cancels the run; `sample` then rejects with the signal's reason. */
  signal?: AbortSignal;
  /**
   * Called after each step with the current images, `width` × `height` pixels each. For latents they are a preview
   * fitted to the decoder with one pixel per cell, of size `info.latent.width` × `info.latent.height`.
   */
  onStep?: (step: number, steps: number, rgba: Uint8ClampedArray, width: number, height: number) => void;
  /** Called while latents are decoded after the last step, with the finished fraction from 0 to 1. */
  onDecode?: (fraction: number) => void;
  /** `false` omits the trace, which is the larger part of a result. */
  trace?: boolean;
  /** A saved PNG: its settings, also of another program as far as they apply, unless overridden here. */
  like?: ArrayBuffer | Uint8Array;
  /** `true` adds a PNG file of the images, with the settings inside. */
  png?: boolean;
  /** With `png`: factor by which images are enlarged, 1 to 64. Default: to at least 128 pixels in a grid. */
  scale?: number;
  /** With `png`: enlarge smoothly instead of pixel by pixel. */
  smooth?: boolean;
  /** `true` adds the router's scores to the trace, which makes it tens of times larger. */
  traceScores?: boolean;
}

export interface Sample {
  width: number;
  height: number;
  count: number;
  seed: number;
  /** `count` images one after another, four bytes per pixel: ready for `new ImageData(rgba, width)`. */
  rgba: Uint8ClampedArray;
  /** All images in one PNG file with the settings inside, for `like` and the app. */
  png?: Uint8Array;
  /** Which expert took which token at every step, in the format of `diffmoe sample --trace`. */
  trace?: object;
  /** Mean number of experts per token; `null` for models without experts. */
  capacity: number | null;
  /** The device that computed. */
  device: string;
}

export class Generator {
  /** Fetches the model if needed and loads it onto a device. */
  static create(options: CreateOptions): Promise<Generator>;
  readonly info: Info;
  /** Generates images. Calls may overlap; they share the device. If the device is lost, the run resumes on a new one. */
  sample(options?: SampleOptions): Promise<Sample>;
  /** Frees the model. Active runs are completed. */
  free(): void;
}

/** Checks the graphics device with every kernel, and returns a report to be sent with a description of wrong images. */
export function checkDevice(): Promise<string>;

/** All shaders of this program, with values for the constants without a default. */
export function shaders(): { name: string; source: string; constants: Record<string, number> }[];

/** Makes this thread a worker of the page that made it; `diffmoe-worker.js` calls it. */
export function work(): void;

/** The app running on a canvas. */
export class Page {
  /** The current state of the app; without `phase` after a bug has ended it. */
  state(): {
    /** What paints the app. */
    painter: "webgl" | "webgpu";
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
    /** Whether the run on screen is a recording, which is shown while the first model is downloaded. */
    recorded?: boolean;
    stepMs?: number[];
    /** Size in pixels of each image returned by `rgba()` for the last finished step. */
    width?: number;
    height?: number;
    /** How they were made: pixels from the model, latents as colours, a preview fitted to the decoder, or decoded. */
    rendering?: "pixels" | "latents" | "preview" | "decoded";
  };
  /** The images after a step, or after the last one. */
  rgba(step?: number): Uint8ClampedArray | undefined;
  free(): void;
}

/** Starts the app on a canvas, with the model of the name `first` where the address names none; `onCrash` is called if a bug ends it. */
export function start(canvas: HTMLCanvasElement, first: string, onCrash: (message: string) => void): Promise<Page>;
