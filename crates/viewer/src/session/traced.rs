//! A trace file as a run without images: its routing can be explored, nothing of it can be drawn.

use std::sync::Arc;

use super::{Controls, NoteKind, Record, Selection, Session, Share};
use diffmoe::model::Config;
use diffmoe::trace::Trace;

/// Pixels along a patch of the even image that stands for the missing ones.
const PATCH: usize = 8;
/// Most bytes of a file that are looked at to see whether it is a trace.
const PEEK: usize = 1 << 16;

/// Whether a file is a trace by the names that only traces hold near their beginning, and no model or decoder.
pub fn is_trace(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(PEEK)];
    let holds = |words: &[u8]| start.windows(words.len()).any(|window| window == words);
    match start.trim_ascii_start().first() {
        Some(b'{') => holds(b"\"tokens_per_picture\"") && holds(b"\"experts\""),
        _ => holds(b"\"masks\"") && holds(b"\"guided\""),
    }
}

/// The shape of a model that would route such tokens and make images of this size.
pub(super) fn config_of(trace: &Trace, size: [usize; 2]) -> Result<Config, String> {
    let patch = size[0] / trace.grid()[0].max(1);
    let depth = trace.blocks().last().map_or(1, |block| block + 1);
    // Times of flow models are 0 to 1, those of DDPM models count to a thousand.
    let is_ddpm = trace.forwards().iter().any(|forward| forward.time > 1.0);
    let json = serde_json::json!({
        "name": trace.model(), "kind": if trace.experts() > 0 { "diffmoe" } else { "dense" },
        "t_kind": if is_ddpm { "ddpm" } else { "flow" }, "space": "pixels",
        "params": {
            "input_size": size, "in_channels": 3, "num_classes": 1,
            "patch_size": patch, "depth": depth, "hidden_size": 16, "num_heads": 2,
            "learn_sigma": false,
            "MoE_config": {"num_experts": trace.experts().max(1), "interleave": true}
        }
    });
    Config::from_json(&json.to_string()).map_err(|error| error.to_string())
}

/// A name for each image: its labels, or its number.
pub(super) fn names(trace: &Trace) -> Vec<String> {
    let name = |image: usize| {
        let labels = trace.labels().iter().filter_map(|table| table.get(image));
        let labels: Vec<&str> =
            labels.map(String::as_str).filter(|label| !label.is_empty()).collect();
        if labels.is_empty() { format!("image {}", image + 1) } else { labels.join(", ") }
    };
    (0..trace.images()).map(name).collect()
}

impl Session {
    /// Shows the routing of a trace file.
    pub fn open_trace(&mut self, name: &str, bytes: &[u8]) {
        let record = Trace::from_bytes(bytes).map_err(|error| error.to_string());
        match record.and_then(|trace| self.traced(name, trace)) {
            Ok(record) => {
                self.find_built_in_atlas(record.trace.model());
                self.history.push(record);
                self.history.show(Some(self.history.records().len() - 1));
                self.selection = Some(Selection::default());
            }
            Err(reason) => self.note(NoteKind::Error, format!("{name}: {reason}")),
        }
    }

    fn traced(&mut self, name: &str, trace: Trace) -> Result<Record, String> {
        if trace.images() == 0 {
            return Err("the trace contains no routing".to_owned());
        }
        let config = Arc::new(config_of(&trace, trace.grid().map(|side| side * PATCH))?);
        let (steps, labels) = (trace.steps(), names(&trace));
        let mut controls = Controls { count: labels.len(), ..Controls::none() };
        controls.sampling.steps = steps.max(1);
        self.runs += 1;
        Ok(Record {
            id: self.runs,
            settings: controls.settings(&config),
            config,
            controls: controls.clone(),
            labels,
            frames: vec![Vec::new(); steps as usize + 1],
            latents: None,
            trace,
            step_ms: Vec::new(),
            stage_ms: Vec::new(),
            complete: true,
            recorded: false,
            device: format!("trace {name}"),
            share: Share::of(controls),
        })
    }
}

impl Record {
    /// Whether this is the routing of a trace file, without images.
    pub fn is_traced(&self) -> bool {
        self.frames.iter().all(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::tests::trace;

    #[test]
    fn traces_are_told_from_other_files() {
        assert!(is_trace(trace().to_json().unwrap().as_bytes()));
        assert!(is_trace(&trace().to_safetensors().unwrap()));
        assert!(!is_trace(b"{\"weight_map\": {}}") && !is_trace(b"") && !is_trace(&[7; 100]));
    }

    #[test]
    fn a_trace_becomes_a_run_with_its_routing() {
        let trace = trace();
        let config = config_of(&trace, trace.grid().map(|side| side * PATCH)).unwrap();
        assert_eq!((config.grid(), config.num_experts), (trace.grid(), 3));
        assert_eq!(names(&trace), ["a", "b"]);
    }
}
