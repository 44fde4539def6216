//! The solvers by name, with what can be chosen about them.

use std::str::FromStr;

use crate::model::Objective;

/// How a sample gets from noise to data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// Flow: `z += v(z, t)·Δt`; one evaluation a step.
    Euler,
    /// Flow: the trapezoid rule; two evaluations a step, the last one at `t = 1`.
    Heun,
    /// Flow: Dormand and Prince's pair of orders 5 and 4, which chooses its steps by the error that it
    /// estimates; six evaluations a step. The number of steps of a run does not apply.
    Dopri5(Tolerance),
    /// Diffusion: ancestral sampling, fresh noise at every step.
    Ddpm(Ancestry),
    /// Diffusion: DDIM, by default without fresh noise.
    Ddim(Ancestry),
}

impl Solver {
    /// Whether the solver chooses its steps by itself.
    pub fn is_adaptive(self) -> bool {
        matches!(self, Self::Dopri5(_))
    }
}

/// The error that an adaptive solver accepts in one step: `absolute + relative·|z|`, as a root mean square.
/// The default is what the official sampler passes to its solver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative to the sample's numbers.
    pub relative: f32,
    /// Where they are near zero.
    pub absolute: f32,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { relative: 1e-3, absolute: 1e-6 }
    }
}

/// Choices of the diffusion solvers. The default is what the official code does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ancestry {
    /// The first channels that guidance changes; the others keep the labelled prediction.
    pub guided: GuidedChannels,
    /// Whether the predicted sample is clipped to [-1, 1] at every step: for models of pixels.
    pub clip: bool,
    /// DDIM: share of DDPM's fresh noise, 0 to 1.
    pub eta: f32,
}

impl Default for Ancestry {
    fn default() -> Self {
        Self { guided: GuidedChannels::Three, clip: false, eta: 0.0 }
    }
}

/// Which channels guidance changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuidedChannels {
    /// The first three, whatever there are: what the official code and DiT do, and what their tables show.
    Three,
    /// All.
    All,
}

/// A solver name that nobody knows.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no solver {0:?}; choose euler or heun, dopri5 (flow models), ddpm or ddim (DDPM models)"
)]
pub struct UnknownSolver(String);

impl FromStr for Solver {
    type Err = UnknownSolver;
    fn from_str(text: &str) -> Result<Self, UnknownSolver> {
        match text {
            "euler" => Ok(Self::Euler),
            "heun" => Ok(Self::Heun),
            "dopri5" => Ok(Self::Dopri5(Tolerance::default())),
            "ddpm" => Ok(Self::Ddpm(Ancestry::default())),
            "ddim" => Ok(Self::Ddim(Ancestry::default())),
            other => Err(UnknownSolver(other.to_owned())),
        }
    }
}

impl std::fmt::Display for Solver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Euler => "euler",
            Self::Heun => "heun",
            Self::Dopri5(_) => "dopri5",
            Self::Ddpm(_) => "ddpm",
            Self::Ddim(_) => "ddim",
        })
    }
}

impl Solver {
    /// Which models it can sample.
    pub fn objective(self) -> Objective {
        match self {
            Self::Euler | Self::Heun | Self::Dopri5(_) => Objective::Flow,
            Self::Ddpm(_) | Self::Ddim(_) => Objective::Ddpm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_solvers_and_back() {
        for name in ["euler", "heun", "dopri5", "ddpm", "ddim"] {
            assert_eq!(name.parse::<Solver>().unwrap().to_string(), name);
        }
        let error = "rk4".parse::<Solver>().unwrap_err().to_string();
        assert!(error.contains("euler or heun"), "{error}");
    }
}
