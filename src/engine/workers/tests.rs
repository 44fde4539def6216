//! Workers on threads of this program compute the bytes that one thread computes.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use super::pulse::Patience;
use super::{Host, Link, Workers};
use crate::checkpoint::Checkpoint;
use crate::engine::EngineError;
use crate::model::{Muted, Routing, RoutingRule};
use crate::pipeline::{Backend, InitImage, Pipeline, Run, RunState, Settings};
use crate::trace::Trace;

/// A worker on a thread.
struct Thread {
    to: Sender<Vec<u8>>,
    from: Receiver<Vec<u8>>,
    arrived: VecDeque<Vec<u8>>,
    is_gone: bool,
}

impl Thread {
    fn keep(&mut self, message: Result<Vec<u8>, bool>) -> bool {
        match message {
            Ok(message) => self.arrived.push_back(message),
            Err(is_gone) => self.is_gone |= is_gone,
        }
        true
    }
}

impl Link for Thread {
    fn send(&mut self, message: Vec<u8>) {
        let _ = self.to.send(message);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        if self.arrived.is_empty() {
            let message = self.from.try_recv();
            self.keep(message.map_err(|error| error == TryRecvError::Disconnected));
        }
        self.arrived.pop_front()
    }

    fn failure(&self) -> Option<String> {
        self.is_gone.then(|| "the thread has ended".to_owned())
    }

    fn wait(&mut self) -> bool {
        // Not longer: another worker may wait for this thread.
        let message = self.from.recv_timeout(Duration::from_millis(5));
        self.keep(message.map_err(|error| error == RecvTimeoutError::Disconnected))
    }
}

/// Serves until the link is dropped, or `most` messages were sent.
fn serve(inbox: &Receiver<Vec<u8>>, outbox: &Sender<Vec<u8>>, most: usize) {
    let mut host = Host::default();
    let mut sent = 0;
    while sent < most {
        let message = if host.has_work() {
            inbox.try_recv().map_err(|error| error == TryRecvError::Disconnected)
        } else {
            inbox.recv().map_err(|_| true)
        };
        let reply = match message {
            Ok(message) => pollster::block_on(host.receive(&message)),
            Err(true) => return,
            Err(false) => host.work(3),
        };
        if let Some(reply) = reply {
            sent += 1;
            let _ = outbox.send(reply);
        }
    }
}

/// Up to `count` workers that end after `most` messages.
fn workers(count: usize, most: usize) -> Workers {
    Workers::new(count, move || {
        let ((to, inbox), (outbox, from)) = (channel(), channel());
        std::thread::spawn(move || serve(&inbox, &outbox, most));
        Ok(Box::new(Thread { to, from, arrived: VecDeque::new(), is_gone: false }))
    })
}

fn model(objective: &str, learn_sigma: bool) -> Checkpoint {
    let config = format!(
        r#"{{"name":"tiny","kind":"diffmoe","t_kind":"{objective}","space":"pixels",
        "params":{{"input_size":8,"in_channels":3,"num_classes":5,"patch_size":2,"depth":2,"hidden_size":32,
        "num_heads":2,"learn_sigma":{learn_sigma},"MoE_config":{{"num_experts":4,"capacity":1}}}}}}"#
    );
    Checkpoint::random(&config, 3).unwrap()
}

/// With a refiner of half the patches.
fn refined_model() -> Checkpoint {
    let params = |patch: u8| {
        format!(
            r#""params":{{"input_size":8,"in_channels":3,"num_classes":5,"patch_size":{patch},"depth":2,"hidden_size":32,
            "num_heads":2,"learn_sigma":false,"MoE_config":{{"num_experts":4,"capacity":1}}}}"#
        )
    };
    let config = format!(
        r#"{{"name":"tiny","kind":"diffmoe","t_kind":"flow","space":"pixels",{},"refiner":{{"from":0.5,{}}}}}"#,
        params(4),
        params(2)
    );
    Checkpoint::random(&config, 3).unwrap()
}

fn open(checkpoint: &Checkpoint, workers: &Workers) -> Pipeline {
    let choice = crate::engine::WeightChoice::Auto;
    let open = Pipeline::open_with_async(checkpoint, Backend::Cpu, choice, Some(workers));
    pollster::block_on(open).unwrap()
}

