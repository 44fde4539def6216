//! The worker's end: a model and its engines, driven by messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::messages::{Reply, Request};
use crate::checkpoint::Checkpoint;
use crate::engine::{CpuEngine, CpuModel, Engine, Progress};
use crate::platform::Bytes;
use crate::scheduler::Instruction;

/// Computes what messages ask for. The thread around it hands in what arrives ([`Host::receive`]), sends what comes out,
/// and calls [`Host::work`] in between, so that a new message never waits for a whole step.
#[derive(Default)]
pub struct Host {
    model: Option<Arc<CpuModel>>,
    engines: BTreeMap<u32, Serving>,
    /// The engine that was served last.
    last: u32,
}

/// An engine and the steps that it was given.
struct Serving {
    engine: CpuEngine,
    run: u32,
    steps: VecDeque<Vec<Instruction>>,
    is_in_step: bool,
}

impl Serving {
    fn has_work(&self) -> bool {
        self.is_in_step || !self.steps.is_empty()
    }
}

impl Host {
    /// Takes in a message; the answer, if it has one at once. A message that cannot be read, or is about an engine that
    /// is not there, is ignored: both ends are the same program.
    pub async fn receive(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        match Request::from_bytes(message)? {
            Request::Load { label, file } => {
                self.engines.clear();
                let failure = self.load(&label, file).await.err();
                return Some(Reply::Loaded(failure).to_bytes());
            }
            Request::Start { engine, run, batch, config } => {
                let model = self.model.as_ref()?;
                let before = self.engines.remove(&engine).map(|serving| serving.engine);
                let made = before.filter(|engine| engine.batch() == batch);
                let mut made = made.unwrap_or_else(|| CpuEngine::new(model.clone(), batch));
                // The processor refuses nothing.
                made.start(&config).ok()?;
                let (steps, is_in_step) = (VecDeque::new(), false);
                self.engines.insert(engine, Serving { engine: made, run, steps, is_in_step });
            }
            Request::Step { engine, ops } => self.engines.get_mut(&engine)?.steps.push_back(ops),
            Request::Free { engine } => drop(self.engines.remove(&engine)),
        }
        None
    }

    async fn load(&mut self, label: &str, file: Vec<u8>) -> Result<(), String> {
        let checkpoint = Checkpoint::from_bytes(label, Bytes::new(file));
        let checkpoint = checkpoint.map_err(|error| error.to_string())?;
        let model = CpuModel::load_async(&checkpoint).await;
        self.model = Some(Arc::new(model.map_err(|error| error.to_string())?));
        Ok(())
    }

    /// Whether [`Host::work`] has something to do.
    pub fn has_work(&self) -> bool {
        self.engines.values().any(Serving::has_work)
    }

    /// Does about `budget` units of the current step of one engine, of each in turn; the message that reports a finished
    /// step.
    pub fn work(&mut self, budget: usize) -> Option<Vec<u8>> {
        let after = self.engines.range(self.last.saturating_add(1)..);
        let mut in_turn = after.chain(self.engines.range(..=self.last));
        let engine = *in_turn.find(|(_, serving)| serving.has_work())?.0;
        self.last = engine;
        let serving = self.engines.get_mut(&engine)?;
        if !serving.is_in_step {
            let ops = serving.steps.pop_front()?;
            serving.engine.begin_step(&ops).ok()?;
            serving.is_in_step = true;
        }
        // The processor cannot fail.
        serving.is_in_step = serving.engine.advance(budget).ok()? != Progress::Done;
        let snapshot = Box::new(serving.engine.take_snapshot()?);
        Some(Reply::Step { engine, run: serving.run, snapshot }.to_bytes())
    }
}
