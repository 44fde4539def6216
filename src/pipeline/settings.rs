//! What a user may choose, checked before anything is computed.

use crate::model::{Config, Kind, Muted, MutedError, Objective, Routing};
use crate::scheduler::{Solver, TRAINED_STEPS};

/// Thresholds move by no more log-odds than this: beyond it a threshold is 0 or 1.
const MOST_LOG_ODDS: f32 = 24.0;

/// The settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// For each label table of the model, one row for each picture. The null row means "anything".
    pub labels: Vec<Vec<u32>>,
    /// One prompt for each picture; empty for a model that reads no text.
    pub prompts: Vec<String>,
    /// What guidance leads away from; empty for nothing in particular. Without effect at a guidance of 1.
    pub negative: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Denoising steps; of no meaning to a solver that chooses its steps by itself.
    pub steps: u32,
    /// Guidance scale; 1 is none.
    pub guidance: f32,
    /// Solver.
    pub solver: Solver,
    /// Routing rule and thresholds.
    pub routing: Routing,
    /// Experts that take no tokens.
    pub muted: Muted,
    /// Whether the trace keeps the router's scores; the pictures are the same.
    pub record_scores: bool,
}

/// A setting that cannot work, with what to do instead.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum SettingsError {
    /// No or too many steps.
    #[error("{0} steps are not possible; choose 1 to 10000")]
    Steps(u32),
    /// Not a number, or far out of range.
    #[error(
        "guidance {0} is not possible; choose a number from 0 to 100 (1 switches guidance off)"
    )]
    Guidance(f32),
    /// A threshold that is no probability.
    #[error("gamma {0} is not possible; it is a threshold for a probability, choose 0 to 1")]
    Gamma(f32),
    /// A shift that is no number.
    #[error("a threshold shift of {0} is not possible; choose a number from -1 to 1")]
    Shift(f32),
    /// A row that the table does not have.
    #[error("{table} {row} does not exist; the model has {count} of them, numbered from 0")]
    Label {
        /// Which table.
        table: String,
        /// The row.
        row: u32,
        /// Rows without the null row.
        count: u32,
    },
    /// Label lists that do not belong together.
    #[error("every picture needs a label of each table and, where the model reads text, a prompt")]
    Count,
    /// Prompts for a model without a text encoder.
    #[error("this model reads no prompts; choose what to draw by its classes")]
    NoText,
    /// A flow solver for a diffusion model.
    #[error(
        "{0} is a solver for flow models, and this one was trained as DDPM; choose ddpm or ddim"
    )]
    NotFlow(Solver),
    /// A diffusion solver for a flow model.
    #[error(
        "{0} is a solver for DDPM models, and this one was trained as a flow; choose euler, heun or dopri5"
    )]
    NotDdpm(Solver),
    /// More steps than the process has.
    #[error(
        "{0} steps are not possible; a DDPM model was trained with {TRAINED_STEPS}, choose 1 to that"
    )]
    TooManySteps(u32),
    /// A tolerance that cannot be met or means nothing.
    #[error("a tolerance of {0} is not possible; choose a number from 1e-7 to 1")]
    Tolerance(f32),
    /// Thresholds moved too far.
    #[error("thresholds cannot move by {0} log-odds; choose -24 to 24")]
    LogOdds(f32),
    /// A share of noise that is none.
    #[error("eta {0} is not possible; choose 0 (no fresh noise) to 1 (as much as DDPM)")]
    Eta(f32),
    /// A muted expert that the model does not have.
    #[error(transparent)]
    Muted(#[from] MutedError),
}

impl Settings {
    /// What a model recommends, for one image without labels.
    pub fn of(config: &Config) -> Self {
        let defaults = &config.defaults;
        Self {
            labels: config.labels.iter().map(|table| vec![table.null]).collect(),
            prompts: config.text.iter().map(|_| String::new()).collect(),
            negative: String::new(),
            seed: 0,
            steps: defaults.steps,
            guidance: defaults.guidance,
            solver: defaults.solver.parse().unwrap_or(match config.objective {
                Objective::Flow => Solver::Euler,
                Objective::Ddpm => Solver::Ddpm(crate::scheduler::Ancestry::default()),
            }),
            routing: Routing::default(),
            muted: Muted::default(),
            record_scores: false,
        }
    }

