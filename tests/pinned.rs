//! CPU samples, byte for byte: every scheduler, routing rule, kind of model, kind of file and decoder, compared with
//! the hashes in `tests/fixtures/pinned.txt`. A refactoring changes none of them.
//!
//! To update the table after an intended change of samples:
//!
//! ```text
//! PINNED_WRITE=1 cargo nextest run --test pinned          # all cases
//! PINNED_WRITE=shipped cargo nextest run --test pinned    # only those of the shipped models: new weights
//! ```
//!
//! Samples do not depend on the number of threads (`RAYON_NUM_THREADS`), on the optimisation level or on the width
//! of vectors: every sum has a fixed order, Rust fuses no operations by itself, and functions such as `sin` are those
//! of the package `libm`. They depend on one property of the machine: whether a multiply-add of the matrix product
//! rounds once (x86-64-v3 with FMA, NEON) or twice (older x86-64).
//!
//! The table holds it as [`machine`] gives it. On a machine with another one the table has no answers, and the
//! comparison is skipped with a message. The table was made on x86-64 with FMA.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod pinned_cases;

use std::fmt::Write as _;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use pinned_cases::compute::compute;
use pinned_cases::{CASES, Case};
use pulp::{Arch, Simd, WithSimd};
use sha2::{Digest, Sha256};

/// What the table says of a case, after its name. The mean magnitude of the samples is there for people: it shows
/// how far they have moved.
const FIELDS: [&str; 5] = ["origin", "mean", "samples", "trace", "file"];

const HEAD: &str = "# The answers of tests/pinned.rs, which says how to write them anew. One line for each case: name; origin of
# the weights (those of `shipped` models may be replaced); mean magnitude of the samples; SHA-256 of the samples
# as f32, little-endian; of the trace as JSON; of the model's file. The first line is of the machine.
";

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    fields: [String; FIELDS.len()],
}

impl Row {
    /// Computes a case.
    fn of(case: &Case) -> Self {
        let answer = compute(case);
        let samples = &answer.samples;
        assert!(
            samples.iter().all(|v| v.is_finite()),
            "{}: numbers that are not finite",
            case.name
        );
        let mean = samples.iter().map(|v| f64::from(v.abs())).sum::<f64>() / samples.len() as f64;
        let bytes: Vec<u8> = samples.iter().flat_map(|v| v.to_le_bytes()).collect();
        let fields = [
            case.model.origin().to_owned(),
            format!("{mean:.11e}"),
            sha256(&bytes),
            sha256(answer.trace.as_bytes()),
            sha256(&answer.file),
        ];
        Self { name: case.name.to_owned(), fields }
    }

    fn read(line: &str) -> Self {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next().unwrap();
        let fields = words.collect::<Vec<_>>().try_into();
        Self { fields: fields.unwrap_or_else(|_| panic!("{name}: a line has {FIELDS:?}")), name }
    }

