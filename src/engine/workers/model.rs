//! A model in workers, as the page sees it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use web_time::Instant;

use super::link::{Link, Workers};
use super::messages::{Reply, Request};
use super::parts;
use super::pulse::{Patience, Pulse, Sign};
use crate::checkpoint::Checkpoint;
use crate::engine::footprint::Footprint;
use crate::engine::{EngineError, Snapshot};
use crate::model::{Config, Kind, Routing, Selection, Storage, TensorSpec};
use crate::platform::yield_now;
use crate::scheduler::Latent;
use crate::simd::describe;

/// A model that several workers hold, for engines of any batch size.
pub struct WorkersModel {
    config: Config,
    /// Whether this is the refiner of the model that they hold.
    pub(super) is_refiner: bool,
    /// Of one worker
    weight_bytes: u64,
    members: Arc<Vec<Mutex<Member>>>,
    engines: Arc<AtomicU32>,
}

/// A worker, and what has arrived from it.
struct Member {
    link: Box<dyn Link>,
    /// The answer to the model's file.
    loaded: Option<Result<(), String>>,
    /// By engine.
    arrived: BTreeMap<u32, Arrived>,
    pulse: Pulse,
    patience: Patience,
    failure: Option<String>,
}

/// What has arrived for an engine, each with the number of its run.
#[derive(Default)]
struct Arrived {
    steps: VecDeque<(u32, Snapshot)>,
    /// Results for the twin.
    outputs: VecDeque<(u32, (Latent, Vec<f32>))>,
}

/// The next of a run; others belong to a run that was dropped.
fn next_of<T>(arrived: &mut VecDeque<(u32, T)>, run: u32) -> Option<T> {
    while let Some((of, value)) = arrived.pop_front() {
        if of == run {
            return Some(value);
        }
    }
    None
}

/// The part of a run that a worker computes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Share {
    /// Its images.
    pub(super) images: Range<usize>,
    /// Which of two workers with these images it is, if there are two.
    pub(super) twin: Option<usize>,
}

impl Member {
    /// Takes in what has arrived.
    fn listen(&mut self) {
        while let Some(message) = self.link.receive() {
            self.pulse.heard();
            match Reply::from_bytes(&message) {
                Some(Reply::Loaded(failure)) => self.loaded = Some(failure.map_or(Ok(()), Err)),
                Some(Reply::Step { engine, run, snapshot }) => {
                    if let Some(arrived) = self.arrived.get_mut(&engine) {
                        arrived.steps.push_back((run, *snapshot));
                    }
                }
                Some(Reply::Output { engine, run, output, values }) => {
                    if let Some(arrived) = self.arrived.get_mut(&engine) {
                        arrived.outputs.push_back((run, (output, values)));
                    }
                }
                Some(Reply::Pong) => {}
                None => self.failure = Some("it sent a message that cannot be read".into()),
            }
        }
        let is_loading = self.loaded.is_none();
        let patience = if is_loading { self.patience.loading() } else { self.patience };
        match self.pulse.look(Instant::now(), patience) {
            Sign::Fine => {}
            Sign::Ask => self.link.send(Request::Ping.to_bytes()),
            Sign::Hangs => self.failure = Some("it does not answer".into()),
        }
        if let Some(failure) = self.link.failure() {
            self.failure = Some(failure);
        }
    }
}

/// Bytes of a model's weights on the processor.
fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    let storage = |tensor: &TensorSpec| checkpoint.storage(&tensor.name).unwrap_or(Storage::F32);
    Footprint::on_cpu(checkpoint.config(), 1, storage).weights
}

impl WorkersModel {
    /// Makes workers and gives each the model; no more than are offered. Those that cannot be made are left out.
    ///
    /// # Errors
    /// Where there is not one that took the model.
    pub async fn open_async(checkpoint: &Checkpoint, workers: &Workers) -> Result<Self, String> {
        let mut files = checkpoint.files();
        let (Some(file), None) = (files.next(), files.next()) else {
            return Err("workers take models of one file only".into());
        };
        let load = Request::load(&checkpoint.config().name, file);
        let mut members = Vec::new();
        let mut refused = "no worker could be made".to_owned();
        for _ in 0..workers.most() {
            match workers.connect() {
                Ok(mut link) => {
                    link.send(load.clone());
                    members.push(Member {
                        link,
                        loaded: None,
                        arrived: BTreeMap::new(),
                        pulse: Pulse::default(),
                        patience: workers.patience(),
                        failure: None,
                    });
                }
                Err(reason) => refused = reason,
            }
            // The model's bytes are copied for each: a page lives in between.
            yield_now().await;
        }
        drop(load);
        loop {
            members.iter_mut().for_each(Member::listen);
            members.retain_mut(|member| {
                let reason = match &member.loaded {
                    Some(Err(reason)) => Some(reason),
                    _ => member.failure.as_ref(),
                };
                reason.inspect(|reason| refused.clone_from(reason)).is_none()
            });
            let Some(open) = members.iter_mut().find(|member| member.loaded.is_none()) else {
                break;
            };
            open.link.wait();
            yield_now().await;
        }
        if members.is_empty() {
            return Err(refused);
        }
        let members: Vec<_> = members.into_iter().map(Mutex::new).collect();
        Ok(Self {
            config: checkpoint.config().clone(),
            is_refiner: false,
            weight_bytes: weight_bytes(checkpoint),
            members: members.into(),
            engines: Arc::default(),
        })
    }

