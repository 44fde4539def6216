//! Where the numbers of a token's vector lie in an image: the epilogue of the final layer puts them there.
//!
//! `y[b, c, p·(t / W) + i, p·(t mod W) + j] = x[b·R + t, (i·p + j)·C + c]`, `W = width / p`, with the channel fastest in a
//! token's vector.

use crate::gpu::{Gpu, Tensor};

/// What is added to a place, so that its bits are those of a normal float: others might be changed on the way. They are
/// bound where floats are.
const ONE: u32 = 1.0_f32.to_bits();

/// The places of a sample's numbers.
#[derive(Debug)]
pub struct Pixels {
    /// `[R, p²·C]`, u32: place of a token's number in its sample plus the bits of 1.0, or 0 for tokens without a patch.
    pub table: Tensor,
    /// `C·h·w`
    pub sample_len: usize,
}

impl Pixels {
    /// For images of these channels, this height and width, patches of this side, and `rows` tokens for a sample, of which
    /// those beyond its patches are dropped.
    ///
    /// # Panics
    /// When there are fewer rows than patches: a bug.
    pub fn new(gpu: &Gpu, channels: usize, size: [usize; 2], patch: usize, rows: usize) -> Self {
        let [height, width] = size;
        let (across, tokens) = (width / patch, height / patch * (width / patch));
        assert!(tokens <= rows, "{rows} rows for {tokens} patches");
        let columns = patch * patch * channels;
        let mut table = vec![0; rows * columns];
        for (at, place) in table[..tokens * columns].iter_mut().enumerate() {
            let (t, k) = (at / columns, at % columns);
            let row = t / across * patch + k / channels / patch;
            let column = t % across * patch + k / channels % patch;
            *place = ONE + ((k % channels * height + row) * width + column) as u32;
        }
        let table = Tensor::upload(gpu, "places of pixels", &[rows, columns], &table);
        Self { table, sample_len: channels * height * width }
    }

    /// Bytes of the table for this many rows and columns.
    pub fn bytes_of(rows: usize, columns: usize) -> u64 {
        4 * (rows * columns) as u64
    }
}
