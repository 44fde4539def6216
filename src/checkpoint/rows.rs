//! The rows of a tensor as stored in a file, for uses without decoding.

use std::borrow::Cow;
use std::ops::Range;

use half::f16;

use super::quantise::from_int4_row;
use crate::model::{INT4_GROUP, Storage};

/// Whole rows of numbers.
#[derive(Clone, Debug)]
pub struct StoredRows<'a> {
    width: usize,
    values: StoredValues<'a>,
}

/// What the numbers of [`StoredRows`] are.
#[derive(Clone, Debug)]
pub(crate) enum StoredValues<'a> {
    /// Floating-point numbers of any type, decoded.
    Floats(Cow<'a, [f32]>),
    /// A signed byte each, and a factor for each row.
    Int8 { numbers: &'a [u8], scales: Cow<'a, [f32]> },
    /// As [`int4_row`](super::int4_row) makes them: each row begins with a byte and a factor of its own.
    Int4 { numbers: &'a [u8], scales: Cow<'a, [f16]> },
}

impl<'a> StoredRows<'a> {
    /// Rows of `width` numbers that are decoded already.
    pub fn floats(width: usize, values: impl Into<Cow<'a, [f32]>>) -> Self {
        Self::new(width, StoredValues::Floats(values.into()))
    }

    pub(crate) fn new(width: usize, values: StoredValues<'a>) -> Self {
        let rows = Self { width, values };
        let (whole, groups) = (rows.len(), width.div_ceil(INT4_GROUP));
        let is_whole = match &rows.values {
            StoredValues::Floats(values) => values.len() == whole * width,
            StoredValues::Int8 { numbers, .. } => numbers.len() == whole * width,
            StoredValues::Int4 { numbers, scales } => {
                (numbers.len(), scales.len()) == (whole * width.div_ceil(2), whole * groups)
            }
        };
        assert!(is_whole, "rows of {width} numbers are whole");
        rows
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match &self.values {
            StoredValues::Floats(values) => values.len() / self.width.max(1),
            StoredValues::Int8 { scales, .. } => scales.len(),
            StoredValues::Int4 { numbers, .. } => numbers.len() / self.width.div_ceil(2).max(1),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn slice(&self, rows: Range<usize>) -> StoredRows<'_> {
        let of = |each: usize| rows.start * each..rows.end * each;
        let values = match &self.values {
            StoredValues::Floats(values) => {
                StoredValues::Floats(Cow::Borrowed(&values[of(self.width)]))
            }
            StoredValues::Int8 { numbers, scales } => StoredValues::Int8 {
                numbers: &numbers[of(self.width)],
                scales: Cow::Borrowed(&scales[rows]),
            },
            StoredValues::Int4 { numbers, scales } => StoredValues::Int4 {
                numbers: &numbers[of(self.width.div_ceil(2))],
                scales: Cow::Borrowed(&scales[of(self.width.div_ceil(INT4_GROUP))]),
            },
        };
        StoredRows { width: self.width, values }
    }

    /// All numbers as f32, row-major.
    pub fn decode(self) -> Vec<f32> {
        let width = self.width;
        match self.values {
            StoredValues::Floats(values) => values.into_owned(),
            StoredValues::Int8 { numbers, scales } => {
                let mut decoded = Vec::with_capacity(numbers.len());
                for (row, &scale) in numbers.chunks_exact(width.max(1)).zip(&*scales) {
                    decoded.extend(row.iter().map(|&b| f32::from(b.cast_signed()) * scale));
                }
                decoded
            }
            StoredValues::Int4 { numbers, scales } => {
                let rows = numbers.chunks_exact(width.div_ceil(2).max(1));
                let mut decoded = Vec::with_capacity(rows.len() * width);
                for (row, scales) in
                    rows.zip(scales.chunks_exact(width.div_ceil(INT4_GROUP).max(1)))
                {
                    from_int4_row(row, scales, width, &mut decoded);
                }
                decoded
            }
        }
    }

    /// Bytes that the numbers take as they are, without scales.
    pub fn bytes(&self) -> usize {
        match &self.values {
            StoredValues::Floats(values) => 4 * values.len(),
            StoredValues::Int8 { numbers, .. } | StoredValues::Int4 { numbers, .. } => {
                numbers.len()
            }
        }
    }

    /// The format of integers; `None` for numbers that are decoded already.
    pub fn integers(&self) -> Option<Storage> {
        match &self.values {
            StoredValues::Floats(_) => None,
            StoredValues::Int8 { .. } => Some(Storage::Int8),
            StoredValues::Int4 { .. } => Some(Storage::Int4),
        }
    }

    pub(crate) fn values(&self) -> &StoredValues<'a> {
        &self.values
    }

