//! Token embedding: a row of the vocabulary's table plus a row of the positions' table.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Rows of a table, by number.
pub struct EmbedTokens<'a> {
    /// `[R]`, u32: below `V`.
    pub ids: &'a Tensor,
    /// `[V, D]`
    pub table: &'a Tensor,
    /// `[L, D]`: row `r` of `y` gets row `r mod L` added.
    pub positions: &'a Tensor,
    /// `[R, D]`
    pub y: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    rows: u32,
    quads: u32,
    positions: u32,
}

impl Kernel for EmbedTokens<'_> {
    const SHADER: Shader = shader!("embed_tokens", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let [rows, d] = [self.y.shape[0], self.y.shape[1]];
        assert_eq!(self.ids.shape, [rows], "a number for each row");
        assert_eq!((self.table.shape[1], self.positions.shape[1]), (d, d), "columns");
        assert!(d.is_multiple_of(4), "columns are read four at a time");
        Params {
            rows: rows as u32,
            quads: (d / 4) as u32,
            positions: self.positions.shape[0] as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.ids, self.table, self.positions, self.y]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.y.len() / 4, LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{poisoned, read, run, spiky, tensor};

    #[test]
    fn picks_rows_and_adds_positions() {
        // The first and the last row of the table; fewer rows than a workgroup has lanes, and more.
        for (rows, d, vocabulary, positions) in [(1, 4, 1, 1), (33, 12, 85, 11), (7, 260, 3, 7)] {
            let ids: Vec<u32> = (0..rows).map(|r| (7 * r + vocabulary - 1) % vocabulary).collect();
            let table = spiky((vocabulary * d) as usize, 1, 1.0);
            let places = spiky((positions * d) as usize, 2, 1.0);
            let at = |values: &[f32], row: u32, c: u32| values[(row * d + c) as usize];
            let sum = |(r, c)| at(&table, ids[r as usize], c) + at(&places, r % positions, c);
            let want: Vec<f32> =
                (0..rows).flat_map(|r| (0..d).map(move |c| (r, c))).map(sum).collect();
            let shape = |n: u32| [n as usize, d as usize];
            let y = poisoned(&shape(rows));
            run(&EmbedTokens {
                ids: &tensor(&[rows as usize], &ids),
                table: &tensor(&shape(vocabulary), &table),
                positions: &tensor(&shape(positions), &places),
                y: &y,
            });
            // One addition, which every device rounds the same way.
            assert_eq!(read(&y), want);
        }
    }
}
