//! The folder `dist/`, and the single-file offline page.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::install;
use super::programs::Programs;

/// The models hosted with the page.
const MODELS: [&str; 4] = [FIRST_ON_GPU, FIRST_ON_CPU, "emoji_text", "eurosat"];
/// The model that draws the first image where a GPU computes.
pub(super) const FIRST_ON_GPU: &str = "emoji_256";
/// The same where the processor computes; it is also the one inside the offline page, where size matters more.
pub(super) const FIRST_ON_CPU: &str = "emoji";
/// Files that go out as they are: where they are, and their names in `dist/`.
const COPIES: [(&str, &str); 15] = [
    ("web/graphics.js", "graphics.js"),
    ("web/diffmoe-worker.js", "diffmoe-worker.js"),
    ("web/diffmoe-picture.js", "diffmoe-picture.js"),
    ("web/diffmoe-picture.d.ts", "diffmoe-picture.d.ts"),
    ("web/embed.html", "embed.html"),
    ("web/card.png", "card.png"),
    ("web/diffmoe.d.ts", "diffmoe.d.ts"),
    ("web/README.md", "README.md"),
    ("web/example.html", "example.html"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("assets/emoji.md", "models/emoji.md"),
    ("assets/emoji_256.md", "models/emoji_256.md"),
    ("assets/emoji_text.md", "models/emoji_text.md"),
    ("assets/eurosat.md", "models/eurosat.md"),
];
/// Scripts that choose a form of the program.
const CHOOSERS: [&str; 2] = ["start.js", "diffmoe-node.js"];
/// Files that the page needs besides itself and its models.
const PROGRAM: [&str; 8] = [
    "start.js",
    "graphics.js",
    "diffmoe.js",
    "diffmoe-worker.js",
    "diffmoe_bg.wasm",
    "diffmoe_relaxed_bg.wasm",
    "manifest.webmanifest",
    "icon-192.png",
];
/// What stands for the version in `web/package.json`.
const VERSION: &str = "\"version\": \"0.0.0\"";
/// The line of `index.html` that the build replaces: it loads the page when there is one.
const SCRIPT: &str = "<!-- the build puts the scripts here -->";

/// The line that the build replaces by links to files beside the page, where there are any.
const LINKS: &str = "<!-- the build puts links to other files here -->";
/// The line for the policy, which names the scripts by their hashes.
const POLICY: &str = "<!-- the build puts the content security policy here -->";

/// Browsers let no module in from a file; without this the page would stay at its first line for ever.
const FROM_FILE: &str = "<script>if (location.protocol === \"file:\") document.getElementById(\"step\").textContent = \
    \"Browsers load this page from a web server only: run `cargo xtask web --serve`. For a page that opens as a file, \
    run `cargo xtask web --offline` and open dist/diffmoe.html.\";</script>";

/// What goes into the page.
pub(super) struct Page {
    pub(super) js: String,
    pub(super) programs: Programs,
    /// Licences of what is compiled in.
    pub(super) licences: String,
    pub(super) folder: PathBuf,
    /// Where the page will be, if that is known.
    pub(super) address: Option<String>,
}

impl Page {
    /// Rewrites the folder.
    pub(super) fn write(&self) -> Result<(), String> {
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder)
                .map_err(|e| format!("cannot empty dist/: {e}"))?;
        }
        for (from, to) in COPIES {
            self.put(to, &read(from)?)?;
        }
        for model in MODELS {
            self.put(&format!("models/{model}.safetensors"), &read(&asset(model))?)?;
        }
        self.put("diffmoe.js", self.js.as_bytes())?;
        for name in CHOOSERS {
            self.put(name, chooser(name)?.as_bytes())?;
        }
        self.put("diffmoe_bg.wasm", &self.programs.plain)?;
        self.put("diffmoe_relaxed_bg.wasm", &self.programs.relaxed)?;
        self.put("LICENSE-THIRD-PARTY", self.licences.as_bytes())?;
        self.put("package.json", package()?.as_bytes())?;
        let scripts = format!(
            "<script type=\"application/json\" id=\"models\">{}</script>\n{}{FROM_FILE}\n\
             <script type=\"module\">import {{ start }} from \"./start.js\"; start({{ bytes: {}, first: {} }});</script>",
            models(&MODELS)?,
            explorable(&MODELS)?,
            self.programs.plain.len(),
            first(FIRST_ON_GPU, FIRST_ON_CPU),
        );
        let index = index(&scripts, &install::links(self.address.as_deref()), Form::Site)?;
        self.put("index.html", index.as_bytes())?;
        for (name, side, is_whole) in install::ICONS {
            self.put(name, &install::icon(side, is_whole)?)?;
        }
        self.put("manifest.webmanifest", install::manifest()?.as_bytes())?;
        self.put("sw.js", self.service_worker(index)?.as_bytes())
    }

    /// The service worker, which keeps what the page needs besides its models.
    fn service_worker(&self, index: String) -> Result<String, String> {
        let mut files = vec![("./", index.into_bytes())];
        for name in PROGRAM {
            let path = self.folder.join(name);
            let bytes =
                std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            files.push((name, bytes));
        }
        let source = String::from_utf8(read("web/sw.js")?).map_err(|e| e.to_string())?;
        install::service_worker(&source, &files)
    }

    /// Writes `diffmoe.html`, with the scripts, the WebAssembly and the first model inside.
    pub(super) fn write_offline(&self) -> Result<(), String> {
        let model = FIRST_ON_CPU;
        // A page from a file may not import modules from files, but it may import what it made itself.
        let scripts = format!(
            "<script type=\"application/json\" id=\"models\">{}</script>\n{}\
             <script type=\"application/octet-stream;base64\" id=\"model-{model}\">{}</script>\n\
             <script type=\"application/octet-stream;base64\" id=\"wasm\">{}</script>\n\
             <script type=\"text/plain\" id=\"glue\">{}</script>\n\
             <script type=\"text/plain\" id=\"licences\">{}</script>\n\
             <script type=\"module\">{}\nstart({{ inside: true, first: {} }});</script>",
            models(&[model])?,
            explorable(&[model])?,
            base64::encode(read(&asset(model))?),
            base64::encode(&self.programs.plain),
            base64::encode(&self.js),
            self.licences.replace('<', "&lt;"),
            chooser(CHOOSERS[0])?.replace("export async function", "async function"),
            first(model, model),
        );
        self.put("diffmoe.html", index(&scripts, "", Form::File)?.as_bytes())?;
        println!("\nwrote dist/diffmoe.html: one file, opens without a network");
        Ok(())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.folder.join(name);
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, bytes))
            .map_err(|e| format!("cannot write {}: {e}", path.display()))
    }
}

