//! Stores the logits of a layer for the trace. Part of a step only if scores are recorded.

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 256;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    count: u32,
    offset: u32,
}

/// Arguments.
pub struct ScoreStore<'a> {
    /// Pairs of f16 from [`RouteScore`](super::RouteScore), `[S, E]`.
    pub logits: &'a Tensor,
    /// Out: S·E words are written from `offset` on.
    pub scores: &'a Tensor,
    /// First word: `(forward pass · layers + layer) · S · E`.
    pub offset: usize,
}

impl Kernel for ScoreStore<'_> {
    const SHADER: Shader = shader!("score_store", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let count = self.logits.len();
        assert!(self.offset + count <= self.scores.len(), "scores {:?}", self.scores.shape);
        Params { count: count as u32, offset: self.offset as u32 }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.logits, self.scores]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.logits.len(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{read_u32, run, tensor};

    #[test]
    fn words_go_where_they_belong_and_nowhere_else() {
        for n in [1, 255, 256, 257, 14_056] {
            let words: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_769)).collect();
            let scores = tensor(&[2 * n + 5], &vec![0xabcd_u32; 2 * n + 5]);
            run(&ScoreStore { logits: &tensor(&[n], &words), scores: &scores, offset: n + 2 });
            let got = read_u32(&scores);
            assert_eq!(got[n + 2..2 * n + 2], words);
            let mut rest = got[..n + 2].iter().chain(&got[2 * n + 2..]);
            assert!(rest.all(|&word| word == 0xabcd), "{n}");
        }
    }
}
