//! `cargo xtask web`: builds the page into a folder that any web server can host.

mod budget;
mod build;
mod install;
mod licences;
mod optimise;
mod page;
mod programs;
mod serve;

use std::path::PathBuf;

pub(crate) const HELP: &str = "usage: cargo xtask web [OPTIONS]

Builds the page into dist/ (index.html, scripts, WebAssembly, models) and reports its size.

options:
  --serve      serve it locally and open it in the browser
  --port N     with --serve: the port; 0 takes a free one [default: 8080]
  --no-open    with --serve: do not open a browser
  --address A  where the page will be, such as https://example.org/diffmoe/: sites that show a picture beside a link
               to the page need its whole address
  --offline    also write dist/diffmoe.html: one self-contained file, for use without a network
  --optimise   get wasm-opt from npm (package `binaryen`) if it is not installed; the page works without it
  --dev        faster build instead of a small one, for work on the page";

/// The request.
#[derive(Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Options {
    serve: bool,
    open: bool,
    port: u16,
    offline: bool,
    optimise: bool,
    dev: bool,
    address: Option<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            serve: false,
            open: true,
            port: 8080,
            offline: false,
            optimise: false,
            dev: false,
            address: None,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--serve" => options.serve = true,
                "--no-open" => options.open = false,
                "--offline" => options.offline = true,
                "--optimise" => options.optimise = true,
                "--dev" => options.dev = true,
                "--port" => {
                    let port = rest.next().and_then(|text| text.parse().ok());
                    options.port = port.ok_or("--port needs a number from 0 to 65535")?;
                }
                "--address" => {
                    let address = rest.next().filter(|text| text.starts_with("http"));
                    options.address =
                        Some(address.ok_or("--address needs an address with http")?.clone());
                }
                other => return Err(format!("unknown option {other:?}\n\n{HELP}")),
            }
        }
        Ok(options)
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::set_current_dir(&root).map_err(|e| format!("cannot enter the repository: {e}"))?;
    let folder = PathBuf::from("dist");
    let built = build::wasm(options.dev)?;
    let programs = optimise::shrink(built.programs, options.optimise, &built.target_folder)?;
    let licences = licences::collect()?;
    let Options { address, .. } = &options;
    let address = address.clone();
    let page = page::Page { js: built.js, programs, licences, folder: folder.clone(), address };
    page.write()?;
    if options.offline {
        page.write_offline()?;
    }
    if options.dev {
        println!("a development build is too large to publish; its size is not checked");
    } else {
        budget::check(&folder)?;
    }
    if options.serve {
        return serve::serve(&folder, options.port, options.open);
    }
    println!("\nto open it: cargo xtask web --serve");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_understood_or_refused() {
        let options = parse("--serve --port 0 --no-open").unwrap();
        assert!(options.serve && !options.open && options.port == 0 && !options.offline);
        assert!(parse("--port").unwrap_err().contains("needs a number"));
        let address = parse("--address https://example.org/").unwrap().address;
        assert_eq!(address.as_deref(), Some("https://example.org/"));
        assert!(parse("--address --dev").unwrap_err().contains("needs an address"));
        assert!(parse("--sevre").unwrap_err().contains("unknown option \"--sevre\""));
    }
}
