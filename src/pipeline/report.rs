//! A report on the device, to be sent with a description of wrong images.

use std::fmt::Write;
use std::sync::Arc;

use web_time::Instant;

use super::check::{Surroundings, System, shaders};
use super::{Backend, Pipeline};
use crate::checkpoint::Checkpoint;
use crate::engine::{GpuModel, WeightChoice, check_block};
use crate::gpu::{Gpu, Profile};
use crate::kernels::probes::{self, Finding, Kernels};
use crate::{platform, simd};

/// What was found out about the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// For people: versions, adapter, limits, what each kernel computes, and where a model would be computed.
    pub text: String,
    /// Whether everything computes what it should, in both variants of the kernels.
    pub passed: bool,
}

/// Checks the device with every kernel in both variants, and a block of the model where there is one; whatever was
/// found out before is forgotten. Takes seconds.
pub async fn examine(backend: Backend, checkpoint: Option<&Checkpoint>) -> Examination {
    Box::pin(examine_in(&System { trusts: false }, backend, checkpoint)).await
}

/// As [`examine`], on this thread.
#[cfg(feature = "blocking")]
pub fn examine_now(backend: Backend, checkpoint: Option<&Checkpoint>) -> Examination {
    pollster::block_on(examine(backend, checkpoint))
}

pub(super) async fn examine_in(
    around: &impl Surroundings,
    backend: Backend,
    checkpoint: Option<&Checkpoint>,
) -> Examination {
    let mut report = Report { text: String::new(), passed: true };
    let version = format!("{}, shaders {:016x}", env!("CARGO_PKG_VERSION"), shaders());
    report.line("diffmoe", &version);
    report.line("system", &platform::system());
    report.line("processor", &simd::describe());
    let begin = Instant::now();
    match around.device().await {
        Ok(gpu) => {
            report.device(&gpu, begin);
            let first = gpu.profile;
            drop(gpu);
            for profile in first.to_try() {
                // A device of its own: one that refuses a kernel is of no more use.
                match around.device().await {
                    Ok(gpu) => {
                        let gpu = Arc::new(gpu.with_profile(profile));
                        Box::pin(report.variant(&gpu, checkpoint)).await;
                    }
                    Err(error) => report.fail("device", &error),
                }
            }
        }
        Err(error) => report.fail("adapter", &error),
    }
    report.text.push('\n');
    if let Some(checkpoint) = checkpoint {
        let opened = Pipeline::open_in(around, checkpoint, backend, WeightChoice::Auto, None).await;
        match opened {
            Ok(model) => {
                report.line("computes on", &model.device());
                if let Some(gpu) = model.gpu().filter(|gpu| gpu.profile == Profile::Gpu) {
                    report.line("tiles", &gpu.tiling.describe());
                }
                if let Some(note) = model.note() {
                    report.line("because", note);
                }
            }
            Err(error) => report.fail("computes on", &error),
        }
    }
    let Report { text, passed } = report;
    Examination { text, passed }
}

struct Report {
    text: String,
    passed: bool,
}

impl Report {
    fn line(&mut self, name: &str, value: &str) {
        let value = value.replace(['\n', '\r'], " ");
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{name:<12} {value}");
    }

    fn fail(&mut self, name: &str, error: &dyn std::error::Error) {
        self.passed = false;
        self.line(name, &error.to_string());
    }

    fn device(&mut self, gpu: &Gpu, begin: Instant) {
        let info = &gpu.info;
        self.line("adapter", &info.name);
        let ids = format!("{:04x}:{:04x}", info.vendor, info.device);
        self.line("kind", &format!("{:?}, {:?}, {ids}", info.device_type, info.backend));
        self.line("driver", format!("{} {}", info.driver, info.driver_info).trim());
        self.line("answered in", &milliseconds(begin));
        self.line("features", &format!("{:?}", gpu.device.features()));
        let limits = gpu.device.limits();
        let sizes = [
            ("storage binding", limits.max_storage_buffer_binding_size),
            ("buffer", limits.max_buffer_size),
            ("workgroup memory", limits.max_compute_workgroup_storage_size.into()),
            ("invocations", limits.max_compute_invocations_per_workgroup.into()),
        ];
        let sizes: Vec<_> = sizes.iter().map(|(name, size)| format!("{name} {size}")).collect();
        self.line("limits", &sizes.join(", "));
        let mut missing = Vec::new();
        let note = |name: &str, needed, offered| {
            missing.push(format!("{name} is {offered}, needed are {needed}"));
        };
        Gpu::required_limits().check_limits_with_fail_fn(&limits, false, note);
        if !missing.is_empty() {
            self.passed = false;
            self.line("too low", &missing.join("; "));
        }
    }

    /// One variant of the kernels.
    async fn variant(&mut self, gpu: &Arc<Gpu>, checkpoint: Option<&Checkpoint>) {
        let begin = Instant::now();
        let checked = gpu.error_scope(probes::check(gpu, &Kernels::all())).await.flatten();
        let _ = writeln!(self.text, "\n{}, {}", gpu.profile.describe(), milliseconds(begin));
        match checked {
            Ok(findings) => findings.iter().for_each(|finding| self.finding(finding)),
            Err(error) => return self.fail("  refused", &error),
        }
        let Some(checkpoint) = checkpoint else { return };
        match Box::pin(block(gpu, checkpoint)).await {
            Ok((finding, time)) => {
                self.finding(&finding);
                let _ = writeln!(self.text, "  loading the model and this block took {time}");
            }
            Err(error) => self.fail("  model", &*error),
        }
    }

    fn finding(&mut self, finding: &Finding) {
        let Finding { kernel, error, allowed } = finding;
        let verdict = if finding.passes() { "ok   " } else { "WRONG" };
        self.passed &= finding.passes();
        let _ = writeln!(self.text, "  {verdict} {kernel:<40} error {error:.1e} of {allowed:.0e}");
    }
}

/// A block of the model, and the time for it.
async fn block(
    gpu: &Arc<Gpu>,
    checkpoint: &Checkpoint,
) -> Result<(Finding, String), Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let work = async {
        let model = GpuModel::load_async(gpu.clone(), checkpoint, WeightChoice::Auto).await?;
        check_block(&Arc::new(model), checkpoint).await
    };
    let finding = Box::pin(gpu.error_scope(work)).await??;
    Ok((finding, milliseconds(begin)))
}

fn milliseconds(begin: Instant) -> String {
    format!("{:.0} ms", begin.elapsed().as_secs_f64() * 1e3)
}
