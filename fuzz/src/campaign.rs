//! A run over one target: inputs, what came of them, and the smallest form of those that are faults.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::allocation;
use crate::mutate::{Random, mutate};
use crate::targets::Target;

/// The longest that a reader may take.
const LONGEST: Duration = Duration::from_secs(1);
/// What a reader may hold: this many times the input, and so much more.
const SHARE: u64 = 8;
const ALLOWANCE: u64 = 64 << 20;
/// Inputs that are kept for their answers.
const MOST_KEPT: usize = 2000;
/// Kept inputs have at most this many times the bytes of the largest seed, and at least so many: longer ones only take
/// longer. They are still tried.
const GROWTH: usize = 2;
const ROOM: usize = 1024;

/// Something that no input may cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A panic, with its message and place.
    Panic(String),
    /// It took so long.
    Slow(Duration),
    /// It held so many bytes at once.
    Memory(u64),
}

impl Fault {
    /// Whether two are of the same kind and at the same place.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Panic(a), Self::Panic(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(message) => write!(f, "a panic: {message}"),
            Self::Slow(time) => write!(f, "{:.1} s", time.as_secs_f32()),
            Self::Memory(bytes) => write!(f, "{} MiB at once", bytes >> 20),
        }
    }
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Report {
    /// Inputs that were tried.
    pub executions: u64,
    /// Different answers.
    pub answers: usize,
    /// Inputs that were kept, seeds included.
    pub kept: usize,
    /// Faults with the smallest input that was found for each.
    pub faults: Vec<(Fault, Vec<u8>)>,
}

thread_local! {
    /// The last panic of the thread, while a target runs in it.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the panics of targets instead of printing them.
fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let keep = |last: &RefCell<Option<String>>| match &mut *last.borrow_mut() {
                Some(last) => {
                    *last = panic.to_string();
                    true
                }
                None => false,
            };
            if !PANIC.try_with(keep).unwrap_or(false) {
                usual(panic);
            }
        }));
    });
}

/// What a target makes of an input: an answer, or a fault.
///
/// # Errors
/// The fault.
pub fn reaction(target: &Target, input: &[u8]) -> Result<String, Fault> {
    let mut result = react(target, input);
    // The system may have been busy with something else: what is slow is slow each time.
    for _ in 0..2 {
        if matches!(result, Err(Fault::Slow(_))) {
            result = react(target, input);
        }
    }
    result
}

fn react(target: &Target, input: &[u8]) -> Result<String, Fault> {
    listen();
    PANIC.set(Some(String::new()));
    let begin = Instant::now();
    allocation::begin();
    let answer = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let (held, time) = (allocation::most(), begin.elapsed());
    let message = PANIC.take().unwrap_or_default();
    let answer = answer.map_err(|_| Fault::Panic(message.replace('\n', " ")))?;
    if held > SHARE * input.len() as u64 + ALLOWANCE {
        return Err(Fault::Memory(held));
    }
    if time > LONGEST {
        return Err(Fault::Slow(time));
    }
    Ok(answer)
}

/// An answer without what it quotes of the input.
fn form(answer: &str) -> String {
    answer.chars().filter(|c| c.is_ascii_alphabetic() || *c == ' ').take(60).collect()
}

/// Inputs for one target.
pub struct Campaign<'a> {
    target: &'a Target,
    random: Random,
    inputs: Vec<Vec<u8>>,
    /// What each of them costs: its bytes, and those that the reader held.
    costs: Vec<u64>,
    /// Bytes of the longest input that is kept.
    longest: usize,
    seen: HashSet<String>,
    report: Report,
}

impl<'a> Campaign<'a> {
    /// Tries the seeds.
    pub fn new(target: &'a Target, seeds: &[Vec<u8>], random: u64) -> Self {
        let longest = seeds.iter().map(Vec::len).max().unwrap_or(0);
        let mut campaign = Self {
            target,
            random: Random::new(random),
            inputs: Vec::new(),
            costs: Vec::new(),
            longest: (longest * GROWTH).max(ROOM),
            seen: HashSet::new(),
            report: Report::default(),
        };
        for seed in seeds {
            campaign.attempt(seed);
            campaign.keep(seed);
        }
        campaign
    }

