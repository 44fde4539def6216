//! Devices with wrong kernels, without answers and without memory: where models end up, and what users are told.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::engine::WeightChoice;
use crate::gpu::{Profile, Sabotage, answer};
use crate::pipeline::report::examine_in;
use crate::pipeline::{Backend, LoadError, Pipeline, Settings};

const CONFIG: &str = r#"{"name":"tiny","kind":"diffmoe","t_kind":"flow","space":"pixels","params":{"input_size":[8,16],
    "in_channels":3,"num_classes":4,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,"learn_sigma":false,
    "MoE_config":{"num_experts":4,"capacity":1}}}"#;

/// One device at a time: a software adapter has no cores to spare for two.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Devices that pass for hardware, with something broken.
#[derive(Default)]
struct Lab {
    sabotage: Sabotage,
    hangs: bool,
    /// One device for all requests.
    device: Option<Gpu>,
    notes: Mutex<HashMap<String, String>>,
    /// Results that were kept.
    kept: Mutex<u32>,
}

impl Lab {
    fn with(alter: fn(&str, &str) -> Option<String>) -> Self {
        let sabotage = Sabotage { shader: Some(alter), ..Sabotage::default() };
        Self { sabotage, ..Self::default() }
    }

    fn open(&self, backend: Backend) -> Result<Pipeline, LoadError> {
        let checkpoint = checkpoint();
        pollster::block_on(Pipeline::open_in(self, &checkpoint, backend, WeightChoice::Auto, None))
    }

    fn kept(&self) -> u32 {
        *self.kept.lock().unwrap()
    }
}

impl Surroundings for Lab {
    async fn device(&self) -> Result<Gpu, GpuError> {
        if self.hangs {
            let limit = Duration::from_millis(20);
            return answer("the graphics driver", limit, std::future::pending).await?;
        }
        let mut gpu = if let Some(gpu) = &self.device {
            gpu.sabotaged(self.sabotage)
        } else {
            let (profile, sabotage) = (Some(Profile::Gpu), self.sabotage);
            let options = GpuOptions { profile, sabotage, ..GpuOptions::default() };
            Gpu::headless_async(options).await?
        };
        gpu.info.device_type = wgpu::DeviceType::DiscreteGpu;
        Ok(gpu)
    }

    fn recall(&self, key: &str) -> Option<String> {
        self.notes.lock().unwrap().get(key).cloned()
    }

    fn remember(&self, key: &str, text: &str) {
        *self.kept.lock().unwrap() += 1;
        self.notes.lock().unwrap().insert(key.to_owned(), text.to_owned());
    }
}

fn checkpoint() -> Checkpoint {
    Checkpoint::random(CONFIG, 3).unwrap()
}

fn image(pipeline: &Pipeline) -> Vec<f32> {
    let mut settings = Settings::of(pipeline.config());
    settings.labels = vec![vec![1, 3]];
    (settings.sampling.steps, settings.sampling.seed) = (2, 5);
    pipeline.start(settings).unwrap().finish(|_| {}).unwrap().samples
}

/// f16 weights on the device, f32 on the processor.
fn alike(a: &[f32], b: &[f32]) -> bool {
    let off = a.iter().zip(b).filter(|(a, b)| (*a - *b).abs() > 0.05).count();
    a.len() == b.len() && off * 20 < a.len()
}

#[test]
fn a_good_device_is_checked_once_and_not_talked_about() {
    let _turn = turn();
    let lab = Lab::default();
    let open = lab.open(Backend::Auto).unwrap();
    assert!(!open.is_cpu() && open.note().is_none() && !open.device_is_wrong());
    assert_eq!(open.gpu().unwrap().profile, Profile::Gpu);
    assert_eq!(lab.kept(), 3, "the kernels, the tiles, and a block");
    lab.open(Backend::Gpu).unwrap();
    assert_eq!(lab.kept(), 3, "nothing was checked again");
    // What is kept for another device, or was cut off, does not count.
    for text in lab.notes.lock().unwrap().values_mut() {
        *text = text.replace("Vulkan", "Metal");
    }
    lab.open(Backend::Gpu).unwrap();
    assert_eq!(lab.kept(), 6);
}

#[test]
fn tiles_are_timed_once_and_change_no_bit() {
    let _turn = turn();
    let lab = Lab::default();
    let images: Vec<_> = [1, 1000]
        .map(|enough| {
            lab.open(Backend::Gpu).unwrap();
            let mut notes = lab.notes.lock().unwrap();
            let note = notes.values_mut().find(|text| text.contains("; tiles of")).unwrap();
            let line = note.lines().next().unwrap().to_owned();
            *note = format!("{line}\n{enough}\n");
            drop(notes);
            let open = lab.open(Backend::Gpu).unwrap();
            assert_eq!(open.gpu().unwrap().tiling, Tiling::LargeFrom(enough));
            image(&open)
        })
        .into();
    assert_eq!(lab.kept(), 3, "what is known is not timed again");
    assert_eq!(images[0], images[1]);
    for text in lab.notes.lock().unwrap().values_mut().filter(|text| text.contains("; tiles of")) {
        *text = text.replace("1000", "many");
    }
    lab.open(Backend::Gpu).unwrap();
    assert_eq!(lab.kept(), 4, "what cannot be read is timed again");
    let mut fixed = pollster::block_on(lab.device()).unwrap();
    fixed.tiling_is_fixed = true;
    let lab = Lab { device: Some(fixed), ..Lab::default() };
    lab.open(Backend::Gpu).unwrap();
    assert_eq!(lab.kept(), 2, "a tiling that the user chose");
}

