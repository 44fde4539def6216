//! Decodes the values of a tensor from its storage.

use half::{bf16, f16};

use super::value::Tensor;

/// Limit for expanded tensors, which have more values than they store, so that a small file cannot take all memory.
const MAX_REPEATED: usize = 1 << 24;

/// Gathers a tensor from its storage; every index is checked before anything is allocated.
pub(super) fn decode(tensor: &Tensor, raw: &[u8]) -> Result<Vec<f32>, String> {
    let storage = &*tensor.storage;
    let width = match storage.dtype {
        "Double" | "Long" => 8,
        "Float" | "Int" => 4,
        "Half" | "BFloat16" | "Short" => 2,
        _ => 1,
    };
    let stored = raw.len() / width;
    if usize::try_from(storage.len) != Ok(stored) {
        return Err(format!("declares {} values but stores {stored}", storage.len));
    }
    let outside = || "points outside its data".to_owned();
    if tensor.shape.len() != tensor.strides.len() {
        return Err("has different numbers of strides and sizes".into());
    }
    let offset = usize::try_from(tensor.offset).map_err(|_| outside())?;
    let mut sizes = Vec::new();
    let (mut count, mut last) = (1_usize, offset);
    for (&size, &stride) in tensor.shape.iter().zip(&tensor.strides) {
        let size = usize::try_from(size).map_err(|_| outside())?;
        let stride = usize::try_from(stride).map_err(|_| outside())?;
        count = count.checked_mul(size).ok_or_else(outside)?;
        let reach = size.saturating_sub(1).checked_mul(stride).ok_or_else(outside)?;
        last = last.checked_add(reach).ok_or_else(outside)?;
        sizes.push((size, stride));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    if last >= stored {
        return Err(outside());
    }
    if count > stored && count > MAX_REPEATED {
        return Err(format!("has {count} values, but stores only {stored}"));
    }
    let number = |at: usize| {
        let number = number(storage.dtype, &raw[at * width..][..width]);
        if tensor.is_negated { -number } else { number }
    };
    let mut expected = 1;
    let is_contiguous = sizes.iter().rev().all(|&(size, stride)| {
        let fits = stride == expected || size == 1;
        expected *= size;
        fits
    });
    if is_contiguous {
        return Ok((offset..offset + count).map(number).collect());
    }
    let place = |mut flat: usize| {
        sizes.iter().rev().fold(offset, |at, &(size, stride)| {
            let index = flat % size;
            flat /= size;
            at + index * stride
        })
    };
    Ok((0..count).map(|flat| number(place(flat))).collect())
}

/// One number of a storage, little-endian. The slice has the type's width.
fn number(dtype: &str, b: &[u8]) -> f32 {
    let word = || [b[0], b[1], b[2], b[3]];
    let long = || [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
    match dtype {
        "Float" => f32::from_le_bytes(word()),
        "Half" => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        "BFloat16" => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        "Double" => f64::from_le_bytes(long()) as f32,
        "Long" => i64::from_le_bytes(long()) as f32,
        "Int" => i32::from_le_bytes(word()) as f32,
        "Short" => i16::from_le_bytes([b[0], b[1]]).into(),
        "Char" => f32::from(b[0].cast_signed()),
        _ => f32::from(b[0]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::value::Storage;
    use super::*;

    fn tensor(offset: i64, shape: &[i64], strides: &[i64]) -> Tensor {
        let storage = Storage { dtype: "Float", key: "0".into(), len: 12 };
        Tensor {
            storage: Arc::new(storage),
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            is_negated: false,
        }
    }

    fn raw() -> Vec<u8> {
        (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    #[test]
    fn views_of_all_kinds_are_gathered() {
        let read = |t: Tensor| decode(&t, &raw()).unwrap();
        assert_eq!(read(tensor(2, &[2, 3], &[3, 1])), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(read(tensor(0, &[3, 2], &[1, 3])), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(read(tensor(11, &[], &[])), [11.0]);
        assert!(read(tensor(0, &[0, 5], &[5, 1])).is_empty());
        // Expanded: more numbers than are stored.
        assert_eq!(read(tensor(3, &[2, 20], &[1, 0])), [[3.0; 20], [4.0; 20]].concat());
        let negated = read(Tensor { is_negated: true, ..tensor(0, &[3], &[2]) });
        let bits: Vec<u32> = negated.into_iter().map(f32::to_bits).collect();
        assert_eq!(bits, [-0.0_f32, -2.0, -4.0].map(f32::to_bits), "the sign of zero too");
    }

    #[test]
    fn views_beyond_the_data_are_refused() {
        for (offset, shape, strides) in [
            (12, &[1][..], &[1][..]),
            (-1, &[2], &[1]),
            (0, &[13], &[1]),
            (0, &[2, 2], &[11, 1]),
            (0, &[2], &[-1]),
            (0, &[-2], &[1]),
            (0, &[i64::MAX, i64::MAX], &[1, 1]),
            (i64::MAX, &[2], &[i64::MAX]),
        ] {
            let refusal = decode(&tensor(offset, shape, strides), &raw()).unwrap_err();
            assert!(refusal.contains("outside"), "{offset} {shape:?} {strides:?}: {refusal}");
        }
        // A thousand million numbers made of one.
        let refusal = decode(&tensor(0, &[1_000_000_000], &[0]), &raw()).unwrap_err();
        assert!(refusal.contains("has 1000000000 values, but stores only 12"), "{refusal}");
        assert!(decode(&tensor(0, &[2], &[]), &raw()).unwrap_err().contains("strides"));
        let storage = Storage { dtype: "Float", key: "0".into(), len: 13 };
        let more = Tensor { storage: Arc::new(storage), ..tensor(0, &[1], &[1]) };
        assert!(decode(&more, &raw()).unwrap_err().contains("declares 13"));
    }
}
