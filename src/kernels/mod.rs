//! One file for each kernel: how to call it, what it must compute (in f64, for tests), and its tests.
//! The shaders lie in `shaders/` under the same names.
//!
//! A kernel is declared in one line, in `kernels!` below.

use crate::gpu::KernelSource;

/// A [`Shader`](crate::gpu::Shader): the WGSL file of this name, with shared files appended. `sizes` and `consts` are
/// numbers of the Rust file that the WGSL text has under the same name, or under another where one is given.
macro_rules! shader {
    (
        $name:literal
        $(, shared: [$($shared:literal),+])?
        $(, sizes: [$($size:ident $(= $size_value:expr)?),+])?
        $(, consts: [$($const:ident $(= $const_value:expr)?),+])?
        $(,)?
    ) => {
        $crate::gpu::Shader {
            name: $name,
            source: {
                const TEXT: &str = concat!(
                    include_str!(concat!("../../shaders/", $name, ".wgsl")),
                    $($(include_str!(concat!("../../shaders/shared/", $shared, ".wgsl")),)+)?
                );
                const LEN: usize = $crate::gpu::compact::<0>(TEXT).1;
                const BARE: [u8; LEN] = $crate::gpu::compact::<LEN>(TEXT).0;
                match std::str::from_utf8(&BARE) {
                    Ok(text) => text,
                    Err(_) => panic!("a comment was cut inside of a letter"),
                }
            },
            sizes: &[$($((stringify!($size), shader!(@value $size $($size_value)?) as u32)),+)?],
            consts: &[$($((stringify!($const), shader!(@value $const $($const_value)?) as u32)),+)?],
        }
    };
    (@value $name:ident) => { $name };
    (@value $name:ident $value:expr) => { $value };
}

/// Declares kernels, one a line: `file::Kernel => exports`. The file becomes a module, its exports are re-exported
/// here, and the kernel's shaders join [`all_sources`].
macro_rules! kernels {
    ($($file:ident::$kernel:ident => $($export:ident),+;)+) => {
        $(pub mod $file;)+
        $(pub use $file::{$($export),+};)+

        /// Every shader of this crate, for tests that check them all.
        pub fn all_sources() -> Vec<KernelSource> {
            let mut all = Vec::new();
            $(all.extend(KernelSource::of::<$file::$kernel>());)+
            all.push(samples_to_texture::KERNEL);
            all
        }
    };
}

kernels! {
    attention::Attention => Attention;
    combine_experts::CombineExperts => CombineExperts, Masks, NextNorm;
    combine_latents::CombineLatents => CombineLatents;
    conv2d::Conv2d => Conv2d, ConvWeights;
    denoise::DenoiseLatents => DenoiseLatents;
    detail_pixels::DetailPixels => DetailPixels;
    embed_context::EmbedContext => EmbedContext;
    embed_tokens::EmbedTokens => EmbedTokens;
    expert_linear::ExpertLinear => ExpertLinear, Form, Source;
    group_fold::GroupFold => GroupFold;
    group_norm::GroupNorm => GroupNorm;
    group_stats::GroupStats => GroupStats;
    head_norm::HeadNorm => HeadNorm;
    keep_image::KeepImage => KeepImage;
    linear::Call => Linear, Activation, Epilogue;
    linear_normal::NormedCall => NormedLinear, Norm;
    modulate::Modulate => Modulate;
    pass_inputs::PassInputs => PassInputs, Conditioning, Patches;
    pixel_rows::PixelRows => PixelRows;
    rotate_heads::RotateHeads => RotateHeads;
    route_prototypes::RoutePrototypes => RoutePrototypes;
    route_score::RouteScore => RouteScore, Choice, Predictor, RecordedScores;
    route_select::RouteSelect => RouteSelect, MUTED, NOT_TAKEN;
    shift_image::ShiftImage => ShiftImage;
    softmax::Softmax => Softmax;
}

// Writes a texture, which no `Kernel` does: it is called by hosts, not by tapes.
pub mod samples_to_texture;

pub use samples_to_texture::{Image, TextureWriter};

// What kernels share: weights on the device, layouts, and sequences of several dispatches.
pub mod experts;
pub mod matrix;
pub mod pixels;
pub mod planes;
pub mod probes;
pub mod tiles;
pub mod weights;

pub use experts::{Assignments, ExpertBank, Experts, packed_rows};
pub use matrix::Matrix;
pub use pixels::Pixels;
pub use weights::{WeightPrecision, pack_rows};