#[test]
fn a_wrong_kernel_is_replaced_by_its_other_variant() {
    let _turn = turn();
    // In the variant for GPUs only: SiLU is left out.
    let lab = Lab::with(|name, text| {
        let without_silu = || text.replace("params.activation == 0u", "params.activation < 2u");
        (name == "linear").then(without_silu)
    });
    for _ in 0..2 {
        let open = lab.open(Backend::Auto).unwrap();
        assert_eq!(open.gpu().unwrap().profile, Profile::Software);
        let note = open.note().unwrap();
        assert!(
            open.device_is_wrong() && note.contains("(linear, f16 weights is off by"),
            "{note}"
        );
        assert!(
            note.contains("using others, which are slower") && note.contains("doctor"),
            "{note}"
        );
        let cpu = Pipeline::cpu(&checkpoint()).unwrap();
        assert!(alike(&image(&open), &image(&cpu)));
    }
    assert_eq!(lab.kept(), 3, "both variants, and a block with one of them");
}

#[test]
fn kernels_that_are_wrong_in_both_variants_leave_it_to_the_processor() {
    let _turn = turn();
    let lab = Lab::with(|name, text| {
        name.starts_with("attention").then(|| text.replace("params.scale", "0.5 * params.scale"))
    });
    let open = lab.open(Backend::Auto).unwrap();
    let note = open.note().unwrap();
    assert!(open.is_cpu() && open.device_is_wrong(), "{note}");
    assert!(note.contains("computes wrong numbers (attention is off by"), "{note}");
    assert!(note.contains("using the CPU"), "{note}");
    // Whoever asks for a GPU gets no other device.
    let error = lab.open(Backend::Gpu).err().unwrap();
    assert!(matches!(error, LoadError::Gpu(GpuError::Wrong(_))), "{error}");
    let report = pollster::block_on(examine_in(&lab, Backend::Auto, Some(&checkpoint())));
    assert!(!report.passed && report.text.contains("WRONG attention "), "{}", report.text);
    assert!(report.text.contains("ok    softmax"), "{}", report.text);
}

#[test]
fn a_shader_that_does_not_compile_is_no_better_than_a_wrong_one() {
    let _turn = turn();
    let lab = Lab::with(|name, text| (name == "modulate").then(|| text.replace("fn main", "main")));
    let open = lab.open(Backend::Auto).unwrap();
    assert_eq!(open.gpu().unwrap().profile, Profile::Software);
    assert!(open.device_is_wrong());
}

#[test]
fn a_request_without_an_answer_ends_on_the_processor() {
    let lab = Lab { hangs: true, ..Lab::default() };
    let open = lab.open(Backend::Auto).unwrap();
    let note = open.note().unwrap();
    assert!(open.is_cpu() && note.starts_with("the graphics driver did not answer"), "{note}");
    assert!(note.ends_with("using the CPU") && !open.device_is_wrong(), "{note}");
    let error = lab.open(Backend::Gpu).err().unwrap();
    assert!(matches!(error, LoadError::Gpu(GpuError::NoAnswer(..))), "{error}");
    let report = pollster::block_on(examine_in(&lab, Backend::Auto, None));
    assert!(!report.passed && report.text.contains("did not answer"), "{}", report.text);
}

#[test]
fn memory_may_run_out_at_every_allocation() {
    let _turn = turn();
    let good = Lab::default();
    good.open(Backend::Gpu).unwrap();
    // Now without checks.
    let open = good.open(Backend::Gpu).unwrap();
    let gpu = open.gpu().unwrap().clone();
    let loaded = gpu.tensors();
    let device = || Some(gpu.sabotaged(Sabotage::default()));
    let refused = |number| Sabotage { refused: Some(number), ..Sabotage::default() };
    // While a model is loaded, whose device is known to be good: another place, and a reason.
    assert!(loaded > 20, "{loaded} tensors");
    for number in 0..loaded {
        let notes = Mutex::new(good.notes.lock().unwrap().clone());
        let lab = Lab { sabotage: refused(number), device: device(), notes, ..Lab::default() };
        let open = lab.open(Backend::Auto).unwrap();
        assert!(open.is_cpu(), "tensor {number} of {loaded}");
        let note = open.note().unwrap();
        assert!(note.contains("cannot hold this model") && !open.device_is_wrong(), "{note}");
        assert!(lab.open(Backend::Gpu).is_err());
        assert_eq!(gpu.failure(), None, "the device is as it was");
    }
    // While a batch is prepared: the batch is refused, or both branches of guidance are computed apart; the model stays.
    for number in loaded.. {
        let notes = Mutex::new(good.notes.lock().unwrap().clone());
        let lab = Lab { sabotage: refused(number), device: device(), notes, ..Lab::default() };
        let open = lab.open(Backend::Auto).unwrap();
        assert!(!open.is_cpu());
        match open.engine(3) {
            Err(error) => assert!(error.to_string().contains("does not fit"), "{error}"),
            // It has fewer tensors than that.
            Ok(_) if open.gpu().unwrap().tensors() <= number => break,
            Ok(engine) => assert_eq!(engine.batch(), 3),
        }
        assert_eq!(gpu.failure(), None, "the device is as it was");
        assert_eq!(open.engine(2).unwrap().batch(), 2, "the model is still there");
    }
    // While the device is checked: no verdict, and nothing is kept.
    let lab = Lab { sabotage: refused(5), device: device(), ..Lab::default() };
    let open = lab.open(Backend::Auto).unwrap();
    assert!(open.note().is_some(), "{}", open.device());
    assert_eq!(gpu.failure(), None);
}

#[test]
fn the_hash_is_the_published_one_and_shaders_have_one() {
    assert_eq!(fnv([&b"foo"[..], b"bar"]), 0x8594_4171_f739_67e8);
    assert_eq!(shaders(), shaders());
    assert_ne!(shaders(), fnv([]));
}
