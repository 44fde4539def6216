// Every test in a browser: `node --test tests/browser/all.mjs`, after `cargo xtask web --offline`.

import { after } from "node:test";
import { close } from "./lab.mjs";
import "./generator.mjs";
import "./latents.mjs";
import "./page.mjs";
import "./policy.mjs";

after(close);
import "./screens.mjs";
