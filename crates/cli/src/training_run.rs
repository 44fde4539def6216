//! Finds the last checkpoint of a training run and the YAML file that describes its model.

use std::path::{Path, PathBuf};

use diffmoe::checkpoint::{hub_file, is_run_config};

/// The file itself, the last checkpoint of a run's folder, or the weights in a folder from a model hub.
pub(super) fn find_checkpoint(source: &Path) -> Result<PathBuf, String> {
    if !source.is_dir() {
        return Ok(source.to_owned());
    }
    let mut found = files_with(&source.join("checkpoints"), &["pt", "pth"]);
    if found.is_empty() {
        found = files_with(source, &["pt", "pth"]);
    }
    found.sort_by_key(|path| steps(path));
    while let Some(last) = found.pop() {
        // A run that was killed while it saved.
        if last.metadata().is_ok_and(|data| data.len() == 0) {
            eprintln!("note: skipped {}, which is empty", last.display());
            continue;
        }
        eprintln!("reading {}", last.display());
        return Ok(last);
    }
    let missing = || {
        format!(
            "there is no .pt or .pth file in {} or its folder checkpoints, and no weights of diffusers",
            source.display()
        )
    };
    hub_file(source).ok_or_else(missing)
}

/// Sort key by the number of steps in the name, whose digits are compared as a number: by their count, then in order.
/// Names without a number come first.
fn steps(path: &Path) -> (usize, String, String) {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // The last number in the name.
    let end = name.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1);
    let start = name[..end].trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let number = name[start..end].trim_start_matches('0');
    let len = if start == end { 0 } else { number.len() + 1 };
    (len, number.to_owned(), name)
}

/// A YAML file of a training run.
#[derive(Debug)]
pub(super) struct RunConfig {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// The YAML file in the checkpoint's folder or up to two levels above, as in official runs. YAML files of other programs
/// are ignored.
pub(super) fn find_yaml(file: &Path) -> Result<Option<RunConfig>, String> {
    let file = std::path::absolute(file).map_err(|e| format!("{}: {e}", file.display()))?;
    for folder in file.ancestors().skip(1).take(3) {
        let mut paths = files_with(folder, &["yaml", "yml"]);
        paths.sort();
        let mut found: Vec<_> = paths.into_iter().filter_map(run_config).collect();
        if found.len() > 1 {
            let names: Vec<_> = found.iter().map(|one| one.path.display().to_string()).collect();
            return Err(format!(
                "there are several YAML files of training runs: {}; choose one with --yaml",
                names.join(", ")
            ));
        }
        if let Some(found) = found.pop() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A file that describes a model.
fn run_config(path: PathBuf) -> Option<RunConfig> {
    let text = std::fs::read_to_string(&path).ok()?;
    match is_run_config(&text) {
        Ok(true) => Some(RunConfig { path, text }),
        Ok(false) => None,
        Err(error) => {
            if text.contains("params:") {
                eprintln!("note: skipped {}: {error}", path.display());
            }
            None
        }
    }
}

fn files_with(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let fits = |path: &PathBuf| {
        path.extension().is_some_and(|e| extensions.iter().any(|x| e.eq_ignore_ascii_case(x)))
            && path.is_file()
    };
    entries.map(|entry| entry.path()).filter(fits).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_with_most_steps_is_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let last = |names: &[&str]| {
            for name in names {
                std::fs::write(at(name), "x").unwrap();
            }
            let found = find_checkpoint(folder.path())
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
            for name in names {
                std::fs::remove_file(at(name)).unwrap();
            }
            found.unwrap()
        };
        assert_eq!(last(&["9950000.pt", "10000000.pt"]), "10000000.pt");
        assert_eq!(last(&["5000.pt", "0100000.pt", "20000.pt"]), "0100000.pt");
        assert_eq!(last(&["step_900.pt", "step_1000.pt", "best.pt"]), "step_1000.pt");
        assert_eq!(last(&["epoch-9-ema.pt", "epoch-10-ema.pt"]), "epoch-10-ema.pt");
        assert_eq!(last(&["0.pt", "best.pt"]), "0.pt");
        let long = "99999999999999999999999999999999999999999999.pt";
        assert_eq!(last(&[long, "1.pt"]), long);

        std::fs::create_dir(at("z.pt")).unwrap();
        std::fs::write(at("7.pt"), "").unwrap();
        assert_eq!(last(&["6.pt", "5.pt"]), "6.pt", "an empty file and a folder do not count");
        let error = find_checkpoint(folder.path()).unwrap_err();
        assert!(error.contains("there is no .pt or .pth file in"), "{error}");
    }

    #[test]
    fn only_yaml_files_that_describe_a_model_count() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("DiT/pretrained_models");
        std::fs::create_dir_all(&weights).unwrap();
        let file = weights.join("model.pt");
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("DiT/environment.yml", "name: DiT\ndependencies:\n  - python >= 3.8\n");
        write("DiT/broken.yaml", "params: [1, 2\n");
        assert!(find_yaml(&file).unwrap().is_none());
        write("run.yaml", "model: {params: {depth: 1}}\n");
        let found = find_yaml(&file).unwrap().unwrap();
        assert_eq!(found.path.file_name().unwrap(), "run.yaml");
        write("DiT/a.yaml", "model: {params: {depth: 1}}\n");
        write("DiT/b.yml", "params: {depth: 1}\n");
        let error = find_yaml(&file).unwrap_err();
        assert!(
            error.contains("a.yaml") && error.contains("b.yml") && error.contains("--yaml"),
            "{error}"
        );
    }
}