    /// What differs from the table's line, for people.
    fn difference(&self, want: &Self) -> Option<String> {
        let fields = FIELDS.iter().zip(self.fields.iter().zip(&want.fields));
        let mut parts =
            fields.filter(|(_, (got, want))| got != want).map(|(field, (got, want))| {
                if want.len() == 64 {
                    (*field).to_owned()
                } else {
                    format!("{field} {got}, was {want}")
                }
            });
        let first = parts.next()?;
        Some(parts.fold(first, |text, part| text + "; " + &part))
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// How a multiply-add rounds on this machine, on which the samples depend.
fn machine() -> String {
    /// `(1 + 2⁻¹²)² - (1 + 2⁻¹¹)`: 2⁻²⁴ where a multiply-add rounds once, else 0.
    struct MultiplyAdd;
    impl WithSimd for MultiplyAdd {
        type Output = u32;
        fn with_simd<S: Simd>(self, simd: S) -> u32 {
            let factor = simd.splat_f32s(black_box(1.0 + 2_f32.powi(-12)));
            let minus = simd.splat_f32s(black_box(-1.0 - 2_f32.powi(-11)));
            let sum = simd.mul_add_e_f32s(factor, factor, minus);
            simd.reduce_max_f32s(sum).to_bits()
        }
    }
    let rounds_once = Arch::new().dispatch(MultiplyAdd) != 0;
    (if rounds_once { "fused" } else { "separate" }).to_owned()
}

fn table_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pinned.txt")
}

/// The machine and the cases of the table.
fn read_table() -> (String, Vec<Row>) {
    let text = std::fs::read_to_string(table_path()).unwrap();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let machine = lines.next().and_then(|line| line.strip_prefix("machine ")).expect("a machine");
    (machine.to_owned(), lines.map(Row::read).collect())
}

fn write_table(rows: &[Row]) {
    let mut text = format!("{HEAD}machine {}\n", machine());
    for Row { name, fields } in rows {
        writeln!(text, "{name} {}", fields.join(" ")).unwrap();
    }
    std::fs::write(table_path(), text).unwrap();
}

/// Computes the cases one after the other; those that panic are left out.
fn compute_all() -> Vec<Row> {
    let of = |case: &Case| {
        let start = Instant::now();
        let row = catch_unwind(AssertUnwindSafe(|| Row::of(case))).ok();
        println!("{}: {:.0} ms", case.name, start.elapsed().as_secs_f64() * 1e3);
        row
    };
    CASES.iter().filter_map(of).collect()
}

/// All that is wrong with the rows, one line each.
fn compare(rows: &[Row], table: &[Row]) -> Vec<String> {
    let find = |rows: &'_ [Row], name: &str| rows.iter().position(|row| row.name == name);
    let mut problems = Vec::new();
    for name in CASES.iter().map(|case| case.name) {
        let problem = match (find(rows, name), find(table, name)) {
            (None, _) => Some("it panics, see above".to_owned()),
            (_, None) => Some("it is not in the table".to_owned()),
            (Some(got), Some(want)) => rows[got].difference(&table[want]),
        };
        problems.extend(problem.map(|problem| format!("{name}: {problem}")));
    }
    for (i, row) in rows.iter().enumerate() {
        // A setting without effect, or a case that is there twice.
        let twin = rows[..i].iter().find(|other| other.fields[2] == row.fields[2]);
        problems.extend(twin.map(|twin| format!("{}: the samples of {}", row.name, twin.name)));
        let is_case = CASES.iter().filter(|case| case.name == row.name).count() == 1;
        problems.extend((!is_case).then(|| format!("{}: the name of several cases", row.name)));
    }
    let forgotten = table.iter().filter(|row| CASES.iter().all(|case| case.name != row.name));
    problems.extend(forgotten.map(|row| format!("{}: in the table, but no case", row.name)));
    problems
}

#[test]
fn samples_are_what_they_were() {
    let write = std::env::var("PINNED_WRITE").unwrap_or_default();
    let (of_table, table) = match write.as_str() {
        "1" => (machine(), Vec::new()),
        "" | "shipped" => read_table(),
        other => panic!("PINNED_WRITE is 1 or shipped, not {other}"),
    };
    if of_table != machine() {
        assert!(write.is_empty(), "another machine has to write all cases: PINNED_WRITE=1");
        println!("skipped: this machine rounds otherwise than the one that the table was made on");
        return;
    }
    let mut rows = compute_all();
    let problems = compare(&rows, &table);
    let count = problems.len();
    let problems = problems.join("\n");
    if write.is_empty() {
        assert!(count == 0, "{count} differences in {} cases:\n{problems}", CASES.len());
        return;
    }
    println!("{count} differences:\n{problems}");
    assert_eq!(rows.len(), CASES.len(), "a case panics: nothing is written");
    if write == "shipped" {
        for row in rows.iter_mut().filter(|row| row.fields[0] != "shipped") {
            let kept = table.iter().find(|kept| kept.name == row.name);
            row.clone_from(kept.unwrap_or_else(|| panic!("{} is not in the table", row.name)));
        }
    }
    write_table(&rows);
}

#[test]
fn samples_do_not_depend_on_the_number_of_threads() {
    let named = ["heun_8", "shared_8_pool_guided", "ddpm_8_pool_joint", "ec_8_guided", "decode_kl"];
    for case in CASES.iter().filter(|case| named.contains(&case.name)) {
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Row::of(case))
        });
        assert_eq!(one, three);
    }
}
