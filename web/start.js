// Loads the program behind the page, shows how far it is, and says what to do when it does not start.
// The build joins this file with index.html; in the offline page everything it loads is inside the page.

const element = (id) => document.getElementById(id);
const classes = document.documentElement.classList;

function progress(text, done, total) {
  element("step").textContent = text;
  if (total) Object.assign(element("bar"), { max: total, value: Math.min(done, total) });
  else element("bar").removeAttribute("value");
}

function fail(what, advice, error) {
  console.warn(what, error);
  element("what").textContent = what;
  element("advice").textContent = advice;
  element("detail").textContent = String(error?.message ?? error ?? "");
  classes.remove("running");
  classes.add("failed");
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

// The response again, with its bytes counted on the way. Servers may pack it, so the build says how many there are.
function counted(response, total) {
  if (!response.ok) throw new Error(`${response.url} answered with status ${response.status}`);
  let done = 0;
  const count = new TransformStream({
    transform(piece, out) {
      done += piece.byteLength;
      progress(`Loading the program: ${megabytes(done)} of ${megabytes(total)} MB`, done, total);
      out.enqueue(piece);
    },
  });
  return new Response(response.body.pipeThrough(count), { headers: { "content-type": "application/wasm" } });
}

// Something that lies in the page as base64 text. The browser decodes it.
const unpacked = (id, type) => fetch(`data:${type};base64,${element(id).textContent.trim()}`);

async function load({ bytes, inside }) {
  if (!inside) {
    const [glue, response] = await Promise.all([import("./diffmoe.js"), fetch("diffmoe_bg.wasm")]);
    await glue.default({ module_or_path: counted(response, bytes) });
    return glue;
  }
  const script = await (await unpacked("glue", "text/javascript")).blob();
  const glue = await import(URL.createObjectURL(script));
  await glue.default({ module_or_path: await (await unpacked("wasm", "application/wasm")).arrayBuffer() });
  for (const id of ["glue", "wasm"]) element(id).remove();
  return glue;
}

export async function start(source) {
  let glue;
  try {
    glue = await load(source);
  } catch (error) {
    const old = error instanceof WebAssembly.CompileError;
    return fail(
      old ? "This browser cannot run the program." : "The program did not arrive.",
      old ? "It needs WebAssembly with SIMD, which Chrome, Edge, Firefox and Safari have had since 2023: please update the browser."
        : "Check the connection and load the page again.",
      error,
    );
  }
  progress("Starting", 1, 1);
  try {
    const crashed = (message) => fail("The program has crashed.", "Load the page again. If it happens again, please report it with these lines:", message);
    // What runs in the page, for tests and for the curious; see web/README.md.
    window.diffmoe = await glue.start(element("app"), crashed);
    classes.add("running");
    element("app").focus();
  } catch (error) {
    fail("The page cannot be drawn.", "It is drawn with WebGL, which this browser does not offer: switch on hardware acceleration in its settings, or use another browser.", error);
  }
}