fn draw(pipeline: &Pipeline, settings: &Settings) -> (Vec<u32>, Trace) {
    let finished = pipeline.start(settings.clone()).unwrap().finish(|_| {}).unwrap();
    (finished.samples.iter().map(|value| value.to_bits()).collect(), finished.trace)
}

#[test]
fn any_number_of_workers_computes_the_bytes_of_one_thread() {
    for (checkpoint, schedulers) in [
        (model("flow", false), &["euler", "heun", "dopri5", "unipc"][..]),
        (model("ddpm", true), &["ddpm", "ddim"]),
        (refined_model(), &["heun", "unipc"]),
    ] {
        let here = Pipeline::cpu(&checkpoint).unwrap();
        let pipelines: Vec<_> =
            [1, 2, 3, 7].map(|count| open(&checkpoint, &workers(count, usize::MAX))).into();
        for scheduler in schedulers {
            // One image has two workers for its two branches, two images have four.
            for (rule, images) in [
                (RoutingRule::Token, 1),
                (RoutingRule::Token, 2),
                (RoutingRule::Token, 5),
                (RoutingRule::Pool, 5),
            ] {
                let settings = Settings::builder(here.config()).images(images).seed(7).steps(3);
                let settings = settings.guidance(2.0).scheduler(scheduler.parse().unwrap());
                let settings = settings.routing(Routing { rule, ..Routing::default() });
                let settings = settings.record_scores(true).build().unwrap();
                let wanted = draw(&here, &settings);
                for (pipeline, count) in pipelines.iter().zip([1, 2, 3, 7]) {
                    let made = draw(pipeline, &settings);
                    assert!(
                        made == wanted,
                        "{scheduler}, {rule:?}, {images} images, {count} workers"
                    );
                }
            }
        }
    }
}

#[test]
fn a_run_goes_on_in_workers_where_another_engine_stopped() {
    let checkpoint = model("flow", false);
    let here = Pipeline::cpu(&checkpoint).unwrap();
    let there = open(&checkpoint, &workers(2, usize::MAX));
    assert!(there.device().ends_with(", 2 workers"), "{}", there.device());
    assert_eq!(there.memory_bytes(), 2 * here.memory_bytes());
    let config = here.config().clone();
    let settings = Settings::builder(&config).images(3).seed(1).steps(4);
    let mut settings = settings.scheduler("unipc".parse().unwrap()).build().unwrap();
    settings.sampling.muted = Muted::from_iter([(1, 2)]);
    let wanted = draw(&here, &settings);
    let mut run = here.start(settings.clone()).unwrap();
    while run.finished_steps() < 2 {
        run.advance(usize::MAX).unwrap();
    }
    let state = run.state();
    let engine = there.engine(3).unwrap();
    let run = Run::resume(engine, &config, settings.clone(), state).unwrap();
    let finished = run.finish(|_| {}).unwrap();
    let bits: Vec<_> = finished.samples.iter().map(|value| value.to_bits()).collect();
    assert_eq!((bits, finished.trace), wanted);
    // The same engine serves another run, while the results of a dropped one are still on their way.
    let noise = RunState::start(&config, &settings, 0);
    let mut dropped =
        Run::resume(finished.engine, &config, settings.clone(), noise.clone()).unwrap();
    dropped.advance(1).unwrap();
    let again = Run::resume(dropped.into_engine(), &config, settings, noise).unwrap();
    let bits = again.finish(|_| {}).unwrap().samples;
    assert_eq!(bits.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), wanted.0);
}

#[test]
fn each_worker_keeps_its_part_of_an_image() {
    let checkpoint = model("flow", false);
    let here = Pipeline::cpu(&checkpoint).unwrap();
    let there = open(&checkpoint, &workers(2, usize::MAX));
    let config = here.config().clone();
    let plane = config.input_size[0] * config.input_size[1];
    let len = config.in_channels * plane;
    let image = InitImage::of_sample((0..len).map(|i| (i % 7) as f32 / 4.0 - 0.75).collect());
    let mask = (0..plane).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 }).collect();
    let mut settings = Settings::builder(&config).images(3).seed(5).steps(4).build().unwrap();
    settings.init = Some(image.with_mask(mask));
    settings.sampling.strength = 0.75;
    assert_eq!(draw(&there, &settings), draw(&here, &settings));
}

