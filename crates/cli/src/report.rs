//! Results of `diffmoe verify`: recorded tensors compared one by one, with a line for each.

use safetensors::{Dtype, SafeTensors};

/// A recorded tensor as numbers.
pub(super) struct Recorded {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
    /// Counts and sets have to be equal; floats may differ within the tolerance.
    pub(super) exact: bool,
}

/// Counts verdicts and prints one line for each.
pub(super) struct Report {
    tolerance: f32,
    passed: u32,
    failed: u32,
}

/// Reads a recorded tensor.
pub(super) fn record(io: &SafeTensors<'_>, name: &str) -> Result<Recorded, String> {
    let view = io.tensor(name).map_err(|_| format!("io.safetensors has no tensor {name:?}"))?;
    let raw = view.data();
    let words = || raw.as_chunks::<4>().0.iter().copied();
    let (values, exact): (Vec<f32>, bool) = match view.dtype() {
        Dtype::F32 => (words().map(f32::from_le_bytes).collect(), false),
        Dtype::I32 => (words().map(|b| i32::from_le_bytes(b) as f32).collect(), true),
        Dtype::U8 => (raw.iter().map(|&b| f32::from(b)).collect(), true),
        Dtype::I64 => {
            let words = raw.as_chunks::<8>().0.iter();
            (words.map(|&b| i64::from_le_bytes(b) as f32).collect(), true)
        }
        other => return Err(format!("{name} is stored as {other:?}, which verify cannot read")),
    };
    Ok(Recorded { shape: view.shape().to_vec(), values, exact })
}

impl Report {
    pub(super) fn new(tolerance: f32) -> Self {
        Self { tolerance, passed: 0, failed: 0 }
    }

    /// Prints the counts; returns whether anything differs.
    pub(super) fn finish(self) -> Result<bool, &'static str> {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.passed + self.failed == 0 {
            return Err("the case contains nothing to compare");
        }
        Ok(self.failed > 0)
    }

    pub(super) fn compare(
        &mut self,
        name: &str,
        wanted: &Recorded,
        shape: &[usize],
        values: &[f32],
    ) {
        let verdict = if wanted.shape != shape {
            Err(format!("shape {shape:?}, recorded {:?}", wanted.shape))
        } else if wanted.exact {
            // Counts and bits are integers, which f32 holds exactly.
            let differ = wanted.values.iter().zip(values);
            let differ = differ.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            let all = values.len();
            if differ == 0 {
                Ok(format!("all {all} equal"))
            } else {
                Err(format!("{differ} of {all} differ"))
            }
        } else {
            // NaN must not pass, so the test is written to fail on it.
            let errors = wanted.values.iter().zip(values).map(|(a, b)| (a - b).abs());
            let worst = errors.fold(0.0_f32, |m, e| if e > m || e.is_nan() { e } else { m });
            let largest = wanted.values.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
            let size = if largest > 10.0 { format!(" of {largest:.0}") } else { String::new() };
            let text = format!("max abs error {worst:.2e}{size}");
            if worst <= self.tolerance * largest { Ok(text) } else { Err(text) }
        };
        match verdict {
            Ok(text) => {
                self.passed += 1;
                println!("ok    {name:<24} {text}");
            }
            Err(text) => {
                self.failed += 1;
                println!("FAIL  {name:<24} {text}");
            }
        }
    }
}