/// The manifest for `npm pack`, with the version of this workspace. The order of conditions in `exports` matters: the
/// first that holds is taken.
fn package() -> Result<String, String> {
    let source = String::from_utf8(read("web/package.json")?).map_err(|e| e.to_string())?;
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    match source.matches(VERSION).count() {
        1 => Ok(source.replace(VERSION, &version)),
        _ => Err(format!("web/package.json needs the line `{VERSION}` once")),
    }
}

/// A script of `web/` with what tells it which form of the program to load.
fn chooser(name: &str) -> Result<String, String> {
    let scripts = [read("web/program.js")?, read(&format!("web/{name}"))?];
    String::from_utf8(scripts.join(&b'\n')).map_err(|e| e.to_string())
}

/// The models of the first image, as `start.js` takes them.
fn first(gpu: &str, cpu: &str) -> String {
    format!("{{ gpu: \"{gpu}\", cpu: \"{cpu}\" }}")
}

fn asset(model: &str) -> String {
    format!("assets/{model}.safetensors")
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("cannot read {path}: {e}"))
}

/// What there is to explore before a model has drawn anything: a recorded run, and which expert works on which label.
fn explorable(names: &[&str]) -> Result<String, String> {
    let mut scripts = String::new();
    for name in names {
        let atlas = format!("assets/{name}.atlas.json");
        if Path::new(&atlas).exists() {
            let text = String::from_utf8(read(&atlas)?).map_err(|e| e.to_string())?;
            // In JSON it can only be part of a string.
            let text = text.replace('<', "\\u003c");
            let _ = writeln!(
                scripts,
                "<script type=\"application/json\" id=\"atlas-{name}\">{text}</script>"
            );
        }
        let recording = format!("assets/{name}.recording");
        if Path::new(&recording).exists() {
            let text = base64::encode(read(&recording)?);
            let _ = writeln!(
                scripts,
                "<script type=\"application/octet-stream;base64\" id=\"recording-{name}\">{text}</script>"
            );
        }
    }
    Ok(scripts)
}

