//! A small web server for the finished page: right types, no caching, and ranges, so that downloads can be resumed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use tiny_http::{Header, Request, Response, Server, StatusCode};

/// Visitors that are answered at the same time; a browser opens up to six connections.
const THREADS: usize = 6;

/// Serves a folder until the program is stopped.
pub(super) fn serve(folder: &Path, port: u16, open_browser: bool) -> Result<(), String> {
    let server = Server::http(("127.0.0.1", port)).map_err(|e| {
        format!("cannot listen on port {port}: {e}; choose another one with --port")
    })?;
    let port = server.server_addr().to_ip().map_or(port, |address| address.port());
    // Browsers trust `localhost` with WebGPU and storage, as they trust HTTPS.
    let address = format!("http://localhost:{port}/");
    println!("\nserving dist/ at {address} (stop with Ctrl-C)");
    if open_browser && let Err(error) = open::that_detached(&address) {
        println!("no browser could be opened ({error}): open the address yourself");
    }
    let server = Arc::new(server);
    let threads = (0..THREADS).map(|_| {
        let (server, folder) = (server.clone(), folder.to_owned());
        std::thread::spawn(move || {
            while let Ok(request) = server.recv() {
                answer(request, &folder);
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().map_err(|_| "the server failed")?;
    }
    Ok(())
}

/// Answers one request. A client that disconnects is not an error.
fn answer(request: Request, folder: &Path) {
    let range =
        request.headers().iter().find(|h| h.field.equiv("Range")).map(|h| h.value.to_string());
    let Some(path) = resolve(folder, request.url()) else {
        let _ = request.respond(Response::from_string("not found").with_status_code(404));
        return;
    };
    let opened = File::open(&path).and_then(|file| file.metadata().map(|m| (file, m.len())));
    let Ok((mut file, size)) = opened else {
        let _ = request.respond(Response::from_string("not found").with_status_code(404));
        return;
    };
    let mut headers = vec![
        header("Content-Type", mime(&path)),
        header("Cache-Control", "no-cache"),
        header("Accept-Ranges", "bytes"),
    ];
    let (status, start, length) = match range.as_deref().map(|text| parse_range(text, size)) {
        None => (200, 0, size),
        Some(Some((start, end))) => {
            headers.push(header("Content-Range", &format!("bytes {start}-{end}/{size}")));
            (206, start, end + 1 - start)
        }
        Some(None) => {
            let unsatisfiable = header("Content-Range", &format!("bytes */{size}"));
            let _ = request.respond(Response::empty(416).with_header(unsatisfiable));
            return;
        }
    };
    if file.seek(SeekFrom::Start(start)).is_err() {
        let _ = request.respond(Response::empty(500));
        return;
    }
    let body = file.take(length);
    // Above this length the crate would send chunks without a length, and progress could not be shown.
    let response = Response::new(StatusCode(status), headers, body, Some(length as usize), None)
        .with_chunked_threshold(usize::MAX);
    let _ = request.respond(response);
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("our headers are plain ASCII")
}

/// The file that an address means, if it is inside the folder.
fn resolve(folder: &Path, url: &str) -> Option<PathBuf> {
    let path = url.split(['?', '#']).next()?.trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let is_plain = |component: Component<'_>| matches!(component, Component::Normal(_));
    Path::new(path).components().all(is_plain).then(|| folder.join(path))
}

fn mime(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("json") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("md" | "ts") => "text/plain; charset=utf-8",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

/// First and last byte of a single range; nothing where it cannot be satisfied.
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.min(size.checked_sub(1)?)),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.checked_sub(1)?),
        (Err(_), Ok(length)) if first.is_empty() => {
            (size.saturating_sub(length), size.checked_sub(1)?)
        }
        _ => return None,
    };
    (range.0 <= range.1).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_bytes_of_the_file() {
        assert_eq!(parse_range("bytes=0-3", 10), Some((0, 3)));
        assert_eq!(parse_range("bytes=4-", 10), Some((4, 9)));
        assert_eq!(parse_range("bytes=-3", 10), Some((7, 9)));
        assert_eq!(parse_range("bytes=8-99", 10), Some((8, 9)));
        for wrong in ["bytes=10-", "bytes=5-4", "bytes=a-b", "lines=0-1", "bytes=0-"] {
            assert_eq!(
                parse_range(wrong, if wrong == "bytes=0-" { 0 } else { 10 }),
                None,
                "{wrong}"
            );
        }
    }

    #[test]
    fn addresses_stay_inside_the_folder() {
        let folder = Path::new("dist");
        assert_eq!(resolve(folder, "/"), Some(folder.join("index.html")));
        assert_eq!(resolve(folder, "/models/a.b?v=1"), Some(folder.join("models/a.b")));
        assert_eq!(resolve(folder, "/../Cargo.toml"), None);
        assert_eq!(resolve(folder, "/a/../../b"), None);
    }
}
