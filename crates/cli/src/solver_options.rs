//! The options that name a solver and its choices.

use diffmoe::model::{Config, Objective};
use diffmoe::scheduler::{GuidedChannels, Solver};

/// Solver and its choices; those of other solvers are refused.
#[derive(clap::Args)]
pub(super) struct SolverOptions {
    /// euler: one evaluation a step; heun: two, more exact; dopri5: as many as the tolerance needs;
    /// ddpm, ddim: for DDPM models. Default: the model's.
    #[arg(long, value_name = "euler|heun|dopri5|ddpm|ddim")]
    solver: Option<Solver>,
    /// dopri5: accepted error relative to the sample's numbers. Default: 1e-3.
    #[arg(long, value_name = "ERROR")]
    rtol: Option<f32>,
    /// dopri5: accepted error near zero. Default: 1e-6.
    #[arg(long, value_name = "ERROR")]
    atol: Option<f32>,
    /// ddim: share of fresh noise at each step, 0 to 1. Default: 0.
    #[arg(long, value_name = "SHARE")]
    eta: Option<f32>,
    /// ddpm, ddim: channels that guidance changes; the official code guides three of four. Default: 3.
    #[arg(long, value_name = "3|all")]
    cfg_channels: Option<Channels>,
    /// ddpm, ddim: clip the predicted sample to [-1, 1] at every step; for models of pixels.
    #[arg(long)]
    clip: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Channels {
    #[value(name = "3")]
    Three,
    All,
}

impl SolverOptions {
    /// The solver that was asked for, or the model's.
    pub(super) fn resolve(&self, config: &Config) -> Result<Solver, Box<dyn std::error::Error>> {
        let recommended = || -> Result<Solver, Box<dyn std::error::Error>> {
            let solver: Solver = config.defaults.solver.parse()?;
            // A file that recommends nothing gets Euler by default.
            let is_flow = solver.objective() == Objective::Flow;
            Ok(if config.objective == Objective::Ddpm && is_flow {
                "ddpm".parse()?
            } else {
                solver
            })
        };
        let named = self.solver.map_or_else(recommended, Ok)?;
        let only_for = |option: &str, solvers: &str, is_given: bool| {
            if is_given {
                return Err(format!(
                    "{option} is an option of {solvers}, not of {named}; leave it out"
                ));
            }
            Ok(())
        };
        let has_tolerance = self.rtol.is_some() || self.atol.is_some();
        let has_channels = self.cfg_channels.is_some();
        let mut solver = named;
        match &mut solver {
            Solver::Dopri5(tolerance) => {
                tolerance.relative = self.rtol.unwrap_or(tolerance.relative);
                tolerance.absolute = self.atol.unwrap_or(tolerance.absolute);
            }
            _ => only_for("--rtol or --atol", "dopri5", has_tolerance)?,
        }
        match &mut solver {
            Solver::Ddpm(ancestry) | Solver::Ddim(ancestry) => {
                ancestry.clip = self.clip;
                if matches!(self.cfg_channels, Some(Channels::All)) {
                    ancestry.guided = GuidedChannels::All;
                }
            }
            _ => only_for("--clip or --cfg-channels", "ddpm and ddim", self.clip || has_channels)?,
        }
        match &mut solver {
            Solver::Ddim(ancestry) => ancestry.eta = self.eta.unwrap_or(ancestry.eta),
            _ => only_for("--eta", "ddim", self.eta.is_some())?,
        }
        Ok(solver)
    }
}