/// What the page needs to know about the models before they are loaded.
fn models(names: &[&str]) -> Result<String, String> {
    let mut all = serde_json::Map::new();
    for &name in names {
        let bytes = read(&asset(name))?;
        let digest = Sha256::digest(&bytes).iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        all.insert(name.into(), serde_json::json!({ "bytes": bytes.len(), "sha256": digest }));
    }
    serde_json::to_string(&all).map_err(|e| e.to_string())
}

/// How a page is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// From a web server, with other files beside it.
    Site,
    /// As one file, which imports what it has made of its own text.
    File,
}

impl Form {
    /// What the page may load and run: its own scripts by their hashes, and no others; models from anywhere, because
    /// users may give their addresses.
    fn policy(self, page: &str) -> String {
        let own = match self {
            Self::Site => "'self'",
            Self::File => "blob:",
        };
        let mut scripts = format!("script-src {own} 'wasm-unsafe-eval'");
        for script in running_scripts(page) {
            let hash = base64::encode(Sha256::digest(script.as_bytes()));
            let _ = write!(scripts, " 'sha256-{hash}'");
        }
        let rules = [
            "default-src 'self'",
            &scripts,
            "connect-src 'self' https: http: data: blob:",
            "img-src 'self' data: blob:",
            // egui places its text field by a style.
            "style-src 'unsafe-inline'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ];
        rules.join("; ")
    }
}

/// The texts of the scripts in a page that browsers run; the others hold data.
fn running_scripts(page: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("<script") {
        let Some((attributes, after)) = after.split_once('>') else { break };
        let Some((text, after)) = after.split_once("</script>") else { break };
        if attributes.is_empty() || attributes == " type=\"module\"" {
            found.push(text);
        }
        rest = after;
    }
    found
}

/// The page's source with its scripts and links, without the notice for the unbuilt page.
fn index(scripts: &str, links: &str, form: Form) -> Result<String, String> {
    let source = String::from_utf8(read("index.html")?).map_err(|e| e.to_string())?;
    fill(&source, scripts, links, form)
}

fn fill(source: &str, scripts: &str, links: &str, form: Form) -> Result<String, String> {
    for line in [SCRIPT, LINKS, POLICY] {
        if source.matches(line).count() != 1 {
            return Err(format!("index.html needs the line `{line}` once"));
        }
    }
    let page = source.replace(LINKS, links).replace(SCRIPT, scripts).replacen(
        "<html lang=\"en\" class=\"unbuilt\">",
        "<html lang=\"en\">",
        1,
    );
    let policy = form.policy(&page);
    let policy = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">");
    Ok(page.replacen(POLICY, &policy, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../index.html")).unwrap()
    }

    #[test]
    fn the_source_takes_the_scripts() {
        let source = source();
        assert!(source.contains("class=\"unbuilt\""));
        let page = fill(&source, "<script>1</script>", "<link 2>", Form::Site).unwrap();
        assert!(page.contains("<script>1</script>") && !page.contains("class=\"unbuilt\""));
        assert!(page.contains("<link 2>") && !page.contains("<!-- the build"));
        assert!(fill("<html>", "", "", Form::Site).is_err());
    }

    #[test]
    fn the_policy_names_the_scripts_that_run_and_nothing_else_does() {
        let scripts = "<script type=\"application/json\" id=\"models\">{}</script>\n\
            <script>alert(1)</script>\n<script type=\"text/plain\">alert(2)</script>\n\
            <script type=\"module\">alert(3)</script>";
        for form in [Form::Site, Form::File] {
            let page = fill(&source(), scripts, "", form).unwrap();
            let (_, policy) = page.split_once("Content-Security-Policy\" content=\"").unwrap();
            let (policy, after) = policy.split_once('"').unwrap();
            // Rules count for what follows them.
            assert!(!after.contains("Content-Security-Policy") && after.contains("<script"));
            let rule = |name: &str| policy.split("; ").find(|rule| rule.starts_with(name));
            let rule = rule("script-src ").unwrap();
            // printf 'alert(1)' | openssl dgst -sha256 -binary | base64
            assert!(
                rule.contains("'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"),
                "{rule}"
            );
            assert_eq!(rule.matches("'sha256-").count(), 2, "{rule}");
            assert!(!rule.contains("'unsafe-inline'") && !rule.contains("'unsafe-eval'"), "{rule}");
            // No handlers in attributes, which no hash allows.
            for handler in [" onclick=", " onload=", " onerror=", "javascript:"] {
                assert!(!page.contains(handler), "{handler}");
            }
        }
    }
}
