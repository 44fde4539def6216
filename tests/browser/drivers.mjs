// Firefox and WebKit, each with `goto`, `evaluate`, `screenshot` and `close`.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer } from "node:net";

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const installed = (places) => places.find((place) => existsSync(place));

/** Firefox without a display: it has WebGPU and no WebGL. */
export const firefox = {
  name: "Firefox",
  package: "firefox-esr",
  program: process.env.FIREFOX ?? installed(["/usr/bin/firefox-esr", "/usr/bin/firefox"]),
  async start() {
    const { default: puppeteer } = await import("puppeteer-core");
    const browser = await puppeteer.launch({
      browser: "firefox",
      executablePath: this.program,
      headless: true,
      protocolTimeout: 600_000,
      extraPrefsFirefox: {
        "dom.webgpu.enabled": true,
        "gfx.webgpu.ignore-blocklist": true,
        "app.update.enabled": false,
        "network.captive-portal-service.enabled": false,
        "network.connectivity-service.enabled": false,
        "browser.safebrowsing.downloads.remote.enabled": false,
      },
    });
    const page = await browser.newPage();
    await page.setViewport({ width: 1280, height: 800 });
    return {
      goto: (address) => page.goto(address, { timeout: 60_000 }),
      evaluate: (script, ...given) => page.evaluate(script, ...given),
      screenshot: async () => Buffer.from(await page.screenshot()),
      close: () => browser.close(),
    };
  },
};

/** A port that nobody uses. */
const freePort = () => new Promise((resolve) => {
  const server = createServer();
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

/** WebKitGTK's small browser, over WebDriver: no WebGPU. */
export const webkit = {
  name: "WebKit",
  package: "webkit2gtk-driver xvfb",
  program: process.env.WEBKIT_DRIVER ?? installed(["/usr/bin/WebKitWebDriver"]),
  async start() {
    const port = await freePort();
    const command = process.env.DISPLAY ? [this.program] : ["xvfb-run", "-a", this.program];
    const [program, ...given] = [...command, `--port=${port}`, "--host=127.0.0.1"];
    // A group of its own, so that the display ends with it.
    const env = { ...process.env, WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS: "1" };
    const driver = spawn(program, given, { env, stdio: "ignore", detached: true });
    const call = async (method, path, body) => {
      const address = `http://127.0.0.1:${port}${path}`;
      const response = await fetch(address, { method, body: body && JSON.stringify(body) });
      const { value } = await response.json();
      if (value?.error) throw new Error(`${value.error}: ${value.message}`);
      return value;
    };
    for (let tries = 0; ; tries++) {
      try {
        await call("GET", "/status");
        break;
      } catch (error) {
        if (tries === 100) throw error;
        await pause(100);
      }
    }
    const folders = ["4.1", "4.0", "6.0"].map((version) => `/usr/lib/x86_64-linux-gnu/webkit2gtk-${version}`);
    const binary = process.env.MINIBROWSER ?? installed(folders.map((folder) => `${folder}/MiniBrowser`));
    const options = { binary, args: ["--automation"] };
    const { sessionId } = await call("POST", "/session", { capabilities: { alwaysMatch: { "webkitgtk:browserOptions": options } } });
    const session = `/session/${sessionId}`;
    await call("POST", `${session}/timeouts`, { script: 300_000, pageLoad: 60_000 });
    await call("POST", `${session}/window/rect`, { width: 1280, height: 860 });
    return {
      goto: (url) => call("POST", `${session}/url`, { url }),
      async evaluate(script, ...given) {
        const text = `const done = arguments[arguments.length - 1];
          (async () => (${script})(...Array.from(arguments).slice(0, -1)))()
            .then((value) => done({ value }), (error) => done({ error: String(error) }));`;
        const { value, error } = await call("POST", `${session}/execute/async`, { script: text, args: given });
        if (error) throw new Error(error);
        return value;
      },
      screenshot: async () => Buffer.from(await call("GET", `${session}/screenshot`), "base64"),
      async close() {
        await call("DELETE", session).catch(() => {});
        process.kill(-driver.pid);
      },
    };
  },
};
