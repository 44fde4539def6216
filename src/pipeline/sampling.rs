//! What a run, its recipe and the controls of a user interface have in common: how images are sampled.

use super::SettingsError;
use crate::model::{Config, Muted, Objective, Routing, Shifts, one_of};
use crate::scheduler::{
    ALL, CycleSpin, Guidance, GuidanceInterval, SchedulerKind, between, gaussian,
};

/// Thresholds move by no more log-odds than this: beyond it a threshold is 0 or 1.
const MOST_LOG_ODDS: f32 = 24.0;

/// How images are sampled, whatever they show and however many there are. [`Settings`](super::Settings),
/// [`Recipe`](super::Recipe) and the controls of the viewer hold one, so a new setting has one home.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Negative prompt: what guidance leads away from. Without effect at a guidance of 1.
    pub negative: String,
    /// Seed of the noise, and of random rows.
    pub seed: u64,
    /// Seed of another noise, with which that of [`Sampling::seed`] is mixed.
    pub variation_seed: u64,
    /// How much of the other noise: 0 is none of it, 1 all; in between a noise on the arc between both.
    pub variation_strength: f32,
    /// How much of the labels of [`Settings::mix`](super::Settings::mix) is blended into those of the images, 0 to 1.
    pub mix_strength: f32,
    /// Denoising steps; without effect on schedulers that choose their own.
    pub steps: u32,
    /// Guidance scale; 1 switches guidance off.
    pub guidance: f32,
    /// Where on the way from noise to data guidance applies; elsewhere the unconditional pass is left out.
    pub guidance_interval: GuidanceInterval,
    /// How the last predictions are averaged over shifts of the image, which hides the borders of patches. Without effect
    /// on DDPM models, and on schedulers that choose their own steps.
    pub cycle_spin: CycleSpin,
    /// Share of the way from noise to data that a run from an image ([`Settings::init`](super::Settings::init)) takes,
    /// above 0 and at most 1, as in diffusers. Without effect on others.
    pub strength: f32,
    /// Scheduler and its options.
    pub scheduler: SchedulerKind,
    /// Routing rule and thresholds.
    pub routing: Routing,
    /// Experts that take no tokens.
    pub muted: Muted,
    /// Thresholds of single layers and experts that are shifted.
    pub shifts: Shifts,
}

/// One step without guidance of the first scheduler, before there is a model.
impl Default for Sampling {
    fn default() -> Self {
        Self {
            negative: String::new(),
            seed: 0,
            variation_seed: 0,
            variation_strength: 0.0,
            mix_strength: 0.0,
            steps: 1,
            guidance: 1.0,
            guidance_interval: GuidanceInterval::default(),
            cycle_spin: CycleSpin::default(),
            strength: 1.0,
            scheduler: SchedulerKind::new(ALL[0]),
            routing: Routing::default(),
            muted: Muted::default(),
            shifts: Shifts::default(),
        }
    }
}

impl Sampling {
    /// What a model recommends: its scheduler, steps, guidance and cycle spinning; seed 0, and routing by tokens with the checkpoint's
    /// thresholds.
    pub fn of(config: &Config) -> Self {
        let scheduler = SchedulerKind::default_of(config);
        let defaults = &config.defaults;
        let guidance = defaults.guidance;
        let recommended = defaults.cycle_spin.as_ref().and_then(|text| text.parse().ok());
        let recommended = recommended
            .filter(|spin: &CycleSpin| spin.count as usize <= config.finest().patch_size);
        Self {
            steps: defaults.steps.clamp(1, scheduler.info().max_steps(config.objective)),
            guidance: if guidance.is_finite() { guidance.clamp(0.0, 100.0) } else { 1.0 },
            cycle_spin: recommended.unwrap_or_default(),
            scheduler,
            ..Self::default()
        }
    }

