//! Stores which experts took a token, one bit per expert, for the trace.

use super::NO_SLOT;
use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    tokens: u32,
    experts: u32,
    offset: u32,
}

/// Arguments.
pub struct TraceStore<'a> {
    /// Slot map of [`RouteSelect`](super::RouteSelect), `[S, E]`.
    pub slots: &'a Tensor,
    /// Out: S words are written from `offset` on.
    pub trace: &'a Tensor,
    /// First word: `(forward pass · layers + layer) · S`.
    pub offset: usize,
}

impl Kernel for TraceStore<'_> {
    const SHADER: Shader = shader!("trace_store", sizes: [LANES], consts: [NONE = NO_SLOT]);
    type Params = Params;

    fn params(&self) -> Params {
        let &[tokens, experts] = &*self.slots.shape else { panic!("slots {:?}", self.slots.shape) };
        assert!(experts <= 32, "{experts} experts do not fit a word");
        assert!(self.offset + tokens <= self.trace.len(), "trace {:?}", self.trace.shape);
        Params { tokens: tokens as u32, experts: experts as u32, offset: self.offset as u32 }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.slots, self.trace]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.slots.shape[0], LANES)
    }
}

/// The same on the processor: one word per token.
#[cfg(test)]
pub(crate) fn reference(slots: &[u32], experts: usize) -> Vec<u32> {
    let bit = |(e, &slot): (usize, &u32)| u32::from(slot != NO_SLOT) << e;
    slots.chunks(experts).map(|row| row.iter().enumerate().map(bit).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{read_u32, run, tensor};

    #[test]
    fn masks_go_where_they_belong_and_nowhere_else() {
        for (s, e) in [(1, 1), (63, 3), (64, 32), (65, 16), (1757, 8)] {
            let slots: Vec<u32> = (0..s * e)
                .map(|i| if (i * 7 + i / 5) % 3 == 0 { i as u32 } else { NO_SLOT })
                .collect();
            let trace = tensor(&[2 * s + 5], &vec![0xabcd_u32; 2 * s + 5]);
            run(&TraceStore { slots: &tensor(&[s, e], &slots), trace: &trace, offset: s + 2 });
            let got = read_u32(&trace);
            assert_eq!(got[s + 2..2 * s + 2], reference(&slots, e));
            let rest = got[..s + 2].iter().chain(&got[2 * s + 2..]);
            assert!(rest.into_iter().all(|&word| word == 0xabcd), "{s} x {e}");
        }
    }
}