    /// Tries one input; whether its answer is new.
    fn attempt(&mut self, input: &[u8]) -> bool {
        self.report.executions += 1;
        match reaction(self.target, input) {
            Ok(answer) => self.seen.insert(form(&answer)),
            Err(fault) => {
                if !self.report.faults.iter().any(|(known, _)| known.is_like(&fault)) {
                    let input = smallest(self.target, &fault, input);
                    self.report.faults.push((fault, input));
                }
                false
            }
        }
    }

    /// Keeps the input that was tried last.
    fn keep(&mut self, input: &[u8]) {
        self.costs.push(input.len() as u64 + allocation::most());
        self.inputs.push(input.to_vec());
    }

    /// Tries changed inputs until the time is over, or as many as there are to be.
    pub fn run(&mut self, time: Duration, executions: u64) {
        let begin = Instant::now();
        while begin.elapsed() < time && self.report.executions < executions {
            // Mostly the cheaper of two: more inputs in the same time.
            let [one, two] = [(); 2].map(|()| self.random.below(self.inputs.len()));
            let is_any = self.random.below(16) == 0;
            let which = if is_any || self.costs[one] < self.costs[two] { one } else { two };
            let input = mutate(&mut self.random, &self.inputs[which], &self.inputs);
            let is_new = self.attempt(&input);
            if is_new && self.inputs.len() < MOST_KEPT && input.len() <= self.longest {
                self.keep(&input);
            }
        }
    }

    /// What was found.
    pub fn report(self) -> Report {
        Report { answers: self.seen.len(), kept: self.inputs.len(), ..self.report }
    }
}

/// Takes parts away as long as the fault stays.
fn smallest(target: &Target, fault: &Fault, input: &[u8]) -> Vec<u8> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut best = input.to_vec();
    let mut size = best.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < best.len() && Instant::now() < end {
            let mut shorter = best.clone();
            shorter.drain(at..(at + size).min(best.len()));
            match reaction(target, &shorter) {
                Err(same) if same.is_like(fault) => best = shorter,
                _ => at += size,
            }
        }
        size /= 2;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(input: &[u8]) -> String {
        assert!(!input.contains(&b'!'), "an exclamation mark");
        if input.contains(&b'M') {
            return format!("{}", vec![1_u8; 100 << 20].len());
        }
        if input.contains(&b'S') {
            std::thread::sleep(LONGEST + Duration::from_millis(50));
        }
        "fine".into()
    }

    #[test]
    fn every_kind_of_fault_is_found_and_made_small() {
        let target = Target { name: "faulty", run: faulty };
        assert_eq!(reaction(&target, b"good").unwrap(), "fine");
        assert!(matches!(reaction(&target, b"xM"), Err(Fault::Memory(_))));
        assert!(matches!(reaction(&target, b"xS"), Err(Fault::Slow(_))));
        let Err(fault) = reaction(&target, b"a long text! with more") else { panic!("no fault") };
        assert!(matches!(&fault, Fault::Panic(text) if text.contains("an exclamation mark")));
        assert_eq!(smallest(&target, &fault, b"a long text! with more"), b"!");
        let seeds = [b"a".to_vec(), b" ".to_vec()];
        let mut campaign = Campaign::new(&target, &seeds, 1);
        campaign.run(Duration::from_millis(300), u64::MAX);
        let report = campaign.report();
        assert!(report.executions > 100 && report.answers == 1, "{report:?}");
        let mut campaign = Campaign::new(&target, &seeds, 1);
        campaign.run(Duration::from_mins(1), 50);
        assert_eq!(campaign.report().executions, 50);
    }
}
