//! From WGSL to the SPIR-V that wgpu hands to a Vulkan driver.

use std::collections::HashMap;

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, ShaderStage};

/// A kernel as a driver gets it.
pub(crate) struct Binary {
    /// SPIR-V.
    pub(crate) words: Vec<u32>,
    /// Number of storage buffers; binding 0 is a uniform buffer.
    pub(crate) storage: u32,
}

/// Options as `wgpu-hal` 30 sets them for a Vulkan 1.3 device with `robustBufferAccess2`, which AMD's, Intel's and
/// NVIDIA's drivers all have, and for pipelines that do without zeros in workgroup memory, as `Gpu` makes them.
fn options() -> spv::Options<'static> {
    let capabilities = [
        spv::Capability::Shader,
        spv::Capability::Matrix,
        spv::Capability::Sampled1D,
        spv::Capability::Image1D,
        spv::Capability::ImageQuery,
        spv::Capability::DerivativeControl,
        spv::Capability::StorageImageExtendedFormats,
        spv::Capability::DotProductInputAllKHR,
        spv::Capability::DotProductInput4x8BitKHR,
        spv::Capability::DotProductInput4x8BitPackedKHR,
        spv::Capability::DotProductKHR,
        spv::Capability::Int8,
    ];
    spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        capabilities: Some(capabilities.into_iter().collect()),
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Restrict,
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: true,
        emit_int_div_checks: true,
        ..spv::Options::default()
    }
}

/// Compiles the entry point `main` with these constants.
pub(crate) fn compile(wgsl: &str, constants: &[(String, f64)]) -> Result<Binary, String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| error.emit_to_string(wgsl))?;
    let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string(wgsl))?;
    let storage = module
        .global_variables
        .iter()
        .filter(|(_, variable)| matches!(variable.space, AddressSpace::Storage { .. }))
        .count();
    let constants: HashMap<_, _> = constants.iter().cloned().collect();
    let stage = (ShaderStage::Compute, "main");
    let (module, info) = naga::back::pipeline_constants::process_overrides(
        &module,
        &info,
        Some(stage),
        &constants.into_iter().collect(),
    )
    .map_err(|error| error.to_string())?;
    let pipeline = spv::PipelineOptions { shader_stage: stage.0, entry_point: stage.1.to_owned() };
    let words = spv::write_vec(&module, &info, &options(), Some(&pipeline))
        .map_err(|error| error.to_string())?;
    Ok(Binary { words, storage: u32::try_from(storage).map_err(|e| e.to_string())? })
}