    /// Whether no number can become an infinity or NaN: for integers it is enough to look at their factors.
    pub(super) fn are_finite(&self) -> bool {
        match &self.values {
            StoredValues::Floats(values) => values.iter().all(|v| v.is_finite()),
            StoredValues::Int8 { scales, .. } => scales.iter().all(|s| (s * 128.0).is_finite()),
            StoredValues::Int4 { scales, .. } => scales.iter().all(|s| s.is_finite()),
        }
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::super::quantise::int4_row;
    use super::super::tensor_file::TensorFile;
    use super::*;
    use crate::platform::Bytes;

    #[test]
    fn a_slice_decodes_to_the_same_rows() {
        const WIDTH: usize = 37;
        let rows: Vec<f32> = (0..5 * WIDTH).map(|i| (i * 31 % 97) as f32 - 48.0).collect();
        let (mut numbers, mut scales) = (Vec::new(), Vec::new());
        for row in rows.chunks(WIDTH) {
            let (some, factors) = int4_row(row);
            numbers.extend(some);
            scales.extend(factors);
        }
        let bytes: Vec<u8> = (0..5 * WIDTH).map(|i| (i * 73 % 256) as u8).collect();
        let factors: Vec<f32> = (0..5).map(|i| i as f32 - 1.5).collect();
        for values in [
            StoredValues::Floats(Cow::Borrowed(&rows)),
            StoredValues::Int8 { numbers: &bytes, scales: Cow::Owned(factors) },
            StoredValues::Int4 { numbers: &numbers, scales: Cow::Owned(scales) },
        ] {
            let all = StoredRows::new(WIDTH, values);
            assert_eq!((all.len(), all.width(), all.are_finite()), (5, WIDTH, true));
            let some = all.slice(1..4);
            assert_eq!(some.len(), 3);
            assert_eq!(some.decode(), all.clone().decode()[WIDTH..4 * WIDTH]);
        }
    }

    #[test]
    fn scales_have_other_names_in_the_layout_of_diffusers() {
        let (numbers, scales) = ([1_u8, 2, 255, 4], [0.5_f32, 2.0].map(f32::to_le_bytes));
        let file = |names: &[&str]| {
            let mut views = vec![("w", TensorView::new(Dtype::I8, vec![2, 2], &numbers).unwrap())];
            for name in names {
                let view = TensorView::new(Dtype::F32, vec![2], scales.as_flattened());
                views.push((name, view.unwrap()));
            }
            let bytes = safetensors::serialize(views, None).unwrap();
            TensorFile::from_bytes("test", Bytes::new(bytes))
        };
        // Another tensor whose name ends alike is none.
        for names in [["w.scale", "v_scale"], ["w_scale", "v_scale"]] {
            let file = file(&names).unwrap();
            assert_eq!(file.read("w").unwrap(), [0.5, 1.0, -2.0, 8.0]);
            assert_eq!(file.list().len(), 2);
        }
        let error = file(&["w.scale", "w_scale"]).unwrap_err().to_string();
        assert!(error.contains("w.scale under two names"), "{error}");
    }

    #[test]
    fn factors_without_an_end_are_found() {
        for bad in [f32::INFINITY, f32::NAN, 3e36] {
            let scales = Cow::Owned(vec![1.0, bad]);
            let rows = StoredRows::new(2, StoredValues::Int8 { numbers: &[1, 2, 3, 4], scales });
            assert!(!rows.are_finite(), "{bad}");
        }
    }

    #[test]
    fn files_of_int4_need_the_scales_that_belong_to_them() {
        let file = |scale: Option<(Dtype, &[usize])>| {
            let numbers = vec![0x0f_u8; 2 * 20];
            let mut views = vec![("w", TensorView::new(Dtype::U8, vec![2, 20], &numbers).unwrap())];
            let zeros = [0_u8; 64];
            if let Some((dtype, shape)) = scale {
                let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
                let view = TensorView::new(dtype, shape.to_vec(), &zeros[..bytes]);
                views.push(("w.scale", view.unwrap()));
            }
            let bytes = safetensors::serialize(views, None).unwrap();
            TensorFile::from_bytes("test", Bytes::new(bytes)).unwrap()
        };
        let good = file(Some((Dtype::F16, &[2, 2])));
        assert_eq!(good.shape("w").unwrap(), [2, 40]);
        assert_eq!(good.storage("w").unwrap(), Storage::Int4);
        assert_eq!(good.read("w").unwrap().len(), 80);
        let list = good.list();
        assert_eq!((list.len(), &*list[0].dtype, list[0].bytes), (1, "I4", 40 + 8));
        let told = |scale| file(scale).read("w").unwrap_err().to_string();
        assert!(told(None).contains("w is stored as U8"), "{}", told(None));
        for wrong in [(Dtype::F32, &[2, 2][..]), (Dtype::F16, &[2, 1]), (Dtype::F16, &[4])] {
            let told = told(Some(wrong));
            assert!(told.contains("w.scale [2, 2] of F16 is missing"), "{told}");
        }
    }
}