#[test]
fn workers_blend_labels_as_one_thread_does() {
    for objective in ["flow", "ddpm"] {
        let checkpoint = model(objective, objective == "ddpm");
        let here = Pipeline::cpu(&checkpoint).unwrap();
        let there = open(&checkpoint, &workers(2, usize::MAX));
        // One image has a worker for each branch, three are shared out.
        for images in [1, 3] {
            let settings = Settings::builder(here.config()).images(images).seed(5).steps(3);
            let settings = settings.guidance(2.0).label("class", 1);
            let plain = settings.clone().build().unwrap();
            let blended = settings.mix("class", 3).mix_strength(0.4).build().unwrap();
            let wanted = draw(&here, &blended);
            assert!(draw(&there, &blended) == wanted, "{objective}, {images} images");
            assert!(draw(&here, &plain).0 != wanted.0, "a blend is another label");
            assert_eq!(wanted.1.labels()[0][0], "60% 1 + 40% 3");
        }
    }
}

#[test]
fn engines_share_workers() {
    let checkpoint = model("flow", false);
    let pipeline = open(&checkpoint, &workers(2, usize::MAX));
    let config = pipeline.config().clone();
    let settings = |seed| Settings::builder(&config).images(2).seed(seed).steps(3).build().unwrap();
    let mut runs = [3, 4].map(|seed| pipeline.start(settings(seed)).unwrap());
    while runs.iter().any(|run| !run.is_finished()) {
        for run in &mut runs {
            run.advance(1).unwrap();
        }
    }
    let here = Pipeline::cpu(&checkpoint).unwrap();
    for (run, seed) in runs.iter().zip([3, 4]) {
        assert_eq!(
            run.latent(),
            here.start(settings(seed)).unwrap().finish(|_| {}).unwrap().samples
        );
    }
}

#[test]
fn a_worker_that_is_gone_is_a_lost_device() {
    let checkpoint = model("flow", false);
    let pipeline = open(&checkpoint, &workers(2, 2));
    let settings = Settings::builder(pipeline.config()).images(2).steps(6).build().unwrap();
    let mut run = pipeline.start(settings).unwrap();
    let error = loop {
        match run.advance(1) {
            Ok(_) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, EngineError::DeviceLost(_)) && error.needs_new_device(), "{error}");
    assert!(error.to_string().contains("the thread has ended"), "{error}");
}

/// A worker on a thread that takes the model, and then neither answers nor ends.
fn hangs() -> Workers {
    let silent = Workers::new(2, || {
        let ((to, inbox), (outbox, from)) = (channel(), channel());
        std::thread::spawn(move || {
            serve(&inbox, &outbox, 1);
            while inbox.recv().is_ok() {}
        });
        Ok(Box::new(Thread { to, from, arrived: VecDeque::new(), is_gone: false }))
    });
    let [quiet, asked] = [20, 100].map(Duration::from_millis);
    silent.with_patience(Patience { quiet, asked })
}

#[test]
fn a_worker_that_hangs_is_a_lost_device() {
    let checkpoint = model("flow", false);
    let pipeline = open(&checkpoint, &hangs());
    let settings = Settings::builder(pipeline.config()).images(2).steps(6).build().unwrap();
    let begin = Instant::now();
    let error = pipeline.start(settings).unwrap().finish(|_| {}).err().expect("no step");
    assert!(begin.elapsed() >= Duration::from_millis(100), "it was waited for");
    assert!(error.to_string().contains("it does not answer"), "{error}");
}

#[test]
fn a_worker_that_is_slow_is_waited_for() {
    let checkpoint = model("flow", false);
    // It is asked at every look, and has no time to compute before it is.
    let impatient = Patience { quiet: Duration::ZERO, asked: Duration::from_mins(1) };
    let there = open(&checkpoint, &workers(2, usize::MAX).with_patience(impatient));
    let settings = Settings::builder(there.config()).images(2).seed(5).steps(3).build().unwrap();
    assert_eq!(draw(&there, &settings), draw(&Pipeline::cpu(&checkpoint).unwrap(), &settings));
}

#[test]
fn without_a_worker_the_model_is_computed_here() {
    let checkpoint = model("flow", false);
    let none = Workers::new(2, || Err("there are none".into()));
    assert_eq!(open(&checkpoint, &none).device(), Pipeline::cpu(&checkpoint).unwrap().device());
    let dies = workers(1, 0);
    assert_eq!(open(&checkpoint, &dies).device(), Pipeline::cpu(&checkpoint).unwrap().device());
}
