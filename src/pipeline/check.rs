//! Whether a device computes what it should, and with which tiles: found out at the first use of an adapter with its
//! driver and these shaders, and remembered.

use std::fmt::Write;
use std::sync::LazyLock;

use crate::engine::EngineError;
use crate::gpu::{Gpu, GpuError, GpuOptions, Profile, Tiling};
use crate::kernels::all_sources;
use crate::kernels::probes::{self, Finding, Kernels};
use crate::kernels::tiles::{self, Product};
use crate::platform;

/// Where devices and the results of earlier checks come from: the system, or a test.
pub(super) trait Surroundings {
    /// A new device.
    async fn device(&self) -> Result<Gpu, GpuError>;
    /// What was remembered.
    fn recall(&self, key: &str) -> Option<String>;
    /// Keeps a text.
    fn remember(&self, key: &str, text: &str);
}

/// The system, and the user's cache.
pub(super) struct System {
    /// Whether results of earlier checks count.
    pub(super) trusts: bool,
}

impl Surroundings for System {
    async fn device(&self) -> Result<Gpu, GpuError> {
        Gpu::headless_async(GpuOptions::default()).await
    }

    fn recall(&self, key: &str) -> Option<String> {
        if self.trusts { platform::recall(key) } else { None }
    }

    fn remember(&self, key: &str, text: &str) {
        platform::remember(key, text);
    }
}

/// What is wrong with a device, in a few words; `None` where all is well.
pub(super) type Verdict = Option<String>;

/// Checks kernels, unless that was done before.
///
/// # Errors
/// When the device is lost or does not answer.
pub(super) async fn kernels(
    around: &impl Surroundings,
    gpu: &Gpu,
    kernels: &Kernels,
) -> Result<Verdict, GpuError> {
    let identity = identity(gpu, &format!("{kernels:?}"));
    if let Some(verdict) = known(around, &identity) {
        return Ok(verdict);
    }
    match gpu.error_scope(probes::check(gpu, kernels)).await.flatten() {
        Ok(findings) => Ok(conclude(around, &identity, &findings)),
        // A kernel that the driver cannot compile is as bad as a wrong one.
        Err(GpuError::Refused(reason)) => Ok(Some(reason)),
        Err(error) => Err(error),
    }
}

/// Checks a part of a model on the device, unless that was done before; `what` tells models apart.
///
/// # Errors
/// When the device is lost or does not answer.
pub(super) async fn part(
    around: &impl Surroundings,
    gpu: &Gpu,
    what: &str,
    check: impl AsyncFnOnce() -> Result<Finding, EngineError>,
) -> Result<Verdict, EngineError> {
    let identity = identity(gpu, what);
    if let Some(verdict) = known(around, &identity) {
        return Ok(verdict);
    }
    match gpu.error_scope(check()).await {
        Ok(Ok(finding)) => Ok(conclude(around, &identity, &[finding])),
        // A device that does not answer is left, as it is by a run.
        Ok(Err(error)) if error.needs_new_device() => Err(error),
        // There is no memory for the check. A run says so, if it needs as much.
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// The tiling with which a device computes products fastest, measured unless that was done before. Kernels without tiles
/// and a tiling that the user chose stay as they are.
///
/// # Errors
/// When the device is lost or does not answer.
pub(super) async fn tiling(
    around: &impl Surroundings,
    gpu: &Gpu,
    products: &[Product],
) -> Result<Tiling, GpuError> {
    if gpu.profile == Profile::Software || gpu.tiling_is_fixed || products.is_empty() {
        return Ok(gpu.tiling);
    }
    let identity = identity(gpu, &format!("tiles of {products:?}"));
    if let Some(enough) = recalled(around, &identity).and_then(|text| text.parse().ok()) {
        return Ok(Tiling::LargeFrom(enough));
    }
    match gpu.error_scope(Box::pin(tiles::measure(gpu, products))).await.flatten() {
        Ok(tiling) => {
            if let Tiling::LargeFrom(enough) = tiling {
                around.remember(&key(&identity), &format!("{identity}\n{enough}\n"));
            }
            Ok(tiling)
        }
        // There is no memory for the measurement. A run says so, if it needs as much.
        Err(GpuError::Refused(_)) => Ok(gpu.tiling),
        Err(error) => Err(error),
    }
}

/// What is wrong in some findings.
fn verdict(findings: &[Finding]) -> Verdict {
    let wrong = findings.iter().filter(|finding| !finding.passes());
    let worst = wrong.max_by(|a, b| a.error.total_cmp(&b.error))?;
    Some(if worst.error.is_finite() {
        format!("{} is off by {:.0e}", worst.kernel, worst.error)
    } else {
        format!("{} is not finite", worst.kernel)
    })
}

fn conclude(around: &impl Surroundings, identity: &str, findings: &[Finding]) -> Verdict {
    let verdict = verdict(findings);
    let text = verdict.as_deref().unwrap_or(GOOD);
    around.remember(&key(identity), &format!("{identity}\n{text}\n"));
    verdict
}

/// What stands for a device that passed.
const GOOD: &str = "passed";

/// The remembered verdict.
fn known(around: &impl Surroundings, identity: &str) -> Option<Verdict> {
    let verdict = recalled(around, identity)?;
    Some((verdict != GOOD).then_some(verdict))
}

/// What was remembered of something.
fn recalled(around: &impl Surroundings, identity: &str) -> Option<String> {
    let text = around.recall(&key(identity))?;
    let mut lines = text.lines();
    lines.next().filter(|line| *line == identity).and(lines.next()).map(str::to_owned)
}

fn key(identity: &str) -> String {
    format!("check-{:016x}", fnv([identity.as_bytes()]))
}

/// All that a result depends on, in one line.
fn identity(gpu: &Gpu, what: &str) -> String {
    let info = &gpu.info;
    let mut text = format!("{} {:016x}", env!("CARGO_PKG_VERSION"), shaders());
    let _ = write!(
        text,
        "; {:?} {:04x}:{:04x} {}; {}; {}; {}; {:?}; {what}",
        info.backend,
        info.vendor,
        info.device,
        info.name,
        info.driver,
        info.driver_info,
        platform::system(),
        gpu.profile
    );
    text.replace(['\n', '\r'], " ")
}

/// A hash of all shaders and the numbers that they are compiled with.
pub(super) fn shaders() -> u64 {
    // Every check of a load asks for it.
    static HASH: LazyLock<u64> = LazyLock::new(|| {
        let sources = all_sources();
        let numbers: Vec<_> = sources
            .iter()
            .map(|source| format!("{:?}{:?}", source.shader.sizes, source.shader.consts))
            .collect();
        let texts = sources.iter().map(|source| source.shader.source.as_bytes());
        fnv(texts.chain(numbers.iter().map(String::as_bytes)))
    });
    *HASH
}

/// The hash FNV-1a, the same in every build.
pub(super) fn fnv<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