    /// The refiner of the model, which the workers have loaded with it.
    #[must_use]
    pub fn refiner(&self, checkpoint: &Checkpoint) -> Self {
        Self {
            config: checkpoint.config().clone(),
            is_refiner: true,
            weight_bytes: weight_bytes(checkpoint),
            members: self.members.clone(),
            engines: self.engines.clone(),
        }
    }

    /// Description of the device.
    pub fn device(&self) -> String {
        match self.count() {
            1 => format!("{}, 1 worker", describe()),
            count => format!("{}, {count} workers", describe()),
        }
    }

    /// Bytes of the weights in all workers.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes * self.count() as u64
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Number of a new engine, for which snapshots are kept from now on.
    pub(super) fn register(&self) -> u32 {
        let id = self.engines.fetch_add(1, Ordering::Relaxed);
        for worker in 0..self.count() {
            self.with(worker, |member| member.arrived.insert(id, Arrived::default()));
        }
        id
    }

    /// Whether the images of a batch compete for experts.
    pub(super) fn compete(&self, batch: usize, routing: &Routing) -> bool {
        let selection = Selection::of(&self.config, routing.rule, batch * self.config.tokens());
        self.config.kind != Kind::Dense && matches!(selection, Selection::Pool { .. })
    }

    /// The shares of the workers in a run. Images that compete are computed by one worker, or by one for each branch.
    pub(super) fn share(&self, batch: usize, routing: &Routing) -> Vec<Share> {
        let most = if self.compete(batch, routing) { 1 } else { self.count() };
        let ranges = parts::ranges(batch, most);
        if 2 * ranges.len() > self.count() {
            return ranges.into_iter().map(|images| Share { images, twin: None }).collect();
        }
        let twins = |images: Range<usize>| {
            [0, 1].map(|which| Share { images: images.clone(), twin: Some(which) })
        };
        ranges.into_iter().flat_map(twins).collect()
    }

    fn with<T>(&self, worker: usize, act: impl FnOnce(&mut Member) -> T) -> T {
        act(&mut self.members[worker].lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn send(&self, worker: usize, request: &Request) {
        self.with(worker, |member| member.link.send(request.to_bytes()));
    }

    /// Takes in what a worker has sent.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn listen(&self, worker: usize) -> Result<(), EngineError> {
        let failure = self.with(worker, |member| {
            member.listen();
            member.failure.clone()
        });
        let stopped = |reason| EngineError::DeviceLost(format!("a worker has stopped ({reason})"));
        failure.map_or(Ok(()), |reason| Err(stopped(reason)))
    }

    /// The next finished step of a run on a worker.
    pub(super) fn take(&self, worker: usize, engine: u32, run: u32) -> Option<Snapshot> {
        self.with(worker, |member| next_of(&mut member.arrived.get_mut(&engine)?.steps, run))
    }

    /// The next result of a run that a worker has for its twin.
    pub(super) fn take_output(
        &self,
        worker: usize,
        engine: u32,
        run: u32,
    ) -> Option<(Latent, Vec<f32>)> {
        self.with(worker, |member| next_of(&mut member.arrived.get_mut(&engine)?.outputs, run))
    }

    /// Waits for a message of a worker; `false` where this thread cannot wait.
    pub(super) fn wait(&self, worker: usize) -> bool {
        self.with(worker, |member| member.link.wait())
    }

    /// Drops an engine in all workers.
    pub(super) fn free(&self, engine: u32) {
        for worker in 0..self.count() {
            self.with(worker, |member| {
                member.arrived.remove(&engine);
                member.link.send(Request::Free { engine }.to_bytes());
            });
        }
    }
}
