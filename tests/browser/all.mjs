// Every test in a browser: `node --test tests/browser/all.mjs`, after `cargo xtask web --offline`.

import { after } from "node:test";
import { close } from "./lab.mjs";
import "./explore.mjs";
import "./generator.mjs";
import "./latents.mjs";
import "./page.mjs";
import "./access.mjs";
import "./gallery.mjs";
import "./install.mjs";
import "./endurance.mjs";
import "./engines.mjs";
import "./policy.mjs";
import "./npm.mjs";

after(close);
import "./screens.mjs";
