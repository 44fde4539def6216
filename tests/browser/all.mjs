// Every test in a browser: `node --test tests/browser/all.mjs`, after `cargo xtask web --offline`.

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
import "./screens.mjs";