    /// Checks the settings against a model.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn check(&self, config: &Config) -> Result<(), SettingsError> {
        self.check_solver(config)?;
        if !(0.0..=100.0).contains(&self.guidance) {
            return Err(SettingsError::Guidance(self.guidance));
        }
        if let Some(gamma) = self.routing.gamma.filter(|g| !(0.0..=1.0).contains(g)) {
            return Err(SettingsError::Gamma(gamma));
        }
        if !(-1.0..=1.0).contains(&self.routing.shift) {
            return Err(SettingsError::Shift(self.routing.shift));
        }
        if !(-MOST_LOG_ODDS..=MOST_LOG_ODDS).contains(&self.routing.log_odds) {
            return Err(SettingsError::LogOdds(self.routing.log_odds));
        }
        self.muted.check(config)?;
        if config.text.is_none() && !(self.prompts.is_empty() && self.negative.is_empty()) {
            return Err(SettingsError::NoText);
        }
        let pictures = self.pictures();
        if self.labels.len() != config.labels.len()
            || pictures == 0
            || self.labels.iter().any(|rows| rows.len() != pictures)
            || config.text.is_some() && self.prompts.len() != pictures
        {
            return Err(SettingsError::Count);
        }
        for (rows, table) in self.labels.iter().zip(&config.labels) {
            if let Some(&row) = rows.iter().find(|&&row| row > table.null) {
                let count = table.null;
                return Err(SettingsError::Label { table: table.name.clone(), row, count });
            }
        }
        Ok(())
    }

    /// How many pictures are asked for.
    pub fn pictures(&self) -> usize {
        self.labels.first().map_or(self.prompts.len(), Vec::len)
    }

    /// The same settings for some of the pictures.
    #[must_use]
    pub fn part(&self, pictures: std::ops::Range<usize>) -> Self {
        let labels = self.labels.iter().map(|rows| rows[pictures.clone()].to_vec()).collect();
        let prompts = self.prompts.get(pictures).unwrap_or_default().to_vec();
        Self { labels, prompts, ..self.clone() }
    }

    /// The solver, its options, and the steps.
    fn check_solver(&self, config: &Config) -> Result<(), SettingsError> {
        match (config.objective, self.solver.objective()) {
            (Objective::Ddpm, Objective::Flow) => return Err(SettingsError::NotFlow(self.solver)),
            (Objective::Flow, Objective::Ddpm) => return Err(SettingsError::NotDdpm(self.solver)),
            _ => {}
        }
        if !(1..=10_000).contains(&self.steps) {
            return Err(SettingsError::Steps(self.steps));
        }
        match self.solver {
            Solver::Euler | Solver::Heun => {}
            Solver::Dopri5(tolerance) => {
                let range = 1e-7..=1.0;
                let both = [tolerance.relative, tolerance.absolute];
                if let Some(&wrong) = both.iter().find(|&t| !range.contains(t)) {
                    return Err(SettingsError::Tolerance(wrong));
                }
            }
            Solver::Ddpm(ancestry) | Solver::Ddim(ancestry) => {
                if self.steps > TRAINED_STEPS {
                    return Err(SettingsError::TooManySteps(self.steps));
                }
                if !(0.0..=1.0).contains(&ancestry.eta) {
                    return Err(SettingsError::Eta(ancestry.eta));
                }
            }
        }
        Ok(())
    }

    /// Whether the routing settings have any effect on a model.
    pub fn routing_applies(config: &Config) -> bool {
        config.kind == Kind::DiffMoe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{Ancestry, Tolerance};

    fn config() -> Config {
        model("flow")
    }

    fn model(time: &str) -> Config {
        Config::from_json(&format!(
            r#"{{"kind":"dense","t_kind":"{time}","params":{{"input_size":8,"num_classes":10,
            "patch_size":2,"depth":1,"hidden_size":64,"num_heads":4}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn solvers_and_models_of_different_kinds_do_not_go_together() {
        let check = |time: &str, solver: &str, change: fn(&mut Settings)| {
            let mut s = Settings { solver: solver.parse().unwrap(), ..settings() };
            change(&mut s);
            s.check(&model(time)).map_err(|e| e.to_string())
        };
        let unchanged: fn(&mut Settings) = |_| {};
        for (time, solvers) in
            [("flow", ["euler", "heun", "dopri5"]), ("ddpm", ["ddpm", "ddim", "ddim"])]
        {
            for solver in solvers {
                assert_eq!(check(time, solver, unchanged), Ok(()));
            }
        }
        assert!(check("ddpm", "heun", unchanged).unwrap_err().contains("choose ddpm or ddim"));
        assert!(
            check("flow", "ddpm", unchanged).unwrap_err().contains("choose euler, heun or dopri5")
        );
        assert!(check("ddpm", "ddpm", |s| s.steps = 1001).unwrap_err().contains("1001 steps"));
        let eta = Ancestry { eta: 1.5, ..Ancestry::default() };
        let settings = Settings { solver: Solver::Ddim(eta), ..settings() };
        assert_eq!(settings.check(&model("ddpm")), Err(SettingsError::Eta(1.5)));
        let loose = Tolerance { relative: f32::NAN, ..Tolerance::default() };
        let settings = Settings { solver: Solver::Dopri5(loose), ..settings };
        assert!(matches!(settings.check(&config()), Err(SettingsError::Tolerance(_))));
    }

    fn settings() -> Settings {
        Settings {
            labels: vec![vec![3, 10]],
            prompts: Vec::new(),
            negative: String::new(),
            seed: 0,
            steps: 10,
            guidance: 1.5,
            solver: Solver::Euler,
            routing: Routing::default(),
            muted: Muted::default(),
            record_scores: false,
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert_eq!(settings().check(&config()), Ok(()), "the null row is allowed");
        let refused = |change: fn(&mut Settings)| {
            let mut s = settings();
            change(&mut s);
            s.check(&config()).unwrap_err().to_string()
        };
        assert!(refused(|s| s.steps = 0).contains("0 steps"));
        assert!(refused(|s| s.guidance = f32::NAN).contains("guidance NaN"));
        assert!(refused(|s| s.guidance = -1.0).contains("guidance -1"));
        assert!(refused(|s| s.routing.gamma = Some(1.5)).contains("gamma 1.5"));
        assert!(refused(|s| s.routing.shift = f32::INFINITY).contains("shift"));
        assert!(refused(|s| s.routing.log_odds = f32::NAN).contains("log-odds"));
        assert!(refused(|s| s.labels = vec![vec![99_999]]).contains("class 99999 does not exist"));
        assert!(refused(|s| s.labels = vec![vec![]]).contains("needs a label"));
        assert!(refused(|s| s.prompts = vec!["a fox".into(); 2]).contains("reads no prompts"));
        assert!(refused(|s| s.negative = "blob".into()).contains("reads no prompts"));
    }
}
