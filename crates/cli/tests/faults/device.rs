//! The report on the graphics device, and what is remembered of it.

use std::process::Command;

use super::command::fixture;

#[test]
fn doctor_reports_on_every_kernel_and_checks_again_each_time() {
    let cache = tempfile::tempdir().expect("a folder");
    let doctor = || {
        let model = fixture("diffmoe_flow/model.safetensors");
        Command::new(env!("CARGO_BIN_EXE_diffmoe"))
            .args(["doctor", "--backend", "gpu", "--model", &model])
            .env("XDG_CACHE_HOME", cache.path())
            .env("HOME", cache.path())
            .env("LOCALAPPDATA", cache.path())
            .env_remove("DIFFMOE_KERNELS")
            .output()
            .expect("the tool starts")
    };
    let files = || {
        let all = walk(cache.path());
        all.into_iter().filter(|path| path.to_string_lossy().contains("check-")).collect::<Vec<_>>()
    };
    let output = doctor();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "diffmoe ",
        "adapter ",
        "driver ",
        "limits ",
        "workgroup-tile kernels",
        "register-only kernels",
        "ok    attention",
        "ok    expert_linear, int4 weights",
        "ok    group_stats, group_fold, group_norm",
        "ok    block 1 of",
        "computes on",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // Kernels and a block.
    let kept = files();
    assert_eq!(kept.len(), 2, "{kept:?}");
    for file in &kept {
        let text = std::fs::read_to_string(file).expect("a file");
        assert!(text.ends_with("\npassed\n"), "{text}");
        std::fs::write(file, text.replace("passed", "linear is off by 3e-1")).expect("a file");
    }
    // It does not believe what it finds, but the next run of another command does.
    assert_eq!(doctor().status.code(), Some(0));
    for file in files() {
        assert!(std::fs::read_to_string(file).expect("a file").ends_with("\npassed\n"));
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
