//! Shifts images in a circle: what leaves at one border comes in at the other.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// `output[y, x] = input[(y − down) mod height, (x − right) mod width]` for every channel.
pub struct ShiftImage<'a> {
    /// All latents in one buffer.
    pub latents: &'a Tensor,
    /// First element of the input, `[planes, height, width]`.
    pub input: usize,
    /// First element of the output; apart from the input.
    pub output: usize,
    /// Channels of all samples, `B·C`.
    pub planes: usize,
    /// Height and width.
    pub size: [usize; 2],
    /// Pixels down and to the right, less than the size.
    pub by: [usize; 2],
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    height: u32,
    width: u32,
    input: u32,
    output: u32,
    up: u32,
    left: u32,
}

impl ShiftImage<'_> {
    fn count(&self) -> usize {
        self.planes * self.size[0] * self.size[1]
    }
}

impl Kernel for ShiftImage<'_> {
    const SHADER: Shader = shader!("shift_image", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let apart = self.input.abs_diff(self.output);
        assert!(apart >= self.count(), "input and output overlap");
        let [height, width] = self.size;
        // The shader has no negative numbers, so it looks for its source the other way around.
        let [up, left] = [0, 1].map(|side| (self.size[side] - self.by[side]) % self.size[side]);
        Params {
            count: self.count() as u32,
            height: height as u32,
            width: width as u32,
            input: self.input as u32,
            output: self.output as u32,
            up: up as u32,
            left: left as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.latents]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.count(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{read, run, spiky, tensor};

    #[test]
    fn images_turn_and_come_back() {
        for (planes, size, by) in
            [(1, [1, 1], [0, 0]), (3, [5, 7], [2, 4]), (2, [16, 8], [15, 0]), (4, [9, 33], [0, 1])]
        {
            let [height, width] = size;
            let count = planes * height * width;
            let first = 13;
            let before = spiky(first + 3 * count + 5, 1, 1.0);
            let latents = tensor(&[before.len()], &before);
            let [a, b, c] = [0, 1, 2].map(|slot| first + slot * count);
            let shift = |input, output, by: [usize; 2]| {
                run(&ShiftImage { latents: &latents, input, output, planes, size, by });
            };
            shift(a, b, by);
            shift(b, c, [(height - by[0]) % height, (width - by[1]) % width]);
            let got = read(&latents);
            let mut want = before.clone();
            for plane in 0..planes {
                for y in 0..height {
                    for x in 0..width {
                        let (down, right) = ((y + by[0]) % height, (x + by[1]) % width);
                        let at = |y, x| (plane * height + y) * width + x;
                        want[b + at(down, right)] = before[a + at(y, x)];
                    }
                }
            }
            want.copy_within(a..b, c);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&want), "{planes} {size:?} {by:?}");
        }
    }
}
