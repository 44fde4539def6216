//! A model in workers, as the page sees it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::link::{Link, Workers};
use super::messages::{Reply, Request};
use super::parts;
use crate::checkpoint::Checkpoint;
use crate::engine::{EngineError, Snapshot};
use crate::model::{Config, Kind, Routing, Selection};
use crate::platform::yield_now;
use crate::simd::describe;

/// A model that several workers hold, for engines of any batch size.
pub struct WorkersModel {
    config: Config,
    members: Vec<Mutex<Member>>,
    engines: AtomicU32,
}

/// A worker, and what has arrived from it.
struct Member {
    link: Box<dyn Link>,
    /// The answer to the model's file.
    loaded: Option<Result<(), String>>,
    /// Finished steps by engine: the number of their run, and the snapshot.
    arrived: BTreeMap<u32, VecDeque<(u32, Snapshot)>>,
    failure: Option<String>,
}

impl Member {
    /// Takes in what has arrived.
    fn listen(&mut self) {
        while let Some(message) = self.link.receive() {
            match Reply::from_bytes(&message) {
                Some(Reply::Loaded(failure)) => self.loaded = Some(failure.map_or(Ok(()), Err)),
                Some(Reply::Step { engine, run, snapshot }) => {
                    if let Some(arrived) = self.arrived.get_mut(&engine) {
                        arrived.push_back((run, *snapshot));
                    }
                }
                None => self.failure = Some("it sent a message that cannot be read".into()),
            }
        }
        if let Some(failure) = self.link.failure() {
            self.failure = Some(failure);
        }
    }
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
        let config = checkpoint.config().clone();
        let load = Request::load(&config.name, file);
        let mut members = Vec::new();
        let mut refused = "no worker could be made".to_owned();
        for _ in 0..workers.most() {
            match workers.connect() {
                Ok(mut link) => {
                    link.send(load.clone());
                    let arrived = BTreeMap::new();
                    members.push(Member { link, loaded: None, arrived, failure: None });
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
        let members = members.into_iter().map(Mutex::new).collect();
        Ok(Self { config, members, engines: AtomicU32::new(0) })
    }

    /// Description of the device.
    pub fn device(&self) -> String {
        match self.count() {
            1 => format!("{}, 1 worker", describe()),
            count => format!("{}, {count} workers", describe()),
        }
    }

    /// Bytes of the weights in all workers, where all are f32.
    pub fn weight_bytes(&self) -> u64 {
        4 * self.config.parameters() as u64 * self.count() as u64
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Number of a new engine, for which snapshots are kept from now on.
    pub(super) fn register(&self) -> u32 {
        let id = self.engines.fetch_add(1, Ordering::Relaxed);
        for worker in 0..self.count() {
            self.with(worker, |member| member.arrived.insert(id, VecDeque::new()));
        }
        id
    }

    /// The images of each worker in a run. Under the rule `pool` images compete, so one worker has all of them.
    pub(super) fn share(&self, batch: usize, routing: &Routing) -> Vec<Range<usize>> {
        let selection = Selection::of(&self.config, routing.rule, batch * self.config.tokens());
        let compete =
            self.config.kind != Kind::Dense && matches!(selection, Selection::Pool { .. });
        parts::ranges(batch, if compete { 1 } else { self.count() })
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
        self.with(worker, |member| {
            let arrived = member.arrived.get_mut(&engine)?;
            while let Some((of, snapshot)) = arrived.pop_front() {
                // Others belong to a run that was dropped.
                if of == run {
                    return Some(snapshot);
                }
            }
            None
        })
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
