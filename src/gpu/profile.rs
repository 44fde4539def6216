//! The two families of kernels.

/// Which family of kernels a device gets.
///
/// On a GPU, a tile that a workgroup shares saves memory traffic. On a software adapter (lavapipe,
/// `SwiftShader`) the same kernel is 2.5 to 15 times slower than one that uses registers only, because a
/// barrier makes the driver save and restore every lane. So both exist and this is the one switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Workgroup tiles and barriers.
    Gpu,
    /// Registers only.
    Software,
}

impl Profile {
    /// Both, this one first; this one alone where `DIFFMOE_KERNELS` asks for a family.
    pub(crate) fn to_try(self) -> Vec<Self> {
        let other = match self {
            Self::Gpu => Self::Software,
            Self::Software => Self::Gpu,
        };
        if std::env::var_os("DIFFMOE_KERNELS").is_some() { vec![self] } else { vec![self, other] }
    }

    /// The family in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Gpu => "workgroup-tile kernels",
            Self::Software => "register-only kernels",
        }
    }

    /// What suits an adapter; `DIFFMOE_KERNELS=gpu|software` overrides it.
    pub(super) fn suitable(info: &wgpu::AdapterInfo) -> Self {
        match std::env::var("DIFFMOE_KERNELS").as_deref() {
            Ok("gpu") => Self::Gpu,
            Ok("software") => Self::Software,
            _ if info.device_type == wgpu::DeviceType::Cpu => Self::Software,
            _ => Self::Gpu,
        }
    }
}
