//! `cargo xtask isa`: compiles every pipeline of the real models for an AMD GPU that is not there, prints what the
//! compiler made of each, and compares it with `docs/isa.md`.
//!
//! Mesa's Vulkan driver for AMD compiles without a device when `RADV_FORCE_FAMILY` names a chip. The program itself
//! cannot run on that driver (it has no memory), so the pipelines are recorded on whatever adapter there is, and
//! compiled by a second process that sees only the driver for AMD.

mod assembly;
mod driver;
mod gate;
mod pipelines;
mod spirv;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use pipelines::Pipeline;
use table::Table;

/// What the table is made for, RDNA 3, as drivers of different age call it.
const FAMILIES: [&str; 2] = ["gfx1100", "navi31"];

/// Where Vulkan drivers announce themselves on Linux.
const DRIVER_FOLDERS: [&str; 3] =
    ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

const TABLE: &str = "docs/isa.md";

const HELP: &str = "usage: cargo xtask isa [OPTIONS]

Compiles every pipeline of the real models with Mesa's compiler for AMD GPUs, which needs no GPU, and fails
if a limit is exceeded or a figure is more than 10 % worse than in docs/isa.md.

options:
  --update           write docs/isa.md instead of comparing with it; limits are still checked
  --family NAME      another chip, by its RADV_FORCE_FAMILY name (navi21, gfx1100); nothing is compared
  --only TEXT        only pipelines whose name contains this; nothing is compared
  --assembly FOLDER  keep the machine code";

#[derive(Default)]
struct Options {
    update: bool,
    family: Option<String>,
    only: String,
    assembly: Option<PathBuf>,
}

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help" | "-h", ..] => {
            println!("{HELP}");
            Ok(())
        }
        // The second process.
        ["--compile", folder] => driver::compile_all(Path::new(folder)),
        _ => parse(&arguments).and_then(|options| run(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Outcome<Options> {
    let mut options = Options::default();
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        let mut value =
            || left.next().cloned().ok_or_else(|| format!("{argument} needs a value\n\n{HELP}"));
        match argument.as_str() {
            "--update" => options.update = true,
            "--family" => options.family = Some(value()?),
            "--only" => options.only = value()?,
            "--assembly" => options.assembly = Some(value()?.into()),
            other => return Err(format!("unknown option {other:?}\n\n{HELP}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Outcome<()> {
    let Some(driver) = radv() else {
        println!(
            "skipped: Mesa's driver for AMD GPUs is not installed (Debian: mesa-vulkan-drivers)"
        );
        return Ok(());
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pipelines = pipelines::of_real_models(&root)?;
    pipelines.retain(|pipeline| pipeline.name().contains(&options.only));
    if pipelines.is_empty() {
        return Err(format!("no pipeline has {:?} in its name", options.only));
    }
    let families = options.family.as_deref().map_or(FAMILIES.to_vec(), |family| vec![family]);
    let folder = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
    let Some(table) = compile(&pipelines, &families, &driver, folder.path())? else {
        println!("skipped: Mesa's driver for AMD GPUs knows none of {}", families.join(", "));
        return Ok(());
    };
    println!("{}", table.print());
    if let Some(kept) = &options.assembly {
        keep_assembly(&pipelines, folder.path(), kept)?;
    }
    let is_whole = options.family.is_none() && options.only.is_empty();
    let mut failures = gate::passed_limits(&table);
    let path = root.join(TABLE);
    if is_whole && options.update {
        std::fs::write(&path, table.to_markdown()).map_err(|e| format!("{TABLE}: {e}"))?;
        println!("wrote {TABLE}");
    } else if is_whole {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{TABLE}: {e}"))?;
        let before = Table::from_markdown(&text).map_err(|e| format!("{TABLE}: {e}"))?;
        if before.driver == table.driver {
            failures.extend(gate::regressions(&before, &table));
        } else {
            println!(
                "{TABLE} is from {}, this is {}: figures were not compared, only limits",
                before.driver, table.driver
            );
        }
    }
    if failures.is_empty() {
        println!("{} pipelines, no limit passed", table.rows.len());
        return Ok(());
    }
    Err(format!("{} failures:\n  {}", failures.len(), failures.join("\n  ")))
}

/// The file that announces Mesa's driver for AMD GPUs.
fn radv() -> Option<PathBuf> {
    let files = |folder| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_radv = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("radeon_icd") && name.ends_with(".json")
    };
    DRIVER_FOLDERS.into_iter().flat_map(files).map(|entry| entry.path()).find(is_radv)
}

/// Hands the pipelines to a process that has the driver for AMD and no other, and reads what it found. Nothing where
/// the driver knows none of the chips.
fn compile(
    pipelines: &[Pipeline],
    families: &[&str],
    driver: &Path,
    folder: &Path,
) -> Outcome<Option<Table>> {
    for (i, pipeline) in pipelines.iter().enumerate() {
        pipeline.write(folder, i).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let program = std::env::current_exe().map_err(|e| format!("no path of this program: {e}"))?;
    for &family in families {
        let status = Command::new(&program)
            .arg("--compile")
            .arg(folder)
            .env("RADV_FORCE_FAMILY", family)
            .env("VK_ICD_FILENAMES", driver)
            .env("VK_DRIVER_FILES", driver)
            // A layer that sorts devices by what a screen is connected to.
            .env("NODEVICE_SELECT", "1")
            // Times of compilation are to be true.
            .env("MESA_SHADER_CACHE_DISABLE", "true")
            .status()
            .map_err(|e| format!("the compiling process did not start: {e}"))?;
        if !driver::has_opened(folder) {
            continue;
        }
        let mut table = Table::new(family);
        for (i, pipeline) in pipelines.iter().enumerate() {
            let found = driver::read(folder, i).map_err(|e| {
                format!("{}: {e} (the compiling process ended with {status})", pipeline.name())
            })?;
            table.add(pipeline, found).map_err(|e| format!("{}: {e}", pipeline.name()))?;
        }
        return Ok(Some(table));
    }
    Ok(None)
}

fn keep_assembly(pipelines: &[Pipeline], from: &Path, to: &Path) -> Outcome<()> {
    let problem = |e| format!("{}: {e}", to.display());
    std::fs::create_dir_all(to).map_err(problem)?;
    for (i, pipeline) in pipelines.iter().enumerate() {
        let file = to.join(format!("{}.s", pipeline.name().replace([' ', '='], "_")));
        std::fs::copy(driver::assembly_path(from, i), file).map_err(problem)?;
    }
    Ok(())
}