    /// The settings that a model recommends, as texts call them.
    pub const RECOMMENDED: [&'static str; 4] = ["steps", "guidance", "spin", "scheduler"];

    /// Takes those of [`Sampling::RECOMMENDED`] that are among `names` from other settings.
    pub fn take(&mut self, names: &[&str], from: &Self) {
        for name in names {
            match *name {
                "steps" => self.steps = from.steps,
                "guidance" => self.guidance = from.guidance,
                "spin" => self.cycle_spin = from.cycle_spin,
                "scheduler" => self.scheduler = from.scheduler,
                _ => {}
            }
        }
    }

    /// The noise of an image of the run, `len` numbers.
    pub fn noise(&self, image: u64, len: usize) -> Vec<f32> {
        let noise = gaussian(self.seed, image, len);
        if self.variation_strength == 0.0 {
            return noise;
        }
        between(&noise, &gaussian(self.variation_seed, image, len), self.variation_strength)
    }

    /// Guidance as schedulers take it.
    pub fn guided(&self) -> Guidance {
        Guidance { scale: self.guidance, interval: self.guidance_interval }
    }

    /// Whether an image depends on the others of its pass: under the rule `pool` they compete for experts, and an adaptive
    /// scheduler chooses its steps for all of them.
    pub fn couples_images(&self) -> bool {
        self.routing.rule.couples_images() || self.scheduler.is_adaptive()
    }

    /// Checks everything but the negative prompt.
    pub(super) fn check(&self, config: &Config) -> Result<(), SettingsError> {
        self.check_scheduler(config)?;
        if !(0.0..=100.0).contains(&self.guidance) {
            return Err(SettingsError::Guidance(self.guidance));
        }
        self.guidance_interval.check()?;
        self.check_cycle_spin(config)?;
        if !(0.0..=1.0).contains(&self.variation_strength) {
            return Err(SettingsError::Variation(self.variation_strength));
        }
        if !(0.0..=1.0).contains(&self.mix_strength) {
            return Err(SettingsError::Mix(self.mix_strength));
        }
        if !(self.strength > 0.0 && self.strength <= 1.0) {
            return Err(SettingsError::Strength(self.strength));
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
        self.shifts.check(config)?;
        Ok(())
    }

    /// Whether every shift is another one.
    fn check_cycle_spin(&self, config: &Config) -> Result<(), SettingsError> {
        let (CycleSpin { count, .. }, patch) =
            (self.cycle_spin.check()?, config.finest().patch_size);
        if count > 1 && count as usize > patch && self.spins(config) {
            return Err(SettingsError::SpinPatch { count, patch });
        }
        Ok(())
    }

    /// Whether [`Sampling::cycle_spin`] has an effect with this scheduler and model.
    pub fn spins(&self, config: &Config) -> bool {
        self.scheduler.spins(config.objective)
    }

    /// Checks that [`Sampling::cycle_spin`] has an effect, for callers whose user asked for it.
    ///
    /// # Errors
    /// When it is on and scheduler or model do not support it.
    pub fn check_spins(&self, config: &Config) -> Result<(), SettingsError> {
        let has_effect = self.cycle_spin.is_off() || self.spins(config);
        has_effect.then_some(()).ok_or(SettingsError::SpinScheduler(self.scheduler.name()))
    }

    /// The scheduler, its options, and the steps. Ranges of options were checked when they were set.
    fn check_scheduler(&self, config: &Config) -> Result<(), SettingsError> {
        let (kind, objective) = (self.scheduler, config.objective);
        if !kind.suits(objective) {
            let suitable = SchedulerKind::for_objective(objective);
            return Err(SettingsError::Scheduler {
                scheduler: kind.name(),
                models: match objective {
                    Objective::Flow => "flow",
                    Objective::Ddpm => "DDPM",
                },
                suitable: one_of(suitable.iter().map(|kind| kind.name())),
            });
        }
        if let Some((option, _)) = kind.changed_options().find(|(o, _)| !o.applies(objective)) {
            return Err(SettingsError::UnusedOption(option.name));
        }
        let most = kind.info().max_steps(objective);
        if !(1..=most).contains(&self.steps) {
            return Err(SettingsError::Steps { given: self.steps, most });
        }
        Ok(())
    }
}
