//! Writing safetensors: traces, intermediate values, small test models.

use std::path::Path;

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::metadata::{file_order, header};

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct TensorOut {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl TensorOut {
    /// A tensor of f32.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), shape: shape.to_vec(), dtype: Dtype::F32, bytes }
    }

    /// A tensor of f16.
    pub fn f16(name: impl Into<String>, shape: &[usize], values: &[f16]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), shape: shape.to_vec(), dtype: Dtype::F16, bytes }
    }

    /// A tensor of u8.
    pub fn u8(name: impl Into<String>, shape: &[usize], values: &[u8]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), dtype: Dtype::U8, bytes: values.to_vec() }
    }

    /// A tensor of u64.
    pub fn u64(name: impl Into<String>, shape: &[usize], values: &[u64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), shape: shape.to_vec(), dtype: Dtype::U64, bytes }
    }

    /// A tensor of u32.
    pub fn u32(name: impl Into<String>, shape: &[usize], values: &[u32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), shape: shape.to_vec(), dtype: Dtype::U32, bytes }
    }
}

/// Writes tensors and header entries to a file; the same ones give the same bytes.
///
/// # Errors
/// When the file cannot be written.
pub fn write_safetensors(
    path: &Path,
    tensors: &[TensorOut],
    metadata: impl IntoIterator<Item = (String, String)>,
) -> std::io::Result<()> {
    std::fs::write(path, safetensors_bytes(tensors, metadata)?)
}

/// A safetensors file of these tensors and header entries; the same ones give the same bytes.
///
/// # Errors
/// When values do not fit a tensor's shape.
pub fn safetensors_bytes(
    tensors: &[TensorOut],
    metadata: impl IntoIterator<Item = (String, String)>,
) -> std::io::Result<Vec<u8>> {
    for tensor in tensors {
        TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)
            .map_err(std::io::Error::other)?;
    }
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| file_order((a.dtype, &a.name), (b.dtype, &b.name)));
    let entries = sorted.iter().map(|t| (&*t.name, t.dtype, &*t.shape, t.bytes.len()));
    let mut file = header(entries, &metadata.into_iter().collect());
    for tensor in sorted {
        file.extend_from_slice(&tensor.bytes);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tensors_give_the_same_bytes() {
        let tensors = [
            TensorOut::f32("b", &[2], &[1.0, 2.0]),
            TensorOut::u8("c", &[3], &[1, 2, 3]),
            TensorOut::f16("a", &[1, 2], &[f16::ONE, f16::MAX]),
        ];
        let entries = ["one", "two", "three", "four", "five"];
        let file = |order: &mut dyn Iterator<Item = &&str>| {
            let metadata = order.map(|key| ((*key).to_owned(), format!("\"{key}\" is a value")));
            safetensors_bytes(&tensors, metadata.collect::<Vec<_>>()).unwrap()
        };
        let bytes = file(&mut entries.iter());
        assert_eq!(bytes, file(&mut entries.iter().rev()));

        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        assert_eq!(metadata.len(), 5);
        assert_eq!(metadata["three"], "\"three\" is a value");
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let halves = read.tensor("a").unwrap();
        assert_eq!((halves.dtype(), halves.shape()), (Dtype::F16, &[1, 2][..]));
        assert_eq!(halves.data(), [0, 0x3c, 0xff, 0x7b]);
        assert_eq!(read.tensor("c").unwrap().data(), [1, 2, 3]);
    }

    #[test]
    fn a_file_may_have_no_tensors_or_no_entries() {
        let entry = [("key".to_owned(), "value".to_owned())];
        let bytes = safetensors_bytes(&[], entry).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["key"], "value");
        let bytes = safetensors_bytes(&[TensorOut::u32("n", &[1], &[7])], []).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("n").unwrap().data(), [7, 0, 0, 0]);
    }
}
