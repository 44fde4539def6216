//! The worker's end: a model and its engines, driven by messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::messages::{Reply, Request};
use super::twins::Part;
use crate::checkpoint::Checkpoint;
use crate::engine::{CpuEngine, CpuModel, Engine, Progress};
use crate::platform::Bytes;
use crate::scheduler::Latent;

/// Computes what messages ask for. The thread around it hands in what arrives ([`Host::receive`]), sends what comes out,
/// and calls [`Host::work`] in between, so that a new message never waits for a whole step.
#[derive(Default)]
pub struct Host {
    model: Option<Arc<CpuModel>>,
    refiner: Option<Arc<CpuModel>>,
    engines: BTreeMap<u32, Serving>,
    /// The engine that was served last.
    last: u32,
}

/// An engine and the steps that it was given.
struct Serving {
    engine: CpuEngine,
    run: u32,
    /// What is left to do; `None` ends a step.
    parts: VecDeque<Option<Part>>,
    /// Whether the engine has begun the part at the front.
    is_begun: bool,
    /// Results of the twin, in the order in which they are awaited.
    arrived: VecDeque<(Latent, Vec<f32>)>,
}

impl Serving {
    fn new(engine: CpuEngine, run: u32) -> Self {
        let (parts, arrived) = (VecDeque::new(), VecDeque::new());
        Self { engine, run, parts, is_begun: false, arrived }
    }

    fn has_work(&self) -> bool {
        match self.parts.front() {
            None => false,
            Some(Some(Part::Await(_))) => !self.arrived.is_empty(),
            Some(_) => true,
        }
    }

    /// Does about `budget` units; what has to be told, `engine` being its number.
    fn work(&mut self, engine: u32, budget: usize) -> Option<Reply> {
        let run = self.run;
        match self.parts.front()? {
            Some(Part::Do(ops)) => {
                if !self.is_begun {
                    self.engine.begin_part(ops);
                }
                // The processor cannot fail.
                self.is_begun = self.engine.advance(budget).ok()? != Progress::Done;
                if !self.is_begun {
                    self.parts.pop_front();
                }
                None
            }
            &Some(Part::Send(output)) => {
                self.parts.pop_front();
                let values = self.engine.output(output)?.clone();
                Some(Reply::Output { engine, run, output, values })
            }
            Some(Part::Await(_)) => {
                let (output, values) = self.arrived.pop_front()?;
                self.parts.pop_front();
                *self.engine.output(output)? = values;
                None
            }
            None => {
                self.parts.pop_front();
                self.engine.end_step();
                let snapshot = Box::new(self.engine.take_snapshot()?);
                Some(Reply::Step { engine, run, snapshot })
            }
        }
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
            Request::Start { engine, run, batch, is_refiner, config } => {
                let model = if is_refiner { &self.refiner } else { &self.model }.as_ref()?;
                let before = self.engines.remove(&engine).map(|serving| serving.engine);
                let made = before.filter(|engine| engine.batch() == batch);
                let mut made = made.unwrap_or_else(|| CpuEngine::new(model.clone(), batch));
                // The processor refuses nothing.
                made.start(&config).ok()?;
                self.engines.insert(engine, Serving::new(made, run));
            }
            Request::Step { engine, parts } => {
                let serving = self.engines.get_mut(&engine)?;
                serving.parts.extend(parts.into_iter().map(Some).chain([None]));
            }
            Request::Output { engine, run, output, values } => {
                let serving = self.engines.get_mut(&engine).filter(|serving| serving.run == run)?;
                serving.arrived.push_back((output, values));
            }
            Request::Free { engine } => drop(self.engines.remove(&engine)),
            Request::Ping => return Some(Reply::Pong.to_bytes()),
        }
        None
    }

    async fn load(&mut self, label: &str, file: Vec<u8>) -> Result<(), String> {
        let checkpoint = Checkpoint::from_bytes(label, Bytes::new(file));
        let checkpoint = checkpoint.map_err(|error| error.to_string())?;
        let load = async |checkpoint: &Checkpoint| {
            let model = CpuModel::load_async(checkpoint).await;
            model.map(Arc::new).map_err(|error| error.to_string())
        };
        self.model = Some(load(&checkpoint).await?);
        self.refiner = match checkpoint.refiner().map_err(|error| error.to_string())? {
            Some(refiner) => Some(load(&refiner).await?),
            None => None,
        };
        Ok(())
    }

    /// Whether [`Host::work`] has something to do.
    pub fn has_work(&self) -> bool {
        self.engines.values().any(Serving::has_work)
    }

    /// Does about `budget` units of the current step of one engine, of each in turn; the message that comes out of it.
    pub fn work(&mut self, budget: usize) -> Option<Vec<u8>> {
        let after = self.engines.range(self.last.saturating_add(1)..);
        let mut in_turn = after.chain(self.engines.range(..=self.last));
        let engine = *in_turn.find(|(_, serving)| serving.has_work())?.0;
        self.last = engine;
        let serving = self.engines.get_mut(&engine)?;
        serving.work(engine, budget).map(|reply| reply.to_bytes())
    }
}
