//! The prompts of a run, each of them once: samples that share a prompt share its encoding.

use crate::tokenizer::{Tokenizer, Tokens};

/// What the text encoder has to read for a run, and which sample sees what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPrompts {
    /// Prompts that differ, in the order in which they first occur.
    pub distinct: Vec<Tokens>,
    /// For each sample the index of its prompt in `distinct`: in the conditional passes, and in the
    /// unconditional ones.
    pub of_samples: [Vec<usize>; 2],
}

impl RunPrompts {
    /// Splits a prompt for each sample, and the one that guidance leads all of them away from, into tokens.
    pub fn new(tokenizer: &Tokenizer, length: usize, prompts: &[String], negative: &str) -> Self {
        let mut distinct: Vec<Tokens> = Vec::new();
        let mut index = |prompt: &str| {
            let tokens = tokenizer.encode(prompt, length);
            distinct.iter().position(|known| *known == tokens).unwrap_or_else(|| {
                distinct.push(tokens);
                distinct.len() - 1
            })
        };
        let asked = prompts.iter().map(|prompt| index(prompt)).collect();
        let avoided = vec![index(negative); prompts.len()];
        Self { distinct, of_samples: [asked, avoided] }
    }

    /// Token ids of every sample in one kind of pass, `[B, L]`, as a parity case records them.
    pub fn ids(&self, branch: usize) -> Vec<f32> {
        let ids = self.of_samples[branch].iter().flat_map(|&prompt| &self.distinct[prompt].ids);
        ids.map(|&id| id as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;

    #[test]
    fn samples_that_ask_for_the_same_share_it() {
        let case = include_str!("../../tests/fixtures/t2i_tiny/case.json");
        let text = Config::from_json(case).unwrap().text.unwrap();
        let prompts = ["a robot", "", "A  ROBOT", "blob"].map(str::to_owned);
        let run = RunPrompts::new(&text.tokenizer(), 11, &prompts, "blob");
        assert_eq!(run.of_samples, [vec![0, 1, 0, 2], vec![2; 4]]);
        assert_eq!(run.distinct.len(), 3);
        assert_eq!(run.distinct[1].ids[..3], [2, 3, 0]);
        assert_eq!(run.ids(0)[11..14], [2.0, 3.0, 0.0]);
    }
}
