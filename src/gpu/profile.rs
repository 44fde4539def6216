//! The two families of kernels, and the tiles of large products.

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

/// What a workgroup computes of a product on GPUs: so many lanes by so many, each with a block of four rows and four
/// columns. Sums have the same order in all tiles, so a choice never changes a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 32 rows by 32 columns: more workgroups, for products that are too small to keep a GPU busy.
    Small,
    /// 64 rows by 64 columns: half the reads.
    Large,
}

impl Tile {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Small, Self::Large];

    /// Lanes along one side of the workgroup.
    pub(crate) const fn lanes(self) -> usize {
        match self {
            Self::Small => 8,
            Self::Large => 16,
        }
    }

    /// The tile in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Small => "tiles of 32×32",
            Self::Large => "tiles of 64×64",
        }
    }
}

/// Which tile each product gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// All the same.
    Only(Tile),
    /// Large tiles where they are at least so many, else small ones.
    LargeFrom(u32),
}

/// Below about this many workgroups, a GPU with some dozens of cores has nothing to switch to.
impl Default for Tiling {
    fn default() -> Self {
        Self::LargeFrom(128)
    }
}

impl Tiling {
    /// The tile of a product that would be so many large tiles.
    pub fn tile(self, large: u32) -> Tile {
        match self {
            Self::Only(tile) => tile,
            Self::LargeFrom(enough) if large >= enough => Tile::Large,
            Self::LargeFrom(_) => Tile::Small,
        }
    }

    /// The choice in words.
    pub fn describe(self) -> String {
        match self {
            Self::Only(tile) => tile.describe().to_owned(),
            Self::LargeFrom(enough) => {
                let [small, large] = Tile::ALL.map(Tile::describe);
                format!("{large} in products of {enough} or more of them, else {small}")
            }
        }
    }

    /// `DIFFMOE_TILE=small|large`.
    pub(super) fn wanted() -> Option<Self> {
        match std::env::var("DIFFMOE_TILE").as_deref() {
            Ok("small") => Some(Self::Only(Tile::Small)),
            Ok("large") => Some(Self::Only(Tile::Large)),
            _ => None,
        }
    }
}
